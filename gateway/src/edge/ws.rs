//! `GET /ws`: the WebSocket handshake (RFC 6455, section 4.2), and what it starts.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use warp::{Filter, Reply, reply::Response as WarpResponse};

use super::{
    Answer, Edge, Rate, Refusal, has_token, problem_with, refused,
    server::{exactly, query},
};
use crate::{
    error::{ErrorCode, Failure},
    relay::session::Token,
};

mod connection;
mod listening;
mod pings;
mod socket;

pub use connection::Wish;

use connection::Place;
use listening::Listening;

/// The subprotocols of the contract. A client may offer none: `wscat` works bare. With the first
/// one it acknowledges frames.
const SUBPROTOCOLS: [&str; 2] = [RELIABLE, "roundtrip.v1"];
const RELIABLE: &str = "roundtrip.v1.reliable";
/// How many bytes are read from a socket at once. The buffer lives as long as the connection, so it
/// decides how much memory an idle one takes.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Bytes that are gathered before they are written, when there is more than one frame.
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// The route of `/ws`.
pub fn route(
    edge: &Arc<Edge>,
) -> impl Filter<Extract = (WarpResponse,), Error = warp::Rejection> + Clone + use<> {
    let edge = Arc::clone(edge);
    warp::path!("ws" / ..)
        .and(exactly("/ws"))
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(query())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(warp::ext::get::<Rate>())
        .map(move |method: Method, headers, query: Option<String>, upgrade, rate| {
            let call = Handshake { method, headers, query, upgrade };
            edge.accept(call, rate).unwrap_or_else(|refusal| *refusal).into_response()
        })
}

/// Serves a WebSocket, whose handshake is over, on any stream of bytes, for as long as its client
/// or its session wants. Dropping the future has the effect of a network that breaks.
pub async fn serve<S>(edge: &Edge, wish: Wish, rate: Rate, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    serve_upgraded(edge, wish, rate, Place::take(&edge.relay), stream).await;
}

async fn serve_upgraded<S>(edge: &Edge, wish: Wish, rate: Rate, place: Place, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (stream, config) = (Listening::new(stream), edge.socket_config());
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    connection::serve(edge, wish, rate, place, socket).await;
}

/// A call of `/ws`.
struct Handshake {
    method: Method,
    headers: HeaderMap,
    query: Option<String>,
    upgrade: Option<OnUpgrade>,
}

/// What the client gets if it may come in.
struct Accepted {
    upgrade: OnUpgrade,
    accept_key: String,
    subprotocol: Option<&'static str>,
}

impl Edge {
    fn accept(self: &Arc<Self>, call: Handshake, rate: Rate) -> Result<Answer, Refusal> {
        self.check_origin(&call.headers).map_err(|failure| refused(&failure))?;
        let mut wish = wish(call.query.as_deref())?;
        let accepted = call.check()?;
        wish.is_reliable |= accepted.subprotocol == Some(RELIABLE);
        self.is_open().map_err(|failure| refused(&failure))?;
        if self.relay.gate.is_draining() {
            let failure = Failure::new(ErrorCode::Unavailable, "this node is draining");
            return Err(refused(&failure));
        }
        let (open, max) =
            (self.relay.gate.connections(), self.relay.requests.limits().connections_max);
        if open >= max {
            let failure =
                self.relay.requests.limit_hit("connections_max", max, ErrorCode::Overloaded);
            return Err(refused(&failure.adding(format_args!("{open} connections are open"))));
        }
        // Counted from here on, so that many handshakes at once count against the limit.
        let place = Place::take(&self.relay);
        let edge = Arc::clone(self);
        self.tasks.short_lived(async move {
            match accepted.upgrade.await {
                Ok(socket) => {
                    serve_upgraded(&edge, wish, rate, place, TokioIo::new(socket)).await;
                }
                Err(error) => tracing::debug!(%error, "connection not upgraded"),
            }
        });
        Ok(switching(&accepted.accept_key, accepted.subprotocol))
    }

    fn socket_config(&self) -> WebSocketConfig {
        let frame_bytes_max = self.relay.requests.limits().frame_bytes_max;
        WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(frame_bytes_max))
            .max_frame_size(Some(frame_bytes_max))
    }
}

