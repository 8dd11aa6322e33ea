//! The routes that peers, probes and Prometheus reach, on a listener of their own.

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use registry::{RequestId, SessionId};
use subtle::ConstantTimeEq;
use warp::{Filter, Reply, path::FullPath};

use super::{Answer, plain, server::Routes};
use crate::{
    config::Secret,
    peer::{
        DELIVERIES_PATH, Delivery, MEDIA_TYPE, RELEASE_PATH, SETTLEMENTS_PATH, Verdict, decode,
        encode,
    },
    relay::Relay,
};

/// Largest batch that is read: one reply of any size that a broker takes, and some more.
const BATCH_BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Whether the node may take requests: `Ok`, or why not.
pub type Readiness = Box<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

/// What the internal edge needs.
pub struct Internal {
    /// What deliveries are handed to.
    pub relay: Arc<Relay>,
    /// What a peer has to show.
    pub secret: Secret,
    /// What `/readyz` says.
    pub readiness: Readiness,
}

impl Internal {
    /// Whether the caller shows the cluster's secret. Takes the same time wherever it is wrong.
    fn is_peer(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .unwrap_or_default();
        given.ct_eq(self.secret.expose().as_bytes()).into()
    }

    fn deliveries(&self, body: &Bytes) -> Answer {
        let batch: Vec<Delivery> = match decode(body) {
            Ok(batch) => batch,
            Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let verdicts: Vec<Verdict> = batch
            .into_iter()
            .map(|Delivery { request, session, read_at_us, reply }| {
                let took = now.saturating_sub(Duration::from_micros(read_at_us));
                self.relay.deliver_forwarded(request, session, reply, took)
            })
            .collect();
        binary(&encode(&verdicts))
    }

    fn settlements(&self, body: &Bytes) -> Answer {
        let kept: Vec<(RequestId, SessionId)> = match decode(body) {
            Ok(kept) => kept,
            Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
        };
        let verdict = |(request, session)| self.relay.whereabouts(request, Some(session));
        let verdicts: Vec<Verdict> = kept.into_iter().map(verdict).collect();
        binary(&encode(&verdicts))
    }

    async fn release(&self, session: SessionId, body: &Bytes) -> Answer {
        let epoch = match decode(body) {
            Ok(epoch) => epoch,
            Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
        };
        match self.relay.release(session, epoch).await {
            Some(released) => binary(&released),
            None => plain(StatusCode::NOT_FOUND, "no such session"),
        }
    }

    /// What a peer has posted to one of the paths that are for peers.
    async fn post(&self, path: PeerPath, body: &Bytes) -> Answer {
        match path {
            PeerPath::Deliveries => self.deliveries(body),
            PeerPath::Settlements => self.settlements(body),
            PeerPath::Release(session) => self.release(session, body).await,
        }
    }

    fn probe(&self) -> Answer {
        match (self.readiness)() {
            Ok(()) => plain(StatusCode::OK, "ready"),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }

    fn metrics(&self) -> Answer {
        let mut answer = Response::new(self.relay.telemetry().render().into_bytes());
        let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        answer
    }
}

/// The paths that are for peers.
#[derive(Clone, Copy, Debug)]
enum PeerPath {
    Deliveries,
    Settlements,
    Release(SessionId),
}

impl PeerPath {
    fn parse(path: &str) -> Option<Self> {
        match path {
            DELIVERIES_PATH => Some(Self::Deliveries),
            SETTLEMENTS_PATH => Some(Self::Settlements),
            _ => {
                let id = path.strip_prefix(RELEASE_PATH.0)?.strip_suffix(RELEASE_PATH.1)?;
                SessionId::parse(id).ok().map(Self::Release)
            }
        }
    }
}

fn binary(bytes: &Bytes) -> Answer {
    let mut answer = Response::new(bytes.to_vec());
    let media_type = HeaderValue::from_static(MEDIA_TYPE);
    answer.headers_mut().insert(header::CONTENT_TYPE, media_type);
    answer
}

impl Debug for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Internal").field("relay", &self.relay).finish_non_exhaustive()
    }
}

/// Everything under the internal listener.
pub fn routes(internal: Arc<Internal>) -> Routes {
    let with = move || {
        let internal = Arc::clone(&internal);
        warp::any().map(move || Arc::clone(&internal))
    };
    // Who does not show the secret is not even read to.
    let peers = warp::path::full()
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(with())
        .and_then(
            async |path: FullPath, method: Method, headers: HeaderMap, with: Arc<Internal>| {
                let path = PeerPath::parse(path.as_str());
                let path = path.filter(|_| method == Method::POST && with.is_peer(&headers));
                path.map(|path| (with, path)).ok_or_else(warp::reject::not_found)
            },
        )
        .untuple_one()
        .and(warp::body::content_length_limit(BATCH_BODY_BYTES_MAX))
        .and(warp::body::bytes())
        .then(async |internal: Arc<Internal>, path: PeerPath, body: Bytes| {
            internal.post(path, &body).await.into_response()
        });
    let metrics = warp::path!("metrics")
        .and(warp::get())
        .and(with())
        .map(|internal: Arc<Internal>| internal.metrics().into_response());
    let get = || warp::get().or(warp::head()).unify();
    let livez =
        warp::path!("livez").and(get()).map(|| plain(StatusCode::OK, "alive").into_response());
    let readyz = warp::path!("readyz")
        .and(get())
        .and(with())
        .map(|internal: Arc<Internal>| internal.probe().into_response());
    // What is not there is as forbidden as what is: no hint without the secret.
    let other = with().and(warp::header::headers_cloned()).map(
        |internal: Arc<Internal>, headers: HeaderMap| {
            let answer = if internal.is_peer(&headers) {
                plain(StatusCode::NOT_FOUND, "not found")
            } else {
                plain(StatusCode::UNAUTHORIZED, "unauthorized")
            };
            answer.into_response()
        },
    );
    peers.or(metrics).unify().or(livez).unify().or(readyz).unify().or(other).unify().boxed()
}
