//! A worker's choices: who of a group gets the next connection, and whose connections end.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use super::{
    choose::{Turns, choose_group, point_of},
    group::{Group, Target},
    view::{Listener, View},
};
use crate::{model::id::Arn, snapshot::verdict::Verdicts};

/// The groups, and this worker's turns over their targets.
pub(super) struct Choices {
    groups: RefCell<BTreeMap<Arn, Rc<GroupTurns>>>,
    zones: RefCell<BTreeSet<Arc<str>>>,
    random: Cell<u64>,
}

/// Who gets a connection.
pub(super) struct Choice {
    /// Of which group.
    pub(super) group: Arc<Group>,
    /// The target.
    pub(super) target: Arc<Target>,
    /// Whether all of the group's targets get connections, because too few are healthy.
    pub(super) fails_open: bool,
}

/// What follows from verdicts.
#[derive(Default)]
pub(super) struct Heard {
    /// Targets whose connections end now.
    pub(super) ended: Vec<Arc<Target>>,
    /// When the next ones' do, if nothing changes.
    pub(super) due: Option<Instant>,
}

struct GroupTurns {
    group: Arc<Group>,
    zones: RefCell<BTreeMap<Arc<str>, ZoneTurns>>,
    /// Since when.
    unhealthy: RefCell<Vec<(Arc<Target>, Instant)>>,
}

struct ZoneTurns {
    turns: Turns<Arc<Target>>,
    fails_open: bool,
}

impl Choices {
    /// Without groups; workers choose apart from each other by their `seed`.
    pub(super) fn new(seed: usize) -> Self {
        Self {
            groups: RefCell::default(),
            zones: RefCell::default(),
            random: Cell::new(RandomState::new().hash_one(seed) | 1),
        }
    }

    /// Goes on with the groups of a view; [`Self::hear`] says who of them is open.
    pub(super) fn follow(&self, view: &View) {
        let before = self.groups.take();
        let groups = view.groups.iter().map(|(arn, group)| {
            let known = before.get(arn);
            let turns = match known {
                Some(same) if Arc::ptr_eq(&same.group, group) => same.clone(),
                _ => Rc::new(GroupTurns {
                    group: group.clone(),
                    zones: RefCell::default(),
                    unhealthy: known.map(|own| own.unhealthy.clone()).unwrap_or_default(),
                }),
            };
            (arn.clone(), turns)
        });
        self.groups.replace(groups.collect());
        let ends = view.listeners.values().flat_map(|listener| listener.ends.values());
        // None is forgotten: a listener that is the packet path's by now may still have a handshake to take.
        self.zones.borrow_mut().extend(ends.map(|end| end.zone.clone()));
    }

    /// Takes turns over those that the verdicts leave.
    pub(super) fn hear(&self, verdicts: &Verdicts, now: Instant) -> Heard {
        let mut heard = Heard::default();
        for turns in self.groups.borrow().values() {
            let zones = self.zones.borrow();
            turns.open(&zones, verdicts, || usize::try_from(self.random() >> 32).unwrap_or(0));
            turns.end(verdicts, now, &mut heard);
        }
        heard
    }

    /// A target for a client in a zone that is none of those in `tried`.
    pub(super) fn choose(
        &self,
        listener: &Listener,
        zone: &str,
        client: IpAddr,
        tried: &[Arc<Target>],
    ) -> Option<Choice> {
        let groups = self.groups.borrow();
        let named = listener.groups.iter().map(|(arn, weight)| (*weight, groups.get(arn)));
        let is_open = |turns: &Rc<GroupTurns>| {
            turns.zones.borrow().get(zone).is_some_and(|own| own.turns.is_open(tried))
        };
        let is_sticky = named.clone().any(|(_, turns)| turns.is_some_and(|own| own.group.is_sticky()));
        let point = if is_sticky { point_of(client) } else { self.random() };
        let shares = named.clone().map(|(weight, turns)| (weight, turns.is_some_and(is_open)));
        let place = choose_group(shares, point)?;
        let (_, turns) = named.clone().nth(place)?;
        let turns = turns?;
        let mut zones = turns.zones.borrow_mut();
        let ZoneTurns { turns: open, fails_open } = zones.get_mut(zone)?;
        let sticks = turns.group.is_sticky();
        let target = if sticks { open.affine(client, tried) } else { open.next(tried) }?;
        Some(Choice { group: turns.group.clone(), target, fails_open: *fails_open })
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

impl GroupTurns {
    fn open(&self, zones: &BTreeSet<Arc<str>>, verdicts: &Verdicts, start: impl Fn() -> usize) {
        let mut own = self.zones.borrow_mut();
        own.retain(|zone, _| zones.contains(zone));
        for zone in zones {
            let open = self.group.open(zone, verdicts);
            let begin = || ZoneTurns { turns: Turns::new(start()), fails_open: false };
            let turns = own.entry(zone.clone()).or_insert_with(begin);
            turns.turns.replace(open.targets);
            turns.fails_open = open.fails_open;
        }
    }

    /// Those that are unhealthy and get nothing lose what they have, after the time that the group gives them. While it
    /// fails open they get new connections, and keep those that they have.
    fn end(&self, verdicts: &Verdicts, now: Instant, heard: &mut Heard) {
        let mut known = self.unhealthy.borrow_mut();
        let Some((unhealthy, after)) = self.group.unhealthy(verdicts) else { return known.clear() };
        let zones = self.zones.borrow();
        let is_used = |target: &Arc<Target>| zones.values().any(|zone| zone.turns.has(target));
        let since = |target: &Arc<Target>| {
            known.iter().find(|(own, _)| own == target).map_or(now, |(_, since)| *since)
        };
        let bad: Vec<_> = unhealthy
            .into_iter()
            .filter(|target| !is_used(target))
            .map(|target| (target.clone(), since(&target)))
            .collect();
        for (target, since) in &bad {
            match *since + after {
                due if due <= now => heard.ended.push(target.clone()),
                due => heard.due = Some(heard.due.map_or(due, |other| other.min(due))),
            }
        }
        *known = bad;
    }
}
