//! One way to Redis that is opened when it is needed and replaced when it has failed.
//!
//! Owns the connection, the attempts and their time limits. Never knows what a command means: it
//! takes only what may be sent twice.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, join_all},
};
use redis::{
    Cmd, ErrorKind, Pipeline, RedisError, ServerError, ServerErrorKind, Value, aio::ConnectionLike,
};
use tokio::time::{sleep, timeout};

use super::{
    limits,
    scripts::Lua,
    target::{Connection, Target},
};
use crate::error::{Cause, RegistryError, Trouble};

/// A connection that is being opened, or is open, or could not be: shared by all calls that wait
/// for it, so there is never more than one attempt at a time.
type Opening = Shared<BoxFuture<'static, Result<Connection, RegistryError>>>;

/// A way to one Redis.
pub(super) struct Link {
    target: Arc<Target>,
    state: Mutex<State>,
}

struct State {
    opening: Opening,
    /// How long the present attempt waited before it began.
    pause: Duration,
}

/// Why an attempt brought nothing.
struct Failure {
    error: RegistryError,
    /// The connection was lost, so another one may do better at once.
    again: bool,
}

impl Link {
    /// A link that is not open yet.
    pub(super) fn new(target: Target) -> Self {
        let target = Arc::new(target);
        let opening = open(Arc::clone(&target), Duration::ZERO);
        Self { target, state: Mutex::new(State { opening, pause: Duration::ZERO }) }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Opens the connection, so that no call has to wait for it. Whether it came to be is for the
    /// calls to say.
    pub(super) async fn open(&self) {
        let opening = self.state().opening.clone();
        if opening.clone().await.is_err() {
            self.replace(&opening);
        }
    }

    /// Sends a batch and gives the answers in its order, one for each command.
    ///
    /// # Errors
    /// Unreachable within [`limits::CALL_TIME_MAX`], or what Redis refused first. Any part of the
    /// batch may have been carried out, some of it twice. Cancel safe in the same sense.
    pub(super) async fn batch(&self, batch: &Pipeline) -> Result<Vec<Value>, RegistryError> {
        self.in_time(self.attempts(batch, |_| false)).await
    }

    /// Sends a batch that reads, in which what is of another type than it is read as has an answer
    /// that says so: see [`Link::batch`] for the rest.
    pub(super) async fn reads(&self, batch: &Pipeline) -> Result<Vec<Value>, RegistryError> {
        self.in_time(self.attempts(batch, is_wrong_type)).await
    }

    /// Sends one command: see [`Link::batch`].
    pub(super) async fn command(&self, command: Cmd) -> Result<Value, RegistryError> {
        self.in_time(self.single(command)).await
    }

    /// Sends one call of a script: see [`Link::batch`].
    pub(super) async fn script(&self, script: &Lua, call: Cmd) -> Result<Value, RegistryError> {
        let mut calls = Pipeline::with_capacity(1);
        calls.add_command(call);
        let answers = self.scripts(script, &calls).await?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    /// Sends a batch of calls of one script: see [`Link::batch`]. A call that met a key of another
    /// type has an answer that says so, and the others are none the worse for it.
    pub(super) async fn scripts(
        &self,
        script: &Lua,
        calls: &Pipeline,
    ) -> Result<Vec<Value>, RegistryError> {
        self.in_time(async {
            let is_excused = |answer: &Value| is_no_script(answer) || is_wrong_type(answer);
            let mut answers = self.attempts(calls, is_excused).await?;
            let unknown: Vec<_> =
                (0..answers.len()).filter(|at| is_no_script(&answers[*at])).collect();
            if !unknown.is_empty() {
                // A server has started since, or a key has moved to another one.
                let again = self.tell(script, calls, &unknown);
                let told = self.attempts(&again, is_wrong_type).await?;
                for (at, answer) in unknown.into_iter().zip(told) {
                    answers[at] = answer;
                }
            }
            Ok(answers)
        })
        .await
    }

    /// These calls of a batch, for servers that do not know the script. One that keeps the batch's
    /// order knows it from the first call on.
    fn tell(&self, script: &Lua, calls: &Pipeline, unknown: &[usize]) -> Pipeline {
        let calls: Vec<_> = calls.cmd_iter().collect();
        let mut again = Pipeline::with_capacity(unknown.len());
        for (count, at) in unknown.iter().enumerate() {
            let by_hash = count > 0 && self.target.keeps_order();
            again.add_command(match by_hash {
                true => calls[*at].clone(),
                false => script.by_text(calls[*at]),
            });
        }
        again
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        match timeout(limits::CALL_TIME_MAX, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unreachable(&self.target, Cause::Silent)),
        }
    }

    async fn single(&self, command: Cmd) -> Result<Value, RegistryError> {
        let mut batch = Pipeline::with_capacity(1);
        batch.add_command(command);
        let answers = self.attempts(&batch, |_| false).await?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    /// A connection that was lost is often found out by the next call, so that one is not the
    /// caller's to lose. A server that did not answer in time is not asked again: it has enough to
    /// do.
    async fn attempts(
        &self,
        batch: &Pipeline,
        excused: fn(&Value) -> bool,
    ) -> Result<Vec<Value>, RegistryError> {
        match self.attempt(batch, excused).await {
            Err(failure) if failure.again => self.attempt(batch, excused).await,
            outcome => outcome,
        }
        .map_err(|failure| failure.error)
    }

    async fn attempt(
        &self,
        batch: &Pipeline,
        excused: fn(&Value) -> bool,
    ) -> Result<Vec<Value>, Failure> {
        let opening = self.state().opening.clone();
        let connection = opening.clone().await.map_err(|error| {
            self.replace(&opening);
            Failure { error, again: false }
        })?;
        let outcome = connection.send(batch).await;
        let outcome = outcome.and_then(|answers| first_refusal_fails(answers, excused));
        outcome.map_err(|error| {
            if connection.is_spent_by(&error) {
                self.replace(&opening);
            }
            let again = error.is_connection_dropped();
            Failure { error: failed_call(&self.target, &error), again }
        })
    }

    /// Begins anew, unless another call that met the same failure has done so.
    fn replace(&self, failed: &Opening) {
        let mut state = self.state();
        if !state.opening.ptr_eq(failed) {
            return;
        }
        let was_open = failed.peek().is_some_and(Result::is_ok);
        state.pause = match was_open {
            true => Duration::ZERO,
            false => (state.pause * 2).clamp(limits::PAUSE_MIN, limits::PAUSE_MAX),
        };
        state.opening = open(Arc::clone(&self.target), state.pause);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Both fields are set together and nothing between them panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(f)
    }
}

impl Connection {
    /// One server takes the batch in one round trip. A cluster takes each command by itself, all
    /// at once: its servers would refuse a batch whose keys belong to several of them.
    async fn send(&self, batch: &Pipeline) -> Result<Vec<Value>, RedisError> {
        match self {
            Self::Server(connection) => {
                connection.clone().send_packed_commands(batch, 0, batch.len()).await
            }
            Self::Cluster(connection) => {
                let calls = batch.cmd_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { connection.req_packed_command(command).await.or_else(as_answer) }
                });
                join_all(calls).await.into_iter().collect()
            }
        }
    }

