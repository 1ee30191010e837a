//! What a capture asks the kernel for, and what it gets: which packets, and each of them as it came.

use super::{DropReason, Ipv6Be, MAX_LISTENERS};

/// Which packets are sampled. All that is said must hold.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureFilter {
    /// Drop reasons, a bit for each by its number; packets that are not dropped have none.
    pub reasons: u64,
    /// Indices of listeners, a bit each.
    pub listeners: [u64; MAX_LISTENERS / 64],
    /// Whether the packet must belong to one of those: 1 if so.
    pub is_of_listeners: u32,
    /// Bits of [`capture_verdict`].
    pub verdicts: u32,
    /// The source range's family, 4 or 6; 0 is any source.
    pub family: u32,
    /// One in so many packets of a CPU.
    pub every: u32,
    /// Samples that one CPU may take in a tick.
    pub per_tick: u32,
    /// Samples that one CPU may take at all.
    pub count: u32,
    /// Tick when the capture began.
    pub began: u32,
    /// Ticks after which nothing is sampled any more.
    pub ticks: u32,
    /// Bytes of a packet at most, up to [`SNAP_MAX`].
    pub snap: u32,
    /// Zero.
    pub pad: u32,
    /// First address of the source range; of IPv4, see [`Ipv6Be::of_v4`].
    pub source: Ipv6Be,
    /// The bits of an address that must be the range's.
    pub source_mask: Ipv6Be,
}
const _: () = assert!(size_of::<CaptureFilter>() == 80 + MAX_LISTENERS / 8);

/// What became of packets, a bit each.
pub mod capture_verdict {
    /// The kernel got it.
    pub const PASS: u8 = 1;
    /// It ended.
    pub const DROP: u8 = 2;
    /// It, or an answer to it, was sent.
    pub const TRANSMIT: u8 = 4;
}

/// One CPU's part of a capture.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureState {
    /// Packets that were asked for.
    pub matched: u64,
    /// Of those, packets that were more than a tick may have.
    pub limited: u64,
    /// Of those, samples for which the ring had no room.
    pub lost: u64,
    /// Samples.
    pub taken: u32,
    /// Packets to be left out before the next sample.
    pub skip: u32,
    /// Tick of the last sample.
    pub tick: u32,
    /// Samples in that tick.
    pub in_tick: u32,
    /// What is answered if the packet path cannot be called; XDP's number for passing.
    pub fallback: u32,
    /// Zero.
    pub pad: u32,
    /// What the drop counters were before the packet.
    pub drops: [u64; DropReason::ALL.len()],
}

impl Default for CaptureState {
    fn default() -> Self {
        Self {
            matched: 0,
            limited: 0,
            lost: 0,
            taken: 0,
            skip: 0,
            tick: 0,
            in_tick: 0,
            fallback: XDP_PASS,
            pad: 0,
            drops: [0; _],
        }
    }
}
const _: () = assert!(size_of::<CaptureState>() == 48 + 8 * DropReason::ALL.len());

/// What is said of a sampled packet in front of its bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SampleHead {
    /// Nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Bytes that came.
    pub length: u32,
    /// The first so many of them follow.
    pub kept: u32,
    /// The interface that they came by.
    pub ifindex: u32,
    /// One of [`capture_verdict`].
    pub verdict: u8,
    /// Number of the drop reason, or [`NO_REASON`].
    pub reason: u8,
    /// Zero.
    pub pad: u16,
}
const _: () = assert!(size_of::<SampleHead>() == 24);

/// A sampled packet: of its bytes as many as its head says.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// What is said of it.
    pub head: SampleHead,
    /// Its bytes as they came.
    pub bytes: [u8; SNAP_MAX],
}
const _: () = assert!(size_of::<Sample>() == size_of::<SampleHead>() + SNAP_MAX);

/// Not dropped, or dropped for no reason that is counted.
pub const NO_REASON: u8 = u8::MAX;
/// Bytes of a packet that can be sampled: a whole one of Ethernet's MTU, with tags; of jumbo frames the first.
pub const SNAP_MAX: usize = 2_048;
/// Bytes of the ring that samples wait in, while somebody captures.
pub const SAMPLE_RING_BYTES: usize = 1 << 20;
/// Bytes of it where nobody does: the least that a ring can be, whatever a page is.
pub const IDLE_RING_BYTES: usize = 1 << 16;

/// linux/bpf.h.
const XDP_PASS: u32 = 2;
