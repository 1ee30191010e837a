//! Which packets a capture samples: asked beside the path and never on it.
//!
//! What a packet is can be asked before it is decided about, when it still is as it came; what became of it only after.

use super::Staged;
use super::family::{V4, V6};
use super::frame::{IP, Parsed};
use super::tables::{FamilyTables, Tables};
use crate::abi::{
    CaptureFilter, CaptureState, DropReason, ListenerKey, MAX_LISTENERS, NO_REASON,
    capture_verdict as verdict,
};
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth, Window};

/// Whether a capture is through on this CPU.
#[inline(always)]
pub fn is_over(filter: &CaptureFilter, state: &CaptureState, tick: u32) -> bool {
    state.taken >= filter.count || tick.wrapping_sub(filter.began) >= filter.ticks
}

/// Whether a packet, as it came, is of a source and a listener that are asked for. What has no ports that can be read
/// belongs to no listener.
#[inline(always)]
pub fn concerns<T: Tables>(window: &Window<'_>, filter: &CaptureFilter, tables: &T) -> bool {
    if filter.family == 0 && filter.is_of_listeners == 0 {
        return true;
    }
    let Some(eth) = window.view::<Eth>(0) else { return false };
    match eth.ethertype.get() {
        ETHERTYPE_IPV4 => concerns_of::<V4, T>(window, eth, filter, tables),
        ETHERTYPE_IPV6 => concerns_of::<V6, T>(window, eth, filter, tables),
        _ => false,
    }
}

#[inline(always)]
fn concerns_of<F: Staged<T>, T: Tables>(
    window: &Window<'_>,
    eth: &Eth,
    filter: &CaptureFilter,
    tables: &T,
) -> bool {
    if filter.family != 0 {
        let Some(ip) = window.view::<F::Header>(IP) else { return false };
        if filter.family != u32::from(F::VERSION) || !is_in_range(F::widen(F::source(ip)).0, filter) {
            return false;
        }
    }
    if filter.is_of_listeners == 0 {
        return true;
    }
    let Parsed::Whole(frame) = F::parse(window, eth, tables) else { return false };
    let own = F::arrival(tables, 0).own;
    let key = frame.key();
    let listener = match own.flow(&key) {
        Some((flow, _)) => Some(flow.listener),
        None => own.listener(&ListenerKey {
            address: key.destination,
            port: key.destination_port,
            protocol: frame.protocol(),
            pad: 0,
        }),
    };
    listener.is_some_and(|index| has(filter, index))
}

/// Whether a packet that concerns a capture is sampled, after this became of it.
#[inline(always)]
pub fn takes(filter: &CaptureFilter, state: &mut CaptureState, tick: u32, verdict: u8, reason: u8) -> bool {
    if filter.verdicts & u32::from(verdict) == 0 {
        return false;
    }
    if verdict == verdict::DROP && !asks_for(filter, reason) {
        return false;
    }
    state.matched += 1;
    if state.skip > 0 {
        state.skip -= 1;
        return false;
    }
    state.skip = filter.every.saturating_sub(1);
    if state.tick != tick {
        state.tick = tick;
        state.in_tick = 0;
    }
    if state.in_tick >= filter.per_tick {
        state.limited += 1;
        return false;
    }
    state.in_tick += 1;
    state.taken += 1;
    true
}

#[inline(always)]
fn asks_for(filter: &CaptureFilter, reason: u8) -> bool {
    filter.reasons == u64::MAX || reason != NO_REASON && filter.reasons >> (reason & 63) & 1 != 0
}

#[inline(always)]
fn is_in_range(address: [u32; 4], filter: &CaptureFilter) -> bool {
    let (range, mask) = (filter.source.0, filter.source_mask.0);
    let differs = |at: usize| (address[at] ^ range[at]) & mask[at];
    differs(0) | differs(1) | differs(2) | differs(3) == 0
}

#[inline(always)]
fn has(filter: &CaptureFilter, listener: u32) -> bool {
    // A mask instead of a comparison: the verifier follows it.
    let word = filter.listeners[(listener >> 6) as usize & (WORDS - 1)];
    word >> (listener & 63) & 1 != 0
}

/// Words of a set of listeners.
const WORDS: usize = MAX_LISTENERS / 64;
const _: () = assert!(WORDS.is_power_of_two(), "masked as such");

const _: () = assert!(DropReason::ALL.len() <= 64, "a reason is a bit of a word");
