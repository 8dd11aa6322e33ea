//! The text of entries as Redis holds them, written and read.
//!
//! Never knows under which key an entry is, nor for how long.
//!
//! A route is `n=<node>@<incarnation> d=<deadline> s=<session> c=<client's id>`: words with one
//! space between them, of which the last is the rest of the text, whatever it holds. There is no `s`
//! for an HTTP call, and no `c` where there is no client's id. Words that are not known are passed
//! over; without an `n` it is no route. There is one for each request: JSON would say the same in
//! more bytes and twice the time, and whole names in place of letters would add a fifth.
//!
//! A node's entry is JSON, which people read: it is written once in a while.

use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ids::{NodeId, NodeRef, SessionId},
    tables::{NodeEntry, NodeState, Route},
    versions::Versions,
};

pub(super) mod sessions;

/// Writes a route over what is in the buffer.
pub(super) fn write_route(route: &Route, buffer: &mut Vec<u8>) {
    buffer.clear();
    let Route { node, session, client_id, deadline_ms, may_be_part } = route;
    write!(buffer, "n={}@{} d={deadline_ms}", node.id, node.incarnation).expect("a Vec takes all");
    if *may_be_part {
        buffer.extend_from_slice(b" p=1");
    }
    if let Some(session) = session {
        buffer.extend_from_slice(b" s=");
        buffer.extend_from_slice(session.encode(&mut [0; 36]).as_bytes());
    }
    if let Some(client_id) = client_id {
        buffer.extend_from_slice(b" c=");
        buffer.extend_from_slice(client_id.as_bytes());
    }
    #[cfg(feature = "later")]
    {
        *buffer = crate::later::written("route", std::mem::take(buffer));
    }
}

/// Reads a route; none when it names no node, or what it names is none.
pub(super) fn read_route(bytes: &[u8]) -> Option<Route> {
    let mut rest = Some(std::str::from_utf8(bytes).ok()?);
    let (mut node, mut session, mut client_id, mut deadline_ms) = (None, None, None, 0);
    let mut may_be_part = false;
    while let Some(text) = rest {
        if let Some(id) = text.strip_prefix("c=") {
            client_id = Some(id.into());
            break;
        }
        let (word, behind) = match text.split_once(' ') {
            Some((word, behind)) => (word, Some(behind)),
            None => (text, None),
        };
        rest = behind;
        match word.split_once('=') {
            Some(("n", run)) => {
                let (id, incarnation) = run.split_once('@')?;
                let incarnation = incarnation.parse().ok()?;
                node = Some(NodeRef { id: NodeId::parse(id).ok()?, incarnation });
            }
            Some(("s", id)) => session = Some(SessionId::parse(id).ok()?),
            Some(("d", number)) => deadline_ms = number.parse().ok()?,
            Some(("p", flag)) => may_be_part = flag == "1",
            _ => {}
        }
    }
    Some(Route { node: node?, session, client_id, deadline_ms, may_be_part })
}

/// A number as the scripts compare it: 20 digits, so that text order is number order.
pub(super) fn write_number(number: u64) -> String {
    format!("{number:020}")
}

/// A node's entry as JSON has it. What is not there has its default.
#[derive(Serialize, Deserialize)]
struct NodeText {
    node: RunText,
    url: String,
    /// A word, as far as this version knows.
    #[serde(default)]
    state: Value,
    #[serde(default)]
    speaks: String,
}

/// A run of a node as JSON has it.
#[derive(Serialize, Deserialize)]
struct RunText {
    id: String,
    incarnation: u64,
}

/// The states that have a word.
const STATES: [(NodeState, &str); 3] = [
    (NodeState::Ready, "ready"),
    (NodeState::Starting, "starting"),
    (NodeState::Draining, "draining"),
];

/// Writes a node's entry.
pub(super) fn write_node(entry: &NodeEntry) -> Vec<u8> {
    let NodeEntry { node, url, state, speaks } = entry;
    let text = NodeText {
        node: RunText { id: node.id.to_string(), incarnation: node.incarnation },
        url: url.clone(),
        state: STATES.iter().find(|(known, _)| known == state).map_or("unknown", |(_, s)| s).into(),
        speaks: speaks.to_string(),
    };
    let text = serde_json::to_vec(&text).expect("texts and a number are always JSON");
    #[cfg(feature = "later")]
    let text = crate::later::written("node", text);
    text
}

