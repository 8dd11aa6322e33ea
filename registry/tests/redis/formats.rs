//! What is in Redis, as each version has written it: the files of `tests/formats`, one folder for
//! each version. The present version writes what is in the newest folder, and reads all of them.
//!
//! ```text
//! RENDER=1 cargo test -p registry --all-features --test redis formats
//! ```
//!
//! writes the newest folder anew. A folder that was released is never changed: a version that
//! writes something else gets a folder of its own, and what is expected of the earlier ones has the
//! defaults of what they do not say.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use redis::aio::MultiplexedConnection;
use registry::{
    After, Arrival, CheckpointStep, CheckpointUpdate, Claim, Claimed, Event, EventPlace,
    Expectation, Generation, HeldRequest, Holding, Latest, MailboxLimits, NodeEntry, NodeId,
    NodeRef, NodeState, NodeTable, Nodes, ParkedFrame, Progress, RedisRegistry, RequestId,
    RequestTable, ResultEntry, ResultState, ResultTable, Route, SessionEntry, SessionId,
    SessionRecord, SessionTable, StateWait, Stored, TokenHash, Versions, ViewKey, ViewTable,
    Written, all,
};

use crate::{LONG, server::Server};

const NEWEST: &str = "v3";
const LIMITS: MailboxLimits = MailboxLimits { frames_max: 1_000, bytes_max: 1 << 20 };
/// Beyond every test.
const END_MS: &str = "99999999999999";
/// In the place of a time of the server's clock.
const TIME: &[u8] = b"0000001764208000";
/// In the place of a call's name.
const CALL: &str = "00000000-0000-4000-8000-000000000000";

fn file(version: &str, name: &str) -> PathBuf {
    let formats = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats");
    PathBuf::from(format!("{formats}/{version}/{name}.txt"))
}

/// A file's lines; each a list of words that are bytes.
fn read(version: &str, name: &str) -> Vec<Vec<Vec<u8>>> {
    let path = file(version, name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    text.lines().map(|line| line.split('\t').map(unescape).collect()).collect()
}

/// Writes a file where that is asked for, and compares it.
#[expect(clippy::disallowed_methods, reason = "a switch of the test")]
fn is_as_written(name: &str, lines: &[Vec<Vec<u8>>]) {
    let line = |words: &Vec<Vec<u8>>| {
        words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join("\t")
    };
    let text: String = lines.iter().map(|words| line(words) + "\n").collect();
    let path = file(NEWEST, name);
    if std::env::var("RENDER").is_ok() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, committed, "{path:?} is not what is written: a new version needs a folder");
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let escaped = match byte {
            b'\\' => rest.next(),
            _ => None,
        };
        bytes.push(match escaped {
            None => byte,
            Some(b'x') => {
                let digits = [rest.next(), rest.next()].map(|digit| char::from(digit.unwrap()));
                u8::from_str_radix(&String::from_iter(digits), 16).unwrap()
            }
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(other) => other,
        });
    }
    bytes
}

fn request(number: u128) -> RequestId {
    let base = 0x0190_ab12_3456_789a_8bcd_ef01_2345_6780;
    RequestId::from_uuid(uuid::Uuid::from_u128(base + number))
}

fn session() -> SessionId {
    SessionId::parse("9f4b2f6e-6d0f-4b7e-8f57-0a8e6a3f3c11").unwrap()
}

fn node(id: &str) -> NodeRef {
    NodeRef { id: NodeId::parse(id).unwrap(), incarnation: 1_764_208_000_123 }
}

/// Of a socket, and of an HTTP call.
fn routes() -> [(RequestId, Route); 2] {
    let session = Some(session());
    let client_id = Some("\"é n=x\\u0001 | \"".into());
    let deadline_ms = 99_999_999_999_999;
    let may_be_part = false;
    let socket = Route { node: node("gw-1"), session, client_id, deadline_ms, may_be_part };
    let call = Route { session: None, client_id: None, ..socket.clone() };
    [(request(0), socket), (request(1), call)]
}

fn entry() -> NodeEntry {
    let speaks = Versions { lowest: 2, highest: 3 };
    let url = "http://[::1]:9080/é".to_owned();
    NodeEntry { node: node("gw-1"), url, state: NodeState::Draining, speaks }
}

