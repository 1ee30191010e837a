//! A client's stream behind the guard: what hyper reads from.
//!
//! Whole lawful messages pass where they were read, without a copy. Only a head that is not complete is held back,
//! since hyper must not see half of what may be refused. In place of a refused head hyper gets a lawful one, so that
//! the refusal is answered in its turn, after the requests before it.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    connection::ClientConnection,
    guard::{Guard, Then},
};

/// A stream whose reads have passed the guard.
pub struct Guarded<S> {
    stream: S,
    guard: Guard,
    connection: Rc<ClientConnection>,
    /// Bytes that may pass and did not fit into a reader's buffer.
    passed: BytesMut,
    /// Bytes that may not pass yet.
    held: BytesMut,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    /// Waits for the answer to the request to upgrade.
    Paused,
    /// Reads nothing more; the answer to the refusal closes.
    Refused,
    /// A body was unlawful: it ends here.
    Ended,
}

impl<S> Guarded<S> {
    /// Puts `guard` in front of `stream`.
    pub fn new(stream: S, guard: Guard, connection: Rc<ClientConnection>) -> Self {
        Self {
            stream,
            guard,
            connection,
            passed: BytesMut::new(),
            held: BytesMut::new(),
            state: State::Reading,
        }
    }

    /// The stream, when nothing more is to be read as a request.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// After 101: lets everything pass from here on, and gives the bytes that were held back.
    pub(super) fn release(mut self) -> (Self, BytesMut) {
        let mut early = std::mem::take(&mut self.passed);
        early.unsplit(std::mem::take(&mut self.held));
        self.guard = Guard::off();
        self.state = State::Reading;
        (self, early)
    }

    /// Acts on what the guard said of the bytes behind those that passed.
    fn follow(&mut self, then: Then) {
        match then {
            Then::More => self.connection.note_partial_head(!self.held.is_empty()),
            Then::Paused => self.state = State::Paused,
            Then::RefusedHead(refusal) => {
                self.connection.refuse_head(refusal, self.guard.heads());
                self.connection.note_partial_head(false);
                self.state = State::Refused;
                self.held.clear();
                self.passed.extend_from_slice(STAND_IN);
            }
            Then::RefusedBody(refusal) => {
                self.connection.refuse_body(refusal);
                self.state = State::Ended;
                self.held.clear();
            }
        }
    }

    /// Moves what may pass to the reader.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.passed.len().min(buf.remaining());
        buf.put_slice(self.passed.get(..count).unwrap_or_default());
        self.passed.advance(count);
    }

    /// Shows the held bytes to the guard.
    fn rescan(&mut self) {
        let scan = self.guard.scan(&self.held);
        let passed = self.held.split_to(scan.pass);
        self.passed.unsplit(passed);
        self.follow(scan.then);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.passed.is_empty() {
                this.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            match this.state {
                State::Reading => {}
                State::Ended => return Poll::Ready(Ok(())),
                // The answer wakes the driver, and it reads on or closes.
                State::Refused => return Poll::Pending,
                State::Paused => {
                    if this.connection.is_upgraded() || this.connection.answers() < this.guard.heads() {
                        return Poll::Pending;
                    }
                    this.guard.resume(false);
                    this.state = State::Reading;
                    if !this.held.is_empty() {
                        this.rescan();
                        continue;
                    }
                }
            }
            if this.held.is_empty() {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                let read = buf.filled().get(before..).unwrap_or_default();
                if read.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.connection.note_received(read.len());
                let scan = this.guard.scan(read);
                if scan.pass < read.len() {
                    this.held.extend_from_slice(read.get(scan.pass..).unwrap_or_default());
                    buf.set_filled(before + scan.pass);
                }
                this.follow(scan.then);
                if scan.pass > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let mut chunk = [std::mem::MaybeUninit::uninit(); HELD_READ];
                let mut more = ReadBuf::uninit(&mut chunk);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut more))?;
                if more.filled().is_empty() {
                    // The end inside a head: nobody is left to answer.
                    this.connection.note_partial_head(false);
                    return Poll::Ready(Ok(()));
                }
                this.connection.note_received(more.filled().len());
                this.held.extend_from_slice(more.filled());
                this.rescan();
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        this.connection.note_sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        this.connection.note_sent(written);
        Poll::Ready(Ok(written))
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

/// Passes the parser and reaches the handler's door, where the refusal is answered in its place.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n";
/// Read at once while a head is held back: heads longer than one read are rare.
const HELD_READ: usize = 4096;
