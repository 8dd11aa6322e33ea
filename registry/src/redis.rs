//! The table of a cluster, in Redis 5 or later (or Valkey): one server, servers behind sentinels,
//! or a Redis Cluster.
//!
//! Owns what is written and read. How the bytes get there is [`servers`]'; keys are [`keys`]'.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value};
use uuid::Uuid;

use self::{generation::Runs, keys::Keys, link::Answer, servers::Servers, target::Target};
use crate::{
    clock::Clock,
    error::RegistryError,
    ids::{NodeId, NodeRef, RequestId},
    tables::{
        Announcement, Answers, Generation, NODE_TTL_MAX, NODE_TTL_MIN, NodeEntry, NodeTable, Nodes,
        RequestTable, Route, millis,
    },
    unreadable::{EntryKind, Unreadable},
};

mod cluster;
mod entries;
mod generation;
mod keys;
mod limits;
mod link;
mod results;
mod scripts;
mod servers;
mod sessions;
mod target;
mod trouble;
mod views;

/// A registry in Redis. A clone shares the connections.
///
/// Whatever happens to the server, a call ends within 2.5 seconds; while the server cannot be
/// reached calls fail with [`RegistryError::Unreachable`], and half a second after it is back they
/// succeed again. In a cluster, so does what has its keys on a master that cannot be reached, with
/// [`RegistryError::PartlyUnreachable`]; what has its keys on the others is answered meanwhile.
#[derive(Clone)]
pub struct RedisRegistry {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Servers,
    runs: Runs,
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
    /// [`RegistryError::Misconfigured`] when [`check_url`] or [`RedisRegistry::check_prefix`]
    /// refuses one of them.
    pub async fn connect(url: &str, prefix: &str) -> Result<Self, RegistryError> {
        let target = Target::parse(url).map_err(RegistryError::Misconfigured)?;
        let keys = Keys::new(prefix).map_err(RegistryError::Misconfigured)?;
        let servers = Servers::open(target).await;
        let (runs, unanswered, unreadable) = Default::default();
        let shared = Shared { servers, runs, keys, unanswered, unreadable };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether keys can begin with this text: at most 64 bytes, without braces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_prefix(prefix: &str) -> Result<(), String> {
        Keys::check_prefix(prefix)
    }
}

/// Whether a [`RedisRegistry`] can be at this URL: `redis://` or `rediss://` (TLS)
/// `[user:password@]host[:port][/db]`,
/// `redis+cluster://[user:password@]host[:port][,host[:port]…]`, or
/// `redis+sentinel://[user:password@]host[:port][,host[:port]…]/<master name>[/<db>]`, whose user
/// and password are those of the servers. A function of its own, for those who only read a
/// configuration. Opens nothing.
///
/// # Errors
/// What is wrong with it, in words that do not quote it.
pub fn check_url(url: &str) -> Result<(), String> {
    Target::parse(url).map(drop)
}

impl fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { servers, keys, .. } = &*self.shared;
        f.debug_struct("RedisRegistry")
            .field("at", servers)
            .field("prefix", &keys.prefix())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl RequestTable for RedisRegistry {
    async fn put_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Answers<()> {
        let batch = self.shared.set_routes(routes);
        let answers = self.shared.servers.batch(&batch).await;
        answers.into_iter().map(|answer| answer.map(drop)).collect()
    }

    async fn find_routes(&self, requests: &[RequestId]) -> Answers<Option<Route>> {
        let found = self.shared.of_routes("MGET", requests, |answer, count| match answer {
            Value::Array(values) if values.len() == count => Ok(values),
            other => Err(malformed("routes", &other)),
        });
        let read = |(found, request): (Answer, &RequestId)| {
            let Value::BulkString(bytes) = found? else { return Ok(None) };
            let route = entries::read_route(&bytes);
            if route.is_none() {
                self.shared.unreadable.add(EntryKind::Route, || request.to_string());
            }
            Ok(route)
        };
        found.await.into_iter().zip(requests).map(read).collect()
    }

    async fn remove_routes(&self, requests: &[RequestId]) -> Answers<()> {
        let removed = |_, count| Ok(vec![Value::Okay; count]);
        let answers = self.shared.of_routes("UNLINK", requests, removed).await;
        answers.into_iter().map(|answer| answer.map(drop)).collect()
    }
}

#[async_trait]
impl NodeTable for RedisRegistry {
    async fn announce(
        &self,
        entry: &NodeEntry,
        ttl: Duration,
    ) -> Result<Announcement, RegistryError> {
        let Shared { servers, keys, .. } = &*self.shared;
        let call = *self.shared.unanswered().entry(entry.node.clone()).or_insert_with(Uuid::new_v4);
        let mut cmd = scripts::ANNOUNCE.call(&[keys.nodes()], 5, 256);
        cmd.arg(entry.node.id.as_str()).arg(entries::write_number(entry.node.incarnation));
        cmd.arg(millis(ttl.clamp(NODE_TTL_MIN, NODE_TTL_MAX)));
        cmd.arg(call.to_string()).arg(entries::write_node(entry));
        let answer = servers.script(&scripts::ANNOUNCE, cmd).await?;
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
        let Shared { servers, keys, .. } = &*self.shared;
        let Value::Array(found) =
            servers.script(&scripts::NODES, scripts::NODES.call(&[keys.nodes()], 0, 0)).await?
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

    fn trouble(&self) -> Option<RegistryError> {
        self.shared.servers.trouble()
    }

    async fn generation(&self) -> Result<Option<Generation>, RegistryError> {
        let Shared { servers, runs, .. } = &*self.shared;
        runs.generation(servers.everywhere(Runs::question()).await)
    }

    async fn leave(&self, node: &NodeRef) -> Result<(), RegistryError> {
        let Shared { servers, keys, .. } = &*self.shared;
        let mut cmd = scripts::LEAVE.call(&[keys.nodes()], 2, 84);
        cmd.arg(node.id.as_str()).arg(entries::write_number(node.incarnation));
        servers.script(&scripts::LEAVE, cmd).await.map(drop)
    }
}

impl Shared {
    /// A `SET` with its life for each route.
    fn set_routes(&self, routes: &[(RequestId, Arc<Route>)]) -> Pipeline {
        let now_ms = Clock::System.unix_ms();
        let (mut key, mut value) = (String::new(), Vec::new());
        let mut batch = Pipeline::with_capacity(routes.len());
        for (request, route) in routes {
            let key = self.keys.route(request, &mut key);
            entries::write_route(route, &mut value);
            let mut command = Cmd::with_capacity(5, key.len() + value.len() + 16);
            command.arg("SET").arg(key).arg(&value[..]).arg("PX").arg(millis(route.ttl(now_ms)));
            batch.add_command(command);
        }
        batch
    }

