//! Defects that are put in by hand, each in a wrapper around what the nodes stand on: whoever looks
//! for what goes wrong has to find them, but for the one that must do no harm.

use registry::{
    CheckpointStep, CheckpointUpdate, Holding, MemoryRegistry, SessionRecord, SessionTable,
};

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Nothing.
    None,
    /// Offsets are stored when a record is read.
    EarlyOffsets,
    /// The registry takes writes of any epoch.
    NoEpochs,
    /// A parked reply loses its number, and the request that it ends.
    BareParks,
    /// A session is taken over without what is in flight for it.
    NoRequests,
    /// Peers say now and then in words of another version what has become of a reply. No harm.
    StrangeWords,
}

impl Defect {
    pub(crate) async fn spoil_records(
        self,
        records: &[SessionRecord],
        table: &MemoryRegistry,
    ) -> Vec<SessionRecord> {
        let mut records = records.to_vec();
        if self == Self::NoEpochs {
            for record in &mut records {
                record.epoch = record.epoch.max(epoch(table, record.session).await);
            }
        }
        records
    }

    pub(crate) async fn spoil_checkpoints(
        self,
        checkpoints: &[CheckpointUpdate],
        table: &MemoryRegistry,
    ) -> Vec<CheckpointUpdate> {
        let mut checkpoints = checkpoints.to_vec();
        for checkpoint in &mut checkpoints {
            if self == Self::NoEpochs {
                checkpoint.epoch = epoch(table, checkpoint.session).await;
            }
            for step in &mut checkpoint.steps {
                if let (Self::BareParks, CheckpointStep::Park { seq, request, .. }) = (self, step) {
                    (*seq, *request) = (0, None);
                }
            }
        }
        checkpoints
    }

    pub(crate) fn spoil_holding(self, holding: &mut Holding) {
        if self == Self::NoRequests {
            holding.requests.clear();
        }
    }
}

async fn epoch(table: &MemoryRegistry, session: registry::SessionId) -> u64 {
    let found = table.find_sessions(&[session]).await;
    found.into_iter().flatten().flatten().next().map_or(0, |entry| entry.epoch)
}
