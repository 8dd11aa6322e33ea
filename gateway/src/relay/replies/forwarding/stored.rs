//! Foreign replies for which nobody waits: whether they are to be stored as results, for callers who
//! come for them. The nodes that took the requests are dead then, or have ended them.

use registry::{NodeRef, RequestId, Stored};

use super::{Forwarding, Waiting};
use crate::{
    relay::requests::outcome::{kept_reply, reply_frame},
    telemetry::ReplyPath,
    wire::ClientId,
};

/// A foreign reply for which nobody waits.
pub(super) struct Unwanted {
    pub(super) item: Waiting,
    /// Whether it is given up if its result is not expected either. Otherwise its route may be late,
    /// and a result need not wait for that.
    pub(super) is_final: bool,
    /// The node on which an HTTP call has waited for it.
    pub(super) node: Option<NodeRef>,
}

impl Forwarding {
    /// Stores those of these replies that are expected as results, and gives up the others.
    pub(super) async fn store(&self, unwanted: Vec<Unwanted>, waiting: &mut Vec<Waiting>) {
        let requests: Vec<RequestId> =
            unwanted.iter().map(|unwanted| unwanted.item.foreign.request).collect();
        let results = &self.completion.results;
        let found = results.find_expected(&requests).await;
        let (mut items, mut frames) = (Vec::new(), Vec::new());
        for (unwanted, found) in unwanted.into_iter().zip(found) {
            let Unwanted { mut item, is_final, node } = unwanted;
            match found {
                Err(_) => waiting.push(item.unasked()),
                Ok(None) if !is_final => {
                    item.is_no_result = true;
                    waiting.push(item.later());
                }
                Ok(None) => match node {
                    Some(node) => self.give_up(item.foreign, &node),
                    None => self.unrouted(item.foreign),
                },
                Ok(Some(expected)) => {
                    let service = self.services.get(&expected.service).map(|service| &**service);
                    let request = item.foreign.request;
                    let id = ClientId::from_request(request);
                    let reply = kept_reply(&item.foreign.reply, service);
                    frames.push((request, reply_frame(request, id, reply)));
                    items.push(item);
                }
            }
        }
        if frames.is_empty() {
            return;
        }
        for (item, stored) in items.into_iter().zip(results.store(&frames).await) {
            match stored {
                Ok(Stored::Done) => {
                    tracing::debug!(request = %item.foreign.request, "stored for its caller");
                    self.services.count_reply(ReplyPath::Stored);
                    item.foreign.done();
                }
                Ok(Stored::Before | Stored::Unexpected) => self.unrouted(item.foreign),
                Err(_) => waiting.push(item.unasked()),
            }
        }
    }
}
