//! The log: the form of its lines, and their way to standard error. Owns the one queue of lines of
//! the process, and the thread that writes them. Nobody who logs ever waits for the reader of the
//! log.
//!
//! A reader that hangs (a full pipe, a log collector that stands still) would otherwise stop every
//! thread at its next line, and with them the node.

use std::{
    io::{self, ErrorKind, Write},
    os::fd::AsFd,
    panic,
    sync::{Condvar, LazyLock, Mutex, OnceLock},
    thread,
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use tracing_subscriber::{
    EnvFilter,
    filter::{LevelFilter, Targets},
    fmt::{
        self,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Bytes of lines that may wait to be written; as many more may be in the middle of being written.
/// Further lines are lost, and counted.
const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a process that ends waits for its last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two attempts to write to a reader that takes nothing at the moment and does
/// not block either.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// How many lines were lost since the process started, from all of its nodes.
pub(super) static LINES_LOST: LazyLock<Counter> = LazyLock::new(Counter::default);

/// A process has one log, as it has one standard error.
static LOG: OnceLock<LineQueue> = OnceLock::new();

/// Sends logs to standard error, as lines of text or of JSON; `RUST_LOG` sets the filter, within
/// what may be told at all. Standard output stays free for what `cli` prints. A second call has no effect.
pub fn init_logs(format: LogFormat) {
    if LOG.set(LineQueue::new(format)).is_err() {
        return;
    }
    let log = LOG.get().expect("it has just been set");
    // A handle of its own: whoever else writes to standard error must not wait for its lock.
    let sink: Box<dyn Write + Send> = match io::stderr().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(std::fs::File::from(descriptor)),
        Err(_) => Box::new(io::stderr()),
    };
    let started = thread::Builder::new().name("log".to_owned()).spawn(move || log.write_to(sink));
    started.expect("a process that cannot have one more thread cannot run a node either");

    let filter =
        EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env_lossy();
    let layer = fmt::layer().with_writer(|| Line(log));
    let subscriber = tracing_subscriber::registry().with(filter).with(quiet_targets());
    let installed = match format {
        LogFormat::Text => subscriber.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => subscriber.with(layer.json().flatten_event(true)).try_init(),
    };
    drop(installed);
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let location = info.location().map(ToString::to_string);
        let message = info.payload_as_str().unwrap_or("(no text)");
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        tracing::error!(thread = thread.name(), location, "panicked: {message}{backtrace}");
    }));
}

/// The most that libraries may log of what would have payloads, tokens or headers in it below:
/// tungstenite prints each frame, the first of which has the session's token, and h2 each header.
fn quiet_targets() -> Targets {
    Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_target("tungstenite", LevelFilter::DEBUG)
        .with_target("h2", LevelFilter::INFO)
}

/// Says why the process ends, after everything that was logged before; on standard error itself where
/// there is no log. Returns once it is written, or could not be for a second.
pub fn last_words(text: &str) {
    match LOG.get() {
        None => drop(writeln!(io::stderr().lock(), "{text}")),
        Some(log) => log.push(format!("{text}\n").as_bytes()),
    }
    flush_log();
}

/// Waits until everything that was logged is written, for a second at most.
pub fn flush_log() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_TIMEOUT);
    }
}

/// The lines that are not written yet.
struct LineQueue {
    format: LogFormat,
    state: Mutex<State>,
    /// Lines have come.
    filled: Condvar,
    /// All are written.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// How many lines found no room after those that wait.
    lost: u64,
    is_writing: bool,
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.lost == 0 && !self.is_writing
    }
}

impl LineQueue {
    fn new(format: LogFormat) -> Self {
        Self { format, state: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Queues whole lines, or loses them where there is no room. Never waits.
    fn push(&self, lines: &[u8]) {
        let mut state = self.state();
        let was_idle = state.is_idle();
        let has_room = state.waiting.len() + lines.len() <= QUEUE_BYTES_MAX;
        // After a lost line all others are lost too, so that there is one gap, which is reported in
        // its place.
        if state.lost == 0 && (has_room || state.waiting.is_empty()) {
            state.waiting.extend_from_slice(lines);
        } else {
            state.lost += 1;
            LINES_LOST.inc();
        }
        drop(state);
        if was_idle {
            self.filled.notify_one();
        }
    }

    /// Writes what is queued, for as long as the process lives.
    fn write_to(&self, mut sink: impl Write) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.state();
            state.is_writing = false;
            if state.is_idle() {
                self.emptied.notify_all();
            }
            while state.is_idle() {
                state = match self.filled.wait(state) {
                    Ok(state) => state,
                    Err(poisoned) => poisoned.into_inner(),
                };
            }
            state.is_writing = true;
            lines.clear();
            std::mem::swap(&mut lines, &mut state.waiting);
            let lost = std::mem::take(&mut state.lost);
            drop(state);
            if lost > 0 {
                lines.extend_from_slice(self.gap(lost).as_bytes());
            }
            if !write_all(&mut sink, &lines) {
                let count = lines.iter().filter(|byte| **byte == b'\n').count();
                LINES_LOST.inc_by(count as u64);
            }
        }
    }

