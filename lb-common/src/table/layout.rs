//! The words of a slot, in their order: addresses of the key (IPv4 one word, IPv6 four); the tag, which is the rest of
//! the key and what changes seldom; the owner, beside what the slot's home knows; ports and interface; times; new
//! addresses; MACs; the exit; and for IPv6 what is added to checksums, which of IPv4 is computed faster than it is read.

use super::{Found, Slots};
use crate::abi::{Flow, FlowKey, Ipv4Be, Ipv6Be, PortBe, TableShape, target_mode};
use crate::wire::checksum::{delta16, delta32, fold};

/// An address that slots hold.
pub trait Packed: Copy + Eq {
    /// Words of two addresses.
    const PAIR: usize;
    /// The word that ends the key.
    const TAG: usize = Self::PAIR;
    /// The word of the entry's owner and the slot's home.
    const OWNER: usize = Self::PAIR + 1;
    /// The word of when the entry was seen.
    const TIMES: usize = Self::PAIR + 3;
    /// Words of a slot.
    const WORDS: usize;

    /// A word of two addresses.
    fn word(source: Self, destination: Self, word: usize) -> u64;
    /// Two addresses from their words.
    fn pair(word: impl Fn(usize) -> u64) -> (Self, Self);
    /// Two addresses in one word.
    fn digest(source: Self, destination: Self) -> u64;
    /// What a rewrite adds to the checksums of IPv4 and of what it carries.
    fn deltas(
        key: &FlowKey<Self>,
        new: (Self, Self),
        ports: (PortBe, PortBe),
        word: impl Fn(usize) -> u64,
    ) -> (u16, u16);
}

/// What an IPv4 entry whose packets change their family says beyond its slot.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Crossing {
    /// As in [`Flow`].
    pub beyond: u64,
    /// As in [`Flow`].
    pub ip_delta: u16,
    /// As in [`Flow`].
    pub l4_delta: u16,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<Crossing>() == 16);

impl Crossing {
    /// As it lies in memory.
    pub const fn words(self) -> [u64; 2] {
        [self.beyond, self.ip_delta as u64 | (self.l4_delta as u64) << 16]
    }

    /// From its words.
    pub const fn of_words([beyond, deltas]: [u64; 2]) -> Self {
        Self { beyond, ip_delta: deltas as u16, l4_delta: (deltas >> 16) as u16, pad: 0 }
    }
}

impl Packed for Ipv4Be {
    const PAIR: usize = 1;
    const WORDS: usize = 8;

    #[inline(always)]
    fn word(source: Self, destination: Self, _: usize) -> u64 {
        halves(source.0, destination.0)
    }

    #[inline(always)]
    fn pair(word: impl Fn(usize) -> u64) -> (Self, Self) {
        let (source, destination) = split(word(0));
        (Self(source), Self(destination))
    }

    #[inline(always)]
    fn digest(source: Self, destination: Self) -> u64 {
        halves(source.0, destination.0)
    }

    #[inline(always)]
    fn deltas(
        key: &FlowKey<Self>,
        (source, destination): (Self, Self),
        (source_port, destination_port): (PortBe, PortBe),
        _: impl Fn(usize) -> u64,
    ) -> (u16, u16) {
        let addresses = fold(delta32(key.source.0, source.0) + delta32(key.destination.0, destination.0));
        let ports =
            delta16(key.source_port.0, source_port.0) + delta16(key.destination_port.0, destination_port.0);
        (addresses, fold(u32::from(addresses) + ports))
    }
}

impl Packed for Ipv6Be {
    const PAIR: usize = 4;
    const WORDS: usize = 16;

    #[inline(always)]
    fn word(source: Self, destination: Self, word: usize) -> u64 {
        let ([a, b, c, d], [e, f, g, h]) = (source.0, destination.0);
        match word {
            0 => halves(a, b),
            1 => halves(c, d),
            2 => halves(e, f),
            _ => halves(g, h),
        }
    }

    #[inline(always)]
    fn pair(word: impl Fn(usize) -> u64) -> (Self, Self) {
        let [(a, b), (c, d), (e, f), (g, h)] = [0, 1, 2, 3].map(|at| split(word(at)));
        (Self([a, b, c, d]), Self([e, f, g, h]))
    }

