//! Starting, applying slices, stopping.
//!
//! A slice is applied when every worker serves it: only then does no request reach a draining target any more.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    view::{Outlets, View},
    worker::{self, Command},
};
use crate::{
    http::worker::Workers,
    snapshot::{node::NodeSlice, report::Report, verdict::Verdicts},
    telemetry::Metrics,
};

/// The application load balancers of one node.
pub struct Proxy {
    workers: Workers,
    commands: Vec<mpsc::Sender<Command>>,
    view: Arc<View>,
    outlets: Outlets,
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
    /// A worker has ended.
    #[error("a worker has ended")]
    Worker,
}

impl Proxy {
    /// Starts `count` workers in the network namespace of the calling thread; zero means one per processor.
    ///
    /// They serve nothing before the first [`Self::apply`]. `verdicts` is the prober's table, `reports` leads to control.
    pub fn start(
        count: usize,
        verdicts: watch::Receiver<Arc<Verdicts>>,
        reports: mpsc::Sender<Report>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        // Each worker takes its own receiver, once, on its own thread.
        let receivers = Arc::new(Mutex::new(Vec::new()));
        let mut commands = Vec::new();
        let seats = if count == 0 { std::thread::available_parallelism()?.get() } else { count };
        for _ in 0..seats {
            let (sender, receiver) = mpsc::channel(COMMANDS);
            commands.push(sender);
            receivers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(receiver);
        }
        let workers = Workers::start(seats, "alb", move |worker| {
            let receiver = receivers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
            let verdicts = verdicts.clone();
            async move {
                if let Some(receiver) = receiver {
                    worker::run(worker, receiver, verdicts).await;
                }
            }
        })?;
        let view = Arc::new(View::empty());
        Ok(Self { workers, commands, view, outlets: Outlets { metrics, reports } })
    }

    /// Serves `slice` from now on: ready when all workers do. Established connections survive; those of a listener that is
    /// gone end after the request in hand.
    pub async fn apply(&mut self, slice: &Arc<NodeSlice>) -> Result<(), ApplyError> {
        let view = Arc::new(View::compile(slice, &self.view, &self.outlets));
        let mut pending = Vec::new();
        for commands in &self.commands {
            let (applied, answer) = oneshot::channel();
            commands.send(Command::Apply(view.clone(), applied)).await.map_err(|_| ApplyError::Worker)?;
            pending.push(answer);
        }
        let mut failed = Vec::new();
        for answer in pending {
            failed.extend(answer.await.map_err(|_| ApplyError::Worker)?);
        }
        view.settle();
        self.view = view;
        match failed.into_iter().next() {
            None => Ok(()),
            Some((address, source)) => Err(ApplyError::Listen { address, source }),
        }
    }

    /// Accepts nothing more, lets requests in hand end for up to `grace`, and ends the workers.
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
}

/// Slices waiting for a worker: applying takes well under a millisecond and is awaited.
const COMMANDS: usize = 4;
