//! One connection to a target and the exchange on it.
//!
//! hyper's client connection is driven by the task that wants its answer, not by a task of its own: a request costs no
//! hop between tasks. Idle connections are looked at when they are taken from the pool and when it is swept.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, Connection, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::time::Sleep;

use super::{
    body::{Progress, RequestBody},
    connect::TargetStream,
    wire::{Trace, Wire},
};

/// A connection to a target: one exchange at a time.
pub struct TargetConnection<S: TargetStream> {
    sender: SendRequest<RequestBody>,
    /// None once it is over and was asked for what it had not taken.
    connection: Option<Connection<TokioIo<Wire<S>>, RequestBody>>,
    trace: Rc<Trace>,
    request: Progress,
    /// Who the timer wakes.
    timer_wakes: Waker,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
    spoiled: bool,
}

/// Why an exchange gave no response.
pub struct ExchangeError {
    /// What happened.
    pub kind: ExchangeErrorKind,
    /// The request, if nothing of it was taken.
    pub request: Option<Request<RequestBody>>,
}

/// See [`ExchangeError`].
#[derive(Debug)]
pub enum ExchangeErrorKind {
    /// The connection ended; what the target can have seen is in the trace.
    Closed(Option<hyper::Error>),
    /// The response's head is not HTTP/1, or too large.
    Malformed(hyper::Error),
    /// Nothing moved for too long.
    Idle,
}

impl<S: TargetStream> TargetConnection<S> {
    /// Makes an HTTP/1.1 connection of a stream.
    pub async fn open(stream: S) -> hyper::Result<Box<Self>> {
        let (wire, trace) = Wire::new(stream);
        let (sender, connection) = http1::Builder::new()
            .max_header_size(RESPONSE_HEAD)
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(wire))
            .await?;
        Ok(Box::new(Self {
            sender,
            connection: Some(connection),
            trace,
            request: Progress::default(),
            timer_wakes: Waker::noop().clone(),
            idle: Duration::ZERO,
            timer: None,
            ended: false,
            spoiled: false,
        }))
    }

    /// What went over the stream since the last request began.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Sends a request and waits for the response's head. `idle` bounds every pause, from here to the body's end.
    pub fn exchange(
        &mut self,
        request: Request<RequestBody>,
        idle: Duration,
    ) -> impl Future<Output = Result<Response<Incoming>, ExchangeError>> {
        self.trace.begin(request.body().is_empty());
        self.request = request.body().progress();
        self.idle = idle;
        // Sent from here, so that the request is not moved into one more future.
        let response = self.sender.try_send_request(request);
        async move {
            let mut response = pin!(response);
            // The answer comes out of driving the connection, here: the channel's own wake-up would be spurious.
            let mut quiet = Context::from_waker(Waker::noop());
            let result = poll_fn(|cx| {
                let ended = self.drive(cx).is_ready();
                let mut answer = response.as_mut().poll(&mut quiet);
                if ended && answer.is_pending() {
                    // It ended before it took the request, and gives that back when it is dropped.
                    self.connection = None;
                    answer = response.as_mut().poll(&mut quiet);
                }
                match answer {
                    Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                    Poll::Ready(Err(mut failure)) => {
                        let request = failure.take_message();
                        let error = failure.into_error();
                        let kind = if error.is_parse() || error.is_parse_too_large() {
                            ExchangeErrorKind::Malformed(error)
                        } else {
                            ExchangeErrorKind::Closed(Some(error))
                        };
                        Poll::Ready(Err(ExchangeError { kind, request }))
                    }
                    Poll::Pending if ended => Poll::Ready(Err(ExchangeError {
                        kind: ExchangeErrorKind::Closed(None),
                        request: None,
                    })),
                    Poll::Pending if self.poll_idle(cx).is_ready() => {
                        Poll::Ready(Err(ExchangeError { kind: ExchangeErrorKind::Idle, request: None }))
                    }
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
            if result.is_err() {
                self.spoiled = true;
            }
            result
        }
    }

    /// Moves bytes. Ready: the connection is over.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended {
            let polled = self.connection.as_mut().map(|connection| connection.poll_without_shutdown(cx));
            self.ended = polled.is_none_or(|polled| polled.is_ready());
        }
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Ready when nothing has moved for too long. One timer serves all of a connection's exchanges: it is set again
    /// only when it fires, so that a request does not touch the runtime's timer wheel.
    pub(super) fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let idle = self.idle;
        let due = self.trace.moved() + idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
        if timer.deadline().into_std() > due + TIMER_SLACK {
            timer.as_mut().reset(due.into());
            self.timer_wakes = Waker::noop().clone();
        }
        if self.timer_wakes.will_wake(cx.waker()) && !timer.is_elapsed() {
            return Poll::Pending;
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due.into());
        }
        self.timer_wakes.clone_from(cx.waker());
        Poll::Pending
    }

    /// The next exchange could read this one's bytes: never use it again.
    pub(super) fn spoil(&mut self) {
        self.spoiled = true;
    }

    /// Whether another request may go over it, as far as is known without a look at the stream: the last exchange is
    /// whole in both directions. hyper looks at the stream before it writes the next request, gives that back if the
    /// other end has closed, and ends the connection if bytes are left over.
    pub(super) fn is_reusable(&mut self) -> bool {
        // A response before the end of its request leaves the rest of that request in front of the next one.
        if self.spoiled || self.ended || !self.request.is_done() {
            return false;
        }
        self.sender.is_ready() || self.looks_reusable()
    }

    /// As [`Self::is_reusable`], and nothing has come and nobody has closed, as far as the runtime knows.
    pub(super) fn looks_reusable(&mut self) -> bool {
        let over = self.spoiled || self.drive(&mut Context::from_waker(Waker::noop())).is_ready();
        !over && self.sender.is_ready()
    }

    /// As [`Self::looks_reusable`], asking the kernel as well.
    pub(super) fn is_surely_reusable(&mut self) -> bool {
        self.trace.doubt();
        self.looks_reusable()
    }

    /// After 101: the stream, and what was read of it beyond the response.
    pub(super) async fn into_stream(mut self) -> Option<(S, Bytes)> {
        poll_fn(|cx| self.drive(cx)).await;
        let parts = self.connection?.into_parts();
        Some((parts.io.into_inner().into_inner(), parts.read_buf))
    }
}

/// An application load balancer's limit for all headers of a response.
const RESPONSE_HEAD: usize = 32 << 10;
/// hyper's read and write buffers: bodies move in pieces up to this.
const BUFFER: usize = 128 << 10;
/// How much later than it should a timer may be set: it is then set anew.
const TIMER_SLACK: Duration = Duration::from_millis(100);
