use std::{convert::Infallible, future::ready};

use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    super::{
        exchange::Watched,
        http,
        places::{Capacity, Places},
    },
    *,
};
use crate::{config::PublicConfig, edge::origin::Origins, telemetry::HttpRefusals};

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
    // A kernel that waits for company would wait in real time.
    client.set_nodelay(true).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let capacity = Capacity { connections: 1, refusals: 1, limit: "descriptors" };
    let place = Places::new(capacity).take().await;
    let (exchange, stop) = (Arc::new(Exchange::new()), CancellationToken::new());
    let listen = ([127, 0, 0, 1], 0).into();
    let config = PublicConfig { listen, allowed_origins: None, loopback_origins: true };
    let voice = Arc::new(Voice::Problems {
        node: HeaderValue::from_static("gw-1"),
        origins: Arc::new(Origins::new(&config)),
        refusals: HttpRefusals::default(),
    });
    let transport = Transport::new(stream, place, Arc::clone(&exchange), voice, stop.clone());
    Pair { client, transport, exchange, stop }
}

/// How long something takes on the paused clock, to the second.
async fn seconds<T>(what: impl Future<Output = T>) -> (u64, T) {
    let begun = Instant::now();
    let done = timeout(Duration::from_secs(600), what).await.expect("it ends at all");
    (begun.elapsed().as_secs(), done)
}

/// Serves the listener's end of a connection: each request is answered at once, with nothing.
async fn serve(transport: Transport, exchange: Arc<Exchange>) {
    serve_with(transport, exchange, |body| {
        drop(body);
        ready(Response::new(String::new()))
    })
    .await;
}

/// Each piece of a body is thought about for a second; then it is sent back.
async fn serve_slowly(transport: Transport, exchange: Arc<Exchange>) {
    serve_with(transport, exchange, |mut body| async move {
        let (mut answer, mut text) = (Response::new(String::new()), Vec::new());
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => text.extend(frame.into_data().unwrap_or_default()),
                Err(_) => *answer.status_mut() = StatusCode::BAD_REQUEST,
            }
            sleep(Duration::from_secs(1)).await;
        }
        *answer.body_mut() = String::from_utf8(text).unwrap();
        answer
    })
    .await;
}

/// Each request is answered with what comes of its body.
async fn serve_with<A>(
    transport: Transport,
    exchange: Arc<Exchange>,
    answer: impl Fn(Watched) -> A + Send + 'static,
) where
    A: Future<Output = Response<String>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        exchange.begun(request.version());
        let answer = answer(Watched::new(request.into_body(), &exchange));
        let exchange = Arc::clone(&exchange);
        async move {
            let answer = answer.await;
            exchange.answered(false);
            Ok::<_, Infallible>(answer)
        }
    });
    // A task of its own: nothing that its client does is to wake it.
    let serves = http().serve_connection(TokioIo::new(transport), service).with_upgrades();
    let served = JoinSet::from_iter([serves]).join_all().await;
    served.into_iter().for_each(Result::unwrap_or_default);
}

