//! A client that keeps its session across connections, and a book of what it was promised.

use std::{
    collections::BTreeMap, collections::VecDeque, sync::Arc, sync::atomic::Ordering, time::Duration,
};

use gateway::{edge::ws::Wish, relay::session::Token};
use serde_json::Value;
use tokio::time::{Instant, sleep_until, timeout};

use crate::{
    asked::{Asked, PATIENT},
    line::{Line, Met},
    node::{MAILBOX_BYTES, MAILBOX_FRAMES, WINDOW},
    service::NEVER,
    world::{NODES, World},
};

/// How long a client waits for a node that does not say anything.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many bytes a frame counts beside its payload.
const FRAME_BYTES: usize = 256;

/// One client.
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    name: usize,
    pub(crate) is_reliable: bool,
    /// Numbers requests, over all sessions.
    asked_ever: u64,
    token: Option<Token>,
    pub(crate) last_seq: u64,
    pub(crate) acknowledged: u64,
    pub(crate) asked: BTreeMap<String, Asked>,
    /// When its session began.
    began_at: Instant,
    /// Whether anything has been done for it in this session.
    was_served: bool,
    /// When it was last connected.
    left_at: Option<Instant>,
    /// Whether more may have come for it since then than its mailbox holds.
    may_overflow: bool,
}

/// What a client has to remember for the time of one connection.
pub(crate) struct Talk {
    pub(crate) line: Line,
    /// Whether all that it had missed has come, and the node knows so.
    pub(crate) is_settled: bool,
    /// Pings that were not answered, by number.
    pings: VecDeque<u64>,
    pings_ever: u64,
    /// Until when it reads nothing.
    pub(crate) deaf_until: Option<Instant>,
    pub(crate) is_leaving_for_good: bool,
}

/// Why a connection ended.
enum Left {
    Finished,
    Away,
}

impl Client {
    pub(crate) fn new(world: Arc<World>, name: usize, is_reliable: bool) -> Self {
        Self {
            began_at: world.started,
            world,
            name,
            is_reliable,
            asked_ever: 0,
            token: None,
            last_seq: 0,
            acknowledged: 0,
            asked: BTreeMap::new(),
            was_served: false,
            left_at: None,
            may_overflow: false,
        }
    }

    pub(crate) fn log(&self, what: &str) {
        self.world.book.log(self.world.seconds(), &format!("client {}: {what}", self.name));
    }

    fn wrong(&self, what: &str) {
        self.world.book.wrong(self.world.seconds(), format!("client {}: {what}", self.name));
    }

    fn is_calm(&self) -> bool {
        self.world.calm.is_cancelled()
    }

    /// Goes on until the world is calm and everything is answered.
    pub(crate) async fn run(mut self) {
        loop {
            let Some(talk) = self.connect().await else {
                self.world.sleep(10, 200).await;
                continue;
            };
            if matches!(self.converse(talk).await, Left::Finished) {
                return;
            }
            match self.world.below(4) {
                0 => self.world.sleep(0, 3000).await,
                _ => self.world.sleep(0, 300).await,
            }
        }
    }

    async fn connect(&mut self) -> Option<Talk> {
        let node = self.world.node(self.world.below(NODES as u64) as usize)?;
        if !node.is_open() {
            return None;
        }
        let resume = self.token.clone().map(|token| (Some(token), self.last_seq));
        let wish = Wish { is_reliable: self.is_reliable, resume };
        self.log(&format!("comes to {} with {}", node.life.index, self.last_seq));
        let line = Line::connect(&self.world, &node, wish).await;
        drop(node);
        let (pings, pings_ever, deaf_until) = (VecDeque::new(), 0, None);
        let (is_settled, is_leaving_for_good) = (false, false);
        let mut talk =
            Talk { line, is_settled, pings, pings_ever, deaf_until, is_leaving_for_good };
        let Ok(Met::Frame(text)) = timeout(PATIENCE, talk.line.next()).await else {
            // The connection ends in order, so that a node which wakes up knows that nobody waits.
            self.log("is not welcome");
            talk.line.hang_up();
            return None;
        };
        if self.world.chance(3) && !self.is_calm() {
            self.waste(talk).await;
            return None;
        }
        let resumed = self.on_welcome(&text);
        // The frames that it lacks come first; then it knows which requests to send again. A
        // reliable client need not wait for that: what it sends again joins what is in flight.
        talk.is_settled = !resumed;
        if !self.ping(&mut talk).await {
            return None;
        }
        if (self.is_reliable || self.world.chance(30)) && !self.repeat(&mut talk).await {
            return None;
        }
        Some(talk)
    }

