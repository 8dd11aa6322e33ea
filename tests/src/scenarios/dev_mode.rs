//! Situation: nothing but the binary.
//! Action: `roundtrip dev`, with one node and with three; then what it prints is pasted.
//! Must hold: the first answer is there within five seconds of the start; every node answers, by
//! every sample service; the printed wscat and curl lines work as they stand. A log that nobody
//! reads keeps no node from answering, nor from draining.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::{
    SOON,
    client::{Connect, Handshake},
    eventually,
    http::HttpClient,
    infra::node_program,
    metrics::Metrics,
    process::{Process, command, run_dir},
    say,
    terminal::Terminal,
};
use tokio::time::Instant;

const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// A dev mode at work, and what it says of itself.
struct Dev {
    process: Process,
    started: Instant,
    output: String,
}

impl Dev {
    async fn start(nodes: usize) -> Result<Self> {
        Self::start_with(nodes, &[]).await
    }

    async fn start_with(nodes: usize, more: &[&str]) -> Result<Self> {
        let mut command = command(&node_program()?);
        command.args(["dev", "--port", "0", "--nodes", &nodes.to_string()]).args(more);
        let started = Instant::now();
        let log = run_dir().join(format!("dev-{nodes}-{}.log", more.len()));
        Self::introduced_by(Process::spawn(command, &log)?, started).await
    }

    /// One whose log is a pipe that nobody reads, and in which there is much.
    async fn start_unread() -> Result<Self> {
        let mut command = command(&node_program()?);
        command.args(["dev", "--port", "0"]).env("RUST_LOG", "trace");
        let process = Process::spawn_unread(command, &run_dir().join("dev-unread.log"))?;
        Self::introduced_by(process, Instant::now()).await
    }

    async fn introduced_by(mut process: Process, started: Instant) -> Result<Self> {
        let output = eventually(SOON, "dev says what to do", async || {
            process.runs()?;
            let output = process.output()?;
            ensure!(output.contains("Ctrl-C stops it"), "not yet: {output}");
            Ok(output)
        })
        .await?;
        Ok(Self { process, started, output })
    }

