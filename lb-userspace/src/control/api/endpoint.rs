//! The HTTPS endpoint: connections and their limits, and a request's way through the codecs to the executor and back.
//!
//! Before: the caller bound a socket and made a TLS configuration whose certificate covers the endpoint's name and its
//! `data-` twin. The host name of a request does not matter here. After: the executor commits what an operation wrote.

use std::{convert::Infallible, future::Future, io, sync::Arc, time::Duration};

use aws_lc_rs::rand;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body as _, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    check::check,
    credentials::Credentials,
    dispatch,
    metrics::EndpointMetrics,
    refuse, rest,
    shapes::{Operation, Protocol, Service, Services, ShapesError},
    xml,
};
use crate::{
    control::ops::{self, ApiError, Caller, Code, Fault, Handler},
    identity::seal::Seal,
};

/// Runs operations one after the other: a draft of the state for each, committed before the answer.
pub trait Executor: Send + Sync + 'static {
    /// Runs one operation; what it wrote is durable when this returns `Ok`.
    fn execute(
        &self,
        handler: Handler,
        caller: Caller,
        input: Value,
    ) -> impl Future<Output = Result<Value, ApiError>> + Send;
}

/// Who may call, and with what the endpoint works.
pub struct EndpointSettings {
    /// The region that this appliance stands for; signatures for another do not count.
    pub region: String,
    /// The access keys.
    pub credentials: Credentials,
    /// Seals the secrets that clients bring.
    pub seal: Arc<Seal>,
    /// Seconds since the Unix epoch.
    pub clock: fn() -> u64,
}

/// The AWS endpoint of the control plane.
pub struct Endpoint<E> {
    services: Services,
    settings: EndpointSettings,
    executor: E,
    metrics: EndpointMetrics,
    large_bodies: Semaphore,
}

impl<E: Executor> Endpoint<E> {
    /// An endpoint that runs operations by `executor`.
    ///
    /// # Errors
    /// When the shape tables of this build are broken.
    pub fn new(
        settings: EndpointSettings,
        executor: E,
        metrics: EndpointMetrics,
    ) -> Result<Self, ShapesError> {
        let services = Services::load()?;
        Ok(Self { services, settings, executor, metrics, large_bodies: Semaphore::new(LARGE_BODIES_MAX) })
    }

