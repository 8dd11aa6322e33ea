//! One listener: accepts connections and serves a warp filter on each, upgrades included.

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderValue, Request, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service;
use warp::{Filter, Reply, filters::BoxedFilter, reply::Response};

use super::Rate;
use crate::{
    error::{ErrorCode, Failure},
    relay::Relay,
    tasks::Tasks,
    telemetry::LogThrottle,
};

mod exchange;
mod head;
mod no_request;
mod places;
mod requirements;
mod transport;
mod voice;

use exchange::{Exchange, Watched};
pub use places::Capacity;
use places::{Place, Places};
use transport::Transport;
pub use voice::Voice;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// Connections that the kernel keeps while we are busy.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed because the node lacks something, such as descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The routes of a listener: every request gets an answer.
pub type Routes = BoxedFilter<(Response,)>;

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    capacity: Capacity,
}

/// What a listener serves.
pub struct Site {
    /// Its routes.
    pub routes: Routes,
    /// How it answers what never reaches a route.
    pub voice: Voice,
    /// Makes the count of requests that a connection may make.
    pub rate: Box<dyn Fn() -> Rate + Send + Sync>,
    /// The metrics in which its limits are counted.
    pub relay: Arc<Relay>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("voice", &self.voice).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds at once, so that a port that is taken is known before anything else starts.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn bind(address: SocketAddr, capacity: Capacity) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { listener: TcpListener::from_std(socket.into())?, capacity })
    }

    /// The address on which it listens, with the real port, even if port 0 was asked for.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then closes the listener, lets the calls in progress end, and returns.
    /// Upgraded connections live on.
    pub async fn run(self, site: Site, tasks: &Tasks, stop: CancellationToken) {
        let http = http();
        let Site { routes, voice, rate, relay } = site;
        let voice = Arc::new(voice);
        let calls = TaskTracker::new();
        let places = Places::new(self.capacity);
        let mut throttle = LogThrottle::default();
        loop {
            let accepted = async {
                let stream = accept(&self.listener, &mut throttle).await;
                (stream, places.take().await)
            };
            let (stream, place) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            let exchange = Arc::new(Exchange::new());
            let visit = Arc::new(Visit {
                routes: routes.clone(),
                voice: Arc::clone(&voice),
                rate: rate(),
                exchange: Arc::clone(&exchange),
                refusal: refusal(&place, places.capacity(), &relay),
            });
            if !place.is_refusal() {
                places.hold(&exchange);
            }
            let service = service_fn(move |request| visit.begin(request));
            let transport = Transport::new(
                stream,
                place,
                Arc::clone(&exchange),
                Arc::clone(&voice),
                stop.clone(),
            );
            let connection = http.serve_connection(TokioIo::new(transport), service);
            let connection = connection.with_upgrades();
            let (stop, call) = (stop.clone(), calls.token());
            tasks.short_lived(async move {
                let _held = call;
                let mut connection = std::pin::pin!(connection);
                let result = tokio::select! {
                    result = connection.as_mut() => result,
                    () = exchange.evicted() => {
                        tracing::debug!("connection closed: its place is needed");
                        return;
                    }
                    () = stop.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                };
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
        drop(self.listener);
        calls.close();
        calls.wait().await;
    }
}

/// The HTTP library, without its timers: the socket has its own.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None).max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
    http
}

/// The answer to a connection for which there is no place. The first part of its name says which
/// limit was hit.
fn refusal(place: &Place, capacity: &Capacity, relay: &Relay) -> Option<Failure> {
    place.is_refusal().then(|| {
        let Capacity { connections, limit, .. } = capacity;
        relay.telemetry.limit_hit(limit);
        let message = format!("{limit}: this node holds {connections} connections already");
        Failure::new(ErrorCode::Overloaded, message)
    })
}

/// Accepts the next connection. Cancel safe.
///
/// Without TCP keep-alive, because each connection notices a dead client sooner by itself: a
/// WebSocket has pings, a waiting call has its time limit, everything else has time-outs.
async fn accept(listener: &TcpListener, throttle: &mut LogThrottle) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "connection without nodelay");
                }
                return stream;
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection was gone before it was accepted");
            }
            // The next accept would fail in the same way, and at once.
            Err(error) => {
                if let Some(muted) = throttle.tick(Instant::now()) {
                    tracing::warn!(%error, muted, "connections are not accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the next accept may succeed, because only the connection that failed is lost.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Answers the requests of one connection.
struct Visit {
    routes: Routes,
    voice: Arc<Voice>,
    rate: Rate,
    exchange: Arc<Exchange>,
    /// Why there is no place for it, if there is none.
    refusal: Option<Failure>,
}

impl Visit {
    /// Answers a request. The exchange learns at once that it has begun: what follows on the socket
    /// belongs to it, whether or not anybody has polled for the answer.
    fn begin(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        self.exchange.begun(request.version());
        let request = request.map(|body| Watched::new(body, &self.exchange));
        Arc::clone(self).answer(request)
    }

    async fn answer(
        self: Arc<Self>,
        mut request: Request<Watched>,
    ) -> Result<Response, Infallible> {
        let early = match &self.refusal {
            Some(failure) => Some(self.voice.failure(failure)),
            None => requirements::check(&mut request).err().map(|unmet| self.voice.unmet(&unmet)),
        };
        let page = self.voice.page(request.headers());
        let mut answer = match early {
            Some(answer) => answer.into_response(),
            None => {
                request.extensions_mut().insert(self.rate.clone());
                let Ok(answer) = warp::service(self.routes.clone()).call(request).await;
                answer
            }
        };
        let is_upgrade = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        self.voice.sign(&mut answer, page);
        if hyper::body::Body::size_hint(answer.body()).exact().is_none() && !is_upgrade {
            return Ok(self.exchange.told_at_its_end(answer));
        }
        let is_read = self.exchange.answered(is_upgrade);
        if !is_upgrade && (!is_read || self.refusal.is_some()) {
            answer.headers_mut().append(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(answer)
    }
}

/// Accepts exactly this path: warp's own filters also accept it with a slash at its end.
pub(super) fn exactly(
    path: &'static str,
) -> impl Filter<Extract = (), Error = warp::Rejection> + Clone {
    warp::path::full()
        .and_then(move |full: warp::path::FullPath| {
            let matches = full.as_str() == path;
            std::future::ready(matches.then_some(()).ok_or_else(warp::reject::not_found))
        })
        .untuple_one()
}

/// The raw query of a request, without its question mark.
pub(super) fn query() -> impl Filter<Extract = (Option<String>,), Error = Infallible> + Clone {
    warp::query::raw().map(Some).or(warp::any().map(|| None)).unify()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_of_one_connection_are_passed_over_at_once() {
        // As Linux numbers them: ECONNABORTED, EINTR; EMFILE, ENFILE, ENOBUFS, ENOMEM, EINVAL.
        for number in [103, 4] {
            assert!(is_of_one_connection(&io::Error::from_raw_os_error(number)), "{number}");
        }
        for number in [24, 23, 105, 12, 22] {
            assert!(!is_of_one_connection(&io::Error::from_raw_os_error(number)), "{number}");
        }
    }
}
