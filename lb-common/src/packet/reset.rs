//! A RST from a packet's own numbers, in its own bytes: "TCP data that belongs to no flow gets a RST" needs no state.

use super::family::{Family, HOPS, halves};
use super::frame::{Frame, IP, Segment};
use super::rewrite::NextHop;
use super::verdict::Step;
use crate::abi::DropReason;
use crate::wire::{Tcp, checksum, flags, protocol};

/// Turns a packet into the RST that answers it. Only for TCP packets that are no RST themselves.
#[inline(never)]
pub(super) fn answer<F: Family>(frame: &Frame<'_, F>, ingress: u32) -> Step {
    let Frame { eth, ip, window, body, .. } = frame;
    let Segment::Tcp(tcp) = frame.segment else { return Step::drop(DropReason::NoTarget) };
    // What the answer is made of, read before options and payload are written over.
    let had = tcp.flags.get();
    let headers = (*body - IP) as u32 + u32::from(tcp.header_length());
    let payload = u32::from(F::total(ip)).wrapping_sub(headers);
    let length = payload + u32::from(had & flags::SYN != 0) + u32::from(had & flags::FIN != 0);
    let (source, destination) = (F::destination(ip), F::source(ip));
    let (source_port, destination_port) = (tcp.destination.get(), tcp.source.get());
    //= https://www.rfc-editor.org/rfc/rfc9293#section-3.10.7.1
    //# If the ACK bit is off, sequence number zero is used, <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
    //# If the ACK bit is on, <SEQ=SEG.ACK><CTL=RST>
    let (sequence, acknowledgement, answer) = if had & flags::ACK != 0 {
        (tcp.acknowledgement.number(), 0, flags::RST)
    } else {
        (0, tcp.sequence.number().wrapping_add(length), flags::RST | flags::ACK)
    };
    // Hidden from the compiler, which knows that a header behind options implies one without; the verifier does not.
    let offset = core::hint::black_box(F::BODY);
    let Some(tcp) = window.view::<Tcp>(offset) else { return Step::PASS };

    let hop = NextHop {
        head: eth.source_head.get(),
        tail: eth.source_tail.get(),
        own_tail: eth.destination_tail.get(),
        own_head: eth.destination_head.get(),
        egress: ingress,
    };
    hop.address(eth);
    F::write(ip, source, destination, protocol::TCP, 0, HOPS, LENGTH);
    tcp.source.set(source_port);
    tcp.destination.set(destination_port);
    tcp.sequence.set_number(sequence);
    tcp.acknowledgement.set_number(acknowledgement);
    tcp.offset.set(0x50);
    tcp.flags.set(answer);
    tcp.window.set(0);
    tcp.urgent.set(0);
    let sum = F::sum(source)
        + F::sum(destination)
        + const { (protocol::TCP as u16).to_be() as u32 + LENGTH.to_be() as u32 }
        + u32::from(source_port)
        + u32::from(destination_port)
        + halves(sequence.to_be())
        + halves(acknowledgement.to_be())
        + u32::from(u16::from_ne_bytes([0x50, answer]));
    tcp.checksum.set(!checksum::fold(sum));
    Step::transmit_first((F::BODY as u16) + LENGTH, ingress)
}

/// Of the segment.
const LENGTH: u16 = size_of::<Tcp>() as u16;