    /// Serves HTTPS until `stop` is ready, then lets the requests in flight end within a stated time.
    ///
    /// # Errors
    /// When the socket no longer accepts.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (stopping, stopped) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // Keeps the set as small as the open connections are many.
                Some(_) = connections.join_next() => continue,
                () = &mut stop => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, or the client went: neither ends the endpoint.
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let this = Arc::clone(&self);
                    connections.spawn(this.connection(stream, acceptor.clone(), slot, stopped.clone()));
                }
                Err(_) => {
                    self.metrics.connections_refused.inc();
                }
            }
        }
        drop(listener);
        let _ = stopping.send(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(STOP_GRACE, all).await.is_err() {
            tracing::warn!("requests still in flight were cut off");
        }
        Ok(())
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        _slot: OwnedSemaphorePermit,
        mut stopped: watch::Receiver<bool>,
    ) {
        let _ = stream.set_nodelay(true);
        let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else {
            self.metrics.handshakes_failed.inc();
            return;
        };
        self.metrics.connections.inc();
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_MAX_H2);
        let service = service_fn(|request| {
            let this = Arc::clone(&self);
            async move { Ok::<_, Infallible>(this.request(request).await) }
        });
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let stopped = async { stopped.wait_for(|stopped| *stopped).await.is_ok() };
        let ended = tokio::select! {
            served = connection.as_mut() => Some(served),
            _ = stopped => None,
        };
        let served = match ended {
            Some(served) => served,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a client's connection ended badly");
        }
        self.metrics.connections.dec();
    }

    async fn request(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        match self.read(&parts, body).await {
            Ok(body) => self.answer(&parts, &body).await,
            Err(error) => {
                let request_id = request_id();
                self.count(&error);
                // Nothing was verified yet, so only the request's head says what the client speaks.
                let service = dispatch::find(&self.services, &parts, b"").ok().map(|found| found.service);
                self.finish(Err(error), service, &parts, &request_id)
            }
        }
    }

    /// The whole body, within the limits of size and time.
    async fn read(&self, parts: &Parts, body: Incoming) -> Result<Bytes, ApiError> {
        let length =
            parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let read = async {
            let _permit = match length {
                Some(0..=SMALL_BODY_MAX) => None,
                None if body.is_end_stream() => None,
                _ => self.large_bodies.acquire().await.ok(),
            };
            collect(body).await
        };
        timeout(BODY_TIMEOUT, read).await.unwrap_or_else(|_| {
            self.metrics.timeouts.inc();
            let message = format!("The body did not come within {} seconds.", BODY_TIMEOUT.as_secs());
            Err(ApiError::new(Code::Throttled, Fault::Sender, message).with_status(408))
        })
    }

    /// Answers one request that was read whole. Never fails: whatever is wrong has an AWS form.
    pub async fn answer(&self, parts: &Parts, body: &[u8]) -> Response<Full<Bytes>> {
        let request_id = request_id();
        let (service, outcome) = match dispatch::find(&self.services, parts, body) {
            Ok(found) => (Some(found.service), self.run(found, parts, body, &request_id).await),
            Err(error) => (None, Err(error)),
        };
        if let Err(error) = &outcome {
            self.count(error);
        }
        self.finish(outcome, service, parts, &request_id)
    }

    async fn run(
        &self,
        found: dispatch::Dispatched<'_>,
        parts: &Parts,
        body: &[u8],
        request_id: &str,
    ) -> Result<Response<Full<Bytes>>, ApiError> {
        let service = found.service;
        let now_s = (self.settings.clock)();
        let caller = self.settings.credentials.verify(service, &self.settings.region, parts, body, now_s)?;
        let (name, operation, input) = found.decode(parts, body)?;
        let handler =
            ops::find(&service.name, name).ok_or_else(|| dispatch::unknown_operation(service, name))?;
        check(service, operation.input.as_deref(), &input)?;
        let input = match ops::preparation(&service.name, name) {
            Some(prepare) => prepare(&self.settings.seal, input)?,
            None => input,
        };
        let output = self.executor.execute(handler, caller, input).await?;
        tracing::debug!(service = service.name, operation = name, request_id, "answered");
        Ok(encode(service, name, operation, &output, request_id))
    }

    fn count(&self, error: &ApiError) {
        match error.code {
            Code::MissingSignature
            | Code::IncompleteSignature
            | Code::UnknownAccessKey
            | Code::SignatureMismatch
            | Code::SignatureExpired => {
                self.metrics.unsigned.inc();
            }
            Code::TooLarge => {
                self.metrics.too_large.inc();
            }
            _ => {}
        }
    }

    fn finish(
        &self,
        outcome: Result<Response<Full<Bytes>>, ApiError>,
        service: Option<&Service>,
        parts: &Parts,
        request_id: &str,
    ) -> Response<Full<Bytes>> {
        let mut response = outcome.unwrap_or_else(|error| {
            let refusal = refuse::refuse(service, dispatch::is_form(parts), &error, request_id);
            let service = service.map(|service| service.name.as_str());
            match error.kind {
                Fault::Sender => tracing::debug!(service, request_id, code = refusal.code, "refused"),
                Fault::Receiver => tracing::error!(service, request_id, code = refusal.code, "failed"),
            }
            let mut response = respond(refusal.status, refusal.content_type, refusal.body.into_bytes());
            if let Ok(code) = HeaderValue::try_from(refusal.code) {
                response.headers_mut().insert(ERROR_TYPE, code);
            }
            response
        });
        if let Ok(request_id) = HeaderValue::try_from(request_id) {
            response.headers_mut().insert(REQUEST_ID, request_id);
        }
        self.metrics.requests.inc();
        if response.status().is_client_error() {
            self.metrics.client_errors.inc();
        } else if response.status().is_server_error() {
            self.metrics.server_errors.inc();
        }
        response
    }
}

