//! Ethernet.
#![expect(unsafe_code, reason = "Wire is an unsafe trait")]

use super::{Raw16, Raw32, Wire};

/// An Ethernet header without tags. MACs are split, because there is no six-byte load.
#[repr(C)]
pub struct Eth {
    /// Destination, first four bytes.
    pub destination_head: Raw32,
    /// Destination, last two bytes.
    pub destination_tail: Raw16,
    /// Source, first four bytes.
    pub source_head: Raw32,
    /// Source, last two bytes.
    pub source_tail: Raw16,
    /// What follows.
    pub ethertype: Raw16,
}
const _: () = assert!(size_of::<Eth>() == network_types::eth::EthHdr::LEN && align_of::<Eth>() == 1);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Eth {}

/// IPv4, as in the packet.
pub const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
/// IPv6, as in the packet.
pub const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
