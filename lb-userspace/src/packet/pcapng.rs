//! Captured packets as a file that tshark and tcpdump read: pcapng, with the verdict at each packet.
//!
//! Four kinds of blocks are all that is written, so they are written here: a section, its interfaces, packets, and how
//! many were lost. In the writer's own byte order, as the format allows.

use super::capture::Became;

//= https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html#section-3.1
//# Block Total Length: […] a 32-bit unsigned value giving the total size of this block, in octets.
//# […] MUST be a multiple of 4.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let total = u32::try_from(body.len() + 12).unwrap_or(u32::MAX);
    let mut block = Vec::with_capacity(body.len() + 12);
    block.extend(kind.to_ne_bytes());
    block.extend(total.to_ne_bytes());
    block.extend(body);
    block.extend(total.to_ne_bytes());
    block
}

/// The head of a file.
pub fn section() -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(BYTE_ORDER.to_ne_bytes());
    body.extend(1_u16.to_ne_bytes());
    body.extend(0_u16.to_ne_bytes());
    // Its length is not known.
    body.extend(u64::MAX.to_ne_bytes());
    option(&mut body, USER_APPLICATION, concat!("gatehouse ", env!("CARGO_PKG_VERSION")).as_bytes());
    end(&mut body);
    block(SECTION_HEADER, &body)
}

/// An interface, of which packets follow; the first one is number 0.
pub fn interface(name: &str, snap: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(ETHERNET.to_ne_bytes());
    body.extend([0, 0]);
    body.extend(snap.to_ne_bytes());
    option(&mut body, INTERFACE_NAME, name.as_bytes());
    option(&mut body, TIME_RESOLUTION, &[NANOSECONDS]);
    end(&mut body);
    block(INTERFACE_DESCRIPTION, &body)
}

/// A packet.
pub struct Packet<'a> {
    /// Number of the interface that it came in by.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// Bytes that came.
    pub length: u32,
    /// The first of them.
    pub bytes: &'a [u8],
    /// What became of it.
    pub verdict: Became,
    /// Why it was dropped.
    pub reason: Option<&'a str>,
}

impl Packet<'_> {
    /// The block of the packet.
    pub fn block(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.bytes.len() + 96);
        body.extend(self.interface.to_ne_bytes());
        let [high, low] = [self.at_ns >> 32, self.at_ns & u64::from(u32::MAX)];
        for half in [high, low] {
            body.extend(u32::try_from(half).unwrap_or(u32::MAX).to_ne_bytes());
        }
        body.extend(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).to_ne_bytes());
        body.extend(self.length.to_ne_bytes());
        body.extend(self.bytes);
        pad(&mut body);
        let comment = match self.reason {
            Some(reason) => format!("{}: {reason}", self.verdict.name()),
            None => self.verdict.name().to_owned(),
        };
        option(&mut body, COMMENT, comment.as_bytes());
        option(&mut body, PACKET_FLAGS, &INBOUND.to_ne_bytes());
        let mut verdict = vec![VERDICT_OF_XDP];
        verdict.extend(action(self.verdict).to_ne_bytes());
        option(&mut body, PACKET_VERDICT, &verdict);
        end(&mut body);
        block(ENHANCED_PACKET, &body)
    }
}

/// How many packets of an interface there were, and how many of them were lost, up to a time.
pub fn statistics(interface: u32, at_ns: u64, matched: u64, lost: u64) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(interface.to_ne_bytes());
    let [high, low] = [at_ns >> 32, at_ns & u64::from(u32::MAX)];
    for half in [high, low] {
        body.extend(u32::try_from(half).unwrap_or(u32::MAX).to_ne_bytes());
    }
    option(&mut body, RECEIVED, &matched.to_ne_bytes());
    option(&mut body, LOST, &lost.to_ne_bytes());
    end(&mut body);
    block(INTERFACE_STATISTICS, &body)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Longer ones than the format has room for are not said.
    let Ok(length) = u16::try_from(value.len()) else { return };
    body.extend(code.to_ne_bytes());
    body.extend(length.to_ne_bytes());
    body.extend(value);
    pad(body);
}

fn end(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// linux/bpf.h's number of what XDP answered; a packet is transmitted by a redirect.
const fn action(verdict: Became) -> u64 {
    match verdict {
        Became::Drop => 1,
        Became::Pass => 2,
        Became::Transmit => 4,
    }
}

// Numbers of the format.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const ETHERNET: u16 = 1;
const COMMENT: u16 = 1;
const INTERFACE_NAME: u16 = 2;
const PACKET_FLAGS: u16 = 2;
const USER_APPLICATION: u16 = 4;
const RECEIVED: u16 = 4;
const LOST: u16 = 5;
const PACKET_VERDICT: u16 = 7;
const TIME_RESOLUTION: u16 = 9;
const NANOSECONDS: u8 = 9;
const INBOUND: u32 = 1;
const VERDICT_OF_XDP: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks over the blocks of a file: their kinds and bodies.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8], at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !file.is_empty() {
            let total = usize::try_from(word(file, 4)).unwrap();
            assert_eq!(total % 4, 0);
            assert_eq!(word(file, total - 4), word(file, 4), "a block says its length at both ends");
            blocks.push((word(file, 0), file[8..total - 4].to_vec()));
            file = &file[total..];
        }
        blocks
    }

    #[test]
    fn blocks_say_their_lengths_and_bytes_are_whole() {
        let bytes = [1, 2, 3, 4, 5];
        let packet = Packet {
            interface: 0,
            at_ns: 7 << 32 | 9,
            length: 60,
            bytes: &bytes,
            verdict: Became::Drop,
            reason: Some("no_listener"),
        };
        let file = [section(), interface("eth1", 256), packet.block(), statistics(0, 1, 2, 3)].concat();
        let blocks = blocks(&file);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET, INTERFACE_STATISTICS]);
        let body = &blocks[2].1;
        assert_eq!(body[4..12], [7_u32.to_ne_bytes(), 9_u32.to_ne_bytes()].concat());
        assert_eq!(body[12..20], [5_u32.to_ne_bytes(), 60_u32.to_ne_bytes()].concat());
        assert_eq!(body[20..25], bytes);
        assert!(body.windows(17).any(|window| window == b"drop: no_listener"));
    }
}
