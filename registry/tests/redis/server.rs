//! Redis servers for one test: started on free loopback ports, killed when they are dropped.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use registry::RedisRegistry;
use tempfile::TempDir;
use tokio::time::Instant;

/// The name of a server's configuration file, in its directory.
const FILE: &str = "redis.conf";
/// How long a server may take to start, or to do what it was told.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One server process.
pub(crate) struct Server {
    pub(crate) port: u16,
    /// Holds its configuration file, which a sentinel rewrites, and what a cluster remembers.
    dir: TempDir,
    mode: &'static [&'static str],
    child: Option<Child>,
}

impl Server {
    /// A server that is up. `options` are lines of its configuration file.
    pub(crate) fn start(options: &str) -> Self {
        let mut server = Self::prepared(options);
        server.run();
        server
    }

    /// A server that has a port, and is not up.
    pub(crate) fn prepared(options: &str) -> Self {
        Self::with_file(&format!("save \"\"\nappendonly no\n{options}\n"), &[])
    }

    /// A sentinel that is up. `options` are lines of its configuration file.
    pub(crate) fn sentinel(options: &str) -> Self {
        let mut server = Self::with_file(&format!("{options}\n"), &["--sentinel"]);
        server.run();
        server
    }

    fn with_file(options: &str, mode: &'static [&'static str]) -> Self {
        let port = free_port();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = format!("port {port}\nbind 127.0.0.1\ndaemonize no\n{options}");
        fs::write(dir.path().join(FILE), text).expect("the file can be written");
        Self { port, dir, mode, child: None }
    }

    /// Starts it, on the port that it has.
    pub(crate) fn run(&mut self) {
        let child = Command::new("redis-server")
            .arg(FILE)
            .args(self.mode)
            .current_dir(self.dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("redis-server did not start (apt-get install redis-server): {error}")
            });
        self.child = Some(child);
        let up = || self.try_ask("PING").is_ok();
        wait("redis-server answers", up);
    }

    /// Kills it, and forgets all that it held.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child can be killed");
            child.wait().expect("a killed child ends");
        }
    }

    /// Sends its process a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it is running").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.expect("kill can be run").success(), "kill -{name} {pid}");
    }

    /// Sends one command as a line of words, and gives the text of the reply: the parts of a list
    /// one a line, what is not text as it comes.
    pub(crate) fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("no reply to {command}: {error}"))
    }

    fn try_ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        read_reply(&mut BufReader::new(stream))
    }

    /// The address as it stands in a URL.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// A registry in it, of which nobody else knows.
    pub(crate) async fn registry(&self) -> RedisRegistry {
        registry_at(&self.url()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself, and a test that fails has more to say than this.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn read_reply(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or(io::ErrorKind::UnexpectedEof)?;
    let length: Result<usize, _> = rest.parse();
    match (kind, length) {
        ("$", Ok(length)) => {
            let mut text = vec![0; length + 2];
            from.read_exact(&mut text)?;
            Ok(String::from_utf8_lossy(&text[..length]).into_owned())
        }
        ("*", Ok(length)) => {
            let parts: io::Result<Vec<_>> = (0..length).map(|_| read_reply(from)).collect();
            Ok(parts?.join("\n"))
        }
        _ => Ok(rest.to_owned()),
    }
}

/// A registry at a URL, under a prefix of its own.
pub(crate) async fn registry_at(url: &str) -> RedisRegistry {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("test:{}:{count}:", uuid::Uuid::new_v4().simple());
    RedisRegistry::connect(url, &prefix).await.expect("a good URL and a good prefix")
}

/// The URL of a Redis that somebody else has started, if there is one.
pub(crate) fn given_url() -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration but this")]
    env::var("ROUNDTRIP_TEST_REDIS").ok()
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// Waits until `probe` says yes.
pub(crate) fn wait(what: &str, probe: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !probe() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