    /// The line that stands for those that were lost.
    fn gap(&self, lost: u64) -> String {
        let mut time = String::new();
        let written = SystemTime.format_time(&mut Writer::new(&mut time));
        written.expect("a String takes every text");
        let message = "log lines were lost here: standard error was not read";
        match self.format {
            LogFormat::Text => format!("{time}  WARN gateway::telemetry: {message} lost={lost}\n"),
            LogFormat::Json => format!(
                "{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"{message}\",\
                 \"lost\":{lost},\"target\":\"gateway::telemetry\"}}\n"
            ),
        }
    }

    /// Waits until everything is written, or until the time is over.
    fn flush(&self, within: Duration) {
        drop(self.emptied.wait_timeout_while(self.state(), within, |state| !state.is_idle()));
    }
}

/// Writes everything; false if nobody will ever read it.
fn write_all(sink: &mut impl Write, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return false,
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Standard error may be non-blocking because of another process that shares it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY_INTERVAL),
            Err(_) => return false,
        }
    }
    true
}

/// Takes the lines of one event, which come in one piece.
struct Line(&'static LineQueue);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    /// A reader that takes each write only when it is told to.
    struct Slow {
        may_read: mpsc::Receiver<()>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Nobody is left to say so at the end of a test: then it takes everything.
            let _told = self.may_read.recv();
            self.read.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue(format: LogFormat) -> (&'static LineQueue, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let queue: &'static LineQueue = Box::leak(Box::new(LineQueue::new(format)));
        let (go, may_read) = mpsc::channel();
        let read = Arc::new(Mutex::default());
        let sink = Slow { may_read, read: Arc::clone(&read) };
        thread::spawn(move || queue.write_to(sink));
        (queue, go, read)
    }

    #[test]
    fn a_reader_that_hangs_costs_lines_and_no_time() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let (queue, go, read) = queue(format);
            let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
            let pushed = 3 * QUEUE_BYTES_MAX / line.len();
            let lost_before = LINES_LOST.get();
            queue.push(&line);
            while !queue.state().is_writing {
                thread::yield_now();
            }
            // Were one of them to wait for the reader, this would never end.
            for _ in 1..pushed {
                queue.push(&line);
            }
            queue.flush(Duration::from_millis(1));
            assert!(read.lock().unwrap().is_empty(), "nobody has read");
            let lost = LINES_LOST.get() - lost_before;
            assert!(lost as usize > pushed / 2, "{lost} of {pushed}");

            drop(go);
            queue.flush(Duration::from_secs(60));
            queue.push(b"after\n");
            queue.flush(Duration::from_secs(60));
            let read = String::from_utf8(read.lock().unwrap().clone()).unwrap();
            let lines: Vec<&str> = read.lines().collect();
            // The gap is told of where it is, and with its size.
            let kept = pushed - lost as usize;
            assert!(lines[..kept].iter().all(|line| line.starts_with('x')));
            let count = match format {
                LogFormat::Text => format!("lost={lost}"),
                LogFormat::Json => {
                    let gap: serde_json::Value = serde_json::from_str(lines[kept]).unwrap();
                    assert_eq!(gap["lost"], lost);
                    format!("\"lost\":{lost}")
                }
            };
            assert!(lines[kept].contains(&count), "{} lacks {count}", lines[kept]);
            assert_eq!(lines[kept + 1..], ["after"]);
        }
    }

    #[test]
    fn what_would_show_payloads_is_never_logged() {
        for wish in ["trace", "tungstenite=trace", "tungstenite::protocol=trace,h2=trace"] {
            let lines = Arc::new(Mutex::new(Vec::<u8>::new()));
            let writer = Arc::clone(&lines);
            let layer = fmt::layer().with_writer(move || Kept(Arc::clone(&writer)));
            let subscriber = tracing_subscriber::registry()
                .with(EnvFilter::new(wish))
                .with(quiet_targets())
                .with(layer.with_ansi(false));
            tracing::subscriber::with_default(subscriber, || {
                tracing::trace!(target: "tungstenite::protocol", "Sending frame: hunter2");
                tracing::trace!(target: "tungstenite::protocol::frame", "received hunter2");
                tracing::debug!(target: "h2::codec::framed_write", "hunter2");
                tracing::debug!(target: "tungstenite::protocol", "kept");
                tracing::trace!(target: "gateway::edge", "kept");
            });
            let lines = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
            assert!(!lines.contains("hunter2"), "{wish}: {lines}");
            assert!(lines.contains("kept"), "{wish}: {lines}");
        }
    }

    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flush_waits_for_the_last_line() {
        let (queue, go, read) = queue(LogFormat::Text);
        queue.push(b"one\n");
        go.send(()).unwrap();
        queue.push(b"two\n");
        go.send(()).unwrap();
        queue.flush(Duration::from_secs(60));
        assert_eq!(read.lock().unwrap().as_slice(), b"one\ntwo\n");
    }
}
