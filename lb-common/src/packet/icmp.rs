//! Errors about packets of flows: an ICMP message has the beginning of the packet that it is about. What a router or a
//! host says of a packet that we rewrote is for the one who sent it, in terms of the packet that was sent.

use core::cell::Cell;

use super::family::Family;
use super::forward::of_flow;
use super::frame::Other;
use super::rewrite::NextHop;
use super::select;
use super::tables::{Arrival, FamilyTables, Tables};
use super::tunnel;
use super::verdict::Step;
use crate::abi::{DropReason, Flow, FlowKey, PortBe, direction, target_mode, target_state};
use crate::wire::checksum::{delta16, fold, update};
use crate::wire::{Icmp, Ports, protocol};

/// Carries an error to the other end of the flow that it is about; [`Step::NO_FLOW`] if it is about none,
/// [`Step::TRANSLATE`] or [`Step::UNWRAP`] if that takes more.
#[inline(never)]
pub(super) fn carry<F, O, X, T>(packet: &Other<'_, F>, message: &Icmp, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let quoted = packet.body + size_of::<Icmp>();
    // The quoted header has no options, as what we send has none that its client did not: others are the kernel's.
    let Some(inner) = packet.window.view::<F::Header>(quoted) else { return Step::NO_FLOW };
    let Some(carried) = F::carried(inner) else { return Step::NO_FLOW };
    if matches!(carried, protocol::IPV4 | protocol::IPV6) {
        return Step::UNWRAP;
    }
    if !matches!(carried, protocol::TCP | protocol::UDP) {
        return Step::NO_FLOW;
    }
    let Some(ports) = packet.window.view::<Ports>(quoted + size_of::<F::Header>()) else {
        return Step::NO_FLOW;
    };
    if carried == protocol::UDP && ports.destination.number() == tunnel::GUE_PORT {
        return Step::UNWRAP;
    }
    // The flow of packets that would answer the quoted one: they go where this message must go.
    let Some(draft) = at.own.draft() else { return Step::NO_FLOW };
    draft.key.set(FlowKey {
        source: F::destination(inner),
        destination: F::source(inner),
        source_port: PortBe(ports.destination.get()),
        destination_port: PortBe(ports.source.get()),
        protocol: u32::from(carried),
    });
    if at.own.find_draft().is_none() {
        return Step::NO_FLOW;
    }
    let mode = draft.flow.get().mode;
    if draft.flow.get().ifindex != at.ingress {
        return Step::PASS;
    }
    if mode == target_mode::CROSS {
        return Step::TRANSLATE;
    }
    let hop = if draft.flow.get().direction == direction::TO_TARGET {
        let ready = of_flow(&draft.flow, at.tables).filter(|target| target.state == target_state::READY);
        let Some(target) = ready else { return Step::drop(DropReason::Unresolved) };
        if target_mode::is_direct(mode) {
            let entropy = select::entropy::<F>(&draft.key.get());
            // No error answers an error (RFC 1122, §3.2.2).
            if !tunnel::fits::<F>(packet.ip, target) {
                return Step::drop(DropReason::TooBig);
            }
            let bytes = u64::from(F::total(packet.ip));
            let step = tunnel::send::<F, _>(packet.eth, packet.ip, packet.window, target, entropy, at.tables);
            at.tables.count_forwarded(draft.flow.get().listener, draft.flow.get().target, bytes);
            return step;
        }
        NextHop::to_target(target)
    } else {
        NextHop::to_client(&draft.flow.get())
    };
    if F::hops(packet.ip) <= 1 {
        return Step::drop(DropReason::TtlExpired);
    }
    let flow = draft.flow.get();
    // What the quoted packet becomes: the other way round of what the flow makes of answers.
    let inner_ports = delta16(ports.source.get(), flow.destination_port.0)
        + delta16(ports.destination.get(), flow.source_port.0);
    let (inner_delta, outer_delta) = (delta::<F>(inner, &draft.flow), delta::<F>(packet.ip, &draft.flow));
    // The message's checksum covers the quoted header, whose own checksum makes up for the addresses in IPv4; in IPv6
    // there is none, and the pseudo-header counts.
    let changed = if F::VERSION == 4 {
        inner_ports
    } else {
        inner_ports + u32::from(inner_delta) + u32::from(outer_delta)
    };
    hop.address(packet.eth);
    F::readdress(packet.ip, flow.source, flow.destination, outer_delta);
    F::exchange(inner, flow.destination, flow.source, inner_delta);
    ports.source.set(flow.destination_port.0);
    ports.destination.set(flow.source_port.0);
    message.checksum.set(update(message.checksum.get(), u32::from(fold(changed))));
    at.tables.count_forwarded(flow.listener, flow.target, u64::from(F::total(packet.ip)));
    Step::transmit(hop.egress)
}

/// What a flow's addresses in the place of a header's add to a checksum.
#[inline(never)]
fn delta<F: Family>(header: &F::Header, flow: &Cell<Flow<F::Address>>) -> u16 {
    let flow = flow.get();
    let old = F::complement(F::source(header)) + F::complement(F::destination(header));
    fold(old + F::sum(flow.source) + F::sum(flow.destination))
}
