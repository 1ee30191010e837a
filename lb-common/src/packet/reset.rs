//! A RST from a packet's own numbers, in its own bytes: "TCP data that belongs to no flow gets a RST" needs no state.

use super::frame::{Frame, IP};
use super::verdict::Verdict;
use crate::wire::{Eth, Ipv4, Tcp, checksum, flags, protocol};

/// Turns a packet into the RST that answers it. Only for packets that are no RST themselves.
#[inline(always)]
pub(super) fn answer(frame: &Frame<'_>) -> Verdict {
    let Frame { eth, ip, tcp, window } = frame;
    // What the answer is made of, read before options and payload are written over.
    let had = tcp.flags.get();
    let headers = u32::from(ip.header_length()) + u32::from(tcp.header_length());
    let payload = u32::from(ip.total_length.number()).wrapping_sub(headers);
    let length = payload + u32::from(had & flags::SYN != 0) + u32::from(had & flags::FIN != 0);
    let (source, destination) = (ip.destination.get(), ip.source.get());
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
    let offset = core::hint::black_box(IP + size_of::<Ipv4>());
    let Some(tcp) = window.view::<Tcp>(offset) else { return Verdict::Pass };

    let (head, tail) = (eth.destination_head.get(), eth.destination_tail.get());
    eth.destination_head.set(eth.source_head.get());
    eth.destination_tail.set(eth.source_tail.get());
    eth.source_head.set(head);
    eth.source_tail.set(tail);

    ip.version_ihl.set(0x45);
    ip.tos.set(0);
    ip.total_length.set_number(TOTAL);
    ip.id.set(0);
    ip.fragment.set_number(DO_NOT_FRAGMENT);
    ip.ttl.set(TTL);
    ip.protocol.set(protocol::TCP);
    ip.source.set(source);
    ip.destination.set(destination);
    let addresses = halves(source) + halves(destination);
    let fixed = const {
        0x4500_u16.to_be() as u32
            + TOTAL.to_be() as u32
            + DO_NOT_FRAGMENT.to_be() as u32
            + (((TTL as u16) << 8) | protocol::TCP as u16).to_be() as u32
    };
    ip.checksum.set(!checksum::fold(addresses + fixed));

    tcp.source.set(source_port);
    tcp.destination.set(destination_port);
    tcp.sequence.set_number(sequence);
    tcp.acknowledgement.set_number(acknowledgement);
    tcp.offset.set(0x50);
    tcp.flags.set(answer);
    tcp.window.set(0);
    tcp.urgent.set(0);
    let sum = addresses
        + const { (protocol::TCP as u16).to_be() as u32 + TCP_LENGTH.to_be() as u32 }
        + u32::from(source_port)
        + u32::from(destination_port)
        + halves(sequence.to_be())
        + halves(acknowledgement.to_be())
        + u32::from(u16::from_ne_bytes([0x50, answer]));
    tcp.checksum.set(!checksum::fold(sum));
    Verdict::TransmitFirst(LENGTH)
}

#[inline(always)]
fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// Of the TCP segment.
const TCP_LENGTH: u16 = 20;
/// Of the IP packet.
const TOTAL: u16 = 40;
/// Of the frame.
const LENGTH: u16 = 54;
const _: () = assert!(LENGTH as usize == size_of::<Eth>() + size_of::<Ipv4>() + size_of::<Tcp>());
const DO_NOT_FRAGMENT: u16 = 0x4000;
/// RFC 1700's default.
const TTL: u8 = 64;
