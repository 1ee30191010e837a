//! The difference between a plan and what the maps hold, as writes to the maps in an order that is right at every step.
//!
//! Between `plan` and `maps`. Adds before it points, points before it removes: a packet between two writes finds
//! either the old or the new, never nothing.

/// Targets: indices, generations, next hops.
mod targets;
/// Rings: who gets new flows.
mod rings;
/// Listeners, who may use them, and QUIC's server ids.
mod listeners;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::abi::{
    Listener, MAX_ADDRESSES, MAX_LISTENERS, MAX_RINGS, MAX_SERVER_IDS, MAX_SOURCES, NO_RING, Target,
    target_state,
};

pub use targets::identify;

use super::ledger::{Ledger, TargetIdentity};
use super::maglev::Member;
use super::plan::{ListenerName, Plan};

/// A MAC address.
pub type Mac = [u8; 6];

/// What is known of the network and of time.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The devices that are attached.
    pub devices: BTreeMap<String, Interface>,
    /// Neighbours that answered, by interface and address.
    pub neighbours: HashMap<(u32, IpAddr), Mac>,
    /// The kernel's clock.
    pub tick: u32,
    /// The pass over the flow tables that is under way.
    pub pass: u64,
    /// How many CPUs share limits.
    pub cpus: u32,
    /// New flows that the node may begin in a second.
    pub new_flows_per_s: u32,
    /// What routers said that paths to targets' addresses take.
    pub path_mtus: BTreeMap<IpAddr, u16>,
}

/// An interface of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub ifindex: u32,
    /// Its own MAC.
    pub mac: Mac,
    /// The largest IP packet that it sends, in bytes.
    pub mtu: u16,
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
    AdmitSource { listener: u32, range: IpNet },
    /// A range that may no longer.
    RefuseSource { listener: u32, range: IpNet },
    /// A QUIC server id names a target.
    SetServerId { listener: u32, id: u64, target: u16 },
    /// A QUIC server id names nobody.
    RemoveServerId { listener: u32, id: u64 },
    /// What a listener does.
    ListenerState { index: u32, state: Listener },
    /// A listener's counters begin at zero.
    ClearListenerCounters { index: u32 },
    /// A listener appears.
    AddListener { name: ListenerName, index: u32 },
    /// A listener disappears.
    RemoveListener { name: ListenerName },
    /// One of our addresses appears, or changes its interface.
    SetAddress { address: IpAddr, ifindex: u32 },
    /// One of our addresses disappears.
    RemoveAddress { address: IpAddr },
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
    let mut work =
        Work { ledger, plan, around, writes: Vec::new(), kept: Kept::default(), rings: BTreeMap::new() };
    work.set_targets()?;
    for (own, name, listener) in plan.listeners() {
        if !plan.nodes.get(&own).is_some_and(|node| around.devices.contains_key(&node.device)) {
            continue;
        }
        let targets = work.targets_of(own, listener);
        let ring = work.choose_ring(*name, &targets)?;
        work.set_listener(*name, listener, ring, &targets)?;
    }
    work.set_addresses();
    work.check_rings()?;
    work.remove();
    Ok(work.writes)
}

/// Whether something was put off that the clock makes due: targets whose flows end after a while, rings that are asked
/// only for so long.
pub fn is_due(ledger: &Ledger, tick: u32) -> bool {
    let is_over =
        |state: &Listener| state.previous_ring != NO_RING && !listeners::is_ahead(state.previous_until, tick);
    ledger.states.values().any(is_over)
        || ledger.targets.values().any(|slot| slot.unhealthy_since.is_some() && !slot.has_ended)
}

/// Reconciliation under way.
struct Work<'a> {
    ledger: &'a mut Ledger,
    plan: &'a Plan,
    around: &'a Surroundings,
    writes: Vec<Write>,
    kept: Kept,
    /// Rings of the plan, and whether targets of theirs answer past us.
    rings: BTreeMap<u32, bool>,
}

/// What the plan still has.
#[derive(Default)]
struct Kept {
    addresses: BTreeSet<IpAddr>,
    listeners: BTreeSet<ListenerName>,
    targets: BTreeSet<TargetIdentity>,
    sources: BTreeSet<(u32, IpNet)>,
    server_ids: BTreeSet<(u32, u64)>,
}

fn within(count: usize, limit: usize, what: &'static str) -> Result<(), Exceeded> {
    if count <= limit { Ok(()) } else { Err(Exceeded { what, limit }) }
}

