//! An HTTP call that waits, as the edge has it.

use std::sync::Arc;

use registry::RequestId;

use super::{
    Completion,
    caller::{Arrival, Mail},
};

/// An HTTP call that waits. If it is dropped, the wait ends; the record is not withdrawn.
#[derive(Debug)]
pub struct WaitingCall {
    completion: Arc<Completion>,
    request: RequestId,
    mail: Mail,
}

impl WaitingCall {
    /// The call whose request this is.
    pub(super) fn new(completion: &Arc<Completion>, request: RequestId, mail: Mail) -> Self {
        Self { completion: Arc::clone(completion), request, mail }
    }

    /// The request's id.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// The next part, or the answer after the last one, which comes once. Cancel safe.
    pub async fn next(&mut self) -> Arrival {
        self.mail.next().await
    }
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        self.completion.cancel(self.request);
    }
}
