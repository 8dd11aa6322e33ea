//! Calls over HTTP/1.1, authenticated by the cluster's secret: deliveries and settlements on
//! upgraded connections, one for each peer, and releases as they come.

use std::{collections::HashMap, error::Error, fmt, ops::Range, sync::Mutex, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use registry::{NodeEntry, SessionId, Versions};
use tokio::time::Instant;

use super::{
    CallStream, DELIVERIES_PATH, Delivery, IDLE_TIMEOUT, MEDIA_TYPE, PeerError, PeerLink,
    RELEASE_PATH, UPGRADE, Unsettled, VERSIONS_HEADER, Verdict, call_stream, format,
    health::PeersHealth, spoken, spoken_by,
};
use crate::{config::Secret, tasks::locked};

/// How large a session's state may be: a little more than what outbox and mailbox may hold, or one
/// frame of any size.
const RELEASE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// The HTTP client for all peers.
pub struct HttpPeers {
    client: Client<HttpConnector, Full<Bytes>>,
    authorization: HeaderValue,
    /// Idle connections for calls, by the peer's address.
    idle: Mutex<HashMap<String, Idle>>,
    health: PeersHealth,
}

struct Idle {
    stream: CallStream<TokioIo<Upgraded>>,
    since: Instant,
}

impl HttpPeers {
    /// A client that shows `secret` to its peers.
    ///
    /// # Errors
    /// The secret contains characters that no HTTP header can carry.
    pub fn new(secret: &Secret) -> Result<Self, header::InvalidHeaderValue> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT / 2)
            .build(connector);
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", secret.expose()))?;
        authorization.set_sensitive(true);
        Ok(Self { client, authorization, idle: Mutex::default(), health: PeersHealth::default() })
    }

    /// Which peers are in trouble, with a text for each, as of the latest calls.
    pub fn troubles(&self) -> Vec<String> {
        self.health.troubles()
    }

    async fn post(
        &self,
        url: &str,
        path: &str,
        body: Bytes,
        upgrade: Option<&'static str>,
    ) -> Result<Response<Incoming>, PeerError> {
        let uri = format!("{}{path}", url.trim_end_matches('/'));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.parse().map_err(unreachable)?;
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let versions = HeaderValue::from_str(&spoken().to_string());
        headers.insert(VERSIONS_HEADER, versions.expect("two numbers"));
        let expected = match upgrade {
            Some(protocol) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
                StatusCode::SWITCHING_PROTOCOLS
            }
            None => StatusCode::OK,
        };
        let answer = self.client.request(request).await.map_err(unreachable)?;
        // An answer that does not prove to come from a peer is not asked for its versions.
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(PeerError::Unauthorized);
        }
        check(spoken_by(answer.headers()))?;
        match answer.status() {
            status if status == expected => Ok(answer),
            status => Err(PeerError::Refused(status.as_u16())),
        }
    }

    /// An idle connection for calls.
    async fn connection(&self, url: &str) -> Result<CallStream<TokioIo<Upgraded>>, PeerError> {
        let idle = locked(&self.idle).remove(url);
        if let Some(idle) = idle.filter(Idle::is_fresh) {
            return Ok(idle.stream);
        }
        let answer = self.post(url, DELIVERIES_PATH, Bytes::new(), Some(UPGRADE)).await?;
        let socket = hyper::upgrade::on(answer).await.map_err(unreachable)?;
        Ok(call_stream(TokioIo::new(socket)))
    }

    /// Keeps a connection for the next call of this peer; connections of peers that are gone are
    /// closed.
    fn keep(&self, url: &str, stream: CallStream<TokioIo<Upgraded>>) {
        let mut idle = locked(&self.idle);
        let is_new = idle.insert(url.to_owned(), Idle { stream, since: Instant::now() }).is_none();
        if is_new {
            idle.retain(|_, idle| idle.is_fresh());
        }
    }

    async fn exchange(&self, url: &str, call: Bytes) -> Result<Bytes, PeerError> {
        let mut stream = self.connection(url).await?;
        stream.send(call).await.map_err(unreachable)?;
        let closed = || PeerError::Unreachable("the connection was closed".to_owned());
        let answer = stream.next().await.ok_or_else(closed)?.map_err(unreachable)?;
        self.keep(url, stream);
        Ok(answer.freeze())
    }

    /// Makes a call, unless it is known that the peer would not understand it.
    async fn call<T>(
        &self,
        peer: &NodeEntry,
        within: Duration,
        call: impl Future<Output = Result<T, PeerError>>,
    ) -> Result<T, PeerError> {
        let result = match check(peer.speaks) {
            Ok(()) => in_time(within, call).await,
            Err(incompatible) => Err(incompatible),
        };
        self.health.note(&peer.url, &result);
        result
    }

    async fn verdicts(
        &self,
        peer: &NodeEntry,
        call: impl FnOnce() -> Bytes,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        let verdicts = async {
            let answer = self.exchange(&peer.url, call()).await?;
            format::read_verdicts(&answer, count).map_err(PeerError::Malformed)
        };
        self.call(peer, within, verdicts).await
    }

    async fn fetch(&self, url: &str, path: &str, body: Bytes) -> Result<Bytes, PeerError> {
        let answer = self.post(url, path, body, None).await?;
        let body = Limited::new(answer.into_body(), RELEASE_BYTES_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(unreachable)
    }
}

