//! wscat, typed into as a person would.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{SOON, infra::repository};

/// A running wscat; killed when dropped.
#[derive(Debug)]
pub struct Wscat {
    _process: Child,
    keyboard: ChildStdin,
    screen: Lines<BufReader<ChildStdout>>,
}

impl Wscat {
    /// Starts it with these arguments.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let program = repository().join("tests/.cache/wscat/node_modules/.bin/wscat");
        ensure!(program.exists(), "wscat is not installed: tests/setup installs it");
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        // Its standard input stays open: at its end wscat leaves.
        let keyboard = process.stdin.take().context("no standard input")?;
        let screen = process.stdout.take().context("no standard output")?;
        Ok(Self { _process: process, keyboard, screen: BufReader::new(screen).lines() })
    }

    /// Types a line.
    ///
    /// # Errors
    /// When wscat has ended.
    pub async fn enter(&mut self, line: &str) -> Result<()> {
        Ok(self.keyboard.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// The next line it shows.
    ///
    /// # Errors
    /// When it shows none, or ends.
    pub async fn shows(&mut self) -> Result<String> {
        let line = timeout(SOON, self.screen.next_line()).await.context("wscat shows nothing")?;
        line?.context("wscat has ended")
    }
}
