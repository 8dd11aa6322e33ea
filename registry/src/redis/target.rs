//! What a registry URL names, and how to open a connection to it.
//!
//! Reads the URL once. Its texts (labels, errors) never hold credentials: they are made of
//! addresses and of our own words alone.

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    aio::MultiplexedConnection,
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::limits;

const SCHEMES: &str = "redis://, rediss://, redis+cluster:// or redis+sentinel://";
const SENTINEL_PORT: u16 = 26379;

/// What a URL names.
pub(super) enum Target {
    /// One server, or the present master of several.
    Server(Box<Server>),
    /// The masters of a cluster, each for its part of the keys.
    Cluster(Seeds),
}

/// The kinds of connections.
pub(super) struct Server {
    way: Way,
    label: Box<str>,
}

enum Way {
    Direct(Client),
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: Box<str>,
        server: SentinelNodeConnectionInfo,
        database: i64,
    },
}

/// Where a server of a cluster is, as the servers tell each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

/// Some servers of a cluster, which name the others.
pub(super) struct Seeds {
    servers: Vec<ConnectionInfo>,
    label: Box<str>,
}

impl Target {
    /// Reads a registry URL. Opens nothing.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not quote it.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| format!("not a URL: it begins with {SCHEMES}"))?;
        match scheme {
            "redis" | "rediss" => Self::server(url),
            "redis+cluster" => Self::cluster(rest),
            "redis+sentinel" => Self::sentinel(rest),
            _ => Err(format!("unknown scheme: it is {SCHEMES}")),
        }
    }

    fn server(url: &str) -> Result<Self, String> {
        if url.contains('#') {
            return Err("a registry URL has no fragment (write # in a password as %23)".to_owned());
        }
        let scheme = url.split_once("://").map_or("redis", |(scheme, _)| scheme);
        Server::direct(connection_info(url)?, scheme)
            .map(|server| Self::Server(Box::new(server)))
            .map_err(|error| plain(&error))
    }

    fn cluster(rest: &str) -> Result<Self, String> {
        let list = ServerList::parse(rest)?;
        if !list.path.is_empty() {
            return Err("a cluster's URL ends with its addresses: it has no databases".to_owned());
        }
        let servers = list
            .addresses
            .iter()
            .map(|address| connection_info(&format!("redis://{}{address}", list.credentials)))
            .collect::<Result<Vec<_>, _>>()?;
        let label = format!("redis+cluster://{}", addresses(&servers)).into();
        Ok(Self::Cluster(Seeds { servers, label }))
    }

    /// The credentials are the servers'; sentinels are asked without any.
    fn sentinel(rest: &str) -> Result<Self, String> {
        let list = ServerList::parse(rest)?;
        let (master, database) = match list.path.split_once('/') {
            Some((master, database)) => (master, database),
            None => (list.path, ""),
        };
        if master.is_empty() {
            return Err("a sentinel URL ends with /<master name> or /<master name>/<db>".to_owned());
        }
        let sentinels = list
            .addresses
            .iter()
            .map(|address| {
                let port =
                    if has_port(address) { String::new() } else { format!(":{SENTINEL_PORT}") };
                connection_info(&format!("redis://{address}{port}"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        // The sentinels will tell the address: this one stands in for it while the rest is read.
        let server = connection_info(&format!("redis://{}master/{database}", list.credentials))?;
        let database = server.redis_settings().db();
        let server = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(server.redis_settings().clone())
            .set_tcp_settings(tcp_settings());
        let label = format!("redis+sentinel://{}/{master}", addresses(&sentinels)).into();
        let way = Way::Sentinel { sentinels, master: master.into(), server, database };
        Ok(Self::Server(Box::new(Server { way, label })))
    }
}

impl Server {
    fn direct(info: ConnectionInfo, scheme: &str) -> Result<Self, RedisError> {
        let label = format!("{scheme}://{}", info.addr()).into();
        Ok(Self { way: Way::Direct(Client::open(info)?), label })
    }

    /// The URL without user, password and database, for people.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The number of the database that the URL names.
    pub(super) fn database(&self) -> i64 {
        match &self.way {
            Way::Direct(client) => client.get_connection_info().redis_settings().db(),
            Way::Sentinel { database, .. } => *database,
        }
    }

    /// Whether a server that is to be spoken to over TLS answers without: a Redis that gets a TLS
    /// greeting waits for its end, and says nothing. Never sends more than a `PING`.
    pub(super) async fn answers_without_tls(&self) -> bool {
        let Way::Direct(client) = &self.way else { return false };
        let ConnectionAddr::TcpTls { host, port, .. } = client.get_connection_info().addr() else {
            return false;
        };
        let ask = async {
            let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.write_all(b"PING\r\n").await?;
            stream.read_u8().await
        };
        let answer = timeout(limits::PROBE_TIME_MAX, ask).await;
        matches!(answer, Ok(Ok(b'+' | b'-')))
    }

    /// Opens a connection; asks the sentinels for the master anew each time.
    ///
    /// # Errors
    /// Whatever keeps it from being open. Cancel safe.
    pub(super) async fn open(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limits::CONNECT_TIME_MAX))
            .set_response_timeout(Some(limits::RESPONSE_TIME_MAX))
            .set_pipeline_buffer_size(limits::BATCHES_QUEUED_MAX);
        match &self.way {
            Way::Direct(client) => {
                client.get_multiplexed_async_connection_with_config(&config).await
            }
            Way::Sentinel { sentinels, master, server, .. } => {
                let mut client = SentinelClient::build(
                    sentinels.clone(),
                    master,
                    Some(server.clone()),
                    SentinelServerType::Master,
                )?;
                client.get_async_connection_with_config(&config).await
            }
        }
    }
}

impl Seeds {
    /// The URL without user and password, for people.
    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// The addresses that the URL names.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.servers.iter().map(|info| match info.addr() {
            ConnectionAddr::Tcp(host, port) => Address { host: host.as_str().into(), port: *port },
            _ => unreachable!("its URL begins with redis://"),
        })
    }

    /// A server of the cluster, which takes the same credentials as all.
    pub(super) fn server(&self, at: &Address) -> Server {
        let address = ConnectionAddr::Tcp(at.host.to_string(), at.port);
        Server::direct(self.servers[0].clone().set_addr(address), "redis+cluster")
            .expect("another address is one as well")
    }
}

