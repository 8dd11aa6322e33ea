//! Time limits of calls and connections, and how much may wait.

use std::time::Duration;

/// The longest a call takes, with waiting for a connection and a second attempt.
pub(super) const CALL_TIME_MAX: Duration = Duration::from_millis(2500);
/// The longest a server may take to answer, before its connection is given up.
pub(super) const RESPONSE_TIME_MAX: Duration = Duration::from_secs(1);
/// The longest a connection to one server may take to be open and greeted.
pub(super) const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// The longest that the opening of a connection may take: some kinds ask several servers in turn.
pub(super) const OPEN_TIME_MAX: Duration = Duration::from_secs(2);
/// The longest a server may take to show that it answers without TLS.
pub(super) const PROBE_TIME_MAX: Duration = Duration::from_millis(300);
/// The pause before the second attempt to connect; each further one is twice as long, up to …
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(50);
/// … this one: a server that is back is found within it.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(400);
/// The pause between two questions to a cluster which master has what, while one does not answer.
pub(super) const MAP_INTERVAL: Duration = Duration::from_millis(200);
/// How many batches may wait for the socket; a further one waits in its caller.
pub(super) const BATCHES_QUEUED_MAX: usize = 256;
