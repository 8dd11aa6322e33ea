//! What the registry says of results: to callers who come for theirs, and to whoever has read a
//! reply for which nobody waits.

use bytes::Bytes;
use registry::{Answers, Arrival, EntryKind, RequestId, ResultEntry, ResultState, Stored};
use tokio::time::Instant;

use super::{Results, away, format};
use crate::{
    error::{ErrorCode, Failure},
    wire::Frame,
};

/// What a caller is told who comes for a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled {
    /// It has not come yet.
    Waiting,
    /// This is it: the frame that ends the request.
    Ended(Frame),
    /// There is none, and why.
    None(Failure),
}

/// A request whose result is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The service that was asked.
    pub service: String,
}

impl Results {
    /// The result of a request, for its caller. Cancel safe.
    pub async fn poll(&self, request: RequestId) -> Polled {
        let found = self.find(&[request]).await.pop();
        let entry = match found {
            Some(Ok(Some(entry))) => entry,
            Some(Ok(None)) if self.membership.is_incomplete() => {
                let message = "the registry may have lost what live nodes still know";
                return Polled::None(Failure::new(ErrorCode::Unavailable, message));
            }
            Some(Ok(None)) => {
                let message = "no response is stored for a request with this id";
                return Polled::None(Failure::new(ErrorCode::NotFound, message));
            }
            Some(Err(_)) | None => return Polled::None(away()),
        };
        match entry.state {
            ResultState::Waiting { .. } => Polled::Waiting,
            ResultState::Overdue => {
                let message = "no reply has come in time; the request is recorded, or may be";
                Polled::None(Failure::new(ErrorCode::Timeout, message).recorded(true))
            }
            ResultState::Stored(result) => match format::read(&result) {
                Some(frame) => Polled::Ended(frame),
                None => {
                    self.telemetry.registry_unreadable(EntryKind::Result, 1);
                    let message = "the stored response cannot be read";
                    Polled::None(Failure::new(ErrorCode::Internal, message).recorded(true))
                }
            },
            ResultState::Gone => {
                let message = "the response is not stored any more";
                Polled::None(Failure::new(ErrorCode::Gone, message).recorded(true))
            }
        }
    }

    /// Which of these requests' results are still to come. Cancel safe.
    pub(in crate::relay) async fn find_expected(
        &self,
        requests: &[RequestId],
    ) -> Answers<Option<Expected>> {
        let expected = |entry: ResultEntry| {
            let is_to_come =
                matches!(entry.state, ResultState::Waiting { .. } | ResultState::Overdue);
            let detail = format::decode(&entry.detail);
            if detail.is_none() {
                self.telemetry.registry_unreadable(EntryKind::Result, 1);
            }
            // Without its service only the reply's bytes can be handed on.
            let service = detail.unwrap_or_default().service;
            is_to_come.then_some(Expected { service })
        };
        let found = self.find(requests).await;
        found.into_iter().map(|found| Ok(found?.and_then(expected))).collect()
    }

    /// Stores results that this node has no part in. Cancel safe: a result may or may not have been
    /// stored then, and storing it again is harmless.
    pub(in crate::relay) async fn store(&self, frames: &[(RequestId, Frame)]) -> Answers<Stored> {
        let arrival = |(request, frame): &(RequestId, Frame)| {
            let result: Bytes = self.write(*request, frame);
            Arrival { request: *request, result, expected: None }
        };
        self.store_all(&frames.iter().map(arrival).collect::<Vec<_>>()).await
    }

    pub(super) async fn store_all(&self, arrivals: &[Arrival]) -> Answers<Stored> {
        let started = Instant::now();
        let answers = self.registry.store_results(arrivals).await;
        self.telemetry.registry_call("store_results", started.elapsed());
        self.membership.health.heard(&answers);
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            tracing::debug!(%error, "results not stored");
        }
        answers
    }

    async fn find(&self, requests: &[RequestId]) -> Answers<Option<ResultEntry>> {
        let started = Instant::now();
        let found = self.registry.find_results(requests).await;
        self.telemetry.registry_call("find_results", started.elapsed());
        self.membership.health.heard(&found);
        if let Some(error) = found.iter().find_map(|found| found.as_ref().err()) {
            tracing::debug!(%error, "results not found");
        }
        found
    }
}
