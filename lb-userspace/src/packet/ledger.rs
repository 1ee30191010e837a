//! What the maps hold, by the names that a plan uses: which index is whose, and which is free.
//!
//! Read from the pinned maps when a process begins, kept in step with them after.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use lb_common::abi::{Listener, NO_RING, Ring, Target};

use super::maglev::Member;
use super::plan::TargetName;

/// A listener on one address.
pub type ListenerName = (Ipv4Addr, u16);

/// What a target is recognized by after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetIdentity {
    /// Our address that reaches it.
    pub via: Ipv4Addr,
    /// Its group, hashed.
    pub group: u64,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// An index that a target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetSlot {
    /// The index.
    pub index: u16,
    /// What the map has there.
    pub entry: Target,
    /// In no plan any more: free as soon as no flow names it.
    pub retired: bool,
    /// Whether its flows end when it is retired.
    pub terminates: bool,
}

/// What one ring of the map has in it.
#[derive(Debug, Clone, PartialEq)]
pub enum RingContent {
    /// Filled by this process.
    Members(Vec<Member>),
    /// Filled by an earlier one.
    Adopted(Box<Ring>),
}

/// What the maps hold.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Our addresses and their interfaces.
    pub addresses: BTreeMap<Ipv4Addr, u32>,
    /// Indices of listeners.
    pub listeners: BTreeMap<ListenerName, u32>,
    /// What listeners do, by index.
    pub states: BTreeMap<u32, Listener>,
    /// Admitted ranges by index of the listener.
    pub sources: BTreeSet<(u32, Ipv4Net)>,
    /// Rings in use.
    pub rings: BTreeMap<u32, RingContent>,
    /// Targets that have an index.
    pub targets: BTreeMap<TargetIdentity, TargetSlot>,
    /// Indices of listeners that were removed, until no flow names them.
    pub retired_listeners: BTreeSet<u32>,
    /// Generation of each index's last target.
    pub generations: BTreeMap<u16, u32>,
    /// Rings in the order they were freed: the one freed longest ago is filled next, so that no packet still reads it.
    pub free_rings: std::collections::VecDeque<u32>,
}

impl Ledger {
    /// The indices that the ring of this listener had when the process began, if it is still that one.
    pub fn adopted_targets(&self, name: ListenerName) -> BTreeSet<u16> {
        let ring = self
            .listeners
            .get(&name)
            .and_then(|index| self.states.get(index))
            .filter(|state| state.ring != NO_RING)
            .and_then(|state| self.rings.get(&state.ring));
        match ring {
            Some(RingContent::Adopted(slots)) => slots.iter().copied().collect(),
            Some(RingContent::Members(members)) => members.iter().map(|member| member.index).collect(),
            None => BTreeSet::new(),
        }
    }

    /// Frees what is retired and named by no flow; returns the slots that are free now. `used_*` are the indices that
    /// flows name.
    pub fn release(
        &mut self,
        used_targets: &BTreeSet<u32>,
        used_listeners: &BTreeSet<u32>,
    ) -> Vec<TargetSlot> {
        self.retired_listeners.retain(|index| used_listeners.contains(index));
        let mut freed = Vec::new();
        self.targets.retain(|_, slot| {
            let keep = !slot.retired || used_targets.contains(&u32::from(slot.index));
            if !keep {
                freed.push(*slot);
            }
            keep
        });
        for slot in &freed {
            self.generations.insert(slot.index, slot.entry.generation);
        }
        freed
    }
}

/// A target group's hash in map entries (FNV-1a): the same in every process.
pub fn group_hash(name: &TargetName) -> u64 {
    name.group.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// What a target's order of ring slots comes from.
pub fn member_seed(identity: &TargetIdentity) -> u64 {
    u64::from(u32::from(identity.address)) << 16 | u64::from(identity.port)
}
