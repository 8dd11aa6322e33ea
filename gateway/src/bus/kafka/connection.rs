//! Why a broker cannot be talked to, according to librdkafka's messages. Pure: no client, no I/O.

use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::error::RDKafkaErrorCode;
use tokio::time::Instant;

/// How many brokers are remembered.
const BROKERS_MAX: usize = 64;

/// After this long without it the same failure is news again. librdkafka repeats itself every 30 s.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// A broker that could not be talked to, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Host and port.
    broker: String,
    fault: Fault,
    /// In librdkafka's words, or the system's.
    cause: String,
}

/// The step of a connection that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Resolve,
    Connect,
    Tls,
    Sasl,
    Closed,
}

impl Failure {
    /// What an error of a whole client says about a broker, if it does. librdkafka's sentence begins
    /// with the broker's name, as in `sasl_ssl://kafka-1:9093/bootstrap: Connect to … failed: …`, and
    /// ends with how long it took.
    pub(super) fn of(code: RDKafkaErrorCode, text: &str) -> Option<Self> {
        let fault = match code {
            RDKafkaErrorCode::Resolve => Fault::Resolve,
            RDKafkaErrorCode::SSL => Fault::Tls,
            RDKafkaErrorCode::Authentication => Fault::Sasl,
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::NetworkException => Fault::Connect,
            _ => return None,
        };
        Self::with(fault, text)
    }

    /// What a line of librdkafka's log on a lost connection says, where it is more than that: a broker
    /// closes it without a word when it expects TLS, or a login; and so does what stands before brokers
    /// where there is none. The line begins with the thread.
    pub(super) fn of_log(line: &str) -> Option<Self> {
        let text = line.split_once("]: ").map_or(line, |(_, text)| text);
        if text.contains("security.protocol") || text.contains("ApiVersion") {
            return Self::with(Fault::Closed, text);
        }
        // The first question of each connection. What the system says of it may change each time.
        let is_first = text.contains("in state APIVERSION_QUERY");
        let failure = is_first.then(|| Self::with(Fault::Closed, text)).flatten()?;
        Some(Self { cause: "before it has answered anything".to_owned(), ..failure })
    }

    fn with(fault: Fault, text: &str) -> Option<Self> {
        let (name, rest) = text.split_once(": ")?;
        // A broker with a part in a group comes under the name of that part first.
        let (broker, cause) = match address(name) {
            Some(broker) => (broker, rest),
            None => rest.split_once(": ").and_then(|(name, rest)| Some((address(name)?, rest)))?,
        };
        let cause = cause.split_once(" (after ").map_or(cause, |(cause, _)| cause);
        let cause = cause.trim().trim_end_matches('.').to_owned();
        Some(Self { broker: broker.to_owned(), fault, cause })
    }
}

/// Host and port of librdkafka's name of a broker.
fn address(name: &str) -> Option<&str> {
    let address = name.split_once("://").map_or(name, |(_, address)| address);
    let address = address.split_once('/').map_or(address, |(address, _)| address);
    let (_, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok().map(|_| address)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { broker, fault, cause } = self;
        let what = match fault {
            Fault::Resolve => "cannot be resolved",
            Fault::Connect => "cannot be connected to",
            Fault::Tls => "refuses TLS, or is not trusted",
            Fault::Sasl => "refuses the login",
            Fault::Closed => "closes the connection",
        };
        write!(f, "{broker} {what}: {cause}")
    }
}

/// The failed connections of the brokers.
#[derive(Debug, Default)]
pub(super) struct Connections {
    failures: BTreeMap<String, (Failure, Instant)>,
}

impl Connections {
    /// Takes a failure. Returns whether it is new.
    pub(super) fn failed(&mut self, failure: &Failure, now: Instant) -> bool {
        self.failures.retain(|_, (_, at)| now.duration_since(*at) < FORGOTTEN);
        let known = self.failures.get(&failure.broker);
        let is_news = known.is_none_or(|(known, _)| known != failure);
        if known.is_some() || self.failures.len() < BROKERS_MAX {
            self.failures.insert(failure.broker.clone(), (failure.clone(), now));
        }
        is_news
    }

    /// A broker has answered, so earlier failures are over.
    pub(super) fn answered(&mut self) {
        self.failures.clear();
    }

