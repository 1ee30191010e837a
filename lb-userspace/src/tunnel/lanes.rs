//! A worker's lanes in use: opening, waiting, watching, giving back.
//!
//! Before it: `accept` hands over control connections and lanes. After it: pipes, for the forwarder. Everything here
//! belongs to one worker's thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustls::{ServerConfig, server::Accepted};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::spawn_local,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_rustls::server::{StartHandshake, TlsStream};

use super::{
    frame::message::{Message, Nonce, Open},
    message_io::{read_message, write_message},
    pipe::{Lane, Pipe, TlsLane, TlsPipe},
    pool::{AttachmentId, Demand, Limits, Pool},
};
use crate::{http::connect::ConnectError, identity::tls, model::id::VpcLinkId, snapshot::link::LaneTarget};

/// What the accept thread tells a worker.
pub enum LaneEvent {
    /// An agent's control connection stands.
    Attached {
        /// Its number.
        id: AttachmentId,
        /// Its link.
        link: VpcLinkId,
        /// Where its DEMANDs are written.
        demands: mpsc::Sender<Message>,
    },
    /// It is gone.
    Detached {
        /// Its number.
        id: AttachmentId,
        /// When it was last known to live; `None` when it said goodbye, so that its lanes are not used any more.
        since: Option<Instant>,
    },
    /// A connection that says it is a lane of this worker; its ClientHello was read and nothing more.
    Arrived(Box<Arrival>),
}

/// A lane before its handshake.
pub struct Arrival {
    /// The ClientHello.
    pub hello: Accepted,
    /// The socket, of no runtime.
    pub socket: std::net::TcpStream,
    /// Held until the handshake is over.
    pub permit: OwnedSemaphorePermit,
}

/// A worker's lanes.
pub struct Lanes {
    worker: u16,
    limits: Limits,
    links: RefCell<BTreeMap<VpcLinkId, LinkLanes>>,
    attachments: RefCell<BTreeMap<AttachmentId, Attached>>,
    tls: RefCell<Option<Arc<ServerConfig>>>,
    generation: Cell<u64>,
    used: mpsc::UnboundedSender<Used>,
    counts: Cell<LaneCounts>,
}

/// What happened on a worker's lanes since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneCounts {
    /// Connections begun on lanes.
    pub opens: u64,
    /// Connections that found no ready lane and waited.
    pub waited: u64,
    /// Connections that waited in vain.
    pub exhausted: u64,
    /// Lanes made ready.
    pub made: u64,
    /// Lanes used again after a connection.
    pub reused: u64,
    /// Lanes that broke, or were closed for what their agent did.
    pub broken: u64,
    /// Arrivals without a good ticket or certificate.
    pub refused: u64,
}

struct Attached {
    link: VpcLinkId,
    demands: mpsc::Sender<Message>,
}

struct LinkLanes {
    pool: Pool<TlsLane>,
    waiting: VecDeque<oneshot::Sender<Taken>>,
}

/// A lane after use.
struct Used {
    link: VpcLinkId,
    attachment: AttachmentId,
    lane: TlsLane,
}

/// A lane taken from its pool, which knows of it until it comes back.
struct Taken {
    home: Weak<Lanes>,
    link: VpcLinkId,
    attachment: AttachmentId,
    lane: Option<TlsLane>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let (Some(lanes), Some(lane)) = (self.home.upgrade(), self.lane.take()) {
            lanes.give_back(Used { link: self.link.clone(), attachment: self.attachment, lane });
        }
    }
}

impl Lanes {
    /// A worker's lanes, and the queue of used ones that [`Lanes::run`] works off.
    pub fn new(worker: u16, limits: Limits) -> (Rc<Self>, UsedLanes) {
        let (used, receiver) = mpsc::unbounded_channel();
        let lanes = Rc::new(Self {
            worker,
            limits,
            links: RefCell::default(),
            attachments: RefCell::default(),
            tls: RefCell::default(),
            generation: Cell::new(0),
            used,
            counts: Cell::default(),
        });
        (lanes, UsedLanes(receiver))
    }

