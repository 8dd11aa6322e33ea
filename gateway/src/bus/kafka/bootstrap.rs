//! Names its first brokers to a client once more, when nobody answers its questions.
//!
//! librdkafka forgets every broker that an answer about the cluster does not list. A cluster whose
//! brokers are all fenced, such as a single one that stood still for a while, lists none for a moment.
//! The client is to begin with the bootstrap addresses again then; but where its last connection ends
//! just before that answer has been dealt with, that intention is lost, and it asks nobody any more, for
//! good (librdkafka's issue 5301, in 2.12.1).

use std::{
    ffi::CString,
    sync::atomic::{AtomicU32, Ordering},
};

use rdkafka::{ClientContext, bindings, client::Client};

/// After so many questions in a row without an answer the addresses are named, and again after as many
/// more: librdkafka keeps each list that it is given, some dozens of bytes.
const UNANSWERED: u32 = 3;

/// The addresses with which a client begins, and how its questions about the cluster fare.
#[derive(Debug)]
pub struct Bootstrap {
    addresses: CString,
    unanswered: AtomicU32,
}

impl Bootstrap {
    /// These addresses, as in `bootstrap.servers`.
    pub fn new(addresses: &str) -> Self {
        // No client can be made with a list that has a NUL in it.
        let addresses = CString::new(addresses).unwrap_or_default();
        Self { addresses, unanswered: AtomicU32::new(0) }
    }

    /// Takes note of whether a question of this client's was answered. Waits for nothing.
    pub fn heard<C: ClientContext>(&self, client: &Client<C>, is_answered: bool) {
        if is_answered {
            self.unanswered.store(0, Ordering::Relaxed);
        } else if (self.unanswered.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(UNANSWERED) {
            self.name(client);
        }
    }

    #[expect(unsafe_code, reason = "rdkafka's safe interface does not have it")]
    fn name<C: ClientContext>(&self, client: &Client<C>) {
        // SAFETY: both pointers are of live values, and librdkafka copies the list. Brokers that it
        // knows under these addresses are not added again.
        let added =
            unsafe { bindings::rd_kafka_brokers_add(client.native_ptr(), self.addresses.as_ptr()) };
        tracing::debug!(added, "no answer: bootstrap addresses named once more");
    }
}

#[cfg(test)]
mod tests;
