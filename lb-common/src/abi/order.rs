//! Addresses and ports as they are on the wire: compared and copied, never computed with.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// An IPv4 address in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv4Be(pub u32);

/// An IPv6 address in network byte order, as four words so that it needs no more alignment than the fields beside it.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ipv6Be(pub [u32; 4]);

/// A port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortBe(pub u16);

impl From<Ipv4Addr> for Ipv4Be {
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv4Be> for Ipv4Addr {
    fn from(address: Ipv4Be) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl Ipv6Be {
    /// An IPv4 address in the place of an IPv6 address: the first word has it, the others are zero. Only tables that say
    /// beside it which family it is hold such a value.
    #[inline(always)]
    pub const fn of_v4(address: Ipv4Be) -> Self {
        Self([address.0, 0, 0, 0])
    }

    /// The IPv4 address that [`Self::of_v4`] put here.
    #[inline(always)]
    pub const fn as_v4(self) -> Ipv4Be {
        Ipv4Be(self.0[0])
    }
}

impl From<Ipv6Addr> for Ipv6Be {
    fn from(address: Ipv6Addr) -> Self {
        let octets = address.octets();
        let word =
            |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }
}

impl From<Ipv6Be> for Ipv6Addr {
    fn from(address: Ipv6Be) -> Self {
        let mut octets = [0; 16];
        for (four, word) in octets.chunks_exact_mut(4).zip(address.0) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        Self::from(octets)
    }
}

impl PortBe {
    /// From a number.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// As a number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for Ipv4Be {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv4Addr::from(*self), f)
    }
}

impl fmt::Debug for Ipv6Be {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv6Addr::from(*self), f)
    }
}

impl fmt::Debug for PortBe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.number(), f)
    }
}
