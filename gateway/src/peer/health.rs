//! Which peers cannot be called, and when the log says so: once for each change. Owns the words;
//! calls nobody.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::PeerError;
use crate::tasks::locked;

/// Calls that fail one after the other before it is said: a peer that has closed a connection which
/// nobody used is reached by the next one.
const FAILURES: u32 = 2;
/// The same trouble of a peer that comes and goes is said again after so long.
const SAY_INTERVAL: Duration = Duration::from_secs(10);
/// Peers that are not called any more are forgotten after so long.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Peers in trouble that are remembered; of more, those that are new are not said.
const PEERS_MAX: usize = 1024;

/// All peers that were in trouble lately, by their URLs.
#[derive(Debug, Default)]
pub(super) struct PeersHealth(Mutex<HashMap<String, PeerHealth>>);

impl PeersHealth {
    /// A call of the peer at `url` has ended so.
    pub(super) fn note<T>(&self, url: &str, result: &Result<T, PeerError>) {
        let now = Instant::now();
        let mut peers = locked(&self.0);
        let say = match result {
            // Most calls, of most peers.
            Ok(_) if peers.is_empty() => return,
            Ok(_) => peers.get_mut(url).and_then(PeerHealth::succeeded),
            Err(error) => {
                peers.retain(|_, peer| now.duration_since(peer.called_at) < FORGET_AFTER);
                if !peers.contains_key(url) && peers.len() >= PEERS_MAX {
                    return;
                }
                let peer = peers.entry(url.to_owned()).or_insert_with(|| PeerHealth::new(now));
                peer.failed(error, now)
            }
        };
        drop(peers);
        match say {
            None => {}
            Some(Say::Well) => tracing::info!(url, "the peer answers again"),
            Some(Say::Trouble(PeerError::Unauthorized)) => tracing::error!(
                url,
                "the peer refuses this node with 401: internal.secret differs between the two; \
                 replies cannot be forwarded to it"
            ),
            Some(Say::Trouble(error)) => {
                tracing::warn!(url, %error, "the peer cannot be called; what is for it waits");
            }
        }
    }

    /// What is the matter with which peers.
    pub(super) fn troubles(&self) -> Vec<String> {
        let now = Instant::now();
        let peers = locked(&self.0);
        let trouble = |(url, peer): (&String, &PeerHealth)| {
            let is_current = now.duration_since(peer.called_at) < FORGET_AFTER;
            let error = peer.said.as_ref().filter(|_| is_current && peer.is_in_trouble)?;
            Some(format!("peer {url}: {}", error.0))
        };
        peers.iter().filter_map(trouble).collect()
    }
}

/// What is to be said of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Say {
    Well,
    Trouble(PeerError),
}

#[derive(Debug)]
struct PeerHealth {
    failures: u32,
    called_at: Instant,
    /// What was said last, be it mended since, and when.
    said: Option<(PeerError, Instant)>,
    /// Whether that was said last.
    is_in_trouble: bool,
}

impl PeerHealth {
    fn new(now: Instant) -> Self {
        Self { failures: 0, called_at: now, said: None, is_in_trouble: false }
    }

    fn failed(&mut self, error: &PeerError, now: Instant) -> Option<Say> {
        self.called_at = now;
        self.failures = self.failures.saturating_add(1);
        let is_sure = self.failures >= FAILURES || *error == PeerError::Unauthorized;
        let is_new = match &self.said {
            None => true,
            Some((said, _)) if said != error => true,
            Some((_, at)) => !self.is_in_trouble && now.duration_since(*at) >= SAY_INTERVAL,
        };
        (is_sure && is_new).then(|| {
            self.said = Some((error.clone(), now));
            self.is_in_trouble = true;
            Say::Trouble(error.clone())
        })
    }

    fn succeeded(&mut self) -> Option<Say> {
        self.failures = 0;
        std::mem::take(&mut self.is_in_trouble).then_some(Say::Well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> PeerError {
        PeerError::Unreachable("connection refused".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_said_once() {
        let mut peer = PeerHealth::new(Instant::now());
        let trouble = |error: &PeerError| Some(Say::Trouble(error.clone()));
        assert_eq!(peer.failed(&refused(), Instant::now()), None, "a connection may be old");
        assert_eq!(peer.failed(&refused(), Instant::now()), trouble(&refused()));
        assert_eq!(peer.failed(&refused(), Instant::now()), None);
        let other = PeerError::Refused(500);
        assert_eq!(peer.failed(&other, Instant::now()), trouble(&other), "another cause");
        assert_eq!(peer.succeeded(), Some(Say::Well));
        assert_eq!(peer.succeeded(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_comes_and_goes_fills_no_log() {
        let mut peer = PeerHealth::new(Instant::now());
        let mut said = 0;
        for _ in 0..1000 {
            said += [&refused(), &refused()]
                .into_iter()
                .filter_map(|error| peer.failed(error, Instant::now()))
                .count();
            peer.succeeded();
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        assert_eq!(said, 2, "at once, and after ten of the twenty seconds");
    }

    #[test]
    fn another_secret_is_said_at_once() {
        let mut peer = PeerHealth::new(Instant::now());
        let error = PeerError::Unauthorized;
        assert_eq!(peer.failed(&error, Instant::now()), Some(Say::Trouble(error)));
    }

    #[test]
    fn what_is_the_matter_is_told_while_it_is() {
        let peers = PeersHealth::default();
        let url = "http://gw-2:9080";
        peers.note::<()>(url, &Err(PeerError::Unauthorized));
        assert_eq!(peers.troubles(), ["peer http://gw-2:9080: internal.secret differs"]);
        peers.note(url, &Ok(()));
        assert_eq!(peers.troubles(), [""; 0]);
    }
}
