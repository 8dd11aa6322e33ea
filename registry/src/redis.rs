//! The table of a cluster, in Redis 5 or later (or Valkey): one server, servers behind sentinels,
//! or a Redis Cluster.
//!
//! Owns what is written and read. How the bytes get there is [`link`]'s; keys are [`keys`]'.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value};
use uuid::Uuid;

use self::{keys::Keys, link::Link, target::Target};
use crate::{
    clock::Clock,
    error::RegistryError,
    ids::{NodeId, NodeRef, RequestId},
    tables::{
        Announcement, Generation, NODE_TTL_MAX, NODE_TTL_MIN, NodeEntry, NodeTable, Nodes,
        RequestTable, Route, millis,
    },
    unreadable::{EntryKind, Unreadable},
};

mod entries;
mod keys;
mod limits;
mod link;
mod scripts;
mod sessions;
mod target;

/// A registry in Redis. A clone shares the connection.
///
/// Whatever happens to the server, a call ends within 2.5 seconds; while the server cannot be
/// reached calls fail with [`RegistryError::Unreachable`], and half a second after it is back they
/// succeed again.
#[derive(Clone)]
pub struct RedisRegistry {
    shared: Arc<Shared>,
}

struct Shared {
    link: Link,
    keys: Keys,
    /// Announcements that were begun and have no answer yet, each with the name under which it is
    /// repeated: so the server can tell a repeated call from a new one. One for each run that
    /// announces itself through this registry, which is one.
    unanswered: Mutex<HashMap<NodeRef, Uuid>>,
    unreadable: Unreadable,
}

impl RedisRegistry {
    /// A registry at `url`, whose keys all begin with `prefix`.
    ///
    /// Tries to open the connection, for at most two seconds; that the server cannot be reached is
    /// no error. A `rediss://` URL needs the process's default provider of rustls to be installed.
    ///
    /// # Errors
    /// [`RegistryError::Misconfigured`] when [`RedisRegistry::check_url`] or
    /// [`RedisRegistry::check_prefix`] refuses one of them.
    pub async fn connect(url: &str, prefix: &str) -> Result<Self, RegistryError> {
        let target = Target::parse(url).map_err(RegistryError::Misconfigured)?;
        let keys = Keys::new(prefix).map_err(RegistryError::Misconfigured)?;
        let (unanswered, unreadable) = (Mutex::default(), Unreadable::default());
        let shared = Shared { link: Link::new(target), keys, unanswered, unreadable };
        shared.link.open().await;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether a registry can be at this URL: `redis://` or `rediss://` (TLS)
    /// `[user:password@]host[:port][/db]`,
    /// `redis+cluster://[user:password@]host[:port][,host[:port]…]`, or
    /// `redis+sentinel://[user:password@]host[:port][,host[:port]…]/<master name>[/<db>]`, whose
    /// user and password are those of the servers.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not quote it.
    pub fn check_url(url: &str) -> Result<(), String> {
        Target::parse(url).map(drop)
    }

    /// Whether keys can begin with this text: at most 64 bytes, without braces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_prefix(prefix: &str) -> Result<(), String> {
        Keys::check_prefix(prefix)
    }
}

