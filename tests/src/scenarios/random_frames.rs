//! Situation: one node with an echo service.
//! Action: 10,000 random frames: mutilated requests, random bytes, lawful and not.
//! Must hold: the node answers afterwards, and has not grown beyond reason.

use anyhow::{Result, ensure};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tests::{
    cluster::Cluster,
    raw::{RawFrame, RawWs, opcode},
    say,
};

const FRAMES: usize = 10_000;
const GROWTH_MAX: u64 = 64 << 20;

const TEMPLATES: [&str; 8] = [
    r#"{"service":"echo","id":"a","payload":{"a":[1,2,3]},"headers":{"x":"y"},"timeout_ms":10}"#,
    r#"{"type":"cancel","id":"a"}"#,
    r#"{"type":"subscribe","channel":"news:sport","since":"1"}"#,
    r#"{"type":"watch","view":"orders","key":"1","until":["A"],"timeout_ms":5}"#,
    r#"{"type":"auth","token":"e.y.J"}"#,
    r#"{"type":"ack","seq":1}"#,
    r#"{"type":"ping","id":18446744073709551616}"#,
    r#"[{"service":"echo"}]"#,
];

fn random_frame(rng: &mut StdRng) -> RawFrame {
    let mut payload = TEMPLATES[rng.random_range(0..TEMPLATES.len())].as_bytes().to_vec();
    match rng.random_range(0..4) {
        0 => {}
        1 => {
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..payload.len());
                payload[at] = rng.random();
            }
        }
        2 => payload.truncate(rng.random_range(0..payload.len())),
        _ => {
            payload = vec![0; rng.random_range(0..300)];
            rng.fill_bytes(&mut payload);
        }
    }
    let mut frame = RawFrame::new(opcode::TEXT, payload);
    match rng.random_range(0..20) {
        0 => frame.opcode = rng.random_range(0..16),
        1 => frame.reserved = rng.random_range(0..8),
        2 => frame.fin = false,
        3 => frame.masked = false,
        4..8 => frame.opcode = opcode::BINARY,
        _ => {}
    }
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_random_frames_leave_the_node_alive_and_small() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let node = cluster.node(0);
    node.ws().await?.request("echo", "0").await?;
    let before = node.resident_bytes()?;

    let seed: u64 = rand::rng().random();
    say(&format!("seed {seed}"));
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sent = 0;
    while sent < FRAMES {
        let mut raw = RawWs::connect(node.public()).await?;
        // Ends when the node closes, which it does without being read.
        while sent < FRAMES && raw.send(&random_frame(&mut rng)).await.is_ok() {
            sent += 1;
            if rng.random_range(0..50) == 0 {
                break;
            }
        }
    }

    let answer = node.ws().await?.request("echo", "1").await?;
    assert_eq!(answer.payload(), "1");
    let grown = node.resident_bytes()?.saturating_sub(before);
    ensure!(grown < GROWTH_MAX, "seed {seed}: grown by {grown} bytes");
    cluster.finish().await
}
