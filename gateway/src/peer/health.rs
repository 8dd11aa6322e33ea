//! Which peers cannot be called, and when the log says so: once for each change. Owns the messages;
//! calls nobody.

use std::{collections::HashMap, mem::discriminant, sync::Mutex, time::Duration};

use tokio::time::Instant;

use super::PeerError;
use crate::tasks::locked;

/// How long a peer must be out of reach before it is logged: a peer that restarts is called in vain
/// until the node table is read again, and needs no help.
const PATIENCE: Duration = Duration::from_secs(3);
/// After this time the same trouble of a peer is logged again, if the peer comes and goes or the
/// reason changes.
const SAY_INTERVAL: Duration = Duration::from_secs(10);
/// After this time a peer that is not called any more is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// How many peers in trouble are remembered; further ones are not logged.
const PEERS_MAX: usize = 1024;

/// All peers that were in trouble lately, by their URLs.
#[derive(Debug, Default)]
pub(super) struct PeersHealth(Mutex<HashMap<String, PeerHealth>>);

impl PeersHealth {
    /// Takes the outcome of a call to the peer at `url`.
    pub(super) fn note<T>(&self, url: &str, result: &Result<T, PeerError>) {
        let now = Instant::now();
        let mut peers = locked(&self.0);
        let say = match result {
            // This is so for most calls, and for most peers.
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
            Some(Say::Trouble(PeerError::Incompatible { ours, theirs })) => tracing::error!(
                url,
                %ours,
                %theirs,
                "the peer speaks no version of what nodes say to each other that this node speaks; \
                 replies cannot be forwarded to it, nor sessions fetched from it: \
                 upgrade by one release at a time"
            ),
            Some(Say::Trouble(error)) => {
                tracing::warn!(url, %error, "the peer cannot be called; what is for it waits");
            }
        }
    }

    /// Which peers are in trouble, and why.
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

/// What has to be logged about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Say {
    Well,
    Trouble(PeerError),
}

#[derive(Debug)]
struct PeerHealth {
    /// Since when every call has failed.
    failing_since: Option<Instant>,
    called_at: Instant,
    /// What was logged last, even if the trouble is over, and when.
    said: Option<(PeerError, Instant)>,
    /// Whether that was the last thing to be logged.
    is_in_trouble: bool,
}

impl PeerHealth {
    fn new(now: Instant) -> Self {
        Self { failing_since: None, called_at: now, said: None, is_in_trouble: false }
    }

    fn failed(&mut self, error: &PeerError, now: Instant) -> Option<Say> {
        self.called_at = now;
        let since = *self.failing_since.get_or_insert(now);
        let may_restart = matches!(error, PeerError::Unreachable(_) | PeerError::Unresolved(_));
        let is_sure = !may_restart || now.duration_since(since) >= PATIENCE;
        let is_new = match &self.said {
            None => true,
            Some((said, _)) if discriminant(said) != discriminant(error) => true,
            Some((said, at)) => {
                let is_said = self.is_in_trouble && said == error;
                !is_said && now.duration_since(*at) >= SAY_INTERVAL
            }
        };
        (is_sure && is_new).then(|| {
            self.said = Some((error.clone(), now));
            self.is_in_trouble = true;
            Say::Trouble(error.clone())
        })
    }

    fn succeeded(&mut self) -> Option<Say> {
        self.failing_since = None;
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
        assert_eq!(peer.failed(&refused(), Instant::now()), None, "it may be restarting");
        tokio::time::advance(PATIENCE).await;
        assert_eq!(peer.failed(&refused(), Instant::now()), trouble(&refused()));
        assert_eq!(peer.failed(&refused(), Instant::now()), None);
        let other = PeerError::Refused(500);
        assert_eq!(peer.failed(&other, Instant::now()), trouble(&other), "another cause");
        assert_eq!(peer.succeeded(), Some(Say::Well));
        assert_eq!(peer.succeeded(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_restarts_is_nothing_to_say() {
        let mut peer = PeerHealth::new(Instant::now());
        for _ in 0..20 {
            assert_eq!(peer.failed(&refused(), Instant::now()), None);
            tokio::time::advance(PATIENCE / 20).await;
        }
        assert_eq!(peer.succeeded(), None);
        assert_eq!(peer.failed(&refused(), Instant::now()), None, "the count begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_comes_and_goes_fills_no_log() {
        let mut peer = PeerHealth::new(Instant::now());
        let mut said = 0;
        let closed = PeerError::Unreachable("the connection was closed".to_owned());
        for _ in 0..5 {
            for number in 0..100 {
                let error = if number % 2 == 0 { &refused() } else { &closed };
                said += usize::from(peer.failed(error, Instant::now()).is_some());
                tokio::time::advance(Duration::from_millis(40)).await;
            }
            peer.succeeded();
        }
        assert_eq!(said, 2, "once in ten of the twenty seconds");
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
