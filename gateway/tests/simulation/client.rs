//! A client that keeps its session across connections, and a book of what it was promised.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gateway::relay::token::Token;
use serde_json::Value;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    asked::{Asked, PATIENT},
    node::WINDOW,
    service::NEVER,
    socket::{self, ToClient, ToNode, Wish},
    world::{NODES, World},
};

/// How long a client waits for a node that does not say anything.
const PATIENCE: Duration = Duration::from_secs(2);

/// One client.
pub(crate) struct Client {
    world: Arc<World>,
    name: usize,
    is_reliable: bool,
    /// Numbers requests, over all sessions.
    asked_ever: u64,
    token: Option<Token>,
    last_seq: u64,
    acknowledged: u64,
    asked: BTreeMap<String, Asked>,
    /// When it was last connected.
    left_at: Option<Instant>,
}

/// An open connection.
struct Line {
    to_node: Sender<ToNode>,
    from_node: Receiver<ToClient>,
}

/// Why a connection ended.
enum Left {
    Finished,
    Away,
}

impl Client {
    pub(crate) fn new(world: Arc<World>, name: usize, is_reliable: bool) -> Self {
        Self {
            world,
            name,
            is_reliable,
            asked_ever: 0,
            token: None,
            last_seq: 0,
            acknowledged: 0,
            asked: BTreeMap::new(),
            left_at: None,
        }
    }

    fn log(&self, what: &str) {
        self.world.book.log(self.world.seconds(), &format!("client {}: {what}", self.name));
    }

    fn wrong(&self, what: &str) {
        self.world.book.wrong(self.world.seconds(), format!("client {}: {what}", self.name));
    }

    /// Goes on until the world is calm and everything is answered.
    pub(crate) async fn run(mut self) {
        loop {
            let Some(line) = self.connect().await else {
                self.world.sleep(10, 200).await;
                continue;
            };
            if matches!(self.converse(line).await, Left::Finished) {
                return;
            }
            match self.world.below(4) {
                0 => self.world.sleep(0, 3000).await,
                _ => self.world.sleep(0, 300).await,
            }
        }
    }

    async fn connect(&mut self) -> Option<Line> {
        let node = self.world.node(self.world.below(NODES as u64) as usize)?;
        let (to_client, from_node) = channel(1024);
        let (to_node, from_client) = channel(1024);
        let mut line = Line { to_node, from_node };
        let resume = self.token.clone().map(|token| (token, self.last_seq));
        let had_token = resume.is_some();
        let wish = Wish { is_reliable: self.is_reliable, resume };
        self.log(&format!("comes to {} with {}", node.life.index, self.last_seq));
        node.spawn(socket::serve(
            Arc::clone(&self.world),
            Arc::clone(&node),
            wish,
            to_client,
            from_client,
        ));
        drop(node);
        let welcome = timeout(PATIENCE, line.from_node.recv()).await;
        let Ok(Some(ToClient::Welcome { session, token, resumed })) = welcome else {
            // It closes in order: a node that wakes up knows that nobody waits.
            self.log("is not welcome");
            return None;
        };
        if self.world.chance(3) && !self.world.calm.is_cancelled() {
            self.log("does not get its welcome");
            self.vanish(line);
            return None;
        }
        self.token = Some(token);
        self.log(&format!("has session {session}, resumed {resumed}"));
        if resumed {
            self.world.book.count("resumed");
        } else {
            self.start_anew(had_token);
        }
        let again: Vec<String> =
            self.asked.values_mut().filter(|asked| asked.is_open()).map(Asked::send).collect();
        line.to_node.try_send(ToNode::Pong(0)).ok()?;
        for text in again {
            line.to_node.try_send(ToNode::Text(text)).ok()?;
        }
        Some(line)
    }

    /// The former session is gone: was that right?
    fn start_anew(&mut self, had_token: bool) {
        if had_token {
            self.world.book.count("not resumed");
            let left_at = self.left_at.unwrap_or(self.world.started);
            let is_late = left_at.elapsed() + Duration::from_secs(1) > WINDOW;
            let wiped = self.world.book.wiped_at();
            // A node may die before anybody has heard of the session; it has not done anything for it.
            let is_unheard = self.last_seq == 0;
            let recently = left_at.checked_sub(WINDOW * 2).unwrap_or(left_at);
            let is_excused = is_unheard
                || wiped.is_some_and(|wiped| left_at < wiped + WINDOW * 2)
                || self.world.book.lost_a_copy_since(recently);
            if self.is_reliable && !is_late && !is_excused {
                self.wrong(&format!("not resumed after {:?}", left_at.elapsed()));
            }
        }
        self.asked.clear();
        (self.last_seq, self.acknowledged) = (0, 0);
    }

