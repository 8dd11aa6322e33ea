//! The types with which others talk to a session.

use std::sync::Arc;

use registry::RequestId;
use tokio::time::Instant;

use super::token::Token;
use crate::{
    config::{Config, SessionConfig},
    error::CloseCode,
    relay::offsets::OffsetGuard,
    wire::{ClientId, Frame},
};

/// The fingerprint of a request, which tells two requests with one id apart: a hash over service,
/// key, headers and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u128);

/// What a session says to a request with an id that may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The id is free.
    No,
    /// The same request is in flight, or its end is on its way to a client that has come back: the
    /// one answer is for both.
    Joins,
    /// The same request is in flight, and the node that took it died before the broker had
    /// confirmed it: it has to be produced again, under this id. Said once.
    Unconfirmed(RequestId),
    /// Another request is in flight under this id.
    Conflicts,
}

/// Why a request does not begin on a session. Decided together with the beginning itself: a session may
/// be closed or handed over at any moment by another thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// The session is elsewhere, or its connection is about to be closed: the client asks again on its
    /// next one, and the request counts as never sent.
    LeftBehind,
    /// The node drains, and closes the connection of this plain session once all is answered.
    Draining,
}

/// The limits of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Bytes of frames that wait for a connected client.
    pub outbox_bytes_max: usize,
    /// Bytes of frames that may gather while there is no connection.
    pub mailbox_bytes_max: usize,
    /// Frames that may gather while there is no connection.
    pub mailbox_frames_max: usize,
    /// Bytes of parts of streamed replies that wait for a connected client. While there is no
    /// connection, parts may take half of what may gather then.
    pub stream_bytes_max: usize,
}

/// A request that is in flight for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Its id.
    pub request: RequestId,
    /// The request's fingerprint.
    pub digest: Digest,
    /// The service that answers.
    pub service: Arc<str>,
    /// Until when it waits for its reply.
    pub deadline: Instant,
    /// Whether its last frame has been queued.
    pub has_ended: bool,
    /// Whether nobody knows if it was produced: see [`Known::Unconfirmed`].
    pub is_unconfirmed: bool,
}

/// What became of a frame that was pushed.
#[derive(Debug)]
pub enum Pushed {
    /// It is owed to the client from now on.
    Queued,
    /// Owed, and from now on the session has a frame that has to be parked unless the client
    /// acknowledges it in time.
    Watch,
    /// Owed, and it has to go into the mailbox, because the client is away.
    Away,
    /// The session has ended here.
    Ended(Frame, Option<OffsetGuard>),
    /// With this frame more would be owed without a connection than this limit allows: the session
    /// has to end, and does not contain the frame.
    Overflowed(&'static str, Frame, Option<OffsetGuard>),
    /// The client does not read the parts of streamed replies as fast as they come: there is no room
    /// for this one under this limit.
    NoRoom(&'static str, Frame, Option<OffsetGuard>),
    /// The session has gone to another node, and the frame has to follow it.
    Moved(Frame, Option<OffsetGuard>),
}

/// One of a session's connections. Only the latest one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub(super) u64);

impl SessionLimits {
    /// As configured.
    pub fn new(config: &Config) -> Self {
        let SessionConfig { outbox_bytes_max, mailbox_bytes_max, mailbox_frames_max, .. } =
            config.session;
        let stream_bytes_max = config.limits.stream_bytes_max;
        Self { outbox_bytes_max, mailbox_bytes_max, mailbox_frames_max, stream_bytes_max }
    }
}

impl ConnectionId {
    /// The id that no connection has.
    pub const NONE: Self = Self(0);
}

/// What a connection has to do for its session.
#[derive(Debug)]
pub enum Duty {
    /// Write this frame.
    Write(NextFrame),
    /// Close the socket, and write nothing more.
    Close(Closing),
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The code that its client gets.
    pub code: CloseCode,
    /// Bytes of frames that waited for a client that reads too slowly.
    pub waiting_bytes: Option<usize>,
}

impl From<CloseCode> for Closing {
    fn from(code: CloseCode) -> Self {
        Self { code, waiting_bytes: None }
    }
}

/// The next frame for a connection.
#[derive(Debug)]
pub struct NextFrame {
    pub(super) seq: u64,
    pub(super) frame: Frame,
    pub(super) is_last_missed: bool,
}

impl NextFrame {
    /// The frame. Rendering a large one takes time, so it is never done under the session's lock.
    pub fn text(&self) -> String {
        self.frame.render(self.seq)
    }

    /// Whether it is the last frame that a client, which acknowledges none, lacked when it came
    /// back: the pong to a ping behind it proves that all of them have come.
    pub fn is_last_missed(&self) -> bool {
        self.is_last_missed
    }
}

/// A frame for the mailbox, or for the session's next owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unparked {
    /// Its number.
    pub seq: u64,
    /// The request that it ends.
    pub request: Option<RequestId>,
    /// The frame itself.
    pub frame: Frame,
}

/// A part of a streamed reply that a client has.
#[derive(Debug)]
pub struct ReadPart {
    /// The request that the reply answers.
    pub request: RequestId,
    /// Which part it is.
    pub index: u32,
    /// Keeps its offset from being committed.
    pub guard: Option<OffsetGuard>,
}

/// What follows when a client has frames.
#[derive(Debug, Default)]
pub struct Confirmed {
    /// Requests that are over for good.
    pub over: Vec<RequestId>,
    /// Requests whose receipt has come.
    pub receipts: Vec<RequestId>,
    /// Parts of streamed replies that have come.
    pub parts: Vec<ReadPart>,
    /// Up to which number frames may be dropped from the mailbox; 0 if there are none.
    pub trim: u64,
}

/// With what a session begins on this node.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Its epoch: one more than the number of its changes of owner.
    pub epoch: u64,
    /// The token that resumes it.
    pub token: Token,
    /// The token that has resumed it here.
    pub former_token: Option<Token>,
    /// The number of the last frame that its client has.
    pub last_seq: u64,
}

/// What an ended session leaves behind.
#[derive(Debug)]
pub struct Ended {
    /// The requests that were in flight.
    pub requests: Vec<RequestId>,
    /// How many frames were never sent.
    pub unread: usize,
    /// Replies among its frames whose offsets are held back here.
    pub held: Vec<(Frame, OffsetGuard)>,
}

/// What a session leaves to its next owner.
#[derive(Debug)]
pub struct HandedOver {
    /// The number of the last frame that was queued.
    pub seq: u64,
    /// The number up to which frames are not kept.
    pub confirmed: u64,
    /// The frames after it, in order.
    pub frames: Vec<Unparked>,
    /// Replies among them whose offsets are held back here.
    pub guards: Vec<(Frame, OffsetGuard)>,
    /// Requests in flight.
    pub in_flight: Vec<(ClientId, InFlight)>,
}
