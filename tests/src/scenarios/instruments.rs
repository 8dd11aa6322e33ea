//! Situation: the harness alone, without a gateway.
//! Action: links that misbehave, and frames that break the contract.
//! Must hold: the proxy does what it is told, and the ledger notices what it is there to notice. That an
//! instrument shows no fault means something only if it can show one.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use tests::{
    SOON,
    account::Account,
    client::Frame,
    infra::proxy::{Link, Proxy},
    reliable::{
        Profile,
        directory::{Directory, Trouble},
        ledger::Ledger,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

async fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                drop(copy(&mut read, &mut write).await);
            });
        }
    });
    Ok(address)
}

async fn round_trip(stream: &mut TcpStream) -> Result<Duration> {
    let started = Instant::now();
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    timeout(SOON, stream.read_exact(&mut answer)).await??;
    ensure!(&answer == b"hello", "{answer:?}");
    Ok(started.elapsed())
}

#[tokio::test]
async fn a_proxy_does_what_it_is_told() -> Result<()> {
    let proxy = Proxy::start().await?;
    let mut early = TcpStream::connect(proxy.address()).await?;
    ensure!(early.read(&mut [0]).await.unwrap_or(0) == 0, "it leads nowhere yet");
    proxy.lead_to(echo().await?);
    let mut stream = TcpStream::connect(proxy.address()).await?;
    round_trip(&mut stream).await?;

    proxy.set(Link::Delayed(Duration::from_millis(100)));
    ensure!(round_trip(&mut stream).await? >= Duration::from_millis(200), "too fast");
    proxy.set(Link::BlackHole);
    let swallowed = timeout(Duration::from_millis(200), round_trip(&mut stream)).await;
    ensure!(swallowed.is_err(), "something came out of a black hole");
    proxy.heal();
    let mut late = [0; 5];
    timeout(SOON, stream.read_exact(&mut late)).await??;
    ensure!(&late == b"hello", "{late:?}");

    proxy.set(Link::Cut);
    let ended = timeout(SOON, stream.read(&mut [0])).await?;
    ensure!(ended.unwrap_or(0) == 0, "it goes on");
    let mut cut = TcpStream::connect(proxy.address()).await?;
    ensure!(timeout(SOON, cut.read(&mut [0])).await?.unwrap_or(0) == 0, "it goes on");
    proxy.heal();
    round_trip(&mut TcpStream::connect(proxy.address()).await?).await?;
    Ok(())
}

/// A ledger with one request that waits, on its first connection.
fn ledger() -> (Ledger, Arc<Directory>) {
    let directory = Arc::<Directory>::default();
    let mut ledger =
        Ledger::new("me".to_owned(), &Profile::default(), Arc::clone(&directory), Arc::default());
    ledger.connected("gw-1");
    ledger.ask("echo");
    (ledger, directory)
}

