//! Map names, sizes, keys and values: the contract between the kernel programs and userspace.
//!
//! Maps outlive the process that made them, so every change of a layout here is a new [`ABI_VERSION`].

/// Addresses and ports as they are on the wire.
mod order;
/// The two entries of a flow.
mod flow;
/// Addresses, listeners, rings and targets: what userspace decides.
mod plan;
/// What is counted, and why packets are dropped.
mod counters;
/// Tunnels' ends at targets.
mod decap;
/// Which packets are sampled, and what is said of each.
mod capture;
/// What local clients dialled.
mod dial;
/// Names and sizes of the maps.
mod maps;
/// Permission for aya to copy these types in and out of maps.
#[cfg(feature = "userspace")]
mod pod;

pub use capture::{
    CaptureFilter, CaptureState, IDLE_RING_BYTES, NO_REASON, SAMPLE_RING_BYTES, SNAP_MAX, Sample, SampleHead,
    capture_verdict,
};
pub use counters::{CookieCounters, DropReason, ListenerCounters, TargetCounters};
pub use decap::{DECAP_COUNTERS, DECAP_SENDERS, DecapCounters, MAX_SENDERS, SenderKey};
pub use dial::{DIAL_NAMESPACE, DIAL_PROGRAMS, DIALLED, DIALS, DialKey, Dialled, Halves, MAX_DIALS};
pub use flow::{Flow, FlowKey, SlotWords, TableShape, direction, state};
pub use maps::*;
pub use order::{Ipv4Be, Ipv6Be, PortBe};
pub use plan::{
    FragmentKey, FragmentPorts, Listener, ListenerKey, NO_RING, NO_TARGET, PathMtu, PortCursor, Pulse,
    RING_SIZE, Ring, ServerIdKey, SourceKey, SynBudget, Target, listener_flags, target_mode, target_state,
};

/// Pinned maps of another version are not adopted.
pub const ABI_VERSION: u32 = 3;
