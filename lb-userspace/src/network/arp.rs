//! ARP for addresses that are to be ours: asked whether anybody has them, then announced (RFC 5227).
//!
//! Frames are values here and tested as such; `claim` says when they are sent. Once an address stands on an interface,
//! the kernel answers for it.

use std::{io, net::Ipv4Addr};

use super::{
    claim::{Inquiry, Mac},
    packet_socket::PacketSocket,
};

/// Asks on one interface who has addresses.
pub(super) struct Probe {
    socket: PacketSocket,
    own: Mac,
}

impl Probe {
    /// Begins to listen.
    ///
    /// # Errors
    /// When there is no such interface, or this is not root.
    pub(super) fn open(index: u32, own: Mac) -> io::Result<Self> {
        Ok(Self { socket: PacketSocket::open(index, ETHERTYPE_ARP)?, own })
    }
}

impl Inquiry<Ipv4Addr> for Probe {
    fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    fn question(&self, address: Ipv4Addr) -> Vec<u8> {
        request(self.own, Ipv4Addr::UNSPECIFIED, address).to_vec()
    }

    fn claimant(&self, frame: &[u8], address: Ipv4Addr) -> Option<Mac> {
        Arp::parse(frame).filter(|arp| arp.claims(self.own, address)).map(|arp| arp.sender_mac)
    }
}

/// Tells everybody on the wire that `address` is here now: RFC 5227's announcement, a request for one's own address.
///
/// # Errors
/// When it cannot be sent.
pub(super) fn announce(index: u32, own: Mac, address: Ipv4Addr) -> io::Result<()> {
    PacketSocket::open(index, ETHERTYPE_ARP)?.send(&request(own, address, address))
}

/// Asks who has `address`, as from nobody: RFC 5227's probe. The kernel learns from the answer, if it wants to know. Its
/// own requests come from an address of the interface, and a machine that has that address itself leaves them unanswered.
///
/// # Errors
/// When it cannot be sent.
pub fn ask_as_nobody(index: u32, own: Mac, address: Ipv4Addr) -> io::Result<()> {
    PacketSocket::open(index, ETHERTYPE_ARP)?.send(&request(own, Ipv4Addr::UNSPECIFIED, address))
}

/// The part of an ARP packet that says who has what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Arp {
    sender_mac: Mac,
    sender: Ipv4Addr,
    target: Ipv4Addr,
}

impl Arp {
    /// Reads an Ethernet frame; `None` if it is no ARP packet for IPv4 over Ethernet.
    fn parse(frame: &[u8]) -> Option<Self> {
        let (header, packet) = frame.split_at_checked(14)?;
        let packet: &[u8; 28] = packet.first_chunk()?;
        let [htype0, htype1, ptype0, ptype1, hlen, plen, op0, op1, rest @ ..] = packet;
        let is_ethernet_ipv4 = [*htype0, *htype1, *ptype0, *ptype1, *hlen, *plen] == [0, 1, 8, 0, 6, 4];
        let is_arp = header.get(12..) == Some(&ETHERTYPE_ARP.to_be_bytes());
        let operation = u16::from_be_bytes([*op0, *op1]);
        if !is_arp || !is_ethernet_ipv4 || !matches!(operation, REQUEST | REPLY) {
            return None;
        }
        let [m0, m1, m2, m3, m4, m5, s0, s1, s2, s3, _, _, _, _, _, _, t0, t1, t2, t3] = *rest;
        Some(Self {
            sender_mac: [m0, m1, m2, m3, m4, m5],
            sender: Ipv4Addr::new(s0, s1, s2, s3),
            target: Ipv4Addr::new(t0, t1, t2, t3),
        })
    }

    /// Whether its sender has `address`, or probes for it at the same time as we do (RFC 5227 §2.1.1).
    fn claims(&self, own: Mac, address: Ipv4Addr) -> bool {
        let probes = self.sender.is_unspecified() && self.target == address;
        self.sender_mac != own && (self.sender == address || probes)
    }
}

/// A broadcast request for `target`.
fn request(own: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        for byte in bytes {
            frame[at] = *byte;
            at += 1;
        }
    };
    put(&[0xff; 6]);
    put(&own);
    put(&ETHERTYPE_ARP.to_be_bytes());
    put(&[0, 1, 8, 0, 6, 4]);
    put(&REQUEST.to_be_bytes());
    put(&own);
    put(&sender.octets());
    put(&[0; 6]);
    put(&target.octets());
    frame
}

/// IEEE 802 number of ARP.
const ETHERTYPE_ARP: u16 = 0x0806;
/// RFC 826.
const REQUEST: u16 = 1;
/// RFC 826.
const REPLY: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    fn address(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_request_reads_back() {
        let frame = request(OTHER, address("10.0.1.5"), address("10.0.1.4"));
        assert_eq!(&frame[..14], &[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 2, 8, 6]);
        let arp = Arp::parse(&frame).unwrap();
        assert_eq!(
            (arp.sender_mac, arp.sender, arp.target),
            (OTHER, address("10.0.1.5"), address("10.0.1.4"))
        );
    }

    #[test]
    fn who_has_an_address_or_probes_for_it_claims_it() {
        let claims = |mac, sender: &str, target: &str| {
            let frame = request(mac, address(sender), address(target));
            Arp::parse(&frame).unwrap().claims(OWN, address("10.0.1.4"))
        };
        assert!(claims(OTHER, "10.0.1.4", "10.0.1.9"), "has it");
        assert!(claims(OTHER, "0.0.0.0", "10.0.1.4"), "probes for it");
        assert!(!claims(OTHER, "10.0.1.9", "10.0.1.4"), "only asks for it");
        assert!(!claims(OTHER, "10.0.1.5", "10.0.1.4"), "has another");
        assert!(!claims(OWN, "0.0.0.0", "10.0.1.4"), "our own probe, come round");
    }

    #[test]
    fn what_is_not_arp_for_ipv4_over_ethernet_says_nothing() {
        let good = request(OTHER, address("10.0.1.4"), address("10.0.1.4"));
        assert!(Arp::parse(&[good.as_slice(), &[0; 18]].concat()).is_some(), "padded to the minimum");
        for cut in 0..good.len() {
            assert_eq!(Arp::parse(&good[..cut]), None, "{cut} bytes");
        }
        for at in [12, 13, 14, 15, 16, 17, 18, 19, 20, 21] {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert_eq!(Arp::parse(&bad), None, "byte {at}");
        }
    }
}
