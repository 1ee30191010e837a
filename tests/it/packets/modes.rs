//! The same table: IPv6, UDP, QUIC, fragments, errors, and the other ways to a target than full NAT over IPv4.

use std::net::{IpAddr, Ipv4Addr};

use lb_common::abi::{DropReason, Listener, NO_RING, Target, target_state};
use lb_common::packet::{V4, V6, flow_hash};
use lb_common::wire::protocol;

use super::fixtures::{Fixture, story};
use super::given::{
    BRIDGED, CROSSING, DNS, DNS_EMPTY, EMPTY, GUARDED, GUE, GUE6, Given, HTTP, HTTP6, IPIP, IPIP6, LOCAL,
    NAMED_ADDRESS, PRESERVE, QUIC, SERVER_ID,
};
use super::segment::{
    ACK, BALANCER, BALANCER_MAC, BALANCER6, CLIENT, CLIENT_MAC, CLIENT_PORT, CLIENT6, FIN, PSH, RST, SYN,
    Segment, TARGET, TARGET_MAC, TARGET_PORT, TARGET6, client, client6, pseudo_checksum, target, target6,
};

/// The port that a flow of the client keeps.
const KEPT: u16 = CLIENT_PORT;

pub(super) fn fixtures() -> Vec<Fixture> {
    [
        ipv6(),
        ipv6_strays(),
        udp(),
        quic(),
        preserving(),
        crossing(),
        direct(),
        changing_rings(),
        fragments(),
        errors(),
        errors6(),
        limits(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn handshake6(name: &'static str) -> Fixture {
    let (syn, syn_ack, ack) = (client6(HTTP, SYN), target6(KEPT, SYN | ACK), client6(HTTP, ACK));
    story(name)
        .on_listener(HTTP6)
        .forwards(&syn, &syn.at_target6(KEPT))
        .forwards(&syn_ack, &syn_ack.at_client6(HTTP))
        .forwards(&ack, &ack.at_target6(KEPT))
        .new_flows(HTTP6, 1)
}

fn ipv6() -> Vec<Fixture> {
    let syn = client6(HTTP, SYN);
    let low = syn.clone().with(|s| s.from.1 = 1_023);
    let data = client6(HTTP, PSH | ACK).payload(b"GET / HTTP/1.1\r\n\r\n");
    let answer = target6(KEPT, PSH | ACK).payload(b"HTTP/1.1 200 OK\r\n\r\n").with(|s| s.tos = 0xb8);
    let (fin, reset) = (client6(HTTP, FIN | ACK), target6(KEPT, RST));
    let client_reset = client6(HTTP, RST);
    vec![
        story("IPv6: a SYN begins a flow").on_listener(HTTP6).forwards(&syn, &syn.at_target6(KEPT)).flows(1),
        story("IPv6: a privileged source port is not kept")
            .on_listener(HTTP6)
            .forwards(&low, &low.at_target6(2_000))
            .flows(1),
        handshake6("IPv6: a handshake establishes a flow").flows(1),
        handshake6("IPv6: data and its answer")
            .forwards(&data, &data.at_target6(KEPT))
            .forwards(&answer, &answer.at_client6(HTTP)),
        handshake6("IPv6: a FIN goes through").forwards(&fin, &fin.at_target6(KEPT)).flows(1),
        handshake6("IPv6: a target's RST is counted")
            .forwards(&reset, &reset.at_client6(HTTP))
            .target_resets(4, 1),
        handshake6("IPv6: a client's RST is counted")
            .forwards(&client_reset, &client_reset.at_target6(KEPT))
            .client_resets(HTTP6, 1),
        handshake6("IPv6: a flow whose target is gone is reset")
            .change(|given| given.targets[4].state = target_state::GONE)
            .resets(&data, HTTP6),
        handshake6("IPv6: a flow whose target's index is another's is reset")
            .change(|given| given.targets[4].generation += 1)
            .resets(&data, HTTP6),
        handshake6("IPv6: hop limits end").drops(&data.clone().with(|s| s.ttl = 1), DropReason::TtlExpired),
        story("IPv6: a SYN with its last hop is dropped")
            .drops(&syn.clone().with(|s| s.ttl = 1), DropReason::TtlExpired),
        story("IPv6: security groups admit")
            .on_listener(19)
            .forwards(&client6(GUARDED, SYN), &client6(GUARDED, SYN).at_target6(KEPT)),
        story("IPv6: security groups refuse")
            .drops(
                &client6(GUARDED, SYN).with(|s| s.from.0 = "fd00:2::30".parse().unwrap()),
                DropReason::SecurityGroup,
            )
            .blocked(19, 1),
    ]
}

fn ipv6_strays() -> Vec<Fixture> {
    let data = client6(HTTP, PSH | ACK).payload(b"who are you");
    let icmp = |kind: u8| client6(HTTP, SYN).frame(protocol::ICMPV6, &[kind, 0, 0, 0, 0, 0, 0, 0]);
    let syn = client6(HTTP, SYN);
    let cut = |length: usize| syn.bytes()[..length].to_vec();
    let to_other = syn.clone().with(|s| s.to.0 = "fd00:1::99".parse().unwrap());
    vec![
        story("IPv6: data of no flow is reset").resets(&data, HTTP6),
        story("IPv6: data without ACK is reset with an ACK").resets(&client6(HTTP, PSH).payload(b"?"), HTTP6),
        story("IPv6: a RST of no flow is dropped").drops(&client6(HTTP, RST), DropReason::StrayReset),
        story("IPv6: an unknown port is dropped").drops(&client6(8, SYN), DropReason::NoListener),
        story("IPv6: an answer to the node's own socket is the kernel's").passes(&client6(50_000, SYN | ACK)),
        story("IPv6: a packet for another address is the kernel's").passes(&to_other),
        story("IPv6: neighbour solicitation is the kernel's").passes_bytes(icmp(135)),
        story("IPv6: an echo request is the kernel's").passes_bytes(icmp(128)),
        story("IPv6: an unknown ICMPv6 message is dropped").drops_bytes(icmp(200), DropReason::Icmp),
        story("IPv6: hop-by-hop options are dropped").drops_bytes(
            syn.frame(protocol::HOP_BY_HOP, &[6, 0, 1, 4, 0, 0, 0, 0]),
            DropReason::ExtensionHeader,
        ),
        story("IPv6: a routing header is dropped").drops_bytes(
            syn.frame(protocol::ROUTING, &[6, 0, 0, 0, 0, 0, 0, 0]),
            DropReason::ExtensionHeader,
        ),
        story("IPv6: destination options are dropped").drops_bytes(
            syn.frame(protocol::DESTINATION_OPTIONS, &[6, 0, 1, 4, 0, 0, 0, 0]),
            DropReason::ExtensionHeader,
        ),
        story("IPv6: another protocol is dropped")
            .drops_bytes(syn.frame(132, &[0; 16]), DropReason::Protocol),
        story("IPv6: a frame without a header is dropped").drops_bytes(cut(30), DropReason::Truncated),
        story("IPv6: a packet shorter than it says is dropped").drops_bytes(cut(70), DropReason::Truncated),
        story("IPv6: a truncated TCP header is dropped").drops_bytes(
            {
                let mut b = cut(60);
                b[19] = 6;
                b
            },
            DropReason::Truncated,
        ),
    ]
}

fn udp() -> Vec<Fixture> {
    let query = client(DNS, 0).datagram(b"who is it");
    let answer = target(KEPT, 0).datagram(b"me");
    let query6 = client6(DNS, 0).datagram(b"who is it");
    let answer6 = target6(KEPT, 0).datagram(b"me");
    let bare = query.clone().with(|s| s.no_checksum = true);
    let empty = client(DNS, 0).datagram(b"");
    vec![
        story("a datagram begins a flow")
            .on_listener(14)
            .forwards(&query, &query.at_target(KEPT))
            .new_flows(14, 1)
            .flows(1),
        story("a datagram is answered")
            .on_listener(14)
            .forwards(&query, &query.at_target(KEPT))
            .forwards(&answer, &answer.at_client(DNS))
            .forwards(&query, &query.at_target(KEPT))
            .new_flows(14, 1)
            .flows(1),
        story("a datagram without a checksum goes without")
            .on_listener(14)
            .forwards(&bare, &bare.at_target(KEPT))
            .new_flows(14, 1),
        story("an empty datagram is one")
            .on_listener(14)
            .forwards(&empty, &empty.at_target(KEPT))
            .new_flows(14, 1),
        story("IPv6: a datagram is answered")
            .on_listener(18)
            .forwards(&query6, &query6.at_target6(KEPT))
            .forwards(&answer6, &answer6.at_client6(DNS))
            .new_flows(18, 1)
            .flows(1),
        story("a datagram to a listener without targets is dropped")
            .drops(&client(DNS_EMPTY, 0).datagram(b"?"), DropReason::NoTarget)
            .rejected(25, 1),
        story("TCP to a UDP listener's port is dropped").drops(&client(DNS, SYN), DropReason::NoListener),
        story("UDP to a TCP listener's port is dropped")
            .drops(&client(HTTP, 0).datagram(b"?"), DropReason::NoListener),
        story("a datagram whose flow's target is gone begins another")
            .on_listener(14)
            .forwards(&query, &query.at_target(KEPT))
            .change(|given| given.targets[0].generation += 1)
            .forwards(&query, &query.at_target(KEPT))
            .new_flows(14, 2)
            .flows(1),
        story("a datagram that says it is longer than it is is dropped").drops_bytes(
            {
                let mut b = query.bytes();
                b[39] += 1;
                b
            },
            DropReason::BadHeader,
        ),
        story("a datagram that says it is shorter than its header is dropped").drops_bytes(
            {
                let mut b = query.bytes();
                b[38] = 0;
                b[39] = 7;
                b
            },
            DropReason::BadHeader,
        ),
    ]
}

/// A packet with a short header to a connection id.
fn short_header(id: &[u8]) -> Segment {
    let mut payload = vec![0x40, 0x00];
    payload.extend(id);
    payload.extend([0xee; 24]);
    client(QUIC, 0).datagram(&payload)
}

/// A packet with a long header of a type to a connection id.
fn long_header(kind: u8, id: &[u8]) -> Segment {
    let mut payload = vec![0xc0 | kind << 4, 0, 0, 0, 1, u8::try_from(id.len() + 1).unwrap(), 0x00];
    payload.extend(id);
    payload.extend([0xee; 40]);
    client(QUIC, 0).datagram(&payload)
}

fn quic() -> Vec<Fixture> {
    let to_named = |s: &Segment| {
        s.routed((BALANCER.into(), KEPT), (IpAddr::from(NAMED_ADDRESS), TARGET_PORT), TARGET_MAC)
    };
    let migrated = short_header(&SERVER_ID);
    let initial = long_header(0, &[0xaa; 8]);
    let early = long_header(1, &SERVER_ID);
    let handshake = long_header(2, &SERVER_ID);
    let unknown = short_header(&[9; 8]);
    let stump = client(QUIC, 0).datagram(&[0x40, 0, 1, 2]);
    vec![
        story("QUIC: an Initial packet goes by the ring")
            .on_listener(15)
            .forwards(&initial, &initial.at_target(KEPT))
            .new_flows(15, 1),
        story("QUIC: 0-RTT goes by the ring, whatever its id says")
            .on_listener(15)
            .forwards(&early, &early.at_target(KEPT))
            .new_flows(15, 1),
        story("QUIC: a client that moved keeps its target")
            .on_listener(15)
            .forwards(&migrated, &to_named(&migrated))
            .new_flows(15, 1),
        story("QUIC: a handshake packet goes to who made its id")
            .on_listener(15)
            .forwards(&handshake, &to_named(&handshake))
            .new_flows(15, 1),
        story("QUIC: a flow is a flow, whatever its ids say")
            .on_listener(15)
            .forwards(&initial, &initial.at_target(KEPT))
            .forwards(&migrated, &migrated.at_target(KEPT))
            .new_flows(15, 1),
        story("QUIC: an unknown server id is dropped")
            .drops(&unknown, DropReason::UnknownServerId)
            .rejected(15, 1),
        story("QUIC: an id that is too short is dropped")
            .drops(&stump, DropReason::UnknownServerId)
            .rejected(15, 1),
        story("QUIC: shorter server ids are compared as long as they are")
            .given(|given| {
                given.listeners[15].3.server_id_length = 4;
                given.server_ids[0].0.id &= 0xffff_ffff;
            })
            .on_listener(15)
            .forwards(
                &short_header(&[1, 2, 3, 4, 99, 98, 97, 96]),
                &to_named(&short_header(&[1, 2, 3, 4, 99, 98, 97, 96])),
            )
            .new_flows(15, 1),
    ]
}

fn preserving() -> Vec<Fixture> {
    let at_target = |s: &Segment| s.routed(s.from, (TARGET.into(), TARGET_PORT), TARGET_MAC);
    let at_target6 = |s: &Segment| s.routed(s.from, (TARGET6.into(), TARGET_PORT), TARGET_MAC);
    // The target answers the client itself; the frame comes to us because we are its way there.
    let from_target = |flags| target(0, flags).with(|s| (s.to.0, s.to.1) = (CLIENT.into(), CLIENT_PORT));
    let from_target6 = |flags| target6(0, flags).with(|s| (s.to.0, s.to.1) = (CLIENT6.into(), CLIENT_PORT));
    let (syn, syn_ack, ack) = (client(PRESERVE, SYN), from_target(SYN | ACK), client(PRESERVE, ACK));
    let (syn6, syn_ack6, ack6) = (client6(PRESERVE, SYN), from_target6(SYN | ACK), client6(PRESERVE, ACK));
    let low = syn.clone().with(|s| s.from.1 = 7);
    let high = syn.clone().with(|s| s.from.1 = 60_001);
    vec![
        story("a preserving target sees the client's address")
            .on_listener(6)
            .forwards(&syn, &at_target(&syn))
            .forwards(&syn_ack, &syn_ack.at_client(PRESERVE))
            .forwards(&ack, &at_target(&ack))
            .new_flows(6, 1)
            .flows(1),
        story("IPv6: a preserving target sees the client's address")
            .on_listener(20)
            .forwards(&syn6, &at_target6(&syn6))
            .forwards(&syn_ack6, &syn_ack6.at_client6(PRESERVE))
            .forwards(&ack6, &at_target6(&ack6))
            .new_flows(20, 1)
            .flows(1),
        story("preserving keeps every source port")
            .on_listener(6)
            .forwards(&low, &at_target(&low))
            .forwards(&high, &at_target(&high))
            .flows(2),
        story("what a target sends of its own is the kernel's").passes(&from_target(SYN)),
        story("a client that comes by two listeners to one target with one port is refused the second time")
            .given(|given| given.listeners[0].3.ring = 3)
            .on_listener(6)
            .forwards(&syn, &at_target(&syn))
            .drops(&client(HTTP, SYN), DropReason::PortsExhausted)
            .rejected(0, 1)
            .port_errors(0, 1)
            .flows(1),
    ]
}

fn crossing() -> Vec<Fixture> {
    // An IPv4 client and an IPv6 target.
    let (syn, ack) =
        (client(CROSSING, SYN).with(|s| s.tos = 0x10), client(CROSSING, ACK).payload(b"four to six"));
    let syn_ack = target6(KEPT, SYN | ACK).payload(b"six to four");
    let to6 = |s: &Segment| s.at_target6(KEPT);
    let back4 = |s: &Segment| s.routed((BALANCER.into(), CROSSING), (CLIENT.into(), CLIENT_PORT), CLIENT_MAC);
    // An IPv6 client and an IPv4 target.
    let (syn6, ack6) = (client6(CROSSING, SYN), client6(CROSSING, ACK).payload(b"six to four"));
    let syn_ack6 = target(KEPT, SYN | ACK).payload(b"four to six");
    let to4 = |s: &Segment| s.at_target(KEPT);
    let back6 =
        |s: &Segment| s.routed((BALANCER6.into(), CROSSING), (CLIENT6.into(), CLIENT_PORT), CLIENT_MAC);
    let datagram = client(CROSSING, 0).datagram(b"four to six");
    let datagram6 = client6(CROSSING, 0).datagram(b"six to four");
    let answer = target6(KEPT, 0).datagram(b"six to four");
    let answer6 = target(KEPT, 0).datagram(b"four to six");
    vec![
        story("an IPv4 client and an IPv6 target")
            .on_listener(7)
            .forwards(&syn, &to6(&syn))
            .forwards(&syn_ack, &back4(&syn_ack))
            .forwards(&ack, &to6(&ack))
            .new_flows(7, 1)
            .flows(1),
        story("an IPv6 client and an IPv4 target")
            .on_listener(17)
            .forwards(&syn6, &to4(&syn6))
            .forwards(&syn_ack6, &back6(&syn_ack6))
            .forwards(&ack6, &to4(&ack6))
            .new_flows(17, 1)
            .flows(1),
        story("a datagram from IPv4 to IPv6 and back")
            .on_listener(26)
            .forwards(&datagram, &to6(&datagram))
            .forwards(&answer, &back4(&answer))
            .new_flows(26, 1),
        story("a datagram from IPv6 to IPv4 and back")
            .on_listener(27)
            .forwards(&datagram6, &to4(&datagram6))
            .forwards(&answer6, &back6(&answer6))
            .new_flows(27, 1),
        story("a crossing flow whose target is gone is reset")
            .on_listener(7)
            .forwards(&syn, &to6(&syn))
            .forwards(&ack, &to6(&ack))
            .new_flows(7, 1)
            .change(|given| given.targets[4].state = target_state::GONE)
            .resets(&ack, 7),
        story("a crossing SYN again, after its flow was over, takes another port")
            .on_listener(7)
            .forwards(&syn, &to6(&syn))
            .change(|given| given.pulse.tick += 11)
            .forwards(&syn, &syn.at_target6(2_000))
            .entries(3),
    ]
}

fn outer(target: Ipv4Addr) -> (IpAddr, IpAddr) {
    (BALANCER.into(), target.into())
}

/// The source port of GUE, from what the flow is.
fn entropy(segment: &Segment) -> u16 {
    let (from, to) = (segment.from, segment.to);
    let hash = match (from.0, to.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => flow_hash::<V4>(&lb_common::abi::FlowKey {
            source: source.into(),
            destination: destination.into(),
            source_port: lb_common::abi::PortBe::new(from.1),
            destination_port: lb_common::abi::PortBe::new(to.1),
            protocol: u32::from(segment.protocol),
        }),
        (IpAddr::V6(source), IpAddr::V6(destination)) => flow_hash::<V6>(&lb_common::abi::FlowKey {
            source: source.into(),
            destination: destination.into(),
            source_port: lb_common::abi::PortBe::new(from.1),
            destination_port: lb_common::abi::PortBe::new(to.1),
            protocol: u32::from(segment.protocol),
        }),
        _ => panic!("two families"),
    };
    0xc000 | u16::try_from(hash & 0xffff).unwrap()
}

pub(super) fn gue(segment: &Segment) -> Option<(u16, u16)> {
    Some((entropy(segment), 6_080))
}

fn direct() -> Vec<Fixture> {
    let v6 = (IpAddr::from(BALANCER6), IpAddr::from(TARGET6));
    let (from, to) = outer(TARGET);
    let pair = |port| (client(port, SYN).with(|s| s.tos = 8), client(port, ACK).payload(b"data"));
    let pair6 = |port| (client6(port, SYN), client6(port, ACK).payload(b"data"));
    let (l2, l2_ack) = pair(BRIDGED);
    let (l2_6, l2_6_ack) = pair6(BRIDGED);
    let (ipip, ipip_ack) = pair(IPIP);
    let (gue4, gue4_ack) = pair(GUE);
    let (in6, in6_ack) = pair(IPIP6);
    let (gue6, gue6_ack) = pair(GUE6);
    let (six_in_four, six_in_four_ack) = pair6(IPIP);
    let (six_in_six, six_in_six_ack) = pair6(IPIP6);
    let (six_gue, six_gue_ack) = pair6(GUE);
    let large = client(IPIP, ACK).payload(&[7; 1_450]);
    let large6 = client6(IPIP6, ACK).payload(&[7; 1_430]);
    let exact = client(IPIP, ACK).payload(&[7; 1_440]);
    let reset = client(IPIP, RST);
    // SYN, which makes no entry; ACK, which makes one; ACK, which finds it.
    let thrice = |name, listener, syn: &Segment, ack: &Segment, out: &dyn Fn(&Segment) -> Vec<u8>| {
        story(name)
            .on_listener(listener)
            .forwards_bytes(syn.bytes(), out(syn))
            .forwards_bytes(ack.bytes(), out(ack))
            .forwards_bytes(ack.bytes(), out(ack))
            .new_flows(listener, 1)
            .entries(1)
    };
    vec![
        thrice("by MAC", 8, &l2, &l2_ack, &Segment::bridged),
        thrice("IPv6 by MAC", 21, &l2_6, &l2_6_ack, &Segment::bridged),
        thrice("IPv4 in IPv4", 9, &ipip, &ipip_ack, &|s| s.tunnelled(from, to, None)),
        thrice("IPv4 in UDP over IPv4", 10, &gue4, &gue4_ack, &|s| s.tunnelled(from, to, gue(s))),
        thrice("IPv4 in IPv6", 11, &in6, &in6_ack, &|s| s.tunnelled(v6.0, v6.1, None)),
        thrice("IPv4 in UDP over IPv6", 12, &gue6, &gue6_ack, &|s| s.tunnelled(v6.0, v6.1, gue(s))),
        thrice("IPv6 in IPv4", 22, &six_in_four, &six_in_four_ack, &|s| s.tunnelled(from, to, None)),
        thrice("IPv6 in IPv6", 23, &six_in_six, &six_in_six_ack, &|s| s.tunnelled(v6.0, v6.1, None)),
        thrice("IPv6 in UDP over IPv4", 24, &six_gue, &six_gue_ack, &|s| s.tunnelled(from, to, gue(s))),
        story("a SYN to a target that answers past us makes no entry")
            .on_listener(9)
            .forwards_bytes(ipip.bytes(), ipip.tunnelled(from, to, None))
            .forwards_bytes(ipip.bytes(), ipip.tunnelled(from, to, None))
            .entries(0),
        story("a RST of no flow to a target that answers past us is dropped")
            .drops(&reset, DropReason::StrayReset),
        story("a packet that just fits goes through the tunnel")
            .on_listener(9)
            .forwards_bytes(exact.bytes(), exact.tunnelled(from, to, None))
            .new_flows(9, 1),
        story("a packet that does not fit is answered")
            .on_listener(9)
            .answers_bytes(large.bytes(), too_big(&large, 1_480))
            .new_flows(9, 1),
        story("an established packet that does not fit is answered")
            .on_listener(9)
            .forwards_bytes(ipip_ack.bytes(), ipip_ack.tunnelled(from, to, None))
            .answers_bytes(large.bytes(), too_big(&large, 1_480))
            .new_flows(9, 1),
        story("IPv6: a packet that does not fit is answered")
            .on_listener(23)
            .answers_bytes(large6.bytes(), too_big(&large6, 1_460))
            .new_flows(23, 1),
        story("a flow by tunnel whose target is gone is reset")
            .on_listener(9)
            .forwards_bytes(ipip_ack.bytes(), ipip_ack.tunnelled(from, to, None))
            .new_flows(9, 1)
            .change(|given| given.targets[6].state = target_state::GONE)
            .resets(&ipip_ack, 9),
        story("what ends in userspace is admitted and the kernel's").passes(&client(LOCAL, SYN)),
        story("data for what ends in userspace is the kernel's").passes(&client(LOCAL, ACK)),
        story("what a listener left in userspace goes on there, and new flows go to targets")
            .given(|given| given.listeners[0].3.flags |= lb_common::abi::listener_flags::LINGERS)
            .passes(&client(HTTP, ACK))
            .passes(&client(HTTP, RST))
            .forwards(&client(HTTP, SYN), &client(HTTP, SYN).at_target(KEPT))
            .flows(1),
        story("a listener that ends in userspace is guarded")
            .given(|given| given.listeners[13].3.flags |= lb_common::abi::listener_flags::GUARDED)
            .drops(&client(LOCAL, SYN), DropReason::SecurityGroup)
            .blocked(13, 1),
    ]
}

/// What tells a client that its packet does not fit.
pub(super) fn too_big(packet: &Segment, mtu: u16) -> Vec<u8> {
    let is_v4 = packet.from.0.is_ipv4();
    let quoted = &packet.bytes()[14..14 + if is_v4 { 28 } else { 48 }];
    let mut body = if is_v4 { vec![3, 4, 0, 0] } else { vec![2, 0, 0, 0] };
    body.extend(u32::from(mtu).to_be_bytes());
    body.extend(quoted);
    answer(packet, &body)
}

/// An ICMP message from a packet's destination to its source.
fn answer(packet: &Segment, body: &[u8]) -> Vec<u8> {
    let message = packet.clone().with(|s| {
        (s.from, s.to) = (packet.to, packet.from);
        (s.to_mac, s.from_mac) = (packet.from_mac, packet.to_mac);
        (s.ttl, s.id, s.tos, s.fragment) = (64, 0, 0, 0x4000);
        s.ip_options.clear();
    });
    icmp(&message, body)
}

/// A frame with an ICMP message of its addresses' family, its checksum made right.
pub(super) fn icmp(frame: &Segment, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body[2..4].fill(0);
    let (number, sum) = if frame.from.0.is_ipv4() {
        (protocol::ICMP, !lb_common::wire::checksum::fold(lb_common::wire::checksum::sum(&body)))
    } else {
        (protocol::ICMPV6, pseudo_checksum(frame.from.0, frame.to.0, protocol::ICMPV6, &body))
    };
    body[2..4].copy_from_slice(&sum.to_ne_bytes());
    frame.frame(number, &body)
}

/// The ring of listener 9 was another a moment ago: it had the target with this index.
fn changed(given: &mut Given, before: u32) {
    let state: &mut Listener = &mut given.listeners[9].3;
    (state.previous_ring, state.previous_until) = (before, 105);
}

fn changing_rings() -> Vec<Fixture> {
    let (syn, ack) = (client(IPIP, SYN), client(IPIP, ACK));
    let (from, to) = outer(TARGET);
    // Ring 7 has the target inside UDP, so that its packets are told apart.
    let old = |s: &Segment| s.tunnelled(from, to, gue(s));
    let new = |s: &Segment| s.tunnelled(from, to, None);
    vec![
        story("after a ring changed, an ACK of no flow goes where its SYN went")
            .given(|given| changed(given, 7))
            .on_listener(9)
            .forwards_bytes(ack.bytes(), old(&ack))
            .forwards_bytes(ack.bytes(), old(&ack))
            .new_flows(9, 1)
            .entries(1),
        story("after a ring changed, a SYN goes by the new one and is remembered")
            .given(|given| changed(given, 7))
            .on_listener(9)
            .forwards_bytes(syn.bytes(), new(&syn))
            .forwards_bytes(ack.bytes(), new(&ack))
            .new_flows(9, 1)
            .entries(1),
        story("some seconds after a ring changed, only the new one counts")
            .given(|given| {
                changed(given, 7);
                given.pulse.tick = 105;
            })
            .on_listener(9)
            .forwards_bytes(ack.bytes(), new(&ack))
            .new_flows(9, 1),
        story("a target of the ring before that is gone gets nothing")
            .given(|given| {
                changed(given, 7);
                given.targets[7] = Target::GONE;
            })
            .on_listener(9)
            .forwards_bytes(ack.bytes(), new(&ack))
            .new_flows(9, 1),
        story("no ring before is no ring")
            .given(|given| changed(given, NO_RING))
            .on_listener(9)
            .forwards_bytes(ack.bytes(), new(&ack))
            .new_flows(9, 1),
    ]
}

/// A later fragment of a packet: addresses, identification and protocol, and other bytes.
fn follower(first: &Segment) -> (Segment, Vec<u8>) {
    (first.clone().with(|s| s.fragment = 0x00b9), vec![0x5a; 40])
}

fn fragments() -> Vec<Fixture> {
    let frame = |s: &Segment, body: &[u8]| s.frame(s.protocol, body);
    let first = client(DNS, 0).datagram(&[1; 64]).with(|s| s.fragment = 0x2000);
    let (later, body) = follower(&first);
    let first6 = client6(DNS, 0).datagram(&[1; 64]).with(|s| s.fragment = 0x2000);
    let (later6, body6) = follower(&first6);
    let segment = client(HTTP, SYN).payload(&[1; 32]).with(|s| s.fragment = 0x2000);
    let (segment_later, segment_body) = follower(&segment);
    let tunnelled = client(IPIP, ACK).payload(&[1; 32]).with(|s| s.fragment = 0x2000);
    let (tunnelled_later, tunnelled_body) = follower(&tunnelled);
    let crossing = client(CROSSING, 0).datagram(&[1; 64]).with(|s| s.fragment = 0x2000);
    let (from, to) = outer(TARGET);
    let other = later.clone().with(|s| s.id += 1);
    vec![
        story("fragments follow their first")
            .on_listener(14)
            .forwards(&first, &first.at_target(KEPT))
            .forwards_bytes(frame(&later, &body), frame(&later.at_target(KEPT), &body))
            .new_flows(14, 1)
            .flows(1),
        story("IPv6: fragments follow their first")
            .on_listener(18)
            .forwards(&first6, &first6.at_target6(KEPT))
            .forwards_bytes(frame(&later6, &body6), frame(&later6.at_target6(KEPT), &body6))
            .new_flows(18, 1),
        story("a fragmented segment begins a flow")
            .forwards(&segment, &segment.at_target(KEPT))
            .forwards_bytes(
                frame(&segment_later, &segment_body),
                frame(&segment_later.at_target(KEPT), &segment_body),
            )
            .flows(1),
        story("fragments of an established flow")
            .on_listener(14)
            .forwards(
                &first.clone().with(|s| s.fragment = 0x4000),
                &first.clone().with(|s| s.fragment = 0x4000).at_target(KEPT),
            )
            .forwards(&first, &first.at_target(KEPT))
            .forwards_bytes(frame(&later, &body), frame(&later.at_target(KEPT), &body))
            .new_flows(14, 1),
        story("fragments follow into a tunnel")
            .on_listener(9)
            .forwards_bytes(tunnelled.bytes(), tunnelled.tunnelled(from, to, None))
            .forwards_bytes(frame(&tunnelled_later, &tunnelled_body), {
                let inner = frame(&tunnelled_later, &tunnelled_body);
                let outer = client(0, 0).with(|s| {
                    (s.from.0, s.to.0, s.to_mac, s.from_mac) = (from, to, TARGET_MAC, BALANCER_MAC);
                    s.id = 0;
                });
                outer.frame(protocol::IPV4, &inner[14..])
            })
            .new_flows(9, 1),
        story("a fragment of another datagram is dropped")
            .on_listener(14)
            .forwards(&first, &first.at_target(KEPT))
            .drops_bytes(frame(&other, &body), DropReason::Fragment)
            .new_flows(14, 1),
        story("a fragment that comes too late is dropped")
            .on_listener(14)
            .forwards(&first, &first.at_target(KEPT))
            .change(|given| given.pulse.tick += 16)
            .drops_bytes(frame(&later, &body), DropReason::Fragment)
            .new_flows(14, 1),
        story("IPv6: a fragment whose first was not seen is dropped")
            .drops_bytes(frame(&later6, &body6), DropReason::Fragment),
        story("fragments do not change their family")
            .drops(&crossing, DropReason::Untranslatable)
            .new_flows(26, 1),
        story("a fragment with its last hop is dropped")
            .on_listener(14)
            .forwards(&first, &first.at_target(KEPT))
            .drops_bytes(frame(&later.clone().with(|s| s.ttl = 1), &body), DropReason::TtlExpired)
            .new_flows(14, 1),
    ]
}

/// A router between us and the target says that a packet to it, from a port of ours, is too large.
fn router_message(quoted: &Segment, mtu: u16) -> Vec<u8> {
    let is_v4 = quoted.from.0.is_ipv4();
    let mut body = if is_v4 { vec![3, 4, 0, 0, 0, 0] } else { vec![2, 0, 0, 0, 0, 0] };
    body.extend(mtu.to_be_bytes());
    body.extend(&quoted.bytes()[14..14 + if is_v4 { 28 } else { 48 }]);
    body
}

pub(super) fn router(to: (IpAddr, u16), from_mac: super::segment::Mac) -> Segment {
    let address: IpAddr =
        if to.0.is_ipv4() { Ipv4Addr::new(10, 0, 1, 1).into() } else { "fd00:1::1".parse().unwrap() };
    client(0, 0).with(|s| {
        (s.from, s.to, s.from_mac, s.to_mac) = ((address, 0), to, from_mac, BALANCER_MAC);
    })
}

fn errors() -> Vec<Fixture> {
    let (syn, syn_ack, ack) = (client(HTTP, SYN), target(KEPT, SYN | ACK), client(HTTP, ACK));
    let established = |name| {
        story(name)
            .forwards(&syn, &syn.at_target(KEPT))
            .forwards(&syn_ack, &syn_ack.at_client(HTTP))
            .forwards(&ack, &ack.at_target(KEPT))
            .new_flows(0, 1)
    };
    // What the client sent, and what we made of it; what the target sent, and what we made of it.
    let (sent, forwarded) = (ack.clone(), ack.at_target(KEPT));
    let (answered, returned) = (syn_ack.clone(), syn_ack.at_client(HTTP));
    let to_us = router((BALANCER.into(), 0), TARGET_MAC);
    let to_client = to_us.routed((BALANCER.into(), 0), (CLIENT.into(), 0), CLIENT_MAC);
    let from_clients_side = router((BALANCER.into(), 0), CLIENT_MAC);
    let to_target = from_clients_side.routed((BALANCER.into(), 0), (TARGET.into(), 0), TARGET_MAC);
    // Quoted as the one who sent it knows it; hops and checksums of the quoted packet are as they were on the way.
    let as_sent = |s: &Segment, on_the_way: &Segment| s.clone().with(|s| s.ttl = on_the_way.ttl);
    let quote = |s: &Segment, on_the_way: &Segment| {
        let mut body = router_message(&as_sent(s, on_the_way), 1_400);
        // The segment's checksum is behind the eight quoted bytes.
        body.truncate(36);
        body
    };
    let (from, to) = outer(TARGET);
    let tunnelled = client(IPIP, ACK);
    let about_answer = client(IPIP, ACK).with(|s| (s.from, s.to) = (s.to, s.from));
    let to_vip = icmp(&router((BALANCER.into(), 0), CLIENT_MAC), &router_message(&about_answer, 1_400));
    vec![
        established("a message about what the client sent is for the client").forwards_bytes(
            icmp(&to_us, &router_message(&forwarded, 1_400)),
            icmp(&to_client, &quote(&sent, &forwarded)),
        ),
        established("a message about what the target sent is for the target").forwards_bytes(
            icmp(&from_clients_side, &router_message(&returned, 1_400)),
            icmp(&to_target, &quote(&answered, &returned)),
        ),
        established("a message with its last hop is dropped").drops_bytes(
            icmp(&to_us.clone().with(|s| s.ttl = 1), &router_message(&forwarded, 1_400)),
            DropReason::TtlExpired,
        ),
        story("a message about no flow is the kernel's")
            .passes_bytes(icmp(&to_us, &router_message(&forwarded, 1_400))),
        story("a message about a tunnelled flow goes through the tunnel")
            .on_listener(9)
            .forwards_bytes(tunnelled.bytes(), tunnelled.tunnelled(from, to, None))
            .forwards_bytes(to_vip.clone(), {
                let outer = client(0, 0).with(|s| {
                    (s.from.0, s.to.0, s.to_mac, s.from_mac) = (from, to, TARGET_MAC, BALANCER_MAC);
                    s.id = 0;
                });
                outer.frame(protocol::IPV4, &to_vip[14..])
            })
            .new_flows(9, 1),
    ]
}

fn errors6() -> Vec<Fixture> {
    let (syn, ack) = (client6(HTTP, SYN), client6(HTTP, ACK).payload(b"data"));
    let forwarded = ack.at_target6(KEPT);
    let to_us = router((BALANCER6.into(), 0), TARGET_MAC);
    let to_client = to_us.routed((BALANCER6.into(), 0), (CLIENT6.into(), 0), CLIENT_MAC);
    let quoted = router_message(&ack.clone().with(|s| s.ttl = forwarded.ttl), 1_280);
    vec![
        story("IPv6: a message about what the client sent is for the client")
            .on_listener(HTTP6)
            .forwards(&syn, &syn.at_target6(KEPT))
            .forwards(&ack, &forwarded)
            .forwards_bytes(icmp(&to_us, &router_message(&forwarded, 1_280)), icmp(&to_client, &quoted))
            .new_flows(HTTP6, 1),
        story("IPv6: a message about no flow is the kernel's")
            .passes_bytes(icmp(&to_us, &router_message(&forwarded, 1_280))),
    ]
}

fn limits() -> Vec<Fixture> {
    let from = |port: u16| client(HTTP, SYN).with(|s| s.from.1 = port);
    let elsewhere = client(HTTP, SYN).with(|s| s.from.0 = Ipv4Addr::new(10, 0, 1, 77).into());
    let from_elsewhere = elsewhere.routed((BALANCER.into(), KEPT), (TARGET.into(), TARGET_PORT), TARGET_MAC);
    let source_limited = |name| {
        story(name).given(|given| {
            given.pulse.source_limit = 2;
            // Another tick than other stories': the kernel's table remembers sources.
            given.pulse.tick = 7_001;
        })
    };
    vec![
        story("a listener's own limit")
            .given(|given| given.listeners[0].3.syn_limit = 1)
            .forwards(&from(2_500), &from(2_500).at_target(2_500))
            .drops(&from(2_501), DropReason::SynFlood)
            .rejected(0, 1)
            .flows(1),
        story("a listener's limit is not another's")
            .given(|given| given.listeners[1].3.syn_limit = 0)
            .forwards(&from(2_500), &from(2_500).at_target(2_500))
            .flows(1),
        source_limited("a source's limit")
            .forwards(&from(2_500), &from(2_500).at_target(2_500))
            .forwards(&from(2_501), &from(2_501).at_target(2_501))
            .drops(&from(2_502), DropReason::SourceLimit)
            .rejected(0, 1)
            .flows(2),
        source_limited("a source's limit is not another's")
            .given(|given| given.pulse.tick = 7_002)
            .forwards(&from(2_500), &from(2_500).at_target(2_500))
            .forwards(&from(2_501), &from(2_501).at_target(2_501))
            .forwards(&elsewhere, &from_elsewhere)
            .flows(3),
        story("an answered datagram is no flood")
            .given(|given| given.pulse.syn_limit = 1)
            .on_listener(14)
            .forwards(&client(DNS, 0).datagram(b"a"), &client(DNS, 0).datagram(b"a").at_target(KEPT))
            .forwards(&target(KEPT, 0).datagram(b"b"), &target(KEPT, 0).datagram(b"b").at_client(DNS))
            .forwards(
                &client(DNS, 0).datagram(b"a").with(|s| s.from.1 = 2_501),
                &client(DNS, 0).datagram(b"a").with(|s| s.from.1 = 2_501).at_target(2_501),
            )
            .new_flows(14, 2),
        story("an IPv6 listener without targets refuses")
            .given(|given| given.listeners[16].3.ring = NO_RING)
            .resets(&client6(HTTP, SYN), HTTP6)
            .rejected(HTTP6, 1),
        story("a TCP listener without targets is not a UDP one")
            .drops(&client(EMPTY, 0).datagram(b"?"), DropReason::NoListener),
    ]
}
