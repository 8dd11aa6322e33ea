//! Situation: three nodes, services that answer at once, late, or late and on any partition; twenty
//! reliable clients that ask 300 times a second, resume wherever they can, and keep book of every
//! frame.
//! Action: one of the faults of [`tests::faults`].
//! Must hold: no accepted request is lost, none is answered twice or wrongly, no session is broken;
//! those whose node was well wait no longer than promised; errors are only those that tell the truth;
//! the cluster is well again by itself.

use anyhow::{Result, ensure};
use rand::RngExt;
use tests::{
    drill::{Drill, Outcome},
    faults::Fault,
    say,
};

/// Repeats a run whose seed is given.
const SEED: &str = "ROUNDTRIP_TEST_SEED";

async fn run(fault: Fault) -> Result<Outcome> {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::rng().random(),
    };
    say(&format!("{SEED}={seed}"));
    let outcome = Drill::small(fault, seed).run(|_, _| {}).await?;
    say(&outcome.account.to_string());
    Ok(outcome)
}

async fn survives(fault: Fault) -> Result<()> {
    run(fault).await?.check(fault)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_of_a_node_with_sockets() -> Result<()> {
    let outcome = run(Fault::KillSockets).await?;
    let resumes = outcome.account.resumes.len();
    ensure!(resumes >= 3, "only {resumes} had to come back");
    outcome.check(Fault::KillSockets)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kill_of_a_node_that_reads_replies() -> Result<()> {
    let outcome = run(Fault::KillReader).await?;
    let reconnects = outcome.account.reconnects.len();
    ensure!(reconnects == 0, "{reconnects} noticed a node that was none of theirs");
    outcome.check(Fault::KillReader)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still() -> Result<()> {
    survives(Fault::Pause).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart() -> Result<()> {
    let drill = run(Fault::Rolling).await?;
    let storm = drill.account.reconnects_per_second_max();
    // Five a second are closed, and who comes back takes up to a second for it.
    ensure!(storm <= 12, "{storm} connections within a second, of 20 clients");
    drill.check(Fault::Rolling)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_on_a_cold_broker() -> Result<()> {
    let drill = Drill { warm_up: 0, cold: true, ..Drill::small(Fault::Rolling, rand::random()) };
    let outcome = drill.run(|_, _| {}).await?;
    say(&outcome.account.to_string());
    outcome.check(Fault::Rolling)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_and_leaves() -> Result<()> {
    survives(Fault::Join).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_and_back_empty() -> Result<()> {
    survives(Fault::RedisEmptied).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_back_from_an_older_dump() -> Result<()> {
    survives(Fault::RedisOlder).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_stands_still() -> Result<()> {
    survives(Fault::RedisPaused).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_killed_and_back() -> Result<()> {
    survives(Fault::KafkaKilled).await
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_that_stands_still() -> Result<()> {
    survives(Fault::KafkaPaused).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_topic_that_is_made_anew() -> Result<()> {
    survives(Fault::TopicAnew).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_cut() -> Result<()> {
    survives(Fault::LinkCut).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_slow() -> Result<()> {
    survives(Fault::LinkDelayed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_swallows_everything() -> Result<()> {
    survives(Fault::LinkBlackHole).await
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_that_are_used_up() -> Result<()> {
    survives(Fault::DescriptorsUsedUp).await
}