    /// The rest of the line that begins so.
    fn printed(&self, start: &str) -> Result<&str> {
        let mut lines = self.output.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(start));
        let line = line.with_context(|| format!("no {start} in {}", self.output))?;
        Ok(line)
    }

    /// The first of the addresses in the printed lines.
    fn introduced(&self) -> Result<SocketAddr> {
        let line = self.printed("wscat ")?;
        let address = line.split(['/', ' ']).find_map(|part| part.parse().ok());
        address.with_context(|| format!("no address in {line}"))
    }

    /// Where its first node says how it is.
    fn internal(&self) -> Result<HttpClient> {
        let address =
            self.printed("listening internal=")?.trim_start_matches("listening internal=");
        Ok(HttpClient::new(address.parse()?))
    }

    /// Waits until every node calls itself ready.
    async fn all_ready(&self) -> Result<()> {
        let marks = self.output.lines().filter_map(|line| line.strip_prefix("listening internal="));
        for internal in marks {
            let http = HttpClient::new(internal.parse()?);
            eventually(SOON, "the node is ready", async || {
                let answer = http.get("/readyz").await?;
                ensure!(answer.status == 200, "{}", answer.text());
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    fn nodes(&self) -> Result<Vec<SocketAddr>> {
        let line = self.printed("nodes ")?;
        line.split_whitespace().skip(1).map(|address| Ok(address.parse()?)).collect()
    }

    async fn first_answer(&self) -> Result<()> {
        let mut ws = Connect::to(self.introduced()?).welcome().await?.0;
        let answer = ws.request("echo", "1").await?;
        ensure!(answer.payload() == "1", "{}", answer.text);
        let took = self.started.elapsed();
        say(&format!("first answer of dev after {took:?}"));
        ensure!(took < FIRST_ANSWER, "first answer after {took:?}");
        Ok(())
    }

    async fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.end(SOON).await?;
        ensure!(status.success(), "dev ended with {status}: {}", self.process.output()?);
        Ok(())
    }
}

#[tokio::test]
async fn what_dev_prints_can_be_pasted() -> Result<()> {
    let dev = Dev::start(1).await?;
    dev.first_answer().await?;

    let mut wscat = Terminal::run(dev.printed("wscat ")?)?;
    wscat.sees(r#""type":"welcome""#).await?;
    let frame = dev.printed("> ")?.trim_start_matches("> ");
    wscat.types(frame).await?;
    let response = wscat.sees(r#""type":"response""#).await?;
    ensure!(response.contains(r#""payload":"hi""#), "{response}");

    let shown = Terminal::run(dev.printed("curl ")?)?.ends().await?;
    ensure!(shown.contains("HTTP/1.1 200 ") && shown.contains(r#"{"hello":"world"}"#), "{shown}");
    dev.stop().await
}

#[tokio::test]
async fn three_nodes_answer_by_every_sample() -> Result<()> {
    let dev = Dev::start(3).await?;
    dev.first_answer().await?;
    dev.all_ready().await?;
    let nodes = dev.nodes()?;
    assert_eq!(nodes.len(), 3);

    for address in nodes {
        let mut ws = Connect::to(address).welcome().await?.0;
        for number in 0..20 {
            let answer = ws.request("echo", &number.to_string()).await?;
            assert_eq!(answer.payload(), number.to_string(), "{}", answer.text);
        }
        assert_eq!(ws.request("slow", r#"{"ms":50}"#).await?.payload(), r#"{"ms":50}"#);
        let failed = ws.request("fail", r#"{"status":418}"#).await?;
        assert_eq!((failed.code().as_str(), failed.status()), ("service_error", 418));
        let order = ws.request("orders", r#"{"id":7}"#).await?;
        ensure!(order.payload().contains("VALIDATED"), "{}", order.text);
        let answer =
            HttpClient::new(address).post("/v1/services/fail", r#"{"status":418}"#).await?;
        assert_eq!(answer.status, 418);
    }
    dev.stop().await
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() -> Result<()> {
    let dev = Dev::start_unread().await?;
    let mut ws = Connect::to(dev.introduced()?).welcome().await?.0;
    let internal = dev.internal()?;
    let lost = async || {
        let metrics = Metrics::parse(&internal.get("/metrics").await?.text());
        anyhow::Ok(metrics.sum("roundtrip_log_lines_lost_total", &[]))
    };
    // The pipe is full long before; this is when the queue behind it is full as well.
    let mut asked = 0;
    while lost().await? == 0.0 {
        ensure!(asked < 100_000, "nothing was lost of what {asked} requests have logged");
        for _ in 0..100 {
            let answer = ws.request("echo", &asked.to_string()).await?;
            assert_eq!(answer.payload(), asked.to_string(), "{}", answer.text);
            asked += 1;
        }
    }
    say(&format!("lines were lost after {asked} requests"));
    dev.stop().await
}

#[tokio::test]
async fn pages_of_this_machine_come_in_and_others_by_name() -> Result<()> {
    let more = ["--allow-origin", "https://shop.example", "--allow-origin", "http://a.example:80"];
    let dev = Dev::start_with(1, &more).await?;
    let address = dev.introduced()?;
    for origin in
        ["http://localhost:5173", "https://127.0.0.1", "https://shop.example", "http://a.example"]
    {
        drop(Connect::to(address).origin(origin).welcome().await.context(origin)?);
    }
    for _ in 0..3 {
        let origin = "http://evil.example";
        let Handshake::Refused { status, .. } =
            Connect::to(address).origin(origin).handshake().await?
        else {
            panic!("{origin} is let in");
        };
        assert_eq!(status, 403);
    }
    let output = dev.process.output()?;
    let told: Vec<&str> = output.lines().filter(|line| line.contains("evil.example")).collect();
    ensure!(told.len() == 1 && told[0].contains("--allow-origin"), "{told:?}");
    dev.stop().await?;

    let mut command = command(&node_program()?);
    command.args(["dev", "--allow-origin", "shop.example"]);
    let mut process = Process::spawn(command, &run_dir().join("dev-refused.log"))?;
    assert_eq!(process.end(SOON).await?.code(), Some(64), "{}", process.output()?);
    Ok(())
}
