//! Starting, applying slices, stopping.
//!
//! A slice is applied in two steps around the packet path's: sockets are open before XDP passes packets to them, and
//! those that nobody wants any more are closed after it passes none.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    counters::Gauges,
    view::{Broken, View},
    worker::{self, Command},
};
use crate::{
    http::worker::Workers,
    identity::tls::TlsError,
    model::{id::Arn, target_group::TargetKey},
    snapshot::{node::NodeSlice, verdict::Verdicts},
    telemetry::Metrics,
};

/// The userspace listeners of one node's network load balancers.
pub struct Streams {
    workers: Workers,
    commands: Vec<mpsc::Sender<Command>>,
    view: Arc<View>,
    limits: Limits,
    metrics: Arc<Metrics>,
    gauges: Gauges,
}

/// What connections may take. What is beyond is reset and counted.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections of one worker.
    pub connections: usize,
    /// Handshakes with clients under way on one worker: each costs a processor's millisecond and some ten KiB.
    pub handshakes: usize,
    /// For a whole handshake, with a client or with a target.
    pub handshake: Duration,
    /// For connecting to one target, before another is tried.
    pub connect: Duration,
    /// Silence after which a connection ends: AWS's fixed value for TLS, and the default of tcp.idle_timeout.seconds.
    pub idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            handshakes: 1_024,
            handshake: Duration::from_secs(10),
            // A SYN is repeated after 1 s and 3 s.
            connect: Duration::from_secs(4),
            idle_timeout: Duration::from_secs(350),
        }
    }
}

/// Why a slice is not served entirely. What could be applied is.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An address could not be listened on.
    #[error("listening on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A listener's certificates do not make its TLS.
    #[error("TLS of {listener}")]
    Tls {
        /// The listener.
        listener: Arn,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// A worker has ended.
    #[error("a worker has ended")]
    Worker,
}

impl Streams {
    /// Starts `count` workers in the network namespace of the calling thread; zero means one per processor.
    ///
    /// They serve nothing before the first [`Self::apply`]. `verdicts` is the prober's table.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        count: usize,
        verdicts: watch::Receiver<Arc<Verdicts>>,
        metrics: Arc<Metrics>,
        limits: Limits,
    ) -> io::Result<Self> {
        // Each worker takes its own receiver, once, on its own thread.
        let receivers = Arc::new(Mutex::new(Vec::new()));
        let mut commands = Vec::new();
        let seats = if count == 0 { std::thread::available_parallelism()?.get() } else { count };
        for _ in 0..seats {
            let (sender, receiver) = mpsc::channel(COMMANDS);
            commands.push(sender);
            receivers.lock().unwrap_or_else(PoisonError::into_inner).push(receiver);
        }
        let workers = Workers::start(seats, "nlb", move |worker| {
            let receiver = receivers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let verdicts = verdicts.clone();
            async move {
                if let Some(receiver) = receiver {
                    worker::run(worker, receiver, verdicts, limits).await;
                }
            }
        })?;
        let gauges = Gauges::new(metrics.clone());
        Ok(Self { workers, commands, view: Arc::default(), limits, metrics, gauges })
    }

    /// Serves `slice` from now on: ready when all workers do. Sockets that it has no use for stay open until
    /// [`Self::retire`]; connections survive unless their target is gone and takes them with it.
    ///
    /// # Errors
    /// The first thing that could not be applied.
    pub async fn apply(&mut self, slice: &NodeSlice) -> Result<(), ApplyError> {
        let (view, broken) = View::compile(slice, &self.view, &self.limits, &self.metrics);
        let view = Arc::new(view);
        let answers = self.order(|answer| Command::Apply(view.clone(), answer)).await?;
        self.view = view;
        let unopened = answers.into_iter().flatten();
        let mut failed = unopened.map(|(address, source)| ApplyError::Listen { address, source }).chain(
            broken.into_iter().map(|Broken { listener, error }| ApplyError::Tls { listener, source: error }),
        );
        failed.next().map_or(Ok(()), Err)
    }

    /// Closes the sockets that the slice has no use for, and resets what was accepted on them: the packet path passes
    /// nothing of them any more. A listener whose new connections are the packet path's keeps what it has, and takes
    /// handshakes that are under way for some seconds more.
    ///
    /// # Errors
    /// When a worker has ended.
    pub async fn retire(&self) -> Result<(), ApplyError> {
        self.order(Command::Retire).await.map(drop)
    }

    /// Tells how many flows there are now. To be called once a second, before the packet path tells of its own.
    pub fn tell(&mut self) {
        let ends = self.view.listeners.values().flat_map(|listener| listener.ends.values());
        self.gauges.tell(ends.map(|end| &*end.counters));
    }

    /// Flows now of the listener at an address.
    pub fn active_flows(&self, address: SocketAddr) -> u64 {
        self.view.active_flows(address)
    }

    /// Connections that a target of a group still has here.
    pub fn connections_of(&self, group: &Arn, target: &TargetKey) -> usize {
        self.view.connections_of(group, target)
    }

    /// Accepts nothing more, lets connections end for up to `grace`, and ends the workers.
    pub async fn stop(self, grace: Duration) {
        for commands in &self.commands {
            // A worker that has ended has nothing to drain.
            let _ = commands.send(Command::Drain(grace)).await;
        }
        for commands in &self.commands {
            commands.closed().await;
        }
        self.workers.stop().await;
    }

    /// Tells every worker, then waits for each.
    async fn order<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Result<Vec<T>, ApplyError> {
        let mut pending = Vec::new();
        for commands in &self.commands {
            let (answer, answered) = oneshot::channel();
            commands.send(command(answer)).await.map_err(|_| ApplyError::Worker)?;
            pending.push(answered);
        }
        let mut answers = Vec::new();
        for answered in pending {
            answers.push(answered.await.map_err(|_| ApplyError::Worker)?);
        }
        Ok(answers)
    }
}

/// Slices waiting for a worker: applying takes well under a millisecond and is awaited.
const COMMANDS: usize = 4;
