//! Defects that are put in on purpose, each in a wrapper around what the nodes stand on. The
//! simulation has to find all of them but the one that must do no harm.

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
    /// Now and then a peer's verdict on a reply is one of another version. This must do no harm.
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
