//! QUIC listeners over real sockets: servers whose connection ids name them, and clients that move.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::abi::DropReason;
use lb_userspace::packet::{ListenerPlan, Plan, Protocol, Service, TargetPlan};

use super::plans::{self, at, healthy, listener};
use super::quic_peer::{Client, SERVER_ID_LENGTH, ServerId, serve_quic};
use super::sockets::{Talker, echo_datagrams};
use super::world::{BALANCER, CLIENT, FAR, FAR_CLIENT, NEAR, PORT, TARGET_PORT, World, ipv6, target_name};

/// The server id of whoever has this address.
fn identity(address: IpAddr) -> ServerId {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0x9a, 4, a, b, c, d, 0, 0x7e]
        }
        IpAddr::V6(address) => {
            let [_, _, _, subnet, .., host] = address.segments();
            let ([a, b], [c, d]) = (subnet.to_be_bytes(), host.to_be_bytes());
            [0x9a, 6, a, b, c, d, 0, 0x7e]
        }
    }
}

/// A listener whose connection ids name these targets.
fn quic<A: Into<IpAddr> + Copy>(targets: &[A]) -> ListenerPlan {
    let named = |(name, target)| {
        let TargetPlan { address, .. } = target;
        (name, TargetPlan { server_id: Some(u64::from_le_bytes(identity(address))), ..target })
    };
    ListenerPlan {
        service: Service::Quic { server_id_length: SERVER_ID_LENGTH },
        targets: healthy(targets).into_iter().map(named).collect(),
        ..listener(healthy(targets))
    }
}

/// QUIC on both addresses.
fn plan(targets: &[Ipv4Addr]) -> Plan {
    let sixes: Vec<_> = targets.iter().copied().map(ipv6).collect();
    plans::node([
        (at(BALANCER, PORT, Protocol::Udp), quic(targets)),
        (at(ipv6(BALANCER), PORT, Protocol::Udp), quic(&sixes)),
    ])
}

/// Servers on both targets, by both families.
fn world() -> World {
    let world = World::new();
    for address in [NEAR, FAR] {
        for at in [IpAddr::from(address), ipv6(address).into()] {
            serve_quic(&world.machine(address), SocketAddr::new(at, TARGET_PORT), identity(at));
        }
    }
    world
}

fn listeners() -> [SocketAddr; 2] {
    [SocketAddr::new(BALANCER.into(), PORT), SocketAddr::new(ipv6(BALANCER).into(), PORT)]
}

#[test]
fn connections_find_all_targets_and_a_client_that_moves_keeps_its_own() {
    let world = world();
    let node = world.start_node();
    node.apply(plan(&[NEAR, FAR]));
    for listener in listeners() {
        let mut found = BTreeSet::new();
        for number in 0..12 {
            let client = Client::new(&world.machine(CLIENT), listener);
            let connection = client.connect(listener).unwrap();
            let target = client.ask(&connection).unwrap();
            found.insert(target);
            // Another port, then another network.
            for place in [CLIENT, FAR_CLIENT, CLIENT] {
                client.move_to(&world.machine(place));
                let told = || format!("{number}: {target} by {listener}, at {place}: {:#?}", node.counters());
                let answered = client.ask(&connection);
                assert_eq!(
                    answered.unwrap_or_else(|error| panic!("{error}: {}", told())),
                    target,
                    "{}",
                    told()
                );
            }
        }
        let all =
            [NEAR, FAR].map(|one| if listener.is_ipv4() { one.into() } else { IpAddr::from(ipv6(one)) });
        assert_eq!(found, all.into(), "by {listener}");
    }
    assert_eq!(node.drops(DropReason::UnknownServerId), 0);
}

#[test]
fn a_client_moves_while_its_target_is_given_no_more_connections() {
    let world = world();
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let [listener, _] = listeners();
    let client = Client::new(&world.machine(CLIENT), listener);
    let connection = client.connect(listener).unwrap();
    assert_eq!(client.ask(&connection).unwrap(), NEAR);
    let mut draining = plan(&[NEAR, FAR]);
    for listener in draining.nodes.values_mut().flat_map(|node| node.listeners.values_mut()) {
        if let Some(near) = listener.targets.get_mut(&target_name(NEAR)) {
            (near.health, near.weight) = (lb_userspace::packet::Verdict::Draining, 0);
        }
    }
    node.apply(draining);
    client.move_to(&world.machine(FAR_CLIENT));
    assert_eq!(client.ask(&connection).unwrap(), NEAR);
    let other = Client::new(&world.machine(CLIENT), listener);
    assert_eq!(other.ask(&other.connect(listener).unwrap()).unwrap(), FAR);
}

#[test]
fn an_id_that_names_nobody_is_dropped_and_counted() {
    let world = world();
    let node = world.start_node();
    node.apply(plan(&[NEAR, FAR]));
    for listener in listeners() {
        let talker = Talker::new(&world, CLIENT, listener.ip(), listener.port());
        let before = node.drops(DropReason::UnknownServerId);
        // RFC 9000, §17.3.1: a short header, and behind it an id.
        let mut packet = vec![0x40, 0];
        packet.extend([0xee; 40]);
        talker.0.send(&packet).unwrap();
        // And one that is too short for an id.
        talker.0.send(&packet[..4]).unwrap();
        super::sockets::until("drops", || node.drops(DropReason::UnknownServerId) == before + 2);
        let found = Client::new(&world.machine(CLIENT), listener).connect(listener);
        assert!(found.is_ok(), "{listener}: {found:?}");
    }
}

#[test]
fn quic_stands_beside_udp_and_a_second_listener_and_groups_guard_it() {
    let world = world();
    echo_datagrams(&world, NEAR, DNS);
    let node = world.start_node();
    let guarded =
        ListenerPlan { sources: Some(["10.0.1.0/24".parse().unwrap()].into()), ..quic(&[NEAR, FAR]) };
    let mut datagrams = listener(healthy(&[NEAR]));
    datagrams.targets = datagrams
        .targets
        .into_iter()
        .map(|(mut name, target)| {
            name.key.port = DNS;
            (name, target)
        })
        .collect();
    node.apply(plans::node([
        (at(BALANCER, PORT, Protocol::Udp), guarded),
        (at(BALANCER, SECOND, Protocol::Udp), quic(&[FAR])),
        (at(BALANCER, DNS, Protocol::Udp), datagrams),
    ]));
    let first = SocketAddr::new(BALANCER.into(), PORT);
    let second = SocketAddr::new(BALANCER.into(), SECOND);
    let client = Client::new(&world.machine(CLIENT), first);
    let connection = client.connect(first).unwrap();
    let target = client.ask(&connection).unwrap();
    assert_eq!(client.ask(&client.connect(second).unwrap()).unwrap(), FAR);
    assert_eq!(Talker::new(&world, CLIENT, BALANCER, DNS).ask(b"a name?").unwrap(), NEAR);

    // Who may not come in may not move in either.
    let outside = Client::new(&world.machine(FAR_CLIENT), first);
    outside.connect(first).unwrap_err();
    assert!(outside.connect(second).is_ok());
    client.move_to(&world.machine(FAR_CLIENT));
    client.ask(&connection).unwrap_err();
    assert!(node.drops(DropReason::SecurityGroup) > 0);
    assert!(node.counters().listeners[0].counters.blocked > 0, "{target}: {:#?}", node.counters());
}

/// Another QUIC listener's port.
const SECOND: u16 = 4433;
/// A UDP listener's port, and its target's.
const DNS: u16 = 5353;
