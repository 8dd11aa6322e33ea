//! The Lua scripts, each with the hash by which a server knows it.
//!
//! A script touches the keys it is given, all with one hash tag, so it runs in a Redis Cluster as
//! well. Never holds a script of another crate or a text of an operator's.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Script};

/// Announces a node: see the file for what it is given and answers.
pub(super) static ANNOUNCE: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/announce.lua")));
/// Lists the nodes.
pub(super) static NODES: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/nodes.lua")));
/// Removes a node.
pub(super) static LEAVE: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/leave.lua")));
/// Writes a session's record.
pub(super) static RECORD: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/record.lua")));
/// Changes a session's checkpoint.
pub(super) static CHECKPOINT: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/checkpoint.lua")));
/// Takes a session over.
pub(super) static CLAIM: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/claim.lua")));
/// Removes a session.
pub(super) static END_SESSION: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/end_session.lua")));

/// Writes an event of a view.
pub(super) static WRITE_EVENT: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/write_event.lua")));
/// Has a request wait for a state.
pub(super) static BEGIN_WAIT: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/begin_wait.lua")));

/// Notes that a result is to come.
pub(super) static EXPECT: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/expect.lua")));
/// Stores a result.
pub(super) static STORE: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/store.lua")));
/// Finds a result.
pub(super) static RESULT: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/result.lua")));

/// One script.
#[derive(Debug)]
pub(super) struct Lua {
    text: &'static str,
    hash: String,
}

impl Lua {
    fn new(text: &'static str) -> Self {
        Self { text, hash: Script::new(text).get_hash().to_owned() }
    }

    /// A call on these keys, for a server that has seen the script since it started. What the
    /// script is given beside them is for the caller to add: so many arguments, in so many bytes.
    pub(super) fn call(&self, keys: &[&str], args: usize, bytes: usize) -> Cmd {
        let size = self.hash.len() + keys.iter().map(|key| key.len()).sum::<usize>();
        let mut cmd = Cmd::with_capacity(3 + keys.len() + args, size + bytes + 16);
        cmd.arg("EVALSHA").arg(&self.hash).arg(keys.len()).arg(keys);
        cmd
    }

    /// The same on keys that are no text.
    pub(super) fn call_bytes(&self, keys: &[&[u8]], args: usize, bytes: usize) -> Cmd {
        let size = self.hash.len() + keys.iter().map(|key| key.len()).sum::<usize>();
        let mut cmd = Cmd::with_capacity(3 + keys.len() + args, size + bytes + 16);
        cmd.arg("EVALSHA").arg(&self.hash).arg(keys.len()).arg(keys);
        cmd
    }

    /// The same call as one that works on any server, and lets this one know the script.
    pub(super) fn by_text(&self, call: &Cmd) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(self.text);
        for arg in call.args_iter().skip(2) {
            // No call of ours has a cursor.
            if let Arg::Simple(bytes) = arg {
                cmd.arg(bytes);
            }
        }
        cmd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_by_text_is_given_what_the_call_by_hash_was() {
        let mut by_hash = NODES.call(&["a", "b"], 2, 4);
        by_hash.arg(&b"\0\xff\r\n"[..]).arg("");
        let words = |cmd: &Cmd| cmd.get_packed_command();
        let mut expected = redis::cmd("EVAL");
        expected.arg(NODES.text).arg(2).arg("a").arg("b").arg(&b"\0\xff\r\n"[..]).arg("");
        assert_eq!(words(&NODES.by_text(&by_hash)), words(&expected));
    }
}
