//! The same table: errors about packets that changed their family, or went to a target inside others.

use std::net::IpAddr;

use lb_common::abi::DropReason;

use super::fixtures::{Fixture, story};
use super::given::{CROSSING, GUE, IPIP, IPIP6};
use super::modes::{gue, icmp, router};
use super::segment::{
    ACK, BALANCER, BALANCER_MAC, BALANCER6, CLIENT, CLIENT_MAC, CLIENT_PORT, CLIENT6, SYN, Segment, TARGET,
    TARGET_MAC, TARGET6, client, client6, target, target6,
};

pub(super) fn fixtures() -> Vec<Fixture> {
    [across(), words(), inside(), short()].into_iter().flatten().collect()
}

/// An error: type, code, the word behind the checksum, and so many bytes of a frame's packet.
fn error(kind: u8, code: u8, rest: u32, quoted: &[u8], bytes: usize) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest.to_be_bytes());
    body.extend(&quoted[14..14 + bytes.min(quoted.len() - 14)]);
    body
}

/// What is quoted of a packet: its header and eight bytes.
fn least(packet: &Segment) -> usize {
    if packet.to.0.is_ipv4() { 28 } else { 48 }
}

/// An error of our own, about the packet that somebody sent.
fn told(from: IpAddr, to: IpAddr, to_mac: [u8; 6], said: (u8, u8, u32), about: &Segment) -> Vec<u8> {
    let frame = client(0, 0).with(|s| {
        (s.from.0, s.to.0, s.to_mac, s.from_mac) = (from, to, to_mac, BALANCER_MAC);
        (s.ttl, s.id, s.tos) = (64, 0, 0);
    });
    icmp(&frame, &error(said.0, said.1, said.2, &about.bytes(), least(about)))
}

/// As it left, and as who sent it is told of it: hops and length as on the way.
fn on_the_way(sent: &Segment, left: &Segment) -> Segment {
    sent.clone().with(|s| (s.ttl, s.id) = (left.ttl, 0))
}

/// A client of IPv4 with a target of IPv6, and the other way round: what each sent, and how it left.
struct Pair {
    listener: u32,
    sent: Segment,
    left: Segment,
    answer: Segment,
    returned: Segment,
}

fn four_to_six() -> Pair {
    let (sent, answer) = (client(CROSSING, SYN), target6(CLIENT_PORT, SYN | ACK));
    let left = sent.at_target6(CLIENT_PORT);
    let returned = answer.routed((BALANCER.into(), CROSSING), (CLIENT.into(), CLIENT_PORT), CLIENT_MAC);
    Pair { listener: 7, sent, left, answer, returned }
}

fn six_to_four() -> Pair {
    let (sent, answer) = (client6(CROSSING, SYN), target(CLIENT_PORT, SYN | ACK));
    let left = sent.at_target(CLIENT_PORT);
    let returned = answer.routed((BALANCER6.into(), CROSSING), (CLIENT6.into(), CLIENT_PORT), CLIENT_MAC);
    Pair { listener: 17, sent, left, answer, returned }
}

impl Pair {
    fn begun(&self, name: &'static str) -> Fixture {
        story(name)
            .on_listener(self.listener)
            .forwards(&self.sent, &self.left)
            .forwards(&self.answer, &self.returned)
    }

    /// An error from the target's side about what the client sent, and what the client is told.
    fn to_client(&self, name: &'static str, heard: (u8, u8, u32), said: (u8, u8, u32)) -> Fixture {
        let from = router((self.left.from.0, 0), TARGET_MAC);
        let body = error(heard.0, heard.1, heard.2, &self.left.bytes(), 500);
        let about = on_the_way(&self.sent, &self.left);
        let out = told(self.sent.to.0, self.sent.from.0, CLIENT_MAC, said, &about);
        self.begun(name).answers_bytes(icmp(&from, &body), out)
    }

    /// An error from the client's side about what the target sent, and what the target is told.
    fn to_target(&self, name: &'static str, heard: (u8, u8, u32), said: (u8, u8, u32)) -> Fixture {
        let from = router((self.returned.from.0, 0), CLIENT_MAC);
        let body = error(heard.0, heard.1, heard.2, &self.returned.bytes(), 500);
        let about = on_the_way(&self.answer, &self.returned);
        let out = told(self.answer.to.0, self.answer.from.0, TARGET_MAC, said, &about);
        self.begun(name).answers_bytes(icmp(&from, &body), out)
    }
}

