//! What goes wrong with nodes and with what they stand on, for a while; and nodes that stop in order.

use std::{pin::pin, sync::Arc, time::Duration};

use registry::faulty::PARTS;
use tokio::time::Instant;

use crate::{
    node::Node,
    world::{NODES, World},
};

/// How long a drain takes at most that has nothing to wait for.
const DRAINED_MAX: Duration = Duration::from_secs(1);
/// The same where a client does not read that its connection is closed.
const DISMISSED_MAX: Duration = Duration::from_secs(4);

/// Something that goes wrong for a while, unless it is calm by then.
pub(crate) async fn trouble(world: Arc<World>, kind: u64) {
    let (one, other) = (world.below(NODES as u64) as usize, world.below(NODES as u64) as usize);
    let log = |what: &str| world.book.log(world.seconds(), &format!("node {one}: {what}"));
    match kind {
        0 | 1 => crash(&world, one).await,
        2 => fall_asleep(&world, one).await,
        3 => {
            log(&format!("does not reach {other}"));
            world.book.cut_off();
            world.set_cut(one, other, true);
            world.sleep(300, 4000).await;
            world.set_cut(one, other, false);
        }
        4 => {
            log("does not reach the registry");
            world.book.unheard();
            world.set_registry_away(one, true);
            world.sleep(300, 4000).await;
            world.set_registry_away(one, false);
        }
        5 => {
            log("nobody reaches the bus");
            world.bus.set_available(false);
            world.sleep(300, 2000).await;
            world.bus.set_available(true);
        }
        6 => restart(&world, one).await,
        7 => {
            let then = world.table.memory.snapshot();
            world.sleep(100, 5000).await;
            log("the registry goes back in time");
            world.book.went_back();
            world.table.memory.restore(&then);
        }
        8 => {
            world.set_clock(one);
            log("has its clock set");
        }
        9 => {
            let part = world.below(PARTS as u64) as usize;
            log(&format!("nobody reaches part {part} of the registry"));
            world.book.cut_off();
            world.table.set_part_away(part);
            world.sleep(300, 4000).await;
            world.table.set_away(false);
        }
        _ => {
            if world.chance(70) {
                return;
            }
            log("the registry loses everything");
            world.book.wiped();
            world.table.memory.wipe();
        }
    }
}

async fn crash(world: &Arc<World>, index: usize) {
    let Some(node) = world.set_node(index, None) else { return };
    let log = |what: &str| world.book.log(world.seconds(), &format!("node {index}: {what}"));
    log("crashes");
    world.book.died();
    node.life.crash();
    drop(node);
    world.sleep(300, 9000).await;
    // One that crashed while it drained is started by whoever had it drain, too. Of two runs at a time the
    // book would know nothing.
    if !world.calm.is_cancelled() && world.node(index).is_none() {
        log("starts");
        world.set_node(index, Some(Node::start(world, index)));
    }
}

async fn fall_asleep(world: &World, index: usize) {
    let Some(node) = world.node(index) else { return };
    let log = |what: &str| world.book.log(world.seconds(), &format!("node {index}: {what}"));
    log("falls asleep");
    world.book.died();
    node.life.set_asleep(true);
    world.sleep(500, 9000).await;
    log("wakes up");
    world.book.died();
    node.life.set_asleep(false);
}

async fn restart(world: &Arc<World>, index: usize) {
    let Some(node) = world.node(index).filter(|node| node.is_open()) else { return };
    let log = |what: &str| world.book.log(world.seconds(), &format!("node {index}: {what}"));
    log("drains");
    world.book.count("drains");
    drain(world, &node).await;
    log("has drained");
    if !world.calm.is_cancelled() {
        world.sleep(0, 3000).await;
    }
    if world.node(index).is_none() {
        log("starts");
        world.set_node(index, Some(Node::start(world, index)));
    }
}

/// A node that has nothing to do stops within a moment.
pub(crate) async fn drains_at_once(world: &World, index: usize) {
    let Some(node) = world.node(index).filter(|node| node.is_open()) else { return };
    let started = Instant::now();
    let max = if node.relay.gate.connections() > 0 { DISMISSED_MAX } else { DRAINED_MAX };
    drain(world, &node).await;
    let took = started.elapsed();
    if took > max {
        world.book.wrong(world.seconds(), format!("node {index}: drained after {took:?}"));
    }
}

/// Lets a node stop in order, unless it dies meanwhile.
async fn drain(world: &World, node: &Arc<Node>) {
    let (life, mut draining) = (&node.life, pin!(node.drain()));
    let index = life.index;
    tokio::select! {
        biased;
        () = draining.as_mut() => {}
        () = life.dead.cancelled() => {
            if !life.has_crashed() {
                draining.await;
            }
        }
    }
    world.book.stopped();
    if world.node(index).is_some_and(|present| Arc::ptr_eq(&present, node)) {
        world.set_node(index, None);
    }
}
