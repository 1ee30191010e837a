//! Passes over the flow tables, a bounded part at a time: counts flows, and removes those that are over.
//!
//! A call looks at [`SWEEP_SLOTS`] slots, so tables of both families as they are by default take eight calls, a second at
//! eight calls a second. What is counted is told when a pass is through: every flow that was there during the whole pass
//! is in it once.

use std::collections::BTreeMap;

use aya::Pod;
use lb_common::abi::{EMBRYONIC_TICKS, Flow, FlowKey, ListenerKey, SourceKey};

use super::flows::{self, Census, Patience};
use super::maps::{Address, FamilyMaps, Maps};
use super::plan::Protocol;

/// What flows are judged by.
pub struct Judge {
    /// The kernel's clock.
    pub tick: u32,
    /// Seconds of silence and the protocol by index of the listener, of those that there are.
    pub listeners: BTreeMap<u32, (u32, Protocol)>,
    /// Generations of the targets that flows may be at, by index.
    pub generations: BTreeMap<u16, u16>,
    /// Entries of a flow table.
    pub capacity: u64,
}

/// A pass under way.
#[derive(Default)]
pub struct Sweep {
    at: Place,
    census: Census,
    /// Entries that the pass before found.
    entries: u64,
}

/// Where a walk over both tables goes on; at its beginning, if nothing else is said.
#[derive(Debug, Clone, Copy)]
pub struct Place(pub(super) Half);

/// Whose table, and which of its slots comes next.
#[derive(Debug, Clone, Copy)]
pub(super) enum Half {
    V4(u32),
    V6(u32),
}

impl Default for Place {
    fn default() -> Self {
        Self(Half::V4(0))
    }
}

impl Place {
    /// Where the walk goes on behind a part of this table; `None` when it is through.
    pub(super) fn behind(self, next: Option<u32>) -> Option<Self> {
        match (self.0, next) {
            (Half::V4(_), Some(next)) => Some(Self(Half::V4(next))),
            (Half::V4(_), None) => Some(Self(Half::V6(0))),
            (Half::V6(_), next) => Some(Self(Half::V6(next?))),
        }
    }
}

impl Sweep {
    /// The number of the pass under way.
    pub fn pass(&self) -> u64 {
        self.census.pass
    }

    /// Goes on; what the pass found, if it is through now.
    pub fn step(&mut self, maps: &Maps, judge: &Judge) -> Option<Census> {
        let is_crowded = self.entries > judge.capacity / 2;
        for _ in 0..SWEEP_SLOTS / BATCH_SLOTS {
            let next = match self.at.0 {
                Half::V4(from) => look(&maps.v4, from, judge, is_crowded, &mut self.census),
                Half::V6(from) => look(&maps.v6, from, judge, is_crowded, &mut self.census),
            };
            let Some(next) = self.at.behind(next) else {
                self.at = Place::default();
                self.entries = self.census.entries;
                let following = Census { pass: self.census.pass + 1, ..Census::default() };
                return Some(std::mem::replace(&mut self.census, following));
            };
            self.at = next;
        }
        None
    }
}

fn look<A: Address>(
    maps: &FamilyMaps<A>,
    from: u32,
    judge: &Judge,
    is_crowded: bool,
    census: &mut Census,
) -> Option<u32>
where
    ListenerKey<A>: Pod,
    SourceKey<A>: Pod,
{
    let (entries, next) = maps.some_flows(from, BATCH_SLOTS);
    for (key, flow) in entries {
        match judge_one(maps, &key, &flow, judge, is_crowded) {
            Fate::Stays => census.count(&flow),
            Fate::Over { other } => {
                maps.remove_flow(&key);
                if let Some(other) = other {
                    maps.remove_flow(&other);
                }
                // A flow is its client's: of two halves in two tables, one counts.
                census.expired += u64::from(other.is_some() || flows::is_request(&flow));
            }
        }
    }
    next
}

enum Fate<A> {
    Stays,
    Over { other: Option<FlowKey<A>> },
}

fn judge_one<A: Address>(
    maps: &FamilyMaps<A>,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    judge: &Judge,
    is_crowded: bool,
) -> Fate<A>
where
    ListenerKey<A>: Pod,
    SourceKey<A>: Pod,
{
    let has_listener = judge.listeners.contains_key(&flow.listener);
    let (idle, protocol) =
        judge.listeners.get(&flow.listener).copied().unwrap_or((DEFAULT_IDLE_S, Protocol::Tcp));
    let is_short = is_crowded && protocol == Protocol::Udp;
    let patience = Patience { idle, unanswered: if is_short { EMBRYONIC_TICKS } else { idle } };
    // Its target is another's now, or nobody's: what comes next is answered as if the flow was never there, which is by
    // a RST. Only the listener's own address can say so.
    let is_dead = has_listener && judge.generations.get(&flow.target) != Some(&flow.generation);
    if !is_dead && !flows::is_suspect(flow, judge.tick, patience) {
        return Fate::Stays;
    }
    if !flows::has_other_half(flow) {
        let is_over = is_dead || flows::is_half_over(flow, judge.tick, patience);
        return if is_over { Fate::Over { other: None } } else { Fate::Stays };
    }
    let other_key = flow.reverse_key(key.protocol);
    let other = maps.flow(&other_key);
    if is_dead || flows::is_over(key, flow, other.as_ref(), judge.tick, patience) {
        Fate::Over { other: other.map(|_| other_key) }
    } else {
        Fate::Stays
    }
}

/// For flows of listeners that are gone. AWS's default.
const DEFAULT_IDLE_S: u32 = super::read::TCP_IDLE_TIMEOUT_S;

/// Slots that one call looks at: some milliseconds if all have entries, one if none has.
const SWEEP_SLOTS: u32 = 131_072;

/// Slots whose entries are copied at once.
pub(super) const BATCH_SLOTS: u32 = 8_192;
