//! A WebSocket client that speaks the contract.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest,
        handshake::client::Request,
        http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

pub use frame::Frame;

use crate::SOON;

mod frame;

/// How to connect; made by [`crate::cluster::Node::connect`].
#[derive(Clone, Debug)]
pub struct Connect {
    address: SocketAddr,
    path: String,
    headers: Vec<(String, String)>,
}

/// What came of a handshake.
#[derive(Debug)]
pub enum Handshake {
    /// A connection; nothing has been read from it.
    Accepted(Box<WsClient>),
    /// An HTTP answer instead.
    Refused { status: StatusCode, headers: Box<HeaderMap> },
}

/// One connection.
#[derive(Debug)]
pub struct WsClient {
    stream: WebSocketStream<TcpStream>,
    /// The handshake's answer.
    pub headers: HeaderMap,
}

/// What `next` may find.
#[derive(Clone, Debug)]
pub enum Event {
    Frame(Frame),
    /// The close code; `None` for an end without a close frame.
    Closed(Option<u16>),
}

impl Connect {
    /// A connection to `/ws` of the listener at this address.
    pub fn to(address: SocketAddr) -> Self {
        Self { address, path: "/ws".to_owned(), headers: Vec::new() }
    }

    /// Adds a header to the handshake.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Offers a subprotocol.
    #[must_use]
    pub fn subprotocol(self, name: &str) -> Self {
        self.header("sec-websocket-protocol", name)
    }

    /// Says where the page that connects is from.
    #[must_use]
    pub fn origin(self, origin: &str) -> Self {
        self.header("origin", origin)
    }

    /// Sets the query, without its `?`.
    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.path = format!("/ws?{query}");
        self
    }

    /// Connects, and says what the gateway answered.
    ///
    /// # Errors
    /// When it did not answer in HTTP.
    pub async fn handshake(&self) -> Result<Handshake> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(8 * 1024);
        let connecting = client_async_with_config(self.request()?, stream, Some(config));
        match timeout(SOON, connecting).await.context("no answer to the handshake")? {
            Ok((stream, response)) => {
                let headers = response.headers().clone();
                Ok(Handshake::Accepted(Box::new(WsClient { stream, headers })))
            }
            Err(Error::Http(response)) => Ok(Handshake::Refused {
                status: response.status(),
                headers: Box::new(response.headers().clone()),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Connects, and leaves the `welcome` unread.
    ///
    /// # Errors
    /// When the handshake is refused.
    pub async fn open(&self) -> Result<WsClient> {
        match self.handshake().await? {
            Handshake::Accepted(client) => Ok(*client),
            Handshake::Refused { status, .. } => bail!("handshake refused with {status}"),
        }
    }

    /// Connects, and reads the `welcome`.
    ///
    /// # Errors
    /// When the handshake is refused, or anything else comes first.
    pub async fn welcome(&self) -> Result<(WsClient, Frame)> {
        let mut client = self.open().await?;
        let frame = client.frame().await?;
        if frame.kind() != "welcome" {
            bail!("not a welcome: {}", frame.text);
        }
        Ok((client, frame))
    }

    fn request(&self) -> Result<Request> {
        let mut request = format!("ws://{}{}", self.address, self.path).into_client_request()?;
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes())?;
            request.headers_mut().append(name, HeaderValue::from_str(value)?);
        }
        Ok(request)
    }
}

