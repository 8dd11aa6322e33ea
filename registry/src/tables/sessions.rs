//! The table of sessions: who holds one, and what another node needs to go on with it.
//!
//! While a session's owner lives, its memory is the truth and what is here is a copy of it, kept
//! so that another node can take the session over when the owner is gone. Every write of an owner
//! carries the session's epoch, which each change of owner raises: a node that slept, or was cut
//! off, while its session moved on can change nothing of it any more.
//!
//! A table that went back to an earlier state shows in an epoch that is lower than the owner's, and
//! in its generation. It is the owner that is right then: its record replaces what is there.

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    error::RegistryError,
    ids::{NodeRef, RequestId, SessionId},
    tables::{Answers, Generation},
};

/// The shortest life of a session: a shorter one could not be told from none.
pub(crate) const SESSION_TTL_MIN: Duration = Duration::from_millis(1);
/// The longest life of a session.
pub(crate) const SESSION_TTL_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The hash of a resume token's secret: what the table compares instead of the secret itself, so
/// that whoever reads the table cannot take over a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

/// A session as its owner writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Which session.
    pub session: SessionId,
    /// Counts its changes of owner; the owner that started it writes 1.
    pub epoch: u64,
    /// The run of the node that holds it.
    pub node: NodeRef,
    /// Whose it is; none when its client is anonymous.
    pub user: Option<Box<str>>,
    /// Whether its client acknowledges frames.
    pub reliable: bool,
    /// Whether it has a connection.
    pub attached: bool,
    /// What resumes it.
    pub token: TokenHash,
    /// The token before, which resumes it as well for as long as it is not known that the client
    /// has got the present one.
    pub former_token: Option<TokenHash>,
    /// The generation of the table in which all of the checkpoint was written, as far as its owner
    /// knows. In a later one the checkpoint may lack what was answered as done.
    pub generation: Option<Generation>,
}

/// What the table did with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// There was none of this session, or only one of an earlier epoch: its first one, or the table
    /// has lost it, or gone back to what it was before. It has no checkpoint now.
    Created,
    /// It has replaced the one before of the same epoch.
    Refreshed,
    /// One of a later epoch is there: nothing was written. The session belongs to another node.
    Superseded,
}

/// What a request that is in flight for a session has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Handed to the producer, or about to be: it may be in the log.
    Submitted,
    /// The broker has recorded it.
    Recorded,
    /// Its last frame is in the mailbox.
    Ended,
}

/// One change of a session's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointStep {
    /// A request is in flight ([`Progress::Submitted`]), or what is known of it has changed. A
    /// request that has [`Progress::Ended`] stays so, with the detail it had.
    Request {
        /// Which request.
        request: RequestId,
        /// How far it is: `Submitted` or `Recorded`.
        progress: Progress,
        /// What its owner has to know of it, as the owner writes it.
        detail: Bytes,
    },
    /// A frame is added to the mailbox. With a request it is that request's last frame: it is added
    /// only while the request is in flight and has not ended, and ends it; otherwise this changes
    /// nothing.
    Park {
        /// The frame's number; 0 when it has none yet.
        seq: u64,
        /// The request that it ends.
        request: Option<RequestId>,
        /// The frame, as the gateway writes it.
        frame: Bytes,
    },
    /// The mailbox loses its numbered frames up to this number (0: none); those without a number
    /// stay.
    Trim {
        /// The last number to drop.
        seq: u64,
    },
    /// The checkpoint loses everything: the mailbox its frames, and all requests. The first step of
    /// a checkpoint that writes a session's whole state anew.
    Reset,
    /// A request is not in flight any more; one that is not there is no error.
    Forget {
        /// Which request.
        request: RequestId,
    },
}

/// Changes of one session's checkpoint, carried out in their order and all at once or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointUpdate {
    /// Which session.
    pub session: SessionId,
    /// The epoch for which the writer holds it, or as which a node that parks on a dead owner's
    /// behalf has found it.
    pub epoch: u64,
    /// Whether the owner is taken to be dead: then the session has none from now on, and its epoch
    /// is raised by one, so that an owner which only slept finds all its writes refused. Together
    /// with the steps or not at all.
    pub orphan: bool,
    /// What changes.
    pub steps: Vec<CheckpointStep>,
}

/// What the table did with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpointed {
    /// It was carried out. So it is answered too when a call is repeated.
    Done,
    /// The session is at a later epoch; nothing was changed.
    Superseded,
    /// There is no such session (any more), or only an earlier epoch of it, to which the table went
    /// back, or the table has lost a part of the checkpoint; nothing was changed. Of a part that was
    /// lost only the owner is told, and not where it begins anew ([`CheckpointStep::Reset`] first).
    Missing,
    /// The mailbox would have outgrown its limits: the session is marked as overflowed, its mailbox
    /// is empty and takes nothing any more. All other steps were carried out; a frame that was not
    /// taken has not ended its request. Every later checkpoint that parks is answered so too.
    Overflowed,
}

/// What one session's mailbox may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailboxLimits {
    /// Frames.
    pub frames_max: usize,
    /// Bytes of all frames.
    pub bytes_max: usize,
}

