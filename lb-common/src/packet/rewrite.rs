//! New addresses, ports, MACs and checksums in place. Checksums are updated, never recomputed: what was wrong stays wrong.

use super::family::Family;
use super::frame::{Frame, Segment};
use super::verdict::Step;
use crate::abi::{Flow, PortBe, Target};
use crate::wire::Eth;
use crate::wire::checksum::update;

/// Where a frame goes next: its MACs and the interface.
#[derive(Clone, Copy)]
pub(super) struct NextHop {
    pub(super) head: u32,
    pub(super) tail: u16,
    pub(super) own_tail: u16,
    pub(super) own_head: u32,
    pub(super) egress: u32,
}

impl NextHop {
    /// Towards a target.
    #[inline(always)]
    pub(super) fn to_target(target: &Target) -> Self {
        Self {
            head: target.mac_head,
            tail: target.mac_tail,
            own_tail: target.own_mac_tail,
            own_head: target.own_mac_head,
            egress: target.egress,
        }
    }

    /// Back to the client of a flow.
    #[inline(always)]
    pub(super) fn to_client<A>(flow: &Flow<A>) -> Self {
        Self {
            head: flow.mac_head,
            tail: flow.mac_tail,
            own_tail: flow.own_mac_tail,
            own_head: flow.own_mac_head,
            egress: flow.egress,
        }
    }

    /// Writes the MACs.
    #[inline(always)]
    pub(super) fn address(&self, eth: &Eth) {
        eth.destination_head.set(self.head);
        eth.destination_tail.set(self.tail);
        eth.source_head.set(self.own_head);
        eth.source_tail.set(self.own_tail);
    }
}

/// Rewrites a packet as its flow says; none if its time to live is over.
#[inline(always)]
pub(super) fn rewrite<F: Family>(
    frame: &Frame<'_, F>,
    flow: &Flow<F::Address>,
    hop: NextHop,
) -> Option<Step> {
    if F::hops(frame.ip) <= 1 {
        return None;
    }
    hop.address(frame.eth);
    F::readdress(frame.ip, flow.source, flow.destination, flow.ip_delta);
    patch(frame, flow.source_port, flow.destination_port, flow.l4_delta);
    Some(Step::transmit(hop.egress))
}

/// New ports, and what they and the addresses add to the checksum.
#[inline(always)]
pub(super) fn patch<F: Family>(frame: &Frame<'_, F>, source: PortBe, destination: PortBe, delta: u16) {
    frame.ports.source.set(source.0);
    frame.ports.destination.set(destination.0);
    match frame.segment {
        Segment::Tcp(tcp) => tcp.checksum.set(update(tcp.checksum.get(), u32::from(delta))),
        Segment::Udp(udp) => {
            let old = udp.checksum.get();
            // None at all stays none (RFC 768), and one that comes out as zero is sent as its other form.
            if old != 0 {
                let new = update(old, u32::from(delta));
                udp.checksum.set(if new == 0 { u16::MAX } else { new });
            }
        }
    }
}
