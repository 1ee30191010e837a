//! One worker: its listeners, its turns, its pools.
//!
//! Everything here is of one thread. Slices come as commands and are applied between two requests; verdicts are read when
//! they change.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_local,
    time::Instant,
};

use super::{
    balance::RoundRobin,
    listen::OpenListener,
    upstream::Tcp,
    view::{Group, Target, View},
};
use crate::{
    http::{forward::Forwarder, worker::Worker},
    model::{id::Arn, target_group::TargetHealthState},
    snapshot::verdict::Verdicts,
};

/// What a worker is told.
pub enum Command {
    /// Serve this view from now on; answers with the addresses that could not be opened.
    Apply(Arc<View>, oneshot::Sender<Vec<(SocketAddr, std::io::Error)>>),
    /// Accept nothing more and let what is in hand end, for so long at most.
    Drain(Duration),
}

/// What the handlers of one worker share.
pub struct Shared {
    /// To targets.
    pub forwarder: Rc<Forwarder<Tcp>>,
    groups: RefCell<Vec<Rc<Turns>>>,
    random: Cell<u64>,
}

/// A group and this worker's turns over its targets.
pub struct Turns {
    /// The group.
    pub group: Arc<Group>,
    round: RefCell<RoundRobin<Arc<Target>>>,
    /// No target is healthy: all get requests.
    fails_open: Cell<bool>,
}

/// Runs until the workers are told to stop.
pub async fn run(
    worker: Worker,
    mut commands: mpsc::Receiver<Command>,
    mut verdicts: watch::Receiver<Arc<Verdicts>>,
) {
    let shared = Rc::new(Shared {
        forwarder: Forwarder::new(Tcp),
        groups: RefCell::default(),
        random: Cell::new(RandomState::new().hash_one(worker.index) | 1),
    });
    let tended = shared.forwarder.clone();
    spawn_local(async move { tended.tend().await });
    let mut open: BTreeMap<Arn, Rc<OpenListener>> = BTreeMap::new();
    let mut closing: Vec<Rc<OpenListener>> = Vec::new();
    let mut verdicts_live = true;
    loop {
        tokio::select! {
            () = worker.stopped() => break,
            command = commands.recv() => match command {
                Some(Command::Apply(view, applied)) => {
                    let table = verdicts.borrow_and_update().clone();
                    closing.retain(|listener| listener.connections() > 0);
                    let failed = apply(&shared, &mut open, &mut closing, &view, &table).await;
                    // Who asked may have gone.
                    let _ = applied.send(failed);
                }
                Some(Command::Drain(grace)) => {
                    closing.extend(std::mem::take(&mut open).into_values());
                    drain(&closing, grace).await;
                    break;
                }
                None => break,
            },
            changed = verdicts.changed(), if verdicts_live => {
                verdicts_live = changed.is_ok();
                let table = verdicts.borrow_and_update().clone();
                for turns in shared.groups.borrow().iter() {
                    turns.hear(&table);
                }
            }
        }
    }
}

async fn apply(
    shared: &Rc<Shared>,
    open: &mut BTreeMap<Arn, Rc<OpenListener>>,
    closing: &mut Vec<Rc<OpenListener>>,
    view: &View,
    verdicts: &Verdicts,
) -> Vec<(SocketAddr, std::io::Error)> {
    let before = shared.groups.take();
    let groups = view
        .groups
        .iter()
        .map(|group| {
            let known = before.iter().find(|turns| Arc::ptr_eq(&turns.group, group));
            known.cloned().unwrap_or_else(|| Turns::new(group.clone(), verdicts, shared.random()))
        })
        .collect();
    shared.groups.replace(groups);
    for turns in shared.groups.borrow().iter() {
        turns.hear(verdicts);
    }
    let mut ending = Vec::new();
    let gone: Vec<_> = open.keys().filter(|arn| !view.listeners.contains_key(*arn)).cloned().collect();
    for arn in gone {
        if let Some(listener) = open.remove(&arn) {
            ending.extend(listener.close());
            closing.push(listener);
        }
    }
    let mut failed = Vec::new();
    for (arn, listener) in &view.listeners {
        let entry = open.entry(arn.clone()).or_insert_with(|| OpenListener::new(listener.clone()));
        let updated = entry.update(listener.clone(), shared);
        failed.extend(updated.failed);
        ending.extend(updated.closing);
    }
    for task in ending {
        // Cancelled, as it was told: its socket is closed.
        let _ = task.await;
    }
    let kept: BTreeSet<SocketAddr> = view.kept_addresses();
    shared.forwarder.pool().retain(|path| kept.contains(&path.target));
    failed
}

async fn drain(listeners: &[Rc<OpenListener>], grace: Duration) {
    for listener in listeners {
        // Their sockets go with the worker at the latest.
        listener.close();
    }
    let end = Instant::now() + grace;
    while Instant::now() < end && listeners.iter().any(|listener| listener.connections() > 0) {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

impl Shared {
    /// The group at a place of the view that is applied.
    pub fn turns(&self, place: usize) -> Option<Rc<Turns>> {
        self.groups.borrow().get(place).cloned()
    }

    /// 64 bits that nobody should guess from outside but no secret hangs on: xorshift64*.
    pub fn random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Unix time in seconds.
    pub fn seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

impl Turns {
    fn new(group: Arc<Group>, verdicts: &Verdicts, random: u64) -> Rc<Self> {
        let start = usize::try_from(random >> 32).unwrap_or(0);
        let turns = Self {
            group,
            round: RefCell::new(RoundRobin::new(Vec::new(), start)),
            fails_open: Cell::new(false),
        };
        turns.hear(verdicts);
        Rc::new(turns)
    }

    /// Takes turns over those that the verdicts leave.
    fn hear(&self, verdicts: &Verdicts) {
        let eligible = verdicts.eligible(&self.group.arn, &self.group.view);
        let is_healthy = |view| {
            use TargetHealthState::{Healthy, Unavailable};
            matches!(verdicts.state(&self.group.arn, view), Some(Healthy | Unavailable))
        };
        self.fails_open.set(!eligible.iter().any(|view| is_healthy(view)));
        let mut eligible = eligible.into_iter().peekable();
        // Both are in the order of the keys.
        let targets = self
            .group
            .members()
            .filter(|(view, _)| eligible.next_if(|next| next.key == view.key).is_some())
            .map(|(_, target)| target.clone())
            .collect();
        self.round.borrow_mut().replace(targets);
    }

    /// The next target; another than `avoid` if there is one.
    pub fn choose(&self, avoid: Option<&Arc<Target>>) -> Option<Arc<Target>> {
        self.round.borrow_mut().choose(avoid).cloned()
    }

    /// Whether requests go to targets of which none is healthy.
    pub fn fails_open(&self) -> bool {
        self.fails_open.get()
    }
}

/// How often a draining worker looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
