//! Where a VPC's resolver is reached, and whom it reaches.

use std::{io, net::SocketAddr, time::Duration};

use gatehouse_tests::lab::netns::command_in;
use lb_userspace::network::namespace::within;
use socket2::{Domain, Socket, Type};

use super::{
    reach::{assert_unreachable, world_routes},
    world::{Vpc, World, connect, listen, seen_as},
};

const VPC: Vpc = Vpc(0);
const RESOLVER: &str = "10.0.0.2:53";

/// With the resolver in no subnet, and with it in the subnet of a neighbour.
fn worlds() -> [(World, Option<String>); 2] {
    [false, true].map(|has_subnet| {
        let mut world = World::new();
        world.add_vpc(&VPC);
        world.give_resolver(&VPC);
        let neighbour = has_subnet.then(|| world.add_subnet_of_resolver(&VPC));
        world.apply();
        (world, neighbour)
    })
}

#[test]
fn the_resolver_is_reached_from_every_subnet_and_from_nowhere_outside() {
    for (mut world, neighbour) in worlds() {
        // Security groups have no say in it.
        world.slice.security_groups.get_mut(&VPC.group()).unwrap().egress.clear();
        world.apply();
        let listener = listen(&world.node(&VPC), RESOLVER);
        assert_eq!(seen_as(&world.link(&VPC), &listener).to_string(), "10.0.1.5");
        assert_eq!(seen_as(&world.machine(&VPC), &listener).to_string(), "10.0.2.6");
        if let Some(neighbour) = neighbour {
            assert_eq!(seen_as(&neighbour, &listener).to_string(), "10.0.0.7");
        }
        world.internet.ip("route add 10.0.0.0/16 via 192.0.2.10").unwrap();
        assert_unreachable(world.internet.name(), RESOLVER);
        // That is about DNS and nothing else.
        let _other = listen(&world.node(&VPC), "10.0.0.2:54");
        assert_unreachable(&world.machine(&VPC), "10.0.0.2:54");
    }
}

#[test]
fn only_what_has_the_resolvers_address_leaves_by_it() {
    for (world, _) in worlds() {
        let node = world.node(&VPC);
        let own = world_routes(&node, "10.0.0.2");
        assert!(own.contains("via 10.0.0.1 dev resolver"), "{own}");
        for to in ["10.0.9.9", "10.0.0.7", "192.0.2.1"] {
            let output = command_in(&node, "ip").args(["route", "get", to]).output().unwrap();
            let route = String::from_utf8(output.stdout).unwrap();
            assert!(route.contains("dev eni-") && !route.contains("resolver"), "{to}: {route}");
        }
    }
}

#[test]
fn the_resolver_asks_the_servers_that_are_configured_and_nobody_else() {
    for (world, _) in worlds() {
        let node = world.node(&VPC);
        let server = listen(world.internet.name(), "192.0.2.1:53");
        let _other = listen(world.internet.name(), "192.0.2.1:54");
        connect_from(&node, "10.0.0.2", "192.0.2.1:53").unwrap();
        assert_eq!(server.accept().unwrap().1.ip().to_string(), "192.0.2.10");
        connect_from(&node, "10.0.0.2", "192.0.2.1:54").unwrap_err();
        connect_from(&node, "10.0.1.4", "192.0.2.1:53").unwrap_err();
        assert_unreachable(&world.machine(&VPC), "192.0.2.1:53");
        // A server inside the VPC is asked as any machine is.
        let inside = listen(&world.link(&VPC), "10.0.1.5:53");
        connect_from(&node, "10.0.0.2", "10.0.1.5:53").unwrap();
        assert_eq!(inside.accept().unwrap().1.ip().to_string(), "10.0.0.2");
    }
}

#[test]
fn a_subnet_made_around_the_resolver_takes_it_in() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world.give_resolver(&VPC);
    world.apply();
    let listener = listen(&world.node(&VPC), RESOLVER);
    seen_as(&world.link(&VPC), &listener);
    let neighbour = world.add_subnet_of_resolver(&VPC);
    world.apply();
    // The socket is the same; only what is under its address was made anew.
    seen_as(&world.link(&VPC), &listener);
    seen_as(&neighbour, &listener);
}

#[test]
fn resolvers_of_vpcs_with_the_same_addresses_do_not_meet() {
    let (one, two) = (Vpc(0), Vpc(1));
    let mut world = World::new();
    for vpc in [&one, &two] {
        world.add_vpc(vpc);
        world.give_resolver(vpc);
    }
    world.apply();
    let listener = listen(&world.node(&one), RESOLVER);
    seen_as(&world.link(&one), &listener);
    let refused = connect(&world.link(&two), RESOLVER).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

/// Connects from an address that a namespace has.
fn connect_from(namespace: &str, source: &str, to: &str) -> io::Result<()> {
    let source: SocketAddr = format!("{source}:0").parse().unwrap();
    let to: SocketAddr = to.parse().unwrap();
    within(namespace, || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&source.into())?;
        socket.connect_timeout(&to.into(), Duration::from_millis(1_500))
    })
    .unwrap()
}
