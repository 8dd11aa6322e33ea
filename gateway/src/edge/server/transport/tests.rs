use http::{HeaderValue, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::{
    super::places::{Capacity, Places},
    *,
};

/// One end is a client's, the other one a connection of a listener's.
struct Pair {
    client: TcpStream,
    transport: Transport,
    exchange: Arc<Exchange>,
    stop: CancellationToken,
}

async fn pair() -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let capacity = Capacity { connections: 1, refusals: 1, limit: "descriptors" };
    let place = Places::new(capacity).take().await;
    let (exchange, stop) = (Arc::new(Exchange::new()), CancellationToken::new());
    let voice = Arc::new(Voice::Problems(HeaderValue::from_static("gw-1")));
    let transport = Transport::new(stream, place, Arc::clone(&exchange), voice, stop.clone());
    Pair { client, transport, exchange, stop }
}

/// How long something takes on the paused clock, to the second.
async fn seconds<T>(what: impl Future<Output = T>) -> (u64, T) {
    let begun = Instant::now();
    let done = timeout(Duration::from_secs(600), what).await.expect("it ends at all");
    (begun.elapsed().as_secs(), done)
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds_from_its_first_byte() {
    let Pair { mut client, mut transport, exchange, .. } = pair().await;
    let (took, read) = seconds(transport.read_u8()).await;
    assert_eq!((took, read.unwrap_err().kind()), (10, io::ErrorKind::TimedOut), "never began");

    // A request that has been answered: the next one may take its time to begin.
    exchange.begun(Version::HTTP_11);
    exchange.answered(false);
    transport.flush().await.unwrap();
    let idle = timeout(Duration::from_secs(300), transport.read_u8()).await;
    idle.expect_err("who keeps a connection open is the library's business");
    client.write_all(b"G").await.unwrap();
    assert_eq!(transport.read_u8().await.unwrap(), b'G');
    let (took, read) = seconds(transport.read_u8()).await;
    assert_eq!((took, read.unwrap_err().kind()), (10, io::ErrorKind::TimedOut));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_is_given_up() {
    let Pair { client, mut transport, exchange, .. } = pair().await;
    exchange.begun(Version::HTTP_11);
    exchange.answered(false);
    let much = vec![0; 64 * 1024 * 1024];
    let (took, written) = seconds(transport.write_all(&much)).await;
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!((30..40).contains(&took), "after {took} s");
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_websocket_that_is_not_read_has_its_own_bounds() {
    let Pair { client, mut transport, exchange, .. } = pair().await;
    exchange.begun(Version::HTTP_11);
    exchange.answered(true);
    let much = vec![0; 64 * 1024 * 1024];
    let written = timeout(Duration::from_secs(300), transport.write_all(&much)).await;
    written.expect_err("its session knows when it is too slow");
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn who_goes_on_sending_is_listened_to_for_a_while() {
    let Pair { client, mut transport, exchange, .. } = pair().await;
    exchange.linger();
    // Silent, and not closed.
    let (took, closed) = seconds(transport.shutdown()).await;
    closed.unwrap();
    assert_eq!(took, 5);
    drop(client);

    let Pair { mut client, mut transport, exchange, .. } = pair().await;
    exchange.linger();
    let sends = async {
        loop {
            client.write_all(b"more").await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
    };
    let closes = seconds(transport.shutdown());
    let (took, closed) = tokio::select! {
        closes = closes => closes,
        () = sends => unreachable!("it sends for ever"),
    };
    closed.unwrap();
    assert_eq!(took, 30);

    let Pair { client, mut transport, exchange, stop } = pair().await;
    exchange.linger();
    stop.cancel();
    assert_eq!(seconds(transport.shutdown()).await.0, 0, "a node that stops has no time");
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_more_to_say_is_not_waited_for() {
    let Pair { client, mut transport, .. } = pair().await;
    assert_eq!(seconds(transport.shutdown()).await.0, 0);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_looks_like_the_librarys_own_goes_through() {
    let Pair { mut client, mut transport, exchange, .. } = pair().await;
    let text = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    exchange.begun(Version::HTTP_11);
    exchange.answered(false);
    transport.write_all(text).await.unwrap();
    transport.flush().await.unwrap();
    let mut read = vec![0; text.len()];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(read, text);
    // With nobody asked, it can only be the library's.
    transport.write_all(text).await.unwrap();
    transport.shutdown().await.unwrap_or_default();
    drop(transport);
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    assert!(read.contains("application/problem+json"), "{read}");
}
