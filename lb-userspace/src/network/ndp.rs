//! Neighbour discovery for addresses that are to be ours: asked whether anybody has them (duplicate address detection,
//! RFC 4862 §5.4), then announced (RFC 4861 §7.2.6).
//!
//! Frames are values here and tested as such; `claim` says when they are sent. Once an address stands on an interface,
//! the kernel answers for it.

use std::{collections::BTreeSet, io, net::Ipv6Addr};

use lb_common::wire::checksum;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::{
    claim::{Inquiry, Mac},
    packet_socket::PacketSocket,
};

/// Asks on one interface who has addresses.
pub(super) struct Probe {
    socket: PacketSocket,
    own: Mac,
    /// Keeps the interface in the addresses' groups.
    _groups: Socket,
}

impl Probe {
    /// Begins to listen.
    ///
    /// # Errors
    /// When there is no such interface, it has no IPv6, or this is not root.
    pub(super) fn open(index: u32, own: Mac, addresses: &[Ipv6Addr]) -> io::Result<Self> {
        //= https://www.rfc-editor.org/rfc/rfc4862#section-5.4.2
        //# Before sending a Neighbor Solicitation, an interface MUST join the
        //# all-nodes multicast address and the solicited-node multicast address
        //# of the tentative address.
        // The kernel is in the first as soon as it has IPv6.
        let groups = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        for group in addresses.iter().map(|address| solicited_node(*address)).collect::<BTreeSet<_>>() {
            groups.join_multicast_v6(&group, index)?;
        }
        Ok(Self {
            socket: PacketSocket::filtered(index, ETHERTYPE_IPV6, &neighbour_messages())?,
            own,
            _groups: groups,
        })
    }
}

impl Inquiry<Ipv6Addr> for Probe {
    fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    fn question(&self, address: Ipv6Addr) -> Vec<u8> {
        solicitation(self.own, address)
    }

    fn claimant(&self, frame: &[u8], address: Ipv6Addr) -> Option<Mac> {
        Neighbour::parse(frame).filter(|neighbour| neighbour.claims(self.own, address)).map(|own| own.mac)
    }
}

/// Tells everybody on the wire that `address` is here now: an unsolicited advertisement, which overrides what caches know.
///
/// # Errors
/// When it cannot be sent.
pub(super) fn announce(index: u32, own: Mac, address: Ipv6Addr) -> io::Result<()> {
    PacketSocket::open(index, ETHERTYPE_IPV6)?.send(&advertisement(own, address))
}

/// The part of a neighbour solicitation or advertisement that says who has what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Neighbour {
    kind: u8,
    /// Of the frame's sender, or the one that the advertisement names.
    mac: Mac,
    source: Ipv6Addr,
    target: Ipv6Addr,
}

impl Neighbour {
    /// Reads an Ethernet frame; `None` if it is no solicitation or advertisement, or one that RFC 4861 §7.1 has discarded.
    fn parse(frame: &[u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_first_chunk::<14>()?;
        let [_, _, _, _, _, _, m0, m1, m2, m3, m4, m5, ethertype @ ..] = *ethernet;
        let (header, behind) = packet.split_first_chunk::<40>()?;
        let [first, _, _, _, l0, l1, next_header, hop_limit, addresses @ ..] = header;
        if ethertype != ETHERTYPE_IPV6.to_be_bytes() || first >> 4 != 6 || *next_header != ICMPV6 {
            return None;
        }
        let (source, destination) = addresses.split_at_checked(16)?;
        let [source, destination] = [address(source)?, address(destination)?];
        let body = behind.get(..usize::from(u16::from_be_bytes([*l0, *l1])))?;
        let is_whole = checksum::fold(pseudo_sum(source, destination, body)) == u16::MAX;
        let (message, options) = body.split_first_chunk::<24>()?;
        let [kind, code, _, _, flags, _, _, _, target @ ..] = message;
        let target = address(target)?;
        let named = Options(options).link_layer(TARGET_LINK_LAYER)?;
        let names_sender = Options(options).link_layer(SOURCE_LINK_LAYER)?.is_some();
        let is_lawful = match *kind {
            SOLICITATION if source.is_unspecified() => destination == solicited_node(target) && !names_sender,
            SOLICITATION => true,
            ADVERTISEMENT => !destination.is_multicast() || flags & SOLICITED == 0,
            _ => false,
        };
        if !is_lawful || !is_whole || *hop_limit != HOP_LIMIT || *code != 0 || target.is_multicast() {
            return None;
        }
        let mac = named.unwrap_or([m0, m1, m2, m3, m4, m5]);
        Some(Self { kind: *kind, mac, source, target })
    }

    //= https://www.rfc-editor.org/rfc/rfc4862#section-5.4.3
    //# If the source address of the Neighbor Solicitation is the unspecified
    //# address, the solicitation is from a node performing Duplicate Address
    //# Detection.
    /// Whether its sender has `address`, or asks for it at the same time as we do.
    fn claims(&self, own: Mac, address: Ipv6Addr) -> bool {
        let says_so = self.kind == ADVERTISEMENT || self.source.is_unspecified();
        self.mac != own && self.target == address && says_so
    }
}

/// Options of a message.
struct Options<'a>(&'a [u8]);

