//! A hop that carries less than the others: routers say so to the load balancer, in whose name packets went there, and
//! whoever sent them hears it in his own terms.

use std::net::IpAddr;

use gatehouse_tests::lab::netns::command_in;
use lb_userspace::packet::{Plan, Protocol};

use super::plans::{self, at, healthy, listener};
use super::sockets::{dial, echo_streams, ip, pour};
use super::world::{BALANCER, CLIENT, FAR, FAR_CLIENT, NEAR, Node, PORT, TARGET_PORT, World, ipv6};

fn plan<A: Into<IpAddr> + Copy>(balancer: IpAddr, target: A) -> Plan {
    plans::node([(at(balancer, PORT, Protocol::Tcp), listener(healthy(&[target])))])
}

/// How many packets the router said would not fit, in either family.
fn refused(world: &World) -> u64 {
    let read = |file: &str| {
        let output = command_in(&world.router(), "cat").arg(file).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let v4 = read("/proc/net/snmp");
    let mut lines = v4.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let fails = names.zip(values).find(|(name, _)| *name == "FragFails").unwrap().1;
    let v6 = read("/proc/net/snmp6");
    let too_big = v6.lines().find_map(|line| line.strip_prefix("Ip6InTooBigErrors")).unwrap().trim();
    fails.parse::<u64>().unwrap() + too_big.parse::<u64>().unwrap()
}

/// Much of data both ways, with the small hop before the far subnet.
fn survives(from: std::net::Ipv4Addr, target: std::net::Ipv4Addr, node: &Node, world: &World) {
    for (balancer, target) in
        [(IpAddr::from(BALANCER), IpAddr::from(target)), (ipv6(BALANCER).into(), ipv6(target).into())]
    {
        node.apply(plan(balancer, target));
        let stream = dial(world, from, balancer, PORT).unwrap();
        pour(&stream, 100_000).unwrap();
        let before = refused(world);
        ip(&world.router(), &format!("link set {} mtu {SMALL}", World::bridge(2)));
        let poured = pour(&stream, 4_000_000);
        assert!(poured.is_ok(), "{from} by {balancer}: {poured:?}: {:#?}", node.counters());
        assert!(refused(world) > before, "{from} by {balancer}: no packet was too big for the hop");
        // And a connection that begins behind the small hop.
        pour(&dial(world, from, balancer, PORT).unwrap(), 1_000_000).unwrap();
        ip(&world.router(), &format!("link set {} mtu 1500", World::bridge(2)));
    }
}

#[test]
fn much_data_survives_a_small_hop_before_the_target() {
    let world = World::new();
    echo_streams(&world, FAR, TARGET_PORT);
    echo_streams(&world, ipv6(FAR), TARGET_PORT);
    let node = world.start_node();
    survives(CLIENT, FAR, &node, &world);
}

#[test]
fn much_data_survives_a_small_hop_before_the_client() {
    let world = World::new();
    echo_streams(&world, NEAR, TARGET_PORT);
    echo_streams(&world, ipv6(NEAR), TARGET_PORT);
    let node = world.start_node();
    survives(FAR_CLIENT, NEAR, &node, &world);
}

/// Enough for IPv6, and less than a frame.
const SMALL: u32 = 1_300;
