//! Which topic stands behind a name. A topic that is deleted and created again has the name, but not
//! the id: offsets of the one mean nothing in the other.

use std::{
    ffi::{CString, c_char, c_int},
    fmt, ptr,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::{
    ClientContext,
    bindings::{self, rd_kafka_admin_op_t, rd_kafka_event_t, rd_kafka_resp_err_t},
    client::Client,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

/// What an offset's metadata begins with where they name a topic.
const METADATA: &str = "topic-id=";

/// The id that a broker gave a topic when it was created (KIP-516).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TopicId(u128);

impl TopicId {
    /// The broker's halves; `None`: a broker from before Kafka 2.8, which gives no ids.
    fn new(most: i64, least: i64) -> Option<Self> {
        let bits = u128::from(most.cast_unsigned()) << 64 | u128::from(least.cast_unsigned());
        (bits != 0).then_some(Self(bits))
    }

    /// What is committed beside an offset, so that it says of which topic it is.
    pub(super) fn metadata(self) -> String {
        format!("{METADATA}{self}")
    }

    /// The topic that a committed offset's metadata name, if they do.
    pub(super) fn of_metadata(metadata: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(metadata.strip_prefix(METADATA)?).ok()?;
        bytes.try_into().ok().map(|bytes| Self(u128::from_be_bytes(bytes)))
    }
}

/// As Kafka's own tools show it.
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.to_be_bytes()))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Asks a broker for the id of a topic; `None` where it gives none. Blocks for `patience` at most.
/// Unless told which broker, librdkafka asks the controller, which not every cluster has at all times.
///
/// # Errors
/// No answer, no such topic, or no right to see it.
#[expect(unsafe_code, reason = "rdkafka's safe interface does not have it")]
pub(super) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    topic: &str,
    patience: Duration,
) -> KafkaResult<Option<TopicId>> {
    let name = CString::new(topic)?;
    let patience_ms = c_int::try_from(patience.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the client outlives the call. Each object that is made here is destroyed here, once, and
    // after its last use: librdkafka copies the name and the options, the queue's answer is an event
    // of ours, and what is read of it is copied before. An answer that comes after the queue was
    // destroyed is librdkafka's to throw away.
    unsafe {
        let rk = client.native_ptr();
        let mut names = [name.as_ptr()];
        let topics = bindings::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1);
        let operation = rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let options = bindings::rd_kafka_AdminOptions_new(rk, operation);
        let no_text: *mut c_char = ptr::null_mut();
        bindings::rd_kafka_AdminOptions_set_request_timeout(options, patience_ms, no_text, 0);
        bindings::rd_kafka_AdminOptions_set_broker(options, broker, no_text, 0);
        let queue = bindings::rd_kafka_queue_new(rk);
        bindings::rd_kafka_DescribeTopics(rk, topics, options, queue);
        let event = bindings::rd_kafka_queue_poll(queue, patience_ms);
        let answer =
            if event.is_null() { Err(RDKafkaErrorCode::OperationTimedOut) } else { read(event) };
        if !event.is_null() {
            bindings::rd_kafka_event_destroy(event);
        }
        bindings::rd_kafka_queue_destroy(queue);
        bindings::rd_kafka_AdminOptions_destroy(options);
        bindings::rd_kafka_TopicCollection_destroy(topics);
        answer.map_err(KafkaError::MetadataFetch)
    }
}

/// The id in an answer about one topic.
///
/// # Safety
/// `event` is a live event.
#[expect(unsafe_code, reason = "rdkafka's safe interface does not have it")]
unsafe fn read(event: *mut rd_kafka_event_t) -> Result<Option<TopicId>, RDKafkaErrorCode> {
    const NONE: rd_kafka_resp_err_t = rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    // SAFETY: by the caller's promise; librdkafka answers with null what an event of another kind, or
    // one without topics, does not have.
    unsafe {
        let error = bindings::rd_kafka_event_error(event);
        if error != NONE {
            return Err(error.into());
        }
        let result = bindings::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let topics = bindings::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() || count == 0 {
            return Err(RDKafkaErrorCode::UnknownTopic);
        }
        let error = bindings::rd_kafka_TopicDescription_error(*topics);
        let code = bindings::rd_kafka_error_code(error);
        if code != NONE {
            return Err(code.into());
        }
        let id = bindings::rd_kafka_TopicDescription_topic_id(*topics);
        Ok(TopicId::new(
            bindings::rd_kafka_Uuid_most_significant_bits(id),
            bindings::rd_kafka_Uuid_least_significant_bits(id),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_says_of_which_topic_it_is() {
        let id = TopicId::new(0x0102_0304_0506_0708, -1).unwrap();
        // As `kafka-topics --describe` has it.
        assert_eq!(id.to_string(), "AQIDBAUGBwj__________w");
        assert_eq!(TopicId::of_metadata(&id.metadata()), Some(id));
        for foreign in ["", "topic-id=", "topic-id=AQID", "somebody's own"] {
            assert_eq!(TopicId::of_metadata(foreign), None, "{foreign}");
        }
        assert_eq!(TopicId::new(0, 0), None);
    }
}