/// What the client gets until its connection is closed.
async fn read_all(client: &mut TcpStream) -> String {
    let mut read = String::new();
    client.read_to_string(&mut read).await.unwrap();
    read
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds_from_its_first_byte() {
    let Pair { mut client, transport, exchange, .. } = pair().await;
    let ((took, ()), read) =
        tokio::join!(seconds(serve(transport, exchange)), read_all(&mut client));
    assert_eq!((took, &*read), (10, ""), "it never began, and nobody waits for an answer");

    for begins in ["G", "GET / HTTP/1.1\r\nHost: gw\r\nOrigin: http://localhost:3000\r\n"] {
        let Pair { mut client, transport, exchange, .. } = pair().await;
        client.write_all(begins.as_bytes()).await.unwrap();
        let ((took, read), ()) =
            tokio::join!(seconds(read_all(&mut client)), serve(transport, exchange));
        assert_eq!(took, 10, "{begins}");
        assert!(read.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{read}");
        assert!(read.contains("\r\nconnection: close\r\n"), "{read}");
        assert!(read.contains("did not arrive within 10 seconds"), "{read}");
        let page = read.contains("\r\naccess-control-allow-origin: http://localhost:3000\r\n");
        assert_eq!(page, begins.contains("Origin"), "{read}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_has_75_seconds_and_a_head_that_begins_then_its_ten() {
    let request = b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n";
    let Pair { mut client, transport, exchange, .. } = pair().await;
    client.write_all(request).await.unwrap();
    let ((took, ()), read) =
        tokio::join!(seconds(serve(transport, exchange)), read_all(&mut client));
    assert_eq!((took, read.matches("HTTP/1.1 ").count()), (75, 1), "{read}");

    let Pair { mut client, transport, exchange, .. } = pair().await;
    client.write_all(request).await.unwrap();
    let begins_late = async {
        for (after, piece) in [(74, &request[..4]), (9, &request[4..])] {
            sleep(Duration::from_secs(after)).await;
            client.write_all(piece).await.unwrap();
            // Bytes on their way do not keep a paused clock from going on to its next timer.
            sleep(Duration::from_millis(1)).await;
        }
        read_all(&mut client).await
    };
    let ((took, ()), read) = tokio::join!(seconds(serve(transport, exchange)), begins_late);
    assert_eq!((took, read.matches("HTTP/1.1 200 ").count()), (74 + 9 + 75, 2), "{read}");
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_head_that_is_too_large_is_waited_for_a_moment() {
    let Pair { mut client, transport, exchange, .. } = pair().await;
    client.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
    client.write_all(&[b'x'; 16 * 1024]).await.unwrap();
    let ((took, read), ()) =
        tokio::join!(seconds(read_all(&mut client)), serve(transport, exchange));
    assert_eq!(took, 1);
    assert!(read.starts_with("HTTP/1.1 431 "), "{read}");
}

#[tokio::test(start_paused = true)]
async fn who_has_said_it_all_before_it_is_heard_gets_every_answer() {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    for (headers, body, answers) in [
        ("", "", &[(200, "")][..]),
        ("Content-Length: 2\r\n", "42", &[(200, "42")]),
        (CHUNKED, "1\r\n1\r\n1\r\n2\r\n1\r\n3\r\n0\r\n\r\n", &[(200, "123")]),
        ("", "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n2", &[(200, ""), (200, "2")]),
        // The end of these never comes.
        ("Content-Length: 3\r\n", "42", &[(400, "42")]),
        (CHUNKED, "1\r\n1\r\n1\r\n2\r\n", &[(400, "12")]),
        (CHUNKED, "", &[(400, "")]),
    ] {
        let Pair { mut client, transport, exchange, .. } = pair().await;
        let request = format!("POST / HTTP/1.1\r\n{headers}\r\n{body}");
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let ((took, read), ()) =
            tokio::join!(seconds(read_all(&mut client)), serve_slowly(transport, exchange));
        let got: Vec<(u16, &str)> = read
            .split_terminator("HTTP/1.1 ")
            .skip(1)
            .map(|answer| {
                let body = answer.split_once("\r\n\r\n").expect("a head").1;
                (answer[..3].parse().unwrap(), body)
            })
            .collect();
        assert_eq!(got, answers, "{request}");
        assert!(took < 10, "{request}: {took} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_no_longer_after_an_answer_that_took_its_time() {
    let Pair { mut client, transport, exchange, .. } = pair().await;
    client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n1").await.unwrap();
    let ((took, ()), read) =
        tokio::join!(seconds(serve_slowly(transport, exchange)), read_all(&mut client));
    assert_eq!((took, read.matches("HTTP/1.1 200 ").count()), (1 + 75, 1), "{read}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_or_is_upgraded_holds_no_memory_for_its_head() {
    for is_upgrade in [false, true] {
        let Pair { mut client, mut transport, exchange, .. } = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
        assert!(transport.read(&mut [0; 1024]).await.unwrap() > 0);
        assert!(transport.head.has_begun());
        exchange.begun(Version::HTTP_11);
        if is_upgrade {
            exchange.answered(true);
            transport.flush().await.unwrap();
        } else {
            let more = timeout(Duration::from_secs(1), transport.read_u8()).await;
            more.expect_err("the library looks for an end");
        }
        assert!(!transport.head.has_begun());
    }
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