/// The limits that can be told before anything is done.
fn check(ledger: &Ledger, plan: &Plan) -> Result<(), Exceeded> {
    let nodes = || plan.nodes.values().flat_map(super::plan::NodePlan::all_addresses);
    let addresses = || nodes().map(|(address, _)| address);
    within(addresses().filter(IpAddr::is_ipv4).count(), MAX_ADDRESSES, "IPv4 addresses")?;
    within(addresses().filter(IpAddr::is_ipv6).count(), MAX_ADDRESSES, "IPv6 addresses")?;
    let listeners = || plan.listeners().map(|(_, name, listener)| (name, listener));
    within(listeners().count() + ledger.retired_listeners.len(), MAX_LISTENERS, "listeners")?;
    let sources = |is_v4: bool| -> usize {
        let of_family = listeners().filter(|(name, _)| name.address.is_ipv4() == is_v4);
        of_family.filter_map(|(_, listener)| listener.sources.as_ref()).map(BTreeSet::len).sum()
    };
    within(sources(true), MAX_SOURCES, "IPv4 source ranges")?;
    within(sources(false), MAX_SOURCES, "IPv6 source ranges")?;
    let ids = |listener: &super::plan::ListenerPlan| {
        listener.targets.values().filter(|target| target.server_id.is_some()).count()
    };
    within(listeners().map(|(_, listener)| ids(listener)).sum(), MAX_SERVER_IDS, "QUIC server ids")
}

impl Work<'_> {
    /// While rings change, a listener has the old and the new one, and for a while the one before the old if its targets
    /// answer past us.
    fn check_rings(&self) -> Result<(), Exceeded> {
        let direct = self.rings.values().filter(|is_direct| **is_direct).count();
        within(self.rings.len() * 2 + direct, MAX_RINGS, "rings")
    }

    fn set_addresses(&mut self) {
        for node in self.plan.nodes.values() {
            for (address, device) in node.all_addresses() {
                let Some(interface) = self.around.devices.get(device) else { continue };
                self.kept.addresses.insert(address);
                if self.ledger.addresses.insert(address, interface.ifindex) != Some(interface.ifindex) {
                    self.writes.push(Write::SetAddress { address, ifindex: interface.ifindex });
                }
            }
        }
    }

    /// Takes out what the plan no longer has, and retires the indices that flows may still name.
    fn remove(&mut self) {
        let Self { ledger, plan, around, writes, kept, .. } = self;
        let nodes = plan.nodes.values().flat_map(super::plan::NodePlan::all_addresses);
        let planned: BTreeSet<IpAddr> = nodes.map(|(address, _)| address).collect();
        // A node whose device is not there at the moment keeps its listeners: the device comes back, or the node goes.
        let is_away = |address: &IpAddr| planned.contains(address) && !kept.addresses.contains(address);
        ledger.addresses.retain(|address, _| {
            let keep = kept.addresses.contains(address) || is_away(address);
            if !keep {
                writes.push(Write::RemoveAddress { address: *address });
            }
            keep
        });
        let Ledger { listeners, retired_listeners, states, sources, server_ids, .. } = &mut **ledger;
        listeners.retain(|name, index| {
            let keep = kept.listeners.contains(name) || is_away(&name.address);
            if !keep {
                writes.push(Write::RemoveListener { name: *name });
                retired_listeners.insert(*index, around.pass);
                states.remove(index);
            }
            keep
        });
        let away: BTreeSet<u32> =
            listeners.iter().filter(|(name, _)| is_away(&name.address)).map(|(_, index)| *index).collect();
        sources.retain(|(listener, range)| {
            let keep = kept.sources.contains(&(*listener, *range)) || away.contains(listener);
            if !keep {
                writes.push(Write::RefuseSource { listener: *listener, range: *range });
            }
            keep
        });
        server_ids.retain(|(listener, id), _| {
            let keep = kept.server_ids.contains(&(*listener, *id)) || away.contains(listener);
            if !keep {
                writes.push(Write::RemoveServerId { listener: *listener, id: *id });
            }
            keep
        });
        let used: BTreeSet<u32> =
            ledger.states.values().flat_map(|state| [state.ring, state.previous_ring]).collect();
        let unused: Vec<u32> = ledger.rings.keys().filter(|index| !used.contains(index)).copied().collect();
        for index in unused {
            ledger.rings.remove(&index);
            ledger.free_rings.push_back(index);
        }
        for (identity, slot) in &mut ledger.targets {
            if kept.targets.contains(identity) || is_away(&identity.via) {
                slot.retired = None;
                continue;
            }
            slot.retired.get_or_insert(around.pass);
            if slot.terminates && slot.entry.state != target_state::GONE {
                // Its flows find nobody, and are reset.
                slot.entry = Target { state: target_state::GONE, ..slot.entry };
                writes.push(Write::Target { index: slot.index, entry: slot.entry });
            }
        }
    }
}

#[cfg(test)]
mod tests;