    fn on_welcome(&mut self, text: &str) -> bool {
        let frame: Value = serde_json::from_str(text).unwrap();
        if frame["type"] != "welcome" {
            self.wrong(&format!("no welcome, but {text}"));
        }
        let resumed = frame["resumed"] == true;
        let token = Token::parse(frame["resume"].as_str().unwrap());
        let former = std::mem::replace(&mut self.token, token);
        self.log(&format!("has session {}, resumed {resumed}", frame["session"]));
        if resumed {
            self.world.book.count("resumed");
        } else {
            self.start_anew(former);
        }
        resumed
    }

    /// Checks that the former session was allowed to be gone, and begins anew.
    fn start_anew(&mut self, former: Option<Token>) {
        if let Some(former) = former {
            self.world.book.count("not resumed");
            let left_at = self.left_at.unwrap_or(self.world.started);
            let is_late = left_at.elapsed() + Duration::from_secs(1) > WINDOW;
            let wiped = self.world.book.wiped_at();
            // A node may die before the registry has heard of the session: before it has done
            // anything for the client, or while it cannot reach the registry.
            let session = former.session().to_string();
            let is_unheard =
                !self.was_served || self.world.book.died_unheard(&session, self.began_at);
            let recently = left_at.checked_sub(WINDOW * 2).unwrap_or(left_at);
            let is_excused = is_unheard
                || wiped.is_some_and(|wiped| left_at < wiped + WINDOW * 2)
                || self.world.book.lost_a_copy_since(recently);
            // After a fault nobody knows what was on the wire to a client that acknowledges
            // nothing.
            let is_kept = self.is_reliable || !self.world.is_troubled.load(Ordering::Relaxed);
            if is_kept && !is_late && !is_excused && !self.may_overflow {
                self.wrong(&format!("not resumed after {:?}", left_at.elapsed()));
            }
        }
        self.forget();
    }

    /// Forgets all that belongs to its session.
    fn forget(&mut self) {
        self.asked.clear();
        (self.last_seq, self.acknowledged, self.was_served) = (0, 0, false);
        self.began_at = Instant::now();
    }

    async fn converse(&mut self, mut talk: Talk) -> Left {
        let world = Arc::clone(&self.world);
        let leaves = Instant::now() + world.ms(200, 6000);
        let mut asks = Instant::now() + world.ms(0, 500);
        let mut acknowledges = Instant::now() + world.ms(0, 3000);
        let mut whim = self.next_whim();
        loop {
            let is_calm = self.is_calm();
            // While it reads nothing, its node may take it for gone, and let the window of its
            // session begin.
            if talk.deaf_until.is_none() {
                self.left_at = Some(Instant::now());
            }
            if is_calm && !self.asked.values().any(Asked::is_open) {
                self.acknowledge(&mut talk).await;
                world.sleep(0, 50).await;
                if talk.line.close().await {
                    self.log("says bye");
                    return Left::Finished;
                }
                return Left::Away;
            }
            let hears_again = talk.deaf_until.filter(|_| !is_calm);
            let silent = Instant::now() + PATIENCE * 2;
            let goes_on = tokio::select! {
                biased;
                met = talk.line.next(), if hears_again.is_none() => self.on_met(met, &mut talk).await,
                () = until(hears_again), if hears_again.is_some() => {
                    talk.deaf_until = None;
                    true
                }
                () = sleep_until(leaves), if !is_calm => false,
                () = sleep_until(asks), if !is_calm => {
                    asks = Instant::now() + world.ms(10, 1500);
                    self.ask(&mut talk).await
                }
                () = sleep_until(whim), if !is_calm => {
                    whim = self.next_whim();
                    self.follow_a_whim(&mut talk).await
                }
                () = sleep_until(acknowledges) => {
                    acknowledges = Instant::now() + world.ms(500, 4000);
                    self.acknowledge(&mut talk).await
                }
                () = sleep_until(silent), if self.asked.values().any(Asked::is_open) => {
                    self.log("has waited for long");
                    false
                }
            };
            if !goes_on {
                break;
            }
        }
        self.leave(talk).await;
        Left::Away
    }

    /// Goes away, mostly without closing the connection, so that the node notices only later.
    async fn leave(&mut self, talk: Talk) {
        if talk.is_leaving_for_good {
            self.log("closes with 1000, and will begin anew");
            self.world.book.count("closed with 1000");
            if !talk.line.close().await {
                self.log("hears nothing of that");
            }
            self.token = None;
            return self.forget();
        }
        self.log("leaves");
        // A receipt and an answer may come for each open request.
        let open: Vec<_> = self.asked.values().filter(|asked| asked.is_open()).collect();
        let bytes: usize = open.iter().map(|asked| asked.payload.len() + 2 * FRAME_BYTES).sum();
        self.may_overflow = 2 * open.len() > MAILBOX_FRAMES || bytes > MAILBOX_BYTES;
    }