/// Whether this node and the peer understand each other.
fn check(theirs: Versions) -> Result<(), PeerError> {
    let ours = spoken();
    if ours.meet(theirs) { Ok(()) } else { Err(PeerError::Incompatible { ours, theirs }) }
}

impl Idle {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < IDLE_TIMEOUT / 2
    }
}

/// The error with its causes, because the outermost one says only that there is one.
fn unreachable(error: impl Into<Box<dyn Error + Send + Sync>>) -> PeerError {
    let error = error.into();
    let mut causes: Vec<String> = Vec::new();
    let mut next: Option<&dyn Error> = Some(&*error);
    while let Some(cause) = next {
        let text = cause.to_string();
        // Some errors repeat their cause.
        if causes.iter().all(|outer| !outer.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    let text = causes.join(": ");
    match causes.iter().any(|cause| cause.contains("dns error")) {
        true => PeerError::Unresolved(text),
        false => PeerError::Unreachable(text),
    }
}

#[async_trait]
impl PeerLink for HttpPeers {
    async fn deliver(
        &self,
        peer: &NodeEntry,
        batch: &[Delivery],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        self.verdicts(peer, || format::write_deliveries(batch), batch.len(), within).await
    }

    async fn settle(
        &self,
        peer: &NodeEntry,
        kept: &[Unsettled],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        self.verdicts(peer, || format::write_settlements(kept), kept.len(), within).await
    }

    async fn release(
        &self,
        peer: &NodeEntry,
        session: SessionId,
        epochs: Range<u64>,
        within: Duration,
    ) -> Result<Option<Bytes>, PeerError> {
        let path = format!("{}{session}{}", RELEASE_PATH.0, RELEASE_PATH.1);
        let release = async {
            match self.fetch(&peer.url, &path, format::write_release(&epochs)).await {
                Ok(released) => Ok(Some(released)),
                Err(PeerError::Refused(status)) if status == StatusCode::NOT_FOUND => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.call(peer, within, release).await
    }
}

async fn in_time<T>(
    within: Duration,
    call: impl Future<Output = Result<T, PeerError>>,
) -> Result<T, PeerError> {
    tokio::time::timeout(within, call)
        .await
        .map_err(|_| PeerError::Unreachable(format!("no answer within {within:?}")))?
}

impl fmt::Debug for HttpPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPeers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use registry::{NodeId, NodeRef, NodeState};

    use super::*;
    use crate::peer::SPOKEN;

    fn peer(url: &str) -> NodeEntry {
        let node = NodeRef { id: NodeId::parse("gw-2").unwrap(), incarnation: 1 };
        NodeEntry { node, url: url.to_owned(), state: NodeState::Ready, speaks: SPOKEN }
    }

    /// Why a peer at this URL cannot be called.
    async fn trouble(url: &str) -> PeerError {
        let peers = HttpPeers::new(&Secret::new("a-secret-of-the-tests")).unwrap();
        peers.deliver(&peer(url), &[], Duration::from_secs(60)).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_closed_port_is_told_from_a_name_without_an_address() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", taken.local_addr().unwrap());
        drop(taken);
        let error = trouble(&url).await;
        assert!(matches!(&error, PeerError::Unreachable(_)), "{error:?}");
        assert!(error.to_string().contains("onnection refused"), "{error}");

        // No label of a name is that long, so nobody has to be asked.
        let error = trouble(&format!("http://{}:1", "x".repeat(64))).await;
        assert!(matches!(&error, PeerError::Unresolved(_)), "{error:?}");
        assert!(error.to_string().starts_with("its name cannot be resolved: "), "{error}");
    }

    #[tokio::test]
    async fn a_peer_that_would_not_understand_is_not_called_and_said_to_be_so() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", taken.local_addr().unwrap());
        let (ours, theirs) = (SPOKEN, Versions { lowest: 7, highest: 9 });
        let peers = HttpPeers::new(&Secret::new("a-secret-of-the-tests")).unwrap();
        let other = NodeEntry { speaks: theirs, ..peer(&url) };
        let trouble = format!(
            "peer {url}: speaks the versions 7-9 of what nodes say to each other, this node {ours}"
        );
        let error = peers.deliver(&other, &[], Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(error, PeerError::Incompatible { ours, theirs });
        assert!(!error.may_pass());
        assert_eq!(peers.troubles(), [trouble.as_str()]);
        taken.set_nonblocking(true).unwrap();
        assert!(taken.accept().is_err(), "it was called");
    }
}