impl fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { link, keys, .. } = &*self.shared;
        f.debug_struct("RedisRegistry")
            .field("at", link)
            .field("prefix", &keys.prefix())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl RequestTable for RedisRegistry {
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Result<(), RegistryError> {
        if routes.is_empty() {
            return Ok(());
        }
        let batch = match self.shared.link.target().keeps_order() {
            true => self.shared.set_routes(routes.iter()),
            // Commands may overtake each other, so no two of them may be for one request.
            false => {
                let mut seen = HashSet::with_capacity(routes.len());
                self.shared.set_routes(routes.iter().rev().filter(|(id, _)| seen.insert(*id)))
            }
        };
        self.shared.link.batch(&batch).await.map(drop)
    }

    async fn find_routes(
        &self,
        requests: &[RequestId],
    ) -> Result<Vec<Option<Route>>, RegistryError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let command = self.shared.of_routes("MGET", requests);
        match self.shared.link.command(command).await? {
            Value::Array(found) if found.len() == requests.len() => Ok(found
                .iter()
                .zip(requests)
                .map(|(value, request)| match value {
                    Value::BulkString(bytes) => {
                        let route = entries::read_route(bytes);
                        if route.is_none() {
                            self.shared.unreadable.add(EntryKind::Route, || request.to_string());
                        }
                        route
                    }
                    _ => None,
                })
                .collect()),
            other => Err(malformed("routes", &other)),
        }
    }

    async fn remove_routes(&self, requests: &[RequestId]) -> Result<(), RegistryError> {
        if requests.is_empty() {
            return Ok(());
        }
        let command = self.shared.of_routes("UNLINK", requests);
        self.shared.link.command(command).await.map(drop)
    }
}

#[async_trait]
impl NodeTable for RedisRegistry {
    async fn announce(
        &self,
        entry: &NodeEntry,
        ttl: Duration,
    ) -> Result<Announcement, RegistryError> {
        let Shared { link, keys, .. } = &*self.shared;
        let call = *self.shared.unanswered().entry(entry.node.clone()).or_insert_with(Uuid::new_v4);
        let args = [
            entry.node.id.to_string(),
            entries::write_number(entry.node.incarnation),
            millis(ttl.clamp(NODE_TTL_MIN, NODE_TTL_MAX)).to_string(),
            call.to_string(),
            entries::write_node(entry),
        ];
        let mut cmd = scripts::ANNOUNCE.call(&[keys.nodes()], 5, 256);
        cmd.arg(&args);
        let answer = link.script(&scripts::ANNOUNCE, cmd).await?;
        self.shared.unanswered().remove(&entry.node);
        match answer {
            Value::BulkString(text) => match text.as_slice() {
                b"fresh" => Ok(Announcement::Fresh),
                b"refreshed" => Ok(Announcement::Refreshed),
                b"superseded" => Ok(Announcement::Superseded),
                _ => Err(malformed("an announcement", &Value::BulkString(text))),
            },
            other => Err(malformed("an announcement", &other)),
        }
    }

    async fn nodes(&self) -> Result<Nodes, RegistryError> {
        let Shared { link, keys, .. } = &*self.shared;
        let Value::Array(found) =
            link.script(&scripts::NODES, scripts::NODES.call(&[keys.nodes()], 0, 0)).await?
        else {
            return Err(RegistryError::Malformed("the node table is no list".to_owned()));
        };
        let mut nodes = Nodes::default();
        for fields in found.chunks(3) {
            let [Value::BulkString(id), Value::BulkString(run), Value::BulkString(entry)] = fields
            else {
                continue;
            };
            let name = NodeRef::read(id, run);
            match entries::read_node(entry) {
                Some(entry) if name.as_ref() == Some(&entry.node) => nodes.entries.push(entry),
                _ => {
                    let place = || String::from_utf8_lossy(id).chars().take(64).collect();
                    self.shared.unreadable.add(EntryKind::Node, place);
                    nodes.unread.extend(name);
                }
            }
        }
        nodes.entries.sort_unstable_by(|a, b| a.node.id.cmp(&b.node.id));
        Ok(nodes)
    }

    fn unreadable(&self) -> Unreadable {
        self.shared.unreadable.clone()
    }

