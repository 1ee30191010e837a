//! Packets of no flow: whose they are, and whether one may begin. After `forward`; `begin` comes next.

use super::begin;
use super::cookie;
use super::family::Family;
use super::frame::{Frame, Other};
use super::icmp;
use super::tables::{Arrival, FamilyTables, Tables};
use super::verdict::Step;
use crate::abi::{DropReason, LAST_NAT_PORT, ListenerKey, PortBe, SourceKey, listener_flags};
use crate::wire::{Icmp, flags};

/// A TCP or UDP packet of no flow; the step is [`Step::NO_FLOW`] if it may begin one, and the note says which.
#[inline(always)]
pub(super) fn admit<F, O, X, T>(frame: &Frame<'_, F>, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let tables = at.tables;
    let key = frame.key();
    if at.own.address(key.destination) != Some(at.ingress) {
        return Step::PASS;
    }
    let protocol = frame.protocol();
    let listener = ListenerKey { address: key.destination, port: key.destination_port, protocol, pad: 0 };
    let Some(index) = at.own.listener(&listener) else {
        return if is_kernels(key.destination_port) && !frame.opens() {
            Step::PASS
        } else {
            Step::drop(DropReason::NoListener)
        };
    };
    let Some(listener) = tables.listener_state(index) else {
        return Step::drop(DropReason::NoListener);
    };
    let has = |flag| listener.flags & flag != 0;
    if has(listener_flags::GUARDED) && !at.own.admits(&SourceKey { listener: index, source: key.source }) {
        if frame.opens() || frame.is_udp() {
            tables.count_blocked(index);
        }
        return Step::drop(DropReason::SecurityGroup);
    }
    if has(listener_flags::LOCAL) {
        return cookie::admit(frame, index, listener, at);
    }
    let resets = frame.has(flags::RST);
    if frame.opens() || frame.is_udp() || has(listener_flags::DIRECT) && !resets {
        return begin::prepare(frame, index, listener, at);
    }
    if has(listener_flags::LINGERS) {
        return Step::PASS;
    }
    if resets {
        return Step::drop(DropReason::StrayReset);
    }
    tables.count_reset(index);
    Step::RESET
}

/// A packet that is neither TCP nor UDP.
#[inline(always)]
pub(super) fn other<F, O, X, T>(packet: &Other<'_, F>, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    if packet.protocol != F::ICMP {
        return match at.own.address(F::destination(packet.ip)) {
            Some(_) => Step::drop(DropReason::Protocol),
            None => Step::PASS,
        };
    }
    let Some(message) = packet.window.view::<Icmp>(packet.body) else {
        return bad::<F, _>(Some(packet.ip), DropReason::Truncated, at.own);
    };
    if F::is_error(message) {
        let step = icmp::carry(packet, message, at);
        if step != Step::NO_FLOW {
            return step;
        }
    }
    if at.own.address(F::destination(packet.ip)).is_none() || F::is_kernels(message) {
        return Step::PASS;
    }
    Step::drop(DropReason::Icmp)
}

/// A packet that cannot be what it says. Others' packets are the kernel's, whatever is wrong with them.
#[inline(always)]
pub(super) fn bad<F: Family, O: FamilyTables<F>>(
    header: Option<&F::Header>,
    reason: DropReason,
    own: &O,
) -> Step {
    match header {
        Some(header) if own.address(F::destination(header)).is_none() => Step::PASS,
        _ => Step::drop(reason),
    }
}

/// Whether the node's own sockets use this port.
#[inline(always)]
fn is_kernels(port: PortBe) -> bool {
    port.number() > LAST_NAT_PORT
}
