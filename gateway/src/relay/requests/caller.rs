//! What waits for an HTTP caller: the parts of a streamed reply, and the one answer.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::sync::{Notify, oneshot};

use super::answer::Answer;
use crate::{tasks::locked, wire::Reply};

/// The relay's end of an HTTP call that waits.
#[derive(Debug)]
pub struct Caller {
    answer: oneshot::Sender<Answer>,
    parts: Arc<Parts>,
}

/// Parts that their reader has not taken yet.
#[derive(Debug)]
struct Parts {
    queue: Mutex<Queue>,
    filled: Notify,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Queue {
    parts: VecDeque<Reply>,
    bytes: usize,
}

/// The other end of a call: what has come for it.
#[derive(Debug)]
pub(super) struct Mail {
    answer: oneshot::Receiver<Answer>,
    parts: Arc<Parts>,
    /// The answer, once it has come.
    last: Option<Option<Answer>>,
}

/// What comes for an HTTP call.
#[derive(Debug)]
pub enum Arrival {
    /// A part of a streamed reply.
    Part(Reply),
    /// The end. `None` if nobody has given one, which is a fault of this node.
    Answer(Option<Answer>),
}

impl Caller {
    /// Both ends of a call; so many bytes of parts may wait for its reader.
    pub(super) fn new(bytes_max: usize) -> (Self, Mail) {
        let (sender, answer) = oneshot::channel();
        let (queue, filled) = (Mutex::default(), Notify::new());
        let parts = Arc::new(Parts { queue, filled, bytes_max });
        (Self { answer: sender, parts: Arc::clone(&parts) }, Mail { answer, parts, last: None })
    }

    /// Hands on a part, or returns it if there is no room. One part always fits where none waits.
    pub(super) fn push(&self, part: Reply) -> Result<(), Reply> {
        let mut queue = locked(&self.parts.queue);
        let bytes = queue.bytes + weight(&part);
        if !queue.parts.is_empty() && bytes > self.parts.bytes_max {
            return Err(part);
        }
        queue.bytes = bytes;
        queue.parts.push_back(part);
        drop(queue);
        self.parts.filled.notify_one();
        Ok(())
    }

    /// How much of what may wait does wait, in percent.
    pub(super) fn load(&self) -> usize {
        let bytes = locked(&self.parts.queue).bytes;
        bytes.saturating_mul(100) / self.parts.bytes_max.max(1)
    }

    /// Gives the answer, which comes after all parts; false if the caller is gone.
    pub(super) fn answer(self, answer: Answer) -> bool {
        self.answer.send(answer).is_ok()
    }
}

/// What a part is counted with: its bytes, and a flat amount for the rest.
fn weight(part: &Reply) -> usize {
    crate::wire::Frame::ENVELOPE_BYTES + part.bytes()
}

impl Mail {
    /// The next part, or the answer after the last one, which comes once. Cancel safe.
    pub(super) async fn next(&mut self) -> Arrival {
        loop {
            if let Some(part) = self.take() {
                return Arrival::Part(part);
            }
            if let Some(answer) = self.last.take() {
                return Arrival::Answer(answer);
            }
            tokio::select! {
                biased;
                answer = &mut self.answer => self.last = Some(answer.ok()),
                () = self.parts.filled.notified() => {}
            }
        }
    }

    fn take(&self) -> Option<Reply> {
        let mut queue = locked(&self.parts.queue);
        let part = queue.parts.pop_front()?;
        queue.bytes -= weight(&part);
        Some(part)
    }
}
