//! One client: its connections, one after the other, and the clockwork of each.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    SOON,
    client::{Connect, Event, Frame, Handshake, WsClient},
    reliable::{
        Profile,
        directory::{Choice, Directory},
        ledger::Ledger,
    },
};

/// Acknowledged at the latest when so many frames wait for it, or one has for so long.
const ACK_FRAMES: u64 = 8;
const ACK_DELAY: Duration = Duration::from_millis(20);
/// Between two pings.
const PROBE_PERIOD: Duration = Duration::from_millis(500);
/// How long a node may take to say welcome before another one is tried.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long it listens on when all is answered: whatever comes then is an answer too many.
const LINGER: Duration = Duration::from_secs(1);
/// Waits before a new connection are random up to these. The last one doubles with each failure.
const AFTER_DRAIN: Duration = Duration::from_secs(1);
const AFTER_END: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

pub(super) struct Client {
    profile: Profile,
    choice: Choice,
    /// Whether it says that it is reliable as a subprotocol or in the query.
    by_subprotocol: bool,
    directory: Arc<Directory>,
    ledger: Ledger,
    rng: StdRng,
    /// Of the session that goes on: its id and the token to resume it with.
    session: Option<(String, String)>,
    attempts: usize,
    stop: CancellationToken,
    /// When the last answer must be there, once no more is asked.
    until: Option<Instant>,
}

/// Why a connection is over.
enum End {
    /// A new one is to be made after a random wait up to this.
    ComeBack(Duration),
    /// No more are to be made.
    Done,
}

/// What is due when on a connection.
struct Clock {
    heard: Instant,
    ask: Instant,
    probe: Instant,
    leave: Option<Instant>,
    /// Since when a frame waits to be acknowledged.
    unacked: Option<Instant>,
}

