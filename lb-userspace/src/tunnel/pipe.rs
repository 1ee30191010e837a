//! One lane at the gateway, and the pipe that it is while open.
//!
//! A pipe is a byte stream to a target. It can be written to before the agent has answered: the OPEN travels in front of
//! the first bytes, so a new connection costs no round trip of its own. If the agent then refuses, the pipe fails with
//! [`NotDelivered`], and whoever wrote may write the same to another. Bodies are not copied: DATA is read from TLS into
//! the reader's buffer, and written from the writer's with the header in front.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::frame::{
    PeerMisbehaved,
    header::{HEADER_LEN, Header, Kind},
    lane::{AtGateway, GatewayEnd},
    message::{Message, Open, RefusalCode, ResetCode},
};
use crate::http::connect::{ConnectError, NotDelivered, TargetStream};

/// A lane at the gateway.
pub struct Lane<S> {
    stream: S,
    end: GatewayEnd,
    header: [u8; HEADER_LEN],
    header_filled: usize,
    /// A message whose payload is being read.
    message: Option<(Kind, Vec<u8>, usize)>,
    /// Bytes of a DATA frame that are still to be read.
    data_left: usize,
    /// Bytes to be written before any others: an OPEN, the header of a DATA frame, an EOF.
    queued: Vec<u8>,
    queued_written: usize,
    /// Bytes that the DATA frame begun last still owes.
    owed: usize,
    broken: bool,
    heard: Instant,
    pinged: Option<Instant>,
}

/// What comes next on a lane.
#[derive(Debug)]
pub enum Next {
    /// Bytes of the connection, to be read with [`Lane::poll_data`].
    Data,
    /// Something else.
    Message(AtGateway),
}

