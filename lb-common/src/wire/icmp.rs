//! ICMP (RFC 792).
#![expect(unsafe_code, reason = "Wire is an unsafe trait")]

use super::{Raw8, Raw16, Wire};

/// What all ICMP messages begin with.
#[repr(C)]
pub struct Icmp {
    /// Type.
    pub kind: Raw8,
    /// Code.
    pub code: Raw8,
    /// Checksum.
    pub checksum: Raw16,
}
const _: () = assert!(size_of::<Icmp>() == 4 && align_of::<Icmp>() == 1);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Icmp {}
