//! Deliveries over HTTP/1.1, on kept-alive connections, authenticated by the cluster's secret.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use registry::{RequestId, SessionId};

use super::{
    DELIVERIES_PATH, Delivery, MEDIA_TYPE, PeerError, PeerLink, RELEASE_PATH, SETTLEMENTS_PATH,
    Verdict, decode, encode,
};
use crate::config::Secret;

/// A verdict is one byte, or 18; there are a few thousand at most.
const VERDICTS_BYTES_MAX: usize = 256 * 1024;
/// A session owes its client little more than its outbox and its mailbox may hold, or one frame of
/// any size.
const RELEASE_BYTES_MAX: usize = 1024 * 1024 * 1024;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The HTTP client for all peers.
pub struct HttpPeers {
    client: Client<HttpConnector, Full<Bytes>>,
    authorization: header::HeaderValue,
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
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        let mut authorization =
            header::HeaderValue::from_str(&format!("Bearer {}", secret.expose()))?;
        authorization.set_sensitive(true);
        Ok(Self { client, authorization })
    }

    async fn post(
        &self,
        url: &str,
        path: &str,
        body: Bytes,
        answer_bytes_max: usize,
    ) -> Result<Bytes, PeerError> {
        let unreachable = |error: &dyn std::error::Error| PeerError::Unreachable(error.to_string());
        let uri = format!("{}{path}", url.trim_end_matches('/'));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.parse().map_err(|error| unreachable(&error))?;
        let headers = request.headers_mut();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(MEDIA_TYPE));
        let answer = self.client.request(request).await.map_err(|error| unreachable(&error))?;
        if answer.status() != StatusCode::OK {
            return Err(PeerError::Refused(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), answer_bytes_max).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| unreachable(&*error))
    }

    async fn verdicts(
        &self,
        url: &str,
        path: &str,
        body: Bytes,
        count: usize,
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        let answer = in_time(within, self.post(url, path, body, VERDICTS_BYTES_MAX)).await?;
        let verdicts: Vec<Verdict> = decode(&answer).map_err(PeerError::Malformed)?;
        if verdicts.len() != count {
            let message = format!("{} verdicts on {count} deliveries", verdicts.len());
            return Err(PeerError::Malformed(message));
        }
        Ok(verdicts)
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
        self.verdicts(url, DELIVERIES_PATH, encode(batch), batch.len(), within).await
    }

    async fn settle(
        &self,
        url: &str,
        kept: &[(RequestId, SessionId)],
        within: Duration,
    ) -> Result<Vec<Verdict>, PeerError> {
        self.verdicts(url, SETTLEMENTS_PATH, encode(kept), kept.len(), within).await
    }

    async fn release(
        &self,
        url: &str,
        session: SessionId,
        epoch: u64,
        within: Duration,
    ) -> Result<Option<Bytes>, PeerError> {
        let path = format!("{}{session}{}", RELEASE_PATH.0, RELEASE_PATH.1);
        let post = self.post(url, &path, encode(&epoch), RELEASE_BYTES_MAX);
        match in_time(within, post).await {
            Ok(released) => Ok(Some(released)),
            Err(PeerError::Refused(status)) if status == StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
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
