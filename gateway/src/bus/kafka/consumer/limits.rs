//! How long a consumer waits for brokers.

use std::time::Duration;

/// How long the brokers have for one answer.
pub(super) const ANSWER: Duration = Duration::from_secs(2);

/// How long a look at one place of a partition may take: a connection, and some answers.
pub(super) const LOOK: Duration = Duration::from_secs(5);
