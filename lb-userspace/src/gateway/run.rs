//! Starting and stopping: workers, the door for link agents, and how slices reach both.
//!
//! The sockets come in bound: the role has no privileges by then. A slice is applied when every worker serves it, so that
//! control may believe a deregistered instance to be out of reach.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, spawn_local},
    time::{Instant, interval},
};

use super::{choice::Choice, compile::Routing, connector::LaneConnector, handler::ApiHandler};
use crate::{
    http::{
        self,
        connection::ClientConnection,
        forward::Forwarder,
        guard::Limits,
        listen,
        serve::{ServeSettings, serve},
        worker::{Worker, Workers},
    },
    identity::tls::{self, TlsError},
    snapshot::{envelope::Received, gateway::GatewaySlice, report::Report},
    telemetry::{Metrics, name},
    tunnel::{
        accept::{self, Admission},
        lanes::{LaneCounts, LaneEvent, Lanes},
        pool,
    },
};

/// What the gateway is given.
pub struct GatewayConfig {
    /// Bound sockets for clients; best one per worker and address, with SO_REUSEPORT. Workers without one of their own
    /// share.
    pub public: Vec<TcpListener>,
    /// Bound socket for link agents.
    pub lanes: TcpListener,
    /// How many workers; zero means one per processor.
    pub workers: usize,
}

/// Why the gateway did not start, or a slice was not applied.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// No sockets, or no threads.
    #[error("starting the gateway")]
    Start(#[from] io::Error),
    /// The slice's certificates are not usable; the ones before serve on.
    #[error("the gateway's certificates")]
    Tls(#[from] TlsError),
    /// A worker has ended.
    #[error("a worker has ended")]
    Worker,
}

/// What workers serve: one slice, compiled.
#[derive(Default)]
pub struct View {
    /// Hosts, stages, routes.
    pub routing: Routing,
    generation: u64,
    front_door: Option<Arc<ServerConfig>>,
    source: Option<Arc<Received<GatewaySlice>>>,
    admission: Admission,
}

/// A running gateway.
pub struct Gateway {
    workers: Workers,
    commands: Vec<mpsc::Sender<Command>>,
    door: JoinHandle<()>,
    admission: watch::Sender<Admission>,
    metrics: Arc<Metrics>,
    view: Arc<View>,
}

enum Command {
    Apply(Arc<View>, oneshot::Sender<()>),
    Drain(Duration),
}

/// What one worker takes with it to its thread.
struct Seat {
    public: Vec<TcpListener>,
    commands: mpsc::Receiver<Command>,
    lanes: mpsc::Receiver<LaneEvent>,
}

/// Runs the gateway role until `shutdown` resolves: applies each slice, reports it, and gives requests in hand
/// [`GRACE`] to end.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    config: GatewayConfig,
    mut slices: watch::Receiver<Option<Arc<Received<GatewaySlice>>>>,
    reports: mpsc::Sender<Report>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let mut gateway = Gateway::start(config, metrics)?;
    tokio::pin!(shutdown);
    slices.mark_changed();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            changed = slices.changed() => if changed.is_err() { break },
        }
        let Some(slice) = slices.borrow_and_update().clone() else { continue };
        let generation = slice.generation;
        let report = match gateway.apply(slice).await {
            Ok(()) => Report::Applied { generation },
            Err(error) => {
                tracing::warn!(generation, error = &error as &dyn std::error::Error, "slice was not applied");
                Report::Refused { generation, reason: error.to_string() }
            }
        };
        if reports.send(report).await.is_err() {
            break;
        }
    }
    gateway.stop(GRACE).await;
    Ok(())
}

impl Gateway {
    /// Starts workers in the network namespace of the calling thread. They answer nothing before the first
    /// [`Self::apply`]. Needs a runtime, on which agents are accepted.
    ///
    /// # Errors
    /// When a socket or a thread cannot be had.
    pub fn start(config: GatewayConfig, metrics: Arc<Metrics>) -> Result<Self, GatewayError> {
        let count = match config.workers {
            0 => std::thread::available_parallelism()?.get(),
            count => count,
        };
        let mut shares: Vec<Vec<TcpListener>> = (0..count).map(|_| Vec::new()).collect();
        for (index, listener) in config.public.iter().enumerate() {
            listener.set_nonblocking(true)?;
            if let Some(share) = shares.get_mut(index % count) {
                share.push(listener.try_clone()?);
            }
        }
        for share in shares.iter_mut().filter(|share| share.is_empty()) {
            for listener in &config.public {
                share.push(listener.try_clone()?);
            }
        }
        let (mut seats, mut commands, mut lanes) = (Vec::new(), Vec::new(), Vec::new());
        for public in shares {
            let (command, own_commands) = mpsc::channel(COMMANDS);
            let (lane, own_lanes) = mpsc::channel(LANE_EVENTS);
            commands.push(command);
            lanes.push(lane);
            seats.push(Some(Seat { public, commands: own_commands, lanes: own_lanes }));
        }
        config.lanes.set_nonblocking(true)?;
        let lane_listener = tokio::net::TcpListener::from_std(config.lanes)?;
        let seats = Arc::new(Mutex::new(seats));
        let counted = Arc::clone(&metrics);
        let workers = Workers::start(count, "gateway", move |worker| {
            let mut seats = seats.lock().unwrap_or_else(PoisonError::into_inner);
            let seat = seats.get_mut(worker.index).and_then(Option::take);
            let metrics = Arc::clone(&counted);
            async move {
                if let Some(seat) = seat {
                    serve_seat(worker, seat, metrics).await;
                }
            }
        })?;
        let rejected = metrics.counter(name::LINK_HANDSHAKES_REJECTED, &Vec::new());
        let (admission, admitted) = watch::channel(Admission::default());
        let door = tokio::spawn(accept::accept(lane_listener, lanes, admitted, rejected));
        Ok(Self { workers, commands, door, admission, metrics, view: Arc::default() })
    }

