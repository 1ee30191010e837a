//! Who may connect to whom: links dial out, nothing comes in, security groups hold, and VPCs do not know each other.

use std::io::ErrorKind;

use super::world::{Vpc, World, connect, listen, permit_tcp, seen_as};

const VPC: Vpc = Vpc(0);

/// Refused by a filter: no answer, or an answer that there is no way.
fn is_unreachable(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::PermissionDenied
    )
}

pub(super) fn assert_unreachable(from: &str, to: &str) {
    match connect(from, to) {
        Ok(_) => panic!("{from} connected to {to}"),
        Err(error) => assert!(is_unreachable(error.kind()), "{from} to {to}: {error}"),
    }
}

#[test]
fn a_link_dials_out_as_its_vpcs_one_address() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world.apply();
    let listener = listen(world.internet.name(), "192.0.2.1:8443");
    assert_eq!(seen_as(&world.link(&VPC), &listener).to_string(), "192.0.2.10");
}

#[test]
fn only_links_dial_out() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world.apply();
    let _listener = listen(world.internet.name(), "192.0.2.1:8443");
    assert_unreachable(&world.machine(&VPC), "192.0.2.1:8443");
    assert_unreachable(&world.node(&VPC), "192.0.2.1:8443");
}

#[test]
fn nothing_outside_connects_in_even_if_it_knows_the_way() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world.apply();
    world.internet.ip("route add 10.0.0.0/16 via 192.0.2.10").unwrap();
    // Only the edge can be what refuses.
    let open = permit_tcp(80, "0.0.0.0/0");
    world.slice.security_groups.get_mut(&VPC.group()).unwrap().ingress.push(open);
    world.apply();
    let _listeners = [
        listen(&world.machine(&VPC), "10.0.2.6:80"),
        listen(&world.node(&VPC), "10.0.1.4:80"),
        listen(&world.link(&VPC), "10.0.1.5:80"),
        listen(&world.vpc(&VPC), "0.0.0.0:80"),
    ];
    for address in ["10.0.2.6:80", "10.0.1.4:80", "10.0.1.5:80", "10.0.1.1:80", "192.0.2.10:80"] {
        assert_unreachable(world.internet.name(), address);
    }
    // And each of them would have answered from inside.
    for address in ["10.0.2.6:80", "10.0.1.4:80", "10.0.1.1:80"] {
        connect(&world.link(&VPC), address).unwrap();
    }
}

#[test]
fn a_machine_admits_whom_its_security_groups_admit_and_nobody_else() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world.apply();
    let (machine, link, node) = (world.machine(&VPC), world.link(&VPC), world.node(&VPC));
    let _listeners = [listen(&machine, "10.0.2.6:80"), listen(&machine, "10.0.2.6:81")];
    connect(&link, "10.0.2.6:80").unwrap();
    assert_unreachable(&link, "10.0.2.6:81");
    assert_unreachable(&node, "10.0.2.6:80");
    let group = world.slice.security_groups.get_mut(&VPC.group()).unwrap();
    group.ingress = vec![permit_tcp(81, "10.0.0.0/16")];
    world.apply();
    connect(&node, "10.0.2.6:81").unwrap();
    assert_unreachable(&link, "10.0.2.6:80");
}

#[test]
fn a_machine_without_egress_permits_only_answers() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world.slice.security_groups.get_mut(&VPC.group()).unwrap().egress.clear();
    world.apply();
    let listener = listen(&world.machine(&VPC), "10.0.2.6:80");
    seen_as(&world.link(&VPC), &listener);
    let _elsewhere = listen(&world.node(&VPC), "10.0.1.4:80");
    assert_unreachable(&world.machine(&VPC), "10.0.1.4:80");
}

#[test]
fn vpcs_with_the_same_addresses_do_not_meet() {
    let (one, two) = (Vpc(0), Vpc(1));
    let mut world = World::new();
    world.add_vpc(&one);
    world.add_vpc(&two);
    world.apply();
    let listener = listen(&world.machine(&one), "10.0.2.6:80");
    seen_as(&world.link(&one), &listener);
    // Same address, another VPC, nobody listening there.
    assert_eq!(connect(&world.link(&two), "10.0.2.6:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let outside = listen(world.internet.name(), "192.0.2.1:8443");
    assert_eq!(seen_as(&world.link(&one), &outside).to_string(), "192.0.2.10");
    assert_eq!(seen_as(&world.link(&two), &outside).to_string(), "192.0.2.11");
}

#[test]
fn a_load_balancer_answers_from_the_subnet_it_was_asked_in() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world.apply();
    let (node, link) = (world.node(&VPC), world.link(&VPC));
    // One of its addresses is beside the link, the other behind the router.
    for address in ["10.0.1.4:80", "10.0.2.4:80"] {
        let listener = listen(&node, address);
        assert_eq!(seen_as(&link, &listener).to_string(), "10.0.1.5");
    }
    let routes = world_routes(&node, "10.0.2.4");
    assert!(routes.contains("via 10.0.2.1 dev eni-24-000000a0"), "{routes}");
}

pub(super) fn world_routes(namespace: &str, source: &str) -> String {
    let mut ip = gatehouse_tests::lab::netns::command_in(namespace, "ip");
    let output = ip.args(["route", "get", "10.0.9.9", "from", source]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
