//! Frames read whole, by code that shares nothing with the core but the sum of words: what is right is found out anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::wire::{checksum, protocol};

/// What a frame says, as its receiver reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// Traffic class, or type of service.
    pub(super) class: u8,
    pub(super) hops: u8,
    pub(super) protocol: u8,
    /// Whether the IPv4 header's checksum is right.
    pub(super) is_header_right: bool,
    /// Whether the checksum of what it carries is; none where there is none, or not all of what it covers.
    pub(super) is_body_right: Option<bool>,
    /// What it carries, without padding.
    pub(super) body: Vec<u8>,
    /// Options of IPv4.
    pub(super) options: Vec<u8>,
}

/// Reads a frame; none if it is not an IP packet that is all there.
pub(super) fn read(frame: &[u8]) -> Option<Reading> {
    match frame.get(12..14)? {
        [0x08, 0x00] => read_v4(frame.get(14..)?),
        [0x86, 0xdd] => read_v6(frame.get(14..)?),
        _ => None,
    }
}

fn read_v4(packet: &[u8]) -> Option<Reading> {
    let length = usize::from(packet.first()? & 0xf) * 4;
    let header = packet.get(..length).filter(|header| header.len() >= 20)?;
    let body = packet.get(length..usize::from(short(header, 2)?))?;
    let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?)));
    let (from, to, protocol) = (address(12)?, address(16)?, header[9]);
    let is_fragment = short(header, 6)? & 0x3fff != 0;
    Some(Reading {
        from,
        to,
        class: header[1],
        hops: header[8],
        protocol,
        is_header_right: checksum::fold(checksum::sum(header)) == u16::MAX,
        is_body_right: if is_fragment { None } else { is_body_right(from, to, protocol, body) },
        body: body.to_vec(),
        options: header[20..].to_vec(),
    })
}

fn read_v6(packet: &[u8]) -> Option<Reading> {
    let header = packet.get(..40).filter(|header| header[0] >> 4 == 6)?;
    let body = packet.get(40..40 + usize::from(short(header, 4)?))?;
    let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?)));
    let (from, to, protocol) = (address(8)?, address(24)?, header[6]);
    Some(Reading {
        from,
        to,
        class: header[0] << 4 | header[1] >> 4,
        hops: header[7],
        protocol,
        is_header_right: true,
        is_body_right: is_body_right(from, to, protocol, body),
        body: body.to_vec(),
        options: Vec::new(),
    })
}

/// Recomputes the checksum of what a packet carries.
fn is_body_right(from: IpAddr, to: IpAddr, carried: u8, body: &[u8]) -> Option<bool> {
    let covered = match carried {
        protocol::TCP if body.len() >= 20 => body,
        protocol::UDP => {
            let own = usize::from(short(body, 4)?);
            // Zero is none.
            if short(body, 6)? == 0 || own < 8 {
                return None;
            }
            body.get(..own)?
        }
        protocol::ICMP if from.is_ipv4() && body.len() >= 8 => {
            return Some(checksum::fold(checksum::sum(body)) == u16::MAX);
        }
        protocol::ICMPV6 if from.is_ipv6() && body.len() >= 8 => body,
        _ => return None,
    };
    let mut whole = Vec::with_capacity(covered.len() + 40);
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => whole.extend(address.octets()),
            IpAddr::V6(address) => whole.extend(address.octets()),
        }
    }
    whole.extend(u32::try_from(covered.len()).ok()?.to_be_bytes());
    whole.extend([0, 0, 0, carried]);
    whole.extend(covered);
    Some(checksum::fold(checksum::sum(&whole)) == u16::MAX)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Reading {
    /// Source and destination port of TCP and UDP.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        Some((short(&self.body, 0)?, short(&self.body, 2)?))
    }
}