    /// Serves `slice` from now on: ready when all workers do.
    ///
    /// # Errors
    /// When its certificates are not usable; the rest of it is served then.
    pub async fn apply(&mut self, slice: Arc<Received<GatewaySlice>>) -> Result<(), GatewayError> {
        let mut faults = Vec::new();
        let routing = Routing::compile(&slice.slice, &self.view.routing, &self.metrics, &mut faults);
        for fault in faults {
            tracing::warn!(fault, "left out of the gateway's routes");
        }
        let certified = self.certify(&slice.slice);
        let (front_door, lane_tls) = match &certified {
            Ok(configs) => configs.clone(),
            Err(_) => (self.view.front_door.clone(), self.view.admission.tls.clone()),
        };
        let links = slice.slice.links.iter().filter(|(_, link)| !link.deleting).map(|(id, _)| id.clone());
        let admission = Admission { tls: lane_tls, links: links.collect() };
        let view = Arc::new(View {
            routing,
            generation: slice.generation,
            front_door,
            source: Some(slice),
            admission: admission.clone(),
        });
        let mut pending = Vec::new();
        for commands in &self.commands {
            let (applied, answer) = oneshot::channel();
            let command = Command::Apply(Arc::clone(&view), applied);
            commands.send(command).await.map_err(|_| GatewayError::Worker)?;
            pending.push(answer);
        }
        for answer in pending {
            answer.await.map_err(|_| GatewayError::Worker)?;
        }
        // Agents are let in when the workers know their link.
        self.admission.send_replace(admission);
        self.view = view;
        certified.map(|_| ()).map_err(GatewayError::from)
    }

    /// TLS of a slice, as it is when its certificates did not change.
    #[expect(clippy::type_complexity, reason = "a pair of the same, used once")]
    fn certify(
        &self,
        slice: &GatewaySlice,
    ) -> Result<(Option<Arc<ServerConfig>>, Option<Arc<ServerConfig>>), TlsError> {
        let before = self.view.source.as_ref().and_then(|source| source.slice.credentials.as_ref());
        let Some(credentials) = &slice.credentials else { return Ok((None, None)) };
        if before == Some(credentials) && self.view.front_door.is_some() {
            return Ok((self.view.front_door.clone(), self.view.admission.tls.clone()));
        }
        let front_door = tls::front_door(&credentials.front_door)?;
        let lanes = tls::lane_server(&credentials.identity, &credentials.identity_root_pem)?;
        Ok((Some(front_door), Some(lanes)))
    }

    /// Accepts nothing more, lets requests in hand end for up to `grace`, and ends the workers.
    pub async fn stop(self, grace: Duration) {
        for commands in &self.commands {
            if commands.send(Command::Drain(grace)).await.is_err() {
                tracing::error!("a worker had ended before it was stopped");
            }
        }
        for commands in &self.commands {
            commands.closed().await;
        }
        self.door.abort();
        self.workers.stop().await;
    }
}

