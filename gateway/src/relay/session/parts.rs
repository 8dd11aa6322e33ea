//! Parts of streamed replies that wait for a session's client: how many may.

use super::{Phase, Session, SessionLimits, State, outbox::backing::unread_part_bytes};
use crate::tasks::locked;

impl Session {
    /// How much of what may wait of streamed replies does wait, in percent.
    pub fn stream_load(&self) -> usize {
        locked(&self.state).stream_load(&self.limits)
    }
}

impl State {
    /// The limit under which a part of this weight has no room, if there is one. One part always fits
    /// where none waits.
    pub(super) fn limit_of_parts(
        &self,
        weight: usize,
        limits: &SessionLimits,
    ) -> Option<&'static str> {
        let is_over = |waiting: usize, max: usize| waiting > 0 && waiting + weight > max;
        match self.phase {
            Phase::Detached { frames, .. } if frames >= limits.mailbox_frames_max.div_ceil(2) => {
                Some("mailbox_frames_max")
            }
            Phase::Detached { bytes, .. } if is_over(bytes, limits.mailbox_bytes_max / 2) => {
                Some("mailbox_bytes_max")
            }
            Phase::Attached | Phase::Fenced(_)
                if is_over(unread_part_bytes(&self.outbox), limits.stream_bytes_max) =>
            {
                Some("stream_bytes_max")
            }
            _ => None,
        }
    }

    fn stream_load(&self, limits: &SessionLimits) -> usize {
        let percent = |waiting: usize, max: usize| waiting.saturating_mul(100) / max.max(1);
        match self.phase {
            Phase::Detached { frames, bytes } => {
                percent(frames, limits.mailbox_frames_max.div_ceil(2))
                    .max(percent(bytes, limits.mailbox_bytes_max / 2))
            }
            Phase::Attached => percent(unread_part_bytes(&self.outbox), limits.stream_bytes_max),
            Phase::Fenced(_) | Phase::Moved | Phase::Ended => 0,
        }
    }
}
