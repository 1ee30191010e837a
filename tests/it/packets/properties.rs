//! What must hold for every packet and every way to a target: checksums are those of a full computation, and a client
//! hears from its target as if nobody stood between, less what another family has no place for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::wire::protocol;
use proptest::prelude::*;

use super::given::{BRIDGED, CROSSING, DNS, GUE, GUE6, Given, HTTP, IPIP, IPIP6, PRESERVE, Runner, Seen};
use super::host::Host;
use super::reading::{Reading, read};
use super::segment::{
    ACK, BALANCER, BALANCER_MAC, BALANCER6, CLIENT, CLIENT_MAC, CLIENT6, FIN, PSH, SYN, Segment, TARGET,
    TARGET_MAC, TARGET_PORT, TARGET6, client, client6,
};

/// A listener whose targets are reached by rewriting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    name: &'static str,
    port: u16,
    protocol: u8,
    is_v6: bool,
    /// Whether its target is of the other family.
    crosses: bool,
    /// Whether its target sees the client's address.
    preserves: bool,
}

const fn way(name: &'static str, port: u16, protocol: u8, is_v6: bool) -> Way {
    Way { name, port, protocol, is_v6, crosses: port == CROSSING, preserves: port == PRESERVE }
}

const WAYS: [Way; 10] = [
    way("TCP", HTTP, protocol::TCP, false),
    way("TCP over IPv6", HTTP, protocol::TCP, true),
    way("UDP", DNS, protocol::UDP, false),
    way("UDP over IPv6", DNS, protocol::UDP, true),
    way("TCP, client preserved", PRESERVE, protocol::TCP, false),
    way("TCP over IPv6, client preserved", PRESERVE, protocol::TCP, true),
    way("TCP from IPv4 to IPv6", CROSSING, protocol::TCP, false),
    way("TCP from IPv6 to IPv4", CROSSING, protocol::TCP, true),
    way("UDP from IPv4 to IPv6", CROSSING, protocol::UDP, false),
    way("UDP from IPv6 to IPv4", CROSSING, protocol::UDP, true),
];

/// Listeners whose targets are sent packets as they are, by port and whether they have one for IPv6.
const DIRECT: [(u16, bool); 8] = [
    (BRIDGED, false),
    (BRIDGED, true),
    (IPIP, false),
    (IPIP, true),
    (IPIP6, false),
    (IPIP6, true),
    (GUE, false),
    (GUE6, false),
];

/// What a sender may say besides addresses.
#[derive(Debug, Clone)]
struct Said {
    port: u16,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    payload: Vec<u8>,
    ip_options: Vec<u8>,
    tcp_options: Vec<u8>,
    hops: u8,
    class: u8,
    id: u16,
}

prop_compose! {
    fn any_said()(
        port in 1_u16..,
        numbers in any::<(u32, u32, u16, u16)>(),
        payload in proptest::collection::vec(any::<u8>(), 0..700),
        ip_options in proptest::collection::vec(any::<[u8; 4]>(), 0..10),
        tcp_options in proptest::collection::vec(any::<[u8; 4]>(), 0..10),
        hops in 2_u8..,
        class in any::<u8>(),
    ) -> Said {
        Said {
            port,
            sequence: numbers.0,
            acknowledgement: numbers.1,
            window: numbers.2,
            id: numbers.3,
            payload,
            ip_options: ip_options.concat(),
            tcp_options: tcp_options.concat(),
            hops,
            class,
        }
    }
}

prop_compose! {
    /// An address that is nobody's here.
    fn any_client()(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>()) -> (Ipv4Addr, Ipv6Addr) {
        let known: [IpAddr; 4] = [BALANCER.into(), TARGET.into(), BALANCER6.into(), TARGET6.into()];
        let (v4, v6) = (Ipv4Addr::from(v4), Ipv6Addr::from(v6));
        if known.contains(&v4.into()) || known.contains(&v6.into()) { (CLIENT, CLIENT6) } else { (v4, v6) }
    }
}

impl Said {
    /// The same as a segment or datagram with these ends.
    fn segment(&self, way: Way, flags: u8) -> Segment {
        let base = if way.is_v6 { client6(way.port, flags) } else { client(way.port, flags) };
        base.with(|s| {
            s.protocol = way.protocol;
            s.from.1 = self.port;
            (s.sequence, s.acknowledgement, s.window) = (self.sequence, self.acknowledgement, self.window);
            s.payload.clone_from(&self.payload);
            // What changes its family may have none.
            if !way.is_v6 && !way.crosses {
                s.ip_options.clone_from(&self.ip_options);
            }
            if way.protocol == protocol::TCP {
                s.tcp_options.clone_from(&self.tcp_options);
            }
            (s.ttl, s.tos, s.id) = (self.hops, self.class, self.id);
        })
    }
}

/// What leaves, as its receiver reads it.
fn sent(host: &mut Host, packet: &Segment) -> Result<(Reading, Vec<u8>), TestCaseError> {
    let Seen::Transmit(out) = host.run(&packet.bytes()) else {
        return Err(TestCaseError::fail(format!("not sent: {packet:?}")));
    };
    let Some(reading) = read(&out) else {
        return Err(TestCaseError::fail(format!("not read: {out:02x?}")));
    };
    Ok((reading, out))
}

/// What a segment or datagram says besides its ports and checksum.
fn without_ports(reading: &Reading) -> Vec<u8> {
    let mut body = reading.body.clone();
    body[..4].fill(0);
    let at = if reading.protocol == protocol::UDP { 6 } else { 16 };
    body[at..at + 2].fill(0);
    body
}

