//! IPv6 (RFC 8200).
#![expect(unsafe_code, reason = "Wire is an unsafe trait")]

use super::{Raw8, Raw16, Raw32, Raw128, Wire};

/// An IPv6 header.
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: Raw32,
    /// Bytes behind this header.
    pub payload_length: Raw16,
    /// One of [`super::protocol`].
    pub next_header: Raw8,
    /// Hop limit.
    pub hop_limit: Raw8,
    /// Source address.
    pub source: Raw128,
    /// Destination address.
    pub destination: Raw128,
}
const _: () = assert!(size_of::<Ipv6>() == network_types::ip::Ipv6Hdr::LEN && align_of::<Ipv6>() == 1);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Ipv6 {}

impl Ipv6 {
    /// The version, 6 if it is one.
    #[inline(always)]
    pub fn version(&self) -> u8 {
        let [first, ..] = self.version_class_label.number().to_be_bytes();
        first >> 4
    }

    /// The traffic class.
    #[inline(always)]
    pub fn traffic_class(&self) -> u8 {
        let [first, second, ..] = self.version_class_label.number().to_be_bytes();
        first << 4 | second >> 4
    }
}

/// An IPv6 fragment header.
#[repr(C)]
pub struct Ipv6Fragment {
    /// What the whole datagram begins with.
    pub next_header: Raw8,
    /// Zero.
    pub reserved: Raw8,
    /// Offset in eights of bytes, then two zero bits, then "more fragments".
    pub offset: Raw16,
    /// Identification.
    pub id: Raw32,
}
const _: () = assert!(size_of::<Ipv6Fragment>() == 8 && align_of::<Ipv6Fragment>() == 1);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Ipv6Fragment {}

impl Ipv6Fragment {
    /// Whether it begins the datagram.
    #[inline(always)]
    pub fn is_first(&self) -> bool {
        self.offset.get() & const { 0xfff8_u16.to_be() } == 0
    }
}
