//! The slots of a Redis Cluster: which one a key is in, and what the servers say of them.
//!
//! Plain functions on bytes and answers; never knows a connection.

use redis::{Arg, Cmd, ServerErrorKind, Value};

use crate::redis::target::Address;

/// How many slots there are.
const SLOTS: u16 = 16384;

/// Slots, both ends included, that one master has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
}

/// What a server says instead of an answer when it does not have a key's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) to: Address,
    /// The slot is on its way there: this command alone is to be asked of it.
    pub(super) is_asking: bool,
}

/// The slot of a command's first key: all keys of one command are in one slot.
pub(super) fn slot_of(command: &Cmd) -> u16 {
    let word = |at| match command.args_iter().nth(at) {
        Some(Arg::Simple(bytes)) => bytes,
        _ => &[],
    };
    // Behind the script and the number of keys, or behind the verb.
    slot_of_key(word(if matches!(word(0), b"EVAL" | b"EVALSHA") { 3 } else { 1 }))
}

/// By the key's hash tag, where it has one.
fn slot_of_key(key: &[u8]) -> u16 {
    let tag = || {
        let begin = key.iter().position(|byte| *byte == b'{')? + 1;
        let length = key[begin..].iter().position(|byte| *byte == b'}')?;
        (length > 0).then(|| &key[begin..begin + length])
    };
    crc16(tag().unwrap_or(key)) % SLOTS
}

/// The answer to `CLUSTER SLOTS`, in order; none where no master has any. A server that does not
/// know its own name is where it was asked.
pub(super) fn read_slots(answer: &Value, asked: &Address) -> Option<Vec<Slots>> {
    let Value::Array(ranges) = answer else { return None };
    let mut slots: Vec<_> = ranges.iter().filter_map(|range| read_range(range, asked)).collect();
    slots.sort_unstable_by_key(|slots| slots.first);
    (!slots.is_empty()).then_some(slots)
}

fn read_range(range: &Value, asked: &Address) -> Option<Slots> {
    let Value::Array(parts) = range else { return None };
    let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = parts.as_slice() else {
        return None;
    };
    let [host, Value::Int(port), ..] = master.as_slice() else { return None };
    let host = match host {
        Value::Nil => "",
        Value::BulkString(name) => std::str::from_utf8(name).ok()?,
        _ => return None,
    };
    let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
    let master = address(host, u16::try_from(*port).ok()?, asked)?;
    (first <= last && last < SLOTS).then_some(Slots { first, last, master })
}

/// The redirection that an answer is, if it is one.
pub(super) fn read_redirect(answer: &Value, asked: &Address) -> Option<Redirect> {
    let Value::ServerError(error) = answer else { return None };
    let is_asking = match error.kind()? {
        ServerErrorKind::Ask => true,
        ServerErrorKind::Moved => false,
        _ => return None,
    };
    let (host, port) = error.details()?.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
    Some(Redirect { to: address(host, port.parse().ok()?, asked)?, is_asking })
}

/// Whether a server says that it answers nobody, because too few masters see it or each other.
pub(super) fn is_cluster_down(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ClusterDown))
}

/// Whether a server's answer to `CLUSTER INFO` says so; one that tells nobody does not.
pub(super) fn says_down(info: &Value) -> bool {
    let text = match info {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text,
        _ => "",
    };
    text.lines().any(|line| line.trim_end() == "cluster_state:fail")
}

fn address(host: &str, port: u16, asked: &Address) -> Option<Address> {
    match host {
        // It does not know where that server is.
        "?" => None,
        "" => Some(Address { host: asked.host.clone(), port }),
        host => Some(Address { host: host.into(), port }),
    }
}

/// CRC-16/XMODEM, as the specification of Redis Cluster has it.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let (mut crc, mut bit) = ((at as u16) << 8, 0);
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
                bit += 1;
            }
            table[at] = crc;
            at += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc, byte| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16) -> Address {
        Address { host: host.into(), port }
    }

    #[test]
    fn a_key_is_in_the_slot_of_its_hash_tag() {
        // The check value of CRC-16/XMODEM, and examples of the specification.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of_key(b"foo"), 12182);
        assert_eq!(slot_of_key(b"{user1000}.following"), slot_of_key(b"user1000"));
        assert_eq!(slot_of_key(b"foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot_of_key(b"foo{{bar}}zap"), slot_of_key(b"{bar"));
        assert_eq!(slot_of_key(b"foo{bar}{zap}"), slot_of_key(b"bar"));
        assert_eq!(slot_of_key(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn a_command_is_in_the_slot_of_its_first_key() {
        let mut script = redis::cmd("EVALSHA");
        script.arg("hash").arg(2).arg("a{foo}").arg("b{foo}").arg("c");
        let mut read = redis::cmd("HMGET");
        read.arg("foo").arg("bar");
        assert_eq!((slot_of(&script), slot_of(&read)), (12182, 12182));
    }

    #[test]
    fn reads_who_has_which_slots() {
        let text = |text: &str| Value::BulkString(text.into());
        let server = |host, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |first, last, of: Vec<Value>| {
            Value::Array([vec![Value::Int(first), Value::Int(last)], of].concat())
        };
        let answer = Value::Array(vec![
            range(8192, 16383, vec![server(text(""), 7001), server(text("replica"), 7003)]),
            range(0, 100, vec![server(text("10.0.0.1"), 7000)]),
            range(101, 200, vec![server(Value::Nil, 7002)]),
            range(201, 300, vec![server(text("?"), 7004)]),
            range(301, 16384, vec![server(text("10.0.0.1"), 7005)]),
            range(301, 400, vec![]),
            Value::Nil,
        ]);
        let slots = |first, last, master| Slots { first, last, master };
        let expected = vec![
            slots(0, 100, at("10.0.0.1", 7000)),
            slots(101, 200, at("asked", 7002)),
            slots(8192, 16383, at("asked", 7001)),
        ];
        assert_eq!(read_slots(&answer, &at("asked", 1)), Some(expected));
        assert_eq!(read_slots(&Value::Array(vec![]), &at("asked", 1)), None);
        assert_eq!(read_slots(&Value::Nil, &at("asked", 1)), None);
    }

    #[test]
    fn knows_a_server_that_answers_nobody() {
        let read = |bytes: &[u8]| redis::parse_redis_value(bytes).unwrap();
        assert!(is_cluster_down(&read(b"-CLUSTERDOWN The cluster is down\r\n")));
        assert!(!is_cluster_down(&read(b"-LOADING Redis is loading\r\n")));
        for (info, expected) in [
            ("cluster_enabled:1\r\ncluster_state:fail\r\n", true),
            ("cluster_state:ok\r\ncluster_stats:cluster_state:fail\r\n", false),
        ] {
            assert_eq!(says_down(&Value::BulkString(info.into())), expected, "{info}");
        }
        assert!(!says_down(&read(b"-NOPERM no permission to run 'cluster|info'\r\n")));
    }

    #[test]
    fn reads_where_a_server_sends_a_command() {
        let read = |line: &str| {
            let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            read_redirect(&answer, &at("asked", 1))
        };
        let to = |to, is_asking| Some(Redirect { to, is_asking });
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), to(at("127.0.0.1", 6381), false));
        assert_eq!(read("ASK 3999 ::1:6381"), to(at("::1", 6381), true));
        assert_eq!(read("MOVED 3999 :6381"), to(at("asked", 6381), false));
        for none in ["MOVED 3999 ?:6381", "MOVED 3999", "MOVED 3999 a:b", "CLUSTERDOWN no"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
