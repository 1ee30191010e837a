//! One request from its head to its answer.
//!
//! Before it: TLS and HTTP, with lawful framing. The host, the path and the method decide where it goes; then the
//! forwarder carries it over a lane. Every answer bears the request's id.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, HOST, UPGRADE},
    uri::PathAndQuery,
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use tokio::time::timeout;

use super::{
    answer,
    choice::Choice,
    compile::{Integration, NoRoute, TargetKind, Targets},
    connector::{LaneConnector, LaneKey},
    headers, path,
    run::{SERVE, View},
};
use crate::{
    http::{
        body::{BodyError, RequestBody, ResponseBody},
        connection::ClientConnection,
        forward::{ForwardError, Forwarder, Policy},
        refusal::Refusal,
        serve::Handler,
    },
    tunnel::pipe::TlsPipe,
};

/// Answers the requests of one worker.
pub struct ApiHandler {
    view: RefCell<Arc<View>>,
    forwarder: Rc<Forwarder<LaneConnector>>,
    choice: Rc<Choice>,
    refused: Counter,
    ids: Cell<u64>,
}

impl ApiHandler {
    /// Serves `view` until another comes. `refused` counts requests that are refused unread.
    pub fn new(
        view: Arc<View>,
        forwarder: Rc<Forwarder<LaneConnector>>,
        choice: Rc<Choice>,
        refused: Counter,
    ) -> Rc<Self> {
        Rc::new(Self { view: RefCell::new(view), forwarder, choice, refused, ids: Cell::new(0) })
    }

    /// Serves another view from now on. Idle connections to targets that no route leads to any more are closed.
    pub fn follow(&self, view: Arc<View>) {
        let targets = view.routing.targets();
        self.forwarder.pool().retain(|key| targets.contains(&key.target));
        self.view.replace(view);
    }

    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &ClientConnection,
        id: &HeaderValue,
    ) -> Response<Answer> {
        let begun = Instant::now();
        let view = self.view();
        let own = |status| answer::answer(status, id).map(Answer::own);
        let (mut parts, body) = request.into_parts();
        let Some(normal) = path::normalize(parts.uri.path()) else { return own(StatusCode::BAD_REQUEST) };
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let server_name = connection.secure.as_ref().and_then(|secure| secure.server_name.as_deref());
        let selected = match view.routing.select(server_name, host, &parts.method, &normal) {
            Ok(selected) => selected,
            Err(none) => {
                if let NoRoute::Route { stage } = none {
                    stage.counters.answered(none.status(), begun.elapsed());
                }
                return own(none.status());
            }
        };
        let rewritten = match &normal {
            std::borrow::Cow::Borrowed(_) => None,
            std::borrow::Cow::Owned(normal) => Some(with_path(&parts.uri, normal)),
        };
        match rewritten {
            Some(Some(uri)) => parts.uri = uri,
            Some(None) => return own(StatusCode::BAD_REQUEST),
            None => {}
        }
        let announced = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let announced: Option<u64> = announced.and_then(|length| length.parse().ok());
        if announced.is_some_and(|length| length > PAYLOAD) {
            connection.close();
            selected.stage.counters.answered(StatusCode::PAYLOAD_TOO_LARGE, begun.elapsed());
            return own(StatusCode::PAYLOAD_TOO_LARGE);
        }
        // HTTP APIs join no streams: WebSocket has APIs of its own.
        parts.headers.remove(UPGRADE);
        headers::to_integration(&mut parts.headers, connection.peer.ip());
        let integration = &selected.route.integration;
        if let Some(method) = &integration.method {
            parts.method = method.clone();
        }
        let integrated = match receive(body, announced).await {
            Ok(body) => self.integrate(integration, Request::from_parts(parts, body)).await,
            Err(error) => Err(error.into()),
        };
        let counters = &selected.stage.counters;
        let response = match integrated {
            Ok(mut response) => {
                counters.integrated(begun.elapsed());
                headers::to_client(response.headers_mut(), id);
                response
            }
            Err(failure) => {
                let status = match connection.refused_body() {
                    Some(refusal) => answer::of_refusal(refusal),
                    None => failure.status(),
                };
                if status.is_client_error() {
                    // The rest of the request is on the connection still.
                    connection.close();
                }
                tracing::debug!(
                    api = %selected.stage.api,
                    stage = selected.stage.name,
                    route = selected.route.key,
                    request_id = id.to_str().unwrap_or_default(),
                    status = status.as_u16(),
                    error = &failure as &dyn std::error::Error,
                    "request failed"
                );
                own(status)
            }
        };
        counters.answered(response.status(), begun.elapsed());
        response
    }

    async fn integrate(
        &self,
        integration: &Integration,
        request: Request<RequestBody>,
    ) -> Result<Response<Answer>, IntegrateError> {
        let (link, targets, kind) = match &integration.targets {
            Targets::Link { link, targets, kind } => (link, targets, *kind),
            Targets::Broken { reason } => return Err(IntegrateError::Broken { reason: reason.clone() }),
        };
        let has_body = !request.body().is_empty();
        let mut order = self.choice.order(&integration.turn, targets, Instant::now());
        let mut attempts = 0;
        let mut last = None;
        let next = || {
            let target = order.next()?;
            attempts += 1;
            last = Some(target);
            // The first bytes travel with the OPEN when they can be written again.
            let confirm = has_body || attempts > 1;
            Some(LaneKey { link: Arc::clone(link), target, kind, confirm })
        };
        let policy = Policy {
            connect_timeout: integration.timeout.min(CONNECT),
            idle_timeout: integration.timeout,
            retry: true,
        };
        let forwarded = timeout(integration.timeout, self.forwarder.forward(request, policy, next))
            .await
            .map_err(|_| IntegrateError::Late { limit: integration.timeout })??;
        if kind == TargetKind::Instance {
            self.choice.trust(forwarded.key.target);
        }
        let announced = forwarded.response.body().size_hint().lower();
        if announced > PAYLOAD {
            return Err(IntegrateError::ResponseTooLarge);
        }
        Ok(forwarded.response.map(|body| Answer { body, left: PAYLOAD }))
    }

    /// `$context.requestId`: 11 bytes, 16 letters, the last a `=`.
    fn request_id(&self) -> HeaderValue {
        let mut bytes = [0; 11];
        if SystemRandom::new().fill(&mut bytes).is_err() {
            // Still unlike any other of this worker.
            let count = self.ids.get() + 1;
            self.ids.set(count);
            if let Some(place) = bytes.first_chunk_mut() {
                *place = count.to_be_bytes();
            }
        }
        HeaderValue::from_str(&BASE64_STANDARD.encode(bytes))
            .unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAA="))
    }
}

