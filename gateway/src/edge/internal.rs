//! The routes that peers, probes and Prometheus reach, on a listener of their own.

use std::{
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use registry::{SessionId, Versions};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use warp::{Filter, Reply, path::FullPath};

use super::{Answer, has_token, plain, server::Routes};
use crate::{
    config::Secret,
    peer::{
        CALL_BYTES_MAX, DELIVERIES_PATH, Delivery, IDLE_TIMEOUT, MEDIA_TYPE, RELEASE_PATH, UPGRADE,
        Unsettled, VERSIONS_HEADER, Verdict, call_stream,
        format::{self, Asked},
        spoken, spoken_by,
    },
    readiness::Readiness,
    relay::Relay,
    tasks::Tasks,
};

/// What the internal edge needs.
pub struct Internal {
    /// The relay, which takes replies from peers.
    pub relay: Arc<Relay>,
    /// The secret that a peer has to show.
    pub secret: Secret,
    /// What `/readyz` says.
    pub readiness: Arc<Readiness>,
    /// Where connections of calls are served.
    pub tasks: Tasks,
    /// Ends them.
    pub stop: CancellationToken,
}

impl Internal {
    /// Whether the caller shows the cluster's secret. Takes the same time wherever the two differ.
    fn is_peer(&self, headers: &HeaderMap) -> bool {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .unwrap_or_default();
        given.ct_eq(self.secret.expose().as_bytes()).into()
    }

    /// Does what a peer asks. An error says what is wrong with the call.
    fn answer(&self, call: &Bytes) -> Result<Bytes, String> {
        let (Asked { deliveries, settlements }, forwarding) =
            (format::read_call(call)?, &self.relay.forwarding);
        let deliver = |Delivery { request, session, held_us, reply }| {
            let took = Duration::from_micros(held_us);
            forwarding.deliver_forwarded(request, session, reply, took)
        };
        let ask =
            |kept: Unsettled| forwarding.whereabouts(kept.request, Some(kept.session), &kept.item);
        let delivered = deliveries.into_iter().map(deliver);
        let verdicts: Vec<Verdict> = delivered.chain(settlements.into_iter().map(ask)).collect();
        Ok(format::write_verdicts(verdicts))
    }

    /// Takes calls until the peer has no more.
    async fn converse(&self, socket: impl AsyncRead + AsyncWrite + Unpin) {
        let mut calls = call_stream(socket);
        while let Ok(Some(call)) = tokio::time::timeout(IDLE_TIMEOUT, calls.next()).await {
            let Ok(call) = call.inspect_err(|error| tracing::debug!(%error, "no call of a peer"))
            else {
                break;
            };
            // The peer logs it, once, and asks again later.
            let answer = self.answer(&call.freeze()).unwrap_or_else(|trouble| {
                tracing::debug!(trouble, "a peer's call cannot be read");
                format::write_trouble(trouble)
            });
            if calls.send(answer).await.is_err() {
                break;
            }
        }
    }

    /// Takes one call, or turns the connection into one of many.
    fn calls(self: &Arc<Self>, upgrade: Option<OnUpgrade>, body: &Bytes) -> Answer {
        let Some(upgrade) = upgrade else {
            return match self.answer(body) {
                Ok(answer) => binary(&answer),
                Err(error) => plain(StatusCode::BAD_REQUEST, &error),
            };
        };
        let this = Arc::clone(self);
        self.tasks.short_lived(async move {
            let calls = async {
                match upgrade.await {
                    Ok(socket) => this.converse(TokioIo::new(socket)).await,
                    Err(error) => tracing::debug!(%error, "a peer's connection was not upgraded"),
                }
            };
            tokio::select! {
                biased;
                () = this.stop.cancelled() => {}
                () = calls => {}
            }
        });
        let mut answer = Response::new(Vec::new());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE));
        answer
    }

    async fn release(&self, session: SessionId, body: &Bytes) -> Answer {
        let epochs = match format::read_release(body) {
            Ok(epochs) => epochs,
            Err(error) => return plain(StatusCode::BAD_REQUEST, &error),
        };
        match self.relay.leaving.release(session, epochs).await {
            Some(released) => binary(&released),
            None => plain(StatusCode::NOT_FOUND, "no such session"),
        }
    }

    /// What a peer has posted to one of the paths that are for peers.
    async fn post(
        self: &Arc<Self>,
        path: PeerPath,
        theirs: Versions,
        upgrade: Option<OnUpgrade>,
        body: &Bytes,
    ) -> Answer {
        let ours = spoken();
        let mut answer = match path {
            _ if !ours.meet(theirs) => {
                let why = format!("this node speaks the versions {ours}, the caller {theirs}");
                plain(StatusCode::UPGRADE_REQUIRED, &why)
            }
            PeerPath::Deliveries => self.calls(upgrade, body),
            PeerPath::Release(session) => self.release(session, body).await,
        };
        let ours = HeaderValue::from_str(&ours.to_string()).expect("two numbers");
        answer.headers_mut().insert(VERSIONS_HEADER, ours);
        answer
    }

    fn probe(&self) -> Answer {
        let report = self.readiness.report();
        if report.ready {
            // A load balancer that reads this may send clients at once.
            self.relay.gate.open();
        }
        let mut body = serde_json::to_vec(&report).expect("plain data in memory can be encoded");
        body.push(b'\n');
        let mut answer = Response::new(body);
        if !report.ready {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let media_type = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, media_type);
        answer
    }

    fn metrics(&self) -> Answer {
        let mut answer = Response::new(self.relay.telemetry.render().into_bytes());
        let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        answer
    }
}

