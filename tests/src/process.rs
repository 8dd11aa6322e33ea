//! Child processes that never outlive the test process, and the folder that holds their logs.
//!
//! A process is killed when its value is dropped. What is shared by all tests is never dropped: the
//! guard, a small shell that lives as long as its pipe to us is open, kills that, and removes the
//! folder unless a test has failed.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tokio::net::unix::pipe;

use crate::{Hopeless, eventually};

/// Where this test process keeps its files.
pub fn run_dir() -> &'static Path {
    &run().dir
}

/// Leaves the files where they are, for somebody to look at.
pub fn keep_files() {
    run().tell("keep");
}

struct Run {
    dir: PathBuf,
    guard: Mutex<ChildStdin>,
}

impl Run {
    fn start() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("roundtrip-tests-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let mut guard = Command::new("bash")
            .args(["-c", include_str!("guard.sh"), "guard"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("bash cannot be started")?;
        let stdin = guard.stdin.take().context("the guard has no standard input")?;
        Ok(Self { dir, guard: Mutex::new(stdin) })
    }

    fn tell(&self, line: &str) {
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(guard, "{line}").expect("the guard lives as long as this process");
    }
}

fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| Run::start().expect("the temporary folder can be written"))
}

/// A command of the gateway's, in an environment without any of its options: those of the tests are
/// none of its business, and it refuses what it does not know.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROUNDTRIP_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running child process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where this process's own output begins in the log, which its predecessors share.
    log_start: u64,
}

impl Process {
    /// Starts a process whose output is appended to a log.
    ///
    /// # Errors
    /// When the program cannot be started or the log not be written.
    pub fn spawn(command: Command, log: &Path) -> Result<Self> {
        Self::spawn_with(command, log, None, None)
    }

    /// The same, but for what it writes to its standard error: that is a pipe which nobody reads.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn_unread(command: Command, log: &Path) -> Result<Self> {
        Self::spawn_with(command, log, None, Some(Stdio::piped()))
    }

    /// The same, but for what it writes to its standard output: that is a pipe which is full, for as
    /// long as its other end is there and not read.
    ///
    /// # Errors
    /// As [`Process::spawn`]; or when there is no pipe.
    pub fn spawn_stuck(command: Command, log: &Path) -> Result<(Self, pipe::Receiver)> {
        let (full, unread) = pipe::pipe()?;
        while full.try_write(&[b'x'; 4096]).is_ok() {}
        let full = full.into_blocking_fd()?;
        Ok((Self::spawn_with(command, log, Some(full.into()), None)?, unread))
    }

    fn spawn_with(
        mut command: Command,
        log: &Path,
        stdout: Option<Stdio>,
        stderr: Option<Stdio>,
    ) -> Result<Self> {
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent)?;
        }
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let log_start = out.metadata()?.len();
        let stdout = stdout.map_or_else(|| out.try_clone().map(Stdio::from), Ok)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr.unwrap_or_else(|| out.into()))
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        run().tell(&format!("watch {}", child.id()));
        Ok(Self { child, log: log.to_owned(), log_start })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn output(&self) -> Result<String> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended with {status}", self.log.display());
        }
        let pid = i32::try_from(self.child.id()).context("a process id is positive")?;
        Ok(signal::kill(Pid::from_raw(pid), signal)?)
    }

    /// Checks that it is still running.
    ///
    /// # Errors
    /// [`Hopeless`] when it has ended, with what it wrote last.
    pub fn runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let last = tail(&self.log, 20);
                bail!(Hopeless(format!("{} ended with {status}:\n{last}", self.log.display())))
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it is still running after `within`.
    pub async fn end(&mut self, within: Duration) -> Result<ExitStatus> {
        let log = self.log.clone();
        eventually(within, "the process ends", async || {
            self.child.try_wait()?.with_context(|| format!("{} is running", log.display()))
        })
        .await
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        // It may have ended already, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
        run().tell(&format!("forget {}", self.child.id()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
