//! One client's book: what it asked, what it was told, and whether that was allowed.
//!
//! It reads and writes nothing else. Whether a frame may come again is decided as the contract does:
//! only when its node was killed before the frame was acknowledged. An acknowledgement counts as
//! received once the same connection has answered two pings that were sent after it: the node
//! writes it down within milliseconds, and may die before it has.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    account::Account,
    client::Frame,
    reliable::{Profile, Progress, directory::Directory},
};

/// The book of one client, over all its sessions.
#[derive(Debug)]
pub struct Ledger {
    name: String,
    reliable: bool,
    timeout: Duration,
    directory: Arc<Directory>,
    progress: Arc<Progress>,
    /// What waits for its end, by number; the number is its id.
    open: BTreeMap<u64, Asked>,
    ended: HashMap<u64, Ended>,
    numbers: u64,
    /// Counted over all sessions; there is one from the first connection on.
    connections: Vec<Connection>,
    session: usize,
    last_seq: u64,
    acked: u64,
    probes: u64,
    /// The ping that is not answered, and what had been acknowledged before it.
    probe: Option<(u64, u64)>,
    account: Account,
}

#[derive(Debug)]
struct Connection {
    node: String,
    since: Instant,
    /// Up to here the node is known to have received our acknowledgement.
    confirmed: u64,
    /// Up to here it has received it, but may not have written that down yet.
    heard: u64,
}

#[derive(Debug)]
struct Asked {
    service: String,
    sent_at: Instant,
    connection: usize,
    receipt: Option<Told>,
}

/// A frame that came once.
#[derive(Debug)]
struct Told {
    connection: usize,
    seq: u64,
    request_id: String,
}

#[derive(Debug)]
struct Ended {
    session: usize,
    receipt: Option<Told>,
    end: Told,
    content: u64,
}

