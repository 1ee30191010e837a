//! One request from its head to its answer: rules, then a group, then a target, then the forwarder.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::HOST};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    answer,
    balance::choose_weighted,
    forwarded::Hop,
    listen::OpenListener,
    upstream::Path,
    view::{Action, Counters, InFlight, Listener, LoadBalancer},
    worker::{Shared, Turns},
};
use crate::http::{
    body::{BodyError, RequestBody, ResponseBody},
    connection::ClientConnection,
    forward::{ForwardError, Policy},
    headers::without_port,
    refusal::Refusal,
    serve::Handler,
    upgrade::Upgraded,
};

/// Answers the requests of one client connection.
pub struct RequestHandler {
    open: Rc<OpenListener>,
    shared: Rc<Shared>,
    load_balancer: Arc<LoadBalancer>,
    hop: Hop,
    source: Ipv4Addr,
}

impl RequestHandler {
    /// For a connection that was accepted on `listener`.
    pub fn new(
        open: Rc<OpenListener>,
        shared: Rc<Shared>,
        peer: SocketAddr,
        local: SocketAddr,
        listener: &Listener,
    ) -> Rc<Self> {
        let load_balancer = listener.load_balancer.clone();
        let source = load_balancer.accepted_at(local.ip());
        let hop = Hop::new(peer, listener.port, load_balancer.settings);
        Rc::new(Self { open, shared, load_balancer, hop, source })
    }

    fn counters(&self) -> &Counters {
        &self.load_balancer.counters
    }

    fn error(&self, status: StatusCode) -> Response<Answer> {
        self.counters().own(status);
        answer::error(status).map(Answer::own)
    }

    /// The group that the matched rule leads to, or the answer it is.
    fn decide(&self, request: &Request<Incoming>) -> Decision {
        let listener = self.open.listener.borrow();
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        let matched = listener.rules.match_rule(without_port(host), request.uri().path(), &mut ());
        self.counters().evaluations.inc_by(matched.evaluated as u64);
        match matched.action {
            Action::Fixed { status, content_type, body } => {
                self.counters().fixed.inc();
                self.counters().own(*status);
                Decision::Answer(answer::fixed(*status, content_type, body).map(Answer::own))
            }
            Action::Forward(groups) => {
                let place = match groups.as_slice() {
                    [(place, weight)] if *weight > 0 => Some(*place),
                    _ => choose_weighted(groups.iter().map(|(_, weight)| *weight), self.shared.random())
                        .and_then(|index| groups.get(index))
                        .map(|(place, _)| *place),
                };
                match place.and_then(|place| self.shared.turns(place)) {
                    Some(turns) => Decision::Forward(turns),
                    None => Decision::Answer(self.error(StatusCode::SERVICE_UNAVAILABLE)),
                }
            }
        }
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        turns: Rc<Turns>,
        connection: Rc<ClientConnection>,
    ) -> Response<Answer> {
        let mut request = request.map(RequestBody::incoming);
        let random = u128::from(self.shared.random()) << 64 | u128::from(self.shared.random());
        self.hop.write(request.headers_mut(), self.shared.seconds(), random);
        let settings = &self.load_balancer.settings;
        let policy = Policy { idle_timeout: settings.idle_timeout, retry: settings.retry, ..Policy::DEFAULT };
        let mut in_flight: Option<InFlight> = None;
        let next = || {
            let target = turns.choose(in_flight.as_ref().map(InFlight::target))?;
            if in_flight.is_none() {
                self.counters().requests.inc();
                turns.group.requests.inc();
                if turns.fails_open() {
                    turns.group.fail_open.inc();
                }
            }
            let source = self.load_balancer.source(self.source, target.address.ip());
            let path = Path { source, target: target.address };
            in_flight = Some(InFlight::begin(target));
            Some(path)
        };
        match self.shared.forwarder.forward(request, policy, next).await {
            Ok(forwarded) => {
                self.counters().target(forwarded.response.status());
                if let Some(upgraded) = forwarded.upgraded {
                    connection.join(Joined { stream: upgraded, _in_flight: in_flight });
                    return forwarded.response.map(Answer::own);
                }
                forwarded.response.map(|body| Answer { body, _in_flight: in_flight })
            }
            Err(error) => {
                let status = match connection.refused_body() {
                    Some(refusal) => refusal.status(),
                    None => error.status(),
                };
                if matches!(
                    error,
                    ForwardError::Connect(_) | ForwardError::Closed(_) | ForwardError::Malformed(_)
                ) {
                    self.counters().target_errors.inc();
                }
                let target = in_flight.as_ref().map(|in_flight| in_flight.target().address);
                tracing::debug!(
                    load_balancer = self.load_balancer.name,
                    target_group = turns.group.view.name,
                    ?target,
                    status = status.as_u16(),
                    error = &error as &dyn std::error::Error,
                    "request failed"
                );
                if status.is_client_error() {
                    // The rest of the request is on the connection still.
                    connection.close();
                }
                self.error(status)
            }
        }
    }
}

impl Handler for RequestHandler {
    type Body = Answer;

    async fn handle(
        self: Rc<Self>,
        request: Request<Incoming>,
        connection: Rc<ClientConnection>,
    ) -> Response<Answer> {
        match self.decide(&request) {
            Decision::Forward(turns) => self.forward(request, turns, connection).await,
            Decision::Answer(answer) => answer,
        }
    }

    fn refuse(&self, refusal: Refusal, _connection: &ClientConnection) -> Response<Answer> {
        self.counters().refused.inc();
        self.error(refusal.status())
    }
}

/// What a rule led to.
enum Decision {
    Forward(Rc<Turns>),
    Answer(Response<Answer>),
}

/// An answer's body; a target's counts as in flight until it is sent or given up.
pub struct Answer {
    body: ResponseBody<TcpStream>,
    _in_flight: Option<InFlight>,
}

impl Answer {
    fn own(body: ResponseBody<TcpStream>) -> Self {
        Self { body, _in_flight: None }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A target's stream after 101, in flight as long as it stands.
struct Joined {
    stream: Upgraded<TcpStream>,
    _in_flight: Option<InFlight>,
}

impl AsyncRead for Joined {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Joined {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
