//! A TCP proxy that stands before a listener and can be told to misbehave, as networks do.
//!
//! Bytes are never changed or reordered. What a black hole has swallowed arrives once it is healed,
//! as it does when TCP sends it again.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Chunks that may be on their way in one direction of a delayed connection.
const CHUNKS: usize = 256;

/// How the proxy treats what passes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// As if it were not there.
    #[default]
    Whole,
    /// Connections end, and new ones end at once.
    Cut,
    /// Everything takes this much longer, each way.
    Delayed(Duration),
    /// Connections stay open, and nothing passes.
    BlackHole,
}

/// A running proxy; it ends when dropped, with all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    target: watch::Sender<Option<SocketAddr>>,
    stop: CancellationToken,
}

impl Proxy {
    /// Listens on a free port. Until it has a target, connections end at once.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (link, links) = watch::channel(Link::default());
        let (target, targets) = watch::channel(None);
        let stop = CancellationToken::new();
        let accepting = accept(listener, links, targets, stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self { address, link, target, stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections lead from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    /// Treats all connections like this from now on, those that are open among them.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Behaves again.
    pub fn heal(&self) {
        self.set(Link::Whole);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    links: watch::Receiver<Link>,
    targets: watch::Receiver<Option<SocketAddr>>,
    stop: CancellationToken,
) {
    loop {
        // A connection that was reset while it waited is none.
        let Ok((near, _)) = listener.accept().await else { continue };
        let target = *targets.borrow();
        let (Some(target), false) = (target, *links.borrow() == Link::Cut) else { continue };
        let connection = connect(near, target, links.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

/// One connection, until either side ends it, or the link is cut.
async fn connect(near: TcpStream, target: SocketAddr, mut links: watch::Receiver<Link>) {
    // Whoever connects sees its connection end.
    let Ok(far) = TcpStream::connect(target).await else { return };
    for stream in [&near, &far] {
        // Without it the proxy would add delays of its own.
        drop(stream.set_nodelay(true));
    }
    let (near, far) = (near.into_split(), far.into_split());
    let there = pump(near.0, far.1, links.clone());
    let back = pump(far.0, near.1, links.clone());
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        _ = links.wait_for(|link| *link == Link::Cut) => {}
    }
}

/// One direction: a chunk is written when its time has come and the link lets it pass.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut links: watch::Receiver<Link>) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Arc<[u8]>)>(CHUNKS);
    let delay = links.clone();
    let reading = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = match *delay.borrow() {
                Link::Delayed(delay) => Instant::now() + delay,
                _ => Instant::now(),
            };
            if queue.send((due, buffer[..count].into())).await.is_err() {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((due, chunk)) = queued.recv().await {
            sleep_until(due).await;
            let passes = links.wait_for(|link| *link != Link::BlackHole).await.is_ok();
            if !passes || to.write_all(&chunk).await.is_err() {
                break;
            }
        }
        // The other side may be gone already.
        drop(to.shutdown().await);
    };
    tokio::join!(reading, writing);
}