fn record() -> SessionRecord {
    SessionRecord {
        session: session(),
        epoch: 9,
        node: node("gw-1"),
        user: Some("zoë =".into()),
        reliable: true,
        attached: false,
        token: TokenHash([0xa1; 32]),
        former_token: Some(TokenHash([0xb2; 32])),
        generation: Some(Generation(77)),
    }
}

/// One that is to come, and one that has come.
fn expectations() -> [Expectation; 2] {
    let detail: bytes::Bytes = b"detail\0 \xff".to_vec().into();
    let of = |number, left| Expectation {
        request: request(number),
        node: node("gw-1"),
        left,
        keep: LONG,
        detail: detail.clone(),
    };
    [of(5, LONG), of(6, LONG)]
}

/// The second of them.
fn arrival() -> Arrival {
    Arrival { request: request(6), result: b"a result\xff".to_vec().into(), expected: None }
}

/// A request in each state, and frames with and without a number.
fn checkpoint() -> CheckpointUpdate {
    let of = |number, progress| CheckpointStep::Request {
        request: request(number),
        progress,
        detail: b"detail\0 \xff".to_vec().into(),
    };
    let park =
        |seq, request| CheckpointStep::Park { seq, request, frame: b"a frame\xff".to_vec().into() };
    let steps = vec![
        of(2, Progress::Submitted),
        of(3, Progress::Recorded),
        of(4, Progress::Recorded),
        park(12, None),
        park(0, Some(request(4))),
    ];
    CheckpointUpdate { session: session(), epoch: 9, orphan: false, steps }
}

async fn connect(server: &Server) -> (RedisRegistry, MultiplexedConnection) {
    let registry = RedisRegistry::connect(&server.url(), "rt:").await.unwrap();
    let client = redis::Client::open(server.url()).unwrap();
    (registry, client.get_multiplexed_async_connection().await.unwrap())
}

async fn ask<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&[u8]],
) -> T {
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| {
        command.arg(*word);
    });
    command.query_async(connection).await.unwrap()
}

/// The fields of a hash, in order.
async fn fields(connection: &mut MultiplexedConnection, key: &str) -> Vec<Vec<Vec<u8>>> {
    let flat: Vec<Vec<u8>> = ask(connection, &[b"HGETALL", key.as_bytes()]).await;
    let mut fields: Vec<Vec<Vec<u8>>> = flat.chunks(2).map(<[_]>::to_vec).collect();
    fields.sort_unstable();
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_in_the_newest_folder() {
    let server = Server::start("");
    let (registry, mut connection) = connect(&server).await;
    let written = routes().map(|(id, route)| (id, Arc::new(route)));
    all(registry.put_routes(&written).await).unwrap();
    let mut lines = Vec::new();
    for (id, _) in routes() {
        let key = format!("rt:r:{id}");
        lines.push(vec![ask(&mut connection, &[b"GET", key.as_bytes()]).await]);
    }
    is_as_written("routes", &lines);

    registry.announce(&entry(), LONG).await.unwrap();
    let mut nodes = fields(&mut connection, "rt:{nodes}").await;
    for field in &mut nodes {
        let text = String::from_utf8(field[1].clone()).unwrap();
        let [incarnation, _, _, entry] = text.splitn(4, ' ').collect::<Vec<_>>()[..] else {
            panic!("{text}")
        };
        field[1] = format!("{incarnation} {END_MS} {CALL} {entry}").into_bytes();
    }
    is_as_written("nodes", &nodes);

    all(registry.record(&[record()], LONG).await).unwrap();
    all(registry.update_checkpoints(&[checkpoint()], LIMITS).await).unwrap();
    let key = format!("rt:s:{{{}}}", session());
    let mut fields_of_record = fields(&mut connection, &key).await;
    for field in fields_of_record.iter_mut().filter(|field| field[0] == b"c") {
        field[1] = CALL.as_bytes()[..16].to_vec();
    }
    is_as_written("session", &fields_of_record);
    let mut requests = fields(&mut connection, &format!("{key}:q")).await;
    for field in &mut requests {
        field[1][1..17].copy_from_slice(TIME);
    }
    is_as_written("session-requests", &requests);
    let key = format!("{key}:m");
    let frames: Vec<Vec<u8>> =
        ask(&mut connection, &[b"ZRANGE", key.as_bytes(), b"0", b"-1"]).await;
    is_as_written(
        "session-mailbox",
        &frames.into_iter().map(|frame| vec![frame]).collect::<Vec<_>>(),
    );
}

fn view_key(key: &[u8]) -> ViewKey {
    ViewKey { view: "orders".into(), key: key.to_vec().into() }
}

/// With a state, without one, and one that removes its key.
fn events() -> [Event; 3] {
    let place = |offset| EventPlace {
        topic: "q1Sh4bLxRYyJ0xEXAMPLEA".into(),
        partition: 3,
        offset,
        at_ms: 1_764_208_000_123,
    };
    let event = |key: &[u8], offset, state: Option<&str>, content: Option<&'static [u8]>| Event {
        key: view_key(key),
        place: place(offset),
        state: state.map(Into::into),
        content: content.map(Into::into),
    };
    [
        event(b"a}\xff", 7, Some("é \"NEW\""), Some(b"an event\0\xff")),
        event(b"b", 8, None, Some(b"")),
        event(b"c", 9, None, None),
    ]
}

