//! How a deletion ends, whatever the broker says of it, and whether it is said to be recorded.

use std::{sync::Mutex, time::Duration};

use async_trait::async_trait;

use super::*;
use crate::relay::requests::caller::Arrival;
use crate::{
    bus::{OnDelivery, Position, Producer},
    relay::{
        Relay,
        bed::{self, Ground},
        requests::pending::Outcome,
    },
    tasks::locked,
};

const DELETION: Deletion<'_> =
    Deletion { key: b"k", guid: "01a21ade-b982-7135-90af-3503dff3d7e4", partition: None };

/// Takes every record, or none, and says what became of it when the test does.
#[derive(Default)]
struct Patient {
    taken: Mutex<Vec<OnDelivery>>,
    refuses: Option<ProduceError>,
}

impl std::fmt::Debug for Patient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patient").finish_non_exhaustive()
    }
}

#[async_trait]
impl Producer for Patient {
    fn produce(&self, record: &Outgoing<'_>, on_delivery: OnDelivery) -> Result<(), ProduceError> {
        assert_eq!(record.key, Some(&b"k#01a21ade-b982-7135-90af-3503dff3d7e4"[..]));
        assert_eq!((record.value, record.headers.len()), (None, 0));
        if let Some(error) = &self.refuses {
            return Err(error.clone());
        }
        locked(&self.taken).push(on_delivery);
        Ok(())
    }

    fn is_available(&self) -> bool {
        true
    }

    fn partition_count(&self, _: &str) -> Option<i32> {
        Some(9)
    }

    fn outstanding(&self) -> usize {
        locked(&self.taken).len()
    }

    async fn flush(&self, _: Duration) {}
}

struct Bed {
    relay: Arc<Relay>,
    producer: Arc<Patient>,
}

impl Bed {
    fn new(refuses: Option<ProduceError>) -> Self {
        let producer = Arc::new(Patient { refuses, ..Patient::default() });
        let ground = Ground { producer: Arc::clone(&producer) as _, ..Ground::default() };
        let relay = bed::relay(ground);
        let completion = Arc::clone(&relay.completion);
        relay.tasks.short_lived(async move { completion.run_deadlines().await });
        Self { relay, producer }
    }

    fn delete(&self, deletion: &Deletion<'_>) -> Result<WaitingCall, Failure> {
        let call = Submission {
            service: "echo",
            key: None,
            payload: &[],
            headers: &[],
            method: "DELETE",
            path: None,
            timeout: Some(Duration::from_secs(3)),
        };
        self.relay.requests.delete(&call, deletion)
    }

    fn taken(&self) -> OnDelivery {
        locked(&self.producer.taken).pop().expect("one record was taken")
    }
}

async fn outcome(mut waiting: WaitingCall) -> Outcome {
    match waiting.next().await {
        Arrival::Answer(answer) => answer.expect("it ends").outcome,
        Arrival::Part(part) => panic!("{part:?}"),
    }
}

/// Code, and whether it is said to be recorded.
async fn failure(waiting: WaitingCall) -> (ErrorCode, bool) {
    match outcome(waiting).await {
        Outcome::Failure(failure) => (failure.code, failure.recorded),
        Outcome::Reply(reply) => panic!("{reply:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_over_once_it_is_recorded() {
    let bed = Bed::new(None);
    let waiting = bed.delete(&DELETION).unwrap();
    assert_eq!(bed.relay.completion.pending.calls(), 1, "a drain waits for it");
    bed.taken().done(Ok(Position { partition: 3, offset: 7 }));
    let Outcome::Reply(reply) = outcome(waiting).await else { panic!("it was recorded") };
    assert_eq!(reply.status, Some(202));
    let body: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(body, serde_json::json!({ "topic": "echo", "partition": 3, "offset": 7 }));
    assert!(bed.relay.completion.pending.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_not_recorded_says_so() {
    let bed = Bed::new(None);
    let waiting = bed.delete(&DELETION).unwrap();
    bed.taken().done(Err(ProduceError::Unconfirmed("lost".to_owned())));
    assert_eq!(failure(waiting).await, (ErrorCode::Unavailable, true));

    let waiting = bed.delete(&DELETION).unwrap();
    bed.taken().done(Err(ProduceError::Refused("no".to_owned())));
    assert_eq!(failure(waiting).await, (ErrorCode::Unavailable, false));

    let waiting = bed.delete(&DELETION).unwrap();
    assert_eq!(failure(waiting).await, (ErrorCode::Timeout, true), "it was handed over");

    let waiting = bed.delete(&DELETION).unwrap();
    let mut taken = bed.taken();
    taken.kept_back();
    assert_eq!(failure(waiting).await, (ErrorCode::Timeout, false), "it was kept back");
    assert!(!taken.goes(), "and is not written any more");

    let waiting = bed.delete(&DELETION).unwrap();
    bed.relay.completion.give_up_calls();
    assert_eq!(failure(waiting).await, (ErrorCode::Unavailable, true));

    drop(bed.delete(&DELETION).unwrap());
    assert!(bed.relay.completion.pending.is_empty(), "a caller who hangs up waits no more");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_is_told_at_once() {
    for (error, partition, code) in [
        (ProduceError::QueueFull, None, ErrorCode::Overloaded),
        (ProduceError::UnknownTopic, None, ErrorCode::Unavailable),
        (ProduceError::UnknownTopic, Some(8), ErrorCode::Unavailable),
        (ProduceError::UnknownTopic, Some(9), ErrorCode::NotFound),
    ] {
        let bed = Bed::new(Some(error));
        let refused = bed.delete(&Deletion { partition, ..DELETION }).unwrap_err();
        assert_eq!((refused.code, refused.recorded), (code, false));
        assert!(bed.relay.completion.pending.is_empty());
    }
    let bed = Bed::new(None);
    bed.relay.gate.drain();
    let refused = bed.delete(&DELETION).unwrap_err();
    assert_eq!((refused.code, refused.recorded), (ErrorCode::Unavailable, false));
}