    /// Follows a slice: the TLS of new lanes, the generation that OPENs name, and which links may be used.
    pub fn follow(
        &self,
        tls: Option<Arc<ServerConfig>>,
        generation: u64,
        is_usable: impl Fn(&VpcLinkId) -> bool,
    ) {
        self.tls.replace(tls);
        self.generation.set(generation);
        let mut links = self.links.borrow_mut();
        for (link, lanes) in links.iter_mut().filter(|(link, _)| !is_usable(link)) {
            tracing::debug!(%link, "the link is gone; its lanes are closed");
            lanes.pool.clear();
            lanes.waiting.clear();
        }
    }

    /// What happened since the start.
    pub fn counts(&self) -> LaneCounts {
        self.counts.get()
    }

    /// Whether all lanes that a link may have are in use.
    pub fn is_full(&self, link: &VpcLinkId) -> bool {
        self.links.borrow().get(link).is_some_and(|lanes| lanes.pool.is_full())
    }

    /// Lanes in use and ready, over all links.
    pub fn sizes(&self) -> (usize, usize) {
        let links = self.links.borrow();
        links
            .values()
            .map(|lanes| lanes.pool.counts())
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Opens a pipe to a target over a link. With `confirm`, returns only when the target is connected; otherwise the
    /// OPEN travels with the first bytes.
    ///
    /// # Errors
    /// When no lane is to be had, or the target is not connected: no byte has reached it.
    pub async fn open(
        self: &Rc<Self>,
        link: &VpcLinkId,
        target: LaneTarget,
        confirm: bool,
    ) -> Result<TlsPipe, ConnectError> {
        let mut taken = match self.take(link) {
            Some(taken) => taken,
            None => self.wait(link).await?,
        };
        self.ask_for_lanes(link);
        let generation = self.generation.get();
        let deadline_ms = CONNECT_DEADLINE_MS;
        let begun = taken.lane.as_mut().is_some_and(|lane| {
            lane.begin(|open_id| Open { open_id, target, deadline_ms, flags: 0, generation })
        });
        let lane = taken.lane.take().filter(|_| begun);
        let lane = lane.ok_or(ConnectError::Unavailable("the lane was not idle"))?;
        self.count(|counts| counts.opens += 1);
        let (home, link, attachment) = (Rc::downgrade(self), taken.link.clone(), taken.attachment);
        let mut pipe: TlsPipe = Pipe::new(
            lane,
            Box::new(move |lane| {
                if let Some(lanes) = home.upgrade() {
                    lanes.give_back(Used { link, attachment, lane });
                }
            }),
        );
        if confirm {
            pipe.confirm().await?;
        }
        Ok(pipe)
    }

    /// A ready lane that still lives.
    fn take(self: &Rc<Self>, link: &VpcLinkId) -> Option<Taken> {
        let now = Instant::now();
        let mut links = self.links.borrow_mut();
        let lanes = links.get_mut(link)?;
        loop {
            let (attachment, mut lane) = lanes.pool.take(now)?;
            if lane.check(now) {
                let home = Rc::downgrade(self);
                return Some(Taken { home, link: link.clone(), attachment, lane: Some(lane) });
            }
            lanes.pool.drop_lane(attachment);
            self.count(|counts| counts.broken += 1);
        }
    }

    /// Waits for a lane: [`QUEUE`] when none can be added, and for as long as dialling may take when some are on their
    /// way.
    async fn wait(self: &Rc<Self>, link: &VpcLinkId) -> Result<Taken, ConnectError> {
        let (sender, mut receiver) = oneshot::channel();
        let patience = {
            let mut links = self.links.borrow_mut();
            let lanes = links.get_mut(link);
            let lanes = lanes.filter(|lanes| lanes.pool.is_attached(Instant::now()));
            let lanes = lanes.ok_or(ConnectError::Unavailable("no agent of the link is attached"))?;
            if lanes.waiting.len() >= MAX_WAITING {
                lanes.waiting.retain(|waiting| !waiting.is_closed());
            }
            if lanes.waiting.len() >= MAX_WAITING {
                self.count(|counts| counts.exhausted += 1);
                return Err(ConnectError::Unavailable("too many connections wait for a lane"));
            }
            lanes.waiting.push_back(sender);
            if lanes.pool.may_grow(Instant::now()) { DIAL_WAIT } else { QUEUE }
        };
        self.count(|counts| counts.waited += 1);
        self.ask_for_lanes(link);
        let taken = match timeout(patience, &mut receiver).await {
            Ok(taken) => taken.ok(),
            Err(_) => {
                receiver.close();
                // It may have come in the same moment.
                receiver.try_recv().ok()
            }
        };
        taken.ok_or_else(|| {
            self.count(|counts| counts.exhausted += 1);
            ConnectError::Unavailable("no lane of the link was free in time")
        })
    }

    /// Takes a lane back after use. Without a connection on it, it is ready at once.
    fn give_back(self: &Rc<Self>, used: Used) {
        if used.lane.is_idle() {
            self.put(used);
        } else if self.used.send(used).is_err() {
            tracing::debug!("a lane came back after its worker had stopped");
        }
    }

    fn put(self: &Rc<Self>, mut used: Used) {
        let now = Instant::now();
        used.lane.touch(now);
        if let Some(lanes) = self.links.borrow_mut().get_mut(&used.link) {
            drop(lanes.pool.put(used.attachment, used.lane, now));
        }
        self.serve_waiting(&used.link);
    }

    fn drop_lane(self: &Rc<Self>, link: &VpcLinkId, attachment: AttachmentId) {
        if let Some(lanes) = self.links.borrow_mut().get_mut(link) {
            lanes.pool.drop_lane(attachment);
        }
        self.count(|counts| counts.broken += 1);
        self.ask_for_lanes(link);
    }

    fn serve_waiting(self: &Rc<Self>, link: &VpcLinkId) {
        loop {
            let waiting = {
                let mut links = self.links.borrow_mut();
                let Some(lanes) = links.get_mut(link) else { return };
                lanes.waiting.retain(|waiting| !waiting.is_closed());
                if lanes.waiting.is_empty() || lanes.pool.counts().1 == 0 {
                    return;
                }
                lanes.waiting.pop_front()
            };
            let (Some(waiting), Some(taken)) = (waiting, self.take(link)) else { return };
            // One that left in this moment: dropping gives the lane back, to the next.
            drop(waiting.send(taken));
        }
    }

    /// Asks agents for what the watermarks say is missing.
    fn ask_for_lanes(self: &Rc<Self>, link: &VpcLinkId) {
        let now = Instant::now();
        while let Some(demand) = self.demand(link, now) {
            let Demand { attachment, nonces } = demand;
            let attachments = self.attachments.borrow();
            let Some(attached) = attachments.get(&attachment) else { return };
            let message = Message::Demand { worker: self.worker, nonces };
            if attached.demands.try_send(message).is_err() {
                // Its tickets run out, and then others are asked.
                tracing::debug!(%link, "an agent's control connection takes no more demands");
                return;
            }
        }
    }

    fn demand(&self, link: &VpcLinkId, now: Instant) -> Option<Demand> {
        let mut links = self.links.borrow_mut();
        let lanes = links.get_mut(link)?;
        let waiting = lanes.waiting.iter().filter(|waiting| !waiting.is_closed()).count();
        lanes.pool.demand(waiting, now, draw)
    }

    fn count(&self, change: impl FnOnce(&mut LaneCounts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }

    /// Works until the accept thread is gone.
    pub async fn run(self: Rc<Self>, mut events: mpsc::Receiver<LaneEvent>, mut used: UsedLanes) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => return,
                },
                Some(used) = used.0.recv() => {
                    spawn_local(Rc::clone(&self).finish(used));
                }
                _ = sweep.tick() => self.sweep(),
            }
        }
    }

    fn on_event(self: &Rc<Self>, event: LaneEvent) {
        match event {
            LaneEvent::Attached { id, link, demands } => {
                let limits = self.limits;
                self.attachments.borrow_mut().insert(id, Attached { link: link.clone(), demands });
                self.links
                    .borrow_mut()
                    .entry(link.clone())
                    .or_insert_with(|| LinkLanes { pool: Pool::new(limits), waiting: VecDeque::new() })
                    .pool
                    .attach(id);
                self.ask_for_lanes(&link);
            }
            LaneEvent::Detached { id, since } => {
                let Some(attached) = self.attachments.borrow_mut().remove(&id) else { return };
                if let Some(lanes) = self.links.borrow_mut().get_mut(&attached.link) {
                    let long_ago = Instant::now().checked_sub(super::pool::USE_LOST_FOR);
                    let now = Instant::now();
                    lanes.pool.lose(id, since.or(long_ago).unwrap_or(now));
                }
                self.ask_for_lanes(&attached.link);
            }
            LaneEvent::Arrived(arrival) => {
                spawn_local(Rc::clone(self).welcome(*arrival));
            }
        }
    }

    /// Shakes hands with a lane and checks its ticket.
    async fn welcome(self: Rc<Self>, arrival: Arrival) {
        let Some(tls) = self.tls.borrow().clone() else { return };
        let Arrival { hello, socket, permit } = arrival;
        let lane = async {
            let socket = TcpStream::from_std(socket).ok()?;
            let mut stream = StartHandshake::from_parts(hello, socket).into_stream(tls).await.ok()?;
            let link = tls::link_of(stream.get_ref().1.peer_certificates())?;
            let Message::LaneHello { worker, nonce } = read_message(&mut stream).await.ok()? else {
                return None;
            };
            let attachment = self.redeem(&link, worker, &nonce)?;
            write_message(&mut stream, &Message::LaneReady).await.ok()?;
            Some((link, attachment, stream))
        };
        match timeout(WELCOME, lane).await.ok().flatten() {
            Some((link, attachment, stream)) => self.add(&link, attachment, stream),
            None => self.count(|counts| counts.refused += 1),
        }
        drop(permit);
    }

    fn redeem(&self, link: &VpcLinkId, worker: u16, nonce: &Nonce) -> Option<AttachmentId> {
        if worker != self.worker {
            return None;
        }
        // The ticket must be one that this very link was given.
        self.links.borrow_mut().get_mut(link)?.pool.redeem(nonce, Instant::now())
    }

    fn add(self: &Rc<Self>, link: &VpcLinkId, attachment: AttachmentId, stream: TlsStream<TcpStream>) {
        let now = Instant::now();
        let lane = Lane::new(stream, now);
        if let Some(lanes) = self.links.borrow_mut().get_mut(link) {
            drop(lanes.pool.add(attachment, lane, now));
        }
        self.count(|counts| counts.made += 1);
        self.serve_waiting(link);
        self.ask_for_lanes(link);
    }

    /// Ends the connection on a used lane, and keeps the lane if that can be done cleanly and soon.
    async fn finish(self: Rc<Self>, used: Used) {
        let Used { link, attachment, mut lane } = used;
        if timeout(FINISH, lane.finish()).await.unwrap_or(false) {
            self.count(|counts| counts.reused += 1);
            self.put(Used { link, attachment, lane });
        } else {
            drop(lane);
            self.drop_lane(&link, attachment);
        }
    }

    fn sweep(self: &Rc<Self>) {
        let now = Instant::now();
        let links: Vec<VpcLinkId> = self.links.borrow().keys().cloned().collect();
        for link in links {
            let mut broken = 0;
            if let Some(lanes) = self.links.borrow_mut().get_mut(&link) {
                broken = lanes.pool.inspect(|lane| lane.check(now)).len();
                drop(lanes.pool.sweep(now));
            }
            self.count(|counts| counts.broken += broken as u64);
            self.serve_waiting(&link);
            self.ask_for_lanes(&link);
        }
    }
}

/// Lanes that came back with a connection still on them.
pub struct UsedLanes(mpsc::UnboundedReceiver<Used>);

fn draw() -> Option<Nonce> {
    let mut nonce = Nonce::default();
    SystemRandom::new().fill(&mut nonce).ok()?;
    Some(nonce)
}

/// How long a connection waits for a lane when none can be added.
const QUEUE: Duration = Duration::from_millis(50);
/// How long it waits when lanes are being dialled: a handshake takes milliseconds, a burst of them queues.
const DIAL_WAIT: Duration = Duration::from_secs(1);
/// Connections of one link that wait for a lane; as many as lanes.
const MAX_WAITING: usize = 512;
/// For the agent to connect to a target.
const CONNECT_DEADLINE_MS: u32 = 5_000;
/// Handshake, LANE_HELLO and answer together.
const WELCOME: Duration = Duration::from_secs(5);
/// For the other end of a connection to end too; then the lane is closed.
const FINISH: Duration = Duration::from_secs(1);
/// Idle lanes are looked after every so often.
const SWEEP: Duration = Duration::from_secs(1);