impl Client {
    pub(super) fn new(
        profile: Profile,
        index: usize,
        directory: Arc<Directory>,
        ledger: Ledger,
        rng: StdRng,
    ) -> Self {
        Self {
            profile,
            choice: [Choice::Random, Choice::Next, Choice::Well][index / 3 % 3],
            by_subprotocol: index.is_multiple_of(2),
            directory,
            ledger,
            rng,
            session: None,
            attempts: index,
            stop: CancellationToken::new(),
            until: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> crate::account::Account {
        self.stop = stop;
        while let Some(mut ws) = self.connect().await {
            match self.converse(&mut ws).await {
                End::ComeBack(within) => {
                    drop(ws);
                    sleep(self.up_to(within)).await;
                }
                End::Done => {
                    // The node may be gone by now, which is as good.
                    drop(ws.close().await);
                    break;
                }
            }
        }
        self.ledger.close()
    }

    /// Tries until a node takes us; `None` when it is too late.
    async fn connect(&mut self) -> Option<WsClient> {
        let mut back_off = AFTER_END;
        while !self.is_over() {
            if self.session.is_some() {
                self.ledger.account().reconnects.push(Instant::now());
            }
            self.attempts += 1;
            if let Ok(Some(ws)) = timeout(ATTEMPT, self.attempt()).await {
                return Some(ws);
            }
            sleep(self.up_to(back_off)).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
        // Even a client with nothing in flight must be able to come back.
        self.wrong("no node took it any more");
        None
    }

    async fn attempt(&mut self) -> Option<WsClient> {
        // First connections are dealt out, so that each node has clients of every kind.
        let choice = if self.session.is_some() { self.choice } else { Choice::Next };
        let address = self.directory.choose(choice, self.attempts, &mut self.rng)?;
        let started = Instant::now();
        let mut ws = match self.connection(Connect::to(address)).handshake().await.ok()? {
            Handshake::Accepted(ws) => *ws,
            Handshake::Refused { status, .. } => {
                // A node that drains, or is full, says so.
                if status != 503 {
                    let complaint = format!("the handshake was refused with {status}");
                    self.ledger.account().note_wrong(complaint);
                }
                return None;
            }
        };
        let Ok(Event::Frame(welcome)) = ws.next(SOON).await else { return None };
        let anew = self.welcomed(&welcome, started)?;
        // Whether these ever arrived is not known; asked again, they join what is in flight.
        if self.profile.reliable || anew {
            for frame in self.ledger.ask_again() {
                ws.send(frame).await.ok()?;
            }
        }
        Some(ws)
    }

    fn connection(&self, connect: Connect) -> Connect {
        let mut query = Vec::new();
        let connect = match self.profile.reliable {
            true if self.by_subprotocol => connect.subprotocol("roundtrip.v1.reliable"),
            true => {
                query.push("reliable=1".to_owned());
                connect
            }
            false => connect,
        };
        if let Some((_, token)) = &self.session {
            query.push(format!("resume={token}&last_seq={}", self.ledger.last_seq()));
        }
        if query.is_empty() { connect } else { connect.query(&query.join("&")) }
    }

    /// Takes note of the `welcome`. Returns whether what waits has become new requests, and `None`
    /// if it was no welcome.
    fn welcomed(&mut self, welcome: &Frame, started: Instant) -> Option<bool> {
        let text = |field| welcome.get::<String>(field);
        let (Some(session), Some(token), Some(node), Some(resumed)) =
            (text("session"), text("resume"), text("node"), welcome.get::<bool>("resumed"))
        else {
            self.wrong(&format!("not a welcome: {}", welcome.text));
            return None;
        };
        let before = self.session.replace((session.clone(), token.clone()));
        match before {
            None if resumed => self.wrong("resumed out of nothing"),
            Some((old_session, old_token)) if resumed => {
                // A node that stood still answers only when it goes on, which says nothing of how
                // long a resumption takes.
                if !self.directory.troubled(&node, started, Instant::now()) {
                    self.ledger.account().resumes.push(started.elapsed());
                }
                if old_session != session || old_token == token {
                    self.wrong("resumed, but another session, or the token is the same");
                }
            }
            None => {}
            Some(_) => self.ledger.start_over(),
        }
        self.ledger.connected(&node);
        Some(!resumed)
    }

    /// Talks on a connection until it ends.
    async fn converse(&mut self, ws: &mut WsClient) -> End {
        let mut clock = self.clock();
        loop {
            if let Some(end) = self.speak(ws, &mut clock).await {
                return end;
            }
            let event = tokio::select! {
                event = ws.next(SOON * 2) => event,
                () = sleep_until(self.wake(&clock)) => continue,
            };
            clock.heard = Instant::now();
            match event {
                Ok(Event::Frame(frame)) => {
                    self.ledger.take(&frame);
                    if self.ledger.unacked() > 0 {
                        clock.unacked.get_or_insert(clock.heard);
                    }
                }
                Ok(Event::Closed(code)) => return self.closed(code),
                Err(error) => {
                    self.wrong(&format!("{error:#}"));
                    return End::ComeBack(AFTER_END);
                }
            }
        }
    }

    /// Says everything that is due; `Some` when the connection is over.
    async fn speak(&mut self, ws: &mut WsClient, clock: &mut Clock) -> Option<End> {
        let now = Instant::now();
        if now - clock.heard >= self.profile.silence_max {
            return Some(End::ComeBack(AFTER_END));
        }
        if clock.leave.is_some_and(|leave| now >= leave) {
            return Some(End::ComeBack(AFTER_END));
        }
        let mut frames = Vec::new();
        let acks_due = clock.unacked.is_some_and(|since| now - since >= ACK_DELAY);
        if self.profile.reliable && (acks_due || self.ledger.unacked() >= ACK_FRAMES) {
            clock.unacked = None;
            frames.push(self.ledger.ack());
        }
        if now >= clock.probe {
            clock.probe = now + PROBE_PERIOD;
            frames.push(self.ledger.probe());
        }
        if self.stop.is_cancelled() {
            let answered = self.ledger.waiting() == 0 && now - clock.ask >= LINGER;
            if answered || self.is_over() {
                return Some(End::Done);
            }
            if self.ledger.waiting() > 0 {
                clock.ask = now;
            }
        } else if now >= clock.ask {
            clock.ask = now + self.until_next();
            if self.ledger.waiting() < self.profile.depth_max {
                let service = self.rng.random_range(0..self.profile.services.len());
                frames.push(self.ledger.ask(&self.profile.services[service]));
            }
        }
        for frame in frames {
            // A node that stands still does not read either.
            let sent = timeout(self.profile.silence_max, ws.send(frame)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return Some(End::ComeBack(AFTER_END));
            }
        }
        None
    }

    fn closed(&mut self, code: Option<u16>) -> End {
        if let Some(code) = code {
            *self.ledger.account().closes.entry(code).or_default() += 1;
        }
        match code {
            Some(1012) => End::ComeBack(AFTER_DRAIN),
            None | Some(4000..4500) => End::ComeBack(AFTER_END),
            Some(code) => {
                self.wrong(&format!("closed with {code}"));
                if code >= 4500 { End::Done } else { End::ComeBack(AFTER_END) }
            }
        }
    }

    fn clock(&mut self) -> Clock {
        let now = Instant::now();
        let leave =
            self.profile.roam.map(|roam| now + roam.mul_f64(self.rng.random_range(0.5..1.5)));
        Clock { heard: now, ask: now + self.until_next(), probe: now, leave, unacked: None }
    }

    /// When the next thing is due.
    fn wake(&self, clock: &Clock) -> Instant {
        let silence = clock.heard + self.profile.silence_max;
        let ask = match self.stop.is_cancelled() {
            true => Instant::now() + PROBE_PERIOD,
            false => clock.ask,
        };
        let ack = clock.unacked.filter(|_| self.profile.reliable).map(|since| since + ACK_DELAY);
        let times = [Some(silence), Some(ask), Some(clock.probe), clock.leave, ack];
        times.into_iter().flatten().min().unwrap_or(silence)
    }

    fn until_next(&mut self) -> Duration {
        Duration::from_secs_f64(self.rng.random_range(0.5..1.5) / self.profile.rate)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.rng.random_range(0.0..1.0))
    }

    /// Whether even the last request must have ended by now.
    fn is_over(&mut self) -> bool {
        if !self.stop.is_cancelled() {
            return false;
        }
        let now = Instant::now();
        now >= *self.until.get_or_insert(now + self.profile.timeout + SOON)
    }

    fn wrong(&mut self, complaint: &str) {
        self.ledger.account().note_wrong(complaint.to_owned());
    }
}
