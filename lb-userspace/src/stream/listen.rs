//! Listening sockets, and which connections are admitted.
//!
//! Each worker opens a socket of its own on each address of a listener.

use std::{cell::RefCell, collections::HashMap, io, net::SocketAddr, rc::Rc, sync::Arc};

use tokio::{
    net::TcpStream,
    task::{JoinHandle, spawn_local},
};

use super::{connection, counters::Counters, end::reset, view::Listener, worker::Shared};
use crate::http::listen;

/// A listener that is open on this worker.
pub(super) struct OpenListener {
    /// Its newest compiled form.
    listener: RefCell<Arc<Listener>>,
    sockets: RefCell<HashMap<SocketAddr, JoinHandle<()>>>,
}

impl OpenListener {
    /// Not listening yet.
    pub(super) fn new(listener: Arc<Listener>) -> Rc<Self> {
        Rc::new(Self { listener: RefCell::new(listener), sockets: RefCell::default() })
    }

    /// Takes a newer form and opens the sockets that it has more. Answers with those that could not be opened.
    pub(super) fn update(
        self: &Rc<Self>,
        listener: Arc<Listener>,
        shared: &Rc<Shared>,
    ) -> Vec<(SocketAddr, io::Error)> {
        let mut failed = Vec::new();
        let mut sockets = self.sockets.borrow_mut();
        for (address, counters) in &listener.ends {
            if sockets.contains_key(address) {
                continue;
            }
            match listen::bind(*address) {
                Ok(socket) => {
                    let (open, shared) = (self.clone(), shared.clone());
                    let (address, counters) = (*address, counters.clone());
                    let task = spawn_local(async move {
                        let accepted =
                            |stream, peer| open.accepted(stream, peer, address, &counters, &shared);
                        listen::accept(&socket, accepted).await;
                    });
                    sockets.insert(address, task);
                }
                Err(error) => failed.push((*address, error)),
            }
        }
        drop(sockets);
        self.listener.replace(listener);
        failed
    }

    /// Closes the sockets that its newest form does not have, or all if it `is_gone`. They are closed when the tasks
    /// that it gives have ended.
    pub(super) fn retire(&self, is_gone: bool) -> Vec<JoinHandle<()>> {
        let listener = self.listener.borrow();
        let mut sockets = self.sockets.borrow_mut();
        let surplus: Vec<_> = sockets
            .keys()
            .filter(|address| is_gone || !listener.ends.contains_key(address))
            .copied()
            .collect();
        let closing: Vec<_> = surplus.iter().filter_map(|address| sockets.remove(address)).collect();
        closing.iter().for_each(JoinHandle::abort);
        closing
    }

    /// Whether it listens there.
    pub(super) fn is_open_at(&self, address: &SocketAddr) -> bool {
        self.sockets.borrow().contains_key(address)
    }

    fn accepted(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        address: SocketAddr,
        counters: &Arc<Counters>,
        shared: &Rc<Shared>,
    ) {
        let listener = self.listener.borrow().clone();
        let is_admitted = listener.admits(peer.ip());
        if !is_admitted || shared.flows.count() >= shared.limits.connections {
            if is_admitted {
                counters.rejected.inc()
            } else {
                counters.blocked.inc()
            };
            tracing::debug!(load_balancer = listener.load_balancer, %peer, is_admitted, "connection refused");
            reset(&stream);
            return;
        }
        let listed = shared.flows.begin(address);
        spawn_local(connection::serve(stream, peer, listener, counters.clone(), listed, shared.clone()));
    }
}
