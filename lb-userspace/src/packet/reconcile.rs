//! The difference between a plan and what the maps hold, as writes to the maps in an order that is right at every step.
//!
//! Between `plan` and `maps`. Adds before it points, points before it removes: a packet between two writes finds
//! either the old or the new, never nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use lb_common::abi::{
    Ipv4Be, Listener, MAX_ADDRESSES, MAX_LISTENERS, MAX_RINGS, MAX_SOURCES, MAX_TARGETS, NO_RING, PortBe,
    Target, listener_flags, target_state,
};

use super::ledger::{Ledger, ListenerName, RingContent, TargetIdentity, TargetSlot, group_hash, member_seed};
use super::maglev::{self, Member};
use super::plan::{ListenerPlan, NodePlan, Plan, TargetName, TargetPlan, Verdict, next_hop};

/// A MAC address.
pub type Mac = [u8; 6];

/// What is known of the network: interfaces by device, MACs by interface and address.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Interface indices of the devices that are attached.
    pub devices: BTreeMap<String, u32>,
    /// Neighbours that answered.
    pub neighbours: HashMap<(u32, Ipv4Addr), Mac>,
}

/// A write to the maps.
#[expect(missing_docs, reason = "the fields' names say what the variants' documentation does not")]
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A target's entry.
    Target { index: u16, entry: Target },
    /// A target's counters begin at zero: the index is another target's now.
    ClearTargetCounters { index: u16 },
    /// A ring's slots.
    Ring { index: u32, members: Vec<Member> },
    /// A range that may use a listener.
    AdmitSource { listener: u32, range: Ipv4Net },
    /// A range that may no longer.
    RefuseSource { listener: u32, range: Ipv4Net },
    /// What a listener does.
    ListenerState { index: u32, state: Listener },
    /// A listener's counters begin at zero.
    ClearListenerCounters { index: u32 },
    /// A listener appears.
    AddListener { name: ListenerName, index: u32 },
    /// A listener disappears.
    RemoveListener { name: ListenerName },
    /// One of our addresses appears, or changes its interface.
    SetAddress { address: Ipv4Addr, ifindex: u32 },
    /// One of our addresses disappears.
    RemoveAddress { address: Ipv4Addr },
}

/// A limit that a plan exceeds. Nothing of the plan is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plan needs more than {limit} {what}")]
pub struct Exceeded {
    /// What there is too much of.
    pub what: &'static str,
    /// How much there may be.
    pub limit: usize,
}

/// Brings the ledger in step with the plan; returns the writes that do the same to the maps.
pub fn reconcile(ledger: &mut Ledger, plan: &Plan, around: &Surroundings) -> Result<Vec<Write>, Exceeded> {
    check(ledger, plan)?;
    let mut writes = Vec::new();
    let mut kept = Kept::default();
    let nodes = plan.nodes.iter().filter_map(|(address, node)| {
        around.devices.get(&node.device).map(|ifindex| (*address, *ifindex, node))
    });
    for (address, ifindex, node) in nodes {
        for (port, listener) in &node.listeners {
            let name = (address, *port);
            kept.listeners.insert(name);
            let targets = set_targets(ledger, &mut writes, around, address, ifindex, node, listener)?;
            kept.targets.extend(targets.iter().map(|(identity, _)| *identity));
            let ring = choose_ring(ledger, &mut writes, name, &targets)?;
            set_listener(ledger, &mut writes, name, listener, ring, &mut kept)?;
        }
        kept.addresses.insert(address);
        if ledger.addresses.insert(address, ifindex) != Some(ifindex) {
            writes.push(Write::SetAddress { address, ifindex });
        }
    }
    remove(ledger, &mut writes, plan, &kept);
    Ok(writes)
}

/// What the plan still has.
#[derive(Default)]
struct Kept {
    addresses: BTreeSet<Ipv4Addr>,
    listeners: BTreeSet<ListenerName>,
    targets: BTreeSet<TargetIdentity>,
    sources: BTreeSet<(u32, Ipv4Net)>,
}

fn check(ledger: &Ledger, plan: &Plan) -> Result<(), Exceeded> {
    let within = |count: usize, limit: usize, what: &'static str| {
        if count <= limit { Ok(()) } else { Err(Exceeded { what, limit }) }
    };
    let listeners = || plan.nodes.values().flat_map(|node| node.listeners.values());
    within(plan.nodes.len(), MAX_ADDRESSES, "addresses")?;
    within(listeners().count() + ledger.retired_listeners.len(), MAX_LISTENERS, "listeners")?;
    // While rings change, a listener has the old and the new one.
    within(listeners().count() * 2, MAX_RINGS, "rings")?;
    let sources = listeners().filter_map(|listener| listener.sources.as_ref()).map(BTreeSet::len).sum();
    within(sources, MAX_SOURCES, "source ranges")?;
    let retired = ledger.targets.values().filter(|slot| slot.retired).count();
    within(
        listeners().map(|listener| listener.targets.len()).sum::<usize>() + retired,
        MAX_TARGETS,
        "targets",
    )
}

