//! From a request to a response: connections, attempts, retries.
//!
//! Before it: a handler has chosen what to send and knows the targets that may take it. After it: the response's body
//! streams, and its end puts the connection back. The one place that decides about trying again:
//! GET, HEAD and OPTIONS without a body, on a connection that closed before any byte of a response, once more on another
//! connection; everything else only when no byte of the request can have reached a target.

use std::{rc::Rc, time::Duration};

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, UPGRADE},
};
use tokio::time::timeout;

use super::{
    body::{ForwardedBody, RequestBody, ResponseBody},
    connect::{Connect, ConnectError},
    exchange::{ExchangeErrorKind, TargetConnection},
    headers,
    pool::{Pool, SWEEP, Shelf},
    upgrade::Upgraded,
};

/// Forwards requests over one worker's connections.
pub struct Forwarder<C: Connect> {
    connector: C,
    pool: Pool<C::Key, C::Stream>,
}

/// How one request is forwarded.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Bounds connecting, each time.
    pub connect_timeout: Duration,
    /// Bounds every pause in the exchange.
    pub idle_timeout: Duration,
    /// Whether a repeatable request is tried again after its connection closed.
    pub retry: bool,
}

impl Policy {
    /// As an application load balancer does by default.
    pub const DEFAULT: Self = Self { connect_timeout: CONNECT, idle_timeout: IDLE, retry: true };
}

/// A target's answer.
pub struct Forwarded<C: Connect> {
    /// Hop-by-hop headers are gone; after 101 the two that say so are there again.
    pub response: Response<ResponseBody<C::Stream>>,
    /// Who answered.
    pub key: C::Key,
    /// After 101: the stream, for [`super::connection::ClientConnection::join`].
    pub upgraded: Option<Upgraded<C::Stream>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// There is no target to try.
    #[error("no target")]
    NoTarget,
    /// No connection to the last target that was tried, nor to those before it.
    #[error("connecting to a target")]
    Connect(#[source] ConnectError),
    /// The target closed before it answered; something of the request may have reached it.
    #[error("the target closed the connection before it answered")]
    Closed(#[source] Option<hyper::Error>),
    /// The target's answer is not a lawful response.
    #[error("the target's response is malformed")]
    Malformed(#[source] Option<hyper::Error>),
    /// The target did not answer in time.
    #[error("the target did not answer in time")]
    TargetIdle,
    /// The client stopped sending its request.
    #[error("the client did not send its request in time")]
    ClientIdle,
    /// The client closed, or sent an unlawful body.
    #[error("receiving the request's body")]
    RequestBody,
    /// The request's body is larger than the caller allows.
    #[error("the request's body is too large")]
    TooLarge,
}

impl ForwardError {
    /// The status that an application load balancer answers.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoTarget => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect(ConnectError::TimedOut) | Self::TargetIdle => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_) | Self::Closed(_) | Self::Malformed(_) => StatusCode::BAD_GATEWAY,
            Self::ClientIdle => StatusCode::REQUEST_TIMEOUT,
            Self::RequestBody => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

impl<C: Connect> Forwarder<C> {
    /// One worker's forwarder. [`Self::tend`] must run beside it.
    pub fn new(connector: C) -> Rc<Self> {
        Rc::new(Self { connector, pool: Pool::new() })
    }

    /// What opens its streams.
    pub fn connector(&self) -> &C {
        &self.connector
    }

    /// Idle connections.
    pub fn pool(&self) -> &Pool<C::Key, C::Stream> {
        &self.pool
    }

    /// Sweeps the pool for ever.
    pub async fn tend(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.pool.sweep(std::time::Instant::now());
        }
    }

    /// Forwards `request`, whose target is in origin-form and which carries the headers the target shall see.
    /// Strips hop-by-hop headers itself.
    ///
    /// `next` names the target of the first attempt and of each one after; `None` ends the trying.
    pub async fn forward(
        &self,
        mut request: Request<RequestBody>,
        policy: Policy,
        mut next: impl FnMut() -> Option<C::Key>,
    ) -> Result<Forwarded<C>, ForwardError> {
        let version = request.version();
        let upgrade = headers::strip_request(request.headers_mut(), version);
        let upgrade = upgrade.filter(|_| request.body().is_empty() && request.method() == Method::GET);
        if let Some(protocol) = &upgrade {
            let headers = request.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, protocol.clone());
        }
        *request.version_mut() = Version::HTTP_11;
        let bodyless = request.body().is_empty();
        let repeatable =
            bodyless && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let mut retries = usize::from(policy.retry && repeatable);
        let mut failure = ForwardError::NoTarget;
        for attempt in 0..MOST_ATTEMPTS {
            let Some(key) = next() else { return Err(failure) };
            let shelf = self.pool.shelf(&key);
            // What closed one connection may be closing the others at this moment: trying again takes a fresh one.
            let idle = if attempt == 0 { shelf.take(!repeatable) } else { None };
            let was_idle = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => match self.open(&key, policy.connect_timeout).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        failure = ForwardError::Connect(error);
                        continue;
                    }
                },
            };
            let progress = request.body().progress();
            let error = match connection.exchange(request, policy.idle_timeout).await {
                Ok(response) => return receive(response, connection, shelf, key, upgrade).await,
                Err(error) => error,
            };
            let trace = connection.trace();
            let reached = trace.may_have_reached() && error.request.is_none();
            failure = match error.kind {
                ExchangeErrorKind::Malformed(error) => ForwardError::Malformed(Some(error)),
                ExchangeErrorKind::Idle if progress.is_done() => ForwardError::TargetIdle,
                ExchangeErrorKind::Idle => ForwardError::ClientIdle,
                ExchangeErrorKind::Closed(_) if progress.was_too_large() => ForwardError::TooLarge,
                ExchangeErrorKind::Closed(_) if progress.has_failed() => ForwardError::RequestBody,
                ExchangeErrorKind::Closed(error) if reached => ForwardError::Closed(error),
                ExchangeErrorKind::Closed(error) => ForwardError::Connect(not_reached(error)),
            };
            let ended = matches!(failure, ForwardError::Closed(_) | ForwardError::Connect(_));
            let closed = error.request.is_some() || (ended && !trace.has_answered());
            if !closed || (reached && retries == 0) {
                return Err(failure);
            }
            // An idle connection may have ended before the request came. The one retry is for one made for it: the first may
            // still meet the listener of a target that is dying.
            if reached && !was_idle {
                retries -= 1;
            }
            request = match error.request {
                Some(whole) => whole,
                // The body went with the connection.
                None if !bodyless => return Err(failure),
                None => match again(&trace.recorded()) {
                    Some(request) => request,
                    None => return Err(failure),
                },
            };
        }
        Err(failure)
    }

    async fn open(
        &self,
        key: &C::Key,
        limit: Duration,
    ) -> Result<Box<TargetConnection<C::Stream>>, ConnectError> {
        let stream =
            timeout(limit, self.connector.connect(key)).await.map_err(|_| ConnectError::TimedOut)??;
        TargetConnection::open(stream).await.map_err(|error| ConnectError::Io(std::io::Error::other(error)))
    }
}

