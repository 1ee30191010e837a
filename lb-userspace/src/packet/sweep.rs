//! Passes over the flow tables, a bounded part at a time: counts flows, and removes those that are over.
//!
//! A call looks at [`SWEEP_ENTRIES`] entries at most, so full tables of both families take sixteen calls, two seconds at
//! eight calls a second. What is counted is told when a pass is through: every flow that was there during the whole pass
//! is in it once.

use std::collections::BTreeMap;

use aya::Pod;
use lb_common::abi::{EMBRYONIC_TICKS, Flow, FlowKey, ListenerKey, SourceKey};

use super::batch::Cursor;
use super::flows::{self, Census, Patience};
use super::maps::{Address, FamilyMaps, Maps, MapsError};
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

/// Whose table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Half {
    V4(Cursor),
    V6(Cursor),
}

impl Default for Place {
    fn default() -> Self {
        Self(Half::V4(Cursor::default()))
    }
}

impl Place {
    /// Where the walk goes on behind a part of this table; `None` when it is through.
    pub(super) fn behind(self, cursor: Option<Cursor>) -> Option<Self> {
        match (self.0, cursor) {
            (Half::V4(_), Some(cursor)) => Some(Self(Half::V4(cursor))),
            (Half::V4(_), None) => Some(Self(Half::V6(Cursor::default()))),
            (Half::V6(_), cursor) => Some(Self(Half::V6(cursor?))),
        }
    }
}

impl Sweep {
    /// The number of the pass under way.
    pub fn pass(&self) -> u64 {
        self.census.pass
    }

    /// Goes on; what the pass found, if it is through now.
    pub fn step(&mut self, maps: &mut Maps, judge: &Judge) -> Result<Option<Census>, MapsError> {
        let is_crowded = self.entries > judge.capacity / 2;
        let mut looked_at = 0;
        while looked_at <= SWEEP_ENTRIES - BATCH_ENTRIES {
            let (count, cursor) = match self.at.0 {
                Half::V4(cursor) => look(&mut maps.v4, cursor, judge, is_crowded, &mut self.census)?,
                Half::V6(cursor) => look(&mut maps.v6, cursor, judge, is_crowded, &mut self.census)?,
            };
            looked_at += count;
            let Some(next) = self.at.behind(cursor) else {
                self.at = Place::default();
                self.entries = self.census.entries;
                let following = Census { pass: self.census.pass + 1, ..Census::default() };
                return Ok(Some(std::mem::replace(&mut self.census, following)));
            };
            self.at = next;
        }
        Ok(None)
    }
}

fn look<A: Address>(
    maps: &mut FamilyMaps<A>,
    cursor: Cursor,
    judge: &Judge,
    is_crowded: bool,
    census: &mut Census,
) -> Result<(usize, Option<Cursor>), MapsError>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
    ListenerKey<A>: Pod,
    SourceKey<A>: Pod,
{
    let (entries, next) = maps.some_flows(cursor, BATCH_ENTRIES)?;
    let count = entries.len();
    for (key, flow) in entries {
        match judge_one(maps, &key, &flow, judge, is_crowded) {
            Fate::Stays => census.count(&flow),
            Fate::Over { other } => {
                maps.remove_flow(&key)?;
                if let Some(other) = other {
                    maps.remove_flow(&other)?;
                }
                // A flow is its client's: of two halves in two tables, one counts.
                census.expired += u64::from(other.is_some() || flows::is_request(&flow));
            }
        }
    }
    Ok((count, next))
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
    FlowKey<A>: Pod,
    Flow<A>: Pod,
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
    let other = maps.flows.get(&other_key, 0).ok();
    if is_dead || flows::is_over(key, flow, other.as_ref(), judge.tick, patience) {
        Fate::Over { other: other.map(|_| other_key) }
    } else {
        Fate::Stays
    }
}

/// For flows of listeners that are gone. AWS's default.
const DEFAULT_IDLE_S: u32 = super::read::TCP_IDLE_TIMEOUT_S;

/// Entries that one call looks at: an eighth of a full table.
const SWEEP_ENTRIES: usize = 32_768;

/// Entries a system call: 512 KiB of buffers.
pub(super) const BATCH_ENTRIES: usize = 4_096;
