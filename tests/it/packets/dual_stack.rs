//! A load balancer of both families over real sockets: IPv6 from end to end, and clients of one family to targets of the
//! other.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gatehouse_tests::lab::netns::command_in;
use lb_common::abi::DropReason;
use lb_userspace::packet::{Plan, Protocol};

use super::plans::{self, at, healthy, listener};
use super::sockets::{Talker, dial, echo_datagrams, echo_streams, pour};
use super::world::{BALANCER, CLIENT, FAR, FAR_CLIENT, NEAR, Node, PORT, TARGET_PORT, World, ipv6};

/// TCP and UDP on both addresses, all to these targets.
fn plan<A: Into<IpAddr> + Copy>(targets: &[A]) -> Plan {
    let addresses: [IpAddr; 2] = [BALANCER.into(), ipv6(BALANCER).into()];
    let both = |address| [Protocol::Tcp, Protocol::Udp].map(|protocol| at(address, PORT, protocol));
    plans::node(addresses.into_iter().flat_map(both).map(|name| (name, listener(healthy(targets)))))
}

/// Machines that answer by TCP and UDP on addresses of both families.
fn world() -> World {
    let world = World::new();
    for address in [NEAR, FAR] {
        for address in [IpAddr::from(address), ipv6(address).into()] {
            echo_datagrams(&world, address, TARGET_PORT);
            echo_streams(&world, address, TARGET_PORT);
        }
    }
    world
}

/// Streams and datagrams of both clients by one address of the load balancer.
#[track_caller]
fn speaks(world: &World, node: &Node, balancer: impl Into<IpAddr>, target: impl Into<IpAddr>) {
    let (balancer, target) = (balancer.into(), target.into());
    for from in [CLIENT, FAR_CLIENT] {
        let told = || format!("{from} to {target} by {balancer}: {:#?}", node.counters());
        let stream = dial(world, from, balancer, PORT).unwrap_or_else(|error| panic!("{error}: {}", told()));
        pour(&stream, 1_000_000).unwrap_or_else(|error| panic!("{error}: {}", told()));
        let talker = Talker::new(world, from, balancer, PORT);
        for question in [&b""[..], b"a question", &[7; 1_200]] {
            let answered = talker.ask(question).unwrap_or_else(|error| panic!("{error}: {}", told()));
            assert_eq!(answered, target);
        }
    }
}

#[test]
fn static_addresses_answer_neighbours_and_echo_in_both_families() {
    let world = World::new();
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    for from in [CLIENT, FAR_CLIENT] {
        for (address, family) in [(IpAddr::from(BALANCER), "-4"), (ipv6(BALANCER).into(), "-6")] {
            let output = command_in(&world.machine(from), "ping")
                .args([family, "-c", "1", "-W", "2", &address.to_string()])
                .output()
                .unwrap();
            assert!(output.status.success(), "{from} to {address}: {output:?}");
        }
    }
    // Who is in the subnet found the addresses by ARP and NDP.
    let known = command_in(&world.machine(CLIENT), "ip").args(["neighbour", "show"]).output().unwrap();
    let known = String::from_utf8(known.stdout).unwrap();
    for address in [IpAddr::from(BALANCER), ipv6(BALANCER).into()] {
        let line = known.lines().find(|line| line.starts_with(&format!("{address} ")));
        assert!(line.is_some_and(|line| line.contains("lladdr")), "{address}: {known}");
    }
    assert_eq!(node.drops(DropReason::Icmp), 0);
}

#[test]
fn clients_and_targets_of_ipv6_are_near_or_behind_the_router() {
    let world = world();
    let node = world.start_node();
    for target in [NEAR, FAR] {
        node.apply(plan(&[ipv6(target)]));
        speaks(&world, &node, ipv6(BALANCER), ipv6(target));
    }
}

#[test]
fn clients_of_ipv4_reach_targets_of_ipv6() {
    let world = world();
    let node = world.start_node();
    for target in [NEAR, FAR] {
        node.apply(plan(&[ipv6(target)]));
        speaks(&world, &node, BALANCER, ipv6(target));
    }
}

#[test]
fn clients_of_ipv6_reach_targets_of_ipv4() {
    let world = world();
    let node = world.start_node();
    for target in [NEAR, FAR] {
        node.apply(plan(&[target]));
        speaks(&world, &node, ipv6(BALANCER), target);
    }
}

#[test]
fn a_group_of_both_families_serves_clients_of_both_and_flows_stay() {
    let world = world();
    let node = world.start_node();
    let targets: [IpAddr; 4] = [NEAR.into(), FAR.into(), ipv6(NEAR).into(), ipv6(FAR).into()];
    node.apply(plan(&targets));
    for balancer in [IpAddr::from(BALANCER), ipv6(BALANCER).into()] {
        let talkers: Vec<Talker> = (0..100).map(|_| Talker::new(&world, CLIENT, balancer, PORT)).collect();
        let first: Vec<IpAddr> = talkers.iter().map(|talker| talker.ask(b"first").unwrap()).collect();
        assert_eq!(first.iter().copied().collect::<BTreeSet<_>>(), targets.into(), "by {balancer}");
        for (talker, target) in talkers.iter().zip(first) {
            assert_eq!(talker.ask(b"second").unwrap(), target);
        }
    }
}

#[test]
fn flows_across_families_end_with_their_connections() {
    let world = world();
    let node = world.start_node();
    node.apply(plan(&[ipv6(NEAR)]));
    let streams: Vec<_> = (0..20).map(|_| dial(&world, CLIENT, BALANCER, PORT).unwrap()).collect();
    for stream in &streams {
        pour(stream, 10_000).unwrap();
    }
    node.until_flows(20);
    drop(streams);
    // One direction tells nothing of the other's FIN: it is waited for.
    node.pass(65);
    node.until_flows(0);
}

#[test]
fn what_has_no_form_in_the_other_family_is_dropped_and_counted() {
    let world = world();
    let node = world.start_node();
    node.apply(plan(&[ipv6(NEAR)]));
    let talker = Talker::new(&world, CLIENT, BALANCER, PORT);
    assert_eq!(talker.ask(b"fits").unwrap(), ipv6(NEAR));
    talker.ask(&[0; 5_000]).unwrap_err();
    assert!(node.drops(DropReason::Untranslatable) > 0, "{:#?}", node.counters());
    assert_eq!(talker.ask(b"fits again").unwrap(), ipv6(NEAR));
}
