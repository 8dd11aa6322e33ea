//! How many connections a listener has at a time, and which one is closed when one more comes: one
//! on which nothing is being asked. Connections for which there is no place are told so, a few at a
//! time.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::exchange::{Exchange, Phase};
use crate::tasks::locked;

/// How long a connection that is asked to close may take.
const EVICTION_PATIENCE: Duration = Duration::from_millis(500);
/// How many connections, idle or busy, are asked for the sake of one newcomer.
const EVICTION_LOOKS_MAX: usize = 256;

/// How many connections a listener may have.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Connections, upgraded ones among them.
    pub connections: usize,
    /// Connections beyond those, which only learn that there is no place.
    pub refusals: usize,
    /// The limit's name, for clients and metrics.
    pub limit: &'static str,
}

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Places {
    capacity: Capacity,
    free: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    /// The connections, the oldest first: those that are over or upgraded go when it is looked
    /// through.
    held: Mutex<VecDeque<Weak<Exchange>>>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    is_refusal: bool,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Whether the connection on this place only learns that there is none.
    pub(super) fn is_refusal(&self) -> bool {
        self.is_refusal
    }
}

impl Places {
    pub(super) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            free: Arc::new(Semaphore::new(capacity.connections)),
            refusals: Arc::new(Semaphore::new(capacity.refusals.max(1))),
            held: Mutex::default(),
        }
    }

    pub(super) fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// A place for a connection that has come: a free one, that of an idle connection, or one for a
    /// refusal. Waits only while even those for refusals are taken. Cancel safe.
    pub(super) async fn take(&self) -> Place {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Place { is_refusal: false, _permit: permit };
        }
        if self.evict() {
            let freed = timeout(EVICTION_PATIENCE, Arc::clone(&self.free).acquire_owned()).await;
            if let Ok(Ok(permit)) = freed {
                return Place { is_refusal: false, _permit: permit };
            }
        }
        // A refusal may take its time, so a place that is freed meanwhile will do as well.
        let (permit, is_refusal) = tokio::select! {
            biased;
            permit = Arc::clone(&self.free).acquire_owned() => (permit, false),
            permit = Arc::clone(&self.refusals).acquire_owned() => (permit, true),
        };
        Place { is_refusal, _permit: permit.expect("the semaphore is never closed") }
    }

    /// Remembers a connection that may have to make room.
    pub(super) fn hold(&self, exchange: &Arc<Exchange>) {
        let mut held = locked(&self.held);
        let taken = self.capacity.connections.saturating_sub(self.free.available_permits());
        if held.len() > 64 && held.len() > 2 * taken {
            held.retain(|exchange| exchange.upgrade().is_some_and(|one| may_go(&one)));
        }
        held.push_back(Arc::downgrade(exchange));
    }

    /// Asks the oldest idle connection to close.
    fn evict(&self) -> bool {
        let mut held = locked(&self.held);
        for _ in 0..held.len().min(EVICTION_LOOKS_MAX) {
            let Some(oldest) = held.pop_front() else { break };
            let Some(exchange) = oldest.upgrade() else { continue };
            if exchange.evict() {
                return true;
            }
            if may_go(&exchange) {
                held.push_back(oldest);
            }
        }
        false
    }
}

fn may_go(exchange: &Exchange) -> bool {
    exchange.phase() != Phase::Upgraded
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity { connections: 2, refusals: 1, limit: "descriptors" };

    /// A connection of the listener, as its task would hold it.
    async fn connect(places: &Places) -> (Place, Arc<Exchange>) {
        let place = places.take().await;
        let exchange = Arc::new(Exchange::new());
        if !place.is_refusal() {
            places.hold(&exchange);
        }
        (place, exchange)
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_that_asks_for_nothing_makes_room() {
        let places = Places::new(CAPACITY);
        let (busy, request) = connect(&places).await;
        request.begun(http::Version::HTTP_11);
        let (silent, silence) = connect(&places).await;
        let goes = async {
            silence.evicted().await;
            drop(silent);
        };
        let ((third, _), ()) = tokio::join!(connect(&places), goes);
        assert!(!third.is_refusal());
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn where_everybody_is_busy_one_is_refused_at_a_time() {
        let places = Places::new(CAPACITY);
        let mut busy = Vec::new();
        for _ in 0..2 {
            let (place, request) = connect(&places).await;
            request.begun(http::Version::HTTP_11);
            busy.push((place, request));
        }
        let (refused, _) = connect(&places).await;
        assert!(refused.is_refusal());
        let second = timeout(Duration::from_secs(60), places.take()).await;
        assert!(second.is_err(), "the next one waits in the kernel");
        drop(refused);
        let refused = places.take().await;
        assert!(refused.is_refusal());
        // Whoever waits behind the refused one gets what is freed first.
        let leaves = async {
            tokio::time::sleep(2 * EVICTION_PATIENCE).await;
            busy.pop();
        };
        let (next, ()) = tokio::join!(places.take(), leaves);
        assert!(!next.is_refusal());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_or_upgraded_is_not_kept() {
        let places = Places::new(Capacity { connections: 10, ..CAPACITY });
        let (_upgraded, socket) = connect(&places).await;
        socket.begun(http::Version::HTTP_11);
        socket.answered(true);
        for _ in 0..1000 {
            drop(connect(&places).await);
        }
        assert!(locked(&places.held).len() <= 65);
        assert!(!socket.evict());
    }
}
