//! A flow is two entries of one table: what the client sends is found by the first, what the target answers by the
//! second. Each says entirely how a packet of its direction is rewritten.

use super::{Ipv4Be, PortBe};

/// What a packet carries when it comes in.
// Aligned to 8, so that merged stores to it on the BPF stack are aligned.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowKey {
    /// Source address.
    pub source: Ipv4Be,
    /// Destination address.
    pub destination: Ipv4Be,
    /// Source port.
    pub source_port: PortBe,
    /// Destination port.
    pub destination_port: PortBe,
    /// IANA number, widened so that there is no padding.
    pub protocol: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 16); // a map key is compared byte for byte

/// How packets of one direction are rewritten, and what was seen of it.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// New source address.
    pub source: Ipv4Be,
    /// New destination address.
    pub destination: Ipv4Be,
    /// New source port.
    pub source_port: PortBe,
    /// New destination port.
    pub destination_port: PortBe,
    /// What the rewrite adds to the IP checksum, folded (RFC 1624, without the last complement).
    pub ip_delta: u16,
    /// What it adds to the TCP checksum.
    pub tcp_delta: u16,
    /// Towards the client: the MAC its packets came from, first four bytes as on the wire. Else zero: the target's
    /// entry knows.
    pub mac_head: u32,
    /// The last two bytes.
    pub mac_tail: u16,
    /// One of [`direction`].
    pub direction: u8,
    /// Bits of [`state`], of this direction.
    pub state: u8,
    /// Index of the listener, for counters.
    pub listener: u32,
    /// Index of the target.
    pub target: u32,
    /// The target's generation when the flow began: an index that was given to another target does not match.
    pub generation: u32,
    /// The one interface whose packets belong to the flow.
    pub ifindex: u32,
    /// Tick of the last packet; while embryonic, of the first.
    pub seen: u32,
    /// Tick when the flow began.
    pub began: u32,
}
const _: () = assert!(size_of::<Flow>() == 48);

impl Flow {
    /// The key of this flow's other direction.
    #[inline(always)]
    pub fn reverse_key(&self, protocol: u32) -> FlowKey {
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
