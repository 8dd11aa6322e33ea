//! Situation: two nodes under load with a Redis Cluster of three masters; each master has sessions of
//! clients that acknowledge.
//! Action: one master is killed, and comes back empty.
//! Must hold: every request is answered, no connection is closed, and sessions on the other masters go
//! from node to node as before; the nodes say who is away; the sessions of that master are nowhere
//! missed either, and change their nodes once it is back.

use anyhow::{Context, Result, ensure};
use tests::{
    SOON, client::WsClient, cluster::Cluster, eventually, infra::redis_cluster::RedisCluster,
    process::run_dir, ticket::Ticket, traffic::Traffic, worker::Reply,
};

/// Sessions on each master, half of them on either node.
const SESSIONS: usize = 4;

/// A client and its session.
struct Client {
    /// Where it is connected.
    node: usize,
    /// Which master has its session.
    master: usize,
    ws: WsClient,
    ticket: Ticket,
    /// The number of its last answer.
    seq: u64,
}

impl Client {
    async fn start(cluster: &Cluster, masters: &RedisCluster, node: usize) -> Result<Self> {
        let (ws, ticket) = Ticket::new_session(cluster.node(node), true).await?;
        let key = format!("{}:s:{{{}}}", cluster.tag(), ticket.session);
        let master = masters.master_of(&key).await?;
        Ok(Self { node, master, ws, ticket, seq: 0 })
    }

    /// Asks, and gets the next answer.
    async fn asks(&mut self) -> Result<()> {
        self.seq += 1;
        let frame = format!(r#"{{"service":"echo","id":{0},"payload":{0}}}"#, self.seq);
        let answer = self.ws.ask(&frame).await?;
        let is_it = answer.seq() == self.seq && answer.payload() == self.seq.to_string();
        ensure!(is_it, "{} instead of number {}", answer.text, self.seq);
        Ok(())
    }

    /// Comes back to the other node as if the last answer had not arrived, and gets it again.
    async fn moves(mut self, cluster: &Cluster) -> Result<Self> {
        drop(self.ws);
        self.node = 1 - self.node;
        (self.ws, self.ticket) = self.ticket.resumes(cluster.node(self.node), self.seq - 1).await?;
        let again = self.ws.frame().await?;
        ensure!(again.seq() == self.seq && again.is_terminal(), "missed: {}", again.text);
        Ok(self)
    }
}

/// So many clients for each master.
async fn clients(cluster: &Cluster, masters: &RedisCluster) -> Result<Vec<Client>> {
    let (mut clients, mut missing) = (Vec::new(), [[SESSIONS / 2; 2]; 3]);
    while missing.iter().flatten().any(|missing| *missing > 0) {
        for node in [0, 1] {
            let mut client = Client::start(cluster, masters, node).await?;
            client.asks().await?;
            match &mut missing[client.master][node] {
                0 => client.ws.close().await?,
                missing => {
                    *missing -= 1;
                    clients.push(client);
                }
            }
        }
    }
    Ok(clients)
}

/// Waits until both nodes are ready, and say (or not) that they miss a server.
async fn all_say(cluster: &Cluster, address: &str, is_missed: bool) -> Result<()> {
    for node in cluster.nodes() {
        eventually(SOON, "the node says who is away", async || {
            let answer = node.internal("/readyz").await?;
            ensure!(answer.status == 200, "{}", answer.text());
            ensure!(answer.text().contains(address) == is_missed, "{}", answer.text());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_master_costs_the_keys_of_others_nothing_and_its_own_no_loss() -> Result<()> {
    let masters = RedisCluster::start(&run_dir().join("masters")).await?;
    let config = format!("[registry]\nurl = \"{}\"", masters.url());
    let cluster = Cluster::builder().nodes(2).service("echo").config(&config).start().await?;
    let echo = cluster.worker("echo").start(|seen| vec![Reply::echo(seen).anywhere()])?;
    cluster.balanced().await?;
    let nodes: Vec<_> = cluster.nodes().iter().map(|node| node.public()).collect();
    let traffic = Traffic::start(&nodes, "echo", 8, 4);
    let mut clients = clients(&cluster, &masters).await?;
    traffic.goes_on(300).await?;

    // Each in its turn: the one that has the table of nodes, and two that have not.
    for away in 0..masters.masters.len() {
        let master = &masters.masters[away];
        let address = master.url().strip_prefix("redis://").context("its address")?;
        master.kill()?;
        let mut here = Vec::new();
        for mut client in clients {
            client.asks().await?;
            here.push(match client.master == away {
                true => client,
                false => client.moves(&cluster).await?,
            });
        }
        all_say(&cluster, address, true).await?;
        traffic.goes_on(300).await?;

        master.restart().await?;
        masters.is_whole().await?;
        clients = Vec::new();
        for mut client in here {
            client.asks().await?;
            clients.push(client.moves(&cluster).await?);
        }
        all_say(&cluster, address, false).await?;
        traffic.goes_on(300).await?;
    }

    let tally = traffic.finish().await?;
    tally.check_each_once()?;
    tally.check_unseen(&echo.seen())?;
    ensure!(tally.reconnected == 0, "a connection was closed: {tally:?}");
    ensure!(tally.of("ok") == tally.asked, "not all answered: {tally:?}");
    for client in clients {
        client.ws.close().await?;
    }
    cluster.finish().await
}
