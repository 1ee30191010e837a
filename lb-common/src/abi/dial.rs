//! What sockets of clients on the node itself dialled, and where that led.

use super::{Ipv6Be, PortBe};

/// An address as [`Ipv6Be::of_v4`] widens it, in words as the kernel's stack takes them.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Halves(pub [u64; 2]);

impl From<Ipv6Be> for Halves {
    #[inline(always)]
    fn from(Ipv6Be([a, b, c, d]): Ipv6Be) -> Self {
        Self([u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32])
    }
}

impl Halves {
    /// The four words.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "halves of words are taken on purpose")]
    pub const fn words(self) -> [u32; 4] {
        let Self([head, tail]) = self;
        [head as u32, (head >> 32) as u32, tail as u32, (tail >> 32) as u32]
    }
}

/// A socket and one of its peers: a load balancer that it dialled, or the target that answers it.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DialKey {
    /// The kernel's cookie of the socket, which no other has until the machine starts anew.
    pub socket: u64,
    /// The peer's address.
    pub address: Halves,
    /// Its port.
    pub port: PortBe,
    /// 4 or 6.
    pub family: u16,
    /// Zero.
    pub pad: u32,
}
// A map key is compared byte for byte.
const _: () = assert!(size_of::<DialKey>() == 32);

/// The peer's other face: of a load balancer the target, of a target the load balancer.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dialled {
    /// Its address.
    pub address: Halves,
    /// Its port.
    pub port: PortBe,
    /// 4 or 6.
    pub family: u16,
    /// Index of the target.
    pub target: u16,
    /// The target's generation then.
    pub generation: u16,
}
const _: () = assert!(size_of::<Dialled>() == 24);

/// [`DialKey`] of a load balancer → [`Dialled`], the target: where a socket's datagrams go that is not connected.
pub const DIALS: &str = "DIALS";
/// [`DialKey`] of a target → [`Dialled`], the load balancer: whom a socket takes the target for.
pub const DIALLED: &str = "DIALLED";
/// One cookie of a network namespace: sockets of others are left alone.
pub const DIAL_NAMESPACE: &str = "DIAL_NAMESPACE";

/// Peers that are remembered of all sockets; the one that was used longest ago makes room.
pub const MAX_DIALS: usize = 65_536;

/// The programs, each named like what it is attached to.
pub const DIAL_PROGRAMS: [&str; 8] = [
    "dial_getpeer4",
    "dial_getpeer6",
    "dial_recvmsg4",
    "dial_recvmsg6",
    "dial_sendmsg4",
    "dial_sendmsg6",
    "dial_connect4",
    "dial_connect6",
];
