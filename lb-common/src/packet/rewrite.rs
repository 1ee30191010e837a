//! New addresses, ports, MACs and checksums in place. Checksums are updated, never recomputed: what was wrong stays wrong.

use super::frame::Frame;
use super::verdict::Verdict;
use crate::abi::{Flow, FlowKey, Ipv4Be, PortBe};
use crate::wire::checksum::{delta16, delta32, fold, update};

/// The MAC that frames go to.
#[derive(Clone, Copy)]
pub(super) struct NextHop {
    pub(super) head: u32,
    pub(super) tail: u16,
}

/// What replacing addresses and ports adds to the two checksums.
pub(super) struct Deltas {
    pub(super) ip: u16,
    pub(super) tcp: u16,
}

/// Rewrites a packet as its flow says and turns it round; none if its time to live is over.
#[inline(always)]
pub(super) fn rewrite(frame: &Frame<'_>, flow: &Flow, next_hop: NextHop) -> Option<Verdict> {
    let Frame { eth, ip, tcp, .. } = frame;
    let ttl = ip.ttl.get();
    if ttl <= 1 {
        return None;
    }
    eth.source_head.set(eth.destination_head.get());
    eth.source_tail.set(eth.destination_tail.get());
    eth.destination_head.set(next_hop.head);
    eth.destination_tail.set(next_hop.tail);

    let aged = const { u16::from_ne_bytes([1, 0]) };
    ip.ttl.set(ttl - 1);
    // One less in the word of time to live and protocol, whatever they are: ~1 in one's complement.
    ip.checksum.set(update(ip.checksum.get(), u32::from(flow.ip_delta) + u32::from(!aged)));
    ip.source.set(flow.source.0);
    ip.destination.set(flow.destination.0);

    tcp.source.set(flow.source_port.0);
    tcp.destination.set(flow.destination_port.0);
    tcp.checksum.set(update(tcp.checksum.get(), u32::from(flow.tcp_delta)));
    Some(Verdict::Transmit)
}

/// Deltas of a flow that turns packets with `key` into packets with these addresses and ports.
#[inline(always)]
pub(super) fn deltas(
    key: &FlowKey,
    source: Ipv4Be,
    destination: Ipv4Be,
    source_port: PortBe,
    destination_port: PortBe,
) -> Deltas {
    let addresses = delta32(key.source.0, source.0) + delta32(key.destination.0, destination.0);
    let ports =
        delta16(key.source_port.0, source_port.0) + delta16(key.destination_port.0, destination_port.0);
    Deltas { ip: fold(addresses), tcp: fold(addresses + ports) }
}
