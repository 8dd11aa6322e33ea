//! Whether this node takes clients and requests: from the time when it is first ready until it
//! drains.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the node lets in. It opens for clients once, and closes for requests once; neither is
/// undone.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    draining: AtomicBool,
    connections: AtomicUsize,
    /// Those of them that get no more than a close frame.
    dismissed: AtomicUsize,
}

impl Gate {
    /// Lets clients in from now on, because the node can serve them. This is never undone: if Kafka
    /// is away for a while, a client that is connected and gets errors is better off than one that
    /// is turned away.
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

    /// How many of them are served: all but those that get no more than a close frame.
    pub fn served(&self) -> usize {
        self.connections().saturating_sub(self.dismissed.load(Ordering::Relaxed))
    }

    /// A socket is about to be opened.
    pub fn connection_opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on this socket gets no more than a close frame.
    pub fn connection_dismissed(&self) {
        self.dismissed.fetch_add(1, Ordering::Relaxed);
    }

    /// A socket is closed, after it was dismissed.
    pub fn connection_closed(&self) {
        self.dismissed.fetch_sub(1, Ordering::Relaxed);
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
