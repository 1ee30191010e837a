//! What would happen to a packet, and why: the path that packets take in the kernel, over a view of the same maps.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{DropReason, Pulse};
use lb_common::packet::{Verdict, steer};
use lb_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Window, flags, protocol};
use serde::{Deserialize, Serialize};

use super::ledger::Ledger;
use super::maps::Maps;
use super::plan::Protocol;
use super::reconcile::Mac;
use super::view::{Names, View};

/// A packet that is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketQuestion {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// TCP flags such as `syn` or `fin,ack`.
    pub flags: String,
    /// The device it comes in by; the one that has the destination's address, if none is said.
    pub device: Option<String>,
}

/// What would happen to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The device it came in by.
    pub device: String,
    /// What was asked of the tables, and what they said, in order.
    pub steps: Vec<String>,
    /// The verdict, and why.
    pub verdict: String,
    /// The packet that leaves.
    pub becomes: Option<String>,
}

/// Why nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// Nobody has the address.
    #[error("no interface of the node's load balancers has the address {0}")]
    Address(IpAddr),
    /// Nobody has the device.
    #[error("the node's load balancers have no device '{0}'")]
    Device(String),
    /// A packet is of one family.
    #[error("{0} and {1} are not of one family")]
    Families(IpAddr, IpAddr),
    /// No such flags.
    #[error("'{0}' are not TCP flags; they are of syn, ack, fin, rst and psh, with commas between them")]
    Flags(String),
}

/// Asks the tables about a packet.
pub(super) fn explain(
    question: &PacketQuestion,
    maps: &Maps,
    ledger: &Ledger,
    names: &Names,
    pulse: Pulse,
    own_mac: Mac,
) -> Result<Explanation, ExplainError> {
    let ingress = ingress(question, ledger, names)?;
    let packet = packet(question, own_mac)?;
    let mut buffer = vec![0; HEADROOM];
    buffer.extend(packet);
    let view = View::new(maps, ledger, names, pulse);
    let verdict = steer(&Window::with_headroom(&mut buffer, HEADROOM), ingress, &view);
    let grown = isize::try_from(view.grown()).unwrap_or(0);
    let start = HEADROOM.checked_add_signed(-grown).unwrap_or(HEADROOM);
    let left = buffer.get(start..).unwrap_or_default();
    let (verdict, becomes) = match verdict {
        Verdict::Pass => ("pass: it is for the node's own kernel".to_owned(), None),
        Verdict::Drop(reason) => (format!("drop, {}: {}", reason.name(), why(reason)), None),
        Verdict::Transmit(egress) | Verdict::TransmitFirst { egress, .. } => {
            (format!("transmit by {}", names.device(egress)), told_frame(left))
        }
    };
    Ok(Explanation { device: names.device(ingress), steps: view.into_steps(), verdict, becomes })
}

fn ingress(question: &PacketQuestion, ledger: &Ledger, names: &Names) -> Result<u32, ExplainError> {
    match &question.device {
        Some(device) => {
            let found = names.devices.iter().find(|(_, name)| *name == device);
            found.map(|(ifindex, _)| *ifindex).ok_or_else(|| ExplainError::Device(device.clone()))
        }
        None => {
            let address = question.destination.ip();
            ledger.addresses.get(&address).copied().ok_or(ExplainError::Address(address))
        }
    }
}

/// Why a packet ends, for people.
const fn why(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Truncated => "it ends inside a header, or before its own length",
        DropReason::BadHeader => "its headers contradict each other",
        DropReason::Fragment => "it is a fragment whose first fragment was not seen",
        DropReason::ExtensionHeader => "it has IPv6 extension headers that are not forwarded",
        DropReason::TtlExpired => "its time to live is over",
        DropReason::Protocol => "it is neither TCP nor UDP nor ICMP",
        DropReason::Icmp => "it is ICMP that is neither the kernel's nor about a flow",
        DropReason::NoListener => "no listener has this port",
        DropReason::SecurityGroup => "the load balancer's security groups do not admit the source",
        DropReason::StrayReset => "it resets a flow that is not known",
        DropReason::NoTarget => "the listener has no target",
        DropReason::Unresolved => "the MAC of the target's next hop is not known",
        DropReason::SynFlood => "too many flows began in this second",
        DropReason::SourceLimit => "too many flows of this source began in this second",
        DropReason::FlowTableFull => "the flow table is full",
        DropReason::PortsExhausted => "no source port towards the target is free",
        DropReason::FlowRace => "the flow is there already",
        DropReason::TooBig => "it does not fit where it would have to go",
        DropReason::Untranslatable => "it has no form in the target's family",
        DropReason::UnknownServerId => "its QUIC connection id names no target",
        DropReason::Tunnel => "it is in a tunnel that was not made for this host",
    }
}

