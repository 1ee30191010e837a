//! UDP (RFC 768).
#![expect(unsafe_code, reason = "Wire is an unsafe trait")]

use super::{Raw16, Wire};

/// What TCP and UDP begin with.
#[repr(C)]
pub struct Ports {
    /// Source port.
    pub source: Raw16,
    /// Destination port.
    pub destination: Raw16,
}
const _: () = assert!(size_of::<Ports>() == 4 && align_of::<Ports>() == 1);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Ports {}

/// A UDP header.
#[repr(C)]
pub struct Udp {
    /// Source port.
    pub source: Raw16,
    /// Destination port.
    pub destination: Raw16,
    /// Header and payload, in bytes.
    pub length: Raw16,
    /// Checksum.
    pub checksum: Raw16,
}
const _: () = assert!(size_of::<Udp>() == network_types::udp::UdpHdr::LEN && align_of::<Udp>() == 1);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Udp {}
