//! Targets: each has an index as long as a flow may name it, a generation, and the next hop that leads to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::abi::{Ipv6Be, MAX_TARGETS, PortBe, Target, target_state};

use super::{Exceeded, Interface, Mac, Work, Write};
use crate::packet::ledger::{TargetIdentity, TargetSlot, group_hash};
use crate::packet::plan::{ListenerPlan, Plan, Reach, TargetName, TargetPlan, Verdict};

/// A target of the plan, by all the listeners that have it.
struct Wanted<'plan> {
    reach: Reach<'plan>,
    target: &'plan TargetPlan,
    /// Whether its flows end when it is gone.
    terminates: bool,
    /// After how much bad health its flows end, if it is bad for all listeners.
    ends_after_s: Option<u32>,
}

impl<'a> Work<'a> {
    /// Gives each target of the plan an index and its next hop.
    pub(super) fn set_targets(&mut self) -> Result<(), Exceeded> {
        let mut free = self.free_indices();
        for (identity, wanted) in wanted(self.plan, |device| self.around.devices.contains_key(device)) {
            let slot = match self.ledger.targets.get(&identity) {
                Some(slot) if slot.entry.state == target_state::GONE => {
                    // Its flows were ended, those that have not noticed yet as well.
                    let generation = slot.entry.generation.wrapping_add(1);
                    TargetSlot { entry: Target { generation, ..slot.entry }, ..*slot }
                }
                Some(slot) => *slot,
                None => {
                    let index = free.next().ok_or(Exceeded { what: "targets", limit: MAX_TARGETS })?;
                    self.writes.push(Write::ClearTargetCounters { index });
                    let last = self.ledger.generations.get(&index);
                    let generation = last.map_or(1, |last| last.wrapping_add(1));
                    TargetSlot::adopted(index, Target { generation, ..Target::GONE })
                }
            };
            let slot = self.renew(&identity, &wanted, slot);
            let before = self.ledger.targets.insert(identity, slot);
            if before.is_none_or(|before| before.entry != slot.entry) {
                self.writes.push(Write::Target { index: slot.index, entry: slot.entry });
            }
            self.kept.targets.insert(identity);
        }
        Ok(())
    }

    /// A listener's targets, those to which something can be sent, once for each way.
    pub(super) fn targets_of<'plan>(
        &self,
        own: IpAddr,
        listener: &'plan ListenerPlan,
    ) -> Vec<(TargetIdentity, &'plan TargetName, &'plan TargetPlan)> {
        let ways = |(name, target)| {
            identify(self.plan, own, name, target).map(move |identity| (identity, name, target))
        };
        listener.targets.iter().flat_map(ways).collect()
    }

    /// The slot as it should be now.
    fn renew(&self, identity: &TargetIdentity, wanted: &Wanted<'_>, slot: TargetSlot) -> TargetSlot {
        let Wanted { reach, target, terminates, ends_after_s } = wanted;
        let tick = self.around.tick;
        let unhealthy_since = ends_after_s.map(|_| slot.unhealthy_since.unwrap_or(tick));
        let is_ended = unhealthy_since
            .zip(*ends_after_s)
            .is_some_and(|(since, after)| tick.wrapping_sub(since) >= after);
        let mut generation = slot.entry.generation;
        if is_ended && !slot.has_ended {
            // Flows that it has are of an earlier generation, and find nobody.
            generation = generation.wrapping_add(1);
        }
        let known = self.around.path_mtus.get(&identity.address);
        let interface = self
            .around
            .devices
            .get(reach.device)
            .map(|own| Interface { mtu: known.map_or(own.mtu, |path| own.mtu.min(*path)), ..*own });
        let neighbour = interface
            .as_ref()
            .and_then(|own| self.around.neighbours.get(&(own.ifindex, reach.next_hop)).copied());
        let was_ready = slot.entry.state == target_state::READY;
        // The last MAC that was known is better than none: its owner may just be slow to answer.
        let mac = neighbour.or_else(|| was_ready.then(|| mac_of(&slot.entry)));
        let entry = match (&interface, mac) {
            (Some(own), Some(mac)) => entry(identity, target, generation, own, mac),
            (Some(own), None) => {
                Target { state: target_state::UNRESOLVED, ..entry(identity, target, generation, own, [0; 6]) }
            }
            // The interface that led to it is away: it comes back, or the plan changes.
            (None, _) if slot.entry.state != target_state::GONE => Target { generation, ..slot.entry },
            (None, _) => {
                let none = Interface { ifindex: 0, mac: [0; 6], mtu: 0 };
                let state = target_state::UNRESOLVED;
                Target { state, ..entry(identity, target, generation, &none, [0; 6]) }
            }
        };
        TargetSlot {
            index: slot.index,
            entry,
            retired: None,
            terminates: *terminates,
            unhealthy_since,
            has_ended: is_ended,
        }
    }

    fn free_indices(&self) -> impl Iterator<Item = u16> + use<> {
        let taken: BTreeSet<u16> = self.ledger.targets.values().map(|slot| slot.index).collect();
        (0..u16::try_from(MAX_TARGETS).unwrap_or(u16::MAX)).filter(move |index| !taken.contains(index))
    }
}

