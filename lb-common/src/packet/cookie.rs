//! SYN floods of listeners that end in userspace. While a listener gets more SYNs than it may and half-open connections
//! fill the queue of its socket, the node's own TCP answers with SYN cookies; they are sent from here, and it never sees
//! those SYNs. It is asked for each cookie, so that it accepts the acknowledgement. After `admit`.

use super::family::{Family, HOPS, halves};
use super::frame::{Bounds, Frame, Segment};
use super::rewrite::NextHop;
use super::tables::{Acknowledged, Arrival, Budget, FamilyTables, Handshake, Note, Tables};
use super::verdict::Step;
use crate::abi::{COOKIE_VALID_TICKS, DropReason, Listener};
use crate::wire::checksum::fold;
use crate::wire::{Eth, Raw16, Raw32, Tcp, flags, option, protocol};

/// A packet that security groups admitted to a listener that ends in userspace; the step is [`Step::COOKIE`] if the node's
/// own TCP is to be asked about it, and the note says whose it is.
#[inline(always)]
pub(super) fn admit<F, O, X, T>(
    frame: &Frame<'_, F>,
    index: u32,
    listener: &Listener,
    at: &Arrival<'_, O, X, T>,
) -> Step
where
    F: Family,
    T: Tables,
{
    let tables = at.tables;
    let tick = tables.pulse().tick;
    let is_asked = if frame.opens() {
        tables.spend_syn(Budget::Listener(index), tick) > listener.syn_limit
    } else if frame.has(flags::ACK) && !frame.has(flags::SYN | flags::RST) {
        let sent = tables.cookie_tick(index);
        sent != 0 && tick.wrapping_sub(sent) <= COOKIE_VALID_TICKS
    } else {
        false
    };
    match tables.note() {
        Some(note) if is_asked => {
            note.set(Note { listener: index, ..Note::default() });
            Step::COOKIE
        }
        _ => Step::PASS,
    }
}

/// A SYN that is too much, or what may acknowledge a cookie.
#[inline(always)]
pub(super) fn judge<F, O, X, T>(frame: &Frame<'_, F>, at: &Arrival<'_, O, X, T>) -> Step
where
    F: Family,
    O: FamilyTables<F>,
    T: Tables,
{
    let tables = at.tables;
    let (Segment::Tcp(tcp), Some(note)) = (frame.segment, tables.note()) else { return Step::PASS };
    let listener = note.get().listener;
    let length = usize::from(tcp.header_length());
    let handshake = Handshake { ip: frame.ip, tcp, at: frame.body, length };
    if frame.opens() {
        let Some(cookie) = at.own.cookie(&frame.key(), &handshake) else { return Step::PASS };
        tables.count_cookie(listener, tables.pulse().tick);
        let offer = offer(frame.window, frame.body + size_of::<Tcp>(), length - size_of::<Tcp>());
        return answer(frame, tcp, cookie, &offer, at);
    }
    match at.own.acknowledged(&frame.key(), &handshake) {
        Acknowledged::Other => Step::PASS,
        Acknowledged::Cookie => {
            tables.count_acknowledged(listener, true);
            Step::PASS
        }
        Acknowledged::Nothing => {
            tables.count_acknowledged(listener, false);
            Step::RESET
        }
    }
}

/// What a SYN offers by its options.
struct Offer {
    /// Its timestamp, if it has one.
    stamp: Option<u32>,
    /// How far the client's windows are shifted, or [`NO_SCALE`].
    scale: u8,
    is_sack_permitted: bool,
}

/// Reads the options of a SYN, which are `length` bytes at `start`.
#[inline(always)]
fn offer(window: Bounds<'_>, start: usize, length: usize) -> Offer {
    let mut offer = Offer { stamp: None, scale: NO_SCALE, is_sack_permitted: false };
    let mut at = 0;
    for _ in 0..MOST_OPTIONS {
        let place = start + at;
        // A last byte alone is padding.
        if at + 2 > length {
            break;
        }
        let Some(head) = window.view::<Raw16>(place) else { break };
        let [kind, size] = head.number().to_be_bytes();
        if kind == option::END {
            break;
        }
        if kind == option::NOTHING {
            at = bounded(at + 1);
            continue;
        }
        let size = usize::from(size);
        if size < 2 || at + size > length {
            break;
        }
        match (kind, size) {
            (option::TIMESTAMPS, 10) => {
                offer.stamp = window.view::<Raw32>(place + 2).map(Raw32::number);
            }
            (option::WINDOW_SCALE, 3) => {
                if let Some(tail) = window.view::<Raw16>(place + 1) {
                    offer.scale = tail.number() as u8;
                }
            }
            (option::SACK_PERMITTED, 2) => offer.is_sack_permitted = true,
            _ => {}
        }
        at = bounded(at + size);
    }
    // RFC 7323, §2.3: what is larger counts as 14.
    if offer.scale != NO_SCALE && offer.scale > LARGEST_SCALE {
        offer.scale = LARGEST_SCALE;
    }
    offer
}

/// The same place among options. Hidden from the compiler, which knows that the bound holds; the verifier does not, and
/// would follow each place that an option may begin at on its own.
#[inline(always)]
fn bounded(at: usize) -> usize {
    core::hint::black_box(at) & MOST_BYTES
}

