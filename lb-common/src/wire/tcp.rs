//! TCP (RFC 9293).
#![expect(unsafe_code, reason = "Wire is an unsafe trait")]

use super::{Raw8, Raw16, Raw32, Wire};

/// A TCP header without its options.
#[repr(C)]
pub struct Tcp {
    /// Source port.
    pub source: Raw16,
    /// Destination port.
    pub destination: Raw16,
    /// Sequence number.
    pub sequence: Raw32,
    /// Acknowledgement number.
    pub acknowledgement: Raw32,
    /// Header length in words, in the high half.
    pub offset: Raw8,
    /// Bits of [`flags`].
    pub flags: Raw8,
    /// Receive window.
    pub window: Raw16,
    /// Checksum.
    pub checksum: Raw16,
    /// Urgent pointer.
    pub urgent: Raw16,
}
const _: () = assert!(size_of::<Tcp>() == network_types::tcp::TcpHdr::LEN && align_of::<Tcp>() == 1);

// SAFETY: all fields are cells of bytes.
unsafe impl Wire for Tcp {}

impl Tcp {
    /// Header length in bytes, 0 to 60.
    #[inline(always)]
    pub fn header_length(&self) -> u8 {
        (self.offset.get() >> 4) * 4
    }
}

/// Kinds of TCP options (RFC 9293, §3.1; RFC 7323; RFC 2018).
pub mod option {
    /// No more options.
    pub const END: u8 = 0;
    /// A byte of padding.
    pub const NOTHING: u8 = 1;
    /// The largest segment that the sender takes, 4 bytes.
    pub const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    /// How far windows are shifted, 3 bytes.
    pub const WINDOW_SCALE: u8 = 3;
    /// Selective acknowledgements are permitted, 2 bytes.
    pub const SACK_PERMITTED: u8 = 4;
    /// Timestamps, 10 bytes.
    pub const TIMESTAMPS: u8 = 8;
}

/// Flags of a TCP header.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}
