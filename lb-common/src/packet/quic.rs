//! QUIC: a connection id that a target made names it (draft-ietf-quic-load-balancers, plaintext), so that a client keeps
//! its target when its address or port changes.

use super::family::Family;
use super::frame::Frame;
use super::tables::Tables;
use crate::abi::{Listener, ServerIdKey};
use crate::wire::{Raw16, Raw32, Udp};

/// Whom a packet's connection id names.
pub(super) enum Named {
    /// The id is the client's own: the ring chooses.
    Nobody,
    /// A target.
    Target(u16),
    /// A server id that no target has.
    Unknown,
}

/// Reads the destination connection id of a UDP packet of no flow.
#[inline(always)]
pub(super) fn named<F: Family, T: Tables>(
    frame: &Frame<'_, F>,
    listener: u32,
    state: &Listener,
    tables: &T,
) -> Named {
    let payload = frame.body + size_of::<Udp>();
    let Some(first) = frame.window.view::<Raw16>(payload) else { return Named::Nobody };
    let first = (first.number() >> 8) as u8;
    //= https://www.rfc-editor.org/rfc/rfc9000#section-17.2
    //# Header Form (1) = 1, … Version (32), Destination Connection ID Length (8), Destination Connection ID (0..160)
    //= https://www.rfc-editor.org/rfc/rfc9000#section-17.3.1
    //# Header Form (1) = 0, … Destination Connection ID (0..160)
    // The id's first byte is the configuration's, the server id follows.
    let id = if first & LONG_HEADER != 0 {
        // Of Initial and 0-RTT packets the client made the id up.
        if first & LONG_TYPE <= ZERO_RTT {
            return Named::Nobody;
        }
        payload + 7
    } else {
        payload + 2
    };
    let (Some(low), Some(high)) = (frame.window.view::<Raw32>(id), frame.window.view::<Raw32>(id + 4)) else {
        // Too short to be one that a target made.
        return Named::Unknown;
    };
    let whole = u64::from(low.get()) | u64::from(high.get()) << 32;
    let unused = 64 - 8 * (state.server_id_length & 15);
    let key = ServerIdKey { id: whole & (u64::MAX >> (unused & 63)), listener, pad: 0 };
    match tables.server_id(&key) {
        Some(slot) => Named::Target(slot),
        None => Named::Unknown,
    }
}

const LONG_HEADER: u8 = 0x80;
/// RFC 9000, §17.2: two bits, Initial 0, 0-RTT 1, Handshake 2, Retry 3.
const LONG_TYPE: u8 = 0x30;
const ZERO_RTT: u8 = 0x10;
