//! The gateway's end: accepts agents, keeps their control connections, and hands lanes to the workers they name.
//!
//! Runs on a thread of its own. Of a lane it reads nothing but the ClientHello, whose name says which worker it is for;
//! the handshake and all after it are that worker's. What it says there proves nothing and is checked under TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustls::{ServerConfig, server::Acceptor};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_rustls::{
    LazyConfigAcceptor,
    server::{StartHandshake, TlsStream},
};

use super::{
    dial::{Purpose, purpose_of, tune},
    frame::{PeerMisbehaved, message::Message, message::VERSION},
    lanes::{Arrival, LaneEvent},
    message_io::{ReadError, read_message, write_message},
    pool::{AttachmentId, MAX_LANES},
};
use crate::{identity::tls, model::id::VpcLinkId};

/// Who may attach, as of the newest slice.
#[derive(Clone, Default)]
pub struct Admission {
    /// The gateway's side of TLS; without it nobody is let in.
    pub tls: Option<Arc<ServerConfig>>,
    /// Links that are not being deleted.
    pub links: BTreeSet<VpcLinkId>,
}

/// Accepts for ever; ends by being dropped. `rejected` counts connections that were closed unread, because too many
/// handshakes were under way.
pub async fn accept(
    listener: TcpListener,
    workers: Vec<mpsc::Sender<LaneEvent>>,
    admission: watch::Receiver<Admission>,
    rejected: Counter,
) {
    let door = Arc::new(Door {
        workers,
        admission,
        next: AtomicU64::new(1),
        handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        agents: Mutex::default(),
    });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match Arc::clone(&door.handshakes).try_acquire_owned() {
                Ok(permit) => {
                    tokio::spawn(Arc::clone(&door).greet(stream, permit));
                }
                Err(_) => {
                    rejected.inc();
                    tracing::debug!("too many handshakes under way; a connection was closed");
                }
            },
            Err(error) => {
                tracing::warn!(%error, "accepting agents failed; waiting before the next try");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

struct Door {
    workers: Vec<mpsc::Sender<LaneEvent>>,
    admission: watch::Receiver<Admission>,
    next: AtomicU64,
    handshakes: Arc<Semaphore>,
    /// Control connections by link.
    agents: Mutex<BTreeMap<VpcLinkId, usize>>,
}

/// Why a control connection ended.
#[derive(Debug, thiserror::Error)]
enum ControlEnd {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the agent did not answer")]
    Silent,
    #[error("the agent said goodbye")]
    Drained,
    #[error("the link was deleted")]
    Deleted,
    #[error("the agent is not of a link that may attach")]
    NotAdmitted,
    #[error("the agent speaks another version")]
    Version,
    #[error("the link has too many agents")]
    TooMany,
    #[error("the gateway stops")]
    Stopped,
}

impl From<PeerMisbehaved> for ControlEnd {
    fn from(error: PeerMisbehaved) -> Self {
        Self::Read(error.into())
    }
}

impl From<io::Error> for ControlEnd {
    fn from(error: io::Error) -> Self {
        Self::Read(error.into())
    }
}

impl Door {
    /// Reads a ClientHello and goes where it says.
    async fn greet(self: Arc<Self>, stream: TcpStream, permit: OwnedSemaphorePermit) {
        if let Err(error) = tune(&stream) {
            tracing::debug!(%error, "a socket could not be tuned");
        }
        let hello = timeout(HELLO, LazyConfigAcceptor::new(Acceptor::default(), stream)).await;
        let Ok(Ok(start)) = hello else { return };
        match start.client_hello().server_name().and_then(purpose_of) {
            Some(Purpose::Control) => self.control(start, permit).await,
            Some(Purpose::Lane(worker)) => self.hand_over(start, worker, permit),
            None => tracing::debug!("a connection names neither control nor a lane"),
        }
    }

    fn hand_over(&self, start: StartHandshake<TcpStream>, worker: u16, permit: OwnedSemaphorePermit) {
        let Some(worker) = self.workers.get(usize::from(worker)) else { return };
        let StartHandshake { accepted: hello, io, .. } = start;
        let Ok(socket) = io.into_std() else { return };
        let arrival = Arrival { hello, socket, permit };
        if worker.try_send(LaneEvent::Arrived(Box::new(arrival))).is_err() {
            tracing::debug!("a worker takes no more lanes");
        }
    }

    async fn control(self: Arc<Self>, start: StartHandshake<TcpStream>, permit: OwnedSemaphorePermit) {
        let admission = self.admission.borrow().clone();
        let Some(config) = admission.tls else { return };
        let Ok(Ok(stream)) = timeout(HELLO, start.into_stream(config)).await else { return };
        let Some(link) = tls::link_of(stream.get_ref().1.peer_certificates()) else { return };
        drop(permit);
        let end = match self.attend(stream, &link).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        tracing::debug!(%link, %end, "control connection ended");
    }

    /// Serves an agent's control connection to its end.
    async fn attend(
        &self,
        mut stream: TlsStream<TcpStream>,
        link: &VpcLinkId,
    ) -> Result<std::convert::Infallible, ControlEnd> {
        let hello = timeout(HELLO, read_message(&mut stream)).await.map_err(|_| ControlEnd::Silent)??;
        let Message::Hello { version, link: claimed, .. } = hello else {
            return Err(PeerMisbehaved::OutOfPlace.into());
        };
        if version != VERSION {
            return Err(ControlEnd::Version);
        }
        if claimed != link.as_str() || !self.admission.borrow().links.contains(link) {
            return Err(ControlEnd::NotAdmitted);
        }
        let _seat = Seat::take(&self.agents, link).ok_or(ControlEnd::TooMany)?;
        let workers = u16::try_from(self.workers.len()).unwrap_or(u16::MAX);
        let max_lanes = u32::try_from(self.workers.len() * MAX_LANES).unwrap_or(u32::MAX);
        write_message(&mut stream, &Message::Welcome { version: VERSION, workers, max_lanes }).await?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (demands, demanded) = mpsc::channel(DEMANDS);
        for worker in &self.workers {
            let event = LaneEvent::Attached { id, link: link.clone(), demands: demands.clone() };
            worker.send(event).await.map_err(|_| ControlEnd::Stopped)?;
        }
        drop(demands);
        tracing::info!(%link, "an agent attached");
        let mut heard = Instant::now();
        let end = self.exchange(stream, link, demanded, &mut heard).await;
        let since = match end {
            Err(ControlEnd::Drained | ControlEnd::Deleted) => None,
            _ => Some(heard.into_std()),
        };
        self.detach(id, since).await;
        end
    }

    async fn exchange(
        &self,
        stream: TlsStream<TcpStream>,
        link: &VpcLinkId,
        mut demanded: mpsc::Receiver<Message>,
        heard: &mut Instant,
    ) -> Result<std::convert::Infallible, ControlEnd> {
        let (mut read, mut write) = tokio::io::split(stream);
        let mut admission = self.admission.clone();
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Reading is not cancelled half-way through a message: it is one future for as long as it takes.
        let mut reading = Box::pin(read_one(&mut read));
        let mut token = 0;
        loop {
            tokio::select! {
                received = &mut reading => {
                    let (message, stream) = received?;
                    *heard = Instant::now();
                    match message {
                        Message::Pong { .. } => {}
                        Message::Drain => return Err(ControlEnd::Drained),
                        _ => return Err(PeerMisbehaved::OutOfPlace.into()),
                    }
                    reading = Box::pin(read_one(stream));
                }
                Some(demand) = demanded.recv() => {
                    timeout(SILENCE, write_message(&mut write, &demand)).await.map_err(|_| ControlEnd::Silent)??;
                }
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(ControlEnd::Silent);
                    }
                    token += 1;
                    let ping = Message::Ping { token };
                    timeout(SILENCE, write_message(&mut write, &ping)).await.map_err(|_| ControlEnd::Silent)??;
                }
                changed = admission.changed() => {
                    changed.map_err(|_| ControlEnd::Stopped)?;
                    if !admission.borrow_and_update().links.contains(link) {
                        return Err(ControlEnd::Deleted);
                    }
                }
            }
        }
    }

    async fn detach(&self, id: AttachmentId, since: Option<std::time::Instant>) {
        for worker in &self.workers {
            if worker.send(LaneEvent::Detached { id, since }).await.is_err() {
                return;
            }
        }
    }
}

