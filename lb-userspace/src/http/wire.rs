//! A stream to a target that remembers what went over it since a request began.
//!
//! Retrying is right or wrong by what the target can have seen and whether it has begun to answer; only the stream
//! itself knows.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::{NotDelivered, TargetStream};

/// What went over a stream since [`Trace::begin`].
#[derive(Debug)]
pub struct Trace {
    sent: Cell<bool>,
    received: Cell<bool>,
    undelivered: Cell<bool>,
    moved: Cell<Instant>,
    doubted: Cell<bool>,
    recording: Cell<bool>,
    record: RefCell<Vec<u8>>,
}

impl Trace {
    /// A request begins. `record`: keep its first bytes, for [`Self::recorded`].
    pub fn begin(&self, record: bool) {
        self.recording.set(record);
        self.record.borrow_mut().clear();
        self.sent.set(false);
        self.received.set(false);
        self.moved.set(Instant::now());
    }

    /// Whether a byte of the request can have reached the target.
    pub fn may_have_reached(&self) -> bool {
        self.sent.get() && !self.undelivered.get()
    }

    /// What the first write of the request tried to send: all of it, if it has no body. A request is repeated from these
    /// bytes, since keeping a copy of every head for the rare repetition would cost more than this copy.
    pub fn recorded(&self) -> Vec<u8> {
        self.record.take()
    }

    /// Whether a byte of the response has arrived.
    pub fn has_answered(&self) -> bool {
        self.received.get()
    }

    /// The next read asks the kernel whether the other end has closed, whatever the runtime knows.
    pub fn doubt(&self) {
        self.doubted.set(true);
    }

    /// When a byte last moved, in either direction.
    pub fn moved(&self) -> Instant {
        self.moved.get()
    }
}

/// The stream.
pub struct Wire<S> {
    stream: S,
    trace: Rc<Trace>,
}

impl<S> Wire<S> {
    /// Wraps `stream`, and gives what is written down about it.
    pub fn new(stream: S) -> (Self, Rc<Trace>) {
        let trace = Rc::new(Trace {
            sent: Cell::new(false),
            received: Cell::new(false),
            undelivered: Cell::new(false),
            moved: Cell::new(Instant::now()),
            doubted: Cell::new(false),
            recording: Cell::new(false),
            record: RefCell::default(),
        });
        (Self { stream, trace: trace.clone() }, trace)
    }

    /// The stream itself.
    pub fn into_inner(self) -> S {
        self.stream
    }

    fn writes<'a>(&self, bytes: impl Iterator<Item = &'a [u8]>) {
        if self.trace.recording.get() && !self.trace.sent.get() {
            let mut record = self.trace.record.borrow_mut();
            record.clear();
            bytes.for_each(|bytes| record.extend_from_slice(bytes));
        }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            // The first write is as old as the request's beginning, which has read the clock.
            Poll::Ready(Ok(count)) if *count > 0 && self.trace.sent.replace(true) => {
                self.trace.moved.set(Instant::now());
            }
            Poll::Ready(Err(error)) if NotDelivered::is_in(error) => self.trace.undelivered.set(true),
            _ => {}
        }
        result
    }
}

impl<S: TargetStream> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.trace.doubted.take() && this.stream.is_closed() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        match &result {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                this.trace.received.set(true);
                this.trace.moved.set(Instant::now());
            }
            Poll::Ready(Err(error)) if NotDelivered::is_in(error) => this.trace.undelivered.set(true),
            _ => {}
        }
        result
    }
}

impl<S: TargetStream> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.writes(std::iter::once(buf));
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.wrote(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.writes(bufs.iter().map(|buf| &**buf));
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
