//! A node's resolver: started, given a slice's zones, stopped.
//!
//! Before it: the node role got a slice. What is applied is answered from the next query on, before `apply` returns; the
//! sockets stay the same for as long as the address does.

use std::{io, net::SocketAddrV4, rc::Rc, sync::Arc, thread};

use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, LocalSet, spawn_blocking, spawn_local},
};

use super::{
    counters::Counters,
    forward::Forwarder,
    serve::{Service, bind_udp, serve_tcp, serve_udp},
    zone::Zones,
};
use crate::{http::listen, snapshot::zone::ResolverView, telemetry::Metrics};

/// The resolver of one node, on a thread of its own.
pub struct Resolver {
    thread: thread::JoinHandle<()>,
    commands: mpsc::Sender<Command>,
    applied: Option<ResolverView>,
}

/// Why what a slice says is not answered.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The address could not be listened on.
    #[error("answering DNS queries at {address}")]
    Listen {
        /// The address.
        address: SocketAddrV4,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The resolver's thread has ended.
    #[error("the resolver has ended")]
    Ended,
}

/// What the thread is told, and whom it tells what came of it.
struct Command {
    place: Option<Place>,
    done: oneshot::Sender<Result<(), ApplyError>>,
}

/// Where to answer, whom, and what.
struct Place {
    address: SocketAddrV4,
    clients: ipnet::Ipv4Net,
    zones: Arc<Zones>,
}

impl Resolver {
    /// Starts in the network namespace of the calling thread, and answers nothing before the first [`Self::apply`].
    /// `servers` are asked for names of no zone.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(servers: Vec<SocketAddrV4>, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let metrics = Arc::clone(metrics);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // Not a pinned worker: there is one of each VPC's, and all of them would be on the same processor.
        let thread = thread::Builder::new().name("dns".to_owned()).spawn(move || {
            let work = Thread {
                forwarder: Rc::new(Forwarder::new(servers)),
                counters: Rc::new(Counters::new(&metrics)),
                open: None,
            };
            LocalSet::new().block_on(&runtime, work.run(receiver));
        })?;
        Ok(Self { thread, commands, applied: None })
    }

    /// Answers as `view` says from now on; with none, not at all.
    ///
    /// # Errors
    /// When the address cannot be listened on. The next call tries again.
    pub async fn apply(&mut self, view: Option<&ResolverView>) -> Result<(), ApplyError> {
        if self.applied.as_ref() == view {
            return Ok(());
        }
        self.applied = None;
        let place = view.map(|view| Place {
            address: SocketAddrV4::new(view.address, PORT),
            clients: view.clients,
            zones: Arc::new(Zones::compile(view)),
        });
        let (done, answer) = oneshot::channel();
        self.commands.send(Command { place, done }).await.map_err(|_| ApplyError::Ended)?;
        answer.await.map_err(|_| ApplyError::Ended)??;
        self.applied = view.cloned();
        Ok(())
    }

    /// Answers nothing more.
    pub async fn stop(self) {
        let Self { thread, commands, .. } = self;
        drop(commands);
        // The pool of blocking threads waits, not the caller's runtime.
        if !matches!(spawn_blocking(|| thread.join()).await, Ok(Ok(()))) {
            tracing::error!("the resolver's thread ended in a panic");
        }
    }
}

/// What the thread holds.
struct Thread {
    forwarder: Rc<Forwarder>,
    counters: Rc<Counters>,
    open: Option<Open>,
}

/// Sockets that are answered on.
struct Open {
    service: Rc<Service>,
    tasks: [JoinHandle<()>; 2],
}

impl Thread {
    /// Ends with whoever commands; what is under way then ends with the runtime.
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(Command { place, done }) = commands.recv().await {
            // Whoever no longer waits for it had a newer slice.
            let _ = done.send(self.follow(place).await);
        }
    }

    async fn follow(&mut self, place: Option<Place>) -> Result<(), ApplyError> {
        let Some(Place { address, clients, zones }) = place else {
            self.close().await;
            return Ok(());
        };
        let stays = |open: &&Open| open.service.address == *address.ip() && open.service.clients == clients;
        if let Some(open) = self.open.as_ref().filter(stays) {
            open.service.zones.replace(Some(zones));
            return Ok(());
        }
        self.close().await;
        let refused = |source| ApplyError::Listen { address, source };
        let udp = bind_udp(address.into()).map_err(refused)?;
        let tcp = listen::bind(address.into()).map_err(refused)?;
        let service = Rc::new(Service {
            address: *address.ip(),
            clients,
            zones: Some(zones).into(),
            forwarder: Rc::clone(&self.forwarder),
            counters: Rc::clone(&self.counters),
        });
        let tasks = [
            spawn_local(serve_udp(Rc::clone(&service), udp)),
            spawn_local(serve_tcp(Rc::clone(&service), tcp)),
        ];
        self.open = Some(Open { service, tasks });
        Ok(())
    }

    /// Closes the sockets; connections end after the query in hand.
    async fn close(&mut self) {
        let Some(Open { service, tasks }) = self.open.take() else { return };
        service.zones.replace(None);
        for task in tasks {
            task.abort();
            // The socket is closed when its task has ended.
            let _ = task.await;
        }
    }
}

/// The port of DNS.
const PORT: u16 = 53;

/// Slices waiting for the thread: applying is awaited.
const COMMANDS: usize = 1;
