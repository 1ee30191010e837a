//! Bodies on their way through: a request's to a target, a response's to the client.
//!
//! Both stream frame by frame; a slow reader on one side stops reading on the other, so no body is ever held whole.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{connect::TargetStream, exchange::TargetConnection, pool::Shelf};

/// Why a body ended too early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's connection, or its framing, failed.
    #[error("receiving the body")]
    Receive(#[source] hyper::Error),
    /// More than the caller allows.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// In bytes.
        limit: u64,
    },
    /// Nothing moved on the target's connection for too long.
    #[error("nothing moved on the target's connection for too long")]
    Idle,
}

/// A request's body on its way to a target.
pub struct RequestBody {
    source: Source,
    /// Bytes that may still come.
    left: u64,
    limit: u64,
    progress: Progress,
}

enum Source {
    None,
    Whole(Bytes),
    Incoming(Incoming),
}

/// How far a request's body has come, for who decides about retries and reuse. Without a body: done.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<Rc<Cell<Stage>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Untouched,
    Moving,
    Done,
    Failed,
    TooLarge,
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self::of(Source::None)
    }

    /// A body that is there already.
    pub fn whole(bytes: Bytes) -> Self {
        Self::of(if bytes.is_empty() { Source::None } else { Source::Whole(bytes) })
    }

    /// A body that comes from the client.
    pub fn incoming(body: Incoming) -> Self {
        Self::of(if body.is_end_stream() { Source::None } else { Source::Incoming(body) })
    }

    /// Ends with an error after `limit` bytes.
    pub fn limited(mut self, limit: u64) -> Self {
        self.left = limit;
        self.limit = limit;
        self
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        matches!(self.source, Source::None)
    }

    /// How far it has come; valid after the body was handed on.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    fn of(source: Source) -> Self {
        let progress = Progress((!matches!(source, Source::None)).then(Rc::default));
        Self { source, left: u64::MAX, limit: u64::MAX, progress }
    }
}

impl Progress {
    /// All of it was handed to the connection.
    pub fn is_done(&self) -> bool {
        self.stage() == Stage::Done
    }

    /// None of it was taken.
    pub fn is_untouched(&self) -> bool {
        self.stage() == Stage::Untouched
    }

    /// The client's side failed while it was sent.
    pub fn has_failed(&self) -> bool {
        matches!(self.stage(), Stage::Failed | Stage::TooLarge)
    }

    /// It was larger than the caller allows.
    pub fn was_too_large(&self) -> bool {
        self.stage() == Stage::TooLarge
    }

    fn stage(&self) -> Stage {
        self.0.as_ref().map_or(Stage::Done, |stage| stage.get())
    }

    fn set(&self, stage: Stage) {
        if let Some(own) = &self.0 {
            own.set(stage);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::None => None,
            Source::Whole(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                this.source = Source::None;
                Some(Ok(frame))
            }
            Source::Incoming(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(frame) => frame,
            },
        };
        let stage = &this.progress;
        Poll::Ready(match frame {
            None => {
                stage.set(Stage::Done);
                None
            }
            Some(Err(error)) => {
                stage.set(Stage::Failed);
                Some(Err(BodyError::Receive(error)))
            }
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(left) = this.left.checked_sub(size) {
                    this.left = left;
                    stage.set(if this.is_end_stream() { Stage::Done } else { Stage::Moving });
                    Some(Ok(frame))
                } else {
                    stage.set(Stage::TooLarge);
                    Some(Err(BodyError::TooLarge { limit: this.limit }))
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::None => true,
            Source::Whole(_) => false,
            Source::Incoming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::None => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Incoming(body) => body.size_hint(),
        }
    }
}

/// A response's body on its way to the client.
pub enum ResponseBody<S: TargetStream> {
    /// Made here.
    Whole(Bytes),
    /// Comes from a target.
    Forwarded(Box<ForwardedBody<S>>),
}

impl<S: TargetStream> ResponseBody<S> {
    /// No body.
    pub fn empty() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl<S: TargetStream> Body for ResponseBody<S> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Forwarded(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Forwarded(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Forwarded(body) => body.incoming.size_hint(),
        }
    }
}

/// A response's body, the connection it comes on, and where that goes when it is whole.
pub struct ForwardedBody<S: TargetStream> {
    incoming: Incoming,
    connection: Option<Box<TargetConnection<S>>>,
    home: Rc<Shelf<S>>,
}

impl<S: TargetStream> ForwardedBody<S> {
    pub(super) fn new(incoming: Incoming, connection: Box<TargetConnection<S>>, home: Rc<Shelf<S>>) -> Self {
        Self { incoming, connection: Some(connection), home }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // What arrives does so because the connection is driven below, on this same task: its own wake-ups would
        // only be spurious, so the channel between the two gets none.
        let mut quiet = Context::from_waker(Waker::noop());
        for driven in [false, true] {
            if driven
                && let Some(connection) = &mut self.connection
                && connection.drive(cx).is_pending()
                && connection.poll_idle(cx).is_ready()
            {
                self.connection = None;
                return Poll::Ready(Some(Err(BodyError::Idle)));
            }
            match Pin::new(&mut self.incoming).poll_frame(&mut quiet) {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(frame))) => {
                    if self.incoming.is_end_stream() {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.connection = None;
                    return Poll::Ready(Some(Err(BodyError::Receive(error))));
                }
                Poll::Ready(None) => {
                    self.finish();
                    return Poll::Ready(None);
                }
            }
        }
        Poll::Pending
    }

    /// The response is whole: the connection goes home, if it may be used again.
    fn finish(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.home.put(connection);
        }
    }
}
