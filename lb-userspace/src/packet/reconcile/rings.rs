//! Rings: who gets new flows of a listener, and how many.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::abi::{MAX_RINGS, NO_RING, target_mode, target_state};

use super::{Exceeded, Work, Write};
use crate::model::id::Arn;
use crate::packet::ledger::{Ledger, RingContent, TargetIdentity, TargetSlot, member_seed};
use crate::packet::maglev::{self, Member};
use crate::packet::plan::{ListenerName, TargetName, TargetPlan, Verdict};

/// A target of a listener, identified.
pub(super) type Identified<'plan> = (TargetIdentity, &'plan TargetName, &'plan TargetPlan);

impl Work<'_> {
    /// The ring with the members that these targets make: one that is there already, or one that is filled now.
    pub(super) fn choose_ring(
        &mut self,
        name: ListenerName,
        targets: &[Identified<'_>],
    ) -> Result<u32, Exceeded> {
        let members = members(self.ledger, name, targets);
        if members.is_empty() {
            return Ok(NO_RING);
        }
        let mut built = None;
        let present = self.ledger.rings.iter().find_map(|(index, content)| {
            let same = match content {
                RingContent::Members(own) => *own == members,
                RingContent::Adopted(slots) => {
                    **slots == **built.get_or_insert_with(|| maglev::ring(&members))
                }
            };
            same.then_some(*index)
        });
        let index = match present {
            Some(index) => index,
            None => {
                let index = free_ring(self.ledger)?;
                self.writes.push(Write::Ring { index, members: members.clone() });
                index
            }
        };
        self.ledger.rings.insert(index, RingContent::Members(members));
        let is_direct = targets.iter().any(|(.., target)| target_mode::is_direct(target.mode.number()));
        *self.rings.entry(index).or_default() |= is_direct;
        Ok(index)
    }
}

/// Who gets new flows, and how many.
fn members(ledger: &Ledger, name: ListenerName, targets: &[Identified<'_>]) -> Vec<Member> {
    let adopted = ledger.adopted_targets(name);
    let taking_part: Vec<_> = targets
        .iter()
        .filter_map(|(identity, name, target)| {
            let slot = ledger.targets.get(identity)?;
            (target.weight > 0).then_some(Candidate { identity, group: &name.group, target, slot })
        })
        .collect();
    let is_trusted = |candidate: &Candidate<'_>| match candidate.target.health {
        Verdict::Healthy => true,
        Verdict::Unknown => adopted.contains(&candidate.slot.index),
        Verdict::Unhealthy | Verdict::Initial | Verdict::Draining => false,
    };
    let picked = |is_wanted: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Member> {
        weigh(taking_part.iter().filter(|candidate| is_wanted(candidate)))
    };
    // Best are those that can be reached now; then those that should be; then, failing open, all.
    let best =
        picked(&|candidate| is_trusted(candidate) && candidate.slot.entry.state == target_state::READY);
    if !best.is_empty() {
        return best;
    }
    let hoped = picked(&is_trusted);
    if hoped.is_empty() { picked(&|_| true) } else { hoped }
}

struct Candidate<'a> {
    identity: &'a TargetIdentity,
    group: &'a Arn,
    target: &'a TargetPlan,
    slot: &'a TargetSlot,
}

/// A group's weight is shared by those of its targets that were picked, and a target's by the ways to it.
fn weigh<'a>(picked: impl Iterator<Item = &'a Candidate<'a>> + Clone) -> Vec<Member> {
    let mut groups: BTreeMap<&Arn, BTreeMap<(IpAddr, u16), u32>> = BTreeMap::new();
    for Candidate { identity, group, .. } in picked.clone() {
        *groups.entry(group).or_default().entry((identity.address, identity.port)).or_default() += 1;
    }
    let mut members: Vec<Member> = picked
        .map(|candidate| {
            let at = (candidate.identity.address, candidate.identity.port);
            let targets = groups.get(candidate.group);
            let size = targets.and_then(|targets| u32::try_from(targets.len()).ok()).unwrap_or(1).max(1);
            let ways = targets.and_then(|targets| targets.get(&at).copied()).unwrap_or(1).max(1);
            Member {
                seed: member_seed(candidate.identity),
                index: candidate.slot.index,
                weight: (candidate.target.weight.min(MAX_WEIGHT) * SHARES / size / ways).max(1),
            }
        })
        .collect();
    members.sort_unstable();
    members
}

fn free_ring(ledger: &mut Ledger) -> Result<u32, Exceeded> {
    let limit = u32::try_from(MAX_RINGS).unwrap_or(u32::MAX);
    let unused =
        (0..limit).find(|index| !ledger.rings.contains_key(index) && !ledger.free_rings.contains(index));
    unused.or_else(|| ledger.free_rings.pop_front()).ok_or(Exceeded { what: "rings", limit: MAX_RINGS })
}

/// AWS's highest weight of a target group.
const MAX_WEIGHT: u32 = 999;

/// A group's weight is cut in this many parts, so that groups of unlike sizes share as they should: AWS's 1,000 targets a
/// group get theirs to within a thousandth. Times the highest weight it still fits.
const SHARES: u32 = 1_000_000;