/// For a key without an event, and for newer ones than the latest.
fn waits() -> [StateWait; 2] {
    let [event, ..] = events();
    let wait = |number, key, after| StateWait {
        key,
        request: request(number),
        until: vec!["DONE".into(), "é \"\n".into()],
        after,
        not_before_ms: 1_764_208_000_000,
        ttl: LONG,
    };
    [wait(7, view_key(b"d"), After::Nothing), wait(8, event.key, After::Present)]
}

/// The fields of an event, or of those who wait, each with its key.
async fn fields_of_view(connection: &mut MultiplexedConnection, key: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let flat: Vec<Vec<u8>> = ask(connection, &[b"HGETALL", key]).await;
    let field = |field: &[Vec<u8>]| [&[key.to_vec()], field].concat();
    let mut fields: Vec<_> = flat.chunks(2).map(field).collect();
    fields.sort_unstable();
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_written_as_the_newest_folder_has_them() {
    let server = Server::start("");
    let (registry, mut connection) = connect(&server).await;
    all(registry.write_events(&events(), LONG).await).unwrap();
    all(registry.begin_waits(&waits()).await).unwrap();
    let mut lines = Vec::new();
    for Event { key, .. } in events() {
        let key = [b"rt:v:{orders:", &key.key[..], b"}"].concat();
        lines.extend(fields_of_view(&mut connection, &key).await);
    }
    is_as_written("view-events", &lines);
    let mut lines = Vec::new();
    for StateWait { key, .. } in waits() {
        let key = [b"rt:v:{orders:", &key.key[..], b"}:w"].concat();
        lines.extend(fields_of_view(&mut connection, &key).await);
    }
    for line in &mut lines {
        let mut wait: serde_json::Value = serde_json::from_slice(&line[2]).unwrap();
        wait["d"] = END_MS.into();
        line[2] = serde_json::to_vec(&wait).unwrap();
    }
    is_as_written("view-waits", &lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_read_as_each_version_wrote_them() {
    for more in [false, true] {
        let server = Server::start("");
        let (registry, mut connection) = connect(&server).await;
        for line in read("v3", "view-events") {
            ask::<()>(&mut connection, &[b"HSET", &line[0], &line[1], &line[2]]).await;
            if more {
                ask::<()>(&mut connection, &[b"HSET", &line[0], b"zone", b"what"]).await;
            }
        }
        for line in read("v3", "view-waits") {
            let mut wait: serde_json::Value = serde_json::from_slice(&line[2]).unwrap();
            if more {
                wait["zone"] = serde_json::json!({ "load": [1, null] });
            }
            let wait = serde_json::to_vec(&wait).unwrap();
            ask::<()>(&mut connection, &[b"HSET", &line[0], &line[1], &wait]).await;
        }
        let keys = events().map(|event| event.key);
        let found = all(registry.find_latest(&keys).await).unwrap();
        let expected = events().map(|Event { place, state, content, .. }| {
            content.map(|content| Latest { place, state, content })
        });
        assert_eq!(found, expected);
        // It goes on as if this version had begun it.
        let [event, ..] = events();
        let at = |key: &ViewKey, offset| Event {
            key: key.clone(),
            place: EventPlace { offset, ..event.place.clone() },
            state: Some("DONE".into()),
            ..event.clone()
        };
        let of = [at(&view_key(b"d"), 7), at(&event.key, 7), at(&event.key, 8)];
        let found = all(registry.write_events(&of, LONG).await).unwrap();
        assert_eq!(found, [vec![request(7)], vec![], vec![request(8)]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_written_as_the_newest_folder_has_them() {
    let server = Server::start("");
    let (registry, mut connection) = connect(&server).await;
    all(registry.expect_results(&expectations()).await).unwrap();
    all(registry.store_results(&[arrival()]).await).unwrap();
    let mut lines = Vec::new();
    for one in expectations() {
        let key = format!("rt:a:{{{}}}", one.request);
        for mut field in fields(&mut connection, &key).await {
            if matches!(&field[0][..], b"d" | b"e") {
                field[1] = END_MS.as_bytes().to_vec();
            }
            lines.push([vec![key.clone().into_bytes()], field].concat());
        }
    }
    is_as_written("results", &lines);
    let key = format!("rt:a:{{{}}}:r", request(6));
    let result: Vec<u8> = ask(&mut connection, &[b"GET", key.as_bytes()]).await;
    is_as_written("result", &[vec![key.into_bytes(), result]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_read_as_each_version_wrote_them() {
    for more in [false, true] {
        let server = Server::start("");
        let (registry, mut connection) = connect(&server).await;
        for line in read("v3", "results") {
            let behind: &[u8] = if more && line[1] == b"n" { b" zone=a" } else { b"" };
            let value = [&line[2], behind].concat();
            ask::<()>(&mut connection, &[b"HSET", &line[0], &line[1], &value]).await;
            if more {
                ask::<()>(&mut connection, &[b"HSET", &line[0], b"zone", b"what"]).await;
            }
        }
        for line in read("v3", "result") {
            ask::<()>(&mut connection, &[b"SET", &line[0], &line[1]]).await;
        }
        let found = all(registry.find_results(&[request(5), request(6)]).await).unwrap();
        let [waiting, stored] = <[_; 2]>::try_from(found).unwrap().map(Option::unwrap);
        let [expected, _] = expectations();
        assert!(matches!(waiting.state, ResultState::Waiting { .. }), "{waiting:?}");
        assert_eq!((&waiting.node, &waiting.detail), (&expected.node, &expected.detail));
        let Expectation { node, detail, .. } = expected;
        let state = ResultState::Stored(arrival().result);
        assert_eq!(stored, ResultEntry { node, detail, state });
        // It goes on as if this version had begun it.
        let late = Arrival { request: request(5), ..arrival() };
        assert_eq!(all(registry.store_results(&[late]).await).unwrap(), [Stored::Done]);
    }
}

/// Puts the entries of a version into an empty server, each with `more` of a later version.
async fn load(connection: &mut MultiplexedConnection, version: &str, more: &More) {
    for ((id, _), line) in routes().into_iter().zip(read(version, "routes")) {
        let value = [more.of_route, &line[0]].concat();
        ask::<()>(connection, &[b"SET", format!("rt:r:{id}").as_bytes(), &value]).await;
    }
    for line in read(version, "nodes") {
        let value = String::from_utf8(line[1].clone()).unwrap();
        let value = value.replacen('{', &format!("{{{}", more.of_node), 1);
        ask::<()>(connection, &[b"HSET", b"rt:{nodes}", &line[0], value.as_bytes()]).await;
    }
    let key = format!("rt:s:{{{}}}", session());
    for line in read(version, "session") {
        let behind = match &line[0][..] {
            b"n" | b"w" => more.of_owner,
            b"f" => more.of_flags,
            _ => b"",
        };
        let value = [&line[1], behind].concat();
        ask::<()>(connection, &[b"HSET", key.as_bytes(), &line[0], &value]).await;
    }
    for field in more.of_session {
        ask::<()>(connection, &[b"HSET", key.as_bytes(), field, b"what"]).await;
    }
    for line in read(version, "session-requests") {
        let key = format!("{key}:q");
        ask::<()>(connection, &[b"HSET", key.as_bytes(), &line[0], &line[1]]).await;
    }
    for line in read(version, "session-mailbox") {
        let key = format!("{key}:m");
        ask::<()>(connection, &[b"ZADD", key.as_bytes(), b"0", &line[0]]).await;
    }
}

/// What a later version may add.
#[derive(Default)]
struct More {
    of_route: &'static [u8],
    of_node: &'static str,
    of_owner: &'static [u8],
    of_flags: &'static [u8],
    of_session: &'static [&'static [u8]],
}

/// What was written of the session is read as this.
fn holding() -> Holding {
    let SessionRecord { epoch, node, user, reliable, attached, generation, .. } = record();
    let former = SessionEntry {
        epoch,
        node: Some(node),
        user,
        reliable,
        attached,
        overflowed: false,
        generation,
    };
    let of = |number, progress| HeldRequest {
        request: request(number),
        progress,
        detail: b"detail\0 \xff".to_vec().into(),
        age: Duration::ZERO,
    };
    let written = Written { epoch, node: former.node.clone() };
    let frame = |seq, request| ParkedFrame { seq, request, frame: b"a frame\xff".to_vec().into() };
    let requests =
        vec![of(2, Progress::Submitted), of(3, Progress::Recorded), of(4, Progress::Ended)];
    let mailbox = vec![frame(12, None), frame(0, Some(request(4)))];
    Holding { epoch: epoch + 1, former, written, requests, mailbox, is_whole: true }
}

/// All that a version has written is read as it was meant.
async fn is_read(version: &str, more: &More) {
    let server = Server::start("");
    let (registry, mut connection) = connect(&server).await;
    load(&mut connection, version, more).await;

    let (ids, written): (Vec<_>, Vec<_>) =
        routes().into_iter().map(|(id, route)| (id, Some(route))).unzip();
    assert_eq!(all(registry.find_routes(&ids).await).unwrap(), written);
    let nodes = Nodes { entries: vec![entry()], unread: Vec::new() };
    assert_eq!(registry.nodes().await.unwrap(), nodes);

    let Holding { former, .. } = holding();
    let found = all(registry.find_sessions(&[session()]).await).unwrap();
    assert_eq!(found, [Some(former.clone())]);
    for token in [record().token, record().former_token.unwrap()] {
        let tried = registry.try_token(&session(), &token).await.unwrap();
        assert_eq!(tried, Some(former.clone()));
    }
    let claim = Claim {
        session: session(),
        token: record().token,
        user: record().user,
        node: node("gw-2"),
        next_token: TokenHash([3; 32]),
        ttl: LONG,
    };
    let Claimed::Taken(mut taken) = registry.claim(&claim).await.unwrap() else {
        panic!("a claim was refused")
    };
    taken.requests.sort_unstable_by_key(|held| held.request);
    for held in &mut taken.requests {
        held.age = Duration::ZERO;
    }
    assert_eq!(*taken, holding());
    // It goes on as if this version had begun it.
    let again = CheckpointUpdate {
        epoch: 10,
        steps: vec![CheckpointStep::Trim { seq: 12 }],
        ..checkpoint()
    };
    all(registry.update_checkpoints(&[again], LIMITS).await).unwrap();
    let record = SessionRecord { epoch: 10, node: node("gw-2"), ..record() };
    all(registry.record(&[record], LONG).await).unwrap();
    let claim = Claim { token: TokenHash([0xa1; 32]), ..claim };
    let Claimed::Taken(taken) = registry.claim(&claim).await.unwrap() else {
        panic!("a claim was refused")
    };
    assert_eq!((taken.epoch, taken.mailbox.len(), taken.is_whole), (11, 1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_version_wrote_is_read() {
    for version in ["v1", "v2", NEWEST] {
        is_read(version, &More::default()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_version_adds_is_passed_over() {
    let more = More {
        of_route: b"z=7 zone= what ",
        of_node: r#""load":{"cpu":[1,null]},"zone":"a","#,
        of_owner: b" zone=a",
        of_flags: b"1",
        of_session: &[b"z", b"zone", b""],
    };
    is_read(NEWEST, &more).await;
}
