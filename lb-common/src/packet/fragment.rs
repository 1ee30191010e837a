//! Fragments: the first has the ports and is a packet like any other; the others are found by what it said.

use super::family::Family;
use super::forward::of_flow;
use super::frame::{Follower, Frame};
use super::rewrite::NextHop;
use super::select;
use super::tables::{Arrival, FamilyTables, Tables};
use super::tunnel;
use super::verdict::Step;
use crate::abi::{
    DropReason, FRAGMENT_TICKS, FlowKey, FragmentKey, FragmentPorts, PortBe, direction, target_mode,
    target_state,
};
use crate::wire::Window;

/// Remembers a first fragment's ports, before they are rewritten.
#[inline(always)]
pub(super) fn note<F, O, X, T>(frame: &Frame<'_, F>, at: &Arrival<'_, O, X, T>, tick: u32)
where
    F: Family,
    O: FamilyTables<F>,
{
    let Some(id) = frame.fragment else { return };
    let key = FragmentKey {
        source: F::source(frame.ip),
        destination: F::destination(frame.ip),
        id,
        protocol: u32::from(frame.protocol()),
    };
    let ports = FragmentPorts {
        source: PortBe(frame.ports.source.get()),
        destination: PortBe(frame.ports.destination.get()),
        began: tick,
    };
    at.own.remember_fragment(&key, &ports);
}

/// Sends a later fragment after its first.
#[inline(never)]
pub(super) fn follow<F, O, X, T>(
    packet: &Follower<'_, F>,
    window: &Window<'_>,
    at: &Arrival<'_, O, X, T>,
) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let lost = || match at.own.address(F::destination(packet.ip)) {
        Some(_) => Step::drop(DropReason::Fragment),
        None => Step::PASS,
    };
    let tick = at.tables.pulse().tick;
    let Some(ports) = at.own.fragment(&packet.key) else { return lost() };
    if tick.wrapping_sub(ports.began) > FRAGMENT_TICKS {
        return lost();
    }
    let Some(draft) = at.own.draft() else { return lost() };
    draft.key.set(FlowKey {
        source: packet.key.source,
        destination: packet.key.destination,
        source_port: ports.source,
        destination_port: ports.destination,
        protocol: packet.key.protocol,
    });
    if at.own.find_draft().is_none() {
        return lost();
    }
    let flow = || draft.flow.get();
    if flow().ifindex != at.ingress {
        return Step::PASS;
    }
    let bytes = u64::from(F::total(packet.ip));
    let step = if flow().direction != direction::TO_TARGET {
        readdress(packet, &flow(), NextHop::to_client(&flow()))
    } else {
        let ready = of_flow(&draft.flow, at.tables).filter(|target| target.state == target_state::READY);
        let Some(target) = ready else { return Step::drop(DropReason::Unresolved) };
        if target_mode::is_direct(flow().mode) {
            let entropy = select::entropy::<F>(&draft.key.get());
            tunnel::send_if_fits::<F, _>(packet.eth, packet.ip, window, target, entropy, at.tables)
        } else {
            readdress(packet, &flow(), NextHop::to_target(target))
        }
    };
    if step.forwards() {
        at.tables.count_forwarded(flow().listener, flow().target, bytes);
    }
    step
}

#[inline(always)]
fn readdress<F: Family>(packet: &Follower<'_, F>, flow: &crate::abi::Flow<F::Address>, hop: NextHop) -> Step {
    if flow.mode == target_mode::CROSS {
        return Step::drop(DropReason::Untranslatable);
    }
    if F::hops(packet.ip) <= 1 {
        return Step::drop(DropReason::TtlExpired);
    }
    hop.address(packet.eth);
    F::readdress(packet.ip, flow.source, flow.destination, flow.ip_delta);
    Step::transmit(hop.egress)
}