    /// Takes note of what the node says. Returns whether the conversation goes on.
    async fn on_met(&mut self, met: Met, talk: &mut Talk) -> bool {
        match met {
            Met::Frame(text) => {
                if self.world.chance(20) {
                    self.world.sleep(0, 20).await;
                }
                self.on_frame(&text, talk).await && {
                    !self.world.chance(30) || self.acknowledge(talk).await
                }
            }
            Met::Closed(code) => {
                self.log(&format!("is closed with {code}"));
                self.world.book.count(match code {
                    1000 | 1012 | 4000 | 4002 | 4004 => "closed by a node",
                    4001 => "closed as slow",
                    _ => {
                        self.wrong(&format!("closed with {code}"));
                        "closed wrongly"
                    }
                });
                false
            }
            Met::Broken => false,
            Met::Nothing => true,
        }
    }

    /// Asks for something new; false when that does not leave.
    pub(crate) async fn ask(&mut self, talk: &mut Talk) -> bool {
        let world = Arc::clone(&self.world);
        self.asked_ever += 1;
        let id = format!("c{}-{}", self.name, self.asked_ever);
        let (never, timeout) = match world.below(10) {
            0 => (NEVER, world.ms(300, 4000)),
            1 => ("", world.ms(50, 2000)),
            _ => ("", PATIENT),
        };
        // Some payloads do not fit beside what is in an outbox, but each fits into an empty one.
        let size = if world.chance(10) { world.below(6 * 1024) as usize } else { 0 };
        let payload = format!(r#""{id}{never}{:x<size$}""#, "");
        let (ms, quoted, receipt) = (timeout.as_millis(), Value::from(&*id), world.chance(50));
        let text = format!(
            r#"{{"service":"echo","id":{quoted},"payload":{payload},"timeout_ms":{ms},"receipt":{receipt}}}"#
        );
        let mut asked = Asked {
            text,
            payload,
            deadline: Instant::now() + timeout,
            timeout,
            sends: 0,
            request: None,
            has_receipt: false,
            end: None,
            ended_at: None,
            is_refused: false,
            is_cancelled: false,
            may_be_missed: world.book.is_missed(),
        };
        self.world.book.count("asked");
        let text = asked.send();
        self.asked.insert(id, asked);
        talk.line.say(&text).await
    }

    /// Asks again for all that is unanswered.
    async fn repeat(&mut self, talk: &mut Talk) -> bool {
        let open = self.asked.values_mut().filter(|asked| asked.is_open());
        let texts: Vec<String> = open.map(Asked::send).collect();
        for text in texts {
            if !talk.line.say(&text).await {
                return false;
            }
        }
        true
    }

    /// Sends a ping. Its pong comes behind everything that the node owes by then.
    pub(crate) async fn ping(&mut self, talk: &mut Talk) -> bool {
        talk.pings_ever += 1;
        talk.pings.push_back(talk.pings_ever);
        talk.line.say(&format!(r#"{{"type":"ping","id":{}}}"#, talk.pings_ever)).await
    }

    async fn on_pong(&mut self, frame: &Value, talk: &mut Talk) -> bool {
        if talk.pings.pop_front() != frame["id"].as_u64() {
            self.wrong(&format!("a pong that nobody asked for: {frame}"));
        }
        if std::mem::replace(&mut talk.is_settled, true) || self.is_reliable {
            return true;
        }
        self.repeat(talk).await
    }

    /// Acknowledges what it has; false when that does not leave.
    pub(crate) async fn acknowledge(&mut self, talk: &mut Talk) -> bool {
        if !self.is_reliable || self.last_seq == self.acknowledged {
            return true;
        }
        self.acknowledged = self.last_seq;
        talk.line.say(&format!(r#"{{"type":"ack","seq":{}}}"#, self.last_seq)).await
    }

    async fn on_frame(&mut self, text: &str, talk: &mut Talk) -> bool {
        let frame: Value = serde_json::from_str(text).unwrap();
        self.log(&format!("gets {text}"));
        if frame["type"] == "pong" {
            return self.on_pong(&frame, talk).await;
        }
        let seq = frame["seq"].as_u64().unwrap_or_default();
        if seq != self.last_seq + 1 {
            self.wrong(&format!("{seq} after {}: {text}", self.last_seq));
        }
        self.last_seq = seq;
        self.was_served |= frame["request_id"].is_string();
        let id = frame["id"].as_str().unwrap_or_default();
        match self.asked.get_mut(id) {
            None => self.wrong(&format!("never asked: {text}")),
            Some(asked) => {
                if let Err(what) = asked.on_frame(&frame, !self.is_reliable, &self.world) {
                    self.wrong(&format!("{what}: {text}"));
                }
            }
        }
        true
    }
}

async fn until(at: Option<Instant>) {
    if let Some(at) = at {
        sleep_until(at).await;
    }
}
