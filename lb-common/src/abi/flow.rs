//! A flow is two entries: what the client sends is found by the first, what the target answers by the second. Each says
//! entirely how a packet of its direction is rewritten. Flows whose targets answer past us have only the first.
//!
//! `A` is the family of the packets that an entry is for: each family has its own table.

use super::{Ipv4Be, Ipv6Be, PortBe};

/// What a packet carries when it comes in.
// Aligned to 8, so that merged stores to it on the BPF stack are aligned.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Source port.
    pub source_port: PortBe,
    /// Destination port.
    pub destination_port: PortBe,
    /// IANA number, widened so that there is no padding.
    pub protocol: u32,
}
// A map key is compared byte for byte.
const _: () = assert!(size_of::<FlowKey<Ipv4Be>>() == 16 && size_of::<FlowKey<Ipv6Be>>() == 40);

/// How packets of one direction are rewritten, and what was seen of it. A slot of the flow table holds it closer
/// together, see [`Packed`](crate::table::Packed).
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Flow<A> {
    /// New source address.
    pub source: A,
    /// New destination address.
    pub destination: A,
    /// New source port.
    pub source_port: PortBe,
    /// New destination port.
    pub destination_port: PortBe,
    /// What the rewrite adds to the IPv4 header's checksum, folded (RFC 1624, without the last complement).
    pub ip_delta: u16,
    /// What it adds to the checksum of TCP or UDP.
    pub l4_delta: u16,
    /// Towards the client: the MAC its packets came from, first four bytes as on the wire. Else zero: the target's
    /// entry knows.
    pub mac_head: u32,
    /// The last two bytes.
    pub mac_tail: u16,
    /// One of [`direction`].
    pub direction: u8,
    /// Bits of [`state`], of this direction.
    pub state: u8,
    /// Towards the client: the MAC that its packets were sent to, which is ours on its side.
    pub own_mac_head: u32,
    /// The last two bytes.
    pub own_mac_tail: u16,
    /// One of [`target_mode`](super::target_mode): how packets of this entry are sent on.
    pub mode: u16,
    /// Index of the listener, for counters.
    pub listener: u32,
    /// Index of the target.
    pub target: u16,
    /// The target's generation when the flow began: an index that was given to another target does not match.
    pub generation: u16,
    /// The one interface whose packets belong to the flow.
    pub ifindex: u32,
    /// The interface that they leave by; towards the target, the target's entry knows.
    pub egress: u32,
    /// Tick of the last packet; while embryonic, of the first.
    pub seen: u32,
    /// Tick when the flow began.
    pub began: u32,
    /// Of packets that change their family towards an IPv6 client: the last half of the client's address, whose first
    /// half is in the places of `source` and `destination`.
    pub beyond: u64,
}
const _: () = assert!(size_of::<Flow<Ipv4Be>>() == 64 && size_of::<Flow<Ipv6Be>>() == 88);

/// Of both families' flow tables: what places keys. It stays as long as the tables.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableShape {
    /// What hashes begin with: nobody outside knows which keys are neighbours.
    pub seed: u64,
    /// Slots of a table, which are a power of two, less one.
    pub mask: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<TableShape>() == 16);

/// A slot of a flow table, in words: [`crate::table`] knows their order.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotWords<const WORDS: usize>(pub [u64; WORDS]);

impl<A: Copy> Flow<A> {
    /// The key of this flow's other direction, of a flow that stays in its family.
    #[inline(always)]
    pub fn reverse_key(&self, protocol: u32) -> FlowKey<A> {
        FlowKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol,
        }
    }
}

/// Which way a flow entry's packets go.
pub mod direction {
    /// From the client to the target.
    pub const TO_TARGET: u8 = 1;
    /// From the target to the client.
    pub const TO_CLIENT: u8 = 2;
}

/// What was seen of one direction.
pub mod state {
    /// From the client an ACK without SYN, from the target anything; without it the entry is embryonic.
    pub const CONFIRMED: u8 = 1;
    /// A FIN.
    pub const FINISHED: u8 = 2;
    /// A RST, or the target is gone.
    pub const RESET: u8 = 4;
}
