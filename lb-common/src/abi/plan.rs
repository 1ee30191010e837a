//! What userspace decides and the kernel obeys: listeners, who may use them, rings and targets.

use super::{Ipv4Be, Ipv6Be, PortBe};

/// What a client connects to.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ListenerKey<A> {
    /// The load balancer's static address.
    pub address: A,
    /// The listener's port.
    pub port: PortBe,
    /// IANA number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}
// A map key is compared byte for byte.
const _: () = assert!(size_of::<ListenerKey<Ipv4Be>>() == 8 && size_of::<ListenerKey<Ipv6Be>>() == 20);

/// What a listener does. Ring and flags are one word, so that userspace flips them in one store.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// The ring that new flows are spread by, or [`NO_RING`].
    pub ring: u32,
    /// Bits of [`listener_flags`].
    pub flags: u32,
    /// The ring before this one, for flows whose first packet it spread and that have no entry yet; or [`NO_RING`].
    pub previous_ring: u32,
    /// Tick until which the previous ring is asked.
    pub previous_until: u32,
    /// New flows that one CPU may begin per tick for this listener.
    pub syn_limit: u32,
    /// Bytes of a QUIC server id, 1 to 8.
    pub server_id_length: u32,
    /// Its address; of IPv4, see [`Ipv6Be::of_v4`].
    pub address: Ipv6Be,
}
const _: () = assert!(size_of::<Listener>() == 40);

/// No target at all: new flows are reset.
pub const NO_RING: u32 = u32::MAX;

/// Properties of a listener.
pub mod listener_flags {
    /// The load balancer has security groups: a source without an entry is refused.
    pub const GUARDED: u32 = 1;
    /// It ends in userspace: what is admitted is passed to the kernel's own sockets.
    pub const LOCAL: u32 = 2;
    /// Its targets answer past us: flows begin with any packet.
    pub const DIRECT: u32 = 4;
    /// New flows are spread by the client's address alone.
    pub const STICKY: u32 = 8;
    /// Its packets are QUIC: connection ids name targets.
    pub const QUIC: u32 = 16;
    /// It ended in userspace before: what begins no flow is passed to connections that are left there.
    pub const LINGERS: u32 = 32;
}

/// A source range that may use a listener; security groups come down to these.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceKey<A> {
    /// The listener's index, always matched whole.
    pub listener: u32,
    /// First address of the range.
    pub source: A,
}
const _: () = assert!(size_of::<SourceKey<Ipv4Be>>() == 8 && size_of::<SourceKey<Ipv6Be>>() == 20);

/// Slots of a ring: prime, and about a hundred times the targets of a group (Maglev, NSDI'16, §3.4).
pub const RING_SIZE: usize = 65_537;

/// A weighted Maglev table: target indices by hash.
pub type Ring = [u16; RING_SIZE];

/// An empty slot of a ring.
pub const NO_TARGET: u16 = u16::MAX;

/// Where packets of a target go. Words are written one by one, and an index is given to another target only when no
/// flow names it, so a reader between two words sees nothing wrong.
///
/// One cache line; what an established packet needs is in its first half.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// Counts how often the index was given away.
    pub generation: u16,
    /// One of [`target_state`].
    pub state: u16,
    /// One of [`target_mode`].
    pub mode: u16,
    /// Its port.
    pub port: PortBe,
    /// MAC of the next hop, first four bytes as on the wire.
    pub mac_head: u32,
    /// The last two bytes.
    pub mac_tail: u16,
    /// The last two bytes of the MAC of the interface that leads to it.
    pub own_mac_tail: u16,
    /// The first four.
    pub own_mac_head: u32,
    /// That interface.
    pub egress: u32,
    /// The largest IP packet that interface sends, in bytes.
    pub mtu: u16,
    /// 4 or 6: the family of the addresses.
    pub family: u16,
    /// A hash of its target group. The kernel does not read it: it lets userspace recognize its targets after a restart.
    pub group: u32,
    /// Its address; of IPv4, see [`Ipv6Be::of_v4`].
    pub address: Ipv6Be,
    /// Which of our addresses reaches it this way: the source of what full NAT and tunnels send.
    pub via: Ipv6Be,
}
const _: () = assert!(size_of::<Target>() == 64);

