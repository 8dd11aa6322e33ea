//! The only file that spells a Redis key.
//!
//! | key | type | holds | lives |
//! |---|---|---|---|
//! | `<prefix>r:<request id>` | string | a route | [`Route::ttl`] |
//! | `<prefix>{nodes}` | hash | node id → entry with an end of its own | the longest of its entries |
//! | `<prefix>s:{<session id>}` | hash | a session's record | as its owner says |
//! | `<prefix>s:{<session id>}:q` | hash | request id → its progress and detail | as the record |
//! | `<prefix>s:{<session id>}:m` | sorted set | the mailbox: frames by their numbers | as the record |
//! | `<prefix>v:{<view>:<key>}` | hash | the latest event of a view's key | as its reader says |
//! | `<prefix>v:{<view>:<key>}:w` | hash | request id → the states for which it waits | the longest of them |
//! | `<prefix>b:{<view>}:<partition>` | string | what is noted of a view's partition | as its reader says |
//! | `<prefix>a:{<request id>}` | hash | that a request's result is to come, or has come | until the result has expired, and as long again |
//! | `<prefix>a:{<request id>}:r` | string | the result | as it was asked for |
//!
//! Routes have no hash tag: a Redis Cluster spreads them over all its slots. The node table is one
//! key, and what belongs to one session, or to one result, has its id as the hash tag, so a script that
//! touches them stays within one slot.
//!
//! [`Route::ttl`]: crate::tables::Route::ttl

use crate::{
    ids::{RequestId, SessionId},
    tables::views::ViewKey,
};

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Box<str>,
    nodes: Box<str>,
}

/// Room for the keys of one session: its record, its requests and its mailbox.
#[derive(Debug, Default)]
pub(super) struct SessionKeys {
    record: String,
    requests: String,
    mailbox: String,
}

/// Room for the keys of one key of a view: its event, and who waits for the next. A record's key is any
/// bytes; one with a closing brace cuts the hash tag short, in both alike.
#[derive(Debug, Default)]
pub(super) struct ViewKeys {
    event: Vec<u8>,
    waits: Vec<u8>,
}

/// Room for the keys of one result: its record, and the result itself.
#[derive(Debug, Default)]
pub(super) struct ResultKeys {
    record: String,
    result: String,
}

impl Keys {
    /// The longest prefix, in bytes: it is sent with every key.
    const PREFIX_MAX: usize = 64;

    /// # Errors
    /// When [`Keys::check_prefix`] refuses the prefix.
    pub(super) fn new(prefix: &str) -> Result<Self, String> {
        Self::check_prefix(prefix)?;
        Ok(Self { prefix: prefix.into(), nodes: format!("{prefix}{{nodes}}").into() })
    }

