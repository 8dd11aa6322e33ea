//! Clients that take all the descriptors of a node that they can have.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::{net::TcpStream, time::sleep};

use crate::{client::Handshake, cluster::Node, infra::proxy::Link};

/// How many descriptors each node may have.
pub(super) const LIMIT: u32 = 256;
/// How long they are held.
const HELD: Duration = Duration::from_secs(5);
/// How long its peers cannot reach the node meanwhile, so that links have to be opened anew.
const CUT: Duration = Duration::from_secs(1);

/// First a burst of connections that say nothing, then sockets until there is no place.
pub(super) async fn use_up(node: &Node) -> Result<()> {
    let mut silent = Vec::new();
    for _ in 0..LIMIT {
        silent.push(TcpStream::connect(node.public()).await?);
    }
    let mut sockets = Vec::new();
    while let Handshake::Accepted(socket) = node.connect().handshake().await? {
        sockets.push(socket);
        ensure!(sockets.len() < LIMIT as usize, "there is no end of sockets");
    }
    node.proxy().set(Link::Cut);
    sleep(CUT).await;
    node.proxy().heal();
    sleep(HELD - CUT).await;
    let live = node.internal("/livez").await?;
    ensure!(live.status == 200, "not alive: {live:?}");
    for socket in sockets {
        socket.close().await?;
    }
    Ok(())
}
