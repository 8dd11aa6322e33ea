//! Whether this node takes clients and requests: it begins when it is ready, and ends with the drain.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The state of a node towards its clients. Both changes are for good.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    draining: AtomicBool,
    connections: AtomicUsize,
    /// Those of them that are only told good-bye.
    dismissed: AtomicUsize,
}

impl Gate {
    /// From now on clients are let in: the node can serve them. It stays so, because clients that
    /// are turned away when Kafka is away for a while are worse off than those that are told so.
    pub fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// Whether clients are let in.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// From now on no new request is taken.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether the node is about to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// How many sockets are open, or about to be.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many of them are served: all but those that are only told good-bye.
    pub fn served(&self) -> usize {
        self.connections().saturating_sub(self.dismissed.load(Ordering::Relaxed))
    }

    /// A socket is about to be opened.
    pub fn connection_opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// What is left for a socket is to be told good-bye.
    pub fn connection_dismissed(&self) {
        self.dismissed.fetch_add(1, Ordering::Relaxed);
    }

    /// A socket is closed, after it was dismissed.
    pub fn connection_closed(&self) {
        self.dismissed.fetch_sub(1, Ordering::Relaxed);
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
