//! What a session is told, and what it answers.

use std::sync::Arc;

use registry::RequestId;

use super::token::Token;
use crate::{
    config::SessionConfig,
    error::CloseCode,
    relay::offsets::OffsetGuard,
    wire::{ClientId, Frame},
};

/// What a request asks for, so that two with one id can be told apart: a hash over service, key,
/// headers and payload.
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

/// What a session may hold.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Bytes of frames that wait for a connected client.
    pub outbox_bytes_max: usize,
    /// Bytes of frames that are gathered while there is no connection.
    pub mailbox_bytes_max: usize,
    /// The same in frames.
    pub mailbox_frames_max: usize,
}

/// A request that is in flight for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Its id.
    pub request: RequestId,
    /// What it asks for.
    pub digest: Digest,
    /// Who answers.
    pub service: Arc<str>,
    /// Whether its last frame has been queued.
    pub has_ended: bool,
    /// Whether nobody knows that it was produced: see [`Known::Unconfirmed`].
    pub is_unconfirmed: bool,
}

/// What became of a frame that was pushed.
#[derive(Debug)]
pub enum Pushed {
    /// It is owed to the client from now on.
    Queued,
    /// The same, and from now on the session has a frame that has to be parked unless the client
    /// acknowledges it in time.
    Watch,
    /// The same, and the mailbox has to have it, because the client is away.
    Away,
    /// There is no such session any more, here.
    Ended(Frame, Option<OffsetGuard>),
    /// More than this limit lets the session hold without a connection: it has to end, and the frame
    /// is no part of it.
    Overflowed(&'static str, Frame, Option<OffsetGuard>),
    /// The session has gone to another node, and the frame has to follow it.
    Moved(Frame, Option<OffsetGuard>),
}

/// One of a session's connections: the latest one is the only one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionId(pub(super) u64);

impl SessionLimits {
    /// As configured.
    pub fn new(config: &SessionConfig) -> Self {
        Self {
            outbox_bytes_max: config.outbox_bytes_max,
            mailbox_bytes_max: config.mailbox_bytes_max,
            mailbox_frames_max: config.mailbox_frames_max,
        }
    }
}

impl ConnectionId {
    /// That of no connection.
    pub const NONE: Self = Self(0);
}

/// What a connection has to do for its session.
#[derive(Debug)]
pub enum Duty {
    /// Write this frame.
    Write(NextFrame),
    /// Close the socket; nothing is written any more.
    Close(Closing),
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// What its client is told.
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
    /// What to write. A large frame takes its time: never rendered under the session's lock.
    pub fn text(&self) -> String {
        self.frame.render(self.seq)
    }

    /// Whether it is the last of what a client lacked when it came back that does not acknowledge
    /// frames: with the pong to a ping behind it, all of that has come.
    pub fn is_last_missed(&self) -> bool {
        self.is_last_missed
    }
}

/// A frame that the mailbox should have, or the session's next holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unparked {
    /// Its number.
    pub seq: u64,
    /// The request that it ends.
    pub request: Option<RequestId>,
    /// What it says.
    pub frame: Frame,
}

/// What has changed by a client's having got its frames.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Requests that are over for good.
    pub over: Vec<RequestId>,
    /// Requests whose receipt has come.
    pub receipts: Vec<RequestId>,
    /// Up to where frames were in the mailbox that are not needed there any more; 0: nowhere.
    pub trim: u64,
}

/// What a session begins with on this node.
#[derive(Debug)]
pub struct Beginning {
    /// How often it has changed its holder, and once more.
    pub epoch: u64,
    /// What resumes it.
    pub token: Token,
    /// What resumed it here.
    pub former_token: Option<Token>,
    /// The number of the last frame that its client has.
    pub last_seq: u64,
}

/// What is left of a session that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What was in flight for it.
    pub requests: Vec<RequestId>,
    /// How many frames nobody has been sent.
    pub unread: usize,
    /// Replies among its frames whose offsets are held back here.
    pub held: Vec<(Frame, OffsetGuard)>,
}

/// What a session leaves to its next holder.
#[derive(Debug)]
pub struct HandedOver {
    /// The number of the last frame that was queued.
    pub seq: u64,
    /// The number up to which frames are not kept.
    pub confirmed: u64,
    /// The frames after it, in order.
    pub frames: Vec<Unparked>,
    /// Replies among them whose offsets are held back here.
    pub holds: Vec<(Frame, OffsetGuard)>,
    /// Requests in flight.
    pub in_flight: Vec<(ClientId, InFlight)>,
}
