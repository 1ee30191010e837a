//! What the program at a target knows and counts: whose tunnels it opens.

use super::Ipv6Be;

/// Who may send packets in tunnels to a target, found by longest prefix.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderKey {
    /// 4 or 6.
    pub version: u32,
    /// Its address; IPv4's as [`Ipv6Be::of_v4`] puts it.
    pub address: Ipv6Be,
}
const _: () = assert!(size_of::<SenderKey>() == 20);

impl SenderKey {
    /// An address of a family.
    #[inline(always)]
    pub const fn new(version: u16, address: Ipv6Be) -> Self {
        Self { version: version as u32, address }
    }
}

/// What came to a target in tunnels, per CPU.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct DecapCounters {
    /// Packets taken out of IP.
    pub ipip: u64,
    /// Packets taken out of GUE.
    pub gue: u64,
    /// Packets of tunnels whose sender may not; they are left as they are.
    pub refused: u64,
    /// Bytes of the frames that were taken out of something, with what was around them.
    pub bytes: u64,
}
const _: () = assert!(size_of::<DecapCounters>() == 32);

/// [`SenderKey`] by longest prefix → anything: may send.
pub const DECAP_SENDERS: &str = "DECAP_SENDERS";
/// One [`DecapCounters`] per CPU.
pub const DECAP_COUNTERS: &str = "DECAP_COUNTERS";

/// Ranges that may send to one target: the addresses of a region's load balancers one by one, and some more.
pub const MAX_SENDERS: usize = 1024;
