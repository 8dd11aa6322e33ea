//! Whether the node may take requests, and what else is wrong with it. Owns the list of checks, the
//! form of `/readyz`, and when the log says something. Knows no part of the node: `app` adds the
//! checks.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

/// How long a node may take to become ready before the log says what it waits for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two lines of the log on why the node is not ready: reasons may hold numbers that change
/// all the time.
const SAY_INTERVAL: Duration = Duration::from_secs(10);

/// The parts that have a state of their own. One component may have several checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// The node as a whole: whether it is draining.
    Node,
    /// The registry, and this node's entry in it.
    Registry,
    /// The partitions of the reply topic that this node reads.
    Assignment,
    /// The brokers.
    Kafka,
    /// The other nodes, as far as they were called.
    Peers,
    /// The views, as far as there are any.
    Views,
}

/// The state of a component. Its text is a whole statement for people, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Well,
    /// The node takes requests, but cannot keep some of its promises at present.
    Degraded(String),
    /// The node must not be sent requests.
    Unready(String),
}

impl Health {
    /// Unready for this reason, if so.
    pub fn unready_if(is_so: bool, reason: &str) -> Self {
        if is_so { Self::Unready(reason.to_owned()) } else { Self::Well }
    }
}

type Check = Box<dyn Fn() -> Health + Send + Sync>;

/// All checks.
#[derive(Default)]
pub struct Readiness {
    checks: Vec<(Component, Check)>,
}

impl Readiness {
    /// Adds a check of `component`. It is called often, from any thread: it looks at what is known,
    /// and waits for nothing.
    #[must_use]
    pub fn with(
        mut self,
        component: Component,
        check: impl Fn() -> Health + Send + Sync + 'static,
    ) -> Self {
        self.checks.push((component, Box::new(check)));
        self
    }

    /// Whether the node may take requests.
    pub fn is_ready(&self) -> bool {
        !self.checks.iter().any(|(_, check)| matches!(check(), Health::Unready(_)))
    }

    /// The present state of everything.
    pub fn report(&self) -> Report {
        let mut report = Report::default();
        for (component, check) in &self.checks {
            let health = check();
            let state = match health {
                Health::Well => State::Ok,
                Health::Degraded(_) => State::Degraded,
                Health::Unready(_) => State::Unready,
            };
            let worst = report.components.entry(*component).or_default();
            *worst = state.max(*worst);
            match health {
                Health::Well => {}
                Health::Degraded(text) => report.degraded.push(text),
                Health::Unready(text) => report.reasons.push(text),
            }
        }
        report.ready = report.reasons.is_empty();
        report
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("report", &self.report()).finish()
    }
}

/// The worst state of a component's checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    #[default]
    Ok,
    /// Something does not work.
    Degraded,
    /// It keeps the node from taking requests.
    Unready,
}

/// The answer of `/readyz`, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the node may take requests.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What else is wrong.
    pub degraded: Vec<String>,
    /// Each component's state.
    pub components: BTreeMap<Component, State>,
}

/// Decides when the log reports the node's state: when it becomes ready, and when and why it is
/// not.
#[derive(Debug)]
pub struct Announcer {
    since: Instant,
    was_ready: bool,
    /// The reasons in the latest log line, and its time.
    said: Option<(Vec<String>, Instant)>,
}

/// What has to be logged now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// The node takes requests, from now on.
    Ready,
    /// It does not, and the report says why.
    Unready,
}

impl Announcer {
    /// The node has started `now`, and is not ready yet.
    pub const fn new(now: Instant) -> Self {
        Self { since: now, was_ready: false, said: None }
    }

    /// What has to be logged about this report. A drain logs by itself: no reports are looked at
    /// once it has begun.
    pub fn look(&mut self, report: &Report, now: Instant) -> Option<Announcement> {
        if report.ready {
            self.said = None;
            return (!std::mem::replace(&mut self.was_ready, true)).then_some(Announcement::Ready);
        }
        if std::mem::replace(&mut self.was_ready, false) {
            // Once the node was ready, its reasons are logged without delay.
            self.since = now.checked_sub(PATIENCE).unwrap_or(now);
        }
        let is_new = match &self.said {
            None => true,
            Some((reasons, at)) => {
                *reasons != report.reasons && now.duration_since(*at) >= SAY_INTERVAL
            }
        };
        (is_new && now.duration_since(self.since) >= PATIENCE).then(|| {
            self.said = Some((report.reasons.clone(), now));
            Announcement::Unready
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    fn report(reasons: &[&str]) -> Report {
        let reasons: Vec<String> = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        Report { ready: reasons.is_empty(), reasons, ..Report::default() }
    }

    #[test]
    fn every_reason_is_told_and_the_worst_state_of_each_component() {
        let readiness = Readiness::default()
            .with(Component::Kafka, || Health::Unready("kafka cannot be reached".to_owned()))
            .with(Component::Kafka, || Health::Degraded("replies[3] is stuck".to_owned()))
            .with(Component::Registry, || Health::Degraded("registry unreachable".to_owned()))
            .with(Component::Node, || Health::unready_if(false, "draining"));
        assert!(!readiness.is_ready());
        let json = serde_json::to_string(&readiness.report()).unwrap();
        assert_eq!(
            json,
            r#"{"ready":false,"reasons":["kafka cannot be reached"],"#.to_owned()
                + r#""degraded":["replies[3] is stuck","registry unreachable"],"#
                + r#""components":{"node":"ok","registry":"degraded","kafka":"unready"}}"#
        );
    }

    #[test]
    fn what_is_degraded_keeps_nobody_away() {
        let is_away = Arc::new(AtomicBool::new(true));
        let check = {
            let is_away = Arc::clone(&is_away);
            move || match is_away.load(Ordering::Relaxed) {
                true => Health::Degraded("registry unreachable".to_owned()),
                false => Health::Well,
            }
        };
        let readiness = Readiness::default().with(Component::Registry, check);
        assert!(readiness.is_ready());
        assert_eq!(readiness.report().degraded, ["registry unreachable"]);
        is_away.store(false, Ordering::Relaxed);
        assert_eq!(readiness.report().degraded, [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_hears_of_each_change_once() {
        let mut announcer = Announcer::new(Instant::now());
        let mut look = |report: &Report| announcer.look(report, Instant::now());
        let away = report(&["kafka cannot be reached"]);
        // A start takes its time.
        assert_eq!(look(&away), None);
        tokio::time::advance(PATIENCE).await;
        assert_eq!(look(&away), Some(Announcement::Unready));
        assert_eq!(look(&away), None);
        assert_eq!(look(&report(&[])), Some(Announcement::Ready));
        assert_eq!(look(&report(&[])), None);
        assert_eq!(look(&away), Some(Announcement::Unready), "at once, since it was ready");
        assert_eq!(look(&report(&["lag is 1"])), None, "too soon after the last line");
        tokio::time::advance(SAY_INTERVAL).await;
        assert_eq!(look(&report(&["lag is 2"])), Some(Announcement::Unready));
    }
}
