//! The headers of a record that asks a service for something.

use registry::{RequestId, SessionId};

use super::{CORRELATION_ID, REPLY_PARTITION, REPLY_TOPIC};
use crate::{config::Dialect, relay::services::Service};

/// The values of a request's headers, as the dialect of its service spells them.
#[derive(Debug)]
pub struct RequestHeaders<'a> {
    correlation_text: [u8; 36],
    correlation_raw: Option<[u8; 16]>,
    session: Option<String>,
    deadline: String,
    reply_topic: &'a str,
    reply_partition: Option<Vec<u8>>,
}

impl<'a> RequestHeaders<'a> {
    /// The reply goes to `reply_topic`. If the dialect also names a partition of it,
    /// `reply_partition` is called for it, and only then.
    pub fn new(
        service: &Service,
        request: RequestId,
        session: Option<SessionId>,
        deadline_ms: u64,
        reply_topic: &'a str,
        reply_partition: impl FnOnce() -> Option<i32>,
    ) -> Self {
        let mut correlation_text = [0; 36];
        request.encode(&mut correlation_text);
        let reply_partition = match service.dialect {
            _ if service.respond_on.is_some() => None,
            Dialect::Plain => None,
            Dialect::Nest => reply_partition().map(|number| number.to_string().into_bytes()),
            Dialect::Spring | Dialect::SpringBinary => {
                reply_partition().map(|number| number.to_be_bytes().to_vec())
            }
        };
        let is_raw = service.dialect == Dialect::SpringBinary;
        Self {
            correlation_text,
            correlation_raw: is_raw.then(|| request.as_uuid().into_bytes()),
            session: session.map(|id| id.to_string()),
            deadline: deadline_ms.to_string(),
            reply_topic,
            reply_partition,
        }
    }

    /// The id as text of 36 characters: the key of a record that has no other key.
    pub fn correlation_text(&self) -> &[u8] {
        &self.correlation_text
    }

    /// All headers: the gateway's own, then those of the client's that are allowed.
    pub fn list<'h>(
        &'h self,
        service: &Service,
        method: &'h str,
        path: Option<&'h str>,
        of_client: &'h [(&'h str, &'h [u8])],
    ) -> Vec<(&'h str, &'h [u8])> {
        let correlation = match &self.correlation_raw {
            Some(raw) => raw.as_slice(),
            None => &self.correlation_text,
        };
        let mut headers: Vec<(&str, &[u8])> = Vec::with_capacity(8 + of_client.len());
        headers.push((CORRELATION_ID, correlation));
        // An event answers: nobody is to reply.
        if service.respond_on.is_none() {
            headers.push((REPLY_TOPIC, self.reply_topic.as_bytes()));
        }
        if let Some(partition) = &self.reply_partition {
            headers.push((REPLY_PARTITION, partition));
        }
        headers.push(("roundtrip-method", method.as_bytes()));
        if let Some(path) = path {
            headers.push(("roundtrip-path", path.as_bytes()));
        }
        if let Some(session) = &self.session {
            headers.push(("roundtrip-session", session.as_bytes()));
        }
        headers.push(("roundtrip-deadline", self.deadline.as_bytes()));
        headers.extend(of_client.iter().filter(|(name, _)| service.passes_to_service(name)));
        headers
    }
}