impl WsClient {
    /// Sends one text frame.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&mut self, text: impl Into<String>) -> Result<()> {
        self.message(Message::text(text.into())).await
    }

    /// Sends one message of any type, behind the pongs to all pings that have been read.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn message(&mut self, message: Message) -> Result<()> {
        // A pong that is due would be written behind what is sent next.
        self.stream.flush().await?;
        Ok(self.stream.send(message).await?)
    }

    /// Waits until the node has read everything that was sent so far.
    ///
    /// # Errors
    /// When it does not say so soon.
    pub async fn is_heard(&mut self) -> Result<()> {
        self.send(r#"{"type":"ping","id":"heard"}"#).await?;
        let pong = self.frame_of("pong").await?;
        ensure!(pong.raw("id") == Some(r#""heard""#), "{}", pong.text);
        Ok(())
    }

    /// Waits for a ping of the node; what is sent from now on comes behind its pong. Frames before
    /// it are passed over.
    ///
    /// # Errors
    /// When none comes soon.
    pub async fn pinged(&mut self) -> Result<()> {
        let ping = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Ping(_))) => break Ok(()),
                    Some(Ok(_)) => {}
                    other => bail!("{other:?} instead of a ping"),
                }
            }
        };
        timeout(SOON, ping).await.context("no ping")?
    }

    /// The next frame, or the end; pings are answered in passing.
    ///
    /// # Errors
    /// When neither comes within the time.
    pub async fn next(&mut self, within: Duration) -> Result<Event> {
        timeout(within, self.next_event())
            .await
            .with_context(|| format!("silence of {within:?}"))?
    }

    async fn next_event(&mut self) -> Result<Event> {
        loop {
            return match self.stream.next().await {
                Some(Ok(Message::Text(text))) => Ok(Event::Frame(Frame::parse(text.as_str())?)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Close(frame))) => {
                    Ok(Event::Closed(frame.map(|frame| frame.code.into())))
                }
                Some(Ok(Message::Binary(bytes))) => bail!("{} binary bytes", bytes.len()),
                Some(Err(Error::Io(_) | Error::Protocol(_) | Error::ConnectionClosed)) | None => {
                    Ok(Event::Closed(None))
                }
                Some(Err(error)) => Err(error.into()),
            };
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// When the connection ends or nothing comes soon.
    pub async fn frame(&mut self) -> Result<Frame> {
        match self.next(SOON).await? {
            Event::Frame(frame) => Ok(frame),
            Event::Closed(code) => bail!("closed with {code:?} instead of a frame"),
        }
    }

    /// The next frame of that type; others are passed over.
    ///
    /// # Errors
    /// When the connection ends or nothing comes soon.
    pub async fn frame_of(&mut self, kind: &str) -> Result<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.kind() == kind {
                return Ok(frame);
            }
        }
    }

    /// Waits for the end and gives its code; frames before it are passed over.
    ///
    /// # Errors
    /// When the connection stays open.
    pub async fn closed(&mut self) -> Result<Option<u16>> {
        loop {
            if let Event::Closed(code) = self.next(SOON).await? {
                return Ok(code);
            }
        }
    }

    /// One request to a service with a payload of JSON text, and its terminal frame.
    ///
    /// # Errors
    /// When none arrives.
    pub async fn request(&mut self, service: &str, payload: &str) -> Result<Frame> {
        self.ask(&format!(r#"{{"service":"{service}","payload":{payload}}}"#)).await
    }

    /// Sends a frame, and waits for the next `response` or `error`.
    ///
    /// # Errors
    /// When none arrives.
    pub async fn ask(&mut self, frame: &str) -> Result<Frame> {
        self.send(frame).await?;
        loop {
            let frame = self.frame().await?;
            if frame.is_terminal() {
                return Ok(frame);
            }
        }
    }

    /// Ends the connection with 1000, and the session with it.
    ///
    /// # Errors
    /// When the connection has ended otherwise.
    pub async fn close(mut self) -> Result<()> {
        self.close_with(1000).await
    }

    /// Ends the connection with a code of one's own.
    ///
    /// # Errors
    /// When the connection has ended otherwise.
    pub async fn close_with(&mut self, code: u16) -> Result<()> {
        let frame = CloseFrame { code: CloseCode::from(code), reason: "".into() };
        Ok(self.stream.close(Some(frame)).await?)
    }

    /// The stream itself, for what the above does not do.
    pub fn into_stream(self) -> WebSocketStream<TcpStream> {
        self.stream
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;

    use super::*;

    #[tokio::test]
    async fn a_pong_that_is_due_comes_before_what_is_sent() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let node = async {
            let mut stream = accept_async(listener.accept().await?.0).await?;
            stream.send(Message::Ping("7".into())).await?;
            let read = [stream.next().await.transpose()?, stream.next().await.transpose()?];
            anyhow::Ok(read)
        };
        let client = async {
            let mut client = Connect::to(address).open().await?;
            client.pinged().await?;
            client.send("behind it").await?;
            Ok(client)
        };
        let (read, _client) = tokio::try_join!(node, client)?;
        assert_eq!(read, [Some(Message::Pong("7".into())), Some(Message::text("behind it"))]);
        Ok(())
    }
}
