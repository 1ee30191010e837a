//! One client connection from its first byte to its last.
//!
//! Before it: a worker accepted the connection, perhaps through TLS. It stands between hyper, which parses, and a
//! handler, which decides; it refuses unlawful requests itself, keeps the connection's clock, and joins streams after 101.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, Version, header::CONNECTION};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{
    connection::{ClientConnection, Look},
    guard::{Guard, Limits},
    guarded::Guarded,
    headers,
    refusal::Refusal,
    upgrade,
};

/// Decides about requests.
pub trait Handler: 'static {
    /// What it answers with.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static;

    /// Answers a lawful request: its target is in origin-form, its authority is in Host.
    fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
        connection: Rc<ClientConnection>,
    ) -> impl Future<Output = Response<Self::Body>>;

    /// The answer to a request that is refused unread.
    fn refuse(&self, refusal: Refusal, connection: &ClientConnection) -> Response<Self::Body>;
}

/// How connections are kept.
#[derive(Debug, Clone, Copy)]
pub struct ServeSettings {
    /// Nothing moved for so long: closed. Also how long a head may take.
    pub idle_timeout: Duration,
    /// A connection is closed after the answer in hand when it is this old.
    pub keep_alive: Duration,
    /// Sizes of heads.
    pub limits: Limits,
}

impl ServeSettings {
    /// An application load balancer's: idle_timeout 60 s, client_keep_alive 3,600 s.
    pub const ALB: Self = Self {
        idle_timeout: Duration::from_secs(60),
        keep_alive: Duration::from_secs(3600),
        limits: Limits::ALB,
    };
}

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2, agreed by ALPN.
    Http2,
}

/// Serves one connection to its end. [`ClientConnection::close`] ends it early and gently.
pub async fn serve<S, H>(
    stream: S,
    protocol: Protocol,
    connection: Rc<ClientConnection>,
    handler: Rc<H>,
    settings: ServeSettings,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    match protocol {
        Protocol::Http1 => serve_http1(stream, connection, handler, settings).await,
        Protocol::Http2 => serve_http2(stream, connection, handler, settings).await,
    }
}

async fn serve_http1<S, H>(
    stream: S,
    connection: Rc<ClientConnection>,
    handler: Rc<H>,
    settings: ServeSettings,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let guarded = Guarded::new(stream, Guard::new(settings.limits), connection.clone());
    let service = service_fn({
        let connection = connection.clone();
        move |request| answer(handler.clone(), request, connection.clone())
    });
    let mut http =
        http1::Builder::new().max_buf_size(BUFFER).serve_connection(TokioIo::new(guarded), service);
    let ended = drive(&mut http, &connection, settings, |http| Pin::new(http).graceful_shutdown()).await;
    match ended {
        Ended::Done(Ok(())) => {}
        Ended::Done(Err(error)) => tracing::debug!(%error, "a client's connection ended early"),
        Ended::Idle => return,
    }
    let parts = http.into_parts();
    let guarded = parts.io.into_inner();
    if let Some(target) = connection.take_tunnel() {
        let mut early = BytesMut::from(parts.read_buf.as_ref());
        let (guarded, held) = guarded.release();
        early.unsplit(held);
        upgrade::tunnel(guarded, early, target, &connection, settings.idle_timeout).await;
    } else if connection.is_refused() {
        linger(guarded.into_inner()).await;
    }
}

async fn serve_http2<S, H>(
    stream: S,
    connection: Rc<ClientConnection>,
    handler: Rc<H>,
    settings: ServeSettings,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Handler,
{
    let guarded = Guarded::new(stream, Guard::off(), connection.clone());
    let service = service_fn({
        let connection = connection.clone();
        move |request| answer(handler.clone(), request, connection.clone())
    });
    let mut http = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(settings.limits.head).unwrap_or(HEADER_LIST))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .serve_connection(TokioIo::new(guarded), service);
    let ended = drive(&mut http, &connection, settings, |http| Pin::new(http).graceful_shutdown()).await;
    if let Ended::Done(Err(error)) = ended {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

enum Ended {
    Done(hyper::Result<()>),
    Idle,
}

/// Polls hyper's connection, the clock and the wish to close.
async fn drive<F>(
    http: &mut F,
    connection: &Rc<ClientConnection>,
    settings: ServeSettings,
    close: impl Fn(&mut F),
) -> Ended
where
    F: Future<Output = hyper::Result<()>> + Unpin,
{
    let mut timer = pin!(tokio::time::sleep(settings.idle_timeout.min(settings.keep_alive)));
    let mut closing = false;
    // The timer knows this task from its first poll on, so that afterwards a look at it is enough.
    let mut armed = false;
    poll_fn(|cx| {
        connection.driven_by(cx.waker());
        loop {
            if let Poll::Ready(result) = Pin::new(&mut *http).poll(cx) {
                return Poll::Ready(Ended::Done(result));
            }
            if connection.is_closing() && !closing {
                closing = true;
                close(http);
                continue;
            }
            if (armed && !timer.is_elapsed()) || timer.as_mut().poll(cx).is_pending() {
                armed = true;
                return Poll::Pending;
            }
            armed = false;
            match connection.look(Instant::now(), settings.idle_timeout, settings.keep_alive) {
                Look::Again(when) => timer.as_mut().reset(when.into()),
                Look::Old => connection.close(),
                Look::Idle | Look::HeadTimedOut => return Poll::Ready(Ended::Idle),
            }
        }
    })
    .await
}

/// One request to one answer.
async fn answer<H: Handler>(
    handler: Rc<H>,
    mut request: Request<Incoming>,
    connection: Rc<ClientConnection>,
) -> Result<Response<H::Body>, Infallible> {
    let refusal = connection.begin();
    let old = request.version() != Version::HTTP_2;
    let refusal = refusal.or_else(|| headers::admit(&mut request).err());
    let mut response = match refusal {
        Some(refusal) => {
            tracing::debug!(peer = %connection.peer, %refusal, "request refused");
            // One unlawful stream does not end the others of HTTP/2.
            if old {
                connection.refuse();
            }
            handler.refuse(refusal, &connection)
        }
        None => handler.handle(request, connection.clone()).await,
    };
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if old && connection.is_closing() && !upgraded {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    connection.answered(upgraded);
    Ok(response)
}

/// Reads what the client still sends, for a moment: closing on unread bytes resets the connection, and a reset can
/// overtake the answer.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let mut scratch = [0; 4096];
    let drained = async {
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut scratch).await {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => return,
            }
        }
    };
    // Over time: closed as it is.
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Spawns hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// hyper's read and write buffers: a whole head fits, bodies move in pieces up to this.
const BUFFER: usize = 128 << 10;
/// Parallel streams of one HTTP/2 connection, as AWS's front doors advertise.
const STREAMS: u32 = 100;
/// When a limit does not fit HTTP/2's field.
const HEADER_LIST: u32 = 16 << 10;
/// Streams reset before they were accepted (rapid reset, CVE-2023-44487).
const RESETS: usize = 20;
/// Streams reset for the client's errors before the connection is.
const LOCAL_RESETS: usize = 1024;
/// How long a refused client may still send.
const LINGER: Duration = Duration::from_secs(1);
/// And how much.
const LINGER_BYTES: usize = 256 << 10;