/// What the table knows of a session, for whoever looks for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEntry {
    /// The present epoch.
    pub epoch: u64,
    /// The run of the node that holds it; none once it has been orphaned
    /// ([`CheckpointUpdate::orphan`]).
    pub node: Option<NodeRef>,
    /// Whose it is.
    pub user: Option<Box<str>>,
    /// Whether its client acknowledges frames.
    pub reliable: bool,
    /// Whether it has a connection.
    pub attached: bool,
    /// Whether its mailbox has outgrown its limits: it cannot be resumed from its checkpoint.
    pub overflowed: bool,
    /// In which generation of the table its checkpoint was written: [`SessionRecord::generation`].
    pub generation: Option<Generation>,
}

/// A node wants to hold a session whose client has come to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which session.
    pub session: SessionId,
    /// What the client has shown.
    pub token: TokenHash,
    /// Who the client is.
    pub user: Option<Box<str>>,
    /// Who claims it.
    pub node: NodeRef,
    /// The token that takes the place of the present one. The one shown becomes the former one.
    pub next_token: TokenHash,
    /// How long the session lives without a refresh: at least one millisecond, at most seven days.
    pub ttl: Duration,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// No such session, or its token is neither the present nor the former one: nothing has
    /// changed.
    Refused,
    /// The session is another user's: nothing has changed.
    OtherUser,
    /// The session is the claimer's from now on, and has a connection.
    Taken(Box<Holding>),
}

/// A session's state at the moment of its change of owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The epoch for which the claimer holds it: one more than `former.epoch`.
    pub epoch: u64,
    /// The session before.
    pub former: SessionEntry,
    /// Who wrote it last.
    pub written: Written,
    /// The requests in flight, in any order.
    pub requests: Vec<HeldRequest>,
    /// The mailbox, in the order of parking. It stays as it is until the new owner changes it.
    pub mailbox: Vec<ParkedFrame>,
    /// Whether all of it is there, as far as can be told, and could be read. What could not be read
    /// is left out of the two lists, as is what the table has lost.
    pub is_whole: bool,
}

/// Who wrote a session last: its owner ([`SessionTable::record`]), or, with none from then on,
/// whoever orphaned it ([`CheckpointUpdate::orphan`]). Not the same as who is named as its owner:
/// that one may never have heard that its claim was carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// For this epoch: whoever has held the session before knows less of it.
    pub epoch: u64,
    /// The run of the node that held it then.
    pub node: Option<NodeRef>,
}

/// A request in flight, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRequest {
    /// Which request.
    pub request: RequestId,
    /// How far it was.
    pub progress: Progress,
    /// What its former owner knew of it.
    pub detail: Bytes,
    /// How long ago that was written, by the table's own clock.
    pub age: Duration,
}

/// A frame in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedFrame {
    /// Its number; 0 when it has none yet.
    pub seq: u64,
    /// The request that it ends.
    pub request: Option<RequestId>,
    /// The frame, as the gateway writes it.
    pub frame: Bytes,
}

/// SessionId → who holds it, and its checkpoint: requests in flight and the mailbox.
///
/// A session and its checkpoint end together, `ttl` after the last [`SessionTable::record`] or
/// [`SessionTable::claim`]; no other call prolongs their life.
#[async_trait]
pub trait SessionTable: Send + Sync + Debug + 'static {
    /// Writes or refreshes records, each for `ttl` from now (at least one millisecond, at most
    /// seven days), with its checkpoint. One round trip whatever their number. Sessions do not come
    /// twice in a batch.
    ///
    /// # Errors
    /// Any, for each record; it may or may not have been written, and repeating it is harmless but
    /// for [`Recorded::Created`], which may then be told as [`Recorded::Refreshed`]. Cancel safe
    /// in the same sense.
    async fn record(&self, records: &[SessionRecord], ttl: Duration) -> Answers<Recorded>;

    /// Changes checkpoints. One round trip whatever their number. Sessions do not come twice in a
    /// batch.
    ///
    /// # Errors
    /// Any, for each checkpoint; it may or may not have been changed. Repeating it is harmless, except
    /// that a frame may be there twice that was parked without a request, or with one that the same
    /// checkpoint also brings into flight and forgets.
    async fn update_checkpoints(
        &self,
        checkpoints: &[CheckpointUpdate],
        limits: MailboxLimits,
    ) -> Answers<Checkpointed>;

    /// The present entries of these sessions, with `None` where there is none. One round trip
    /// whatever their number. An entry that cannot be read counts as none.
    ///
    /// # Errors
    /// Any, for each session; then nothing is known of it. Cancel safe.
    async fn find_sessions(&self, sessions: &[SessionId]) -> Answers<Option<SessionEntry>>;

    /// The session's present entry, if this token resumes it; none if there is no such session, or
    /// the token is another one. Changes nothing.
    ///
    /// # Errors
    /// Any; then nothing is known. Cancel safe.
    async fn try_token(
        &self,
        session: &SessionId,
        token: &TokenHash,
    ) -> Result<Option<SessionEntry>, RegistryError>;

    /// Takes a session over: of several claims at once with one token, each that is carried out
    /// raises the epoch, and the last one holds the session. The token is looked at before the
    /// user. A session whose epoch is the largest there is can only be refused, and so is one that
    /// cannot be read.
    ///
    /// # Errors
    /// Any; the claim may or may not have been carried out. A repeated claim with the same token
    /// succeeds, because that token is the former one then.
    async fn claim(&self, claim: &Claim) -> Result<Claimed, RegistryError>;

    /// Removes sessions and their checkpoints, each only at this epoch.
    ///
    /// # Errors
    /// Any, for each session; what stayed expires by itself.
    async fn end_sessions(&self, sessions: &[(SessionId, u64)]) -> Answers<()>;
}
