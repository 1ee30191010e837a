//! Bytes both ways, until both have ended, one broke, nothing moved for too long, or the worker wants it to end.
//!
//! All connections of a worker read into one buffer, since each reads and writes within one poll; only what a slow side
//! did not take is kept, and while it is, nothing more is read. An idle connection holds no buffer.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use super::{end::End, flow::Flow};

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both ways, each by its sender.
    Finished,
    /// One side broke.
    Broken(Side, io::Error),
    /// Nothing moved for too long.
    Idle,
    /// Its worker wanted it to.
    Over,
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The client.
    Client,
    /// The target.
    Target,
}

/// A worker's buffer.
pub(super) type Scratch = RefCell<Box<[u8]>>;

/// An empty one.
pub(super) fn scratch() -> Scratch {
    RefCell::new(vec![0; SCRATCH].into_boxed_slice())
}

/// Carries bytes between a client and a target; `count` is told how many came.
pub(super) async fn relay(
    client: &mut End,
    target: &mut End,
    flow: &Flow,
    count: impl Fn(usize),
    idle: Duration,
    scratch: &Scratch,
) -> Ended {
    let (mut up, mut down) = (Way::default(), Way::default());
    let mut timer = pin!(sleep_until(Instant::now() + idle));
    poll_fn(|cx| {
        if flow.is_over(cx) {
            return Poll::Ready(Ended::Over);
        }
        // Nothing that is polled here polls another connection, so the buffer is free.
        let scratch = &mut *scratch.borrow_mut();
        let moved = |bytes| {
            flow.touch();
            count(bytes);
        };
        let up =
            up.poll(cx, client, target, scratch, moved).map_err(|fault| fault.of(Side::Client, Side::Target));
        let down = down
            .poll(cx, target, client, scratch, moved)
            .map_err(|fault| fault.of(Side::Target, Side::Client));
        match (up, down) {
            (Poll::Ready(Err((side, error))), _) | (_, Poll::Ready(Err((side, error)))) => {
                return Poll::Ready(Ended::Broken(side, error));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Finished),
            _ => {}
        }
        while timer.as_mut().poll(cx).is_ready() {
            let due = Instant::from_std(flow.moved()) + idle;
            if due <= Instant::now() {
                return Poll::Ready(Ended::Idle);
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Read and not written yet.
    held: Vec<u8>,
    written: usize,
    /// The writer may hold bytes back.
    is_unflushed: bool,
    /// The reader has ended.
    has_ended: bool,
    /// And the writer was told.
    is_done: bool,
}

/// Whose fault an error is.
enum Fault {
    Reader(io::Error),
    Writer(io::Error),
}

impl Fault {
    fn of(self, reader: Side, writer: Side) -> (Side, io::Error) {
        match self {
            Self::Reader(error) => (reader, error),
            Self::Writer(error) => (writer, error),
        }
    }
}

impl Way {
    /// Moves what can be moved now; ready when the reader has ended and the writer knows.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        scratch: &mut [u8],
        moved: impl Fn(usize),
    ) -> Poll<Result<(), Fault>> {
        if self.is_done {
            return Poll::Ready(Ok(()));
        }
        loop {
            while let Some(rest) = self.held.get(self.written..).filter(|rest| !rest.is_empty()) {
                self.written += ready!(write(to, cx, rest))?;
                moved(0);
            }
            // Freed, not kept: most connections never need it again.
            (self.held, self.written) = (Vec::new(), 0);
            if self.has_ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Writer)?;
                self.is_done = true;
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::Reader(error))),
                Poll::Pending => {
                    // Nothing more to come at once: what was written must not wait for it.
                    if self.is_unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Fault::Writer)?;
                        self.is_unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
            let read = buf.filled();
            if read.is_empty() {
                self.has_ended = true;
                continue;
            }
            moved(read.len());
            self.is_unflushed = true;
            let taken = match write(to, cx, read) {
                Poll::Ready(taken) => taken?,
                Poll::Pending => 0,
            };
            self.held.extend_from_slice(read.get(taken..).unwrap_or_default());
        }
    }
}

fn write(
    to: &mut (impl AsyncWrite + Unpin),
    cx: &mut Context<'_>,
    bytes: &[u8],
) -> Poll<Result<usize, Fault>> {
    match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(Fault::Writer(io::ErrorKind::WriteZero.into()))),
        Ok(count) => Poll::Ready(Ok(count)),
        Err(error) => Poll::Ready(Err(Fault::Writer(error))),
    }
}

/// Four records of TLS, and as much as a socket gives at once under load.
const SCRATCH: usize = 64 << 10;
