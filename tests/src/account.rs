//! What became of the requests of clients that keep one session whatever happens.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::{Result, ensure};
use tokio::time::Instant;

/// How many complaints are kept in words; all are counted.
const COMPLAINTS: usize = 20;

/// The account of one client, or of all of them.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub sent: u64,
    /// A receipt, an answer, or an error that says it is recorded has been seen.
    pub accepted: u64,
    /// Answered by the service, and well.
    pub answered: u64,
    /// Ended by an error, by code.
    pub errors: BTreeMap<String, u64>,
    /// The first of each code, in words.
    pub first_errors: BTreeMap<String, String>,
    /// Of these errors, those to requests that were accepted: the service's answer never came.
    pub unserved: u64,
    /// Accepted, on a session that lives, and never ended.
    pub lost: u64,
    /// Sent, and sent again with each resume, and nothing was ever heard of them.
    pub silent: u64,
    /// Further ends of a request that had ended, which nothing allows.
    pub duplicated: u64,
    /// Frames that came again as the contract allows after a node was killed.
    pub repeats: u64,
    /// Sessions that were to be resumed and were not.
    pub broken: u64,
    /// In flight on such a session by then, and sent once more as new requests.
    pub abandoned: u64,
    /// Breaches of the contract beside those above.
    pub wrong: u64,
    /// The first of them, and of what was duplicated, in words.
    pub complaints: Vec<String>,
    /// From the first sending to the end.
    pub longest_wait: Duration,
    /// The same, of requests whose node was well and whose connection stayed.
    pub longest_wait_of_survivors: Duration,
    /// From the beginning of a connection to its `welcome` that says `resumed`, on nodes that were well.
    pub resumes: Vec<Duration>,
    /// When connections after the first were attempted.
    pub reconnects: Vec<Instant>,
    /// How often a node has closed a connection, by code.
    pub closes: BTreeMap<u16, u64>,
}

/// What a fault may do to its clients without breaking the contract.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    /// Errors that tell the truth.
    pub codes: &'static [&'static str],
    /// Whether such an error may come to a request that was, or may have been, recorded.
    pub unserved: bool,
    /// Whether frames may come again.
    pub repeats: bool,
}

impl Account {
    /// Takes note of a breach.
    pub fn note_wrong(&mut self, complaint: String) {
        self.wrong += 1;
        self.complain(complaint);
    }

    /// Takes note of an error that ends a request.
    pub fn note_error(&mut self, code: String, message: impl FnOnce() -> String) {
        self.first_errors.entry(code.clone()).or_insert_with(message);
        *self.errors.entry(code).or_default() += 1;
    }

    /// Takes note of an end too many.
    pub fn note_duplicate(&mut self, complaint: String) {
        self.duplicated += 1;
        self.complain(complaint);
    }

    /// Adds another account.
    pub fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.answered += other.answered;
        self.unserved += other.unserved;
        self.lost += other.lost;
        self.silent += other.silent;
        self.duplicated += other.duplicated;
        self.repeats += other.repeats;
        self.broken += other.broken;
        self.abandoned += other.abandoned;
        self.wrong += other.wrong;
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
        for (code, message) in other.first_errors {
            self.first_errors.entry(code).or_insert(message);
        }
        for complaint in other.complaints {
            self.complain(complaint);
        }
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.longest_wait_of_survivors =
            self.longest_wait_of_survivors.max(other.longest_wait_of_survivors);
        self.resumes.extend(other.resumes);
        self.reconnects.extend(other.reconnects);
        for (code, count) in other.closes {
            *self.closes.entry(code).or_default() += count;
        }
    }

    /// How long the fastest so many percent of the resumptions took at most.
    pub fn resume_percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.resumes.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The most reconnections within any one second.
    pub fn reconnects_per_second_max(&self) -> usize {
        let mut sorted = self.reconnects.clone();
        sorted.sort_unstable();
        let mut first = 0;
        let mut most = 0;
        for (index, &at) in sorted.iter().enumerate() {
            while at - sorted[first] >= Duration::from_secs(1) {
                first += 1;
            }
            most = most.max(index - first + 1);
        }
        most
    }

    /// How many things have happened that must not happen in any case.
    pub fn breaches(&self) -> u64 {
        self.lost + self.wrong + self.duplicated + self.broken
    }

    /// Checks that nothing happened but what is allowed.
    ///
    /// # Errors
    /// The whole account, when something did.
    pub fn check(&self, allowed: &Allowance) -> Result<()> {
        let breaches = self.breaches() + self.silent;
        ensure!(breaches == 0, "a promise was not kept: {self:?}");
        let dishonest = self.errors.keys().find(|code| !allowed.codes.contains(&code.as_str()));
        ensure!(dishonest.is_none(), "nobody should be told {dishonest:?}: {self:?}");
        ensure!(self.unserved == 0 || allowed.unserved, "answers did not come: {self:?}");
        ensure!(self.repeats == 0 || allowed.repeats, "nothing may come again: {self:?}");
        let ended = self.answered + self.errors.values().sum::<u64>() + self.abandoned;
        ensure!(ended == self.sent, "the sums do not agree: {self:?}");
        Ok(())
    }

    /// Keeps a complaint in words, as long as there are few.
    pub fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS {
            self.complaints.push(complaint);
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, accepted, answered, errors, unserved, lost, silent, .. } = self;
        let Self { duplicated, repeats, broken, abandoned, wrong, .. } = self;
        let (waits, survivors) = (self.longest_wait, self.longest_wait_of_survivors);
        let [p50, p99] = [50, 99].map(|percent| self.resume_percentile(percent));
        writeln!(f, "sent {sent}, accepted {accepted}, answered {answered}, errors {errors:?}")?;
        writeln!(f, "lost {lost}, silent {silent}, duplicated {duplicated}, wrong {wrong}")?;
        writeln!(f, "unserved {unserved}, repeats {repeats}, broken {broken}+{abandoned}")?;
        writeln!(f, "longest wait {waits:.1?}, of survivors {survivors:.1?}")?;
        write!(f, "resumed {} times, p50 {p50:.1?}, p99 {p99:.1?}", self.resumes.len())?;
        write!(f, ", at most {} connections/s", self.reconnects_per_second_max())?;
        for complaint in &self.complaints {
            write!(f, "\n! {complaint}")?;
        }
        Ok(())
    }
}