fn encode(
    service: &Service,
    name: &str,
    operation: &Operation,
    output: &Value,
    request_id: &str,
) -> Response<Full<Bytes>> {
    match service.protocol {
        Protocol::Query | Protocol::Ec2 => {
            let text = xml::encode(service, name, operation, output, request_id);
            respond(operation.status, "text/xml;charset=UTF-8", text.into_bytes())
        }
        Protocol::Json => {
            let output = operation.output.as_deref().map(|shape| super::json::encode(service, shape, output));
            let body = output.map(|output| output.to_string().into_bytes()).unwrap_or_default();
            respond(operation.status, "application/x-amz-json-1.1", body)
        }
        Protocol::RestJson => {
            let answer = rest::encode(service, operation, output);
            let content_type = if answer.is_json { "application/json" } else { "application/octet-stream" };
            let mut response = respond(answer.status, content_type, answer.body);
            response.headers_mut().extend(answer.headers);
            response
        }
    }
}

fn respond(status: u16, content_type: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A body within the limit. Of a larger one the rest is read and thrown away, because a client that still writes does
/// not see an answer.
async fn collect(mut body: Incoming) -> Result<Bytes, ApiError> {
    let (mut collected, mut length) = (BytesMut::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let early = |_| ApiError::new(Code::Serialization, Fault::Sender, "The body ended early.");
        let Ok(data) = frame.map_err(early)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= BODY_MAX {
            collected.extend_from_slice(&data);
        } else {
            collected = BytesMut::new();
        }
        if length > DISCARD_MAX {
            break;
        }
    }
    if length > BODY_MAX {
        let message = format!("A request has at most {BODY_MAX} bytes.");
        return Err(ApiError::new(Code::TooLarge, Fault::Sender, message));
    }
    Ok(collected.freeze())
}

/// Whether accepting may succeed again by itself.
fn is_passing(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// A random version-4 UUID.
fn request_id() -> String {
    let mut bytes = [0; 16];
    // Without randomness there is no TLS either; a request id of zeros is then the least of it.
    let _ = rand::fill(&mut bytes);
    let mut number = u128::from_be_bytes(bytes);
    number = number & !(0xf << 76) | 4 << 76;
    number = number & !(0b11 << 62) | 0b10 << 62;
    let hex = format!("{number:032x}");
    let mut text = String::with_capacity(36);
    for (at, digit) in hex.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// The largest request: room for the largest template (1 MB) and API description many times over.
pub const BODY_MAX: usize = 10 << 20;
/// Of a body beyond the limit so much is read, for the client to see its answer; then the connection is closed.
const DISCARD_MAX: usize = 4 * BODY_MAX;
/// Bodies up to here need no permit: what one connection may cost.
const SMALL_BODY_MAX: usize = 64 << 10;
/// Larger bodies that are read at once, so that unsigned requests hold at most 8 × 10 MiB.
const LARGE_BODIES_MAX: usize = 8;
/// A control endpoint has few clients; each connection costs some 100 KiB.
const CONNECTIONS_MAX: usize = 512;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 32;
/// The head of a request; a presigned query string has about 1 KiB.
const HEAD_MAX: usize = 64 << 10;
/// The same in HTTP/2.
const HEAD_MAX_H2: u32 = 64 << 10;
/// A client that is there answers within a round trip.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the connection's start or the last answer to the end of the next request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// From the end of the head to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests in flight may take after the stop.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// After a failed accept, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_uuid() {
        let id = request_id();
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'), "{id}");
        assert_ne!(id, request_id());
    }
}
