//! ICMP (RFC 792) and ICMPv6 (RFC 4443).
#![expect(unsafe_code, reason = "Wire is an unsafe trait")]

use super::{Raw8, Raw16, Raw32, Wire};

/// What all ICMP messages begin with.
#[repr(C)]
pub struct Icmp {
    /// Type.
    pub kind: Raw8,
    /// Code.
    pub code: Raw8,
    /// Checksum.
    pub checksum: Raw16,
    /// What it is depends on type and code; of "too big" messages the MTU, in the whole word (IPv6) or its last half
    /// (IPv4).
    pub rest: Raw32,
}
const _: () = assert!(size_of::<Icmp>() == 8 && align_of::<Icmp>() == 1);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Icmp {}

/// Types of ICMP messages.
pub mod icmp4 {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Its code for hosts that nobody reaches.
    pub const HOST_UNREACHABLE: u8 = 1;
    /// Its code for packets that may not be fragmented and are too large.
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Types of ICMPv6 messages.
pub mod icmp6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Its code for hosts that nobody reaches.
    pub const ADDRESS_UNREACHABLE: u8 = 3;
    /// Packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation, the first of neighbour discovery (RFC 4861).
    pub const FIRST_DISCOVERY: u8 = 133;
    /// Redirect, the last of it.
    pub const LAST_DISCOVERY: u8 = 137;
}