/// One worker, from its start to its end.
async fn serve_seat(worker: Worker, seat: Seat, metrics: Arc<Metrics>) {
    let Seat { public, mut commands, lanes: events } = seat;
    let index = u16::try_from(worker.index).unwrap_or(u16::MAX);
    let (lanes, used) = Lanes::new(index, pool::Limits::default());
    spawn_local(Rc::clone(&lanes).run(events, used));
    let choice = Rc::new(Choice::default());
    let forwarder = Forwarder::new(LaneConnector::new(Rc::clone(&lanes), Rc::clone(&choice)));
    forwarder.connector().relieve(&forwarder);
    let tended = Rc::clone(&forwarder);
    spawn_local(async move { tended.tend().await });
    let none = Vec::new();
    let handler =
        ApiHandler::new(Arc::default(), forwarder, choice, metrics.counter(name::REFUSED_REQUESTS, &none));
    let clients = Rc::new(Clients {
        handler: Rc::clone(&handler),
        open: RefCell::default(),
        next: Cell::new(0),
        rejected: metrics.counter(name::API_REJECTED_CONNECTIONS, &none),
    });
    let mut accepting = Vec::new();
    for listener in public {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let clients = Rc::clone(&clients);
                accepting.push(spawn_local(async move {
                    listen::accept(&listener, |stream, peer| clients.accepted(stream, peer)).await;
                }));
            }
            Err(error) => tracing::error!(%error, "a public socket cannot be served"),
        }
    }
    let mut told = LaneCounts::default();
    let mut tell = interval(TELL);
    loop {
        tokio::select! {
            () = worker.stopped() => break,
            command = commands.recv() => match command {
                Some(Command::Apply(view, applied)) => {
                    let links = &view.admission.links;
                    lanes.follow(view.admission.tls.clone(), view.generation, |link| links.contains(link));
                    handler.follow(view);
                    // Who asked may have gone.
                    let _ = applied.send(());
                }
                Some(Command::Drain(grace)) => {
                    for accepting in accepting.drain(..) {
                        accepting.abort();
                    }
                    clients.drain(grace).await;
                    break;
                }
                None => break,
            },
            _ = tell.tick() => told = tell_counts(&metrics, &lanes, told, worker.index),
        }
    }
}

/// Adds what happened on lanes since `told` to the metrics.
fn tell_counts(metrics: &Metrics, lanes: &Lanes, told: LaneCounts, worker: usize) -> LaneCounts {
    let now = lanes.counts();
    let none = Vec::new();
    let add = |name, now: u64, then: u64| {
        metrics.counter(name, &none).inc_by(now.saturating_sub(then));
    };
    add(name::LINK_OPENS, now.opens, told.opens);
    add(name::LINK_WAITS, now.waited, told.waited);
    add(name::LINK_EXHAUSTED, now.exhausted, told.exhausted);
    add(name::LINK_LANES_MADE, now.made, told.made);
    add(name::LINK_LANES_BROKEN, now.broken, told.broken);
    add(name::LINK_LANES_REFUSED, now.refused, told.refused);
    let (in_use, ready) = lanes.sizes();
    let set = |state: &str, count: usize| {
        let labels = vec![("Worker", worker.to_string()), ("State", state.to_owned())];
        metrics.gauge(name::LINK_LANES, &labels).set(i64::try_from(count).unwrap_or(i64::MAX));
    };
    set("in use", in_use);
    set("ready", ready);
    now
}

/// One worker's client connections.
struct Clients {
    handler: Rc<ApiHandler>,
    open: RefCell<HashMap<u64, Rc<ClientConnection>>>,
    next: Cell<u64>,
    rejected: Counter,
}

impl Clients {
    fn accepted(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Some(config) = self.handler.view().front_door.clone() else { return };
        if self.open.borrow().len() >= MOST_CONNECTIONS {
            self.rejected.inc();
            tracing::debug!(%peer, "too many connections; one was closed");
            return;
        }
        let Ok(local) = stream.local_addr() else { return };
        let number = self.next.get();
        self.next.set(number + 1);
        // Counted from before the handshake, which costs most.
        self.open.borrow_mut().insert(number, ClientConnection::new(peer, local, None));
        let clients = Rc::clone(self);
        spawn_local(async move {
            match http::tls::accept(stream, &config).await {
                Ok(accepted) => {
                    let connection = ClientConnection::new(peer, local, Some(accepted.secure));
                    let replaced = clients.open.borrow_mut().insert(number, Rc::clone(&connection));
                    if replaced.is_some_and(|before| before.is_closing()) {
                        connection.close();
                    }
                    let handler = Rc::clone(&clients.handler);
                    serve(accepted.stream, accepted.protocol, connection, handler, SERVE).await;
                }
                Err(error) => tracing::debug!(%peer, error = &error as &dyn std::error::Error, "no TLS"),
            }
            clients.open.borrow_mut().remove(&number);
        });
    }

    async fn drain(&self, grace: Duration) {
        for connection in self.open.borrow().values() {
            connection.close();
        }
        let end = Instant::now() + grace;
        while Instant::now() < end && !self.open.borrow().is_empty() {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }
}

/// HTTP APIs: request line and headers 10,240 bytes together.
pub(super) const SERVE: ServeSettings = ServeSettings {
    idle_timeout: Duration::from_secs(60),
    keep_alive: Duration::from_secs(3_600),
    limits: Limits::API,
};
/// For requests in hand when the role is told to stop: as long as the longest integration timeout.
pub const GRACE: Duration = Duration::from_secs(30);
/// Of one worker. Each costs some tens of KiB with TLS.
const MOST_CONNECTIONS: usize = 16_384;
/// Slices waiting for a worker: applying takes well under a millisecond and is awaited.
const COMMANDS: usize = 4;
/// Lanes and agents on their way to a worker; lanes over it are closed and dialled again.
const LANE_EVENTS: usize = 1_024;
/// How often lane counts are added to the metrics.
const TELL: Duration = Duration::from_secs(1);
/// How often a draining worker looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
