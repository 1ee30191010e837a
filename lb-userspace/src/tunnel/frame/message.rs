//! The payloads, other than DATA: fixed fields in network order.

use super::{
    PeerMisbehaved,
    header::{HEADER_LEN, Header, Kind, MAX_DEMAND, MAX_REASON},
};
use crate::snapshot::link::LaneTarget;

/// Single-use ticket for a lane: 16 random bytes of the gateway's worker.
pub type Nonce = [u8; 16];

/// A frame other than DATA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who the agent is.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Drawn at the agent's start: tells agents of one link apart.
        agent: [u8; 16],
        /// The link; must be the certificate's.
        link: String,
    },
    /// What the gateway is.
    Welcome {
        /// [`VERSION`].
        version: u16,
        /// How many workers it has.
        workers: u16,
        /// Lanes it will ask for at most, over all workers.
        max_lanes: u32,
    },
    /// Dial one lane per nonce.
    Demand {
        /// For this worker.
        worker: u16,
        /// Their tickets, at least one and at most [`MAX_DEMAND`].
        nonces: Vec<Nonce>,
    },
    /// First frame of a lane.
    LaneHello {
        /// For this worker.
        worker: u16,
        /// The ticket.
        nonce: Nonce,
    },
    /// The lane may be used.
    LaneReady,
    /// Connect to a target.
    Open(Open),
    /// Connected.
    OpenOk {
        /// Of the OPEN.
        open_id: u64,
    },
    /// Not connected; no byte reached the target.
    OpenErr {
        /// Of the OPEN.
        open_id: u64,
        /// Why.
        code: RefusalCode,
        /// In words, for the gateway's log.
        reason: String,
    },
    /// No more DATA in this direction.
    Eof,
    /// The connection broke.
    Reset {
        /// Why.
        code: ResetCode,
    },
    /// Are you there.
    Ping {
        /// Comes back in the PONG.
        token: u64,
    },
    /// Yes.
    Pong {
        /// Of the PING.
        token: u64,
    },
    /// Will close soon.
    Drain,
}

/// The payload of an OPEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Rises with every OPEN on a lane.
    pub open_id: u64,
    /// What to connect to: an id, never an address.
    pub target: LaneTarget,
    /// How long connecting may take.
    pub deadline_ms: u32,
    /// Zero: no option is defined.
    pub flags: u32,
    /// Generation of the gateway's slice. An agent whose own is older waits a moment before it calls an id unknown.
    pub generation: u64,
}

/// Why an agent did not connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum RefusalCode {
    /// The agent's slice does not list the target.
    Unknown = 1,
    /// The target is deregistered; running connections finish, new ones are refused.
    Draining = 2,
    /// Security groups refuse it.
    SecurityGroup = 3,
    /// The address is one that a link never connects to.
    Forbidden = 4,
    /// The target did not accept the connection.
    Connect = 5,
    /// It took too long.
    Deadline = 6,
    /// The agent has as many connects under way as it may.
    Busy = 7,
    /// The link is being deleted.
    Deleting = 8,
}

/// Why a connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ResetCode {
    /// The target's connection failed.
    Target = 1,
    /// The other end of the lane is no longer wanted, and too much is still on its way to wait for it.
    Abandoned = 2,
}