/// Whether what left is what came, but for addresses, ports and one hop.
fn is_the_same(came: &Segment, left: &Reading, way: Way) -> Result<(), TestCaseError> {
    let frame = came.bytes();
    let before = read(&frame).unwrap();
    prop_assert!(before.is_header_right && before.is_body_right != Some(false), "{}: {:?}", way.name, came);
    prop_assert!(left.is_header_right, "{}: {:?}", way.name, left);
    prop_assert_eq!(left.is_body_right, Some(true), "{}: {:?}", way.name, left);
    prop_assert_eq!(without_ports(left), without_ports(&before), "{}", way.name);
    prop_assert_eq!((left.class, left.protocol), (before.class, before.protocol), "{}", way.name);
    prop_assert_eq!(left.hops, before.hops - 1, "{}", way.name);
    if !way.crosses {
        prop_assert_eq!(&left.options, &before.options, "{}", way.name);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_client_hears_its_target_as_if_nobody_stood_between(
        which in 0..WAYS.len(),
        from in any_client(),
        out in any_said(),
        back in any_said(),
        more in any_said(),
    ) {
        let way = WAYS[which];
        let mut host = Host::default();
        host.begin(&Given::default());
        let from: (IpAddr, u16) = (if way.is_v6 { from.1.into() } else { from.0.into() }, out.port);
        let ours: (IpAddr, u16) = (if way.is_v6 { BALANCER6.into() } else { BALANCER.into() }, way.port);
        let first = out.segment(way, SYN).with(|s| s.from = from);
        let (at_target, _) = sent(&mut host, &first)?;
        is_the_same(&first, &at_target, way)?;
        let target: IpAddr = if way.is_v6 == way.crosses { TARGET.into() } else { TARGET6.into() };
        let ports = at_target.ports().unwrap();
        prop_assert_eq!((at_target.to, ports.1), (target, TARGET_PORT));
        if way.preserves {
            prop_assert_eq!((at_target.from, ports.0), from);
        }

        // The target answers who spoke to it.
        let reply = Way { is_v6: target.is_ipv6(), ..way };
        let answer = back.segment(reply, SYN | ACK).with(|s| {
            (s.from, s.to) = ((at_target.to, ports.1), (at_target.from, ports.0));
            (s.from_mac, s.to_mac) = (TARGET_MAC, BALANCER_MAC);
        });
        let (at_client, frame) = sent(&mut host, &answer)?;
        is_the_same(&answer, &at_client, way)?;
        let ports = at_client.ports().unwrap();
        prop_assert_eq!(((at_client.from, ports.0), (at_client.to, ports.1)), (ours, from));
        prop_assert_eq!(&frame[..6], &CLIENT_MAC);

        // What follows goes the same way, whatever it says.
        for flags in [ACK, PSH | ACK, FIN | ACK] {
            let next = more.segment(way, flags).with(|s| s.from = from);
            let (again, _) = sent(&mut host, &next)?;
            is_the_same(&next, &again, way)?;
            prop_assert_eq!((again.from, again.to), (at_target.from, at_target.to));
            prop_assert_eq!(again.ports(), at_target.ports());
        }
    }

    #[test]
    fn a_target_that_answers_past_us_gets_the_packet_as_it_is(
        which in 0..DIRECT.len(),
        from in any_client(),
        said in any_said(),
    ) {
        let (port, is_v6) = DIRECT[which];
        let way = way("direct", port, protocol::TCP, is_v6);
        let mut host = Host::default();
        host.begin(&Given::default());
        for flags in [SYN, ACK, ACK] {
            let packet = said.segment(way, flags).with(|s| {
                s.from.0 = if is_v6 { from.1.into() } else { from.0.into() };
            });
            let came = packet.bytes();
            let (outer, left) = sent(&mut host, &packet)?;
            prop_assert!(left.ends_with(&came[14..]), "{:02x?}", left);
            prop_assert_eq!(&left[..6], &TARGET_MAC);
            prop_assert!(outer.is_header_right);
            if port != BRIDGED {
                let ends: (IpAddr, IpAddr) = if matches!(port, IPIP6 | GUE6) {
                    (BALANCER6.into(), TARGET6.into())
                } else {
                    (BALANCER.into(), TARGET.into())
                };
                prop_assert_eq!((outer.from, outer.to), ends);
                prop_assert_eq!(outer.class, said.class);
            }
        }
    }

    #[test]
    fn a_datagram_without_a_checksum_goes_without_and_needs_one_to_become_ipv6(said in any_said()) {
        let mut host = Host::default();
        host.begin(&Given::default());
        let stays = said.segment(way("UDP", DNS, protocol::UDP, false), 0).with(|s| s.no_checksum = true);
        let (left, _) = sent(&mut host, &stays)?;
        prop_assert_eq!((&left.body[6..8], left.is_body_right), (&[0, 0][..], None));
        let crosses = said.segment(way("UDP", CROSSING, protocol::UDP, false), 0).with(|s| s.no_checksum = true);
        prop_assert_eq!(host.run(&crosses.bytes()), Seen::Drop);
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_in_its_other_form() {
    let said = Said {
        port: 40_000,
        sequence: 0,
        acknowledgement: 0,
        window: 0,
        payload: vec![0; 2],
        ip_options: Vec::new(),
        tcp_options: Vec::new(),
        hops: 64,
        class: 0,
        id: 1,
    };
    for way in WAYS.into_iter().filter(|way| way.protocol == protocol::UDP) {
        let mut host = Host::default();
        host.begin(&Given::default());
        let first = said.segment(way, 0);
        let (left, _) = sent(&mut host, &first).unwrap();
        // Adding a checksum to what it is of makes one of zero.
        let word = left.body[6..8].to_vec();
        let (left, _) = sent(&mut host, &first.payload(&word)).unwrap();
        assert_eq!((&left.body[6..8], left.is_body_right), (&[0xff, 0xff][..], Some(true)), "{}", way.name);
    }
}
