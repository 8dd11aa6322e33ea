//! A WebSocket client that writes whatever it is told, for what RFC 6455 forbids.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::SOON;

/// Frame types of RFC 6455, section 5.2.
pub mod opcode {
    pub const CONTINUATION: u8 = 0x0;
    pub const TEXT: u8 = 0x1;
    pub const BINARY: u8 = 0x2;
    pub const CLOSE: u8 = 0x8;
    pub const PING: u8 = 0x9;
    pub const PONG: u8 = 0xa;
}

/// An open connection.
#[derive(Debug)]
pub struct RawWs {
    stream: TcpStream,
}

/// A frame to be written, lawful or not.
#[derive(Clone, Debug)]
pub struct RawFrame {
    pub fin: bool,
    /// The three reserved bits.
    pub reserved: u8,
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl RawFrame {
    /// A whole, masked message of one frame.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, reserved: 0, opcode, masked: true, payload: payload.into() }
    }

    /// The same, to be continued.
    #[must_use]
    pub fn unfinished(mut self) -> Self {
        self.fin = false;
        self
    }

    /// The same without a mask, which a server must refuse.
    #[must_use]
    pub fn unmasked(mut self) -> Self {
        self.masked = false;
        self
    }

    /// The same with reserved bits set.
    #[must_use]
    pub fn reserved(mut self, bits: u8) -> Self {
        self.reserved = bits;
        self
    }

    /// What goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let mut bytes =
            vec![u8::from(self.fin) << 7 | (self.reserved & 7) << 4 | (self.opcode & 0xf)];
        let mask_bit = u8::from(self.masked) << 7;
        match self.payload.len() {
            short @ 0..126 => bytes.push(mask_bit | u8::try_from(short).unwrap_or_default()),
            medium @ 126..0x1_0000 => {
                bytes.push(mask_bit | 126);
                bytes.extend(u16::try_from(medium).unwrap_or_default().to_be_bytes());
            }
            long => {
                bytes.push(mask_bit | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend(MASK);
            bytes.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
        } else {
            bytes.extend(&self.payload);
        }
        bytes
    }
}

impl RawWs {
    /// Connects to `/ws`, and leaves the first frame unread.
    ///
    /// # Errors
    /// When the handshake is refused.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(SOON, stream.read_u8()).await.context("no handshake")??;
            head.push(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        ensure!(head.starts_with("HTTP/1.1 101 "), "refused: {head}");
        // RFC 6455, section 1.3: the answer to its sample nonce.
        ensure!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "wrong accept key: {head}");
        Ok(Self { stream })
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// When the gateway has closed.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// Writes a frame.
    ///
    /// # Errors
    /// When the gateway has closed.
    pub async fn send(&mut self, frame: &RawFrame) -> Result<()> {
        self.write(&frame.bytes()).await
    }

    /// The next frame: its opcode and payload; `None` at the end of the stream.
    ///
    /// # Errors
    /// When neither comes soon.
    pub async fn next(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        timeout(SOON, self.read_frame()).await.context("neither a frame nor the end")?
    }

    async fn read_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let mut head = [0; 2];
        // A reset is an end like another here.
        if self.stream.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        ensure!(head[1] & 0x80 == 0, "a server's frame must not be masked");
        let length = match head[1] {
            126 => u64::from(self.stream.read_u16().await?),
            127 => self.stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut payload).await?;
        Ok(Some((head[0] & 0xf, payload)))
    }

    /// The next text message.
    ///
    /// # Errors
    /// When the connection ends first.
    pub async fn text(&mut self) -> Result<String> {
        while let Some((opcode, payload)) = self.next().await? {
            if opcode == opcode::TEXT {
                return Ok(String::from_utf8(payload)?);
            }
        }
        bail!("closed instead of a text message")
    }

    /// The close code; `None` when the stream ends without a close frame.
    ///
    /// # Errors
    /// When the connection stays open.
    pub async fn close_code(&mut self) -> Result<Option<u16>> {
        while let Some((opcode, payload)) = self.next().await? {
            if opcode == opcode::CLOSE {
                return Ok(payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
            }
        }
        Ok(None)
    }

    /// Whether the stream ends within the time; frames before are passed over.
    pub async fn ends(&mut self, within: Duration) -> bool {
        let end = async { while let Ok(Some(_)) = self.read_frame().await {} };
        timeout(within, end).await.is_ok()
    }
}
