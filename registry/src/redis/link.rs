//! The connection to one server: opened as soon as the link is made, and replaced when it has
//! failed.
//!
//! Owns the connection, and the task that opens the next one. Never knows what a command means: it
//! takes only commands that may be sent twice.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{Pipeline, ServerError, ServerErrorKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{limits, scripts::Lua, target::Server, trouble};
use crate::error::{Cause, RegistryError};

/// What became of one command. That a key is of another type than the command wants is an answer,
/// [`Value::ServerError`]; every other refusal is an error.
pub(super) type Answer = Result<Value, RegistryError>;

/// What a server has answered, and which run of it may have been.
pub(super) struct Told {
    /// Where the server is.
    pub(super) at: Box<str>,
    /// How many connections there had been when it was asked, and when it had answered.
    pub(super) connections: (u64, u64),
    pub(super) answer: Answer,
}

/// A link to one server. It is opened again and again for as long as anybody has it.
pub(super) struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    server: Server,
    state: watch::Sender<State>,
    connections: AtomicU64,
}

enum State {
    /// It will soon be known whether there is a connection, so calls wait.
    Opening,
    /// Calls go out on this one.
    Open(Open),
    /// The server cannot be reached, for this reason. Calls fail at once, so that other parts of
    /// their batch need not wait; meanwhile the connection is tried again and again.
    Down(RegistryError),
}

#[derive(Clone)]
struct Open {
    connection: MultiplexedConnection,
    /// The number of this connection: the first, the second, …
    number: u64,
}

/// Why an attempt has failed.
struct Failure {
    error: RegistryError,
    /// The connection was lost, so another one may do better at once.
    again: bool,
}

impl Link {
    /// A link that is being opened.
    pub(super) fn new(server: Server) -> Self {
        let (state, _) = watch::channel(State::Opening);
        let shared = Arc::new(Shared { server, state, connections: AtomicU64::new(0) });
        open(&shared);
        Self { shared }
    }

    /// The address, for people.
    pub(super) fn label(&self) -> &str {
        self.shared.server.label()
    }

    /// Waits until it is known whether the server can be reached. Cancel safe.
    pub(super) async fn decided(&self) {
        self.connection().await.ok();
    }

