//! `steer`: one packet and the tables in, the rewritten packet and a verdict out.
//!
//! The path through the files is the path of a packet. Established packets find their flow before anything else is
//! asked; what belongs to no flow is looked at by `admit`, and may begin one.

/// What a packet becomes.
mod verdict;
/// The tables that decide, over maps in the kernel and over `HashMap`s on the host.
mod tables;
/// Headers to a checked frame.
mod frame;
/// Packets of a known flow.
mod forward;
/// Packets of no flow: whose they are, and whether one may begin.
mod admit;
/// Hash and ring: which target gets a new flow.
mod select;
/// Both entries of a new flow, and its source port.
mod begin;
/// New addresses, ports, MACs and checksums in place.
mod rewrite;
/// A RST from a packet's own numbers.
mod reset;

pub use select::flow_hash;
pub use tables::{InsertError, Tables};
pub use verdict::Verdict;

use crate::wire::Window;
use frame::Parsed;
use verdict::Step;

/// Decides about one packet that came in by the interface `ingress`, rewrites it if it is forwarded, and counts it.
#[inline(always)]
pub fn steer<T: Tables>(window: &Window<'_>, ingress: u32, tables: &T) -> Verdict {
    let verdict = match frame::parse(window) {
        Parsed::Tcp(frame) => {
            let mut step = forward::forward(&frame, ingress, tables);
            if let Step::NoFlow = step {
                step = admit::admit(&frame, ingress, tables);
            }
            match step {
                Step::Done(verdict) => verdict,
                Step::Reset => reset::answer(&frame),
                Step::NoFlow => Verdict::Pass,
            }
        }
        Parsed::Other(packet) => admit::other(&packet, tables),
        Parsed::Bad(packet, reason) => admit::bad(packet, reason, tables),
        Parsed::NotIpv4 => Verdict::Pass,
    };
    if let Verdict::Drop(reason) = verdict {
        tables.count_drop(reason);
    }
    verdict
}
