//! What a packet becomes.

use crate::abi::DropReason;

/// What is done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is the kernel's.
    Pass,
    /// It ends here, and was counted.
    Drop(DropReason),
    /// It leaves, rewritten, by the interface with this index.
    Transmit(u32),
    /// Its first bytes leave that way, the rest is cut off.
    TransmitFirst {
        /// How many.
        length: u16,
        /// The interface.
        egress: u32,
    },
}

/// What a step of the path says about a packet: an answer, or where it goes on. One word, because an enum's unused bytes
/// are whatever was in a register, and the kernel's verifier objects to computing with that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Step(u64);

impl Step {
    /// It is the kernel's.
    pub(super) const PASS: Self = Self(0);
    /// It belongs to no flow: another stage asks whether it may begin one.
    pub(super) const NO_FLOW: Self = Self(NO_FLOW);
    /// It is answered with a RST.
    pub(super) const RESET: Self = Self(RESET);
    /// It does not fit on the way of the flow that is drafted, and its sender is told so.
    pub(super) const TOO_BIG: Self = Self(TOO_BIG);

    /// It is an error about the flow that is drafted, whose packets change their family.
    pub(super) const TRANSLATE: Self = Self(TRANSLATE);
    /// It may be an error about a packet that we sent inside another.
    pub(super) const UNWRAP: Self = Self(UNWRAP);
    /// It asks for, or acknowledges, a SYN cookie of the node's own TCP.
    pub(super) const COOKIE: Self = Self(COOKIE);

    /// It ends here.
    #[inline(always)]
    pub(super) const fn drop(reason: DropReason) -> Self {
        Self(DROP | (reason as u64) << 16)
    }

    /// It leaves by this interface.
    #[inline(always)]
    pub(super) const fn transmit(egress: u32) -> Self {
        Self(TRANSMIT | (egress as u64) << 32)
    }

    /// Its first bytes leave by this interface.
    #[inline(always)]
    pub(super) const fn transmit_first(length: u16, egress: u32) -> Self {
        Self(TRANSMIT_FIRST | (length as u64) << 16 | (egress as u64) << 32)
    }

    /// Whether the packet leaves as what it came as, and not an answer to it.
    #[inline(always)]
    pub(super) const fn forwards(self) -> bool {
        self.0 & 0xffff == TRANSMIT
    }

    /// The verdict of a step that decided.
    #[inline(always)]
    pub(super) const fn verdict(self) -> Verdict {
        let (middle, egress) = ((self.0 >> 16) as u16, (self.0 >> 32) as u32);
        match self.0 & 0xffff {
            DROP => Verdict::Drop(DropReason::of_index(middle as u8)),
            TRANSMIT => Verdict::Transmit(egress),
            TRANSMIT_FIRST => Verdict::TransmitFirst { length: middle, egress },
            _ => Verdict::Pass,
        }
    }

    /// Why it ends here, if it does.
    #[inline(always)]
    pub(super) const fn dropped(self) -> Option<DropReason> {
        match self.0 & 0xffff {
            DROP => Some(DropReason::of_index((self.0 >> 16) as u8)),
            _ => None,
        }
    }
}

const DROP: u64 = 1;
const TRANSMIT: u64 = 2;
const TRANSMIT_FIRST: u64 = 3;
const NO_FLOW: u64 = 4;
const RESET: u64 = 5;
const TOO_BIG: u64 = 6;
const COOKIE: u64 = 7;
const TRANSLATE: u64 = 8;
const UNWRAP: u64 = 9;
