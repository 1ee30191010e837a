//! IPv4 (RFC 791).
#![expect(unsafe_code, reason = "Wire is an unsafe trait")]

use super::{Raw8, Raw16, Raw32, Wire};

/// An IPv4 header without its options.
#[repr(C)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub version_ihl: Raw8,
    /// Type of service.
    pub tos: Raw8,
    /// Header and payload, in bytes.
    pub total_length: Raw16,
    /// Identification.
    pub id: Raw16,
    /// Flags and fragment offset.
    pub fragment: Raw16,
    /// Time to live.
    pub ttl: Raw8,
    /// One of [`protocol`].
    pub protocol: Raw8,
    /// Header checksum.
    pub checksum: Raw16,
    /// Source address.
    pub source: Raw32,
    /// Destination address.
    pub destination: Raw32,
}
const _: () = assert!(size_of::<Ipv4>() == network_types::ip::Ipv4Hdr::LEN && align_of::<Ipv4>() == 1);
const _: () = assert!(
    core::mem::offset_of!(Ipv4, destination) == core::mem::offset_of!(network_types::ip::Ipv4Hdr, dst_addr)
);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Ipv4 {}

impl Ipv4 {
    /// Header length in bytes, 0 to 60.
    #[inline(always)]
    pub fn header_length(&self) -> u8 {
        (self.version_ihl.get() & 0xf) * 4
    }

    /// The version, 4 if it is one.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        self.version_ihl.get() >> 4
    }

    /// Whether it is a fragment: the first has "more fragments", the others an offset.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment.get() & const { 0x3fff_u16.to_be() } != 0
    }

    /// Whether it begins the datagram.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.fragment.get() & const { 0x1fff_u16.to_be() } == 0
    }
}

/// IANA protocol numbers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
}
