//! One lane at the agent: opens targets for the gateway and carries bytes, one connection at a time.
//!
//! Before it: `dial` connected, `agent` was told to dial. Bodies pass through one buffer each way, each read from one
//! side and written to the other before more is read: a slow side slows its own lane and no other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{
    admit::{self, Refusal},
    counters::{CountedLane, Counters, LaneState},
    frame::{
        PeerMisbehaved,
        header::{HEADER_LEN, Header, MAX_DATA},
        lane::{AgentEnd, AtAgent},
        message::{Message, Open, RefusalCode, ResetCode},
    },
    message_io::{Incoming, ReadError, read_incoming, write_message},
};
use crate::snapshot::{envelope::Received, link::LinkSlice};

/// The agent's newest slice.
pub type Slices = watch::Receiver<Option<Arc<Received<LinkSlice>>>>;

/// What opening targets needs to know.
#[derive(Clone)]
pub struct Opener {
    /// What may be opened.
    pub slices: Slices,
    /// One permit per connect under way.
    pub connects: Arc<Semaphore>,
    /// What it did.
    pub counters: Arc<Counters>,
}

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
pub enum LaneEnd {
    /// The gateway wanted it closed.
    #[error("the gateway closed the lane")]
    Drained,
    /// One connection broke, and the lane with it.
    #[error("the connection on the lane broke")]
    Broken,
    /// The lane itself broke, or the gateway misbehaved.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<PeerMisbehaved> for LaneEnd {
    fn from(error: PeerMisbehaved) -> Self {
        Self::Read(error.into())
    }
}

impl From<io::Error> for LaneEnd {
    fn from(error: io::Error) -> Self {
        Self::Read(error.into())
    }
}

/// Serves a lane until it ends; the answer says why. `retire` asks an idle lane to end.
pub async fn carry<S>(stream: S, opener: &Opener, mut retire: watch::Receiver<bool>) -> LaneEnd
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (read, write) = tokio::io::split(stream);
    let mut lane = Lane { read, write, end: AgentEnd::default(), counted: opener.counters.lane() };
    loop {
        let incoming = tokio::select! {
            biased;
            incoming = read_incoming(&mut lane.read) => incoming,
            // Never in the middle of a connection: what runs may finish.
            () = is_true(&mut retire), if lane.end.is_idle() => {
                if let Err(error) = write_message(&mut lane.write, &Message::Drain).await {
                    tracing::debug!(%error, "the gateway was not told that a lane closes");
                }
                return LaneEnd::Drained;
            }
        };
        let served = match incoming {
            Ok(incoming) => lane.serve(incoming, opener).await,
            Err(error) => Err(error.into()),
        };
        if let Err(end) = served {
            return end;
        }
    }
}

/// Waits until it is, or until nobody can say any more, which is the same.
async fn is_true(flag: &mut watch::Receiver<bool>) {
    drop(flag.wait_for(|flag| *flag).await);
}