/// Why a lane is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// Its stream ended or broke.
    #[error("the lane broke")]
    Io(#[from] io::Error),
    /// The agent broke a rule.
    #[error("the agent misbehaved")]
    Peer(#[from] PeerMisbehaved),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    /// A lane that its agent has just made ready.
    pub fn new(stream: S, now: Instant) -> Self {
        Self {
            stream,
            end: GatewayEnd::default(),
            header: [0; HEADER_LEN],
            header_filled: 0,
            message: None,
            data_left: 0,
            queued: Vec::new(),
            queued_written: 0,
            owed: 0,
            broken: false,
            heard: now,
            pinged: None,
        }
    }

    /// Whether it can carry another connection.
    pub fn is_idle(&self) -> bool {
        !self.broken && self.end.is_idle() && self.owed == 0 && self.queued.is_empty()
    }

    /// Begins a connection; its OPEN leaves with the first bytes or the first flush.
    pub fn begin(&mut self, open: impl FnOnce(u64) -> Open) -> bool {
        let Some(id) = self.end.open() else { return false };
        Message::Open(open(id)).encode(&mut self.queued);
        true
    }

    /// What comes next. After an error the lane is broken.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, LaneError>> {
        let next = ready!(self.poll_frame(cx));
        if next.is_err() {
            self.broken = true;
            self.end.close();
        }
        Poll::Ready(next)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, LaneError>> {
        loop {
            if self.data_left > 0 {
                return Poll::Ready(Ok(Next::Data));
            }
            if let Some((kind, payload, filled)) = &mut self.message {
                while *filled < payload.len() {
                    let room = payload.get_mut(*filled..).unwrap_or_default();
                    *filled += ready!(poll_some(&mut self.stream, cx, room))?;
                }
                let message = Message::decode(*kind, payload)?;
                self.message = None;
                let event = self.end.receive(message)?;
                if matches!(event, AtGateway::Alive) {
                    self.pinged = None;
                }
                return Poll::Ready(Ok(Next::Message(event)));
            }
            while self.header_filled < HEADER_LEN {
                let room = self.header.get_mut(self.header_filled..).unwrap_or_default();
                self.header_filled += ready!(poll_some(&mut self.stream, cx, room))?;
            }
            self.header_filled = 0;
            let header = Header::decode(self.header)?;
            if header.kind == Kind::Data {
                self.end.data()?;
                self.data_left = header.length;
            } else {
                // At most MAX_MESSAGE bytes: the header was checked.
                self.message = Some((header.kind, vec![0; header.length], 0));
            }
        }
    }

    /// Reads bytes of the DATA frame at hand into `buf`; after [`Next::Data`].
    fn poll_data(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.initialize_unfilled_to(buf.remaining().min(self.data_left));
        let read = ready!(poll_some(&mut self.stream, cx, room))?;
        buf.advance(read);
        self.data_left -= read;
        Poll::Ready(Ok(()))
    }

    /// Writes what is queued.
    fn poll_queued(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.queued.get(self.queued_written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            self.wrote_queued(written)?;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote_queued(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.queued_written += written;
        if self.queued_written >= self.queued.len() {
            self.queued.clear();
            self.queued_written = 0;
        }
        Ok(())
    }

    fn poll_write_data(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if !self.end.may_send() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.owed == 0 {
            let header = Header::data(total);
            self.owed = header.length;
            self.queued.extend_from_slice(&header.encode());
        }
        loop {
            let queued = self.queued.get(self.queued_written..).unwrap_or_default().len();
            let written = {
                let front = self.queued.get(self.queued_written..).unwrap_or_default();
                let mut slices: [IoSlice<'_>; MAX_SLICES] = [IoSlice::new(&[]); MAX_SLICES];
                let count = gather(&mut slices, front, bufs, self.owed);
                let slices = slices.get(..count).unwrap_or_default();
                ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?
            };
            let of_queued = written.min(queued);
            if queued > 0 || written == 0 {
                self.wrote_queued(of_queued)?;
            }
            let of_data = written - of_queued;
            self.owed = self.owed.saturating_sub(of_data);
            if of_data > 0 {
                return Poll::Ready(Ok(of_data));
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_queued(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Queues the EOF if one is owed. False when it cannot be sent: a DATA frame is not complete.
    fn queue_eof(&mut self) -> bool {
        if self.end.owes_eof() {
            if self.owed > 0 {
                return false;
            }
            Message::Eof.encode(&mut self.queued);
            self.end.ended();
        }
        true
    }

    /// Ends the connection on the lane and makes it ready for another: sends EOF, and discards what still comes until
    /// the agent's. False when that is not possible, or more comes than is worth waiting for: then the lane is closed.
    pub async fn finish(&mut self) -> bool {
        if self.broken || !self.queue_eof() {
            return false;
        }
        let mut discarded = 0;
        let mut scratch = vec![0; SCRATCH];
        let ended = std::future::poll_fn(|cx| {
            loop {
                if self.poll_flush(cx)?.is_ready() && self.is_idle() {
                    return Poll::Ready(Ok::<_, LaneError>(true));
                }
                match ready!(self.poll_next(cx))? {
                    Next::Data if discarded > DISCARD => return Poll::Ready(Ok(false)),
                    Next::Data => {
                        let mut buf = ReadBuf::new(&mut scratch);
                        ready!(self.poll_data(cx, &mut buf))?;
                        discarded += buf.filled().len();
                    }
                    // It drains: never idle again.
                    Next::Message(AtGateway::Drains | AtGateway::Broken(_)) => return Poll::Ready(Ok(false)),
                    Next::Message(_) => {}
                }
            }
        })
        .await;
        if let Ok(true) = ended {
            return true;
        }
        if ended.is_ok() && self.owed == 0 {
            Message::Reset { code: ResetCode::Abandoned }.encode(&mut self.queued);
            if std::future::poll_fn(|cx| self.poll_flush(cx)).await.is_err() {
                tracing::debug!("the agent was not told that its connection was abandoned");
            }
        }
        self.broken = true;
        false
    }

    /// Looks after an idle lane: whether it may stay. Sends a PING when nothing was heard for a while.
    pub fn check(&mut self, now: Instant) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match self.poll_next(&mut cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Next::Message(AtGateway::Alive))) => self.heard = now,
                Poll::Ready(_) => return false,
            }
        }
        if let Some(pinged) = self.pinged {
            return now.saturating_duration_since(pinged) < PONG_WITHIN;
        }
        if now.saturating_duration_since(self.heard) >= PING_AFTER {
            Message::Ping { token: 0 }.encode(&mut self.queued);
            self.pinged = Some(now);
            return match self.poll_flush(&mut cx) {
                Poll::Ready(result) => result.is_ok(),
                // An idle lane whose socket takes no 16 bytes: nobody reads at the other end.
                Poll::Pending => false,
            };
        }
        true
    }

    /// Something was heard of the agent.
    pub fn touch(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }
}

/// Reads at least one byte into `room`, which is not empty.
fn poll_some<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    room: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(room);
    ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
    match buf.filled().len() {
        0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        read => Poll::Ready(Ok(read)),
    }
}

/// Lays what is queued and at most `limit` bytes of `bufs` side by side, for one write and so one TLS record.
fn gather<'a>(slices: &mut [IoSlice<'a>], front: &'a [u8], bufs: &'a [IoSlice<'a>], limit: usize) -> usize {
    let mut count = 0;
    let mut left = limit;
    let data = bufs.iter().map_while(|buf| {
        let part = buf.get(..buf.len().min(left)).unwrap_or_default();
        left -= part.len();
        (!part.is_empty() || buf.is_empty()).then_some(part)
    });
    let parts = std::iter::once(front).chain(data).filter(|part| !part.is_empty());
    for (slot, part) in slices.iter_mut().zip(parts) {
        *slot = IoSlice::new(part);
        count += 1;
    }
    count
}

/// A byte stream to a target over a lane. Dropped, it gives its lane back.
pub struct Pipe<S> {
    lane: Option<Lane<S>>,
    give_back: Option<Box<dyn FnOnce(Lane<S>)>>,
    on_refusal: Option<Box<dyn FnOnce()>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pipe<S> {
    /// A pipe over a lane on which a connection was begun; `give_back` gets the lane when the pipe is dropped.
    pub fn new(lane: Lane<S>, give_back: Box<dyn FnOnce(Lane<S>)>) -> Self {
        Self { lane: Some(lane), give_back: Some(give_back), on_refusal: None }
    }

    /// Calls `told` when the agent refuses to connect after the pipe was handed out.
    pub fn on_refusal(&mut self, told: Box<dyn FnOnce()>) {
        self.on_refusal = Some(told);
    }

    /// Waits for the agent's answer to the OPEN: for those whose bytes cannot be written twice.
    ///
    /// # Errors
    /// When the target was not connected, so that nothing can have reached it.
    pub async fn confirm(&mut self) -> Result<(), ConnectError> {
        let lane = self.lane.as_mut().ok_or(ConnectError::Unavailable("the pipe is over"))?;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = lane.poll_flush(cx) {
                lane.broken = true;
                return Poll::Ready(Err(ConnectError::Io(error)));
            }
            loop {
                match ready!(lane.poll_next(cx)) {
                    Ok(Next::Message(AtGateway::Opened)) => return Poll::Ready(Ok(())),
                    Ok(Next::Message(AtGateway::Refused { code, reason })) => {
                        return Poll::Ready(Err(refusal(code, &reason)));
                    }
                    Ok(Next::Message(AtGateway::Alive | AtGateway::Drains)) => {}
                    Ok(Next::Message(AtGateway::Broken(_) | AtGateway::Ended) | Next::Data) => {
                        return Poll::Ready(Err(ConnectError::Io(io::ErrorKind::ConnectionReset.into())));
                    }
                    Err(error) => return Poll::Ready(Err(ConnectError::Io(io::Error::other(error)))),
                }
            }
        })
        .await
    }

    fn lane(&mut self) -> io::Result<&mut Lane<S>> {
        self.lane.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// What the agent's refusal means to who wanted the connection.
fn refusal(code: RefusalCode, reason: &str) -> ConnectError {
    match code {
        RefusalCode::Deadline => ConnectError::TimedOut,
        RefusalCode::Busy => ConnectError::Unavailable("the link has too many connects under way"),
        RefusalCode::Deleting => ConnectError::Unavailable("the link is being deleted"),
        _ => {
            let reason = format!("the link refused: {reason}");
            ConnectError::Io(io::Error::new(io::ErrorKind::ConnectionRefused, reason))
        }
    }
}

impl<S> Drop for Pipe<S> {
    fn drop(&mut self) {
        if let (Some(lane), Some(give_back)) = (self.lane.take(), self.give_back.take()) {
            give_back(lane);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Pipe<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let lane = this.lane.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        loop {
            if lane.data_left > 0 {
                return lane.poll_data(cx, buf);
            }
            if lane.broken {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if !lane.end.may_receive() {
                return Poll::Ready(Ok(()));
            }
            match ready!(lane.poll_next(cx)) {
                Ok(Next::Data | Next::Message(AtGateway::Opened | AtGateway::Alive | AtGateway::Drains)) => {}
                Ok(Next::Message(AtGateway::Ended)) => return Poll::Ready(Ok(())),
                Ok(Next::Message(AtGateway::Refused { code, reason })) => {
                    if let Some(told) = this.on_refusal.take() {
                        told();
                    }
                    let error = NotDelivered(refusal(code, &reason));
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionRefused, error)));
                }
                Ok(Next::Message(AtGateway::Broken(_))) => {
                    lane.broken = true;
                }
                Err(LaneError::Io(error)) => return Poll::Ready(Err(error)),
                Err(LaneError::Peer(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Pipe<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let lane = self.get_mut().lane()?;
        let result = ready!(lane.poll_write_data(cx, bufs));
        if result.is_err() && lane.end.may_send() {
            lane.broken = true;
        }
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().lane()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let lane = self.get_mut().lane()?;
        if !lane.queue_eof() {
            lane.broken = true;
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        lane.poll_flush(cx)
    }
}

/// A gateway's lane as it is.
pub type TlsLane = Lane<TlsStream<TcpStream>>;
/// A gateway's pipe as it is.
pub type TlsPipe = Pipe<TlsStream<TcpStream>>;

impl TargetStream for TlsPipe {
    fn is_closed(&self) -> bool {
        let Some(lane) = &self.lane else { return true };
        let (socket, _) = lane.stream.get_ref();
        let mut byte = [std::mem::MaybeUninit::uninit()];
        // Whatever comes on a pipe that waits for a request is its end.
        let is_quiet = matches!(
            SockRef::from(socket).peek(&mut byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock
        );
        lane.broken || !lane.end.may_receive() || lane.data_left > 0 || !is_quiet
    }
}

/// hyper's head and a few chunks; more wait for the next write.
const MAX_SLICES: usize = 16;
/// Discarded of an abandoned response before the lane is: a few buffers' worth, cheaper than a new handshake.
const DISCARD: usize = 256 << 10;
/// Read at once when discarding.
const SCRATCH: usize = 16 << 10;
/// An idle lane is asked after this long.
const PING_AFTER: std::time::Duration = std::time::Duration::from_secs(5);
/// And closed when it does not answer.
const PONG_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

#[cfg(test)]
mod tests;
