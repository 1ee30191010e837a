//! What the maps hold, by the names that a plan uses: which index is whose, and which is free.
//!
//! Read from the pinned maps when a process begins, kept in step with them after.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::abi::{Listener, NO_RING, Ring, Target, target_state};

use super::flows::Census;
use super::maglev::Member;
use super::plan::{ListenerName, TargetName};

/// What a target is recognized by after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetIdentity {
    /// Our address that reaches it.
    pub via: IpAddr,
    /// Its group, hashed.
    pub group: u32,
    /// Its address.
    pub address: IpAddr,
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
    /// In no plan any more since this pass over the flow table: free as soon as a later one finds no flow that names it.
    pub retired: Option<u64>,
    /// Whether its flows end when it is retired.
    pub terminates: bool,
    /// Tick since when health checks find it unhealthy.
    pub unhealthy_since: Option<u32>,
    /// Whether the flows that it had then were ended.
    pub has_ended: bool,
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
    pub addresses: BTreeMap<IpAddr, u32>,
    /// Indices of listeners.
    pub listeners: BTreeMap<ListenerName, u32>,
    /// What listeners do, by index.
    pub states: BTreeMap<u32, Listener>,
    /// Admitted ranges by index of the listener.
    pub sources: BTreeSet<(u32, IpNet)>,
    /// Indices of targets by index of the listener and QUIC server id.
    pub server_ids: BTreeMap<(u32, u64), u16>,
    /// Rings in use.
    pub rings: BTreeMap<u32, RingContent>,
    /// Targets that have an index.
    pub targets: BTreeMap<TargetIdentity, TargetSlot>,
    /// Indices of listeners that were removed, with the pass over the flow table they were removed in, until a later one
    /// finds no flow that names them.
    pub retired_listeners: BTreeMap<u32, u64>,
    /// Generation of each index's last target.
    pub generations: BTreeMap<u16, u16>,
    /// Rings in the order they were freed: the one freed longest ago is filled next, so that no packet still reads it.
    pub free_rings: VecDeque<u32>,
}

impl TargetSlot {
    /// One that the map has, as far as the map tells.
    pub fn adopted(index: u16, entry: Target) -> Self {
        Self { index, entry, retired: None, terminates: false, unhealthy_since: None, has_ended: false }
    }
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

    /// Frees what was retired before this pass over the flow table began, and is named by no flow; returns the slots that
    /// are free now.
    pub fn release(&mut self, census: &Census) -> Vec<TargetSlot> {
        self.retired_listeners
            .retain(|index, pass| *pass >= census.pass || census.by_listener.contains_key(index));
        let mut freed = Vec::new();
        self.targets.retain(|_, slot| {
            let is_over = slot.retired.is_some_and(|pass| pass < census.pass);
            let keep = !is_over || census.by_target.contains_key(&slot.index);
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

    /// Generations of the targets that flows may be at, by index; flows of others have nobody.
    pub fn live_generations(&self) -> BTreeMap<u16, u16> {
        let live = self.targets.values().filter(|slot| slot.entry.state != target_state::GONE);
        live.map(|slot| (slot.index, slot.entry.generation)).collect()
    }
}

/// A target group's hash in map entries (FNV-1a): the same in every process.
pub fn group_hash(name: &TargetName) -> u32 {
    name.group.as_str().bytes().fold(0x811c_9dc5, fnv)
}

/// What a target's order of ring slots comes from: of the target itself, so that every node and process has the same.
pub fn member_seed(identity: &TargetIdentity) -> u64 {
    let address = match identity.address {
        IpAddr::V4(address) => u64::from(u32::from(address)),
        IpAddr::V6(address) => u64::from(address.octets().into_iter().fold(0x811c_9dc5, fnv)) | 1 << 32,
    };
    // Ports are below the address, and groups above both.
    (address << 16 | u64::from(identity.port)) ^ u64::from(identity.group).rotate_right(16)
}

fn fnv(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
}
