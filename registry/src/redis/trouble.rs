//! What failed, in words for an operator.
//!
//! Never shows what a server says while it is greeted, nor credentials.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::{Cause, RegistryError, Trouble};

/// Without the server's own words: it may quote a greeting that it did not understand, and a
/// greeting has the password in it.
pub(super) fn failed_opening(at: &str, error: &RedisError) -> RegistryError {
    match cause_of(error) {
        Some(cause @ (Cause::Password | Cause::NoPermission(_))) => {
            let cause = match cause {
                Cause::NoPermission(_) => Cause::NoPermission("to connect".to_owned()),
                other => other,
            };
            RegistryError::Refused(trouble(at, cause))
        }
        Some(cause) => unreachable(at, cause),
        None => {
            let code = error.code().unwrap_or_else(|| error.category());
            let other = Cause::Other(code.to_owned());
            match error.kind() {
                ErrorKind::Server(_) | ErrorKind::Extension => {
                    RegistryError::Refused(trouble(at, other))
                }
                _ => unreachable(at, other),
            }
        }
    }
}

pub(super) fn failed_call(at: &str, error: &RedisError) -> RegistryError {
    let cause = cause_of(error);
    match error.kind() {
        // It does not say no to this: it says that it cannot work.
        ErrorKind::Server(ServerErrorKind::ClusterDown) => {
            unreachable(at, Cause::Other("it says that the cluster is down".to_owned()))
        }
        ErrorKind::AuthenticationFailed | ErrorKind::Server(_) | ErrorKind::Extension => {
            let (code, detail) = (error.code().unwrap_or("ERR"), error.detail().unwrap_or(""));
            let cause = cause.unwrap_or_else(|| Cause::Other(format!("{code} {detail}")));
            RegistryError::Refused(trouble(at, cause))
        }
        _ => {
            let cause = cause.unwrap_or_else(|| Cause::Other(error.category().to_owned()));
            unreachable(at, cause)
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

pub(super) fn unreachable(at: &str, cause: Cause) -> RegistryError {
    RegistryError::Unreachable(trouble(at, cause))
}

fn trouble(at: &str, cause: Cause) -> Trouble {
    Trouble { at: at.into(), cause }
}
