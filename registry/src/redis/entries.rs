//! The text of entries as Redis holds them, written and read.
//!
//! Never knows under which key an entry is, nor for how long.
//!
//! A route is `1 <incarnation> <deadline> <node> <session or -> <client id>`: words with one space
//! between them, of which the last is the rest of the text, whatever it holds, and absent when
//! there is no client id. JSON would say the same in more bytes and twice the time, and there is
//! one for each request. `1` is the version of this format; whatever cannot be read is no route.

use std::io::Write;

use crate::{
    ids::{NodeId, NodeRef, SessionId},
    tables::{NodeEntry, Route},
};

pub(super) mod sessions;

/// Writes a route over what is in the buffer.
pub(super) fn write_route(route: &Route, buffer: &mut Vec<u8>) {
    buffer.clear();
    let Route { node, session, client_id, deadline_ms } = route;
    write!(buffer, "1 {} {deadline_ms} {} ", node.incarnation, node.id).expect("a Vec takes all");
    match session {
        Some(session) => {
            buffer.extend_from_slice(session.encode(&mut [0; 36]).as_bytes());
        }
        None => buffer.push(b'-'),
    }
    if let Some(client_id) = client_id {
        buffer.push(b' ');
        buffer.extend_from_slice(client_id.as_bytes());
    }
}

/// Reads a route; none when it is not what [`write_route`] writes.
pub(super) fn read_route(bytes: &[u8]) -> Option<Route> {
    let mut words = std::str::from_utf8(bytes).ok()?.splitn(6, ' ');
    if words.next()? != "1" {
        return None;
    }
    let incarnation = words.next()?.parse().ok()?;
    let deadline_ms = words.next()?.parse().ok()?;
    let id = NodeId::parse(words.next()?).ok()?;
    let session = match words.next()? {
        "-" => None,
        session => Some(SessionId::parse(session).ok()?),
    };
    let client_id = words.next().map(Into::into);
    Some(Route { node: NodeRef { id, incarnation }, session, client_id, deadline_ms })
}

/// A number as the scripts compare it: 20 digits, so that text order is number order.
pub(super) fn write_number(number: u64) -> String {
    format!("{number:020}")
}

/// Writes a node's entry, as JSON: it is written once in a while, and people look at it.
pub(super) fn write_node(entry: &NodeEntry) -> String {
    serde_json::to_string(entry).expect("text, a number and a name are always JSON")
}

/// Reads a node's entry; none when it is none of this version. Fields that this version does not
/// know are ignored.
pub(super) fn read_node(bytes: &[u8]) -> Option<NodeEntry> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes() -> impl Strategy<Value = Route> {
        let id = "[A-Za-z0-9._-]{1,64}".prop_map(|id| NodeId::parse(&id).unwrap());
        let session = any::<bool>().prop_map(|some| some.then(SessionId::random));
        let client_id = proptest::option::of(any::<String>().prop_map(Into::into));
        (id, any::<u64>(), session, client_id, any::<u64>()).prop_map(
            |(id, incarnation, session, client_id, deadline_ms)| Route {
                node: NodeRef { id, incarnation },
                session,
                client_id,
                deadline_ms,
            },
        )
    }

    proptest! {
        #[test]
        fn a_route_is_read_as_it_was_written(route in routes()) {
            let mut buffer = b"left over".to_vec();
            write_route(&route, &mut buffer);
            prop_assert_eq!(read_route(&buffer), Some(route));
        }

        #[test]
        fn no_bytes_are_too_strange_to_be_read(bytes: Vec<u8>) {
            let _: Option<Route> = read_route(&bytes);
        }
    }

    #[test]
    fn what_is_not_a_route_of_this_version_is_none() {
        let session = SessionId::random();
        assert!(read_route(format!("1 2 3 gw-1 {session} x").as_bytes()).is_some());
        let bad = [
            "",
            "1",
            "1 2 3 gw-1",
            "2 2 3 gw-1 -",
            "1 x 3 gw-1 -",
            "1 2 -3 gw-1 -",
            "1 2 3 gw|1 -",
            "1 2 3 gw-1 not-a-session",
            "1  2 3 gw-1 -",
            "{\"node\":\"gw-1\"}",
        ];
        for bad in bad {
            assert_eq!(read_route(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(read_route(b"1 2 3 gw-1 - \xff"), None);
    }

    #[test]
    fn numbers_are_ordered_as_text() {
        let numbers = [0, 9, 10, 1_700_000_000_000, u64::MAX];
        assert!(numbers.map(write_number).is_sorted());
        assert!(numbers.iter().all(|number| write_number(*number).len() == 20));
    }
}