impl Handler for ApiHandler {
    type Body = Answer;

    async fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
        connection: Rc<ClientConnection>,
    ) -> Response<Answer> {
        let id = self.request_id();
        self.answer(request, &connection, &id).await
    }

    fn refuse(&self, refusal: Refusal, _connection: &ClientConnection) -> Response<Answer> {
        self.refused.inc();
        answer::answer(answer::of_refusal(refusal), &self.request_id()).map(Answer::own)
    }
}

/// A request's body on its way. A small one is received whole first: an answer in the middle of it, such as that no
/// target is there, would end an HTTP/2 stream in a way that clients take for a failure.
async fn receive(body: Incoming, announced: Option<u64>) -> Result<RequestBody, ForwardError> {
    if announced.is_none_or(|length| length == 0 || length > SMALL) {
        return Ok(RequestBody::incoming(body).limited(PAYLOAD));
    }
    let whole = timeout(SERVE.idle_timeout, body.collect()).await.map_err(|_| ForwardError::ClientIdle)?;
    let whole = whole.map_err(|_| ForwardError::RequestBody)?;
    Ok(RequestBody::whole(whole.to_bytes()))
}

/// Why an integration did not answer.
#[derive(Debug, thiserror::Error)]
enum IntegrateError {
    #[error("the integration leads nowhere: {reason}")]
    Broken { reason: String },
    #[error("no answer within {} ms", limit.as_millis())]
    Late { limit: Duration },
    #[error("the integration's answer is larger than {PAYLOAD} bytes")]
    ResponseTooLarge,
    #[error("forwarding")]
    Forward(#[from] ForwardError),
}

impl IntegrateError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Broken { .. } | Self::ResponseTooLarge => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Late { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Forward(error) => answer::of_failure(error),
        }
    }
}

/// The same target with another path.
fn with_path(uri: &Uri, path: &str) -> Option<Uri> {
    let path_and_query = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    path_and_query.ok().map(Uri::from)
}

/// An answer's body.
pub struct Answer {
    body: ResponseBody<TlsPipe>,
    left: u64,
}

impl Answer {
    fn own(body: Bytes) -> Self {
        Self { body: ResponseBody::Whole(body), left: PAYLOAD }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let size = frame.data_ref().map_or(0, |data| data.len() as u64);
            match this.left.checked_sub(size) {
                Some(left) => this.left = left,
                None => return Poll::Ready(Some(Err(BodyError::TooLarge { limit: PAYLOAD }))),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An HTTP API's limit for payloads, each way: 10 MB.
const PAYLOAD: u64 = 10 << 20;
/// Bodies up to this size are received whole: as much as one TLS record.
const SMALL: u64 = 16 << 10;
/// For a pipe to be open, all its tries together; an integration's timeout bounds the whole.
const CONNECT: Duration = Duration::from_secs(10);