fn receipt(seq: u64, request_id: &str) -> String {
    format!(r#"{{"type":"receipt","seq":{seq},"id":1,"request_id":"{request_id}","offset":1}}"#)
}

fn answer(seq: u64, request_id: &str, by: &str) -> String {
    let payload = format!(r#"{{"n":1,"by":"{by}"}}"#);
    let ids = format!(r#""id":1,"request_id":"{request_id}""#);
    format!(r#"{{"type":"response","seq":{seq},{ids},"status":200,"payload":{payload}}}"#)
}

fn told(frames: &[String]) -> Result<Account> {
    let (mut ledger, _) = ledger();
    for frame in frames {
        ledger.take(&Frame::parse(frame)?);
    }
    Ok(ledger.close())
}

#[test]
fn a_ledger_notices_what_is_wrong() -> Result<()> {
    let good = told(&[receipt(1, "r"), answer(2, "r", "me")])?;
    ensure!((good.accepted, good.answered, good.breaches()) == (1, 1, 0), "{good}");
    let silent = told(&[])?;
    ensure!((silent.silent, silent.lost) == (1, 0), "{silent}");
    let lost = told(&[receipt(1, "r")])?;
    ensure!((lost.silent, lost.lost) == (0, 1), "{lost}");
    for wrong in [
        vec![receipt(1, "r"), answer(3, "r", "me")],
        vec![receipt(1, "r"), answer(1, "r", "me")],
        vec![receipt(1, "r"), answer(2, "r", "you")],
        vec![receipt(1, "r"), answer(2, "s", "me")],
        vec![answer(1, "r", "me").replace(r#""id":1"#, r#""id":2"#)],
        vec![answer(1, "r", "me").replace("response", "part"), answer(2, "r", "me")],
    ] {
        let account = told(&wrong)?;
        ensure!(account.wrong == 1 && account.duplicated == 0, "{wrong:?}: {account}");
    }
    for twice in [
        vec![receipt(1, "r"), receipt(2, "r"), answer(3, "r", "me")],
        vec![receipt(1, "r"), answer(2, "r", "me"), answer(3, "r", "me")],
        vec![receipt(1, "r"), answer(2, "r", "me"), receipt(3, "r")],
    ] {
        let account = told(&twice)?;
        ensure!(account.wrong == 0 && account.duplicated == 1, "{twice:?}: {account}");
    }
    let refused = r#"{"type":"error","seq":1,"id":1,"code":"unavailable","recorded":false}"#;
    let refused = told(&[refused.to_owned()])?;
    ensure!(refused.errors["unavailable"] == 1 && refused.unserved == 0, "{refused}");
    let given_up =
        r#"{"type":"error","seq":2,"id":1,"request_id":"r","code":"timeout","recorded":true}"#;
    let given_up = told(&[receipt(1, "r"), given_up.to_owned()])?;
    ensure!(given_up.errors["timeout"] == 1 && given_up.unserved == 1, "{given_up}");
    Ok(())
}

/// The account of a client that gets a frame again after a reconnection. Whether it may come
/// depends on what has happened to the first node, and on what that had been told.
fn again(killed: bool, confirmed: bool, frame: &str) -> Result<Account> {
    let (mut ledger, directory) = ledger();
    ledger.take(&Frame::parse(&answer(1, "r", "me"))?);
    ledger.ack();
    if confirmed {
        // Two pings: what the first one shows may not be written down yet.
        for _ in 0..2 {
            let ping = ledger.probe();
            ledger.take(&Frame::parse(&ping.replace("ping", "pong"))?);
        }
    }
    if killed {
        directory.trouble("gw-1", Trouble::Lost);
    }
    ledger.connected("gw-2");
    ledger.take(&Frame::parse(frame)?);
    Ok(ledger.close())
}

#[test]
fn a_ledger_knows_what_may_come_again() -> Result<()> {
    let same = answer(2, "r", "me");
    let allowed = again(true, false, &same)?;
    ensure!((allowed.repeats, allowed.breaches()) == (1, 0), "{allowed}");
    for (killed, confirmed) in [(false, false), (false, true), (true, true)] {
        let account = again(killed, confirmed, &same)?;
        ensure!((account.repeats, account.duplicated) == (0, 1), "{killed} {confirmed}: {account}");
    }
    for other in [answer(2, "s", "me"), same.replace("200", "201")] {
        let account = again(true, false, &other)?;
        ensure!((account.repeats, account.duplicated) == (0, 1), "{other}: {account}");
    }
    // What comes again has a new number.
    let account = again(true, false, &answer(1, "r", "me"))?;
    ensure!(account.wrong == 1, "{account}");
    Ok(())
}

#[test]
fn a_ledger_lets_receipt_and_answer_come_again_once_each() -> Result<()> {
    for (trouble, expected) in [(Trouble::Lost, (2, 1)), (Trouble::Drained, (0, 3))] {
        let (mut ledger, directory) = ledger();
        let frames = |seq| [receipt(seq, "r"), answer(seq + 1, "r", "me")];
        for frame in frames(1) {
            ledger.take(&Frame::parse(&frame)?);
        }
        directory.trouble("gw-1", trouble);
        ledger.connected("gw-2");
        for frame in frames(3).into_iter().chain([answer(5, "r", "me")]) {
            ledger.take(&Frame::parse(&frame)?);
        }
        let account = ledger.close();
        ensure!((account.repeats, account.duplicated) == expected, "{trouble:?}: {account}");
        ensure!((account.answered, account.wrong) == (1, 0), "{trouble:?}: {account}");
    }
    Ok(())
}

#[test]
fn a_ledger_counts_sessions_that_were_not_resumed() -> Result<()> {
    let (mut ledger, _) = ledger();
    ledger.take(&Frame::parse(&receipt(1, "r"))?);
    ledger.start_over();
    ledger.connected("gw-2");
    ensure!(ledger.ask_again().len() == 1 && ledger.last_seq() == 0, "not asked anew");
    // The new session is not owed what the old one was.
    ledger.take(&Frame::parse(&answer(1, "r", "me"))?);
    let account = ledger.close();
    ensure!((account.broken, account.abandoned, account.wrong) == (1, 1, 1), "{account}");
    Ok(())
}
