//! A request as its client sees it: what may come of it, and what may not.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::{node::WINDOW, world::World};

/// A request with this limit should get its reply, whatever happens.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);
/// A reply comes home within this time: if its request times out later, the reply was lost.
const FORWARDING_MAX: Duration = Duration::from_secs(12);

/// A request, and what has come of it.
pub(crate) struct Asked {
    pub(crate) text: String,
    pub(crate) payload: String,
    pub(crate) deadline: Instant,
    pub(crate) timeout: Duration,
    pub(crate) sends: u32,
    pub(crate) request: Option<String>,
    pub(crate) has_receipt: bool,
    /// Its last frame, without its number, and when it came.
    pub(crate) end: Option<String>,
    pub(crate) ended_at: Option<Instant>,
    pub(crate) is_refused: bool,
    pub(crate) is_cancelled: bool,
    /// Whether the other nodes may have taken its node for dead when it was asked.
    pub(crate) may_be_missed: bool,
}

impl Asked {
    pub(crate) fn is_open(&self) -> bool {
        self.end.is_none() && !self.is_refused
    }

    /// What to send, for the first time or again, also after a refusal.
    pub(crate) fn send(&mut self) -> String {
        self.sends += 1;
        self.is_refused = false;
        self.text.clone()
    }

    pub(crate) fn on_frame(
        &mut self,
        frame: &Value,
        is_plain: bool,
        world: &World,
    ) -> Result<(), &'static str> {
        let Some(request) = frame["request_id"].as_str() else {
            if frame["code"] == "not_found" {
                return if self.is_cancelled { Ok(()) } else { Err("cancelled by nobody") };
            }
            self.is_refused = true;
            world.book.count("refused");
            return match frame["code"].as_str() {
                Some("duplicate") => Err("refused as another"),
                _ => Ok(()),
            };
        };
        // A request that is sent again before its refusal has come is refused once more.
        if self.is_refused && !is_plain {
            return Err("refused, and taken");
        }
        if frame["type"] == "receipt" {
            if self.end.is_some() && !self.has_receipt && self.is_same(request) {
                return Err("a receipt after the end");
            }
            self.has_receipt = true;
            self.request = Some(request.to_owned());
            return Ok(());
        }
        let mut end = format!("{request} {} {}", frame["type"], frame["payload"]);
        if let Some(code) = frame["code"].as_str() {
            if code == "cancelled" && !self.is_cancelled {
                return Err("cancelled by nobody");
            }
            end = format!("{request} {code}");
            world.book.count(if code == "cancelled" { "cancelled" } else { "errors" });
        } else if frame["payload"].as_str() != Some(self.payload.trim_matches('"')) {
            return Err("another's reply");
        }
        if let Some(before) = &self.end {
            world.book.count("repeated");
            // In a plain session an id is free once its request has ended, so what is sent again
            // under it is another request.
            let is_another = is_plain && self.sends > 1 && !before.starts_with(request);
            // The next owner does not know what a node had not written to the registry yet when it
            // died. So a request that the client has seen end, and has perhaps acknowledged, may
            // time out once more; and one that has timed out or was cancelled may still get its
            // reply.
            let is_nodes = |end: &str| end.ends_with(" timeout") || end.ends_with(" cancelled");
            let is_forgotten =
                (is_nodes(before) || is_nodes(&end)) && world.book.forgot_since(self.ended_at);
            if is_forgotten && *before != end {
                world.book.count("ended once more");
            }
            let is_good = *before == end || is_another || is_forgotten;
            return if is_good { Ok(()) } else { Err("two different ends") };
        }
        (self.end, self.request) = (Some(end), Some(request.to_owned()));
        self.ended_at = Some(Instant::now());
        world.book.count("ended");
        let is_timeout = frame["code"] == "timeout";
        let replied_at = world.book.replied_at(request);
        if is_timeout
            && self.timeout == PATIENT
            && replied_at.is_some_and(|at| at + FORWARDING_MAX < Instant::now())
            && !self.may_be_missed
            && !world.book.forgot_a_takeover_since(self.deadline - self.timeout - WINDOW * 2)
        {
            return Err("timed out with a reply in the log");
        }
        if is_timeout && Instant::now() + Duration::from_millis(500) < self.deadline {
            return Err("timed out too early");
        }
        Ok(())
    }

    fn is_same(&self, request: &str) -> bool {
        self.request.as_deref() == Some(request)
    }
}