    async fn generation(&self) -> Result<Option<Generation>, RegistryError> {
        let mut command = Cmd::new();
        command.arg("INFO").arg("server");
        match self.shared.link.command(command).await {
            Ok(answer) => Ok(generation_of(&answer)),
            // Whoever may not ask can do without: the epochs of sessions tell too, only later.
            Err(RegistryError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError> {
        let Shared { link, keys, .. } = &*self.shared;
        let mut cmd = scripts::LEAVE.call(&[keys.nodes()], 2, 84);
        cmd.arg(node.id.as_str()).arg(entries::write_number(node.incarnation));
        link.script(&scripts::LEAVE, cmd).await.map(drop)
    }
}

impl Shared {
    /// A `SET` with its life for each route.
    fn set_routes<'r>(
        &self,
        routes: impl Iterator<Item = &'r (RequestId, Arc<Route>)>,
    ) -> Pipeline {
        let now_ms = Clock::System.unix_ms();
        let (mut key, mut value) = (String::new(), Vec::new());
        let mut batch = Pipeline::with_capacity(routes.size_hint().1.unwrap_or(0));
        for (request, route) in routes {
            let key = self.keys.route(request, &mut key);
            entries::write_route(route, &mut value);
            let mut command = Cmd::with_capacity(5, key.len() + value.len() + 16);
            command.arg("SET").arg(key).arg(&value[..]).arg("PX").arg(millis(route.ttl(now_ms)));
            batch.add_command(command);
        }
        batch
    }

    /// One command on the routes of all these requests.
    fn of_routes(&self, verb: &str, requests: &[RequestId]) -> Cmd {
        let mut key = String::new();
        let size = self.keys.route_len() * requests.len();
        let mut command = Cmd::with_capacity(requests.len() + 1, size + verb.len());
        command.arg(verb);
        for request in requests {
            command.arg(self.keys.route(request, &mut key));
        }
        command
    }

    fn unanswered(&self) -> MutexGuard<'_, HashMap<NodeRef, Uuid>> {
        // A map of whole entries, whoever panicked while holding it.
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hash over the runs of all servers that have answered; none when they do not name any.
fn generation_of(answer: &Value) -> Option<Generation> {
    let mut runs: Vec<&str> = match answer {
        // A cluster's, by the addresses of its masters.
        Value::Map(servers) => servers.iter().filter_map(|(_, answer)| run_of(answer)).collect(),
        one => run_of(one).into_iter().collect(),
    };
    if runs.is_empty() {
        return None;
    }
    runs.sort_unstable();
    // FNV-1a: short, and the same in every version of every node.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = runs.iter().flat_map(|run| run.as_bytes());
    Some(Generation(bytes.fold(0xcbf2_9ce4_8422_2325, mix)))
}

fn run_of(answer: &Value) -> Option<&str> {
    let text = match answer {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    text.lines().find_map(|line| line.strip_prefix("run_id:")).map(str::trim)
}

impl NodeRef {
    /// Reads the two words by which the node table names a run.
    fn read(id: &[u8], incarnation: &[u8]) -> Option<Self> {
        let id = NodeId::parse(std::str::from_utf8(id).ok()?).ok()?;
        Some(Self { id, incarnation: std::str::from_utf8(incarnation).ok()?.parse().ok()? })
    }
}

fn malformed(what: &str, answer: &Value) -> RegistryError {
    RegistryError::Malformed(format!("{what}: {answer:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(run: &str) -> Value {
        Value::BulkString(format!("# Server\r\nredis_version:7\r\nrun_id:{run}\r\n").into_bytes())
    }

    fn cluster(runs: &[&str]) -> Value {
        let name = |index: usize| Value::SimpleString(format!("127.0.0.1:{index}"));
        Value::Map(runs.iter().enumerate().map(|(at, run)| (name(at), info(run))).collect())
    }

    #[test]
    fn a_generation_is_of_the_servers_that_answer_whatever_their_order() {
        let one = generation_of(&info("abc"));
        assert!(one.is_some());
        assert_ne!(one, generation_of(&info("abd")));
        let three = generation_of(&cluster(&["a", "b", "c"]));
        assert_eq!(three, generation_of(&cluster(&["c", "a", "b"])));
        for other in [&["a", "b"][..], &["a", "b", "d"]] {
            assert_ne!(three, generation_of(&cluster(other)));
        }
        for silent in [Value::Nil, Value::Okay, Value::BulkString(b"redis_version:7".into())] {
            assert_eq!(generation_of(&silent), None);
        }
    }
}
