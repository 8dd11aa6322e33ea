//! What clients do besides: things that the contract allows, at moments when nobody expects them.

use std::time::Duration;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    asked::Asked,
    client::{Client, Talk},
};

/// Requests in a burst: more than may be in flight, and than an outbox or a mailbox holds.
const BURST: u64 = 40;

/// What a client feels like.
#[derive(Clone, Copy)]
enum Whim {
    Cancel,
    Ping,
    ForeignPong,
    SocketPing,
    /// It reads nothing for a while.
    Deaf,
    Burst,
    /// It sends again what was refused.
    Again,
    /// It closes with 1000 and begins anew.
    Bye,
    Acknowledge,
}

/// How often each comes, out of the sum.
const WHIMS: [(Whim, u64); 9] = [
    (Whim::Cancel, 30),
    (Whim::Ping, 15),
    (Whim::ForeignPong, 15),
    (Whim::SocketPing, 5),
    (Whim::Deaf, 10),
    (Whim::Burst, 4),
    (Whim::Again, 15),
    (Whim::Bye, 3),
    (Whim::Acknowledge, 10),
];

impl Client {
    /// When the next whim comes.
    pub(crate) fn next_whim(&self) -> Instant {
        Instant::now() + self.world.ms(50, 1200)
    }

    /// Follows a whim; false if that ends the conversation, by a close or because the line is dead.
    pub(crate) async fn follow_a_whim(&mut self, talk: &mut Talk) -> bool {
        let mut at = self.world.below(WHIMS.iter().map(|(_, often)| often).sum());
        let whim = WHIMS.iter().find(|(_, often)| {
            let is_it = at < *often;
            at = at.saturating_sub(*often);
            is_it
        });
        match whim.expect("the sum is that of all").0 {
            Whim::Cancel => self.cancel(talk).await,
            Whim::Ping => self.ping(talk).await,
            Whim::ForeignPong => {
                self.world.book.count("foreign pongs");
                let payload = vec![0; if self.world.chance(50) { 0 } else { 8 }];
                talk.line.send(Message::Pong(payload.into())).await
            }
            Whim::SocketPing => talk.line.send(Message::Ping(vec![1].into())).await,
            Whim::Deaf => {
                self.world.book.count("deaf");
                self.log("reads nothing for a while");
                talk.deaf_until = Some(Instant::now() + self.world.ms(200, 7000));
                true
            }
            Whim::Burst => {
                self.world.book.count("bursts");
                for _ in 0..BURST {
                    if !self.ask(talk).await {
                        return false;
                    }
                }
                true
            }
            Whim::Again => self.ask_again(talk).await,
            Whim::Bye => {
                talk.is_leaving_for_good = true;
                false
            }
            Whim::Acknowledge => {
                // A client whose session is plain may do so too, and nothing follows from it.
                let text = format!(r#"{{"type":"ack","seq":{}}}"#, self.last_seq);
                self.acknowledged = self.last_seq;
                talk.line.say(&text).await
            }
        }
    }

    /// Cancels anything that it has asked for, which may have ended, or never have arrived.
    async fn cancel(&mut self, talk: &mut Talk) -> bool {
        let count = self.asked.len() as u64;
        if count == 0 {
            return true;
        }
        // Often it is the last request: its reply may overtake the broker's acknowledgement.
        let at = if self.world.chance(50) { count - 1 } else { self.world.below(count) };
        let (id, asked) = self.asked.iter_mut().nth(at as usize).expect("there are so many");
        asked.is_cancelled = true;
        let text = format!(r#"{{"type":"cancel","id":"{id}"}}"#);
        self.world.book.count("cancels");
        talk.line.say(&text).await
    }

    /// Sends again what was refused, once its node knows that it has read the refusal. In a plain
    /// session the node need not know.
    async fn ask_again(&mut self, talk: &mut Talk) -> bool {
        let is_known = talk.is_settled || !self.is_reliable;
        if !is_known || !self.acknowledge(talk).await {
            return true;
        }
        let refused = self.asked.values_mut().filter(|asked| asked.is_refused);
        let texts: Vec<String> = refused.take(5).map(Asked::send).collect();
        for text in texts {
            self.world.book.count("asked again");
            if !talk.line.say(&text).await {
                return false;
            }
        }
        true
    }

    /// Drops a line as if its welcome had been lost: what the client sends on it before must not
    /// count as a proof that it has read the welcome.
    pub(crate) async fn waste(&mut self, mut talk: Talk) {
        self.log("does not get its welcome");
        if self.world.chance(50) {
            talk.line.send(Message::Pong(Vec::new().into())).await;
            talk.line.say(r#"{"type":"ping"}"#).await;
            tokio::time::sleep(Duration::from_millis(self.world.below(200))).await;
        }
    }
}
