//! Packets as they are to targets that answer past us: to the target's MAC, or inside another packet to its address.

use super::family::{Family, HOPS, V4, V6};
use super::forward::of_flow;
use super::frame::IP;
use super::message::{self, Said};
use super::rewrite::NextHop;
use super::tables::{Arrival, FamilyTables, Tables};
use super::verdict::Step;
use crate::abi::{DropReason, Target, target_mode};
use crate::wire::{Eth, Udp, Window, protocol};

/// Sends a packet to a target as it is, if it fits.
#[inline(never)]
pub(super) fn send_if_fits<F, T>(
    eth: &Eth,
    ip: &F::Header,
    window: &Window<'_>,
    target: &Target,
    entropy: u16,
    tables: &T,
) -> Step
where
    F: Family,
    T: Tables,
{
    if fits::<F>(ip, target) { send::<F, T>(eth, ip, window, target, entropy, tables) } else { Step::TOO_BIG }
}

/// Whether the interface that leads to a target sends a packet and what is put around it.
#[inline(always)]
pub(super) fn fits<F: Family>(ip: &F::Header, target: &Target) -> bool {
    target.mode == target_mode::L2
        || u32::from(F::total(ip)) + u32::from(overhead(target)) <= u32::from(target.mtu)
}

/// Bytes that are put around a packet to a target.
#[inline(always)]
pub(super) fn overhead(target: &Target) -> u16 {
    let header = if target.family == V4::VERSION { V4::BODY - IP } else { V6::BODY - IP };
    let udp = if target.mode == target_mode::GUE { size_of::<Udp>() } else { 0 };
    (header + udp) as u16
}

/// Sends a packet that fits. `entropy` is the source port of GUE: the same for all packets of a flow.
#[inline(always)]
pub(super) fn send<F, T>(
    eth: &Eth,
    ip: &F::Header,
    window: &Window<'_>,
    target: &Target,
    entropy: u16,
    tables: &T,
) -> Step
where
    F: Family,
    T: Tables,
{
    let hop = NextHop::to_target(target);
    if target.mode == target_mode::L2 {
        hop.address(eth);
        return Step::transmit(hop.egress);
    }
    let is_gue = target.mode == target_mode::GUE;
    let tunnel = Tunnel { inner: F::VERSION, class: F::class(ip), length: F::total(ip), entropy, is_gue };
    if target.family == V4::VERSION {
        wrap::<V4, T>(window, target, tunnel, hop, tables)
    } else {
        wrap::<V6, T>(window, target, tunnel, hop, tables)
    }
}

/// What is known of the inner packet.
struct Tunnel {
    inner: u16,
    class: u8,
    length: u16,
    entropy: u16,
    is_gue: bool,
}

/// Puts a packet into one of family `G`.
#[inline(always)]
fn wrap<G: Family, T: Tables>(
    window: &Window<'_>,
    target: &Target,
    tunnel: Tunnel,
    hop: NextHop,
    tables: &T,
) -> Step {
    let header = (G::BODY - IP) as i32;
    let gue = size_of::<Udp>() as i32;
    let grown = tables.regrow(window, if tunnel.is_gue { header + gue } else { header });
    let Some(window) = grown else { return Step::drop(DropReason::TooBig) };
    let (Some(eth), Some(ip)) = (window.view::<Eth>(0), window.view::<G::Header>(IP)) else {
        return Step::drop(DropReason::Truncated);
    };
    hop.address(eth);
    eth.ethertype.set(G::ETHERTYPE);
    let (protocol, length) = if tunnel.is_gue {
        let Some(udp) = window.view::<Udp>(G::BODY) else { return Step::drop(DropReason::Truncated) };
        let length = tunnel.length + gue as u16;
        udp.source.set_number(FIRST_ENTROPY | tunnel.entropy);
        udp.destination.set_number(GUE_PORT);
        udp.length.set_number(length);
        // None: the inner packet has its own (RFC 6935 for IPv6).
        udp.checksum.set(0);
        (protocol::UDP, length)
    } else {
        (if tunnel.inner == V4::VERSION { protocol::IPV4 } else { protocol::IPV6 }, tunnel.length)
    };
    G::write(ip, G::narrow(target.via), G::narrow(target.address), protocol, tunnel.class, HOPS, length);
    Step::transmit(hop.egress)
}

/// Tells the sender of a packet that it does not fit: ICMP's "fragmentation needed" or ICMPv6's "packet too big", with
/// what is left for its packets on the way of the flow that is drafted.
#[inline(never)]
pub(super) fn answer<F, O, X, T>(window: &Window<'_>, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let dropped = Step::drop(DropReason::TooBig);
    let Some(draft) = at.own.draft() else { return dropped };
    let Some(target) = of_flow(&draft.flow, at.tables) else { return dropped };
    let overhead = if draft.flow.get().mode == target_mode::CROSS { CROSSING } else { overhead(target) };
    let room = target.mtu.wrapping_sub(overhead);
    // In front of the packet, which is quoted.
    let front = message::quoted::<F>() - IP;
    let Some(window) = at.tables.regrow(window, front as i32) else { return dropped };
    let (Some(old_eth), Some(old_ip)) = (window.view::<Eth>(front), window.view::<F::Header>(front + IP))
    else {
        return dropped;
    };
    let hop = NextHop {
        head: old_eth.source_head.get(),
        tail: old_eth.source_tail.get(),
        own_tail: old_eth.destination_tail.get(),
        own_head: old_eth.destination_head.get(),
        egress: at.ingress,
    };
    let (client, own) = (F::source(old_ip), F::destination(old_ip));
    message::tell::<F>(&window, hop, own, client, Said::too_big::<F>(u32::from(room)))
}

/// What an IPv4 packet grows by when it becomes IPv6.
const CROSSING: u16 = (V6::BODY - V4::BODY) as u16;
/// IANA's for GUE.
pub(super) const GUE_PORT: u16 = 6080;
/// Of the ephemeral ports, so that none is a service's.
const FIRST_ENTROPY: u16 = 0xc000;
