//! One listener: accepts connections and serves a warp filter on each, upgrades included.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower_service::Service;
use warp::{Filter, filters::BoxedFilter, reply::Response};

use super::Rate;
use crate::tasks::Tasks;

/// How long a client may take for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
/// Connections that the kernel keeps while we are busy.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The routes of a listener: every request gets an answer.
pub type Routes = BoxedFilter<(Response,)>;

/// A bound listener.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    connections_max: usize,
}

impl Server {
    /// Binds at once, so that a port that is taken is known before anything else starts.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn bind(address: SocketAddr, connections_max: usize) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self { listener: TcpListener::from_std(socket.into())?, connections_max })
    }

    /// Where it listens: the port is known even if 0 was asked for.
    ///
    /// # Errors
    /// Whatever the system says.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then closes the listener, lets the calls in progress end, and returns.
    /// Upgraded connections live on. `rate` makes one allowance per connection.
    pub async fn run(
        self,
        routes: Routes,
        rate: impl Fn() -> Rate,
        tasks: &Tasks,
        stop: CancellationToken,
    ) {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX);
        let calls = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.connections_max));
        loop {
            let (stream, place) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &places) => accepted,
            };
            let service = WithRate { inner: warp::service(routes.clone()), rate: rate() };
            let connection = http
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .with_upgrades();
            let (stop, call) = (stop.clone(), calls.token());
            tasks.short_lived(async move {
                let _held: (OwnedSemaphorePermit, TaskTrackerToken) = (place, call);
                let mut connection = std::pin::pin!(connection);
                let result = tokio::select! {
                    result = connection.as_mut() => result,
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

/// The next connection, once there is a place for it. Cancel safe.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await;
    let place = place.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "connection without nodelay");
                }
                return (stream, place);
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Hands each request its connection's allowance, as an extension.
#[derive(Clone, Debug)]
struct WithRate<S> {
    inner: S,
    rate: Rate,
}

impl<S, B> Service<http::Request<B>> for WithRate<S>
where
    S: Service<http::Request<B>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.rate.clone());
        self.inner.call(request)
    }
}

/// Takes this path alone: warp's own filters take it with a slash at its end, too.
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