    /// Whether the server can be reached, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self.shared.state.borrow(), State::Open(_))
    }

    /// Why the server cannot be reached, where that is so.
    pub(super) fn trouble(&self) -> Option<RegistryError> {
        match &*self.shared.state.borrow() {
            State::Down(error) => Some(error.clone()),
            State::Opening | State::Open(_) => None,
        }
    }

    /// How many connections there have been. While the number stays the same, every answer has come
    /// from one run of the server.
    fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Sends a batch in one round trip, and gives the server's answers in its order, refusals among
    /// them. Calls of a script are carried out on a server that does not know it as well.
    ///
    /// # Errors
    /// The server cannot be reached. Any part of the batch may have been carried out, some of it
    /// twice. Cancel safe in the same sense.
    pub(super) async fn send(
        &self,
        batch: &Pipeline,
        script: Option<&Lua>,
    ) -> Result<Vec<Value>, RegistryError> {
        let mut answers = self.attempts(batch).await?;
        let Some(script) = script else { return Ok(answers) };
        let unknown: Vec<_> = (0..answers.len()).filter(|at| is_no_script(&answers[*at])).collect();
        if !unknown.is_empty() {
            // The server was restarted meanwhile.
            let told = self.attempts(&tell(script, batch, &unknown)).await?;
            for (at, answer) in unknown.into_iter().zip(told) {
                answers[at] = answer;
            }
        }
        Ok(answers)
    }

    /// Sends one command, and says which run of the server may have answered.
    pub(super) async fn tell(&self, command: &Pipeline, end: Instant) -> Told {
        let before = self.connections();
        let told = timeout_at(end, self.send(command, None)).await;
        let told = told.unwrap_or_else(|_| Err(self.silence()));
        let answer = told.and_then(|mut told| self.judge(told.pop().unwrap_or_default()));
        Told { at: self.label().into(), connections: (before, self.connections()), answer }
    }

    /// A refusal as the error it is. That a key is of another type is an answer.
    pub(super) fn judge(&self, answer: Value) -> Answer {
        match answer {
            Value::ServerError(error) if !is_wrong_type(&error) => {
                Err(trouble::failed_call(self.label(), &error.into()))
            }
            answer => Ok(answer),
        }
    }

    /// The error for an answer that did not come in time.
    pub(super) fn silence(&self) -> RegistryError {
        trouble::unreachable(self.label(), Cause::Silent)
    }

    /// A connection that was lost is often found out by the next call, so that one is not the
    /// caller's to lose. A server that did not answer in time is not asked again: it has enough to
    /// do.
    async fn attempts(&self, batch: &Pipeline) -> Result<Vec<Value>, RegistryError> {
        match self.attempt(batch).await {
            Err(failure) if failure.again => self.attempt(batch).await,
            outcome => outcome,
        }
        .map_err(|failure| failure.error)
    }

    async fn attempt(&self, batch: &Pipeline) -> Result<Vec<Value>, Failure> {
        let Open { mut connection, number } =
            self.connection().await.map_err(|error| Failure { error, again: false })?;
        match connection.send_packed_commands(batch, 0, batch.len()).await {
            Ok(answers) => {
                // It has been replaced as the master.
                if answers.iter().any(is_read_only) {
                    self.replace(number, State::Opening);
                }
                Ok(answers)
            }
            Err(lost) => {
                let (error, again) =
                    (trouble::failed_call(self.label(), &lost), lost.is_connection_dropped());
                if lost.is_timeout() {
                    // It may have been cut off without a word.
                    self.replace(number, State::Down(error.clone()));
                } else if lost.is_io_error() || lost.is_unrecoverable_error() {
                    self.replace(number, State::Opening);
                }
                Err(Failure { error, again })
            }
        }
    }

    async fn connection(&self) -> Result<Open, RegistryError> {
        let mut states = self.shared.state.subscribe();
        let known = states.wait_for(|state| !matches!(state, State::Opening)).await;
        match &*known.expect("this link has the other end") {
            State::Open(open) => Ok(open.clone()),
            State::Down(error) => Err(error.clone()),
            State::Opening => unreachable!("it was waited for"),
        }
    }

    /// Gives a connection up, unless another call that met the same failure has done so.
    fn replace(&self, number: u64, by: State) {
        let is_first = self.shared.state.send_if_modified(|state| {
            let is_it = matches!(state, State::Open(open) if open.number == number);
            if is_it {
                *state = by;
            }
            is_it
        });
        if is_first {
            open(&self.shared);
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Tries to open a connection until there is one, or until nobody has the link any more.
fn open(link: &Arc<Shared>) {
    let link = Arc::downgrade(link);
    let opening = async move {
        let mut pause = Duration::ZERO;
        while let Some(link) = Weak::upgrade(&link) {
            match attempt(&link.server).await {
                Ok(connection) => {
                    let number = link.connections.fetch_add(1, Ordering::AcqRel) + 1;
                    link.state.send_replace(State::Open(Open { connection, number }));
                    break;
                }
                Err(error) => drop(link.state.send_replace(State::Down(error))),
            }
            drop(link);
            pause = (pause * 2).clamp(limits::PAUSE_MIN, limits::PAUSE_MAX);
            sleep(pause).await;
        }
    };
    #[expect(clippy::disallowed_methods, reason = "it ends with the link at the latest")]
    drop(tokio::spawn(opening));
}

async fn attempt(server: &Server) -> Result<MultiplexedConnection, RegistryError> {
    let at = server.label();
    let error = match timeout(limits::OPEN_TIME_MAX, server.open()).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) => trouble::failed_opening(at, server.database(), &error),
        Err(_) => trouble::unreachable(at, Cause::Silent),
    };
    let is_silent = error.trouble().is_some_and(|trouble| trouble.cause == Cause::Silent);
    match is_silent && server.answers_without_tls().await {
        true => Err(trouble::unreachable(at, Cause::NoTls)),
        false => Err(error),
    }
}

/// These calls of a batch, for a server that does not know the script: it knows it from the first
/// of them on.
fn tell(script: &Lua, calls: &Pipeline, unknown: &[usize]) -> Pipeline {
    let calls: Vec<_> = calls.cmd_iter().collect();
    let mut again = Pipeline::with_capacity(unknown.len());
    for (count, at) in unknown.iter().enumerate() {
        again.add_command(match count {
            0 => script.by_text(calls[*at]),
            _ => calls[*at].clone(),
        });
    }
    again
}

fn is_no_script(answer: &Value) -> bool {
    is_refused_for(answer, ServerErrorKind::NoScript)
}

fn is_read_only(answer: &Value) -> bool {
    is_refused_for(answer, ServerErrorKind::ReadOnly)
}

fn is_refused_for(answer: &Value, kind: ServerErrorKind) -> bool {
    matches!(answer, Value::ServerError(error) if error.kind() == Some(kind))
}

fn is_wrong_type(error: &ServerError) -> bool {
    // Until Redis 6 a script's error is told within another one.
    error.code() == "WRONGTYPE" || error.details().is_some_and(|text| text.contains(" WRONGTYPE "))
}
