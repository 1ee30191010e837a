//! The tables that decide, over the maps. No policy here: every line is a lookup, a store or an addition.

use aya_ebpf::bindings::BPF_NOEXIST;
use lb_common::abi::{
    DropReason, Flow, FlowKey, Ipv4Be, Listener, ListenerCounters, ListenerKey, PortBe, Pulse, RING_SIZE, SourceKey,
    SynBudget, Target, TargetCounters,
};
use lb_common::packet::{InsertError, Tables};

use crate::maps;

/// The maps of this program.
pub struct Maps;

impl Tables for Maps {
    type Slot = *mut Flow;

    #[inline(always)]
    fn pulse(&self) -> Pulse {
        match maps::PULSE.get(0) {
            Some(pulse) => *pulse,
            None => Pulse { tick: 0, syn_limit: 0 },
        }
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<(Flow, Self::Slot)> {
        let slot = maps::FLOWS.get_ptr_mut(key)?;
        // SAFETY: map memory is valid while the program runs. An entry that is removed and used again meanwhile gives a
        // mixture, and the packet a wrong checksum: its receiver drops it.
        Some((unsafe { *slot }, slot))
    }

    #[inline(always)]
    fn touch(&self, slot: Self::Slot, seen: u32, state: u8) {
        // SAFETY: as above; both are single stores, the last one wins.
        unsafe {
            (*slot).seen = seen;
            (*slot).state = state;
        }
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
        maps::FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)).map_err(|errno| match errno {
            EEXIST => InsertError::Exists,
            _ => InsertError::Full,
        })
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        // Gone already is as good.
        let _ = maps::FLOWS.remove(key);
    }

    #[inline(always)]
    fn address(&self, address: Ipv4Be) -> Option<u32> {
        // SAFETY: copied at once; userspace never changes an address's interface.
        unsafe { maps::ADDRESSES.get(address) }.copied()
    }

    #[inline(always)]
    fn listener(&self, key: &ListenerKey) -> Option<u32> {
        // SAFETY: copied at once; userspace never changes a listener's index.
        unsafe { maps::LISTENERS.get(key) }.copied()
    }

    #[inline(always)]
    fn listener_state(&self, index: u32) -> Option<Listener> {
        maps::LISTENER_STATE.get(index).copied()
    }

    #[inline(always)]
    fn admits(&self, source: &SourceKey) -> bool {
        let key = aya_ebpf::btf_maps::lpm_trie::Key::new(
            64,
            SourceKey { listener: source.listener, source: source.source },
        );
        maps::SOURCES.get(&key).is_some()
    }

    #[inline(always)]
    fn ring_slot(&self, ring: u32, hash: u32) -> Option<u16> {
        let ring = maps::RINGS.get_ptr(ring)?;
        // Multiply and shift instead of a remainder: the verifier can follow it below RING_SIZE.
        // The black box keeps the compiler from merging it with the scaling below into what it cannot.
        let slot = core::hint::black_box((u64::from(hash) * RING_SIZE as u64) >> 32);
        // SAFETY: `slot` is below RING_SIZE, because `hash` is below 2^32.
        Some(unsafe { *ring.cast::<u16>().add(slot as usize) })
    }

    #[inline(always)]
    fn target(&self, index: u32) -> Option<Target> {
        maps::TARGETS.get(index).copied()
    }

    #[inline(always)]
    fn next_port(&self) -> Option<PortBe> {
        let cursor = maps::PORTS.get_ptr_mut(0)?;
        // SAFETY: this CPU's own element; XDP programs of one CPU do not interrupt each other.
        unsafe {
            let offset = (*cursor).next;
            if (*cursor).span == 0 {
                return None;
            }
            (*cursor).next = if offset + 1 >= (*cursor).span { 0 } else { offset + 1 };
            Some(PortBe::new((*cursor).first + offset))
        }
    }

    #[inline(always)]
    fn spend_syn(&self, tick: u32) -> SynBudget {
        let Some(budget) = maps::SYN_BUDGET.get_ptr_mut(0) else { return SynBudget { tick, used: u32::MAX } };
        // SAFETY: this CPU's own element.
        unsafe {
            let used = if (*budget).tick == tick { (*budget).used } else { 0 };
            (*budget).tick = tick;
            (*budget).used = used + 1;
            SynBudget { tick, used: used + 1 }
        }
    }

    #[inline(always)]
    fn refund_syn(&self, tick: u32) {
        let Some(budget) = maps::SYN_BUDGET.get_ptr_mut(0) else { return };
        // SAFETY: this CPU's own element.
        unsafe {
            if (*budget).tick == tick && (*budget).used > 0 {
                (*budget).used -= 1;
            }
        }
    }

    #[inline(always)]
    fn count_forwarded(&self, listener: u32, target: u32, bytes: u64) {
        at_listener(listener, |counters| {
            counters.packets += 1;
            counters.bytes += bytes;
        });
        at_target(target, |counters| {
            counters.packets += 1;
            counters.bytes += bytes;
        });
    }

    #[inline(always)]
    fn count_new_flow(&self, listener: u32, target: u32) {
        at_listener(listener, |counters| counters.new_flows += 1);
        at_target(target, |counters| counters.new_flows += 1);
    }

    #[inline(always)]
    fn count_rejected(&self, listener: u32) {
        at_listener(listener, |counters| counters.rejected += 1);
    }

    #[inline(always)]
    fn count_blocked(&self, listener: u32) {
        at_listener(listener, |counters| counters.blocked += 1);
    }

    #[inline(always)]
    fn count_reset(&self, listener: u32) {
        at_listener(listener, |counters| counters.resets += 1);
    }

    #[inline(always)]
    fn count_target_reset(&self, target: u32) {
        at_target(target, |counters| counters.resets += 1);
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        if let Some(count) = maps::DROPS.get_ptr_mut(reason.index()) {
            // SAFETY: this CPU's own element.
            unsafe { *count += 1 }
        }
    }
}

#[inline(always)]
fn at_listener(index: u32, add: impl FnOnce(&mut ListenerCounters)) {
    if let Some(counters) = maps::LISTENER_COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        add(unsafe { &mut *counters });
    }
}

#[inline(always)]
fn at_target(index: u32, add: impl FnOnce(&mut TargetCounters)) {
    if let Some(counters) = maps::TARGET_COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        add(unsafe { &mut *counters });
    }
}

const EEXIST: i32 = -17;