fn across() -> Vec<Fixture> {
    let (up, down) = (four_to_six(), six_to_four());
    let last = router((up.left.from.0, 0), TARGET_MAC).with(|s| s.ttl = 1);
    vec![
        up.to_client("IPv6's packet too big is IPv4's fragmentation needed", (2, 0, 1_400), (3, 4, 1_380)),
        up.to_target("IPv4's fragmentation needed is IPv6's packet too big", (3, 4, 1_400), (2, 0, 1_420)),
        down.to_client("IPv4's fragmentation needed is for an IPv6 client", (3, 4, 1_300), (2, 0, 1_320)),
        down.to_target("IPv6's packet too big is for an IPv4 target", (2, 0, 1_280), (3, 4, 1_260)),
        up.begun("an error about a crossing flow with its last hop is dropped")
            .drops_bytes(icmp(&last, &error(2, 0, 1_400, &up.left.bytes(), 500)), DropReason::TtlExpired),
        up.begun("an error that has no word in the other family is dropped").drops_bytes(
            icmp(&router((up.left.from.0, 0), TARGET_MAC), &error(4, 2, 40, &up.left.bytes(), 500)),
            DropReason::Untranslatable,
        ),
        down.begun("an error that has no word in IPv6 is dropped").drops_bytes(
            icmp(&router((down.left.from.0, 0), TARGET_MAC), &error(3, 14, 0, &down.left.bytes(), 500)),
            DropReason::Untranslatable,
        ),
    ]
}

/// Every word that one family has for one of the other's.
fn words() -> Vec<Fixture> {
    let (up, down) = (four_to_six(), six_to_four());
    let of_6 = [
        ("no route", (1, 0, 0), (3, 1, 0)),
        ("prohibited", (1, 1, 0), (3, 10, 0)),
        ("beyond scope", (1, 2, 0), (3, 1, 0)),
        ("address unreachable", (1, 3, 0), (3, 1, 0)),
        ("port unreachable", (1, 4, 0), (3, 3, 0)),
        ("hop limit exceeded", (3, 0, 0), (11, 0, 0)),
        ("reassembly time exceeded", (3, 1, 0), (11, 1, 0)),
        ("a wrong hop limit", (4, 0, 7), (12, 0, 8 << 24)),
        ("a wrong source", (4, 0, 20), (12, 0, 12 << 24)),
        ("an unknown next header", (4, 1, 6), (3, 2, 0)),
        ("a packet too big for IPv4 to say", (2, 0, 100_000), (3, 4, 65_535)),
    ];
    let of_4 = [
        ("network unreachable", (3, 0, 0), (1, 0, 0)),
        ("host unreachable", (3, 1, 0), (1, 0, 0)),
        ("protocol unreachable", (3, 2, 0), (4, 1, 6)),
        ("port unreachable, of IPv4", (3, 3, 0), (1, 4, 0)),
        ("fragmentation needed, less than IPv6 has", (3, 4, 600), (2, 0, 1_280)),
        ("fragmentation needed, by nobody knows how much", (3, 4, 0), (2, 0, 1_280)),
        ("source route failed", (3, 5, 0), (1, 0, 0)),
        ("prohibited, of IPv4", (3, 13, 0), (1, 1, 0)),
        ("time to live exceeded", (11, 0, 0), (3, 0, 0)),
        ("a wrong time to live", (12, 0, 8 << 24), (4, 0, 7)),
        ("a wrong destination", (12, 0, 17 << 24), (4, 0, 24)),
    ];
    let of_6 = of_6.into_iter().map(|(name, heard, said)| up.to_client(name, heard, said));
    let of_4 = of_4.into_iter().map(|(name, heard, said)| down.to_client(name, heard, said));
    of_6.chain(of_4).collect()
}

/// A flow to a target that answers past us, the ends of its tunnel, and an established packet in it.
fn tunnelled(
    name: &'static str,
    listener: u32,
    packet: &Segment,
    ends: (IpAddr, IpAddr),
    port: Option<(u16, u16)>,
) -> (Fixture, Vec<u8>) {
    let out = packet.tunnelled(ends.0, ends.1, port);
    (
        story(name).on_listener(listener).forwards_bytes(packet.bytes(), out.clone()).new_flows(listener, 1),
        out,
    )
}