/// The paths that are for peers.
#[derive(Clone, Copy, Debug)]
enum PeerPath {
    Deliveries,
    Release(SessionId),
}

impl PeerPath {
    fn parse(path: &str) -> Option<Self> {
        match path {
            DELIVERIES_PATH => Some(Self::Deliveries),
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
    // The call that upgrades may come without a body, and without its length.
    let body = warp::body::content_length_limit(CALL_BYTES_MAX as u64)
        .and(warp::body::bytes())
        .or(warp::any().map(Bytes::new))
        .unify();
    // A caller that does not show the secret: its body is not even read.
    let peers = warp::path::full()
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(with())
        .and_then(
            async |path: FullPath, method: Method, headers: HeaderMap, with: Arc<Internal>| {
                let path = PeerPath::parse(path.as_str());
                let path = path.filter(|_| method == Method::POST && with.is_peer(&headers));
                let how = (has_token(&headers, &header::UPGRADE, UPGRADE), spoken_by(&headers));
                path.map(|path| (with, path, how)).ok_or_else(warp::reject::not_found)
            },
        )
        .untuple_one()
        .and(warp::ext::optional::<OnUpgrade>())
        .and(body)
        .then(async |internal: Arc<Internal>, path, how, upgrade: Option<_>, body: Bytes| {
            let (upgrades, theirs): (bool, Versions) = how;
            let upgrade = upgrade.filter(|_| upgrades);
            internal.post(path, theirs, upgrade, &body).await.into_response()
        });
    let get = || warp::get().or(warp::head()).unify();
    let metrics = warp::path!("metrics")
        .and(get())
        .and(with())
        .map(|internal: Arc<Internal>| internal.metrics().into_response());
    let livez =
        warp::path!("livez").and(get()).map(|| plain(StatusCode::OK, "alive").into_response());
    let readyz = warp::path!("readyz")
        .and(get())
        .and(with())
        .map(|internal: Arc<Internal>| internal.probe().into_response());
    let get_only = warp::path!("metrics")
        .or(warp::path!("livez"))
        .unify()
        .or(warp::path!("readyz"))
        .unify()
        .map(|| {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "this takes GET and HEAD");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            answer.into_response()
        });
    // A path that does not exist is as forbidden as one that does: without the secret there is no
    // hint.
    let other = with().and(warp::header::headers_cloned()).map(
        |internal: Arc<Internal>, headers: HeaderMap| {
            if internal.is_peer(&headers) {
                return plain(StatusCode::NOT_FOUND, "not found").into_response();
            }
            let mut answer = plain(StatusCode::UNAUTHORIZED, "unauthorized");
            let scheme = HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            answer.into_response()
        },
    );
    let probes = metrics.or(livez).unify().or(readyz).unify().or(get_only).unify();
    peers.or(probes).unify().or(other).unify().boxed()
}
