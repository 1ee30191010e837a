//! What a packet becomes.

use crate::abi::DropReason;

/// What is done with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is the kernel's.
    Pass,
    /// It ends here, and was counted.
    Drop(DropReason),
    /// It leaves, rewritten, by the interface it came in by: a load balancer's node has one interface to its subnet.
    Transmit,
    /// Its first bytes leave that way, the rest is cut off.
    TransmitFirst(u16),
}

/// What a step of the path says about a TCP packet: an answer, or where it goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing more to decide.
    Done(Verdict),
    /// It belongs to no flow: ask whether it may begin one.
    NoFlow,
    /// It is answered with a RST.
    Reset,
}