    /// Whether another connection should take the place of this one.
    fn is_spent_by(&self, error: &RedisError) -> bool {
        match self {
            // A server that is too slow may have been cut off without a word, and one that is
            // read-only has been replaced as the master.
            Self::Server(_) => {
                let demoted = ErrorKind::Server(ServerErrorKind::ReadOnly);
                error.is_io_error() || error.is_unrecoverable_error() || error.kind() == demoted
            }
            // It mends its own connections, one by one, and follows the cluster's changes.
            Self::Cluster(_) => {
                let alone = ErrorKind::ClusterConnectionNotFound;
                error.is_connection_dropped() || error.kind() == alone
            }
        }
    }
}

fn open(target: Arc<Target>, pause: Duration) -> Opening {
    async move {
        sleep(pause).await;
        let error = match timeout(limits::OPEN_TIME_MAX, target.open()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(error)) => failed_opening(&target, &error),
            Err(_) => unreachable(&target, Cause::Silent),
        };
        let is_silent = error.trouble().is_some_and(|trouble| trouble.cause == Cause::Silent);
        match is_silent && target.answers_without_tls().await {
            true => Err(unreachable(&target, Cause::NoTls)),
            false => Err(error),
        }
    }
    .boxed()
    .shared()
}

/// A server's refusal as the answer it is; the crate makes an error of it where it could retry.
fn as_answer(error: RedisError) -> Result<Value, RedisError> {
    ServerError::try_from(error).map(Value::ServerError)
}

