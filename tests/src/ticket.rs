//! What a client needs to go on with its session on another connection.

use anyhow::{Context, Result, ensure};

use crate::{
    client::{Connect, Frame, WsClient},
    cluster::Node,
};

/// A session's last `welcome`, as far as it concerns the next one.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub session: String,
    pub token: String,
    pub resumed: bool,
    pub reliable: bool,
}

impl Ticket {
    /// Starts a session on that node.
    ///
    /// # Errors
    /// When there is no proper `welcome`.
    pub async fn new_session(node: &Node, reliable: bool) -> Result<(WsClient, Self)> {
        let connect = node.connect();
        let connect = if reliable { connect.query("reliable=1") } else { connect };
        let (ws, welcome) = connect.welcome().await?;
        let ticket = Self::read(&welcome, reliable)?;
        ensure!(!ticket.resumed, "resumed out of nothing: {}", welcome.text);
        Ok((ws, ticket))
    }

    /// The same session, or whatever the node makes of it, on another connection.
    ///
    /// # Errors
    /// When there is no proper `welcome`.
    pub async fn resume(&self, node: &Node, last_seq: u64) -> Result<(WsClient, Self)> {
        let (ws, welcome) = self.connect(node, &last_seq.to_string()).welcome().await?;
        Ok((ws, Self::read(&welcome, self.reliable)?))
    }

    /// Resumes the session on another connection.
    ///
    /// # Errors
    /// When it is not the same session that goes on.
    pub async fn resumes(&self, node: &Node, last_seq: u64) -> Result<(WsClient, Self)> {
        let (ws, next) = self.resume(node, last_seq).await?;
        ensure!(next.resumed, "not resumed on {}", node.id());
        ensure!(next.session == self.session, "resumed, but as another session");
        ensure!(next.token != self.token, "the token is the same");
        Ok((ws, next))
    }

    /// Checks that the session is over: a new one begins, which works.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn is_over(&self, node: &Node, last_seq: u64) -> Result<()> {
        let (mut ws, next) = self.resume(node, last_seq).await?;
        ensure!(!next.resumed, "resumed on {} all the same", node.id());
        ensure!(next.session != self.session, "not resumed, but the same session");
        let answer = ws.ask(r#"{"service":"no such service","id":1}"#).await?;
        ensure!(answer.seq() == 1, "a new session counts from 1: {}", answer.text);
        ws.close().await
    }

    /// The handshake that resumes it.
    pub fn connect(&self, node: &Node, last_seq: &str) -> Connect {
        let reliable = if self.reliable { "reliable=1&" } else { "" };
        node.connect().query(&format!("{reliable}resume={}&last_seq={last_seq}", self.token))
    }

    fn read(welcome: &Frame, reliable: bool) -> Result<Self> {
        let (session, token) = (welcome.need("session")?, welcome.need::<String>("resume")?);
        // 128 bits in base64 are 22 characters.
        let bare = token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b));
        ensure!(token.len() >= 22 && bare, "a token fit for a URL: {}", welcome.text);
        let resumed = welcome.get("resumed").context("whether it is resumed")?;
        Ok(Self { session, token, resumed, reliable })
    }
}
