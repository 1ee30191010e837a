//! The link role: keeps every gateway of its slice supplied with the lanes it asks for, and comes back by itself.
//!
//! For each gateway one task holds the control connection and redials it; each lane it is asked for is a task of its
//! own, which outlives the control connection: what runs, runs on.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use super::{
    carry::{self, MAX_CONNECTS, Opener, Slices},
    counters::Counters,
    dial::{DialError, GatewayTls, Purpose, dial},
    frame::message::{Message, Nonce, VERSION},
    message_io::{ReadError, read_message, write_message},
};
use crate::model::id::VpcLinkId;
use crate::snapshot::{link::LinkSlice, report::Report};
use crate::telemetry::Metrics;

/// Runs the link role until `shutdown` resolves; running pipes then get [`GRACE`] to finish.
///
/// Must be called in the link's network namespace: targets and gateways are reached from where it runs.
pub async fn run(
    mut slices: Slices,
    reports: mpsc::Sender<Report>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let (retire, retired) = watch::channel(false);
    let mut agent = Agent {
        opener: Opener {
            slices: slices.clone(),
            connects: Arc::new(Semaphore::new(MAX_CONNECTS)),
            counters: Arc::new(Counters::new(metrics)),
        },
        id: random().unwrap_or_default(),
        dials: Arc::new(Semaphore::new(MAX_DIALS)),
        lanes: Arc::new(AtomicUsize::new(0)),
        changed: Arc::new(Notify::new()),
        retired,
        gateways: BTreeMap::new(),
    };
    tokio::pin!(shutdown);
    let mut reported = None;
    slices.mark_changed();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            changed = slices.changed() => {
                if changed.is_err() {
                    break;
                }
                let newest = slices.borrow_and_update().clone();
                if let Some(newest) = newest {
                    agent.follow(&newest.slice);
                    // Opening reads the very slice that was just seen.
                    let report = Report::Applied { generation: newest.generation };
                    if reports.send(report).await.is_err() {
                        break;
                    }
                }
            }
            () = agent.changed.notified() => {}
        }
        let Some(link) = slices.borrow().as_ref().map(|newest| newest.slice.link_id.clone()) else {
            continue;
        };
        let attached = agent.attached();
        if reported != Some(attached) {
            reported = Some(attached);
            let report = Report::LinkAttached { link, gateways: attached };
            if reports.send(report).await.is_err() {
                break;
            }
        }
    }
    retire.send_replace(true);
    agent.finish().await;
}

struct Agent {
    opener: Opener,
    id: [u8; 16],
    /// One permit per handshake under way.
    dials: Arc<Semaphore>,
    /// Lanes of all gateways.
    lanes: Arc<AtomicUsize>,
    /// A gateway got its first lane, or lost its last.
    changed: Arc<Notify>,
    retired: watch::Receiver<bool>,
    gateways: BTreeMap<String, Gateway>,
}

/// A gateway that the slice lists.
struct Gateway {
    reach: watch::Sender<Reach>,
    ready: Arc<AtomicUsize>,
    /// Ends when the sender goes.
    stop: watch::Sender<bool>,
}

/// How a gateway is reached.
#[derive(Clone)]
struct Reach {
    address: SocketAddr,
    tls: GatewayTls,
    link: VpcLinkId,
}

impl Agent {
    /// Starts, changes and stops what the slice says.
    fn follow(&mut self, slice: &LinkSlice) {
        let listed: BTreeSet<&String> =
            if slice.deleting { BTreeSet::new() } else { slice.gateways.keys().collect() };
        self.gateways.retain(|name, gateway| {
            let stays = listed.contains(name);
            if !stays {
                gateway.stop.send_replace(true);
            }
            stays
        });
        let Some(credentials) = &slice.credentials else { return };
        for name in listed {
            let Some(address) = slice.gateways.get(name).copied() else { continue };
            let tls = match GatewayTls::new(credentials, name) {
                Ok(tls) => tls,
                Err(error) => {
                    tracing::warn!(gateway = name.as_str(), %error, "the link's credentials are not usable");
                    continue;
                }
            };
            let reach = Reach { address, tls, link: slice.link_id.clone() };
            match self.gateways.get(name) {
                Some(gateway) => {
                    gateway.reach.send_replace(reach);
                }
                None => {
                    let gateway = self.start(name.clone(), reach);
                    self.gateways.insert(name.clone(), gateway);
                }
            }
        }
    }

