//! Listening sockets, and which connections are admitted.
//!
//! Each worker opens a socket of its own on each address of a listener.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    task::{JoinHandle, spawn_local},
};

use super::{
    connection,
    end::reset,
    view::{Listener, ListenerEnd},
    worker::Shared,
};
use crate::http::listen;

/// A listener that is open on this worker.
pub(super) struct OpenListener {
    /// Its newest compiled form.
    listener: RefCell<Arc<Listener>>,
    sockets: RefCell<HashMap<SocketAddr, JoinHandle<()>>>,
    /// When it closes, while handshakes end that began before its new connections became the packet path's.
    closes: Cell<Option<Instant>>,
    begun: Cell<Begun>,
}

impl OpenListener {
    /// Not listening yet.
    pub(super) fn new(listener: Arc<Listener>) -> Rc<Self> {
        Rc::new(Self {
            listener: RefCell::new(listener),
            sockets: RefCell::default(),
            closes: Cell::default(),
            begun: Cell::default(),
        })
    }

    /// Takes a newer form and opens the sockets that it has more. Answers with those that could not be opened.
    pub(super) fn update(
        self: &Rc<Self>,
        listener: Arc<Listener>,
        shared: &Rc<Shared>,
    ) -> Vec<(SocketAddr, io::Error)> {
        let mut failed = Vec::new();
        self.closes.set(None);
        let mut sockets = self.sockets.borrow_mut();
        for (address, end) in &listener.ends {
            if sockets.contains_key(address) {
                continue;
            }
            match listen::bind(*address) {
                Ok(socket) => {
                    let (open, shared) = (self.clone(), shared.clone());
                    let (address, end) = (*address, end.clone());
                    let task = spawn_local(async move {
                        let accepted = |stream, peer| open.accepted(stream, peer, address, &end, &shared);
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

    /// Closes the sockets that its newest form does not have; if it `is_gone` all, those that are `forwarded` by the
    /// packet path from now on a little later. They are closed when the tasks that it gives have ended.
    pub(super) fn retire(
        &self,
        is_gone: bool,
        forwarded: &HashSet<SocketAddr>,
        now: Instant,
    ) -> Vec<JoinHandle<()>> {
        let listener = self.listener.borrow();
        let mut sockets = self.sockets.borrow_mut();
        if is_gone && self.closes.get().is_none() && sockets.keys().any(|own| forwarded.contains(own)) {
            self.closes.set(Some(now + HANDSHAKE));
        }
        let lingers = self.closes.get().is_some_and(|closes| now < closes);
        let is_surplus = |address: &&SocketAddr| {
            if is_gone {
                !(lingers && forwarded.contains(address))
            } else {
                !listener.ends.contains_key(address)
            }
        };
        let surplus: Vec<_> = sockets.keys().filter(is_surplus).copied().collect();
        let closing: Vec<_> = surplus.iter().filter_map(|address| sockets.remove(address)).collect();
        closing.iter().for_each(JoinHandle::abort);
        closing
    }

    /// When it is to be retired again.
    pub(super) fn closes(&self) -> Option<Instant> {
        self.closes.get()
    }

    /// Whether it listens anywhere.
    pub(super) fn is_open(&self) -> bool {
        !self.sockets.borrow().is_empty()
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
        end: &ListenerEnd,
        shared: &Rc<Shared>,
    ) {
        let listener = self.listener.borrow().clone();
        let is_admitted = listener.admits(peer.ip());
        let has_room =
            || shared.flows.count() < shared.limits.connections && self.may_begin(&listener, shared);
        if !is_admitted || !has_room() {
            if is_admitted {
                end.counters.reject();
            } else {
                end.counters.blocked.inc();
            }
            tracing::debug!(load_balancer = listener.load_balancer, %peer, is_admitted, "connection refused");
            reset(&stream);
            return;
        }
        // Sockets outlive the form that they were opened for: a newer one may count elsewhere.
        let end = listener.ends.get(&address).unwrap_or(end).clone();
        let listed = shared.flows.begin(address);
        spawn_local(connection::serve(stream, peer, listener, end, listed, shared.clone()));
    }

    /// Whether one more may begin in this second. Each worker has its part of the listener's limit.
    fn may_begin(&self, listener: &Listener, shared: &Shared) -> bool {
        let Some(most) = listener.new_flows_per_s else { return true };
        let most = most.div_ceil(u32::try_from(shared.workers).unwrap_or(u32::MAX).max(1));
        let now = Instant::now();
        let mut begun = self.begun.get();
        if begun.since.is_none_or(|since| now.duration_since(since) >= SECOND) {
            begun = Begun { since: Some(now), count: 0 };
        }
        let may_begin = begun.count < most;
        begun.count += u32::from(may_begin);
        self.begun.set(begun);
        may_begin
    }
}

/// Connections begun within a second.
#[derive(Clone, Copy, Default)]
struct Begun {
    since: Option<Instant>,
    count: u32,
}

const SECOND: Duration = Duration::from_secs(1);

/// What a handshake may take, a lost segment or two included.
const HANDSHAKE: Duration = Duration::from_secs(10);
