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

use super::{DELIVERIES_PATH, Delivery, MEDIA_TYPE, PeerError, PeerLink, Verdict, decode, encode};
use crate::config::Secret;

/// A verdict is one byte; nothing a peer answers is larger than this.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
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

    async fn post(&self, url: &str, body: Bytes) -> Result<Bytes, PeerError> {
        let unreachable = |error: &dyn std::error::Error| PeerError::Unreachable(error.to_string());
        let uri = format!("{}{DELIVERIES_PATH}", url.trim_end_matches('/'));
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
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| unreachable(&*error))
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
        let post = self.post(url, encode(batch));
        let answer = tokio::time::timeout(within, post)
            .await
            .map_err(|_| PeerError::Unreachable(format!("no answer within {within:?}")))??;
        let verdicts: Vec<Verdict> = decode(&answer).map_err(PeerError::Malformed)?;
        if verdicts.len() != batch.len() {
            let message = format!("{} verdicts on {} deliveries", verdicts.len(), batch.len());
            return Err(PeerError::Malformed(message));
        }
        Ok(verdicts)
    }
}

impl fmt::Debug for HttpPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPeers").finish_non_exhaustive()
    }
}