/// Turns a SYN into the SYN-ACK with a cookie that answers it.
#[inline(always)]
fn answer<F, O, X, T>(
    frame: &Frame<'_, F>,
    tcp: &Tcp,
    cookie: u32,
    offer: &Offer,
    at: &Arrival<'_, O, X, T>,
) -> Step
where
    F: Family,
    T: Tables,
{
    let (own_port, port) = (tcp.destination.get(), tcp.source.get());
    let (own, client) = (F::destination(frame.ip), F::source(frame.ip));
    let acknowledgement = tcp.sequence.number().wrapping_add(1);
    let hop = NextHop {
        head: frame.eth.source_head.get(),
        tail: frame.eth.source_tail.get(),
        own_tail: frame.eth.destination_tail.get(),
        own_head: frame.eth.destination_head.get(),
        egress: at.ingress,
    };
    // A SYN may have no options at all, and the answer has 20 bytes of them.
    let Some(window) = at.tables.regrow(frame.window, size_of::<Options>() as i32) else {
        return Step::drop(DropReason::SynFlood);
    };
    let (Some(eth), Some(ip), Some(tcp), Some(options)) = (
        window.view::<Eth>(0),
        window.view::<F::Header>(super::frame::IP),
        window.view::<Tcp>(F::BODY),
        window.view::<Options>(F::BODY + size_of::<Tcp>()),
    ) else {
        return Step::drop(DropReason::SynFlood);
    };
    let words = words::<F, T>(offer, at.tables);
    let count = if words[1] == 0 {
        1
    } else if words[4] == 0 {
        4
    } else {
        5
    };
    let length = size_of::<Tcp>() as u16 + 4 * count;
    let offset = (length as u8 / 4) << 4;
    let both = flags::SYN | flags::ACK;
    hop.address(eth);
    eth.ethertype.set(F::ETHERTYPE);
    F::write(ip, own, client, protocol::TCP, 0, HOPS, length);
    tcp.source.set(own_port);
    tcp.destination.set(port);
    tcp.sequence.set_number(cookie);
    tcp.acknowledgement.set_number(acknowledgement);
    tcp.offset.set(offset);
    tcp.flags.set(both);
    tcp.window.set_number(WINDOW);
    tcp.urgent.set(0);
    let mut sum = F::sum(own)
        + F::sum(client)
        + u32::from(u16::from(protocol::TCP).to_be())
        + u32::from(length.to_be())
        + u32::from(own_port)
        + u32::from(port)
        + halves(cookie.to_be())
        + halves(acknowledgement.to_be())
        + u32::from(u16::from_ne_bytes([offset, both]))
        + const { WINDOW.to_be() as u32 };
    // What is not sent is zero, and adds nothing.
    for (place, word) in options.iter().zip(words) {
        place.set_number(word);
        sum += halves(word.to_be());
    }
    tcp.checksum.set(!fold(sum));
    Step::transmit_first((F::BODY as u16) + length, hop.egress)
}

/// The options of the answer, in the order of the kernel's own; zero are those that it does not have.
#[inline(always)]
fn words<F: Family, T: Tables>(offer: &Offer, tables: &T) -> [u32; 5] {
    let largest = LARGEST_FRAME - (F::BODY - super::frame::IP) as u32 - size_of::<Tcp>() as u32;
    let first = u32::from(option::MAXIMUM_SEGMENT_SIZE) << 24 | 4 << 16 | largest;
    let scale = tables.pulse().cookie_scale;
    let (Some(stamp), 1..) = (offer.stamp, scale) else { return [first, 0, 0, 0, 0] };
    let sack = if offer.is_sack_permitted { STAMP_SACK } else { 0 };
    let own_stamp = own_stamp(tables.stamp_ms(), u32::from(offer.scale) | sack);
    let padding = if offer.is_sack_permitted {
        u32::from(option::SACK_PERMITTED) << 8 | 2
    } else {
        u32::from(option::NOTHING) << 8 | u32::from(option::NOTHING)
    };
    let last = if offer.scale == NO_SCALE {
        0
    } else {
        u32::from(option::NOTHING) << 24 | u32::from(option::WINDOW_SCALE) << 16 | 3 << 8 | (scale - 1) & 0xff
    };
    [first, padding << 16 | u32::from(option::TIMESTAMPS) << 8 | 10, own_stamp, stamp, last]
}

/// The latest time that tells of these options, and is not ahead of the clock: the kernel reads from the timestamp that
/// comes back what was offered (net/ipv4/syncookies.c, cookie_init_timestamp).
#[inline(always)]
fn own_stamp(now: u32, options: u32) -> u32 {
    let stamp = now & !STAMP_BITS | options;
    if stamp > now { stamp.wrapping_sub(STAMP_BITS + 1) } else { stamp }
}

/// Room for the options of an answer.
type Options = [Raw32; 5];

/// IP packets that Ethernet carries. Who could carry more sends smaller segments, for as long as it lasts.
const LARGEST_FRAME: u32 = 1_500;
/// What the kernel would offer, and a little less, so that nothing is sent that it has no room for: before autotuning its
/// first window was this.
const WINDOW: u16 = 29_200;
/// TCP_MAX_WSCALE.
const LARGEST_SCALE: u8 = 14;
/// TS_OPT_WSCALE_MASK: windows are not shifted.
const NO_SCALE: u8 = 15;
/// TS_OPT_SACK.
const STAMP_SACK: u32 = 1 << 4;
/// TSMASK: what of a timestamp tells of options.
const STAMP_BITS: u32 = 63;
/// Options that are read of a SYN; the rest of so strange a one is not.
const MOST_OPTIONS: usize = 12;
/// No less than a header has for options.
const MOST_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_tells_of_options_and_is_not_ahead_of_the_clock() {
        for (now, options, stamp) in [
            (0x1_003f, 0x17, 0x1_0017),
            (0x1_0017, 0x17, 0x1_0017),
            (0x1_0016, 0x17, 0xffd7),
            (3, 0x17, 0xffff_ffd7),
        ] {
            assert_eq!(own_stamp(now, options), stamp, "{now:#x}");
        }
    }
}