    /// Whether keys may begin with this text.
    ///
    /// # Errors
    /// What is wrong with it. A brace would move the hash tag, and with it every key into one
    /// slot.
    pub(super) fn check_prefix(prefix: &str) -> Result<(), String> {
        if prefix.contains(['{', '}']) {
            return Err("a key prefix has no braces: Redis Cluster gives them a meaning".to_owned());
        }
        if prefix.len() > Self::PREFIX_MAX {
            return Err(format!("a key prefix has at most {} bytes", Self::PREFIX_MAX));
        }
        Ok(())
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of a request's route, in a buffer that is used again for each of a batch.
    pub(super) fn route<'b>(&self, request: &RequestId, buffer: &'b mut String) -> &'b str {
        buffer.clear();
        buffer.push_str(&self.prefix);
        buffer.push_str("r:");
        buffer.push_str(request.encode(&mut [0; 36]));
        buffer
    }

    /// The length of every route's key.
    pub(super) fn route_len(&self) -> usize {
        self.prefix.len() + 2 + 36
    }

    /// The keys of a session, in buffers that are used again for each of a batch.
    pub(super) fn session<'b>(
        &self,
        session: &SessionId,
        buffers: &'b mut SessionKeys,
    ) -> [&'b str; 3] {
        let SessionKeys { record, requests, mailbox } = buffers;
        record.clear();
        record.push_str(&self.prefix);
        record.push_str("s:{");
        record.push_str(session.encode(&mut [0; 36]));
        record.push('}');
        for (key, part) in [(&mut *requests, ":q"), (&mut *mailbox, ":m")] {
            key.clear();
            key.push_str(record);
            key.push_str(part);
        }
        [record, requests, mailbox]
    }

    /// The keys of a key of a view, in buffers that are used again for each of a batch.
    pub(super) fn view<'b>(&self, of: &ViewKey, buffers: &'b mut ViewKeys) -> [&'b [u8]; 2] {
        let ViewKeys { event, waits } = buffers;
        event.clear();
        for part in [self.prefix.as_bytes(), b"v:{", of.view.as_bytes(), b":", &of.key, b"}"] {
            event.extend_from_slice(part);
        }
        waits.clear();
        waits.extend_from_slice(event);
        waits.extend_from_slice(b":w");
        [event, waits]
    }

    /// The key of what is noted of a partition of a view.
    pub(super) fn mark(&self, view: &str, partition: i32) -> String {
        format!("{}b:{{{view}}}:{partition}", self.prefix)
    }

    /// The keys of a request's result, in buffers that are used again for each of a batch.
    pub(super) fn result<'b>(
        &self,
        request: &RequestId,
        buffers: &'b mut ResultKeys,
    ) -> [&'b str; 2] {
        let ResultKeys { record, result } = buffers;
        record.clear();
        record.push_str(&self.prefix);
        record.push_str("a:{");
        record.push_str(request.encode(&mut [0; 36]));
        record.push('}');
        result.clear();
        result.push_str(record);
        result.push_str(":r");
        [record, result]
    }

    /// The key of the node table.
    pub(super) fn nodes(&self) -> &str {
        &self.nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_keys_under_the_prefix() {
        let keys = Keys::new("rt:").unwrap();
        let id = RequestId::from_header(b"01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let mut buffer = "left over".to_owned();
        assert_eq!(keys.route(&id, &mut buffer), "rt:r:01890a5d-ac96-774b-bcce-b302099a8057");
        assert_eq!(keys.route_len(), buffer.len());
        assert_eq!(keys.nodes(), "rt:{nodes}");
    }

    #[test]
    fn gives_all_keys_of_a_session_one_hash_tag() {
        let keys = Keys::new("rt:").unwrap();
        let id = SessionId::parse("9f4b2f6e-6d0f-4b7e-8f57-0a8e6a3f3c11").unwrap();
        let mut buffers = SessionKeys::default();
        keys.session(&SessionId::random(), &mut buffers);
        let expected = [
            "rt:s:{9f4b2f6e-6d0f-4b7e-8f57-0a8e6a3f3c11}",
            "rt:s:{9f4b2f6e-6d0f-4b7e-8f57-0a8e6a3f3c11}:q",
            "rt:s:{9f4b2f6e-6d0f-4b7e-8f57-0a8e6a3f3c11}:m",
        ];
        assert_eq!(keys.session(&id, &mut buffers), expected);
    }

    #[test]
    fn gives_both_keys_of_a_views_key_one_hash_tag() {
        let keys = Keys::new("rt:").unwrap();
        let mut buffers = ViewKeys::default();
        let of = ViewKey { view: "orders".into(), key: b"a}\xff".as_slice().into() };
        let expected: [&[u8]; 2] = [b"rt:v:{orders:a}\xff}", b"rt:v:{orders:a}\xff}:w"];
        assert_eq!(keys.view(&of, &mut buffers), expected);
        assert_eq!(keys.mark("orders", 3), "rt:b:{orders}:3");
    }

    #[test]
    fn gives_both_keys_of_a_result_one_hash_tag() {
        let keys = Keys::new("rt:").unwrap();
        let id = RequestId::from_header(b"01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let mut buffers = ResultKeys { record: "left over".to_owned(), ..ResultKeys::default() };
        let expected = [
            "rt:a:{01890a5d-ac96-774b-bcce-b302099a8057}",
            "rt:a:{01890a5d-ac96-774b-bcce-b302099a8057}:r",
        ];
        assert_eq!(keys.result(&id, &mut buffers), expected);
    }

    #[test]
    fn refuses_a_prefix_that_would_move_the_hash_tag() {
        assert_eq!(Keys::check_prefix(""), Ok(()));
        assert_eq!(Keys::check_prefix(&"p".repeat(64)), Ok(()));
        for bad in ["{a}", "a{", "}", &"p".repeat(65)] {
            assert!(Keys::check_prefix(bad).is_err(), "{bad}");
        }
    }
}
