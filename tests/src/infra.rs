//! Kafka and Redis for the tests: those named in the environment, or servers of our own on free
//! loopback ports. One of each serves all tests of a process, which keep apart by the names of
//! their topics and keys; a test that stops or kills a server starts one for itself.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use rand::RngExt;

pub mod kafka;
pub mod proxy;
pub mod redis;
pub mod redis_cluster;

/// A free loopback port, given to nobody else in this process.
///
/// It is not one of those the system hands to outgoing connections, so that a server which is
/// stopped finds it free again.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = taken.get_or_insert_default();
    let mut rng = rand::rng();
    loop {
        let port = rng.random_range(10_000..30_000);
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
}

/// The node built together with these tests, or the program in `ROUNDTRIP_TEST_NODE`.
///
/// # Errors
/// When it has not been built.
pub fn node_program() -> Result<PathBuf> {
    match std::env::var_os("ROUNDTRIP_TEST_NODE") {
        Some(path) => Ok(path.into()),
        None => built_node(),
    }
}

/// The node built together with these tests, which can also play a later version.
///
/// # Errors
/// When it has not been built.
pub fn built_node() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut dir = own.parent().context("a program is in a folder")?;
    if dir.ends_with("deps") {
        dir = dir.parent().context("Cargo's `deps` is in a folder")?;
    }
    let path = dir.join("test-node");
    ensure!(path.exists(), "{} is not built: cargo build -p tests --bins", path.display());
    Ok(path)
}

/// The checkout these tests were built from.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}
