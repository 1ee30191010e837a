//! Idle connections to targets, kept by one worker for itself.
//!
//! Last in, first out: the freshest connection is the least likely to be closed by the target, and the others grow old
//! together and are swept.

use std::{
    cell::{Cell, RefCell},
    hash::Hash,
    rc::Rc,
    time::{Duration, Instant},
};

use fnv::FnvHashMap;

use super::{connect::TargetStream, exchange::TargetConnection};

/// Shelves by target. Keys come from control, so a hash that can be attacked is good enough.
pub struct Pool<K, S: TargetStream> {
    shelves: RefCell<FnvHashMap<K, Rc<Shelf<S>>>>,
    count: Rc<Cell<usize>>,
}

/// One target's idle connections.
pub struct Shelf<S: TargetStream> {
    idle: RefCell<Vec<Box<TargetConnection<S>>>>,
    count: Rc<Cell<usize>>,
    closed: Cell<bool>,
}

impl<K: Clone + Eq + Hash, S: TargetStream> Pool<K, S> {
    /// An empty pool.
    pub fn new() -> Self {
        Self { shelves: RefCell::default(), count: Rc::default() }
    }

    /// A target's shelf.
    pub fn shelf(&self, key: &K) -> Rc<Shelf<S>> {
        if let Some(shelf) = self.shelves.borrow().get(key) {
            return shelf.clone();
        }
        let shelf =
            Rc::new(Shelf { idle: RefCell::default(), count: self.count.clone(), closed: Cell::new(false) });
        self.shelves.borrow_mut().insert(key.clone(), shelf.clone());
        shelf
    }

    /// Closes idle connections to targets that `keep` does not know; those in use are closed when they come back.
    pub fn retain(&self, mut keep: impl FnMut(&K) -> bool) {
        self.shelves.borrow_mut().retain(|key, shelf| {
            let kept = keep(key);
            if !kept {
                shelf.closed.set(true);
                shelf.clear();
            }
            kept
        });
    }

    /// Closes what is idle for too long or was closed by the target.
    pub fn sweep(&self, now: Instant) {
        self.shelves.borrow_mut().retain(|_, shelf| {
            shelf.sweep(now);
            // A shelf that somebody holds gets its connection back.
            !shelf.idle.borrow().is_empty() || Rc::strong_count(shelf) > 1
        });
    }

    /// Closes up to `count` idle connections to targets that `matching` knows, the longest idle of each first: what they
    /// run over is needed for others. Answers how many.
    pub fn evict(&self, matching: impl Fn(&K) -> bool, count: usize) -> usize {
        let mut evicted = 0;
        for (_, shelf) in self.shelves.borrow().iter().filter(|(key, _)| matching(key)) {
            evicted += shelf.evict(count - evicted);
            if evicted >= count {
                break;
            }
        }
        evicted
    }

    /// How many connections are idle.
    pub fn idle(&self) -> usize {
        self.count.get()
    }
}

impl<K: Clone + Eq + Hash, S: TargetStream> Default for Pool<K, S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: TargetStream> Shelf<S> {
    /// An idle connection. The target may have closed it meanwhile, which the exchange finds out before it sends anything;
    /// `surely` asks the kernel first.
    pub fn take(&self, surely: bool) -> Option<Box<TargetConnection<S>>> {
        loop {
            let mut connection = self.idle.borrow_mut().pop()?;
            self.count.set(self.count.get().saturating_sub(1));
            let usable = if surely { connection.is_surely_reusable() } else { connection.is_reusable() };
            if usable {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection if it may be used again and there is room.
    pub fn put(&self, mut connection: Box<TargetConnection<S>>) {
        let room = self.idle.borrow().len() < MOST_PER_TARGET && self.count.get() < MOST;
        if room && !self.closed.get() && connection.is_reusable() {
            self.count.set(self.count.get() + 1);
            self.idle.borrow_mut().push(connection);
        }
    }

    fn sweep(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(|connection| {
            now.saturating_duration_since(connection.trace().moved()) < IDLE && connection.looks_reusable()
        });
        self.count.set(self.count.get().saturating_sub(before - idle.len()));
    }

    fn evict(&self, count: usize) -> usize {
        let mut idle = self.idle.borrow_mut();
        let oldest = idle.len().min(count);
        idle.drain(..oldest);
        self.count.set(self.count.get().saturating_sub(oldest));
        oldest
    }

    fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        self.count.set(self.count.get().saturating_sub(idle.len()));
    }
}

/// Idle connections to one target, per worker: as many as requests in hand at once are worth keeping.
const MOST_PER_TARGET: usize = 256;
/// Idle connections of one worker: with the ones in use well below a process's usual limit of file descriptors.
const MOST: usize = 4096;
/// Below the 60 s after which targets and address translators commonly close.
const IDLE: Duration = Duration::from_secs(50);
/// How often a pool should be swept.
pub const SWEEP: Duration = Duration::from_secs(5);
