//! One client connection's state, as its handler sees it.
//!
//! Shared by the stream below hyper, the service above it and the task that drives both; all on one thread.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::refusal::Refusal;

/// A byte stream both ways, boxed: what a connection becomes after 101.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Duplex for T {}

/// What TLS said, for handlers behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secure {
    /// The name in the ClientHello.
    pub server_name: Option<Arc<str>>,
}

/// One client connection.
pub struct ClientConnection {
    /// The client.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Present behind TLS.
    pub secure: Option<Secure>,
    opened: Instant,
    activity: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    requests: Cell<u64>,
    answered: Cell<u64>,
    refused: Cell<Option<(u64, Refusal)>>,
    refused_body: Cell<Option<Refusal>>,
    closing: Cell<bool>,
    upgraded: Cell<bool>,
    driver: RefCell<Option<Waker>>,
    tunnel: RefCell<Option<Box<dyn Duplex>>>,
    received: Cell<u64>,
    sent: Cell<u64>,
}

impl ClientConnection {
    /// A connection just accepted.
    pub fn new(peer: SocketAddr, local: SocketAddr, secure: Option<Secure>) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            peer,
            local,
            secure,
            opened: now,
            activity: Cell::new(now),
            head_since: Cell::new(None),
            requests: Cell::new(0),
            answered: Cell::new(0),
            refused: Cell::new(None),
            refused_body: Cell::new(None),
            closing: Cell::new(false),
            upgraded: Cell::new(false),
            driver: RefCell::new(None),
            tunnel: RefCell::new(None),
            received: Cell::new(0),
            sent: Cell::new(0),
        })
    }

    /// Closes it once the request in hand, if any, is answered.
    pub fn close(&self) {
        self.closing.set(true);
        self.wake();
    }

    /// Whether [`Self::close`] was called.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// After an answer of 101: joins the client's stream to `target`'s, byte for byte.
    pub fn join(&self, target: impl Duplex) {
        self.tunnel.replace(Some(Box::new(target)));
    }

    /// What was wrong with the body of the request in hand, if anything: its stream then ended too early.
    pub fn refused_body(&self) -> Option<Refusal> {
        self.refused_body.get()
    }

    /// Bytes received and sent, below TLS's payload and above its records.
    pub fn bytes(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }

    /// Requests that reached the handler.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    pub(super) fn note_received(&self, count: usize) {
        self.received.set(self.received.get() + count as u64);
        self.activity.set(Instant::now());
    }

    pub(super) fn note_sent(&self, count: usize) {
        self.sent.set(self.sent.get() + count as u64);
        self.activity.set(Instant::now());
    }

    /// A head is being received, or no longer.
    pub(super) fn note_partial_head(&self, partial: bool) {
        match (partial, self.head_since.get()) {
            (true, None) => self.head_since.set(Some(self.activity.get())),
            (false, Some(_)) => self.head_since.set(None),
            _ => {}
        }
    }

    pub(super) fn refuse_head(&self, refusal: Refusal, number: u64) {
        self.refused.set(Some((number, refusal)));
    }

    /// The request in hand was refused for its parsed head: its answer is the connection's last.
    pub(super) fn refuse(&self) {
        if self.refused.get().is_none() {
            self.refused.set(Some((self.requests.get(), Refusal::RequestLine)));
        }
        self.closing.set(true);
    }

    /// When a byte last moved.
    pub(super) fn last_moved(&self) -> Instant {
        self.activity.get()
    }

    pub(super) fn refuse_body(&self, refusal: Refusal) {
        self.refused_body.set(Some(refusal));
    }

    /// A request begins: why it must be refused, if it must.
    pub(super) fn begin(&self) -> Option<Refusal> {
        let number = self.requests.get();
        self.requests.set(number + 1);
        self.refused.get().filter(|(refused, _)| *refused == number).map(|(_, refusal)| refusal)
    }

    /// The answer's head is decided.
    pub(super) fn answered(&self, upgraded: bool) {
        self.answered.set(self.answered.get() + 1);
        if upgraded {
            self.upgraded.set(true);
        }
    }

    /// How many requests have an answer.
    pub(super) fn answers(&self) -> u64 {
        self.answered.get()
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.get()
    }

    pub(super) fn is_refused(&self) -> bool {
        self.refused.get().is_some() || self.refused_body.get().is_some()
    }

    pub(super) fn take_tunnel(&self) -> Option<Box<dyn Duplex>> {
        self.tunnel.take()
    }

    /// Keeps the waker of the task that drives the connection.
    pub(super) fn driven_by(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(driver) = self.driver.borrow().as_ref() {
            driver.wake_by_ref();
        }
    }

    /// What its clock says at `now`.
    pub(super) fn look(&self, now: Instant, idle: Duration, keep_alive: Duration) -> Look {
        if let Some(since) = self.head_since.get()
            && now >= since + idle
        {
            return Look::HeadTimedOut;
        }
        let busy = self.requests.get() > self.answered.get();
        let quiet = self.activity.get() + idle;
        if !busy && now >= quiet {
            return Look::Idle;
        }
        let old = self.opened + keep_alive;
        if now >= old && !self.closing.get() {
            return Look::Old;
        }
        let mut next = if busy { now + idle } else { quiet };
        if now < old {
            next = next.min(old);
        }
        if let Some(since) = self.head_since.get() {
            next = next.min(since + idle);
        }
        Look::Again(next)
    }
}

/// What a connection's clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing to do before then.
    Again(Instant),
    /// Nothing in hand and nothing moved for too long.
    Idle,
    /// A head began and did not end in time.
    HeadTimedOut,
    /// Kept alive for as long as it may be.
    Old,
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const KEEP: Duration = Duration::from_secs(3600);

    #[test]
    fn the_clock_sees_idle_slow_and_old_connections() {
        let address = "127.0.0.1:1".parse().unwrap();
        let connection = ClientConnection::new(address, address, None);
        let start = connection.opened;
        assert_eq!(connection.look(start, IDLE, KEEP), Look::Again(start + IDLE));
        assert_eq!(connection.look(start + IDLE, IDLE, KEEP), Look::Idle);
        connection.begin();
        let later = start + IDLE;
        assert_eq!(connection.look(later, IDLE, KEEP), Look::Again(later + IDLE), "a request in hand");
        connection.answered(false);
        assert_eq!(connection.look(later, IDLE, KEEP), Look::Idle);
        connection.activity.set(start + KEEP);
        assert_eq!(connection.look(start + KEEP, IDLE, KEEP), Look::Old);
        connection.head_since.set(Some(start));
        connection.activity.set(start + IDLE);
        assert_eq!(connection.look(start + IDLE, IDLE, KEEP), Look::HeadTimedOut, "each byte came in time");
    }

    #[test]
    fn only_the_refused_request_is_refused() {
        let address = "127.0.0.1:1".parse().unwrap();
        let connection = ClientConnection::new(address, address, None);
        connection.refuse_head(Refusal::BareLineFeed, 1);
        assert_eq!(connection.begin(), None);
        assert_eq!(connection.begin(), Some(Refusal::BareLineFeed));
    }
}
