//! What userspace decides and the kernel obeys: listeners, who may use them, rings and targets.

use super::{Ipv4Be, PortBe};

/// What a client connects to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerKey {
    /// The load balancer's static address.
    pub address: Ipv4Be,
    /// The listener's port.
    pub port: PortBe,
    /// IANA number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}
const _: () = assert!(size_of::<ListenerKey>() == 8); // a map key is compared byte for byte

/// What a listener does. One word, so that userspace flips it in one store.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// The ring that new flows are spread by, or [`NO_RING`].
    pub ring: u32,
    /// Bits of [`listener_flags`].
    pub flags: u32,
}
const _: () = assert!(size_of::<Listener>() == 8);

/// No target at all: new flows are reset.
pub const NO_RING: u32 = u32::MAX;

/// Properties of a listener.
pub mod listener_flags {
    /// The load balancer has security groups: a source without an entry is refused.
    pub const GUARDED: u32 = 1;
}

/// A source range that may use a listener; security groups come down to these.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SourceKey {
    /// The listener's index, always matched whole.
    pub listener: u32,
    /// First address of the range.
    pub source: Ipv4Be,
}
const _: () = assert!(size_of::<SourceKey>() == 8);

/// Slots of a ring: prime, and about a hundred times the targets of a group (Maglev, NSDI'16, §3.4).
pub const RING_SIZE: usize = 65_537;

/// A weighted Maglev table: target indices by hash.
pub type Ring = [u16; RING_SIZE];

/// An empty slot of a ring.
pub const NO_TARGET: u16 = u16::MAX;

/// Where packets of a target go. Words are written one by one, and an index is given to another target only when no
/// flow names it, so a reader between two words sees nothing wrong.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Its address.
    pub address: Ipv4Be,
    /// Its port.
    pub port: PortBe,
    /// One of [`target_state`].
    pub state: u16,
    /// MAC of the next hop, first four bytes as on the wire.
    pub mac_head: u32,
    /// The last two bytes.
    pub mac_tail: u16,
    /// Zero.
    pub pad: u16,
    /// Counts how often the index was given away.
    pub generation: u32,
    /// Which of our addresses reaches it this way. The kernel does not read it: it lets userspace recognize its targets
    /// after a restart.
    pub via: Ipv4Be,
    /// A hash of its target group; as above.
    pub group: u64,
}
const _: () = assert!(size_of::<Target>() == 32);

impl Target {
    /// Nobody.
    pub const GONE: Self = Self {
        address: Ipv4Be(0),
        port: PortBe(0),
        state: target_state::GONE,
        mac_head: 0,
        mac_tail: 0,
        pad: 0,
        generation: 0,
        via: Ipv4Be(0),
        group: 0,
    };
}

/// What a target's entry is good for.
pub mod target_state {
    /// Nobody's: flows that name it are reset.
    pub const GONE: u16 = 0;
    /// Its next hop's MAC is known.
    pub const READY: u16 = 1;
    /// Its next hop's MAC is not known: packets are dropped, and their senders try again.
    pub const UNRESOLVED: u16 = 2;
}

/// The kernel's clock and flood limit, written by userspace. A clock that userspace counts needs no helper per packet,
/// stands still while nobody could collect entries, and can be any time in a test.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// Seconds, from an arbitrary start.
    pub tick: u32,
    /// New flows that one CPU may begin per tick.
    pub syn_limit: u32,
}
const _: () = assert!(size_of::<Pulse>() == 8);

/// New flows that this CPU began in this tick.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynBudget {
    /// Which tick.
    pub tick: u32,
    /// How many.
    pub used: u32,
}
const _: () = assert!(size_of::<SynBudget>() == 8);

/// A CPU's own range of NAT source ports, in host byte order: no two CPUs try the same port.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortCursor {
    /// First port.
    pub first: u16,
    /// How many.
    pub span: u16,
    /// Offset of the next one to try.
    pub next: u16,
    /// Zero.
    pub pad: u16,
}
const _: () = assert!(size_of::<PortCursor>() == 8);