/// Gives each target of a listener an index and its next hop.
fn set_targets<'plan>(
    ledger: &mut Ledger,
    writes: &mut Vec<Write>,
    around: &Surroundings,
    via: Ipv4Addr,
    ifindex: u32,
    node: &NodePlan,
    listener: &'plan ListenerPlan,
) -> Result<Vec<(TargetIdentity, &'plan TargetPlan)>, Exceeded> {
    let mut targets = Vec::with_capacity(listener.targets.len());
    for (name, target) in &listener.targets {
        let identity = identify(via, name, target);
        let mac = around.neighbours.get(&(ifindex, next_hop(node, target.address))).copied();
        let slot = match ledger.targets.get(&identity) {
            Some(slot) => *slot,
            None => {
                let slot = new_slot(ledger, &identity)?;
                writes.push(Write::ClearTargetCounters { index: slot.index });
                slot
            }
        };
        // The last MAC that was known is better than none: its owner may just be slow to answer.
        let entry = match mac {
            Some(mac) => entry(&identity, slot.entry.generation, target_state::READY, mac),
            None if slot.entry.state == target_state::READY => slot.entry,
            None => entry(&identity, slot.entry.generation, target_state::UNRESOLVED, [0; 6]),
        };
        if entry != slot.entry {
            writes.push(Write::Target { index: slot.index, entry });
        }
        let slot = TargetSlot { index: slot.index, entry, retired: false, terminates: target.terminates };
        ledger.targets.insert(identity, slot);
        targets.push((identity, target));
    }
    Ok(targets)
}

fn new_slot(ledger: &Ledger, identity: &TargetIdentity) -> Result<TargetSlot, Exceeded> {
    let taken: BTreeSet<u16> = ledger.targets.values().map(|slot| slot.index).collect();
    let index = (0..u16::try_from(MAX_TARGETS).unwrap_or(u16::MAX))
        .find(|index| !taken.contains(index))
        .ok_or(Exceeded { what: "targets", limit: MAX_TARGETS })?;
    let generation = ledger.generations.get(&index).map_or(1, |last| last.wrapping_add(1));
    Ok(TargetSlot {
        index,
        entry: entry(identity, generation, target_state::GONE, [0; 6]),
        retired: false,
        terminates: false,
    })
}

/// The ring with these members: one that is there already, or one that is filled now.
fn choose_ring(
    ledger: &mut Ledger,
    writes: &mut Vec<Write>,
    name: ListenerName,
    targets: &[(TargetIdentity, &TargetPlan)],
) -> Result<u32, Exceeded> {
    let members = members(ledger, name, targets);
    if members.is_empty() {
        return Ok(NO_RING);
    }
    let mut built = None;
    let present = ledger.rings.iter().find_map(|(index, content)| {
        let same = match content {
            RingContent::Members(own) => *own == members,
            RingContent::Adopted(slots) => **slots == **built.get_or_insert_with(|| maglev::ring(&members)),
        };
        same.then_some(*index)
    });
    let index = match present {
        Some(index) => index,
        None => {
            let index = free_ring(ledger)?;
            writes.push(Write::Ring { index, members: members.clone() });
            index
        }
    };
    ledger.rings.insert(index, RingContent::Members(members));
    Ok(index)
}

/// Who gets new flows.
fn members(ledger: &Ledger, name: ListenerName, targets: &[(TargetIdentity, &TargetPlan)]) -> Vec<Member> {
    let adopted = ledger.adopted_targets(name);
    let routable: Vec<_> = targets
        .iter()
        .filter_map(|(identity, target)| {
            let slot = ledger.targets.get(identity)?;
            (target.weight > 0).then_some((identity, *target, slot))
        })
        .collect();
    let picked = |wanted: &dyn Fn(&TargetPlan, &TargetSlot) -> bool| -> Vec<Member> {
        let mut members: Vec<Member> = routable
            .iter()
            .filter(|(_, target, slot)| wanted(target, slot))
            .map(|(identity, target, slot)| Member {
                seed: member_seed(identity),
                index: slot.index,
                weight: target.weight,
            })
            .collect();
        members.sort_unstable();
        members
    };
    let trusted = |target: &TargetPlan, slot: &TargetSlot| {
        target.health == Verdict::Healthy
            || target.health == Verdict::Unknown && adopted.contains(&slot.index)
    };
    // Best are those that can be reached now; then those that should be; then, failing open, all.
    let best = picked(&|target, slot| trusted(target, slot) && slot.entry.state == target_state::READY);
    if !best.is_empty() {
        return best;
    }
    let hoped = picked(&trusted);
    if hoped.is_empty() { picked(&|_, _| true) } else { hoped }
}

