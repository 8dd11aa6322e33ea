//! What can happen between a registry and its server: an answer gets lost.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use crate::server::Server;

/// Stands before a server, and can lose its answers: it takes a call there, and closes the
/// connection instead of bringing the answer.
pub(crate) struct Lossy {
    port: u16,
    state: Arc<Losses>,
}

#[derive(Default)]
struct Losses {
    armed: AtomicBool,
    lost: AtomicU32,
}

impl Lossy {
    pub(crate) fn before(server: &Server) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound address").port();
        let (state, behind) = (Arc::new(Losses::default()), server.port);
        let of_threads = Arc::clone(&state);
        // The threads end with the process, or when both ends of a connection have closed.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)) else {
                    continue;
                };
                let [Ok(calls), Ok(answers)] = [client.try_clone(), server.try_clone()] else {
                    continue;
                };
                thread::spawn(move || pass(calls, server, || true));
                let state = Arc::clone(&of_threads);
                thread::spawn(move || pass(answers, client, || !state.loses()));
            }
        });
        Self { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn lose_the_next_answer(&self) {
        self.state.armed.store(true, Ordering::SeqCst);
    }

    /// How many answers have been lost.
    pub(crate) fn lost(&self) -> u32 {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl Losses {
    fn loses(&self) -> bool {
        let loses = self.armed.swap(false, Ordering::SeqCst);
        self.lost.fetch_add(loses.into(), Ordering::SeqCst);
        loses
    }
}

/// Passes on what comes, until one end has closed or `may_pass` says no.
fn pass(mut from: TcpStream, mut to: TcpStream, may_pass: impl Fn() -> bool) {
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !may_pass() || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    // The other direction may have closed them, which is as well.
    for end in [from, to] {
        end.shutdown(Shutdown::Both).ok();
    }
}