/// Every target of the plan's nodes on these devices once, however many listeners it has.
fn wanted<'plan>(
    plan: &'plan Plan,
    is_there: impl Fn(&str) -> bool,
) -> BTreeMap<TargetIdentity, Wanted<'plan>> {
    let mut all: BTreeMap<TargetIdentity, Wanted<'plan>> = BTreeMap::new();
    for (own, node) in plan.nodes.iter().filter(|(_, node)| is_there(&node.device)) {
        for (name, target) in node.listeners.values().flat_map(|listener| &listener.targets) {
            let is_bad = target.health == Verdict::Unhealthy;
            let ends_after_s = target.ends_after_s.filter(|_| is_bad);
            for reach in plan.ways(*own, target) {
                let wanted = Wanted { reach, target, terminates: target.terminates, ends_after_s };
                all.entry(identity(reach.via, name, target))
                    .and_modify(|known| {
                        known.terminates |= target.terminates;
                        known.ends_after_s =
                            known.ends_after_s.zip(ends_after_s).map(|(one, other)| one.max(other));
                    })
                    .or_insert(wanted);
            }
        }
    }
    all
}

/// What a target of a plan's node is recognized by, once for each way to it; nothing if the node has nothing of its
/// address's family.
pub fn identify<'plan>(
    plan: &'plan Plan,
    own: IpAddr,
    name: &'plan TargetName,
    target: &'plan TargetPlan,
) -> impl Iterator<Item = TargetIdentity> + use<'plan> {
    plan.ways(own, target).map(|reach| identity(reach.via, name, target))
}

fn identity(via: IpAddr, name: &TargetName, target: &TargetPlan) -> TargetIdentity {
    TargetIdentity { via, group: group_hash(name), address: target.address, port: name.key.port }
}

fn entry(
    identity: &TargetIdentity,
    target: &TargetPlan,
    generation: u16,
    own: &Interface,
    mac: Mac,
) -> Target {
    let (mac_head, mac_tail) = halves(mac);
    let (own_mac_head, own_mac_tail) = halves(own.mac);
    Target {
        generation,
        state: target_state::READY,
        mode: target.mode.number(),
        port: PortBe::new(identity.port),
        mac_head,
        mac_tail,
        own_mac_tail,
        own_mac_head,
        egress: own.ifindex,
        mtu: own.mtu,
        family: if identity.address.is_ipv4() { 4 } else { 6 },
        group: identity.group,
        address: wide(identity.address),
        via: wide(identity.via),
    }
}

/// An address as tables of both families hold it.
pub(in crate::packet) fn wide(address: IpAddr) -> Ipv6Be {
    match address {
        IpAddr::V4(address) => Ipv6Be::of_v4(address.into()),
        IpAddr::V6(address) => address.into(),
    }
}

fn halves([a, b, c, d, e, f]: Mac) -> (u32, u16) {
    (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]))
}

fn mac_of(entry: &Target) -> Mac {
    let ([a, b, c, d], [e, f]) = (entry.mac_head.to_ne_bytes(), entry.mac_tail.to_ne_bytes());
    [a, b, c, d, e, f]
}
