//! Listeners: their indices, what they do, who may use them, and QUIC's server ids.

use std::collections::BTreeSet;

use lb_common::abi::{Listener, MAX_LISTENERS, NO_RING, listener_flags};

use super::rings::Identified;
use super::targets::wide;
use super::{Exceeded, Work, Write};
use crate::packet::plan::{ListenerName, ListenerPlan, Service};

impl Work<'_> {
    /// Makes a listener what the plan says. It appears last, when all that it needs is there.
    pub(super) fn set_listener(
        &mut self,
        name: ListenerName,
        plan: &ListenerPlan,
        ring: u32,
        targets: &[Identified<'_>],
    ) -> Result<(), Exceeded> {
        self.kept.listeners.insert(name);
        let known = self.ledger.listeners.get(&name).copied();
        let index = match known {
            Some(index) => index,
            None => self.new_index()?,
        };
        for range in plan.sources.iter().flatten() {
            self.kept.sources.insert((index, *range));
            if self.ledger.sources.insert((index, *range)) {
                self.writes.push(Write::AdmitSource { listener: index, range: *range });
            }
        }
        self.set_server_ids(index, plan, targets);
        self.set_state(index, self.state(name, plan, ring));
        if known.is_none() {
            self.ledger.listeners.insert(name, index);
            self.writes.push(Write::AddListener { name, index });
        }
        Ok(())
    }

    fn new_index(&mut self) -> Result<u32, Exceeded> {
        let taken: BTreeSet<u32> =
            self.ledger.listeners.values().chain(self.ledger.retired_listeners.keys()).copied().collect();
        let limit = u32::try_from(MAX_LISTENERS).unwrap_or(u32::MAX);
        let index = (0..limit)
            .find(|index| !taken.contains(index))
            .ok_or(Exceeded { what: "listeners", limit: MAX_LISTENERS })?;
        self.writes.push(Write::ClearListenerCounters { index });
        Ok(index)
    }

    fn set_server_ids(&mut self, listener: u32, plan: &ListenerPlan, targets: &[Identified<'_>]) {
        if !matches!(plan.service, Service::Quic { .. }) {
            return;
        }
        for (identity, _, target) in targets {
            let slot = self.ledger.targets.get(identity);
            let Some((id, slot)) = target.server_id.zip(slot) else { continue };
            // Targets of two registrations with one id: the first keeps it.
            if self.kept.server_ids.insert((listener, id))
                && self.ledger.server_ids.insert((listener, id), slot.index) != Some(slot.index)
            {
                self.writes.push(Write::SetServerId { listener, id, target: slot.index });
            }
        }
    }

    /// What the listener does from now on, whatever it did before.
    fn state(&self, name: ListenerName, plan: &ListenerPlan, ring: u32) -> Listener {
        let when = |is: bool, flag: u32| if is { flag } else { 0 };
        let (quic, server_id_length) = match plan.service {
            Service::Quic { server_id_length } => (listener_flags::QUIC, u32::from(server_id_length)),
            Service::Forward | Service::Local => (0, 0),
        };
        let share = plan.new_flows_per_s.unwrap_or(self.around.new_flows_per_s / 2);
        Listener {
            ring,
            flags: quic
                | when(plan.sources.is_some(), listener_flags::GUARDED)
                | when(plan.service == Service::Local, listener_flags::LOCAL)
                | when(plan.is_direct(), listener_flags::DIRECT)
                | when(plan.is_sticky, listener_flags::STICKY),
            previous_ring: NO_RING,
            previous_until: 0,
            syn_limit: (share / self.around.cpus.max(1)).max(1),
            server_id_length,
            address: wide(name.address),
        }
    }

    /// Writes a listener's state, what it was before included: the ring that may still be asked for, and the connections
    /// that userspace may still have.
    fn set_state(&mut self, index: u32, mut state: Listener) {
        let tick = self.around.tick;
        let before = self.ledger.states.get(&index).copied();
        let was_local = before
            .is_some_and(|before| before.flags & (listener_flags::LOCAL | listener_flags::LINGERS) != 0);
        if was_local && state.flags & listener_flags::LOCAL == 0 {
            state.flags |= listener_flags::LINGERS;
        }
        let is_direct = state.flags & listener_flags::DIRECT != 0;
        if let Some(before) = before.filter(|before| is_direct && before.ring != NO_RING) {
            if before.ring != state.ring && state.ring != NO_RING {
                (state.previous_ring, state.previous_until) =
                    (before.ring, tick.wrapping_add(PREVIOUS_RING_TICKS));
                // The old ring is noted before the new one is used: in between, both are the same one.
                let both = Listener { ring: before.ring, ..state };
                self.writes.push(Write::ListenerState { index, state: both });
            } else if before.previous_ring != NO_RING && is_ahead(before.previous_until, tick) {
                (state.previous_ring, state.previous_until) = (before.previous_ring, before.previous_until);
            }
        }
        if before != Some(state) {
            self.ledger.states.insert(index, state);
            self.writes.push(Write::ListenerState { index, state });
        }
    }
}

/// Whether a tick is still to come.
pub(super) fn is_ahead(until: u32, tick: u32) -> bool {
    until.wrapping_sub(tick).cast_signed() > 0
}

/// Seconds that flows of the ring before may take to be known: a handshake is over by then, or its first packet is
/// repeated.
const PREVIOUS_RING_TICKS: u32 = 10;
