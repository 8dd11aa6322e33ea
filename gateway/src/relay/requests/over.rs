//! Requests that have ended before their replies: what still comes of those is passed over at once,
//! without a look at the registry. A stream that nobody wants any more may have a million parts.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use registry::{RequestId, SessionId};

use crate::tasks::locked;

/// How many are remembered at least.
const REMEMBERED_MIN: usize = 8192;

/// The requests that have ended last. Bounded: the oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct Over {
    /// Those that ended lately, and those before them; with the session that was told, if it must survive
    /// this node.
    ended: Mutex<[HashMap<RequestId, Option<SessionId>>; 2]>,
    /// Whether there is any.
    is_any: AtomicBool,
}

impl Over {
    /// Nobody wants what comes of this request, once that session's client or its mailbox has the end.
    pub(super) fn add(&self, request: RequestId, told: Option<SessionId>) {
        let mut ended = locked(&self.ended);
        if ended[0].len() >= REMEMBERED_MIN {
            ended.swap(0, 1);
            ended[0].clear();
        }
        ended[0].insert(request, told);
        self.is_any.store(true, Ordering::Relaxed);
    }

    /// If this request has ended so, as far as is remembered: the session that was told, if there is one.
    pub(super) fn find(&self, request: RequestId) -> Option<Option<SessionId>> {
        if !self.is_any.load(Ordering::Relaxed) {
            return None;
        }
        locked(&self.ended).iter().find_map(|ended| ended.get(&request).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_the_oldest_forgotten() {
        let over = Over::default();
        let request = |number: usize| RequestId::from_uuid(uuid::Uuid::from_u128(number as u128));
        assert_eq!(over.find(request(0)), None);
        for number in 0..3 * REMEMBERED_MIN {
            over.add(request(number), None);
            let early = request(number.saturating_sub(REMEMBERED_MIN - 1));
            assert_eq!(over.find(early), Some(None));
        }
        assert_eq!(over.find(request(0)), None);
    }
}
