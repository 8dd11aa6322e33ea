//! Calls over HTTP/1.1, authenticated by the cluster's secret: deliveries and settlements on
//! upgraded connections, one for each peer, and releases as they come.

use std::{borrow::Cow, collections::HashMap, error::Error, fmt, sync::Mutex, time::Duration};

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
use registry::{RequestId, SessionId};
use tokio::time::Instant;

use super::{
    Call, CallStream, DELIVERIES_PATH, Delivery, IDLE_TIMEOUT, MEDIA_TYPE, PeerError, PeerLink,
    RELEASE_PATH, UPGRADE, Verdict, call_stream, decode, encode, health::PeersHealth,
};
use crate::{config::Secret, tasks::locked};

/// A session owes its client little more than its outbox and its mailbox may hold, or one frame of
/// any size.
const RELEASE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// The HTTP client for all peers.
pub struct HttpPeers {
    client: Client<HttpConnector, Full<Bytes>>,
    authorization: HeaderValue,
    /// Connections of calls that nobody uses just now, by the peer's address.
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
    /// When the secret holds what no HTTP header can carry.
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

    /// What is the matter with which peers, one text for each, as of the last calls.
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
        let expected = match upgrade {
            Some(protocol) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
                StatusCode::SWITCHING_PROTOCOLS
            }
            None => StatusCode::OK,
        };
        let answer = self.client.request(request).await.map_err(unreachable)?;
        match answer.status() {
            status if status == expected => Ok(answer),
            StatusCode::UNAUTHORIZED => Err(PeerError::Unauthorized),
            status => Err(PeerError::Refused(status.as_u16())),
        }
    }

    /// A connection of calls that is not in use.
    async fn connection(&self, url: &str) -> Result<CallStream<TokioIo<Upgraded>>, PeerError> {
        let idle = locked(&self.idle).remove(url);
        if let Some(idle) = idle.filter(Idle::is_fresh) {
            return Ok(idle.stream);
        }
        let answer = self.post(url, DELIVERIES_PATH, Bytes::new(), Some(UPGRADE)).await?;
        let socket = hyper::upgrade::on(answer).await.map_err(unreachable)?;
        Ok(call_stream(TokioIo::new(socket)))
    }

    /// Whoever comes next for this peer finds it; those to peers that have gone are let go.
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

    async fn verdicts(
        &self,
        url: &str,
        call: &Call<'_>,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        let answer = in_time(within, self.exchange(url, encode(call))).await;
        let verdicts = answer.and_then(|answer| {
            let verdicts: Vec<Verdict> = decode(&answer).map_err(PeerError::Malformed)?;
            match verdicts.len() == count {
                true => Ok(verdicts),
                false => {
                    let message = format!("{} verdicts on {count} deliveries", verdicts.len());
                    Err(PeerError::Malformed(message))
                }
            }
        });
        self.health.note(url, &verdicts);
        verdicts
    }

    async fn fetch(&self, url: &str, path: &str, body: Bytes) -> Result<Bytes, PeerError> {
        let answer = self.post(url, path, body, None).await?;
        let body = Limited::new(answer.into_body(), RELEASE_BYTES_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(unreachable)
    }
}

impl Idle {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < IDLE_TIMEOUT / 2
    }
}

/// The error with its causes: the outermost says no more than that there is one.
fn unreachable(error: impl Into<Box<dyn Error + Send + Sync>>) -> PeerError {
    let error = error.into();
    let mut causes: Vec<String> = Vec::new();
    let mut next: Option<&dyn Error> = Some(&*error);
    while let Some(cause) = next {
        let text = cause.to_string();
        // Some say what their cause says.
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
        url: &str,
        batch: &[Delivery],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        let call = Call::Deliveries(Cow::Borrowed(batch));
        self.verdicts(url, &call, batch.len(), within).await
    }

    async fn settle(
        &self,
        url: &str,
        kept: &[(RequestId, SessionId)],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        let call = Call::Settlements(Cow::Borrowed(kept));
        self.verdicts(url, &call, kept.len(), within).await
    }

    async fn release(
        &self,
        url: &str,
        session: SessionId,
        epoch: u64,
        within: Duration,
    ) -> Result<Option<Bytes>, PeerError> {
        let path = format!("{}{session}{}", RELEASE_PATH.0, RELEASE_PATH.1);
        let released = match in_time(within, self.fetch(url, &path, encode(&epoch))).await {
            Ok(released) => Ok(Some(released)),
            Err(PeerError::Refused(status)) if status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        };
        self.health.note(url, &released);
        released
    }
}

async fn in_time(
    within: Duration,
    post: impl Future<Output = Result<Bytes, PeerError>>,
) -> Result<Bytes, PeerError> {
    tokio::time::timeout(within, post)
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
    use super::*;

    /// Why a peer at this URL cannot be called.
    async fn trouble(url: &str) -> PeerError {
        let peers = HttpPeers::new(&Secret::new("a-secret-of-the-tests")).unwrap();
        peers.deliver(url, &[], Duration::from_secs(60)).await.unwrap_err()
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
}