impl Options<'_> {
    /// The hardware address in the option of this kind, if there is one; `None` outside if an option has no length.
    fn link_layer(self, wanted: u8) -> Option<Option<Mac>> {
        let (mut rest, mut found) = (self.0, None);
        while let [kind, eights, ..] = rest {
            if *eights == 0 {
                return None;
            }
            let (option, behind) = rest.split_at_checked(usize::from(*eights) * 8)?;
            if let ([_, _, mac @ ..], true) = (option, *kind == wanted) {
                found = mac.first_chunk().copied();
            }
            rest = behind;
        }
        Some(found)
    }
}

/// Asks who has `target`, as from nobody.
fn solicitation(own: Mac, target: Ipv6Addr) -> Vec<u8> {
    let message = [&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], target.octets().as_slice()].concat();
    frame(own, Ipv6Addr::UNSPECIFIED, solicited_node(target), message)
}

/// Says that `target` is at `own`, whatever anybody has heard.
fn advertisement(own: Mac, target: Ipv6Addr) -> Vec<u8> {
    let head = [ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    let option = [&[TARGET_LINK_LAYER, 1], own.as_slice()].concat();
    frame(own, target, ALL_NODES, [head.as_slice(), &target.octets(), &option].concat())
}

/// A message to a group, its checksum still zero, in a frame.
fn frame(own: Mac, source: Ipv6Addr, group: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = !checksum::fold(pseudo_sum(source, group, &message));
    if let Some([_, _, checksum @ ..]) = message.first_chunk_mut::<4>() {
        *checksum = sum.to_ne_bytes();
    }
    let [.., g0, g1, g2, g3] = group.octets();
    let length = length_of(&message).to_be_bytes();
    [
        // RFC 2464 §7.
        [0x33, 0x33, g0, g1, g2, g3].as_slice(),
        &own,
        &ETHERTYPE_IPV6.to_be_bytes(),
        &[0x60, 0, 0, 0],
        &length,
        &[ICMPV6, HOP_LIMIT],
        &source.octets(),
        &group.octets(),
        &message,
    ]
    .concat()
}

/// RFC 8200 §8.1: what a message's checksum is over.
fn pseudo_sum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u32 {
    let [l0, l1] = length_of(message).to_be_bytes();
    let around =
        [&source.octets(), &destination.octets(), [0, 0, l0, l1, 0, 0, 0, ICMPV6].as_slice()].concat();
    checksum::sum(&around) + checksum::sum(message)
}

/// Of what fits a frame.
fn length_of(message: &[u8]) -> u16 {
    u16::try_from(message.len()).unwrap_or(u16::MAX)
}

/// RFC 4291 §2.7.1: the group that everybody joins for each address he has.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
}

/// Keeps neighbour solicitations and advertisements: all that an interface says over IPv6 would be too much to read.
fn neighbour_messages() -> [SockFilter; 7] {
    // linux/bpf_common.h.
    let (load, equals, end) = (0x30, 0x15, 0x06);
    [
        // IPv6's next header, behind Ethernet's 14 bytes.
        SockFilter::new(load, 0, 0, 20),
        SockFilter::new(equals, 0, 4, ICMPV6.into()),
        SockFilter::new(load, 0, 0, 54),
        SockFilter::new(equals, 1, 0, SOLICITATION.into()),
        SockFilter::new(equals, 0, 1, ADVERTISEMENT.into()),
        SockFilter::new(end, 0, 0, u32::MAX),
        SockFilter::new(end, 0, 0, 0),
    ]
}

