//! A person at a terminal: runs a line in a shell, reads what it shows, types something into it.

use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{SOON, infra::repository};

/// A line that runs. Its standard input stays open; it is killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    line: String,
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    shown: String,
}

impl Terminal {
    /// Runs a line. `wscat` is found wherever `tests/setup` has put it.
    ///
    /// # Errors
    /// When there is no shell.
    pub fn run(line: &str) -> Result<Self> {
        let bin = repository().join("tests/.cache/wscat/node_modules/.bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
        let mut child = Command::new("bash")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().context("no standard input")?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { line: line.to_owned(), child, stdin, lines, shown: String::new() })
    }

    /// Types a line.
    ///
    /// # Errors
    /// When nobody reads it.
    pub async fn types(&mut self, line: &str) -> Result<()> {
        Ok(self.stdin.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Waits for a line that has this text, and gives the line.
    ///
    /// # Errors
    /// When none is shown soon, or the program ends without it; says what was shown instead.
    pub async fn sees(&mut self, text: &str) -> Result<String> {
        let looking = async {
            while let Some(line) = self.lines.next_line().await? {
                self.shown += &line;
                self.shown.push('\n');
                if line.contains(text) {
                    return Ok(line);
                }
            }
            bail!("it has ended")
        };
        let Ok(seen) = timeout(SOON, looking).await else {
            bail!("`{}` does not show {text}:\n{}", self.line, self.shown);
        };
        seen.with_context(|| format!("`{}` has not shown {text}:\n{}", self.line, self.shown))
    }

    /// Waits for the end, and gives everything that was shown.
    ///
    /// # Errors
    /// When it does not end soon, or not well.
    pub async fn ends(mut self) -> Result<String> {
        let reading = async {
            while let Some(line) = self.lines.next_line().await? {
                self.shown += &line;
                self.shown.push('\n');
            }
            anyhow::Ok(self.child.wait().await?)
        };
        let status = timeout(SOON, reading).await.context("it goes on")??;
        if !status.success() {
            bail!("`{}` ended with {status}:\n{}", self.line, self.shown);
        }
        Ok(self.shown)
    }
}