/// Reads a node's entry; none when it does not say which run it is of, or where that is. A state that
/// is not known is none of those that are.
pub(super) fn read_node(bytes: &[u8]) -> Option<NodeEntry> {
    let NodeText { node, url, state, speaks } = serde_json::from_slice(bytes).ok()?;
    let known = STATES.into_iter().find(|(_, word)| state == *word);
    Some(NodeEntry {
        node: NodeRef { id: NodeId::parse(&node.id).ok()?, incarnation: node.incarnation },
        url,
        state: known.map_or(NodeState::Unknown, |(state, _)| state),
        speaks: Versions::read(&speaks),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn routes() -> impl Strategy<Value = Route> {
        let id = "[A-Za-z0-9._-]{1,64}".prop_map(|id| NodeId::parse(&id).unwrap());
        let session = any::<bool>().prop_map(|some| some.then(SessionId::random));
        let client_id = proptest::option::of(any::<String>().prop_map(Into::into));
        (id, any::<u64>(), session, client_id, any::<(u64, bool)>()).prop_map(
            |(id, incarnation, session, client_id, (deadline_ms, may_be_part))| Route {
                node: NodeRef { id, incarnation },
                session,
                client_id,
                deadline_ms,
                may_be_part,
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
    fn words_that_are_not_known_are_passed_over() {
        let session = SessionId::random();
        let node = NodeRef { id: NodeId::parse("gw-1").unwrap(), incarnation: 2 };
        let client_id = Some(r#""a n=x@1 s=no""#.into());
        let expected =
            Route { node, session: Some(session), client_id, deadline_ms: 3, may_be_part: true };
        let text = format!(r#"zone=a n=gw-1@2 what d=3  = p=1 s={session} x=y c="a n=x@1 s=no""#);
        assert_eq!(read_route(text.as_bytes()), Some(expected.clone()));
        let bare = Route {
            session: None,
            client_id: None,
            deadline_ms: 0,
            may_be_part: false,
            ..expected
        };
        assert_eq!(read_route(b"n=gw-1@2"), Some(bare), "what is not said is not so");
    }

    #[test]
    fn what_is_no_route_is_none() {
        let session = SessionId::random();
        assert!(read_route(format!("n=gw-1@2 d=3 s={session} c=x").as_bytes()).is_some());
        let bad = [
            "",
            "d=3",
            "n=gw-1 d=3",
            "n=gw-1@x d=3",
            "n=gw|1@2 d=3",
            "n=gw-1@2 d=-3",
            "n=gw-1@2 d=3 s=not-a-session",
            "c=n=gw-1@2",
            "1 2 3 gw-1 -",
            "{\"node\":\"gw-1\"}",
        ];
        for bad in bad {
            assert_eq!(read_route(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(read_route(b"n=gw-1@2 d=3 c=\xff"), None);
    }

    #[test]
    fn of_a_node_only_the_run_and_the_place_have_to_be_known() {
        let read = |text: &str| read_node(text.as_bytes());
        let run = r#""node":{"id":"gw-1","incarnation":2,"zone":"a"},"url":"http://gw-1:1""#;
        let bare = read(&format!("{{{run}}}")).unwrap();
        assert_eq!((bare.state, bare.speaks), (NodeState::Unknown, Versions::FIRST));
        for state in [r#""resting""#, "7", r#"{"is":"ready"}"#, "null"] {
            let entry = read(&format!(r#"{{{run},"state":{state},"speaks":"1-2","load":[1]}}"#));
            let entry = entry.unwrap();
            assert_eq!((entry.node.incarnation, &*entry.url), (2, "http://gw-1:1"));
            assert_eq!(entry.state, NodeState::Unknown, "{state}");
            assert_eq!(entry.speaks, Versions { lowest: 1, highest: 2 });
        }
        assert_eq!(read(r#"{"node":{"id":"gw|1","incarnation":2},"url":""}"#), None);
        assert_eq!(read(r#"{"node":{"id":"gw-1","incarnation":2}}"#), None);
        assert_eq!(read(r#"{"url":"http://gw-1:1"}"#), None);
    }

    #[test]
    fn numbers_are_ordered_as_text() {
        let numbers = [0, 9, 10, 1_700_000_000_000, u64::MAX];
        assert!(numbers.map(write_number).is_sorted());
        assert!(numbers.iter().all(|number| write_number(*number).len() == 20));
    }
}
