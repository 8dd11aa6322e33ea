//! Situation: one node.
//! Action: everything a socket's client may say beside a plain request.
//! Must hold: each frame has the fields of the contract; receipts name the record; ids are the
//! client's own; numbers go up by one.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::{SOON, client::Frame, cluster::Cluster, raw::RawWs, worker::Reply};

#[tokio::test]
async fn welcome_says_where_one_is() -> Result<()> {
    let config = "[limits]\nmessage_bytes_max = \"10KiB\"\nin_flight_per_connection_max = 7\n\
                  [session]\nping_interval = \"20s\"";
    let cluster = Cluster::builder().config(config).start().await?;
    let node = cluster.node(0);

    let (client, welcome) = node.connect().subprotocol("other, roundtrip.v1").welcome().await?;
    assert_eq!(client.headers["sec-websocket-protocol"], "roundtrip.v1");
    ensure!(!welcome.need::<String>("session")?.is_empty(), "{}", welcome.text);
    assert_eq!(welcome.need::<String>("node")?, node.id());
    assert_eq!(welcome.raw("resumed"), Some("false"));
    assert_eq!(welcome.raw("user"), Some("null"));
    assert_eq!(welcome.need::<u64>("ping_interval_ms")?, 20_000);
    assert_eq!(welcome.need::<u64>("max_message_bytes")?, 10_240);
    assert_eq!(welcome.need::<u64>("max_in_flight")?, 7);
    assert_eq!(welcome.raw("seq"), None);

    let (other, second) = node.connect().welcome().await?;
    ensure!(!other.headers.contains_key("sec-websocket-protocol"), "not offered");
    ensure!(second.raw("session") != welcome.raw("session"), "a session of its own");
    cluster.finish().await
}

#[tokio::test]
async fn a_receipt_names_the_record() -> Result<()> {
    let cluster = Cluster::builder().service("echo").service("silent").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let silent = cluster.worker("silent").silent()?;
    let tap = cluster.worker("echo").group(&cluster.topic("tap")).silent()?;
    let mut ws = cluster.node(0).ws().await?;

    // However fast the service is, the receipt comes first.
    for id in 1..=50 {
        ws.send(format!(r#"{{"service":"echo","id":{id},"receipt":true}}"#)).await?;
        let (receipt, response) = (ws.frame().await?, ws.frame().await?);
        ensure!(receipt.kind() == "receipt", "{}", receipt.text);
        ensure!(response.kind() == "response", "{}", response.text);
        assert_eq!(receipt.need::<u64>("id")?, id);
        assert_eq!(receipt.request_id(), response.request_id());
        assert_eq!(receipt.need::<String>("topic")?, cluster.topic("echo.requests"));
        let seen = tap.has_seen(id as usize).await?;
        let record = seen.iter().find(|r| r.header("kafka_correlationId") == receipt.request_id());
        let record = record.expect("the record is in Kafka");
        assert_eq!(receipt.need::<i32>("partition")?, record.partition);
        assert_eq!(receipt.need::<i64>("offset")?, record.offset);
    }
    // It does not wait for the answer either, and without being asked for there is none.
    ws.send(r#"{"service":"silent","id":"r","receipt":true,"timeout_ms":300}"#).await?;
    assert_eq!(ws.frame().await?.kind(), "receipt");
    assert_eq!(ws.frame().await?.code(), "timeout");
    ws.send(r#"{"service":"silent","id":"n","receipt":null,"timeout_ms":300}"#).await?;
    assert_eq!(ws.frame().await?.code(), "timeout");
    silent.has_seen(2).await?;
    cluster.finish().await
}

#[tokio::test]
async fn an_id_used_again_joins_or_is_a_duplicate() -> Result<()> {
    let cluster = Cluster::builder().service("slow").start().await?;
    let slow = cluster
        .worker("slow")
        .start(|seen| vec![Reply::echo(seen).after(Duration::from_millis(500))])?;
    let mut ws = cluster.node(0).ws().await?;

    ws.send(r#"{"service":"slow","id":1,"payload":"a"}"#).await?;
    // The same again, in other words: it joins.
    ws.send(r#"{"payload":"a","id":1,"service":"slow","timeout_ms":9999}"#).await?;
    // Another payload, key or header under that id, but not under another that looks like it.
    for other in
        [r#""payload":"b""#, r#""payload":"a","key":"k""#, r#""payload":"a" ,"headers":{"a":"b"}"#]
    {
        ws.send(format!(r#"{{"service":"slow","id":1,{other}}}"#)).await?;
        let duplicate = ws.frame().await?;
        ensure!(duplicate.code() == "duplicate", "{}", duplicate.text);
        assert_eq!(duplicate.raw("id"), Some("1"));
    }
    ws.send(r#"{"service":"slow","id":"1","payload":"c"}"#).await?;

    let mut answers: Vec<Frame> = vec![ws.frame().await?, ws.frame().await?];
    answers.sort_by_key(|frame| frame.payload().to_owned());
    let answers: Vec<_> = answers.iter().map(|f| (f.raw("id"), f.payload())).collect();
    assert_eq!(answers, [(Some("1"), r#""a""#), (Some(r#""1""#), r#""c""#)]);
    assert_eq!(slow.seen().len(), 2, "what joins is not produced");

    // Once answered, the id is free.
    let answer = ws.ask(r#"{"service":"slow","id":1,"payload":"d"}"#).await?;
    assert_eq!(answer.payload(), r#""d""#);
    assert_eq!(slow.seen().len(), 3);
    cluster.finish().await
}

#[tokio::test]
async fn numbers_go_up_by_one_and_pongs_have_none() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let mut ws = cluster.node(0).ws().await?;

    for seq in 1..=5 {
        let answer = ws.ask(r#"{"service":"echo","receipt":false}"#).await?;
        assert_eq!(answer.seq(), seq);
        // Unless it chose one, the client's id is ours.
        assert_eq!(answer.need::<String>("id")?, answer.request_id());
        ws.send(r#"{"type":"ping","id":"p","anything":[]}"#).await?;
        let pong = ws.frame().await?;
        assert_eq!((pong.kind().as_str(), pong.raw("seq")), ("pong", None));
        assert_eq!(pong.need::<String>("id")?, "p");
        // Answered by nothing.
        ws.send(format!(r#"{{"type":"ack","seq":{seq}}}"#)).await?;
    }
    ws.send(r#"{"type":"ping"}"#).await?;
    assert_eq!(ws.frame().await?.raw("id"), None);

    // An acknowledgement of what was never sent.
    ws.send(r#"{"type":"ack","seq":6}"#).await?;
    assert_eq!(ws.closed().await?, Some(4500));
    cluster.finish().await
}

#[tokio::test]
async fn who_gives_no_sign_of_life_is_lost() -> Result<()> {
    let config = "[session]\nping_interval = \"300ms\"\npong_timeout = \"1s\"";
    let cluster = Cluster::builder().service("echo").config(config).start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let node = cluster.node(0);

    // One reads but never answers a ping; the other's library does.
    let mut silent = RawWs::connect(node.public()).await?;
    let mut alive = node.ws().await?;
    tokio::select! {
        code = silent.close_code() => assert_eq!(code?, Some(4000)),
        event = alive.next(SOON) => panic!("{event:?} without being asked"),
    }
    assert_eq!(alive.request("echo", "1").await?.payload(), "1");
    assert_eq!(cluster.sum("roundtrip_closes_total", &[("code", "4000")]).await?, 1.0);
    cluster.finish().await
}