impl Handshake {
    fn check(self) -> Result<Accepted, Refusal> {
        let bad = |status: StatusCode, message: &'static str| {
            let failure = Failure::new(ErrorCode::BadRequest, message);
            Box::new(problem_with(status.as_u16(), &failure, None))
        };
        if ![Method::GET, Method::HEAD].contains(&self.method) {
            let mut answer = bad(StatusCode::METHOD_NOT_ALLOWED, "a handshake is a GET");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Err(answer);
        }
        // What it says may be asked for instead (RFC 9110, section 15.5.22; RFC 6455, section 4.4).
        let upgrade_required = |message| {
            let mut answer = bad(StatusCode::UPGRADE_REQUIRED, message);
            let headers = answer.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            answer
        };
        let upgrade_wanted = self.method == Method::GET
            && has_token(&self.headers, &header::CONNECTION, "upgrade")
            && has_token(&self.headers, &header::UPGRADE, "websocket");
        let Some(upgrade) = self.upgrade.filter(|_| upgrade_wanted) else {
            return Err(upgrade_required("this is a WebSocket endpoint"));
        };
        if only(&self.headers, &header::SEC_WEBSOCKET_VERSION) != Some(b"13") {
            return Err(upgrade_required("the WebSocket version is 13"));
        }
        let key = only(&self.headers, &header::SEC_WEBSOCKET_KEY);
        let Some(key) = key.filter(|key| BASE64.decode(key).is_ok_and(|raw| raw.len() == 16))
        else {
            let message = "sec-websocket-key is 16 bytes in base64, once";
            return Err(bad(StatusCode::BAD_REQUEST, message));
        };
        if has_body(&self.headers) {
            // What follows the head would be read as frames.
            return Err(bad(StatusCode::BAD_REQUEST, "a handshake has no body"));
        }
        let is_offered =
            |name: &&str| has_token(&self.headers, &header::SEC_WEBSOCKET_PROTOCOL, name);
        let subprotocol = SUBPROTOCOLS.into_iter().find(is_offered);
        Ok(Accepted { upgrade, accept_key: derive_accept_key(key), subprotocol })
    }
}

/// The value of a header that comes once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut given = headers.get_all(name).iter();
    let first = given.next()?;
    given.next().is_none().then_some(first.as_bytes())
}

/// Whether a request announces a body that is not empty.
fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    length.is_some_and(|length| length.as_bytes().iter().any(|&digit| digit != b'0'))
        || headers.contains_key(header::TRANSFER_ENCODING)
}

/// What a client asks for in the query: `reliable=1`; `resume` with a good `last_seq` beside it.
fn wish(query: Option<&str>) -> Result<Wish, Refusal> {
    let bad = |message: &'static str| refused(&Failure::new(ErrorCode::BadRequest, message));
    let of_name = |name: &str| {
        let pairs = query.into_iter().flat_map(|query| query.split('&'));
        let found = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let found = found.filter(|(n, _)| *n == name);
        found.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let parameter = |name| match *of_name(name) {
        [] => Ok(None),
        [value] => Ok(Some(value)),
        _ => Err(bad("resume, last_seq and reliable come once at most")),
    };
    let is_reliable = match parameter("reliable")? {
        Some("1" | "true") => true,
        None | Some("0" | "false") => false,
        Some(_) => return Err(bad("reliable is 1 or 0")),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let last_seq = match parameter("last_seq")? {
        Some(text) if digits(text) => text.parse::<u64>().ok(),
        Some(_) => None,
        None => Some(0),
    };
    let last_seq = last_seq.ok_or_else(|| bad("last_seq is a decimal integer of 64 bits"))?;
    let resume = match parameter("resume")? {
        Some(_) if of_name("last_seq").is_empty() => return Err(bad("resume needs last_seq")),
        token => token.map(|token| (Token::parse(token), last_seq)),
    };
    Ok(Wish { is_reliable, resume })
}

fn switching(accept_key: &str, subprotocol: Option<&'static str>) -> Answer {
    let mut answer = Response::new(Vec::new());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept_key = HeaderValue::from_str(accept_key).expect("base64 fits a header");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept_key);
    if let Some(subprotocol) = subprotocol {
        let subprotocol = HeaderValue::from_static(subprotocol);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    answer
}

#[cfg(test)]
mod tests;
