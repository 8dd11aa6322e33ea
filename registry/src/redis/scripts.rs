//! The Lua scripts, each with the hash by which a server knows it.
//!
//! A script touches the one key it is given, so it runs in a Redis Cluster as well. Never holds a
//! script of another crate or a text of an operator's.

use std::sync::LazyLock;

use redis::{Cmd, Script};

/// Announces a node: see the file for what it is given and answers.
pub(super) static ANNOUNCE: LazyLock<Lua> =
    LazyLock::new(|| Lua::new(include_str!("lua/announce.lua")));
/// Lists the nodes.
pub(super) static NODES: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/nodes.lua")));
/// Removes a node.
pub(super) static LEAVE: LazyLock<Lua> = LazyLock::new(|| Lua::new(include_str!("lua/leave.lua")));

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

    /// The call of a script that the server has seen since it started.
    pub(super) fn by_hash(&self, key: &str, args: &[String]) -> Cmd {
        Self::call("EVALSHA", &self.hash, key, args)
    }

    /// The call that works on any server, and lets this one know the script.
    pub(super) fn by_text(&self, key: &str, args: &[String]) -> Cmd {
        Self::call("EVAL", self.text, key, args)
    }

    fn call(verb: &str, script: &str, key: &str, args: &[String]) -> Cmd {
        let mut cmd = redis::cmd(verb);
        cmd.arg(script).arg(1).arg(key).arg(args);
        cmd
    }
}
