//! One worker: its listeners, its choices, its flows.
//!
//! Everything here is of one thread. Slices come as commands; verdicts are read when they change.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    io,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, sleep_until},
};

use super::{
    choices::Choices,
    dial::ToTargets,
    flow::Flows,
    listen::OpenListener,
    relay::{Scratch, scratch},
    run::Limits,
    view::View,
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
    /// How many workers there are.
    pub(super) workers: usize,
    /// Its connections.
    pub(super) flows: Rc<Flows>,
    /// Who gets them.
    pub(super) choices: Choices,
    /// Handshakes with clients under way.
    pub(super) handshakes: Cell<usize>,
    /// TLS to targets.
    pub(super) to_targets: ToTargets,
    /// The buffer that all read into.
    pub(super) scratch: Scratch,
    view: RefCell<Arc<View>>,
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
        workers: worker.count,
        flows: Rc::default(),
        choices: Choices::new(worker.index),
        handshakes: Cell::new(0),
        to_targets: ToTargets::default(),
        scratch: scratch(),
        view: RefCell::default(),
    });
    let mut open = Open::new();
    let mut verdicts_live = true;
    let mut due: Option<Instant> = None;
    let mut closes: Option<Instant> = None;
    loop {
        tokio::select! {
            () = worker.stopped() => break,
            command = commands.recv() => match command {
                Some(Command::Apply(view, applied)) => {
                    shared.choices.follow(&view);
                    due = shared.hear(&verdicts.borrow_and_update().clone());
                    // Who asked may have gone.
                    let _ = applied.send(apply(&shared, &mut open, view));
                }
                Some(Command::Retire(retired)) => {
                    closes = retire(&shared, &mut open).await;
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
                due = shared.hear(&verdicts.borrow_and_update().clone());
            }
            () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                due = shared.hear(&verdicts.borrow().clone());
            }
            () = sleep_until(closes.unwrap_or_else(Instant::now).into()), if closes.is_some() => {
                closes = retire(&shared, &mut open).await;
            }
        }
    }
}

fn apply(shared: &Rc<Shared>, open: &mut Open, view: Arc<View>) -> Vec<(SocketAddr, io::Error)> {
    let mut failed = Vec::new();
    for (arn, listener) in &view.listeners {
        let entry = open.entry(arn.clone()).or_insert_with(|| OpenListener::new(listener.clone()));
        failed.extend(entry.update(listener.clone(), shared));
    }
    shared.flows.end_to(&view.ended);
    shared.view.replace(view);
    failed
}

/// Closes what is not to be open; answers when there will be more of it.
async fn retire(shared: &Shared, open: &mut Open) -> Option<Instant> {
    let view = shared.view.borrow().clone();
    let now = Instant::now();
    let mut closing = Vec::new();
    open.retain(|arn, listener| {
        let is_gone = !view.listeners.contains_key(arn);
        closing.extend(listener.retire(is_gone, &view.forwarded, now));
        !is_gone || listener.is_open()
    });
    for task in closing {
        // Cancelled, as it was told: its socket is closed.
        let _ = task.await;
    }
    let is_served = |address: &SocketAddr| open.values().any(|listener| listener.is_open_at(address));
    shared.flows.end_elsewhere(|address| view.forwarded.contains(address) || is_served(address));
    open.values().filter_map(|listener| listener.closes()).min()
}

async fn drain(shared: &Shared, open: Open, grace: Duration) {
    for listener in open.values() {
        // Their sockets go with the worker at the latest.
        listener.retire(true, &HashSet::new(), Instant::now());
    }
    let end = Instant::now() + grace;
    while Instant::now() < end && shared.flows.count() > 0 {
        sleep(DRAIN_LOOK).await;
    }
    // What is cut off now must not look whole.
    shared.flows.end_elsewhere(|_| false);
    let end = Instant::now() + CUT_OFF;
    while Instant::now() < end && shared.flows.count() > 0 {
        sleep(DRAIN_LOOK).await;
    }
}

impl Shared {
    /// The link that a client's address is of.
    pub(super) fn link_of(&self, client: Ipv4Addr) -> Option<VpcLinkId> {
        self.view.borrow().links.get(&client).cloned()
    }

    /// Follows verdicts; answers when to follow them again though they did not change.
    fn hear(&self, verdicts: &Verdicts) -> Option<Instant> {
        let heard = self.choices.hear(verdicts, Instant::now());
        self.flows.end_to(&heard.ended);
        heard.due
    }
}

/// How long connections have to notice that they are cut off.
const CUT_OFF: Duration = Duration::from_millis(200);
/// How often a draining worker looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
