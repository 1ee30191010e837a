//! Listening sockets, and which connections a security group admits.
//!
//! Each worker opens a socket of its own on each address of a listener. A slice that takes an address away closes the
//! sockets; connections that were accepted end after the request in hand.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use tokio::{
    net::TcpStream,
    task::{JoinHandle, spawn_local},
};

use super::{request::RequestHandler, view::Listener, worker::Shared};
use crate::{
    http::{
        connection::ClientConnection,
        guard::Limits,
        listen,
        serve::{Protocol, ServeSettings, serve},
    },
    snapshot::permit,
};

/// A listener that is open on this worker.
pub struct OpenListener {
    /// Its newest compiled form.
    pub listener: RefCell<Arc<Listener>>,
    sockets: RefCell<HashMap<SocketAddr, JoinHandle<()>>>,
    connections: RefCell<HashMap<u64, Rc<ClientConnection>>>,
    next: Cell<u64>,
}

/// What came of taking a newer form.
#[derive(Default)]
pub struct Updated {
    /// Addresses that could not be opened; the others serve.
    pub failed: Vec<(SocketAddr, io::Error)>,
    /// Tasks whose end closes sockets.
    pub closing: Vec<JoinHandle<()>>,
}

impl OpenListener {
    /// Not listening yet.
    pub fn new(listener: Arc<Listener>) -> Rc<Self> {
        Rc::new(Self {
            listener: RefCell::new(listener),
            sockets: RefCell::default(),
            connections: RefCell::default(),
            next: Cell::new(0),
        })
    }

    /// Takes a newer form; opens and closes sockets as it says.
    pub fn update(self: &Rc<Self>, listener: Arc<Listener>, shared: &Rc<Shared>) -> Updated {
        let mut updated = Updated::default();
        let mut sockets = self.sockets.borrow_mut();
        let unwanted: Vec<_> =
            sockets.keys().filter(|address| !listener.addresses.contains(address)).copied().collect();
        updated.closing.extend(unwanted.iter().filter_map(|address| sockets.remove(address)));
        updated.closing.iter().for_each(JoinHandle::abort);
        for address in &listener.addresses {
            if sockets.contains_key(address) {
                continue;
            }
            match listen::bind(*address) {
                Ok(socket) => {
                    let (open, shared) = (self.clone(), shared.clone());
                    let task = spawn_local(async move {
                        listen::accept(&socket, |stream, peer| open.accepted(stream, peer, &shared)).await;
                    });
                    sockets.insert(*address, task);
                }
                Err(error) => updated.failed.push((*address, error)),
            }
        }
        drop(sockets);
        self.listener.replace(listener);
        updated
    }

    /// Listens no longer, and lets connections end after the request in hand. The sockets are closed when the tasks that
    /// it gives have ended.
    pub fn close(&self) -> Vec<JoinHandle<()>> {
        let closing: Vec<_> = self.sockets.borrow_mut().drain().map(|(_, task)| task).collect();
        closing.iter().for_each(JoinHandle::abort);
        for connection in self.connections.borrow().values() {
            connection.close();
        }
        closing
    }

    /// How many connections are left.
    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    fn accepted(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, shared: &Rc<Shared>) {
        let listener = self.listener.borrow().clone();
        let load_balancer = listener.load_balancer.clone();
        let counters = &load_balancer.counters;
        let admitted =
            permit::is_admitted(&load_balancer.ingress, permit::TCP, listener.port, peer.ip().to_canonical());
        if !admitted || self.connections() >= MOST_CONNECTIONS {
            counters.rejected.inc();
            tracing::debug!(load_balancer = load_balancer.name, %peer, admitted, "connection refused");
            return;
        }
        let Ok(local) = stream.local_addr() else { return };
        counters.accepted.inc();
        counters.active.inc();
        let connection = ClientConnection::new(peer, local, None);
        let number = self.next.get();
        self.next.set(number + 1);
        self.connections.borrow_mut().insert(number, connection.clone());
        let settings = ServeSettings {
            idle_timeout: load_balancer.settings.idle_timeout,
            keep_alive: load_balancer.settings.keep_alive,
            limits: Limits::ALB,
        };
        let handler = RequestHandler::new(self.clone(), shared.clone(), peer, local, &listener);
        let open = self.clone();
        spawn_local(async move {
            serve(stream, Protocol::Http1, connection.clone(), handler, settings).await;
            open.connections.borrow_mut().remove(&number);
            let (received, sent) = connection.bytes();
            load_balancer.counters.bytes.inc_by(received + sent);
            load_balancer.counters.active.dec();
        });
    }
}

/// Of one listener on one worker. Each costs some ten KiB and a file descriptor; past it a client is better served
/// by another node.
const MOST_CONNECTIONS: usize = 16_384;