    #[inline(always)]
    fn digest(source: Self, destination: Self) -> u64 {
        let word = |at| Self::word(source, destination, at);
        let ends = word(1) ^ word(3).rotate_left(23);
        (word(0) ^ word(2).rotate_left(41)).wrapping_mul(FIRST) ^ ends
    }

    #[inline(always)]
    fn deltas(
        _: &FlowKey<Self>,
        _: (Self, Self),
        _: (PortBe, PortBe),
        word: impl Fn(usize) -> u64,
    ) -> (u16, u16) {
        let word = word(DELTAS);
        (word as u16, (word >> 16) as u16)
    }
}

/// The key's home.
#[inline(always)]
pub(super) fn home<A: Packed>(key: &FlowKey<A>, shape: TableShape) -> u32 {
    let hash = (A::digest(key.source, key.destination) ^ shape.seed).wrapping_mul(FIRST);
    let hash = hash ^ hash >> 32 ^ named(key);
    let hash = hash.wrapping_mul(SECOND);
    let hash = (hash ^ hash >> 29).wrapping_mul(FIRST);
    (hash >> 32) as u32 & shape.mask
}

/// Ports, protocol (none if the slot is free), distance from the key's home, direction and mode, and the bits that were
/// seen of the flow.
#[derive(Clone, Copy)]
pub(super) struct Tag(pub(super) u64);

impl Tag {
    /// Whether it ends this key.
    #[inline(always)]
    pub(super) fn names<A>(self, key: &FlowKey<A>) -> bool {
        self.0 & NAME == named(key)
    }

    #[inline(always)]
    pub(super) fn is_free(self) -> bool {
        self.0 & PROTOCOL == 0
    }

    #[inline(always)]
    pub(super) fn is_busy(self) -> bool {
        self.0 & PROTOCOL == BUSY
    }

    #[inline(always)]
    pub(super) fn distance(self) -> u32 {
        (self.0 >> 40) as u32 & 0xff
    }
}

/// Whether a slot's addresses are the key's.
#[inline(always)]
pub(super) fn is_between<A: Packed, S: Slots<A>>(slots: &S, slot: S::Slot, key: &FlowKey<A>) -> bool {
    let is = |word| word >= A::PAIR || slots.read(slot, word) == A::word(key.source, key.destination, word);
    is(0) && is(1) && is(2) && is(3)
}

#[inline(always)]
pub(super) fn unpack_key<A: Packed, S: Slots<A>>(slots: &S, slot: S::Slot, tag: Tag) -> FlowKey<A> {
    let (source, destination) = A::pair(|word| slots.read(slot, word));
    let (ports, rest) = split(tag.0);
    let (source_port, destination_port) = two_ports(ports);
    FlowKey { source, destination, source_port, destination_port, protocol: rest & 0xff }
}

#[inline(always)]
pub(super) fn unpack<A: Packed, S: Slots<A>>(slots: &S, key: &FlowKey<A>, found: Found<S::Slot>) -> Flow<A> {
    let word = |at| slots.read(found.slot, at);
    let (_, tag) = split(word(A::TAG));
    let owner = word(A::OWNER);
    let (ports, ifindex) = split(word(A::PAIR + 2));
    let (seen, began) = split(word(A::TIMES));
    let (source, destination) = A::pair(|at| word(A::PAIR + 4 + at));
    let (mac_head, tails) = split(word(A::PAIR * 2 + 4));
    let (own_mac_head, egress) = split(word(A::PAIR * 2 + 5));
    let (source_port, destination_port) = two_ports(ports);
    let mode = (tag >> 20 & 0xf) as u16;
    let (ip_delta, l4_delta, beyond) = if A::PAIR == 1 && mode == target_mode::CROSS {
        let Crossing { beyond, ip_delta, l4_delta, .. } = slots.crossing(found.index);
        (ip_delta, l4_delta, beyond)
    } else {
        let (ip, l4) = A::deltas(key, (source, destination), (source_port, destination_port), word);
        (ip, l4, 0)
    };
    Flow {
        source,
        destination,
        source_port,
        destination_port,
        ip_delta,
        l4_delta,
        mac_head,
        mac_tail: tails as u16,
        direction: (tag >> 16 & 0xf) as u8,
        state: (tag >> 24) as u8,
        own_mac_head,
        own_mac_tail: (tails >> 16) as u16,
        mode,
        listener: owner as u32 & 0xffff,
        target: (owner >> 16) as u16,
        generation: (owner >> 32) as u16,
        ifindex,
        egress,
        seen,
        began,
        beyond,
    }
}

