//! Errors that we write, with ICMP or ICMPv6: about a packet whose header and first eight bytes are in place already.

use super::family::{Family, HOPS, V4};
use super::frame::IP;
use super::rewrite::NextHop;
use super::verdict::Step;
use crate::abi::DropReason;
use crate::wire::checksum::fold;
use crate::wire::{Eth, Icmp, Window, icmp4, icmp6};

/// What an error says, in the terms of its family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Said {
    pub(super) kind: u8,
    pub(super) code: u8,
    /// What it is depends on both.
    pub(super) rest: u32,
}

impl Said {
    /// A packet does not fit: so many bytes do.
    #[inline(always)]
    pub(super) fn too_big<F: Family>(mtu: u32) -> Self {
        if F::VERSION == V4::VERSION {
            Self { kind: icmp4::UNREACHABLE, code: icmp4::FRAGMENTATION_NEEDED, rest: mtu }
        } else {
            Self { kind: icmp6::TOO_BIG, code: 0, rest: mtu }
        }
    }

    /// A host cannot be reached.
    #[inline(always)]
    pub(super) fn unreachable<F: Family>() -> Self {
        if F::VERSION == V4::VERSION {
            Self { kind: icmp4::UNREACHABLE, code: icmp4::HOST_UNREACHABLE, rest: 0 }
        } else {
            Self { kind: icmp6::UNREACHABLE, code: icmp6::ADDRESS_UNREACHABLE, rest: 0 }
        }
    }
}

/// Where the header of the packet that an error is about must be.
#[inline(always)]
pub(super) const fn quoted<F: Family>() -> usize {
    F::BODY + size_of::<Icmp>()
}

/// Writes the error in front of what it is about.
#[inline(always)]
pub(super) fn tell<F: Family>(
    window: &Window<'_>,
    hop: NextHop,
    from: F::Address,
    to: F::Address,
    said: Said,
) -> Step {
    let dropped = Step::drop(DropReason::Truncated);
    let (Some(eth), Some(ip), Some(icmp), Some(message)) = (
        window.view::<Eth>(0),
        window.view::<F::Header>(IP),
        window.view::<Icmp>(F::BODY),
        window.view::<F::Message>(F::BODY),
    ) else {
        return dropped;
    };
    let length = size_of::<F::Message>() as u16;
    hop.address(eth);
    eth.ethertype.set(F::ETHERTYPE);
    F::write(ip, from, to, F::ICMP, 0, HOPS, length);
    icmp.kind.set(said.kind);
    icmp.code.set(said.code);
    icmp.rest.set_number(said.rest);
    icmp.checksum.set(0);
    let pseudo = if F::VERSION == V4::VERSION {
        0
    } else {
        F::sum(from) + F::sum(to) + u32::from(length.to_be()) + u32::from(u16::from(F::ICMP).to_be())
    };
    icmp.checksum.set(!fold(pseudo + F::sum_message(message)));
    Step::transmit_first((F::BODY as u16) + length, hop.egress)
}
