//! Connections over streams of bytes in memory: what a client proves to have read, and what not.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::time::Duration;
use tokio::{
    io::DuplexStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{super::testing, *};

const MOMENT: Duration = Duration::from_millis(200);

/// A node that is alone.
struct Bed(Arc<Edge>);

/// A client's end of a connection.
struct Client {
    socket: WebSocketStream<DuplexStream>,
    served: JoinSet<()>,
}

/// What a welcome says.
struct Welcomed {
    token: Token,
    resumed: bool,
}

impl Bed {
    async fn new() -> Self {
        Self(testing::edge().await)
    }

    async fn connect(&self, is_reliable: bool, resume: Option<(&Token, u64)>) -> Client {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let resume = resume.map(|(token, last_seq)| (Some(token.clone()), last_seq));
        let (edge, wish) = (Arc::clone(&self.0), Wish { is_reliable, resume });
        let mut served = JoinSet::new();
        served.spawn(async move { serve(&edge, wish, Rate::unlimited(), far).await });
        let socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        Client { socket, served }
    }

    /// Whether the session is resumed for who shows this; nothing is read on that connection but
    /// the welcome, and it breaks at once.
    async fn resumes(&self, token: &Token, last_seq: u64) -> bool {
        let mut client = self.connect(true, Some((token, last_seq))).await;
        client.welcome().await.resumed
    }
}

impl Client {
    /// The next message, unless there is none for a while. Pings among them are answered.
    async fn next(&mut self) -> Option<Message> {
        timeout(MOMENT, self.socket.next()).await.ok()?.transpose().unwrap()
    }

    /// The next frame; pings in between are answered.
    async fn frame(&mut self) -> Option<Value> {
        loop {
            match self.next().await? {
                Message::Text(text) => return serde_json::from_str(&text).ok(),
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn welcome(&mut self) -> Welcomed {
        let frame = self.frame().await.expect("a connection begins with a welcome");
        assert_eq!(frame["type"], "welcome");
        let token = Token::parse(frame["resume"].as_str().unwrap()).unwrap();
        Welcomed { token, resumed: frame["resumed"] == true }
    }

    async fn send(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    async fn say(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    /// The network breaks.
    async fn vanish(mut self) {
        drop(self.socket);
        self.served.join_next().await.unwrap().unwrap();
    }
}

/// A message that is answered with a frame that has a number.
const NONSENSE: &str = "nonsense";

#[tokio::test(start_paused = true)]
async fn a_pong_that_nobody_asked_for_is_no_receipt() {
    for foreign in [Bytes::new(), Bytes::from_static(b"keepaliv"), Bytes::from(vec![0; 8])] {
        let bed = Bed::new().await;
        let mut client = bed.connect(false, None).await;
        let Welcomed { token, .. } = client.welcome().await;
        client.say(NONSENSE).await;
        // The node's own ping is on its way, unread, and so is the frame before it.
        sleep(Duration::from_secs(26)).await;
        client.send(Message::Pong(foreign)).await;
        sleep(MOMENT).await;
        client.vanish().await;
        let mut client = bed.connect(false, Some((&token, 0))).await;
        assert!(client.welcome().await.resumed);
        let missed = client.frame().await.expect("what was not read comes again");
        assert_eq!(missed["seq"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_pong_to_a_ping_is_a_receipt_of_what_came_before_it() {
    let bed = Bed::new().await;
    let mut client = bed.connect(false, None).await;
    let Welcomed { token, .. } = client.welcome().await;
    client.say(NONSENSE).await;
    assert_eq!(client.frame().await.unwrap()["seq"], 1);
    sleep(Duration::from_secs(26)).await;
    assert!(matches!(client.next().await, Some(Message::Ping(_))));
    assert!(client.next().await.is_none(), "which flushes the pong");
    client.vanish().await;
    assert!(!bed.resumes(&token, 0).await, "the client has said that it has the frame");
}

#[tokio::test(start_paused = true)]
async fn what_a_client_says_before_it_has_read_its_welcome_leaves_its_token_good() {
    let said = [
        Message::text(NONSENSE),
        Message::text(r#"{"type":"ping"}"#),
        // Of a frame that had come on the connection before.
        Message::text(r#"{"type":"ack","seq":1}"#),
        Message::Pong(Bytes::new()),
        Message::Ping(Bytes::new()),
    ];
    for message in said {
        let bed = Bed::new().await;
        let mut client = bed.connect(true, None).await;
        let Welcomed { token, .. } = client.welcome().await;
        client.say(NONSENSE).await;
        assert_eq!(client.frame().await.unwrap()["seq"], 1);
        client.vanish().await;
        let mut client = bed.connect(true, Some((&token, 0))).await;
        sleep(MOMENT).await;
        client.send(message.clone()).await;
        sleep(MOMENT).await;
        client.vanish().await;
        assert!(bed.resumes(&token, 1).await, "after {message:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_read_its_welcome_has_one_token_alone() {
    for has_acknowledged in [true, false] {
        let bed = Bed::new().await;
        let mut client = bed.connect(true, None).await;
        let Welcomed { token: former, .. } = client.welcome().await;
        client.vanish().await;
        let mut client = bed.connect(true, Some((&former, 0))).await;
        let Welcomed { token, resumed } = client.welcome().await;
        assert!(resumed);
        let last_seq = if has_acknowledged {
            // Its ping is never read, so never answered.
            client.say(NONSENSE).await;
            sleep(MOMENT).await;
            client.say(r#"{"type":"ack","seq":1}"#).await;
            sleep(MOMENT).await;
            1
        } else {
            assert!(client.frame().await.is_none(), "it reads the ping, and answers");
            0
        };
        client.vanish().await;
        assert!(!bed.resumes(&former, last_seq).await, "acknowledged: {has_acknowledged}");
        assert!(bed.resumes(&token, last_seq).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_lost_in_time_and_one_that_talks_somewhat_later() {
    for (talks, seconds) in [(false, 35), (true, 60)] {
        let bed = Bed::new().await;
        let began = Instant::now();
        let mut client = bed.connect(false, None).await;
        // Reads nothing, so it answers no ping; every byte is a sign of life.
        while !bed.0.relay.telemetry.render().contains(r#"closes_total{code="4000"} 1"#) {
            sleep(Duration::from_secs(1)).await;
            if talks {
                client.send(Message::Pong(Bytes::new())).await;
            }
            assert!(began.elapsed() < Duration::from_secs(100));
        }
        let took = began.elapsed().as_secs();
        assert!((seconds..=seconds + 2).contains(&took), "talks: {talks}: {took} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_id_is_taken_once_what_was_missed_has_come() {
    let bed = Bed::new().await;
    let mut client = bed.connect(false, None).await;
    let Welcomed { token, .. } = client.welcome().await;
    let refused = r#"{"id":1,"service":"nobody"}"#;
    client.say(refused).await;
    sleep(MOMENT).await;
    client.vanish().await;
    let mut client = bed.connect(false, Some((&token, 0))).await;
    assert!(client.welcome().await.resumed);
    client.say(r#"{"type":"ping"}"#).await;
    assert_eq!(client.frame().await.unwrap()["code"], "unknown_service");
    assert_eq!(client.frame().await.unwrap()["type"], "pong");
    client.say(refused).await;
    let again = client.frame().await.expect("an answer at once, not after the next heartbeat");
    assert_eq!((&again["code"], &again["seq"]), (&"unknown_service".into(), &2.into()));
}
