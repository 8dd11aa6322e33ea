//! When the table is looked through: no later than a deadline, and not for those that are gone.

use std::time::Duration;

use registry::{NodeId, NodeRef};
use tokio::time::{sleep, timeout};

use super::*;
use crate::{
    config::{Dialect, ServiceConfig},
    relay::{
        requests::{caller::Caller, recording::Recording},
        services::Service,
    },
    telemetry::Telemetry,
};

const SECOND: Duration = Duration::from_secs(1);

fn request(number: u8) -> RequestId {
    RequestId::from_uuid(uuid::Uuid::from_bytes([number; 16]))
}

/// A service of this dialect.
pub(in crate::relay::requests) fn service(dialect: Dialect) -> Service {
    let config = ServiceConfig {
        dead_letter_topic: None,
        respond_on: None,
        request_topic: "requests".to_owned(),
        timeout: SECOND,
        timeout_max: SECOND,
        stream_idle_timeout: SECOND,
        dialect,
        allowed_headers: Vec::new(),
        deletable: false,
        gone_within: SECOND,
    };
    Service::new("service", &config, &Telemetry::new())
}

/// A call that waits and ends in so many seconds.
pub(in crate::relay::requests) fn entry(seconds: u32) -> Entry {
    let node = NodeRef { id: NodeId::parse("gw-1").unwrap(), incarnation: 1 };
    let route = Route { node, session: None, client_id: None, deadline_ms: 0, may_be_part: false };
    let now = Instant::now();
    Entry {
        service: Arc::new(service(Dialect::Plain)),
        waiter: Waiter::Call(Caller::new(1).0),
        started: now,
        deadline: now + SECOND * seconds,
        partition: None,
        recording: Recording::Unconfirmed,
        early: None,
        stream: None,
        route: Arc::new(route),
    }
}

/// Seconds until the table is to be looked through.
async fn due(pending: &Pending) -> u64 {
    let started = Instant::now();
    pending.due().await;
    (started.elapsed() + Duration::from_millis(500)).as_secs()
}

fn expired(pending: &Pending) -> Vec<RequestId> {
    pending.take_expired(Instant::now()).into_iter().map(|(request, _)| request).collect()
}

#[tokio::test(start_paused = true)]
async fn each_deadline_is_due_in_its_time() {
    let pending = Pending::new();
    for (number, seconds) in [(1, 3), (2, 1), (3, 3)] {
        pending.insert(request(number), entry(seconds));
    }
    assert_eq!(due(&pending).await, 1);
    assert_eq!(expired(&pending), [request(2)]);
    assert_eq!(due(&pending).await, 2);
    assert_eq!(expired(&pending), [request(1), request(3)]);
    assert!(pending.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_meanwhile_is_minded() {
    let pending = Pending::new();
    let wait = async {
        sleep(SECOND).await;
        pending.insert(request(1), entry(60));
        sleep(SECOND).await;
        pending.insert(request(2), entry(5));
    };
    assert_eq!(tokio::join!(due(&pending), wait).0, 7);
    assert_eq!(expired(&pending), [request(2)]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_due_where_nothing_waits() {
    let pending = Pending::new();
    pending.insert(request(1), entry(1));
    assert!(pending.take(request(1)).is_some());
    let waits = timeout(SECOND * 60, pending.due());
    assert!(waits.await.is_err());
    assert_eq!(expired(&pending), []);
}
