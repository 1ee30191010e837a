//! Packets of a known flow: the hot path. After `frame`; what has no flow goes on to `admit`.

use super::frame::Frame;
use super::rewrite::{self, NextHop};
use super::tables::Tables;
use super::verdict::{Step, Verdict};
use crate::abi::{DropReason, EMBRYONIC_TICKS, Flow, Target, direction, state, target_state};
use crate::wire::flags;

/// Sends a packet the way its flow goes.
#[inline(always)]
pub(super) fn forward<T: Tables>(frame: &Frame<'_>, ingress: u32, tables: &T) -> Step {
    let key = frame.key();
    let Some((flow, slot)) = tables.flow(&key) else { return Step::NoFlow };
    if flow.ifindex != ingress {
        // A bridge floods frames whose port it forgot; the interface they are for gets them as well.
        return Step::Done(Verdict::Pass);
    }
    let tick = tables.pulse().tick;
    let to_target = flow.direction == direction::TO_TARGET;
    let next_hop = if to_target {
        let target = match tables.target(flow.target) {
            Some(target) if target.generation == flow.generation => target,
            _ => Target::GONE,
        };
        if frame.opens() && (target.state == target_state::GONE || is_over(&flow, tick)) {
            // The client uses its ports again.
            tables.remove_flow(&flow.reverse_key(key.protocol));
            tables.remove_flow(&key);
            return Step::NoFlow;
        }
        if target.state == target_state::GONE {
            tables.touch(slot, flow.seen, flow.state | state::RESET);
            if frame.has(flags::RST) {
                return Step::Done(Verdict::Drop(DropReason::StrayReset));
            }
            tables.count_reset(flow.listener);
            return Step::Reset;
        }
        if target.state != target_state::READY {
            return Step::Done(Verdict::Drop(DropReason::Unresolved));
        }
        NextHop { head: target.mac_head, tail: target.mac_tail }
    } else {
        NextHop { head: flow.mac_head, tail: flow.mac_tail }
    };
    let Some(new) = rewrite::rewrite(frame, &flow, next_hop) else {
        return Step::Done(Verdict::Drop(DropReason::TtlExpired));
    };
    observe(frame, &flow, slot, tick, to_target, tables);
    tables.count_forwarded(flow.listener, flow.target, frame.bytes());
    Step::Done(new)
}

/// Writes to the entry only what changed: a flow's cache line stays clean for most packets.
#[inline(always)]
fn observe<T: Tables>(frame: &Frame<'_>, flow: &Flow, slot: T::Slot, tick: u32, to_target: bool, tables: &T) {
    let mut now = flow.state;
    if frame.has(flags::RST) {
        now |= state::RESET;
    }
    if frame.has(flags::FIN) {
        now |= state::FINISHED;
    }
    if !to_target || !frame.has(flags::SYN) && frame.has(flags::ACK) {
        now |= state::CONFIRMED;
    }
    // An embryonic entry keeps the time it was made: repeating a SYN does not keep it alive. So does a reset one.
    let seen = if now & state::CONFIRMED != 0 && flow.state & state::RESET == 0 { tick } else { flow.seen };
    if now != flow.state || seen != flow.seen {
        tables.touch(slot, seen, now);
        if to_target && now & !flow.state & state::CONFIRMED != 0 {
            tables.count_new_flow(flow.listener, flow.target);
            if flow.began == tick {
                tables.refund_syn(tick);
            }
        }
        if !to_target && now & !flow.state & state::RESET != 0 {
            tables.count_target_reset(flow.target);
        }
    }
}

/// Whether the client may use the ports again: it ended the flow itself, or the flow never became one.
#[inline(always)]
fn is_over(flow: &Flow, tick: u32) -> bool {
    flow.state & (state::FINISHED | state::RESET) != 0
        || flow.state & state::CONFIRMED == 0 && tick.wrapping_sub(flow.seen) > EMBRYONIC_TICKS
}