fn inside() -> Vec<Fixture> {
    let v4 = (IpAddr::from(BALANCER), IpAddr::from(TARGET));
    let v6 = (IpAddr::from(BALANCER6), IpAddr::from(TARGET6));
    let data = |s: Segment| s.payload(&[7; 60]);
    let (ipip, gue4) = (data(client(IPIP, ACK)), data(client(GUE, ACK)));
    let in_6 = data(client(IPIP6, ACK));
    let (six_in_4, six_in_6) = (data(client6(IPIP, ACK)), data(client6(IPIP6, ACK)));
    let one = |name, listener, packet: &Segment, ends, port, heard: (u8, u8, u32), said| {
        let (begun, out) = tunnelled(name, listener, packet, ends, port);
        let from = router((ends.0, 0), TARGET_MAC);
        let told = told(packet.to.0, packet.from.0, CLIENT_MAC, said, packet);
        begun.answers_bytes(icmp(&from, &error(heard.0, heard.1, heard.2, &out, 500)), told)
    };
    let (big4, big6) = ((3, 4, 1_400), (2, 0, 1_400));
    let stranger = (IpAddr::from([10, 0, 1, 4]), IpAddr::from([10, 0, 1, 99]));
    let (begun, _) =
        tunnelled("an error about a tunnel to somebody else is the kernel's", 9, &ipip, v4, None);
    let other = ipip.tunnelled(stranger.0, stranger.1, None);
    let elsewhere = icmp(&router((v4.0, 0), TARGET_MAC), &error(3, 1, 0, &other, 500));
    let (quench, out) = tunnelled("an error that is the tunnel's own is dropped", 9, &ipip, v4, None);
    let own = icmp(&router((v4.0, 0), TARGET_MAC), &error(3, 5, 0, &out, 500));
    vec![
        one("IPv4 in IPv4, too big", 9, &ipip, v4, None, big4, (3, 4, 1_380)).learns(TARGET, 1_400),
        one("IPv6 in IPv4, too big", 22, &six_in_4, v4, None, big4, (2, 0, 1_380)).learns(TARGET, 1_400),
        one("IPv4 in IPv6, too big", 11, &in_6, v6, None, big6, (3, 4, 1_360)).learns(TARGET6, 1_400),
        one("IPv6 in IPv6, too big", 23, &six_in_6, v6, None, big6, (2, 0, 1_360)).learns(TARGET6, 1_400),
        one("IPv4 in UDP, too big", 10, &gue4, v4, gue(&gue4), big4, (3, 4, 1_372)).learns(TARGET, 1_400),
        one("IPv6 is never told less than it has", 23, &six_in_6, v6, None, (2, 0, 1_280), (2, 0, 1_280))
            .learns(TARGET6, 1_280),
        one("what no path takes is not believed", 9, &ipip, v4, None, (3, 4, 68), (3, 4, 552 - 20))
            .learns(TARGET, 552),
        one("nobody reaches the target", 9, &ipip, v4, None, (3, 1, 0), (3, 1, 0)),
        one("the target has no tunnel", 9, &ipip, v4, None, (3, 2, 0), (3, 1, 0)),
        one("the target has no UDP tunnel", 10, &gue4, v4, gue(&gue4), (3, 3, 0), (3, 1, 0)),
        one("hops end in a tunnel", 22, &six_in_4, v4, None, (11, 0, 0), (1, 3, 0)),
        one("nobody reaches the target by IPv6", 11, &in_6, v6, None, (1, 3, 0), (3, 1, 0)),
        quench.drops_bytes(own, DropReason::Icmp),
        begun.passes_bytes(elsewhere),
    ]
}

/// Errors that quote too little of what is inside.
fn short() -> Vec<Fixture> {
    let v4 = (IpAddr::from(BALANCER), IpAddr::from(TARGET));
    let packet = client(IPIP, ACK).payload(&[7; 60]);
    let from = router((v4.0, 0), TARGET_MAC);
    let (begun, out) = tunnelled("a short quote teaches what the path takes", 9, &packet, v4, None);
    let (other, _) = tunnelled("a short quote of no packet of ours teaches nothing", 9, &packet, v4, None);
    let foreign = packet.tunnelled(IpAddr::from([10, 0, 1, 77]), TARGET.into(), None);
    let (unreachable, _) =
        tunnelled("a short quote of who is not reached is the kernel's", 9, &packet, v4, None);
    let (once, _) = tunnelled("a target that takes less answers for what is larger", 9, &packet, v4, None);
    let large = client(IPIP, ACK).payload(&[7; 1_400]);
    vec![
        begun.passes_bytes(icmp(&from, &error(3, 4, 1_300, &out, 28))).learns(TARGET, 1_300),
        other.passes_bytes(icmp(&from, &error(3, 4, 1_300, &foreign, 28))),
        unreachable.passes_bytes(icmp(&from, &error(3, 1, 0, &out, 28))),
        // As userspace says a second later.
        once.change(|given| given.targets[6].mtu = 1_300)
            .answers_bytes(large.bytes(), super::modes::too_big(&large, 1_280)),
    ]
}