    /// Goes without a word: the node learns of it later.
    fn vanish(&mut self, line: Line) {
        let after = self.world.ms(0, if self.world.chance(20) { 4000 } else { 50 });
        self.world.spawn(async move {
            sleep(after).await;
            drop(line);
        });
    }

    async fn converse(&mut self, mut line: Line) -> Left {
        let world = Arc::clone(&self.world);
        let leaves = Instant::now() + world.ms(200, 6000);
        let mut asks = Instant::now() + world.ms(0, 500);
        let mut acknowledges = Instant::now() + world.ms(0, 3000);
        let left = loop {
            let is_calm = world.calm.is_cancelled();
            self.left_at = Some(Instant::now());
            if is_calm && !self.asked.values().any(Asked::is_open) {
                self.acknowledge(&line);
                world.sleep(0, 50).await;
                if line.to_node.send(ToNode::Bye).await.is_ok() {
                    self.log("says bye");
                    return Left::Finished;
                }
            }
            let silent = Instant::now() + PATIENCE * 2;
            tokio::select! {
                biased;
                message = line.from_node.recv() => match message {
                    Some(ToClient::Frame(text)) => {
                        if world.chance(20) {
                            world.sleep(0, 20).await;
                        }
                        self.on_frame(&text);
                        if world.chance(30) {
                            self.acknowledge(&line);
                        }
                    }
                    Some(ToClient::Ping(seq)) => drop(line.to_node.try_send(ToNode::Pong(seq))),
                    Some(ToClient::Welcome { .. }) => self.wrong("welcome twice"),
                    Some(ToClient::Close(code)) => {
                        self.log(&format!("is closed with {}", code.number()));
                        break Left::Away;
                    }
                    None => break Left::Away,
                },
                () = sleep_until(leaves), if !is_calm => break Left::Away,
                () = sleep_until(asks), if !is_calm => {
                    asks = Instant::now() + world.ms(10, 1500);
                    self.ask(&line);
                }
                () = sleep_until(acknowledges) => {
                    acknowledges = Instant::now() + world.ms(500, 4000);
                    self.acknowledge(&line);
                }
                () = sleep_until(silent), if self.asked.values().any(Asked::is_open) => {
                    self.log("has waited for long");
                    break Left::Away;
                }
            }
        };
        self.log("leaves");
        self.vanish(line);
        left
    }

    fn ask(&mut self, line: &Line) {
        let world = Arc::clone(&self.world);
        self.asked_ever += 1;
        let id = format!("c{}-{}", self.name, self.asked_ever);
        let (never, timeout) = match world.below(10) {
            0 => (NEVER, world.ms(300, 4000)),
            1 => ("", world.ms(50, 2000)),
            _ => ("", PATIENT),
        };
        let (payload, receipt) = (format!(r#""{id}{never}""#), world.chance(50));
        let (ms, quoted) = (timeout.as_millis(), Value::from(&*id));
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
        };
        self.world.book.count("asked");
        let text = asked.send();
        self.asked.insert(id, asked);
        drop(line.to_node.try_send(ToNode::Text(text)));
    }

    fn acknowledge(&mut self, line: &Line) {
        if self.is_reliable && self.last_seq > self.acknowledged {
            self.acknowledged = self.last_seq;
            let text = format!(r#"{{"type":"ack","seq":{}}}"#, self.last_seq);
            drop(line.to_node.try_send(ToNode::Text(text)));
        }
    }

    fn on_frame(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).unwrap();
        let seq = frame["seq"].as_u64().unwrap_or_default();
        if seq != self.last_seq + 1 {
            self.wrong(&format!("{seq} after {}: {text}", self.last_seq));
        }
        self.last_seq = seq;
        self.log(&format!("gets {text}"));
        let id = frame["id"].as_str().unwrap_or_default();
        let Some(asked) = self.asked.get_mut(id) else {
            return self.wrong(&format!("never asked: {text}"));
        };
        if let Err(what) = asked.on_frame(&frame, !self.is_reliable, &self.world) {
            self.wrong(&format!("{what}: {text}"));
        }
    }
}