struct Lane<S> {
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    end: AgentEnd,
    counted: CountedLane,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Lane<S> {
    /// Serves the gateway's wish to its end.
    async fn serve(&mut self, incoming: Incoming, opener: &Opener) -> Result<(), LaneEnd> {
        match incoming {
            Incoming::Data(length) => {
                self.end.data()?;
                // Only after a refused OPEN: bytes that were on their way already.
                self.discard(length).await
            }
            Incoming::Message(message) => match self.end.receive(message)? {
                AtAgent::Open(open) => self.open(opener, open).await,
                AtAgent::Ping(token) => {
                    write_message(&mut self.write, &Message::Pong { token }).await?;
                    Ok(())
                }
                AtAgent::Ended => Ok(()),
                AtAgent::Broken(_) => Err(LaneEnd::Broken),
                AtAgent::Drain => Err(LaneEnd::Drained),
            },
        }
    }

    async fn discard(&mut self, length: usize) -> Result<(), LaneEnd> {
        let mut rest = (&mut self.read).take(length as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        Ok(())
    }

    async fn open(&mut self, opener: &Opener, open: Open) -> Result<(), LaneEnd> {
        opener.counters.asked();
        self.counted.turn(LaneState::Connecting);
        match opener.connect(&open).await {
            Ok(target) => {
                self.end.accepted();
                self.counted.turn(LaneState::InUse);
                write_message(&mut self.write, &Message::OpenOk { open_id: open.open_id }).await?;
                self.pipe(target, &opener.counters).await?;
                self.counted.turn(LaneState::Ready);
                Ok(())
            }
            Err(refusal) => {
                tracing::debug!(target = %open.target, reason = refusal.reason, "open refused");
                opener.counters.refused(refusal.code);
                self.end.refused();
                self.counted.turn(LaneState::Ready);
                let Refusal { code, reason } = refusal;
                let message = Message::OpenErr { open_id: open.open_id, code, reason };
                write_message(&mut self.write, &message).await?;
                Ok(())
            }
        }
    }

    /// Carries bytes both ways until both have ended.
    async fn pipe(&mut self, mut target: TcpStream, counters: &Counters) -> Result<(), LaneEnd> {
        let (mut from_target, mut to_target) = target.split();
        let carried = tokio::try_join!(
            up(&mut self.read, &mut to_target, &counters.to_targets),
            down(&mut from_target, &mut self.write, &counters.from_targets),
        );
        match carried {
            Ok(((), ())) => {
                // Each way ended once; in which order does not matter to what the lane is now.
                self.end.receive(Message::Eof)?;
                self.end.ended();
                Ok(())
            }
            Err(PipeError::Lane(end)) => Err(end),
            Err(PipeError::Target) => {
                counters.broke();
                // Not a clean end: the gateway must not take it for one.
                let reset = Message::Reset { code: ResetCode::Target };
                if let Err(error) = write_message(&mut self.write, &reset).await {
                    tracing::debug!(%error, "the gateway was not told that a target broke");
                }
                Err(LaneEnd::Broken)
            }
        }
    }
}

enum PipeError {
    Lane(LaneEnd),
    Target,
}

impl From<LaneEnd> for PipeError {
    fn from(end: LaneEnd) -> Self {
        Self::Lane(end)
    }
}

impl From<ReadError> for PipeError {
    fn from(error: ReadError) -> Self {
        Self::Lane(error.into())
    }
}

impl From<PeerMisbehaved> for PipeError {
    fn from(error: PeerMisbehaved) -> Self {
        Self::Lane(error.into())
    }
}

/// DATA from the lane to the target, until the gateway's EOF.
async fn up<R, W>(lane: &mut R, target: &mut W, bytes: &Counter) -> Result<(), PipeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = Vec::with_capacity(UP_BUFFER);
    loop {
        match read_incoming(lane).await? {
            Incoming::Data(length) => {
                let mut left = length;
                while left > 0 {
                    buffer.clear();
                    let limit = left.min(UP_BUFFER) as u64;
                    let read = (&mut *lane).take(limit).read_buf(&mut buffer).await.map_err(LaneEnd::from)?;
                    if read == 0 {
                        return Err(LaneEnd::from(io::Error::from(io::ErrorKind::UnexpectedEof)).into());
                    }
                    left -= read;
                    target.write_all(&buffer).await.map_err(|_| PipeError::Target)?;
                    bytes.inc_by(read as u64);
                }
            }
            Incoming::Message(Message::Eof) => {
                // The target may have closed already, and how it ended shows in what it sent.
                if let Err(error) = target.shutdown().await {
                    tracing::debug!(%error, "a target was gone before its connection ended");
                }
                return Ok(());
            }
            Incoming::Message(Message::Reset { .. }) => return Err(LaneEnd::Broken.into()),
            Incoming::Message(_) => return Err(PeerMisbehaved::OutOfPlace.into()),
        }
    }
}

/// Bytes from the target to the lane, until the target's end. Header and payload share a buffer and a write.
async fn down<R, W>(target: &mut R, lane: &mut W, bytes: &Counter) -> Result<(), PipeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = Vec::with_capacity(HEADER_LEN + MAX_DATA);
    loop {
        buffer.clear();
        buffer.extend_from_slice(&[0; HEADER_LEN]);
        let limit = MAX_DATA as u64;
        let read = (&mut *target).take(limit).read_buf(&mut buffer).await.map_err(|_| PipeError::Target)?;
        if read == 0 {
            write_message(lane, &Message::Eof).await.map_err(LaneEnd::from)?;
            return Ok(());
        }
        if let Some(header) = buffer.first_chunk_mut::<HEADER_LEN>() {
            *header = Header::data(read).encode();
        }
        lane.write_all(&buffer).await.map_err(LaneEnd::from)?;
        lane.flush().await.map_err(LaneEnd::from)?;
        bytes.inc_by(read as u64);
    }
}

impl Opener {
    async fn connect(&self, open: &Open) -> Result<TcpStream, Refusal> {
        let refuse = |code, reason: &str| Refusal { code, reason: reason.to_owned() };
        let Ok(_permit) = self.connects.try_acquire() else {
            return Err(refuse(RefusalCode::Busy, "too many connects under way"));
        };
        let deadline = Duration::from_millis(open.deadline_ms.into()).min(LONGEST_CONNECT);
        let connect = async {
            let address = self.find(open).await?;
            let target = TcpStream::connect(address)
                .await
                .map_err(|error| refuse(RefusalCode::Connect, &error.kind().to_string()))?;
            if let Err(error) = target.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY was refused");
            }
            Ok(target)
        };
        timeout(deadline, connect)
            .await
            .unwrap_or_else(|_| Err(refuse(RefusalCode::Deadline, "connecting took too long")))
    }

    /// Looks the target up. Slices reach gateways and links apart: when the gateway's is newer, an unknown id may be
    /// known in a moment.
    async fn find(&self, open: &Open) -> Result<SocketAddr, Refusal> {
        let mut slices = self.slices.clone();
        let look = |slices: &Slices| {
            let slice = slices.borrow();
            let Some(slice) = slice.as_ref() else { return Err(None) };
            let is_older = slice.generation < open.generation;
            match admit::admit(&slice.slice, open.target) {
                Err(refusal) if refusal.code == RefusalCode::Unknown && is_older => Err(Some(refusal)),
                decided => Ok(decided),
            }
        };
        let newer = async {
            loop {
                slices.mark_unchanged();
                if let Ok(decided) = look(&slices) {
                    return decided;
                }
                if slices.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match timeout(SLICE_WAIT, newer).await {
            Ok(decided) => decided,
            Err(_) => Err(look(&self.slices).err().flatten().unwrap_or_else(|| Refusal {
                code: RefusalCode::Unknown,
                reason: "the link does not know the target".to_owned(),
            })),
        }
    }
}

/// From lane to target: one TLS record at a time.
const UP_BUFFER: usize = 16_384;
/// A gateway's deadline may be longer; a target in the same VPC answers a SYN in milliseconds, or at its second try
/// after a second.
const LONGEST_CONNECT: Duration = Duration::from_secs(5);
/// Publishing one change to two roles takes them a few milliseconds apart.
const SLICE_WAIT: Duration = Duration::from_millis(250);
/// Connects under way at one agent: a target that answers nothing must not tie up more.
pub const MAX_CONNECTS: usize = 256;
