//! What keeps a consumer from reading.

/// A batch of records that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// The offset at which reading stops.
    pub offset: i64,
    /// The offset at which reading goes on; everything before it is skipped. `None`: it does not go
    /// on until the cause is removed.
    pub next: Option<i64>,
    /// What is wrong with it.
    pub reason: UnreadableReason,
    /// The same in the client library's words.
    pub cause: String,
}

/// What is wrong with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadableReason {
    /// Its checksum does not match its bytes, or the bytes are no records.
    Corrupt,
    /// It is larger than the client accepts.
    TooLarge,
    /// It cannot be decompressed, or is too large when it is.
    Undecodable,
    /// It has a format or a compression that the client does not know.
    Unsupported,
    /// No records come, for an unknown reason.
    Stalled,
}

impl UnreadableReason {
    /// The reason as metrics and logs name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too_large",
            Self::Undecodable => "undecodable",
            Self::Unsupported => "unsupported",
            Self::Stalled => "stalled",
        }
    }
}

/// What keeps a consumer from reading, for as long as it does. `Display` explains it to an
/// operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A broker cannot be talked to: which, and why. Others may answer.
    #[error("{0}")]
    Unreachable(String),
    /// There is no such topic.
    #[error("topic {0} does not exist: `roundtrip topics` creates it")]
    MissingTopic(String),
    /// A partition cannot be read on.
    #[error(
        "partition {} of {} is not read on from offset {}: {}",
        .0.partition, .0.topic, .0.offset, .0.reason.as_str()
    )]
    Stuck(Unreadable),
}