    fn start(&self, name: String, reach: Reach) -> Gateway {
        let (reach, reaches) = watch::channel(reach);
        let (stop, stopped) = watch::channel(false);
        let ready = Arc::new(AtomicUsize::new(0));
        let session = Session {
            name,
            agent_id: self.id,
            reach: reaches,
            opener: self.opener.clone(),
            dials: Arc::clone(&self.dials),
            lanes: Arc::clone(&self.lanes),
            ready: Arc::clone(&ready),
            changed: Arc::clone(&self.changed),
            retired: self.retired.clone(),
        };
        tokio::spawn(session.run(stopped));
        Gateway { reach, ready, stop }
    }

    /// Gateways with at least one ready lane.
    fn attached(&self) -> u32 {
        let attached =
            self.gateways.values().filter(|gateway| gateway.ready.load(Ordering::Relaxed) > 0).count();
        u32::try_from(attached).unwrap_or(u32::MAX)
    }

    /// Lets running pipes finish.
    async fn finish(self) {
        for gateway in self.gateways.values() {
            gateway.stop.send_replace(true);
        }
        let done = async {
            while self.lanes.load(Ordering::Acquire) > 0 {
                self.changed.notified().await;
            }
        };
        let _ = timeout(GRACE, done).await;
    }
}

/// One gateway's control connection, and what its lanes need.
struct Session {
    name: String,
    agent_id: [u8; 16],
    reach: watch::Receiver<Reach>,
    opener: Opener,
    dials: Arc<Semaphore>,
    lanes: Arc<AtomicUsize>,
    ready: Arc<AtomicUsize>,
    changed: Arc<Notify>,
    retired: watch::Receiver<bool>,
}

/// Why a control connection ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the gateway was silent for {} s", SILENCE.as_secs())]
    Silent,
    #[error("the gateway speaks another version")]
    Version,
}

impl Session {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let session = Arc::new(self);
        let mut pause = FIRST_PAUSE;
        loop {
            let since = Instant::now();
            let ended = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                ended = Arc::clone(&session).attend() => ended,
            };
            // A connection that stood was no failure to back off from.
            if since.elapsed() >= STOOD {
                pause = FIRST_PAUSE;
            }
            tracing::debug!(gateway = session.name, end = %ended, "control connection ended");
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = sleep(jittered(pause)) => {}
            }
            session.opener.counters.redialled(&session.name);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Holds one control connection from its first byte to its last.
    async fn attend(self: Arc<Self>) -> SessionEnd {
        match self.attend_to_end().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn attend_to_end(self: &Arc<Self>) -> Result<std::convert::Infallible, SessionEnd> {
        let reach = self.reach.borrow().clone();
        let mut stream = dial(reach.address, &reach.tls, Purpose::Control).await?;
        let hello = Message::Hello { version: VERSION, agent: self.agent_id, link: reach.link.to_string() };
        write_message(&mut stream, &hello).await.map_err(ReadError::from)?;
        let Message::Welcome { version, workers, .. } = next(&mut stream).await? else {
            return Err(ReadError::from(super::frame::PeerMisbehaved::OutOfPlace).into());
        };
        if version != VERSION {
            return Err(SessionEnd::Version);
        }
        tracing::info!(gateway = self.name, workers, "attached to a gateway");
        let mut dialling = JoinSet::new();
        loop {
            while dialling.try_join_next().is_some() {}
            match next(&mut stream).await? {
                Message::Demand { worker, nonces } if worker < workers => {
                    for nonce in nonces {
                        if self.lanes.load(Ordering::Relaxed) + dialling.len() >= MAX_LANES {
                            self.opener.counters.refused_demand(&self.name);
                            tracing::warn!(
                                gateway = self.name,
                                "more lanes were asked for than an agent carries"
                            );
                            break;
                        }
                        // Dropped with the control connection: a ticket is good only as long as that stands.
                        let session = Arc::clone(self);
                        dialling.spawn(async move { session.lane(worker, nonce).await });
                    }
                }
                Message::Ping { token } => {
                    write_message(&mut stream, &Message::Pong { token }).await.map_err(ReadError::from)?;
                }
                Message::Drain => {}
                _ => return Err(ReadError::from(super::frame::PeerMisbehaved::OutOfPlace).into()),
            }
        }
    }

    /// Dials a lane; once it is ready, a task of its own serves it.
    async fn lane(self: Arc<Self>, worker: u16, nonce: Nonce) {
        let Ok(_permit) = self.dials.acquire().await else { return };
        let reach = self.reach.borrow().clone();
        let ready = async {
            let mut stream = dial(reach.address, &reach.tls, Purpose::Lane(worker)).await?;
            let hello = Message::LaneHello { worker, nonce };
            write_message(&mut stream, &hello).await.map_err(ReadError::from)?;
            match timeout(READY_TIMEOUT, read_message(&mut stream)).await {
                Ok(Ok(Message::LaneReady)) => Ok(stream),
                Ok(Ok(_)) => Err(ReadError::from(super::frame::PeerMisbehaved::OutOfPlace).into()),
                Ok(Err(error)) => Err(SessionEnd::from(error)),
                Err(_) => Err(SessionEnd::Silent),
            }
        };
        match ready.await {
            Ok(stream) => {
                let count = LaneCount::new(&self);
                tokio::spawn(serve_lane(stream, self.opener.clone(), self.retired.clone(), count));
            }
            Err(error) => tracing::debug!(gateway = self.name, worker, %error, "a lane could not be dialled"),
        }
    }
}

