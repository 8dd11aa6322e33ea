//! What failed, in words for an operator.
//!
//! Never shows what a server says while it is greeted, nor credentials.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::{Cause, RegistryError, Trouble};

/// The crate's words for a `SELECT` that was refused.
const NOT_SELECTED: &str = "Redis server refused to switch database";

/// Without the server's own words: it may quote a greeting that it did not understand, and a
/// greeting has the password in it. What it is known to say is said in words of ours.
pub(super) fn failed_opening(at: &str, database: i64, error: &RedisError) -> RegistryError {
    if error.to_string().starts_with(NOT_SELECTED) {
        let said = error.detail().unwrap_or_default();
        return RegistryError::Refused(trouble(at, not_selected(database, said)));
    }
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

/// Why a database could not be selected, by what the server says: its error's code is lost.
fn not_selected(number: i64, said: &str) -> Cause {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    let why = if says(&["Authentication required"]) {
        return Cause::Password;
    } else if says(&["has no permissions", "No permissions"]) {
        return Cause::NoPermission(format!("to select database {number}"));
    } else if says(&["max number of clients"]) {
        return Cause::Other("it has as many clients as it takes".to_owned());
    } else if says(&["out of range", "invalid DB index"]) {
        "there is none of this number"
    } else if says(&["not allowed in cluster mode"]) {
        "a Redis Cluster has database 0 alone; its URL begins with redis+cluster://"
    } else {
        "the server refuses to select it"
    };
    Cause::Database { number, why }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_database_is_told_without_the_servers_words() {
        let told = |said: Option<&str>| {
            let kind = ErrorKind::Server(ServerErrorKind::ResponseError);
            let error = match said {
                Some(said) => RedisError::from((kind, NOT_SELECTED, said.to_owned())),
                None => RedisError::from((kind, NOT_SELECTED)),
            };
            failed_opening("redis://h:1", 9, &error).to_string()
        };
        for (said, cause) in [
            (Some("DB index is out of range"), "database 9: there is none of this number"),
            (Some("invalid DB index"), "database 9: there is none of this number"),
            (Some("max number of clients reached"), "it has as many clients as it takes"),
            (Some("Authentication required."), "wrong or missing password"),
            (
                Some("this user has no permissions to run the 'select' command"),
                "no permission: to select database 9",
            ),
            (Some("what? AUTH hunter2"), "database 9: the server refuses to select it"),
            (None, "database 9: the server refuses to select it"),
        ] {
            assert_eq!(told(said), format!("registry refused: redis://h:1: {cause}"), "{said:?}");
        }
    }
}
