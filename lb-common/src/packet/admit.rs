//! Packets of no flow: whose they are, and whether one may begin. After `forward`; `begin` comes next.

use super::begin;
use super::frame::{Frame, Other};
use super::tables::Tables;
use super::verdict::{Step, Verdict};
use crate::abi::{DropReason, Ipv4Be, LAST_NAT_PORT, ListenerKey, PortBe, SourceKey, listener_flags};
use crate::wire::{Icmp, Udp, flags, protocol};

/// A TCP packet of no flow.
#[inline(always)]
pub(super) fn admit<T: Tables>(frame: &Frame<'_>, ingress: u32, tables: &T) -> Step {
    let key = frame.key();
    if tables.address(key.destination) != Some(ingress) {
        return Step::Done(Verdict::Pass);
    }
    let listener =
        ListenerKey { address: key.destination, port: key.destination_port, protocol: protocol::TCP, pad: 0 };
    let Some(index) = tables.listener(&listener) else {
        return if is_kernels(key.destination_port) && !frame.opens() {
            Step::Done(Verdict::Pass)
        } else {
            Step::Done(Verdict::Drop(DropReason::NoListener))
        };
    };
    let Some(listener) = tables.listener_state(index) else {
        return Step::Done(Verdict::Drop(DropReason::NoListener));
    };
    if listener.flags & listener_flags::GUARDED != 0
        && !tables.admits(&SourceKey { listener: index, source: key.source })
    {
        if frame.opens() {
            tables.count_blocked(index);
        }
        return Step::Done(Verdict::Drop(DropReason::SecurityGroup));
    }
    if frame.opens() {
        return begin::begin(frame, ingress, index, listener, tables);
    }
    if frame.has(flags::RST) {
        return Step::Done(Verdict::Drop(DropReason::StrayReset));
    }
    tables.count_reset(index);
    Step::Reset
}

/// A packet that is not TCP.
#[inline(always)]
pub(super) fn other<T: Tables>(packet: &Other<'_>, tables: &T) -> Verdict {
    if tables.address(Ipv4Be(packet.ip.destination.get())).is_none() {
        return Verdict::Pass;
    }
    let payload = super::frame::IP + usize::from(packet.ip.header_length());
    match packet.ip.protocol.get() {
        protocol::ICMP => match packet.window.view::<Icmp>(payload) {
            Some(icmp) if matches!(icmp.kind.get(), 0 | 3 | 8 | 11) => Verdict::Pass,
            _ => Verdict::Drop(DropReason::Icmp),
        },
        // An answer to something that the node itself asked.
        protocol::UDP => match packet.window.view::<Udp>(payload) {
            Some(udp) if is_kernels(PortBe(udp.destination.get())) => Verdict::Pass,
            _ => Verdict::Drop(DropReason::Protocol),
        },
        _ => Verdict::Drop(DropReason::Protocol),
    }
}

/// A packet that cannot be what it says. Others' packets are the kernel's, whatever is wrong with them.
#[inline(always)]
pub(super) fn bad<T: Tables>(destination: Option<Ipv4Be>, reason: DropReason, tables: &T) -> Verdict {
    match destination {
        Some(address) if tables.address(address).is_none() => Verdict::Pass,
        _ => Verdict::Drop(reason),
    }
}

/// Whether the node's own sockets use this port.
#[inline(always)]
fn is_kernels(port: PortBe) -> bool {
    port.number() > LAST_NAT_PORT
}