/// Refusals that are excused are answers.
fn first_refusal_fails(
    answers: Vec<Value>,
    excused: fn(&Value) -> bool,
) -> Result<Vec<Value>, RedisError> {
    let refusal = answers.iter().find_map(|answer| match answer {
        Value::ServerError(error) if !excused(answer) => Some(error.clone()),
        _ => None,
    });
    refusal.map_or(Ok(answers), |error| Err(error.into()))
}

fn is_no_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

fn is_wrong_type(answer: &Value) -> bool {
    let Value::ServerError(error) = answer else { return false };
    // Until Redis 6 a script's error is told within another one.
    error.code() == "WRONGTYPE" || error.details().is_some_and(|text| text.contains(" WRONGTYPE "))
}

/// Without the server's own words: it may quote a greeting that it did not understand, and a
/// greeting has the password in it.
fn failed_opening(target: &Target, error: &RedisError) -> RegistryError {
    match cause_of(error) {
        Some(cause @ (Cause::Password | Cause::NoPermission(_))) => {
            let cause = match cause {
                Cause::NoPermission(_) => Cause::NoPermission("to connect".to_owned()),
                other => other,
            };
            RegistryError::Refused(trouble(target, cause))
        }
        Some(cause) => unreachable(target, cause),
        None => {
            let code = error.code().unwrap_or_else(|| error.category());
            let other = Cause::Other(code.to_owned());
            match error.kind() {
                ErrorKind::Server(_) | ErrorKind::Extension => {
                    RegistryError::Refused(trouble(target, other))
                }
                _ => unreachable(target, other),
            }
        }
    }
}

fn failed_call(target: &Target, error: &RedisError) -> RegistryError {
    let cause = cause_of(error);
    match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::Server(_) | ErrorKind::Extension => {
            let (code, detail) = (error.code().unwrap_or("ERR"), error.detail().unwrap_or(""));
            let cause = cause.unwrap_or_else(|| Cause::Other(format!("{code} {detail}")));
            RegistryError::Refused(trouble(target, cause))
        }
        _ => {
            let cause = cause.unwrap_or_else(|| Cause::Other(error.category().to_owned()));
            unreachable(target, cause)
        }
    }
}

/// What an operator can mend, where the error is one of that.
fn cause_of(error: &RedisError) -> Option<Cause> {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Some(Cause::Password),
        ErrorKind::Parse => Some(Cause::NotRedis),
        ErrorKind::Io => Some(cause_of_io(error)),
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            Some(Cause::NoPermission(error.detail().unwrap_or_default().to_owned()))
        }
        _ => match error.code() {
            Some("NOAUTH" | "WRONGPASS") => Some(Cause::Password),
            _ => None,
        },
    }
}

/// The standard library tells a name without an address, and rustls a server without TLS, by words
/// alone.
fn cause_of_io(error: &RedisError) -> Cause {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if error.is_connection_refusal() {
        Cause::ConnectionRefused
    } else if error.is_timeout() {
        Cause::Silent
    } else if says(&["lookup address", "No address found"]) {
        Cause::Unresolved
    } else if says(&["InvalidContentType", "corrupt message", "tls handshake eof"]) {
        Cause::NoTls
    } else {
        Cause::Other(text)
    }
}

fn unreachable(target: &Target, cause: Cause) -> RegistryError {
    RegistryError::Unreachable(trouble(target, cause))
}

fn trouble(target: &Target, cause: Cause) -> Trouble {
    Trouble { at: target.label().into(), cause }
}