/// `[user:password@]host[:port][,host[:port]…][/path]`
struct ServerList<'u> {
    /// Empty, or with the `@` at its end.
    credentials: &'u str,
    addresses: Vec<&'u str>,
    path: &'u str,
}

impl<'u> ServerList<'u> {
    fn parse(rest: &'u str) -> Result<Self, String> {
        if rest.contains(['?', '#']) {
            return Err("a list of servers has no query and no fragment".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, addresses) =
            authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        let addresses: Vec<_> = addresses.split(',').collect();
        if addresses.iter().any(|address| address.is_empty()) {
            return Err("a list of servers is host:port, or several with commas between".to_owned());
        }
        Ok(Self { credentials, addresses, path })
    }
}

fn has_port(address: &str) -> bool {
    // An IPv6 address has colons of its own, within brackets.
    address.rfind(':') > address.rfind(']')
}

fn connection_info(url: &str) -> Result<ConnectionInfo, String> {
    let info = url.into_connection_info().map_err(|error| plain(&error))?;
    Ok(info.set_tcp_settings(tcp_settings()))
}

fn tcp_settings() -> TcpSettings {
    // The crate leaves Nagle's algorithm on: a small batch would wait for the one before it.
    TcpSettings::default().set_nodelay(true)
}

fn addresses(servers: &[ConnectionInfo]) -> String {
    let addresses: Vec<_> = servers.iter().map(|info| info.addr().to_string()).collect();
    addresses.join(",")
}

/// The crate's own words for what is wrong with a URL, without the detail, which may quote it.
fn plain(error: &RedisError) -> String {
    let text = error.to_string();
    text.split(" - ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_of_a_url() {
        let good = [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://127.0.0.1", "redis://127.0.0.1:6379"),
            ("redis://user:pass@redis.example:1/3", "redis://redis.example:1"),
            ("redis://:p%23ss@[::1]:6380/0", "redis://::1:6380"),
            ("rediss://redis.example:6380", "rediss://redis.example:6380"),
            ("redis+cluster://a:1", "redis+cluster://a:1"),
            ("redis+cluster://user:pass@a:1,b,[::1]:3/", "redis+cluster://a:1,b:6379,::1:3"),
            ("redis+sentinel://a/main", "redis+sentinel://a:26379/main"),
            (
                "redis+sentinel://:p@ss@a:1,[::1],c:3/main/2",
                "redis+sentinel://a:1,::1:26379,c:3/main",
            ),
        ];
        for (url, label) in good {
            let target = Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            let found = match &target {
                Target::Server(server) => server.label(),
                Target::Cluster(seeds) => seeds.label(),
            };
            assert_eq!(found, label, "{url}");
        }
    }

    #[test]
    fn refuses_other_urls_without_quoting_them() {
        let bad = [
            "",
            "memory:",
            "user:secret@host:1",
            "secret://host:1",
            "redis://",
            "redis://:sec#ret@host:1",
            "redis://:secret@host:port",
            "redis://:secret@host:99999",
            "redis://:secret@host/db",
            "redis://:secret@0.0.0.0:1",
            "rediss://host:1#insecure",
            "redis+unix:///secret",
            "redis+cluster://",
            "redis+cluster://:secret@",
            "redis+cluster://:secret@a,,b",
            "redis+cluster://:secret@a:1/3",
            "redis+cluster://a:1?secret",
            "redis+sentinel://:secret@a:1",
            "redis+sentinel://:secret@a:1/",
            "redis+sentinel://:secret@a:1/main/db",
            "redis+sentinel://:secret@a:port/main",
        ];
        for url in bad {
            let Err(error) = Target::parse(url) else { panic!("{url} was taken") };
            assert!(!error.is_empty() && !error.contains("sec"), "{url}: {error}");
        }
    }
}
