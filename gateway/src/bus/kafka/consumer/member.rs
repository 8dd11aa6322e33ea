//! One member of a group: a client of librdkafka's, shared by its reader, its control and its watch.

use std::ops::Deref;

use rdkafka::consumer::StreamConsumer;
use tokio::sync::oneshot;

use super::context::Context;

/// librdkafka's consumer with our callbacks.
pub(super) type Client = StreamConsumer<Context>;

/// The client, open until the last who holds it lets go of it. That commits what is stored, leaves the
/// group, waits for both, and so blocks: longest while no broker answers.
pub(super) struct Member {
    client: Client,
    /// Dropped after the client, as fields are in their order: whoever waits for the end learns of it.
    _open: oneshot::Sender<()>,
}

impl Member {
    /// The other half ends when the client has closed.
    pub(super) fn new(client: Client) -> (Self, oneshot::Receiver<()>) {
        let (open, is_closed) = oneshot::channel();
        (Self { client, _open: open }, is_closed)
    }
}

impl Deref for Member {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