    /// The latest failure.
    pub(super) fn latest(&self, now: Instant) -> Option<&Failure> {
        let recent = self.failures.values().filter(|(_, at)| now.duration_since(*at) < FORGOTTEN);
        recent.max_by_key(|(_, at)| *at).map(|(failure, _)| failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As librdkafka 2.12 says them.
    const SAID: [(RDKafkaErrorCode, &str, &str); 4] = [
        (
            RDKafkaErrorCode::BrokerTransportFailure,
            "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms \
             in state CONNECT)",
            "127.0.0.1:1 cannot be connected to: Connect to ipv4#127.0.0.1:1 failed: Connection refused",
        ),
        (
            RDKafkaErrorCode::Resolve,
            "no-such-host:9092/bootstrap: Failed to resolve 'no-such-host:9092': Name or service not \
             known (after 2ms in state CONNECT)",
            "no-such-host:9092 cannot be resolved: Failed to resolve 'no-such-host:9092': Name or \
             service not known",
        ),
        (
            RDKafkaErrorCode::SSL,
            "ssl://kafka-1:9093/1: SSL handshake failed: certificate verify failed (after 5ms in state \
             SSL_HANDSHAKE)",
            "kafka-1:9093 refuses TLS, or is not trusted: SSL handshake failed: certificate verify \
             failed",
        ),
        (
            RDKafkaErrorCode::Authentication,
            "sasl_ssl://[::1]:9094/bootstrap: SASL authentication error: Authentication failed (after \
             9ms in state AUTH_REQ)",
            "[::1]:9094 refuses the login: SASL authentication error: Authentication failed",
        ),
    ];

    #[test]
    fn a_failure_says_where_and_what() {
        for (code, said, expected) in SAID {
            assert_eq!(Failure::of(code, said).unwrap().to_string(), expected);
        }
        assert_eq!(Failure::of(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down"), None);
        assert_eq!(Failure::of(RDKafkaErrorCode::OperationTimedOut, "something: else"), None);
        let coordinator = Failure::of(
            RDKafkaErrorCode::BrokerTransportFailure,
            "GroupCoordinator: kafka-2:9092: Connect to ipv4#10.0.0.2:9092 failed: No route to host",
        );
        assert_eq!(
            coordinator.unwrap().to_string(),
            "kafka-2:9092 cannot be connected to: Connect to ipv4#10.0.0.2:9092 failed: No route to host",
        );
        let closed = Failure::of_log(
            "[thrd:127.0.0.1:9/bootstrap]: 127.0.0.1:9/bootstrap: Disconnected: requesting ApiVersion: \
             might be caused by incorrect security.protocol configuration (after 3ms in state X)",
        );
        assert_eq!(
            closed.unwrap().to_string(),
            "127.0.0.1:9 closes the connection: Disconnected: requesting ApiVersion: might be caused by \
             incorrect security.protocol configuration",
        );
        for how in ["connection closed by peer: receive 0 after POLLIN", "connection reset by peer"]
        {
            let line = format!(
                "[thrd:a:9/bootstrap]: a:9/bootstrap: Disconnected: {how} (after 0ms in state \
                 APIVERSION_QUERY, 1 identical error(s) suppressed)"
            );
            assert_eq!(
                Failure::of_log(&line).unwrap().to_string(),
                "a:9 closes the connection: before it has answered anything",
            );
        }
        assert_eq!(
            Failure::of_log("[thrd:a:9/1]: a:9/1: Disconnected (after 3ms in state UP)"),
            None
        );
    }

    #[test]
    fn a_failure_is_news_once_a_change() {
        let [connect, resolve, ..] = SAID.map(|(code, said, _)| Failure::of(code, said).unwrap());
        let start = Instant::now();
        let mut connections = Connections::default();
        assert!(connections.failed(&connect, start));
        assert!(!connections.failed(&connect, start + Duration::from_secs(30)));
        assert!(connections.failed(&resolve, start + Duration::from_secs(31)));
        assert_eq!(connections.latest(start + Duration::from_secs(31)), Some(&resolve));
        assert!(!connections.failed(&connect, start + Duration::from_secs(59)));
        connections.answered();
        assert_eq!(connections.latest(start + Duration::from_secs(60)), None);
        assert!(connections.failed(&connect, start + Duration::from_secs(60)));
        assert!(connections.failed(&connect, start + Duration::from_secs(200)), "long ago");
    }
}
