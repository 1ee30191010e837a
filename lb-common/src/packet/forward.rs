//! Packets of a known flow: the hot path. After `frame`; what has no flow goes on to `admit`.

use core::cell::Cell;

use super::cross;
use super::family::Family;
use super::fragment;
use super::frame::Frame;
use super::rewrite::{self, NextHop};
use super::select;
use super::tables::{Arrival, Budget, FamilyTables, Tables};
use super::tunnel;
use super::verdict::Step;
use crate::abi::{DropReason, EMBRYONIC_TICKS, Flow, Target, direction, state, target_mode, target_state};
use crate::wire::flags;

/// Sends a packet that needs nothing else than to be rewritten in place or put into a tunnel, which are nearly all; none
/// if it needs more, and nothing was done or counted yet.
#[inline(always)]
pub(super) fn hasten<F, O, X, T>(frame: &Frame<'_, F>, at: &Arrival<'_, O, X, T>) -> Option<Step>
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let tables = at.tables;
    let key = frame.key();
    let (flow, slot) = at.own.flow(&key)?;
    if flow.ifindex != at.ingress || frame.fragment.is_some() || F::hops(frame.ip) <= 1 {
        return None;
    }
    let tick = tables.pulse().tick;
    let to_target = flow.direction == direction::TO_TARGET;
    let bytes = frame.bytes();
    let verdict = if to_target {
        let target = tables.target(flow.target)?;
        if target.generation != flow.generation || target.state != target_state::READY || frame.opens() {
            return None;
        }
        if flow.mode <= target_mode::PRESERVE {
            observe(frame, &flow, slot, tick, to_target, at);
            rewrite::rewrite(frame, &flow, NextHop::to_target(target))?
        } else if flow.mode != target_mode::CROSS && tunnel::fits::<F>(frame.ip, target) {
            observe(frame, &flow, slot, tick, to_target, at);
            let entropy = select::entropy::<F>(&key);
            tunnel::send::<F, _>(frame.eth, frame.ip, frame.window, target, entropy, tables)
        } else {
            return None;
        }
    } else if flow.mode <= target_mode::PRESERVE {
        observe(frame, &flow, slot, tick, to_target, at);
        rewrite::rewrite(frame, &flow, NextHop::to_client(&flow))?
    } else {
        return None;
    };
    tables.count_forwarded(flow.listener, flow.target, bytes);
    Some(verdict)
}

/// Sends a packet the way its flow goes, whatever that takes.
#[inline(never)]
pub(super) fn forward<F, O, X, T>(frame: &Frame<'_, F>, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let tables = at.tables;
    let Some(draft) = at.own.draft() else { return Step::NO_FLOW };
    draft.key.set(frame.key());
    let Some(slot) = at.own.find_draft() else { return Step::NO_FLOW };
    let flow = || draft.flow.get();
    if flow().ifindex != at.ingress {
        // A bridge floods frames whose port it forgot; the interface they are for gets them as well.
        return Step::PASS;
    }
    let tick = tables.pulse().tick;
    let to_target = flow().direction == direction::TO_TARGET;
    let target = of_flow(&draft.flow, tables);
    if to_target {
        if frame.opens() && (target.is_none() || is_over(&flow(), tick)) || target.is_none() && frame.is_udp()
        {
            // The client uses its ports again, or has no other way to hear that its target is gone.
            at.own.remove_flow(&draft.key.get());
            at.own.remove_flow(&flow().reverse_key(u32::from(frame.protocol())));
            return Step::NO_FLOW;
        }
        match target {
            None => {
                at.own.touch(slot, flow().seen, flow().state | state::RESET);
                if frame.has(flags::RST) {
                    return Step::drop(DropReason::StrayReset);
                }
                tables.count_reset(flow().listener);
                return Step::RESET;
            }
            Some(target) if target.state != target_state::READY => {
                return Step::drop(DropReason::Unresolved);
            }
            Some(_) => {}
        }
    }
    fragment::note(frame, at, tick);
    observe(frame, &flow(), slot, tick, to_target, at);
    let bytes = frame.bytes();
    let hop = match target {
        Some(target) if to_target => NextHop::to_target(target),
        _ => NextHop::to_client(&flow()),
    };
    let mode = flow().mode;
    let step = match target {
        _ if mode <= target_mode::PRESERVE => {
            rewrite::rewrite(frame, &flow(), hop).unwrap_or(Step::drop(DropReason::TtlExpired))
        }
        Some(target) if to_target && mode != target_mode::CROSS => {
            let entropy = select::entropy::<F>(&draft.key.get());
            tunnel::send_if_fits::<F, _>(frame.eth, frame.ip, frame.window, target, entropy, at.tables)
        }
        _ => cross::send(frame, &draft.flow, hop, at),
    };
    if step.forwards() {
        tables.count_forwarded(flow().listener, flow().target, bytes);
    }
    step
}

/// The target of a flow; nobody if its index is another's now.
#[inline(always)]
pub(super) fn of_flow<'tables, A: Copy, T: Tables>(
    flow: &Cell<Flow<A>>,
    tables: &'tables T,
) -> Option<&'tables Target> {
    let flow = flow.get();
    tables
        .target(flow.target)
        .filter(|target| target.generation == flow.generation && target.state != target_state::GONE)
}

/// Writes to the entry only what changed: a flow's cache line stays clean for most packets.
#[inline(always)]
fn observe<F, O, X, T>(
    frame: &Frame<'_, F>,
    flow: &Flow<F::Address>,
    slot: O::Slot,
    tick: u32,
    to_target: bool,
    at: &Arrival<'_, O, X, T>,
) where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let mut now = flow.state;
    if frame.has(flags::RST) {
        now |= state::RESET;
    }
    if frame.has(flags::FIN) {
        now |= state::FINISHED;
    }
    if !to_target || frame.is_udp() || !frame.has(flags::SYN) && frame.has(flags::ACK) {
        now |= state::CONFIRMED;
    }
    // An embryonic entry keeps the time it was made: repeating a SYN does not keep it alive. So does a reset one.
    let seen = if now & state::CONFIRMED != 0 && flow.state & state::RESET == 0 { tick } else { flow.seen };
    if now != flow.state || seen != flow.seen {
        at.own.touch(slot, seen, now);
        if now != flow.state {
            turn(frame, flow, now & !flow.state, tick, to_target, at.tables);
        }
    }
}

/// Counts what is seen of a flow once.
#[inline(always)]
fn turn<F: Family, T: Tables>(
    frame: &Frame<'_, F>,
    flow: &Flow<F::Address>,
    new: u8,
    tick: u32,
    to_target: bool,
    tables: &T,
) {
    if new & state::CONFIRMED != 0 {
        // A flow of TCP is one when its handshake is over; of UDP it is counted when it begins, and what has been
        // answered is no flood.
        if to_target && !frame.is_udp() {
            tables.count_new_flow(flow.listener, flow.target);
        }
        if to_target != frame.is_udp() && flow.began == tick {
            tables.refund_syn(Budget::All, tick);
            tables.refund_syn(Budget::Listener(flow.listener), tick);
        }
    }
    if new & state::RESET != 0 {
        if to_target {
            tables.count_client_reset(flow.listener)
        } else {
            tables.count_target_reset(flow.target)
        }
    }
}

/// Whether the client may use the ports again: it ended the flow itself, or the flow never became one.
#[inline(always)]
fn is_over<A>(flow: &Flow<A>, tick: u32) -> bool {
    flow.state & (state::FINISHED | state::RESET) != 0
        || flow.state & state::CONFIRMED == 0 && tick.wrapping_sub(flow.seen) > EMBRYONIC_TICKS
}
