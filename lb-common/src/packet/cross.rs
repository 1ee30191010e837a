//! A packet changes its family on its way: an IPv4 client has an IPv6 target, or the other way round (RFC 7915, §4 and
//! §5, for TCP and UDP that is whole and has a checksum). The checksum's difference is the flow's, like any other's.

use core::cell::Cell;

use super::family::Family;
use super::forward::of_flow;
use super::frame::{Frame, IP, Segment};
use super::rewrite::{NextHop, patch};
use super::tables::{Arrival, Tables};
use super::verdict::Step;
use crate::abi::{DropReason, Flow, Ipv6Be, direction};
use crate::wire::Eth;

/// Sends a packet as one of the other family.
#[inline(never)]
pub(super) fn send<F, O, X, T>(
    frame: &Frame<'_, F>,
    flow: &Cell<Flow<F::Address>>,
    hop: NextHop,
    at: &Arrival<'_, O, X, T>,
) -> Step
where
    F: Family,
    T: Tables,
{
    let has_checksum = match frame.segment {
        Segment::Tcp(_) => true,
        Segment::Udp(udp) => udp.checksum.get() != 0,
    };
    if frame.body != F::BODY || frame.fragment.is_some() || !has_checksum {
        return Step::drop(DropReason::Untranslatable);
    }
    let hops = F::hops(frame.ip);
    if hops <= 1 {
        return Step::drop(DropReason::TtlExpired);
    }
    // Both are within a frame: an IPv6 header is 20 bytes longer.
    let length = F::total(frame.ip).wrapping_sub((F::BODY - IP) as u16);
    let total = u32::from(length) + (<F::Other as Family>::BODY - IP) as u32;
    let grow = (<F::Other as Family>::BODY as i32) - (F::BODY as i32);
    let is_to_target = flow.get().direction == direction::TO_TARGET;
    // What comes from IPv6 becomes smaller.
    if F::VERSION == 4
        && is_to_target
        && let Some(target) = of_flow(flow, at.tables)
        && total > u32::from(target.mtu)
    {
        return Step::TOO_BIG;
    }
    let (protocol, class) = (frame.protocol(), F::class(frame.ip));
    let ports = flow.get();
    patch(frame, ports.source_port, ports.destination_port, ports.l4_delta);
    let Some(window) = at.tables.regrow(frame.window, grow) else {
        return Step::drop(DropReason::TooBig);
    };
    let (Some(eth), Some(ip)) = (window.view::<Eth>(0), window.view::<<F::Other as Family>::Header>(IP))
    else {
        return Step::drop(DropReason::Truncated);
    };
    hop.address(eth);
    eth.ethertype.set(<F::Other as Family>::ETHERTYPE);
    let (source, destination) = match ends::<F, T>(flow, at.tables) {
        Ok(ends) => ends,
        Err(reason) => return Step::drop(reason),
    };
    let narrow = <F::Other as Family>::narrow;
    <F::Other as Family>::write(ip, narrow(source), narrow(destination), protocol, class, hops - 1, length);
    Step::transmit(hop.egress)
}

/// Where packets of a flow come from and go to in the other family.
#[inline(always)]
pub(super) fn ends<F: Family, T: Tables>(
    flow: &Cell<Flow<F::Address>>,
    tables: &T,
) -> Result<(Ipv6Be, Ipv6Be), DropReason> {
    if flow.get().direction == direction::TO_TARGET {
        let target = of_flow(flow, tables).ok_or(DropReason::Unresolved)?;
        Ok((target.via, target.address))
    } else {
        let listener = tables.listener_state(flow.get().listener).ok_or(DropReason::NoListener)?;
        Ok((listener.address, F::client(&flow.get())))
    }
}