impl Message {
    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        let kind = self.encode_payload(out);
        let header = Header { kind, length: out.len() - start - HEADER_LEN };
        if let Some(place) = out.get_mut(start..start + HEADER_LEN) {
            place.copy_from_slice(&header.encode());
        }
    }

    /// The whole frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        self.encode(&mut out);
        out
    }

    fn encode_payload(&self, out: &mut Vec<u8>) -> Kind {
        match self {
            Self::Hello { version, agent, link } => {
                out.extend_from_slice(&version.to_be_bytes());
                out.extend_from_slice(agent);
                let link = link.as_bytes();
                let length = u8::try_from(link.len().min(LONGEST_LINK)).unwrap_or_default();
                out.push(length);
                out.extend(link.iter().take(usize::from(length)));
                Kind::Hello
            }
            Self::Welcome { version, workers, max_lanes } => {
                out.extend_from_slice(&version.to_be_bytes());
                out.extend_from_slice(&workers.to_be_bytes());
                out.extend_from_slice(&max_lanes.to_be_bytes());
                Kind::Welcome
            }
            Self::Demand { worker, nonces } => {
                out.extend_from_slice(&worker.to_be_bytes());
                out.extend(nonces.iter().take(MAX_DEMAND).flatten());
                Kind::Demand
            }
            Self::LaneHello { worker, nonce } => {
                out.extend_from_slice(&worker.to_be_bytes());
                out.extend_from_slice(nonce);
                Kind::LaneHello
            }
            Self::LaneReady => Kind::LaneReady,
            Self::Open(open) => {
                out.extend_from_slice(&open.open_id.to_be_bytes());
                out.extend_from_slice(&open.target.0);
                out.extend_from_slice(&open.deadline_ms.to_be_bytes());
                out.extend_from_slice(&open.flags.to_be_bytes());
                out.extend_from_slice(&open.generation.to_be_bytes());
                Kind::Open
            }
            Self::OpenOk { open_id } => {
                out.extend_from_slice(&open_id.to_be_bytes());
                Kind::OpenOk
            }
            Self::OpenErr { open_id, code, reason } => {
                out.extend_from_slice(&open_id.to_be_bytes());
                out.extend_from_slice(&(*code as u16).to_be_bytes());
                let cut = reason.floor_char_boundary(MAX_REASON);
                out.extend(reason.bytes().take(cut));
                Kind::OpenErr
            }
            Self::Eof => Kind::Eof,
            Self::Reset { code } => {
                out.extend_from_slice(&(*code as u16).to_be_bytes());
                Kind::Reset
            }
            Self::Ping { token } => {
                out.extend_from_slice(&token.to_be_bytes());
                Kind::Ping
            }
            Self::Pong { token } => {
                out.extend_from_slice(&token.to_be_bytes());
                Kind::Pong
            }
            Self::Drain => Kind::Drain,
        }
    }

    /// Reads the payload of a frame other than DATA.
    ///
    /// # Errors
    /// When it does not have its kind's form.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, PeerMisbehaved> {
        let mut fields = Fields(payload);
        let message = match kind {
            Kind::Hello => {
                let (version, agent) = (fields.u16()?, fields.array()?);
                let [length] = fields.array()?;
                Self::Hello { version, agent, link: fields.text(usize::from(length))? }
            }
            Kind::Welcome => {
                Self::Welcome { version: fields.u16()?, workers: fields.u16()?, max_lanes: fields.u32()? }
            }
            Kind::Demand => {
                let worker = fields.u16()?;
                let mut nonces = Vec::with_capacity(fields.0.len() / size_of::<Nonce>());
                while !fields.0.is_empty() {
                    nonces.push(fields.array()?);
                }
                if nonces.is_empty() || nonces.len() > MAX_DEMAND {
                    return Err(PeerMisbehaved::Payload);
                }
                Self::Demand { worker, nonces }
            }
            Kind::LaneHello => Self::LaneHello { worker: fields.u16()?, nonce: fields.array()? },
            Kind::LaneReady => Self::LaneReady,
            Kind::Open => {
                let open = Open {
                    open_id: fields.u64()?,
                    target: LaneTarget(fields.array()?),
                    deadline_ms: fields.u32()?,
                    flags: fields.u32()?,
                    generation: fields.u64()?,
                };
                if open.flags != 0 {
                    return Err(PeerMisbehaved::Payload);
                }
                Self::Open(open)
            }
            Kind::OpenOk => Self::OpenOk { open_id: fields.u64()? },
            Kind::OpenErr => {
                let (open_id, code) = (fields.u64()?, fields.u16()?);
                let code = REFUSALS.iter().copied().find(|known| *known as u16 == code);
                let reason = fields.text(fields.0.len())?;
                if reason.len() > MAX_REASON {
                    return Err(PeerMisbehaved::Payload);
                }
                Self::OpenErr { open_id, code: code.ok_or(PeerMisbehaved::Payload)?, reason }
            }
            Kind::Eof => Self::Eof,
            Kind::Reset => {
                let code = fields.u16()?;
                let code = RESETS.iter().copied().find(|known| *known as u16 == code);
                Self::Reset { code: code.ok_or(PeerMisbehaved::Payload)? }
            }
            Kind::Ping => Self::Ping { token: fields.u64()? },
            Kind::Pong => Self::Pong { token: fields.u64()? },
            Kind::Drain => Self::Drain,
            Kind::Data => return Err(PeerMisbehaved::OutOfPlace),
        };
        if fields.0.is_empty() { Ok(message) } else { Err(PeerMisbehaved::Payload) }
    }
}