async fn read_one<S: tokio::io::AsyncRead + Unpin>(stream: &mut S) -> Result<(Message, &mut S), ReadError> {
    let message = read_message(stream).await?;
    Ok((message, stream))
}

/// One of a link's places for agents.
struct Seat<'a> {
    agents: &'a Mutex<BTreeMap<VpcLinkId, usize>>,
    link: VpcLinkId,
}

impl<'a> Seat<'a> {
    fn take(agents: &'a Mutex<BTreeMap<VpcLinkId, usize>>, link: &VpcLinkId) -> Option<Self> {
        let mut taken = agents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let count = taken.entry(link.clone()).or_default();
        if *count >= MAX_AGENTS {
            return None;
        }
        *count += 1;
        Some(Self { agents, link: link.clone() })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut taken = self.agents.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.link) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.link);
            }
        }
    }
}

/// What an agent's first bytes, its handshake and its HELLO may take each.
const HELLO: Duration = Duration::from_secs(5);
/// Handshakes under way, control and lanes together: each costs a core a millisecond.
const MAX_HANDSHAKES: usize = 256;
/// Agents of one link: one per subnet and a replacement for each.
const MAX_AGENTS: usize = 32;
/// DEMANDs that wait to be written to one agent.
const DEMANDS: usize = 64;
/// Control connections are pinged every so often.
const PING: Duration = Duration::from_secs(1);
/// And lost when nothing came for this long.
const SILENCE: Duration = Duration::from_secs(3);
/// Out of file descriptors: others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