/// The packet that is asked about. Its checksums are what they are: nobody looks at them.
fn packet(question: &PacketQuestion, destination_mac: Mac) -> Result<Vec<u8>, ExplainError> {
    let segment = segment(question)?;
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let number = question.protocol.number();
    let mut frame = destination_mac.to_vec();
    frame.extend(CLIENT_MAC);
    match (question.source.ip(), question.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend(ETHERTYPE_IPV4.to_ne_bytes());
            frame.extend([0x45, 0]);
            frame.extend((length + IPV4_HEADER).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, HOPS, number, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend(ETHERTYPE_IPV6.to_ne_bytes());
            frame.extend([0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([number, HOPS]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (source, destination) => return Err(ExplainError::Families(source, destination)),
    }
    frame.extend(segment);
    Ok(frame)
}

fn segment(question: &PacketQuestion) -> Result<Vec<u8>, ExplainError> {
    let mut segment = question.source.port().to_be_bytes().to_vec();
    segment.extend(question.destination.port().to_be_bytes());
    match question.protocol {
        Protocol::Tcp => {
            segment.extend([0; 8]);
            segment.extend([0x50, tcp_flags(&question.flags)?, 0xff, 0xff, 0, 0, 0, 0]);
        }
        // A checksum, because without one a packet cannot change its family.
        Protocol::Udp => segment.extend([0, 8, 0xff, 0xff]),
    }
    Ok(segment)
}

fn tcp_flags(text: &str) -> Result<u8, ExplainError> {
    let mut bits = 0;
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let found = FLAGS.iter().find(|(name, _)| *name == word.trim().to_ascii_lowercase());
        bits |= found.ok_or_else(|| ExplainError::Flags(text.to_owned()))?.1;
    }
    Ok(bits)
}

const FLAGS: [(&str, u8); 5] =
    [("syn", flags::SYN), ("ack", flags::ACK), ("fin", flags::FIN), ("rst", flags::RST), ("psh", flags::PSH)];

/// A frame in words, tunnels with what is inside.
fn told_frame(frame: &[u8]) -> Option<String> {
    let mac = |at: usize| -> Option<String> {
        let bytes = frame.get(at..at + 6)?;
        Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"))
    };
    let packet = told_packet(frame.get(14..)?)?;
    Some(format!("{packet}, from MAC {} to {}", mac(6)?, mac(0)?))
}

fn told_packet(packet: &[u8]) -> Option<String> {
    let address = |at: usize, length: usize| -> Option<IpAddr> {
        let bytes = packet.get(at..at + length)?;
        match length {
            4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        }
    };
    let (source, destination, number, body) = match packet.first()? >> 4 {
        4 => (address(12, 4)?, address(16, 4)?, *packet.get(9)?, packet.get(20..)?),
        _ => (address(8, 16)?, address(24, 16)?, *packet.get(6)?, packet.get(40..)?),
    };
    let port = |at: usize| Some(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    match number {
        protocol::IPV4 | protocol::IPV6 => {
            Some(format!("ip {source} > {destination} [{}]", told_packet(body)?))
        }
        protocol::TCP | protocol::UDP => {
            let (from, to) = (SocketAddr::new(source, port(0)?), SocketAddr::new(destination, port(2)?));
            if number == protocol::UDP && to.port() == GUE_PORT {
                return Some(format!("udp {from} > {to} [{}]", told_packet(body.get(8..)?)?));
            }
            let bits = if number == protocol::TCP { *body.get(13)? } else { 0 };
            let set = FLAGS.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| format!(" {name}"));
            let word = if number == protocol::TCP { "tcp" } else { "udp" };
            Some(format!("{word} {from} > {to}{}", set.collect::<String>()))
        }
        _ => Some(format!("protocol {number} {source} > {destination}")),
    }
}

/// Room for whatever is put in front of a packet.
const HEADROOM: usize = 128;
/// Somebody's, locally administered.
const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// As most hosts send.
const HOPS: u8 = 64;
const IPV4_HEADER: u16 = 20;
/// IANA's for GUE.
const GUE_PORT: u16 = 6080;

#[cfg(test)]
mod tests {
    use super::*;

    fn question(source: &str, destination: &str, protocol: Protocol) -> PacketQuestion {
        PacketQuestion {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            flags: "syn".to_owned(),
            device: None,
        }
    }

    #[test]
    fn what_is_asked_about_is_what_is_told() {
        for (source, destination) in [("10.0.0.1:4000", "10.0.0.2:80"), ("[fd00::1]:4000", "[fd00::2]:80")] {
            let tcp = packet(&question(source, destination, Protocol::Tcp), [2; 6]).unwrap();
            let told = told_frame(&tcp).unwrap();
            let expected =
                format!("tcp {source} > {destination} syn, from MAC 02:00:00:00:00:01 to 02:02:02:02:02:02");
            assert_eq!(told, expected);
            let udp = packet(&question(source, destination, Protocol::Udp), [2; 6]).unwrap();
            assert!(told_frame(&udp).unwrap().starts_with(&format!("udp {source} > {destination},")));
        }
    }

    #[test]
    fn packets_in_packets_are_told_with_what_is_inside() {
        let inner = packet(&question("10.0.0.1:4000", "10.0.0.2:80", Protocol::Tcp), [2; 6]).unwrap();
        let mut outer = vec![0x60, 0, 0, 0, 0, 40, protocol::IPV4, 64];
        outer.extend([0xfd; 32]);
        outer.extend(&inner[14..]);
        let told = told_packet(&outer).unwrap();
        assert!(told.ends_with("[tcp 10.0.0.1:4000 > 10.0.0.2:80 syn]"), "{told}");
    }

    #[test]
    fn flags_are_words() {
        assert_eq!(tcp_flags("syn,ACK"), Ok(flags::SYN | flags::ACK));
        assert_eq!(tcp_flags(""), Ok(0));
        assert_eq!(tcp_flags("urgent"), Err(ExplainError::Flags("urgent".to_owned())));
    }

    #[test]
    fn a_packet_is_of_one_family() {
        let mixed = question("10.0.0.1:4000", "[fd00::2]:80", Protocol::Tcp);
        assert!(matches!(packet(&mixed, [2; 6]), Err(ExplainError::Families(..))));
    }
}