impl Target {
    /// Nobody.
    pub const GONE: Self = Self {
        generation: 0,
        state: target_state::GONE,
        mode: target_mode::NAT,
        port: PortBe(0),
        mac_head: 0,
        mac_tail: 0,
        own_mac_tail: 0,
        own_mac_head: 0,
        egress: 0,
        mtu: 0,
        family: 0,
        group: 0,
        address: Ipv6Be([0; 4]),
        via: Ipv6Be([0; 4]),
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

/// How packets come to a target, and its answers back.
pub mod target_mode {
    /// Both addresses are rewritten; a target of the other family is reached this way only.
    pub const NAT: u16 = 0;
    /// The target's address alone is rewritten; its answers must come back by this node.
    pub const PRESERVE: u16 = 1;
    /// The frame is sent to the target's MAC as it is; the target has the load balancer's address and answers past us.
    pub const L2: u16 = 2;
    /// The packet is sent to the target inside another (RFC 2003, RFC 2473); the target answers past us.
    pub const IPIP: u16 = 3;
    /// The same inside UDP (GUE variant 1, draft-ietf-intarea-gue §3.2).
    pub const GUE: u16 = 4;
    /// Of flow entries only: the packet changes its family.
    pub const CROSS: u16 = 5;

    /// Whether targets answer past us.
    #[inline(always)]
    pub const fn is_direct(mode: u16) -> bool {
        matches!(mode, L2 | IPIP | GUE)
    }
}

/// The kernel's clock and flood limits, written by userspace. A clock that userspace counts needs no helper per packet,
/// stands still while nobody could collect entries, and can be any time in a test.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// Seconds, from an arbitrary start.
    pub tick: u32,
    /// New flows that one CPU may begin per tick.
    pub syn_limit: u32,
    /// New flows that one source address may begin per tick on one CPU; 0 is no limit.
    pub source_limit: u32,
    /// One more than the window scale that the node's own TCP uses; 0 if its SYN cookies carry no options, because it shifts
    /// timestamps by what nobody else knows.
    pub cookie_scale: u32,
}
const _: () = assert!(size_of::<Pulse>() == 16);

/// New flows that were begun in this tick: by this CPU, for a listener, or from a source.
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
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
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

impl PortCursor {
    /// The next port to try; none if this CPU has none.
    #[inline(always)]
    pub fn take(&mut self) -> Option<PortBe> {
        if self.span == 0 {
            return None;
        }
        let port = self.first.wrapping_add(self.next);
        self.advance(1);
        Some(PortBe::new(port))
    }

    /// Leaves a run of ports that are taken, as those of flows are that began one after another and last.
    #[inline(always)]
    pub fn skip(&mut self) {
        self.advance(self.span / SKIPS);
    }

    #[inline(always)]
    fn advance(&mut self, by: u16) {
        let left = self.span.wrapping_sub(self.next);
        self.next = if by < left { self.next.wrapping_add(by) } else { by.wrapping_sub(left) };
    }
}

/// After so many skips every part of a range was tried.
const SKIPS: u16 = 8;

/// A datagram in fragments.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Identification, as on the wire; IPv4's in the low half.
    pub id: u32,
    /// IANA number.
    pub protocol: u32,
}
const _: () = assert!(size_of::<FragmentKey<Ipv4Be>>() == 16 && size_of::<FragmentKey<Ipv6Be>>() == 40);

/// What only the first fragment says.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentPorts {
    /// Source port.
    pub source: PortBe,
    /// Destination port.
    pub destination: PortBe,
    /// Tick when the first fragment came.
    pub began: u32,
}
const _: () = assert!(size_of::<FragmentPorts>() == 8);

/// What the path to a target was said to take.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathMtu {
    /// Bytes of the largest IP packet.
    pub mtu: u32,
    /// Tick when it was last said.
    pub tick: u32,
}
const _: () = assert!(size_of::<PathMtu>() == 8);

/// A QUIC server id of a listener.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServerIdKey {
    /// The id, its first byte lowest, zeros behind a shorter one.
    pub id: u64,
    /// The listener's index.
    pub listener: u32,
    /// Zero.
    pub pad: u32,
}
const _: () = assert!(size_of::<ServerIdKey>() == 16);
