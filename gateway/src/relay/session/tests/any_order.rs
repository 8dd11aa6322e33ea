//! Whatever happens to a session in whatever order: its client misses nothing and sees nothing
//! twice on one connection, no offset is let go too early or forgotten, and the counters are exact.

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Push {
        bytes: usize,
        ends: bool,
    },
    Pong,
    Take,
    Flush,
    /// Of what has come, up to this share.
    Confirm(u8),
    Detach,
    /// Of what has come since the last acknowledgement, this share is lost.
    Resume(u8),
    Park,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..400_usize, any::<bool>()).prop_map(|(bytes, ends)| Step::Push { bytes, ends }),
        1 => proptest::prelude::Just(Step::Pong),
        8 => proptest::prelude::Just(Step::Take),
        4 => proptest::prelude::Just(Step::Flush),
        3 => any::<u8>().prop_map(Step::Confirm),
        1 => proptest::prelude::Just(Step::Detach),
        2 => any::<u8>().prop_map(Step::Resume),
        2 => proptest::prelude::Just(Step::Park),
    ];
    proptest::collection::vec(step, 0..200)
}

/// What the session should be.
struct Model {
    session: Session,
    window: OffsetTracker,
    /// The last number that was pushed.
    pushed: u64,
    /// The last number that the client has got; it may have lost track of some on a resume.
    got: u64,
    acknowledged: u64,
    is_attached: bool,
    is_closing: bool,
    /// By number: whether its reply's offset may be let go.
    safe: Vec<bool>,
    epoch: u64,
}

impl Model {
    fn new(is_reliable: bool) -> Self {
        let limits = SessionLimits { outbox_bytes_max: 8 * 1024, ..WIDE };
        Self {
            session: with_limits(is_reliable, limits),
            window: OffsetTracker::default(),
            pushed: 0,
            got: 0,
            acknowledged: 0,
            is_attached: true,
            is_closing: false,
            safe: Vec::new(),
            epoch: 1,
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Push { bytes, ends } => self.push(bytes, ends)?,
            Step::Pong => drop(self.session.push(Frame::Pong { id: None }, None, None)),
            Step::Take if self.is_attached => self.take()?,
            Step::Take => {}
            Step::Flush => self.session.on(self.session.connection()).flushed(),
            Step::Confirm(share) => self.confirm(share),
            Step::Detach => {
                prop_assert_eq!(
                    self.session.on(self.session.connection()).detach(),
                    self.is_attached
                );
                (self.is_attached, self.is_closing) = (false, false);
            }
            Step::Resume(share) => self.resume(share)?,
            Step::Park => {
                let seqs = parked_seqs(&self.session.mailbox().unparked(soon()));
                self.session.mailbox().parked(&seqs);
                seqs.iter().for_each(|seq| self.safe[*seq as usize - 1] = true);
            }
        }
        self.check()
    }

    fn push(&mut self, bytes: usize, ends: bool) -> Result<(), TestCaseError> {
        self.pushed += 1;
        let number = self.pushed as usize;
        let guard = self.window.guard(number as i64, Record::sized(bytes));
        if ends {
            self.session.requests().adopt(id(number), in_flight(number));
        }
        let pushed =
            self.session.push(response(number, bytes), ends.then(|| id(number)), Some(guard));
        prop_assert_eq!(matches!(pushed, Pushed::Away), !self.is_attached);
        self.safe.push(false);
        Ok(())
    }

    fn take(&mut self) -> Result<(), TestCaseError> {
        match next(&self.session) {
            Some(Duty::Write(frame)) => {
                let text = frame.text();
                prop_assert!(!self.is_closing, "nothing is written to a closing connection");
                let seq = seq_of(&text);
                if seq > 0 {
                    prop_assert_eq!(seq, self.got + 1);
                    self.got = seq;
                }
            }
            Some(Duty::Close(closing)) => {
                prop_assert_eq!(closing.code, CloseCode::SlowConsumer);
                self.is_closing = true;
            }
            None => prop_assert_eq!(self.got, self.pushed, "nothing waits"),
        }
        Ok(())
    }

    fn confirm(&mut self, share: u8) {
        let new = self.got.saturating_sub(self.acknowledged);
        let seq = self.acknowledged + new * u64::from(share) / 255;
        let confirmed = self.session.confirm(seq);
        if self.session.is_reliable() {
            let over = confirmed.over.iter().map(|request| request.as_uuid().as_u128() as u64);
            assert!(over.clone().all(|number| self.acknowledged < number && number <= seq));
        }
        self.acknowledged = self.acknowledged.max(seq);
        self.safe.iter_mut().take(seq as usize).for_each(|safe| *safe = true);
    }

    fn resume(&mut self, share: u8) -> Result<(), TestCaseError> {
        let new = self.got.saturating_sub(self.acknowledged);
        let last_seq = self.acknowledged + new * u64::from(share) / 255;
        self.epoch += 1;
        let resumed = self.session.ownership().resume(last_seq, beginning(self.epoch, 0));
        prop_assert!(resumed.is_some(), "everything since {} is kept", self.acknowledged);
        (self.is_attached, self.is_closing, self.got) = (true, false, last_seq);
        Ok(())
    }

    /// What must be so after every step.
    fn check(&self) -> Result<(), TestCaseError> {
        let unsafe_one = self.safe.iter().position(|safe| !safe);
        let committable = unsafe_one.map_or(self.pushed as i64 + 1, |at| at as i64 + 1);
        prop_assert_eq!(self.window.committable().unwrap_or(1), committable);

        let state = locked(&self.session.state);
        let expected: Vec<u64> = (state.outbox.resumable().start() + 1..=self.pushed).collect();
        prop_assert_eq!(state.outbox.checked(), expected);
        prop_assert_eq!(*state.outbox.resumable().end(), self.pushed);
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_session_neither_skips_nor_repeats(is_reliable in any::<bool>(), steps in steps()) {
        let mut model = Model::new(is_reliable);
        for step in steps {
            model.step(step)?;
        }
        // In the end a client that comes back has it all.
        model.step(Step::Resume(255))?;
        while model.got < model.pushed {
            model.step(Step::Take)?;
            model.step(Step::Flush)?;
            if model.is_closing {
                model.step(Step::Confirm(255))?;
                model.step(Step::Resume(255))?;
            }
        }
        model.step(Step::Confirm(255))?;
        prop_assert_eq!(model.session.requests().count(), 0);
        let state = locked(&model.session.state);
        prop_assert!(state.outbox.holds_no_memory());
    }
}