    /// This command on the routes of all these requests, of as many at once as can be. `read` takes
    /// an answer apart that is about so many of them.
    async fn of_routes(
        &self,
        verb: &str,
        requests: &[RequestId],
        read: impl Fn(Value, usize) -> Result<Vec<Value>, RegistryError>,
    ) -> Vec<Answer> {
        let mut key = String::new();
        let mut batch = Pipeline::new();
        let parts = requests.chunks(self.servers.keys_max());
        for requests in parts.clone() {
            let size = self.keys.route_len() * requests.len();
            let mut command = Cmd::with_capacity(requests.len() + 1, size + verb.len());
            command.arg(verb);
            for request in requests {
                command.arg(self.keys.route(request, &mut key));
            }
            batch.add_command(command);
        }
        let answers = self.servers.batch(&batch).await;
        let mut values = Vec::with_capacity(requests.len());
        for (answer, of) in answers.into_iter().zip(parts) {
            match answer.and_then(|answer| read(answer, of.len())) {
                Ok(answer) => values.extend(answer.into_iter().map(Ok)),
                Err(error) => values.extend(vec![Err(error); of.len()]),
            }
        }
        values
    }

    fn unanswered(&self) -> MutexGuard<'_, HashMap<NodeRef, Uuid>> {
        // A map of whole entries, whoever panicked while holding it.
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
