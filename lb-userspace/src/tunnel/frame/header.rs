//! The 8 bytes in front of every payload: type, flags (zero), reserved (zero), length of the payload in network order.

use super::PeerMisbehaved;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Agent, first on a control connection: who it is.
    Hello = 1,
    /// Gateway's answer to it.
    Welcome = 2,
    /// Gateway, control: dial these lanes.
    Demand = 3,
    /// Agent, first on a lane: for which worker, with which nonce.
    LaneHello = 4,
    /// Gateway's answer to it: the lane may be used.
    LaneReady = 5,
    /// Gateway, lane: connect to this target. First DATA may follow at once.
    Open = 6,
    /// Agent: connected.
    OpenOk = 7,
    /// Agent: not connected, and no byte reached the target.
    OpenErr = 8,
    /// Either end, lane: bytes of the connection.
    Data = 9,
    /// Either end, lane: no more DATA in this direction.
    Eof = 10,
    /// Either end, lane: the connection broke; the lane is closed.
    Reset = 11,
    /// Gateway: are you there.
    Ping = 12,
    /// Agent: yes.
    Pong = 13,
    /// Either end: will close soon; not to be used for anything new.
    Drain = 14,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Bytes of payload, within the kind's bounds.
    pub length: usize,
}

impl Header {
    /// A DATA frame's; `length` is cut to [`MAX_DATA`].
    pub fn data(length: usize) -> Self {
        Self { kind: Kind::Data, length: length.min(MAX_DATA) }
    }

    /// As it travels.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        [self.kind as u8, 0, 0, 0, length[0], length[1], length[2], length[3]]
    }

    /// Reads a header; its length is within its kind's bounds.
    ///
    /// # Errors
    /// When no frame of ours begins like this.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, PeerMisbehaved> {
        let [kind, flags, reserved_high, reserved_low, length @ ..] = bytes;
        if (flags, reserved_high, reserved_low) != (0, 0, 0) {
            return Err(PeerMisbehaved::Header);
        }
        let kind = Kind::of(kind).ok_or(PeerMisbehaved::Header)?;
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| PeerMisbehaved::Length)?;
        let (shortest, longest) = kind.bounds();
        if length < shortest || length > longest {
            return Err(PeerMisbehaved::Length);
        }
        Ok(Self { kind, length })
    }
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        KINDS.iter().copied().find(|kind| *kind as u8 == byte)
    }

    /// Shortest and longest payload.
    fn bounds(self) -> (usize, usize) {
        match self {
            Self::Hello => (19, 2 + 16 + 1 + 64),
            Self::Welcome => (8, 8),
            Self::Demand => (2 + 16, 2 + 16 * MAX_DEMAND),
            Self::LaneHello => (18, 18),
            Self::LaneReady | Self::Eof | Self::Drain => (0, 0),
            Self::Open => (40, 40),
            Self::OpenOk | Self::Ping | Self::Pong => (8, 8),
            Self::OpenErr => (10, 10 + MAX_REASON),
            Self::Data => (1, MAX_DATA),
            Self::Reset => (2, 2),
        }
    }
}

const KINDS: &[Kind] = &[
    Kind::Hello,
    Kind::Welcome,
    Kind::Demand,
    Kind::LaneHello,
    Kind::LaneReady,
    Kind::Open,
    Kind::OpenOk,
    Kind::OpenErr,
    Kind::Data,
    Kind::Eof,
    Kind::Reset,
    Kind::Ping,
    Kind::Pong,
    Kind::Drain,
];

/// Bytes of a header.
pub const HEADER_LEN: usize = 8;
/// Header and payload of a DATA frame are at most 64 KiB together: four TLS records, one buffer.
pub const MAX_DATA: usize = 65_536 - HEADER_LEN;
/// Lanes asked for in one DEMAND; more takes another frame.
pub const MAX_DEMAND: usize = 64;
/// Bytes of the text in an OPEN_ERR.
pub const MAX_REASON: usize = 200;
/// The longest payload of any kind but DATA: a reader needs no more memory for messages.
pub const MAX_MESSAGE: usize = 2 + 16 * MAX_DEMAND;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_kind_reads_back() {
        for kind in KINDS {
            let (shortest, longest) = kind.bounds();
            for length in [shortest, longest] {
                let header = Header { kind: *kind, length };
                assert_eq!(Header::decode(header.encode()), Ok(header));
            }
            assert!(*kind == Kind::Data || longest <= MAX_MESSAGE, "{kind:?}");
            let too_long = Header { kind: *kind, length: longest + 1 };
            assert_eq!(Header::decode(too_long.encode()), Err(PeerMisbehaved::Length));
        }
    }

    proptest! {
        #[test]
        fn any_eight_bytes_are_a_lawful_header_or_refused(bytes: [u8; HEADER_LEN]) {
            if let Ok(header) = Header::decode(bytes) {
                prop_assert_eq!(header.encode(), bytes);
                prop_assert!(header.length <= MAX_DATA);
            }
        }
    }
}