/// What is left of a payload.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], PeerMisbehaved> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(PeerMisbehaved::Payload)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u16(&mut self) -> Result<u16, PeerMisbehaved> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, PeerMisbehaved> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, PeerMisbehaved> {
        self.array().map(u64::from_be_bytes)
    }

    fn text(&mut self, length: usize) -> Result<String, PeerMisbehaved> {
        let (text, rest) = self.0.split_at_checked(length).ok_or(PeerMisbehaved::Payload)?;
        self.0 = rest;
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| PeerMisbehaved::Payload)
    }
}

/// The protocol's version; both ends must have the same.
pub const VERSION: u16 = 1;

const LONGEST_LINK: usize = 64;

const REFUSALS: &[RefusalCode] = &[
    RefusalCode::Unknown,
    RefusalCode::Draining,
    RefusalCode::SecurityGroup,
    RefusalCode::Forbidden,
    RefusalCode::Connect,
    RefusalCode::Deadline,
    RefusalCode::Busy,
    RefusalCode::Deleting,
];

const RESETS: &[ResetCode] = &[ResetCode::Target, ResetCode::Abandoned];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One of each.
    fn samples() -> Vec<Message> {
        vec![
            Message::Hello { version: VERSION, agent: [7; 16], link: "abc123".to_owned() },
            Message::Welcome { version: VERSION, workers: 4, max_lanes: 2_048 },
            Message::Demand { worker: 3, nonces: vec![[1; 16], [2; 16]] },
            Message::LaneHello { worker: 3, nonce: [1; 16] },
            Message::LaneReady,
            Message::Open(Open {
                open_id: 9,
                target: LaneTarget([5; 16]),
                deadline_ms: 5_000,
                flags: 0,
                generation: 77,
            }),
            Message::OpenOk { open_id: 9 },
            Message::OpenErr { open_id: 9, code: RefusalCode::Connect, reason: "refused".to_owned() },
            Message::Eof,
            Message::Reset { code: ResetCode::Target },
            Message::Ping { token: 1 },
            Message::Pong { token: 1 },
            Message::Drain,
        ]
    }

    fn read(frame: &[u8]) -> Result<Message, PeerMisbehaved> {
        let (header, payload) = frame.split_first_chunk().ok_or(PeerMisbehaved::Header)?;
        let header = Header::decode(*header)?;
        Message::decode(header.kind, payload.get(..header.length).ok_or(PeerMisbehaved::Length)?)
    }

    #[test]
    fn each_message_reads_back() {
        for message in samples() {
            assert_eq!(read(&message.frame()).as_ref(), Ok(&message));
        }
    }

    #[test]
    fn a_reason_too_long_is_cut_between_letters() {
        let reason = "ä".repeat(150);
        let frame = Message::OpenErr { open_id: 1, code: RefusalCode::Connect, reason }.frame();
        let Ok(Message::OpenErr { reason, .. }) = read(&frame) else { panic!("unreadable") };
        assert_eq!(reason, "ä".repeat(100));
    }

    #[test]
    fn an_open_with_unknown_flags_is_refused() {
        let mut frame = samples()[5].frame();
        frame[HEADER_LEN + 31] = 1;
        assert_eq!(read(&frame), Err(PeerMisbehaved::Payload));
    }

    proptest! {
        #[test]
        fn a_changed_frame_reads_as_itself_or_is_refused(
            which in 0_usize..13, at: prop::sample::Index, byte: u8, keep: prop::sample::Index,
        ) {
            let mut frame = samples()[which].frame();
            let place = at.index(frame.len());
            frame[place] = byte;
            if let Ok(message) = read(&frame) {
                prop_assert_eq!(message.frame(), frame.clone());
            }
            frame.truncate(keep.index(frame.len() + 1));
            let _ = read(&frame);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 1_u8..15) {
            let mut header = [kind, 0, 0, 0, 0, 0, 0, 0];
            header[7] = u8::try_from(bytes.len()).unwrap();
            if let Ok(header) = Header::decode(header) {
                let _ = Message::decode(header.kind, &bytes);
            }
        }
    }
}