async fn serve_lane(
    stream: TlsStream<TcpStream>,
    opener: Opener,
    retired: watch::Receiver<bool>,
    count: LaneCount,
) {
    let end = carry::carry(stream, &opener, retired).await;
    tracing::debug!(%end, "lane ended");
    drop(count);
}

/// The next message, unless the gateway is silent for too long: it pings every second.
async fn next(stream: &mut TlsStream<TcpStream>) -> Result<Message, SessionEnd> {
    timeout(SILENCE, read_message(stream)).await.map_err(|_| SessionEnd::Silent)?.map_err(SessionEnd::from)
}

/// Counts a ready lane for as long as it lives.
struct LaneCount {
    ready: Arc<AtomicUsize>,
    lanes: Arc<AtomicUsize>,
    changed: Arc<Notify>,
}

impl LaneCount {
    fn new(session: &Session) -> Self {
        let count = Self {
            ready: Arc::clone(&session.ready),
            lanes: Arc::clone(&session.lanes),
            changed: Arc::clone(&session.changed),
        };
        count.lanes.fetch_add(1, Ordering::AcqRel);
        if count.ready.fetch_add(1, Ordering::AcqRel) == 0 {
            count.changed.notify_one();
        }
        count
    }
}

impl Drop for LaneCount {
    fn drop(&mut self) {
        let was_last = self.lanes.fetch_sub(1, Ordering::AcqRel) == 1;
        if self.ready.fetch_sub(1, Ordering::AcqRel) == 1 || was_last {
            self.changed.notify_one();
        }
    }
}

/// Between half and all of `pause`: agents that lost the same gateway do not come back in step.
fn jittered(pause: Duration) -> Duration {
    let [byte] = random().unwrap_or([u8::MAX]);
    pause / 2 + pause / 2 * u32::from(byte) / u32::from(u8::MAX)
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Lanes of one agent over all gateways: each costs a TLS session and, while open, a connection and 80 KiB.
const MAX_LANES: usize = 4_096;
/// Handshakes under way: on a small machine more only make each other late.
const MAX_DIALS: usize = 32;
/// The first retry comes at once, as after a gateway's restart; then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A gateway that is away for long is asked every so often.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A control connection that stood this long counts as a success.
const STOOD: Duration = Duration::from_secs(1);
/// Gateways ping every second.
const SILENCE: Duration = Duration::from_secs(5);
/// For the gateway's answer to LANE_HELLO.
const READY_TIMEOUT: Duration = Duration::from_secs(5);
/// For running pipes when the role is told to stop.
pub const GRACE: Duration = Duration::from_secs(10);