fn free_ring(ledger: &mut Ledger) -> Result<u32, Exceeded> {
    let limit = u32::try_from(MAX_RINGS).unwrap_or(u32::MAX);
    let unused =
        (0..limit).find(|index| !ledger.rings.contains_key(index) && !ledger.free_rings.contains(index));
    unused.or_else(|| ledger.free_rings.pop_front()).ok_or(Exceeded { what: "rings", limit: MAX_RINGS })
}

fn set_listener(
    ledger: &mut Ledger,
    writes: &mut Vec<Write>,
    name: ListenerName,
    plan: &ListenerPlan,
    ring: u32,
    kept: &mut Kept,
) -> Result<(), Exceeded> {
    let known = ledger.listeners.get(&name).copied();
    let index = match known {
        Some(index) => index,
        None => {
            let taken: BTreeSet<u32> =
                ledger.listeners.values().chain(&ledger.retired_listeners).copied().collect();
            let limit = u32::try_from(MAX_LISTENERS).unwrap_or(u32::MAX);
            let index = (0..limit)
                .find(|index| !taken.contains(index))
                .ok_or(Exceeded { what: "listeners", limit: MAX_LISTENERS })?;
            writes.push(Write::ClearListenerCounters { index });
            index
        }
    };
    for range in plan.sources.iter().flatten() {
        kept.sources.insert((index, *range));
        if ledger.sources.insert((index, *range)) {
            writes.push(Write::AdmitSource { listener: index, range: *range });
        }
    }
    let flags = if plan.sources.is_some() { listener_flags::GUARDED } else { 0 };
    let state = Listener { ring, flags };
    if ledger.states.insert(index, state) != Some(state) {
        writes.push(Write::ListenerState { index, state });
    }
    if known.is_none() {
        ledger.listeners.insert(name, index);
        writes.push(Write::AddListener { name, index });
    }
    Ok(())
}

/// Takes out what the plan no longer has, and retires the indices that flows may still name.
fn remove(ledger: &mut Ledger, writes: &mut Vec<Write>, plan: &Plan, kept: &Kept) {
    // A node whose device is not there at the moment keeps its listeners: the device comes back, or the node goes.
    let planned = |address: &Ipv4Addr| plan.nodes.contains_key(address) && !kept.addresses.contains(address);
    ledger.addresses.retain(|address, _| {
        let keep = kept.addresses.contains(address) || planned(address);
        if !keep {
            writes.push(Write::RemoveAddress { address: *address });
        }
        keep
    });
    let Ledger { listeners, retired_listeners, states, sources, .. } = ledger;
    listeners.retain(|name, index| {
        let keep = kept.listeners.contains(name) || planned(&name.0);
        if !keep {
            writes.push(Write::RemoveListener { name: *name });
            retired_listeners.insert(*index);
            states.remove(index);
        }
        keep
    });
    let away: BTreeSet<u32> =
        listeners.iter().filter(|(name, _)| planned(&name.0)).map(|(_, index)| *index).collect();
    sources.retain(|(listener, range)| {
        let keep = kept.sources.contains(&(*listener, *range)) || away.contains(listener);
        if !keep {
            writes.push(Write::RefuseSource { listener: *listener, range: *range });
        }
        keep
    });
    let used: BTreeSet<u32> = ledger.states.values().map(|state| state.ring).collect();
    let unused: Vec<u32> = ledger.rings.keys().filter(|index| !used.contains(index)).copied().collect();
    for index in unused {
        ledger.rings.remove(&index);
        ledger.free_rings.push_back(index);
    }
    for (identity, slot) in &mut ledger.targets {
        slot.retired = !kept.targets.contains(identity) && !planned(&identity.via);
        if slot.retired && slot.terminates && slot.entry.state != target_state::GONE {
            // Its flows find nobody, and are reset.
            slot.entry = entry(identity, slot.entry.generation, target_state::GONE, [0; 6]);
            writes.push(Write::Target { index: slot.index, entry: slot.entry });
        }
    }
}

/// What a target of a plan is recognized by.
pub fn identify(via: Ipv4Addr, name: &TargetName, target: &TargetPlan) -> TargetIdentity {
    TargetIdentity { via, group: group_hash(name), address: target.address, port: name.key.port }
}

fn entry(identity: &TargetIdentity, generation: u32, state: u16, mac: Mac) -> Target {
    let [a, b, c, d, e, f] = mac;
    Target {
        address: Ipv4Be::from(identity.address),
        port: PortBe::new(identity.port),
        state,
        mac_head: u32::from_ne_bytes([a, b, c, d]),
        mac_tail: u16::from_ne_bytes([e, f]),
        pad: 0,
        generation,
        via: Ipv4Be::from(identity.via),
        group: identity.group,
    }
}

#[cfg(test)]
mod tests;