/// A connection that ended before anything of a request can have reached the target: as good as none.
fn not_reached(error: Option<hyper::Error>) -> ConnectError {
    error.map_or(ConnectError::Unavailable("the connection had ended"), |error| {
        ConnectError::Io(std::io::Error::other(error))
    })
}

/// A request without a body, from the bytes that hyper made of it.
fn again(bytes: &[u8]) -> Option<Request<RequestBody>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    if !parsed.parse(bytes).ok()?.is_complete() {
        return None;
    }
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for header in parsed.headers.iter() {
        request = request.header(header.name, header.value);
    }
    request.body(RequestBody::empty()).ok()
}

async fn receive<C: Connect>(
    response: Response<hyper::body::Incoming>,
    mut connection: Box<TargetConnection<C::Stream>>,
    shelf: Rc<Shelf<C::Stream>>,
    key: C::Key,
    upgrade: Option<HeaderValue>,
) -> Result<Forwarded<C>, ForwardError> {
    let (mut parts, incoming) = response.into_parts();
    parts.extensions.clear();
    // The client's side speaks its own version.
    parts.version = Version::HTTP_11;
    if headers::strip_response(&mut parts.headers) {
        connection.spoil();
    }
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked, so nobody would understand what follows.
        let protocol = upgrade.ok_or(ForwardError::Malformed(None))?;
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
        let (stream, read) = connection.into_stream().await.ok_or(ForwardError::Closed(None))?;
        let response = Response::from_parts(parts, ResponseBody::empty());
        return Ok(Forwarded { response, key, upgraded: Some(Upgraded::new(stream, read)) });
    }
    let body = if hyper::body::Body::is_end_stream(&incoming) {
        shelf.put(connection);
        ResponseBody::empty()
    } else {
        ResponseBody::Forwarded(Box::new(ForwardedBody::new(incoming, connection, shelf)))
    };
    Ok(Forwarded { response: Response::from_parts(parts, body), key, upgraded: None })
}

/// An application load balancer waits so long for a connection to a target.
const CONNECT: Duration = Duration::from_secs(10);
/// idle_timeout.timeout_seconds' default.
const IDLE: Duration = Duration::from_secs(60);
/// Attempts of one request, of whatever kind: with three targets refusing, a fourth would hardly help.
const MOST_ATTEMPTS: usize = 3;
/// The guard's limit and what a load balancer adds.
const HEADERS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_made_again_from_its_bytes() {
        let request = again(b"GET /a?b HTTP/1.1\r\nhost: x\r\nx-a: 1\r\nx-a: 2\r\n\r\n").unwrap();
        assert_eq!((request.method(), request.uri().to_string().as_str()), (&Method::GET, "/a?b"));
        let values: Vec<_> = request.headers().get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(again(b"GET / HTTP/1.1\r\nhost").is_none());
        assert!(again(b"").is_none());
    }
}
