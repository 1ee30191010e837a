//! One worker: its listeners, its turns over targets, its flows.
//!
//! Everything here is of one thread. Slices come as commands; verdicts are read when they change.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    choose::{Turns, choose_group, point_of},
    dial::ToTargets,
    flow::Flows,
    listen::OpenListener,
    relay::{Scratch, scratch},
    run::Limits,
    view::{Group, Listener, Target, View},
};
use crate::{
    http::worker::Worker,
    model::id::{Arn, VpcLinkId},
    snapshot::verdict::Verdicts,
};

/// What a worker is told.
pub(super) enum Command {
    /// Serve this view from now on; answers with the addresses that could not be opened.
    Apply(Arc<View>, oneshot::Sender<Vec<(SocketAddr, io::Error)>>),
    /// Close what the view has no use for.
    Retire(oneshot::Sender<()>),
    /// Accept nothing more and let what is open end, for so long at most.
    Drain(Duration),
}

/// What the connections of one worker share.
pub(super) struct Shared {
    /// How much there may be.
    pub(super) limits: Limits,
    /// Its connections.
    pub(super) flows: Rc<Flows>,
    /// Handshakes with clients under way.
    pub(super) handshakes: Cell<usize>,
    /// TLS to targets.
    pub(super) to_targets: ToTargets,
    /// The buffer that all read into.
    pub(super) scratch: Scratch,
    groups: RefCell<BTreeMap<Arn, Rc<Choices>>>,
    view: RefCell<Arc<View>>,
    random: Cell<u64>,
}

/// A group and this worker's turns over its targets.
struct Choices {
    group: Arc<Group>,
    turns: RefCell<Turns<Arc<Target>>>,
}

type Open = HashMap<Arn, Rc<OpenListener>>;

/// Runs until the workers are told to stop.
pub(super) async fn run(
    worker: Worker,
    mut commands: mpsc::Receiver<Command>,
    mut verdicts: watch::Receiver<Arc<Verdicts>>,
    limits: Limits,
) {
    let shared = Rc::new(Shared {
        limits,
        flows: Rc::default(),
        handshakes: Cell::new(0),
        to_targets: ToTargets::default(),
        scratch: scratch(),
        groups: RefCell::default(),
        view: RefCell::default(),
        random: Cell::new(RandomState::new().hash_one(worker.index) | 1),
    });
    let mut open = Open::new();
    let mut verdicts_live = true;
    loop {
        tokio::select! {
            () = worker.stopped() => break,
            command = commands.recv() => match command {
                Some(Command::Apply(view, applied)) => {
                    let table = verdicts.borrow_and_update().clone();
                    // Who asked may have gone.
                    let _ = applied.send(apply(&shared, &mut open, view, &table));
                }
                Some(Command::Retire(retired)) => {
                    retire(&shared, &mut open).await;
                    let _ = retired.send(());
                }
                Some(Command::Drain(grace)) => {
                    drain(&shared, open, grace).await;
                    break;
                }
                None => break,
            },
            changed = verdicts.changed(), if verdicts_live => {
                verdicts_live = changed.is_ok();
                let table = verdicts.borrow_and_update().clone();
                shared.hear(&table);
            }
        }
    }
}

fn apply(
    shared: &Rc<Shared>,
    open: &mut Open,
    view: Arc<View>,
    verdicts: &Verdicts,
) -> Vec<(SocketAddr, io::Error)> {
    let before = shared.groups.take();
    let groups = view.groups.iter().map(|(arn, group)| {
        let known = before.get(arn).filter(|own| Arc::ptr_eq(&own.group, group)).cloned();
        let choices = known.unwrap_or_else(|| {
            let start = usize::try_from(shared.random() >> 32).unwrap_or(0);
            Rc::new(Choices { group: group.clone(), turns: RefCell::new(Turns::new(start)) })
        });
        (arn.clone(), choices)
    });
    let groups = groups.collect();
    shared.groups.replace(groups);
    shared.hear(verdicts);
    let mut failed = Vec::new();
    for (arn, listener) in &view.listeners {
        let entry = open.entry(arn.clone()).or_insert_with(|| OpenListener::new(listener.clone()));
        failed.extend(entry.update(listener.clone(), shared));
    }
    shared.flows.end_to(&view.ended);
    shared.view.replace(view);
    failed
}

async fn retire(shared: &Shared, open: &mut Open) {
    let view = shared.view.borrow().clone();
    let mut closing = Vec::new();
    open.retain(|arn, listener| {
        let is_gone = !view.listeners.contains_key(arn);
        closing.extend(listener.retire(is_gone));
        !is_gone
    });
    for task in closing {
        // Cancelled, as it was told: its socket is closed.
        let _ = task.await;
    }
    shared.flows.end_elsewhere(|address| open.values().any(|listener| listener.is_open_at(address)));
}

async fn drain(shared: &Shared, open: Open, grace: Duration) {
    for listener in open.values() {
        // Their sockets go with the worker at the latest.
        listener.retire(true);
    }
    let end = Instant::now() + grace;
    while Instant::now() < end && shared.flows.count() > 0 {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

impl Shared {
    /// A target for a client that is none of those in `tried`.
    pub(super) fn choose(
        &self,
        listener: &Listener,
        client: IpAddr,
        tried: &[Arc<Target>],
    ) -> Option<(Arc<Group>, Arc<Target>)> {
        let groups = self.groups.borrow();
        let open: Vec<(u16, Option<&Rc<Choices>>)> = listener
            .groups
            .iter()
            .map(|(arn, weight)| {
                let choices = groups.get(arn).filter(|choices| choices.turns.borrow().is_open(tried));
                (*weight, choices)
            })
            .collect();
        let is_sticky = listener
            .groups
            .iter()
            .any(|(arn, _)| groups.get(arn).is_some_and(|choices| choices.group.is_sticky()));
        let point = if is_sticky { point_of(client) } else { self.random() };
        let place = choose_group(open.iter().map(|(weight, choices)| (*weight, choices.is_some())), point)?;
        let choices = open.get(place)?.1?;
        let target = if choices.group.is_sticky() {
            choices.turns.borrow().affine(client, tried)
        } else {
            choices.turns.borrow_mut().next(tried)
        };
        Some((choices.group.clone(), target?))
    }

    /// The link that a client's address is of.
    pub(super) fn link_of(&self, client: Ipv4Addr) -> Option<VpcLinkId> {
        self.view.borrow().links.get(&client).cloned()
    }

    /// Takes turns over those that the verdicts leave, and ends what goes to those that they do not.
    fn hear(&self, verdicts: &Verdicts) {
        for choices in self.groups.borrow().values() {
            choices.turns.borrow_mut().replace(choices.group.eligible(verdicts));
            self.flows.end_to(&choices.group.ended(verdicts));
        }
    }

    /// 64 bits that nobody should guess from outside but no secret hangs on: xorshift64*.
    fn random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.random.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// How often a draining worker looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