/// Writes an entry to a slot that is ours, the tag last: from then on it is found.
#[inline(always)]
pub(super) fn pack<A: Packed, S: Slots<A>>(
    slots: &S,
    Found { index, slot }: Found<S::Slot>,
    key: &FlowKey<A>,
    flow: &Flow<A>,
    distance: u32,
) {
    let mut at = 0;
    while at < A::PAIR {
        slots.write(slot, at, A::word(key.source, key.destination, at));
        slots.write(slot, A::PAIR + 4 + at, A::word(flow.source, flow.destination, at));
        at += 1;
    }
    // The last quarter is the home's.
    slots.write_half(slot, A::OWNER, flow.listener & 0xffff | u32::from(flow.target) << 16);
    slots.write_quarter(slot, A::OWNER, 2, flow.generation);
    slots.write(slot, A::PAIR + 2, halves(one_port(flow.source_port, flow.destination_port), flow.ifindex));
    slots.write(slot, A::TIMES, halves(flow.seen, flow.began));
    let tails = u32::from(flow.mac_tail) | u32::from(flow.own_mac_tail) << 16;
    slots.write(slot, A::PAIR * 2 + 4, halves(flow.mac_head, tails));
    slots.write(slot, A::PAIR * 2 + 5, halves(flow.own_mac_head, flow.egress));
    if A::PAIR > 1 {
        slots.write(slot, DELTAS, u64::from(flow.ip_delta) | u64::from(flow.l4_delta) << 16);
    } else if flow.mode == target_mode::CROSS {
        let Flow { beyond, ip_delta, l4_delta, .. } = *flow;
        slots.cross(index, Crossing { beyond, ip_delta, l4_delta, pad: 0 });
    }
    let way = u64::from(flow.direction & 0xf) | u64::from(flow.mode & 0xf) << 4;
    let tag = named(key) | u64::from(distance) << 40 | way << 48 | u64::from(flow.state) << 56;
    slots.write(slot, A::TAG, tag);
}

/// How far the keys of the slot's home reach.
#[inline(always)]
pub(super) const fn reach(owner: u64) -> u32 {
    (owner >> 48) as u32 & 0xff
}

/// Whether somebody inserts a key of this home.
#[inline(always)]
pub(super) const fn locked(owner: u64) -> bool {
    owner & LOCKED != 0
}

/// The home's quarter while it is locked.
#[inline(always)]
pub(super) const fn hold(reach: u32) -> u16 {
    reach as u16 | (LOCKED >> 48) as u16
}

/// The same, locked.
#[inline(always)]
pub(super) const fn lock(owner: u64) -> u64 {
    owner | LOCKED
}

/// Ports and protocol of a key, as a tag has them.
#[inline(always)]
fn named<A>(key: &FlowKey<A>) -> u64 {
    halves(one_port(key.source_port, key.destination_port), key.protocol)
}

#[inline(always)]
const fn one_port(source: PortBe, destination: PortBe) -> u32 {
    source.0 as u32 | (destination.0 as u32) << 16
}

#[inline(always)]
const fn two_ports(ports: u32) -> (PortBe, PortBe) {
    (PortBe(ports as u16), PortBe((ports >> 16) as u16))
}

#[inline(always)]
const fn halves(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

#[inline(always)]
const fn split(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The protocol's place in a tag.
const PROTOCOL: u64 = 0xff << 32;
/// What a key has of a tag.
const NAME: u64 = PROTOCOL | 0xffff_ffff;
/// IANA keeps protocol 255 unused (RFC 5237): the slot is taken, and no entry yet.
pub(super) const BUSY: u64 = PROTOCOL;
/// In the home's quarter.
const LOCKED: u64 = 1 << 56;
/// Of IPv6.
const DELTAS: usize = 14;

/// 2^64 divided by the golden ratio, and a factor of splitmix64's (Steele, Lea, Flood 2014).
const FIRST: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND: u64 = 0xbf58_476d_1ce4_e5b9;