/// IEEE 802 number of IPv6.
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IANA number.
const ICMPV6: u8 = 58;
/// RFC 4861 §4.3.
const SOLICITATION: u8 = 135;
/// RFC 4861 §4.4.
const ADVERTISEMENT: u8 = 136;
/// RFC 4861 §4.4: the flag of an answer.
const SOLICITED: u8 = 0x40;
/// RFC 4861 §4.4: the flag of what caches must believe.
const OVERRIDE: u8 = 0x20;
/// RFC 4861 §4.6.1: the sender's hardware address.
const SOURCE_LINK_LAYER: u8 = 1;
/// RFC 4861 §4.6.1: that of whom an advertisement is about.
const TARGET_LINK_LAYER: u8 = 2;
/// RFC 4861 §7.1: no router has passed it on.
const HOP_LIMIT: u8 = 255;
/// RFC 4291 §2.7.1.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0x12, 0x3456);

    /// The same frame with other bytes, and a checksum that is right again.
    fn changed(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        let (source, destination) = (address(&frame[22..38]).unwrap(), address(&frame[38..54]).unwrap());
        frame[56..58].fill(0);
        let sum = !checksum::fold(pseudo_sum(source, destination, &frame[54..]));
        frame[56..58].copy_from_slice(&sum.to_ne_bytes());
        frame
    }

    fn claims(frame: &[u8]) -> bool {
        Neighbour::parse(frame).is_some_and(|neighbour| neighbour.claims(OWN, ADDRESS))
    }

    #[test]
    fn what_is_sent_goes_to_its_group_and_reads_back() {
        let asked = solicitation(OTHER, ADDRESS);
        assert_eq!(asked[..14], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56, 2, 0, 0, 0, 0, 2, 0x86, 0xdd]);
        let said = advertisement(OTHER, ADDRESS);
        assert_eq!(said[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(said[58], OVERRIDE);
        let read = |kind, source| Neighbour { kind, mac: OTHER, source, target: ADDRESS };
        assert_eq!(Neighbour::parse(&asked), Some(read(SOLICITATION, Ipv6Addr::UNSPECIFIED)));
        assert_eq!(Neighbour::parse(&said), Some(read(ADVERTISEMENT, ADDRESS)));
    }

    #[test]
    fn what_others_send_is_understood() {
        // Linux 6.18: its own duplicate address detection, with a nonce (RFC 7527), and its answer to another's.
        let ethernet = |group: [u8; 4]| [&[0x33, 0x33], group.as_slice(), &OTHER, &[0x86, 0xdd]].concat();
        let asks: [&[u8]; 7] = [
            &ethernet([0xff, 0x12, 0x34, 0x56]),
            &[0x60, 0, 0, 0, 0, 0x20, 0x3a, 0xff],
            &Ipv6Addr::UNSPECIFIED.octets(),
            &solicited_node(ADDRESS).octets(),
            &[0x87, 0, 0xc3, 0x90, 0, 0, 0, 0],
            &ADDRESS.octets(),
            &[0x0e, 1, 0xa3, 0xed, 0xe8, 0xc9, 0xb6, 0x84],
        ];
        let answers: [&[u8]; 7] = [
            &ethernet([0, 0, 0, 1]),
            &[0x60, 0, 0, 0, 0, 0x20, 0x3a, 0xff],
            &ADDRESS.octets(),
            &ALL_NODES.octets(),
            &[0x88, 0, 0x5c, 0x9b, 0x20, 0, 0, 0],
            &ADDRESS.octets(),
            &[2, 1, 0xb2, 0xe6, 0xd3, 0xa6, 0x10, 0xa3],
        ];
        assert!(claims(&asks.concat()));
        assert!(claims(&answers.concat()));
    }

    #[test]
    fn who_has_an_address_or_asks_as_nobody_claims_it() {
        assert!(claims(&advertisement(OTHER, ADDRESS)), "has it");
        assert!(claims(&solicitation(OTHER, ADDRESS)), "wants it too");
        let (neighbour, other) =
            (Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 9), Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 5));
        assert!(
            !claims(&changed(&solicitation(OTHER, ADDRESS), 22, &neighbour.octets())),
            "only asks for it"
        );
        assert!(!claims(&advertisement(OTHER, other)), "has another");
        assert!(!claims(&solicitation(OWN, ADDRESS)), "our own, come round");
    }

    #[test]
    fn the_holder_is_who_the_advertisement_names() {
        let by_proxy = changed(&advertisement(OTHER, ADDRESS), 80, &[2, 0, 0, 0, 0, 9]);
        assert_eq!(Neighbour::parse(&by_proxy).unwrap().mac, [2, 0, 0, 0, 0, 9]);
        let mut bare = advertisement(OTHER, ADDRESS);
        bare.truncate(78);
        let bare = changed(&bare, 18, &24_u16.to_be_bytes());
        assert_eq!(Neighbour::parse(&bare).unwrap().mac, OTHER);
    }

    #[test]
    fn what_a_node_must_discard_says_nothing() {
        let good = advertisement(OTHER, ADDRESS);
        assert!(claims(&[good.as_slice(), &[0; 7]].concat()), "padded");
        for cut in 0..good.len() {
            assert_eq!(Neighbour::parse(&good[..cut]), None, "{cut} bytes");
        }
        for (at, bytes, why) in [
            (12, &[8, 0][..], "ethertype"),
            (14, &[0x40], "version"),
            (20, &[6], "next header"),
            (21, &[64], "hop limit: it came by a router"),
            (54, &[137], "a redirect"),
            (55, &[1], "code"),
            (58, &[SOLICITED], "an answer to everybody"),
            (62, &[0xff], "a group"),
            (79, &[0], "an option without length"),
            (79, &[2], "an option longer than the message"),
        ] {
            assert_eq!(Neighbour::parse(&changed(&good, at, bytes)), None, "{why}");
        }
        let mut broken = good.clone();
        broken[56] ^= 1;
        assert_eq!(Neighbour::parse(&broken), None, "checksum");
        let to_all = changed(&solicitation(OTHER, ADDRESS), 38, &ALL_NODES.octets());
        assert_eq!(Neighbour::parse(&to_all), None, "detection goes to the address's group");
        let named = [solicitation(OTHER, ADDRESS).as_slice(), &[SOURCE_LINK_LAYER, 1], &OTHER].concat();
        let named = changed(&named, 18, &32_u16.to_be_bytes());
        assert_eq!(Neighbour::parse(&named), None, "nobody has no hardware address");
    }
}
