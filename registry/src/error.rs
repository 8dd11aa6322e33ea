//! What can go wrong with the shared table.

use std::fmt;

/// A failure of the registry. On an error the caller must assume that what it is about may or may
/// not have been written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Not reachable, or no answer in time.
    #[error("registry unreachable: {0}")]
    Unreachable(Trouble),
    /// The part of it that was asked is not reachable, or does not answer in time. Other parts may
    /// answer.
    #[error("registry partly unreachable: {0}")]
    PartlyUnreachable(Trouble),
    /// It answered with a refusal (out of memory, read-only replica, no permission, …).
    #[error("registry refused: {0}")]
    Refused(Trouble),
    /// Its URL or its key prefix cannot be used. Only connecting says so.
    #[error("registry misconfigured: {0}")]
    Misconfigured(String),
    /// It gave an answer that this version does not expect.
    #[error("registry answered with what cannot be read: {0}")]
    Malformed(String),
}

/// What is wrong with a registry, and with which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The URL, without user and password; empty where there is none.
    pub at: Box<str>,
    /// What is wrong there.
    pub cause: Cause,
}

/// The causes that an operator can remove.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// Nobody listens at that address.
    #[error("connection refused")]
    ConnectionRefused,
    /// The host's name has no address.
    #[error("the host name cannot be resolved")]
    Unresolved,
    /// No connection, or no answer, within the time limit.
    #[error("no answer in time")]
    Silent,
    /// The server does not accept the password, or the user's name.
    #[error("wrong or missing password")]
    Password,
    /// The server does not speak TLS.
    #[error("no TLS there: the URL begins with rediss://")]
    NoTls,
    /// The server there does not speak Redis' protocol, or speaks it over TLS only.
    #[error("not a Redis, or one that wants TLS")]
    NotRedis,
    /// The user may not do this.
    #[error("no permission: {0}")]
    NoPermission(String),
    /// The server does not let the URL's database be chosen.
    #[error("database {number}: {why}")]
    Database {
        /// Its number.
        number: i64,
        /// Why, in words of ours.
        why: &'static str,
    },
    /// Anything else, in the words of the error.
    #[error("{0}")]
    Other(String),
}

impl RegistryError {
    /// Whether the same call may succeed later without anybody mending anything.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::PartlyUnreachable(_) | Self::Refused(_))
    }

    /// Whether what else is in the registry can be had.
    pub const fn is_partial(&self) -> bool {
        matches!(self, Self::PartlyUnreachable(_))
    }

    /// What is wrong with the server itself, where that is known.
    pub const fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Unreachable(trouble)
            | Self::PartlyUnreachable(trouble)
            | Self::Refused(trouble) => Some(trouble),
            Self::Misconfigured(_) | Self::Malformed(_) => None,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.at {
            "" => self.cause.fmt(f),
            at => write!(f, "{at}: {}", self.cause),
        }
    }
}

impl From<&str> for Trouble {
    fn from(words: &str) -> Self {
        Self { at: "".into(), cause: Cause::Other(words.to_owned()) }
    }
}