impl Ledger {
    /// An empty book. Names must differ, so that no two requests have the same payload.
    pub fn new(
        name: String,
        profile: &Profile,
        directory: Arc<Directory>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            name,
            reliable: profile.reliable,
            timeout: profile.timeout,
            directory,
            progress,
            open: BTreeMap::new(),
            ended: HashMap::new(),
            numbers: 0,
            connections: Vec::new(),
            session: 0,
            last_seq: 0,
            acked: 0,
            probes: 0,
            probe: None,
            account: Account::default(),
        }
    }

    /// What has been counted so far.
    pub fn account(&mut self) -> &mut Account {
        &mut self.account
    }

    /// The number of the last frame.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// How many requests wait for their end.
    pub fn waiting(&self) -> usize {
        self.open.len()
    }

    /// How many frames are not acknowledged.
    pub fn unacked(&self) -> u64 {
        self.last_seq - self.acked
    }

    /// Writes down a request that is about to be sent, and gives its frame.
    pub fn ask(&mut self, service: &str) -> String {
        self.numbers += 1;
        let number = self.numbers;
        let asked = Asked {
            service: service.to_owned(),
            sent_at: Instant::now(),
            connection: self.connections.len() - 1,
            receipt: None,
        };
        self.account.sent += 1;
        let frame = self.frame(number, service);
        self.open.insert(number, asked);
        frame
    }

    /// The frames of all requests that wait, to be sent again just as they were.
    pub fn ask_again(&self) -> Vec<String> {
        self.open.iter().map(|(&number, asked)| self.frame(number, &asked.service)).collect()
    }

    /// The frame that acknowledges all there is.
    pub fn ack(&mut self) -> String {
        self.acked = self.last_seq;
        format!(r#"{{"type":"ack","seq":{}}}"#, self.acked)
    }

    /// A ping whose answer shows that all acknowledgements before it were received.
    pub fn probe(&mut self) -> String {
        self.probes += 1;
        if self.probe.is_none() {
            self.probe = Some((self.probes, self.acked));
        }
        format!(r#"{{"type":"ping","id":{}}}"#, self.probes)
    }

    /// A connection to it begins.
    pub fn connected(&mut self, node: &str) {
        self.probe = None;
        let confirmed = if self.reliable { 0 } else { u64::MAX };
        let (node, since) = (node.to_owned(), Instant::now());
        self.connections.push(Connection { node, since, confirmed, heard: 0 });
    }

    /// The session was not resumed: what waits becomes new requests, which are still to be sent.
    pub fn start_over(&mut self) {
        let last = self.connections.last();
        let killed = last.is_some_and(|last| self.directory.lost_since(&last.node, last.since));
        // Without acknowledgements nothing is promised when a node is killed.
        if self.reliable || !killed {
            self.account.broken += 1;
            let node = last.map(|last| last.node.as_str()).unwrap_or_default();
            self.account.complain(format!("{}: not resumed after {node}", self.name));
        }
        self.session += 1;
        self.last_seq = 0;
        self.acked = 0;
        let open = std::mem::take(&mut self.open);
        self.account.abandoned += open.len() as u64;
        for asked in open.into_values() {
            self.ask(&asked.service);
        }
    }

    /// Takes note of a frame.
    pub fn take(&mut self, frame: &Frame) {
        let kind = frame.kind();
        if kind == "pong" {
            return self.pong(frame);
        }
        if frame.seq() != self.last_seq + 1 {
            self.wrong(&format!("not number {}", self.last_seq + 1), frame);
        }
        self.last_seq = self.last_seq.max(frame.seq());
        let number = frame.get("id").unwrap_or(0);
        if !(1..=self.numbers).contains(&number) {
            return self.wrong("about nothing that was asked", frame);
        }
        match kind.as_str() {
            _ if !self.open.contains_key(&number) => self.again(number, frame),
            "receipt" => self.receipt(number, frame),
            "response" | "error" if frame.is_terminal() => self.end(number, frame),
            _ => self.wrong("unexpected", frame),
        }
    }

    /// Closes the book: whatever waits now will never end.
    pub fn close(mut self) -> Account {
        for (number, asked) in std::mem::take(&mut self.open) {
            let (name, service, waited) = (&self.name, asked.service, asked.sent_at.elapsed());
            let what = format!("{name} {number} to {service} for {waited:.1?}");
            match &asked.receipt {
                Some(told) => {
                    self.account.lost += 1;
                    self.account.complain(format!("lost: {what}, {}", told.request_id));
                }
                None => {
                    self.account.silent += 1;
                    self.account.complain(format!("nothing heard of: {what}"));
                }
            }
        }
        self.account
    }

    fn payload(&self, number: u64) -> String {
        format!(r#"{{"n":{number},"by":"{}"}}"#, self.name)
    }

    fn frame(&self, number: u64, service: &str) -> String {
        let (payload, timeout) = (self.payload(number), self.timeout.as_millis());
        // Some requests ask for no receipt, because a receipt may hide faults that show without it.
        let receipt = !number.is_multiple_of(4);
        format!(
            r#"{{"service":"{service}","id":{number},"payload":{payload},"timeout_ms":{timeout},"receipt":{receipt}}}"#
        )
    }

    fn pong(&mut self, frame: &Frame) {
        if let (Some((probe, acked)), Some(last)) = (self.probe, self.connections.last_mut())
            && frame.get("id") == Some(probe)
        {
            // This was acknowledged one ping earlier, so the node has had the time to tell the
            // registry.
            last.confirmed = last.confirmed.max(last.heard);
            last.heard = last.heard.max(acked);
            self.probe = None;
        }
    }

    fn told(&self, frame: &Frame) -> Told {
        let (connection, seq) = (self.connections.len() - 1, frame.seq());
        Told { connection, seq, request_id: frame.request_id() }
    }

    fn receipt(&mut self, number: u64, frame: &Frame) {
        let told = self.told(frame);
        let Some(asked) = self.open.get_mut(&number) else { return };
        match asked.receipt.replace(told) {
            None => self.accepted(),
            Some(before) => self.repeated(&before, frame),
        }
    }

    fn end(&mut self, number: u64, frame: &Frame) {
        let Some(asked) = self.open.remove(&number) else { return };
        let told = self.told(frame);
        let ok = frame.kind() == "response";
        if ok && frame.payload() != self.payload(number) {
            self.wrong("another's answer", frame);
        }
        let known = asked.receipt.as_ref().map(|receipt| receipt.request_id.as_str());
        if known.is_some_and(|known| known != told.request_id && !told.request_id.is_empty()) {
            self.wrong(&format!("produced again: it was {known:?}"), frame);
        }
        let recorded = ok || frame.get("recorded") == Some(true);
        if asked.receipt.is_none() && recorded {
            self.accepted();
        }
        if ok {
            self.account.answered += 1;
            self.progress.answered.fetch_add(1, Ordering::Relaxed);
        } else {
            self.account.note_error(frame.code(), || frame.text.clone());
            self.account.unserved += u64::from(recorded || asked.receipt.is_some());
        }
        self.waited(&asked);
        let (session, receipt, content) = (self.session, asked.receipt, hash(frame));
        self.ended.insert(number, Ended { session, receipt, end: told, content });
    }

    /// A frame about a request that has ended.
    fn again(&mut self, number: u64, frame: &Frame) {
        let Some(mut ended) = self.ended.remove(&number) else {
            return self.wrong("about a request of a session that is over", frame);
        };
        let is_receipt = frame.kind() == "receipt";
        // A receipt and an end are two frames: either may come again for itself.
        let before = match is_receipt {
            true => ended.receipt.as_ref().unwrap_or(&ended.end),
            false => &ended.end,
        };
        if (is_receipt || ended.content == hash(frame)) && ended.session == self.session {
            self.repeated(before, frame);
        } else {
            self.duplicate("another end", frame);
        }
        // The last copy is the one that may be repeated when its node is killed.
        let told = self.told(frame);
        match is_receipt {
            true => ended.receipt = Some(told),
            false => ended.end = told,
        }
        self.ended.insert(number, ended);
    }

    /// A frame came a second time: whether it may.
    fn repeated(&mut self, before: &Told, frame: &Frame) {
        let since = &self.connections[before.connection..self.connections.len() - 1];
        let may = since.iter().any(|connection| {
            before.seq > connection.confirmed
                && self.directory.lost_since(&connection.node, connection.since)
        });
        if may && before.request_id == frame.request_id() {
            self.account.repeats += 1;
        } else {
            self.duplicate(&format!("again after {before:?}"), frame);
        }
    }

    fn waited(&mut self, asked: &Asked) {
        let waited = asked.sent_at.elapsed();
        self.account.longest_wait = self.account.longest_wait.max(waited);
        let stayed = asked.connection == self.connections.len() - 1;
        let node = &self.connections[asked.connection].node;
        if stayed && !self.directory.troubled(node, asked.sent_at, Instant::now()) {
            let longest = &mut self.account.longest_wait_of_survivors;
            *longest = waited.max(*longest);
        }
    }

    fn accepted(&mut self) {
        self.account.accepted += 1;
        self.progress.accepted.fetch_add(1, Ordering::Relaxed);
    }

    fn wrong(&mut self, complaint: &str, frame: &Frame) {
        self.account.note_wrong(format!("{}: {complaint}: {}", self.name, frame.text));
    }

    fn duplicate(&mut self, complaint: &str, frame: &Frame) {
        self.account.note_duplicate(format!("{}: {complaint}: {}", self.name, frame.text));
    }
}

fn hash(frame: &Frame) -> u64 {
    let mut hasher = DefaultHasher::new();
    frame.content().hash(&mut hasher);
    hasher.finish()
}
