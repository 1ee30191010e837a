//! IPv6 in a VPC, and the ways of answers that go by load balancers.

use std::io::{Read, Write};
use std::net::Ipv6Addr;

use gatehouse_tests::lab::netns::command_in;
use lb_userspace::{
    model::{id::VpcId, network::InterfaceOwner},
    snapshot::{host::ReturnPath, permit::TCP},
};

use super::world::{Vpc, World, connect, listen, permit_tcp, seen_as};

const VPC: Vpc = Vpc(0);

/// Gives every subnet and interface IPv6: `10.0.2.6` is `fd00:0:0:2::6` too.
fn add_ipv6(world: &mut World) {
    for subnet in world.slice.subnets.values_mut() {
        let [.., number, _] = subnet.router.octets();
        subnet.ipv6 = Some(format!("fd00:0:0:{number}::/64").parse().unwrap());
    }
    for interface in world.slice.interfaces.values_mut() {
        let [.., number, host] = interface.address.octets();
        interface.ipv6 = Some(format!("fd00:0:0:{number}::{host}").parse::<Ipv6Addr>().unwrap());
    }
}

fn remove_ipv6(world: &mut World) {
    world.slice.subnets.values_mut().for_each(|subnet| subnet.ipv6 = None);
    world.slice.interfaces.values_mut().for_each(|interface| interface.ipv6 = None);
}

#[test]
fn security_groups_hold_for_ipv6_as_for_ipv4() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    add_ipv6(&mut world);
    world.apply();
    let machine = world.machine(&VPC);
    let listener = listen(&machine, "[fd00:0:0:2::6]:80");
    connect(&world.link(&VPC), "[fd00:0:0:2::6]:80").expect_err("admitted by IPv4 alone");
    world
        .slice
        .security_groups
        .get_mut(&VPC.group())
        .unwrap()
        .ingress
        .push(permit_tcp(80, "fd00:0:0:1::5/128"));
    world.apply();
    assert_eq!(seen_as(&world.link(&VPC), &listener).to_string(), "fd00:0:0:1::5");
    connect(&world.node(&VPC), "[fd00:0:0:2::6]:80").expect_err("not admitted");
}

#[test]
fn a_load_balancer_answers_ipv6_from_the_subnet_it_was_asked_in() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    add_ipv6(&mut world);
    world.apply();
    for address in ["[fd00:0:0:1::4]:80", "[fd00:0:0:2::4]:80"] {
        let listener = listen(&world.node(&VPC), address);
        assert_eq!(seen_as(&world.link(&VPC), &listener).to_string(), "fd00:0:0:1::5");
        // What a node sends to itself stays inside.
        connect(&world.node(&VPC), address).unwrap();
    }
    let route = route_of(&world.node(&VPC), "-6 route get fd00:9::9 from fd00:0:0:2::4");
    assert!(route.contains("via fd00:0:0:2::1 dev eni-24-000000a0"), "{route}");
}

#[test]
fn ipv6_comes_and_goes_under_ipv4_connections() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world.apply();
    let listener = listen(&world.node(&VPC), "10.0.2.4:80");
    let mut near = connect(&world.link(&VPC), "10.0.2.4:80").unwrap();
    let mut far = listener.accept().unwrap().0;
    let mut talk = || {
        near.write_all(b"still there").unwrap();
        let mut heard = [0; 11];
        far.read_exact(&mut heard).unwrap();
    };
    talk();
    add_ipv6(&mut world);
    assert!(world.apply().done > 0);
    talk();
    let there = listen(&world.node(&VPC), "[fd00:0:0:2::4]:80");
    seen_as(&world.link(&VPC), &there);
    remove_ipv6(&mut world);
    assert!(world.apply().done > 0);
    talk();
    connect(&world.link(&VPC), "[fd00:0:0:2::4]:80").unwrap_err();
    let rules = route_of(&world.node(&VPC), "-6 rule");
    assert!(!rules.contains("fd00:"), "{rules}");
}

/// The machine's port 80 is a target that sees its clients.
fn return_answers(world: &mut World) {
    let balancers = world.slice.interfaces.values().filter_map(|own| match &own.owner {
        InterfaceOwner::LoadBalancer(arn) => Some(arn.clone()),
        _ => None,
    });
    let load_balancer = balancers.into_iter().next().unwrap();
    let instance = world.slice.instances.values().next().unwrap().address;
    let own = world.slice.interfaces.values().find(|own| own.address == instance).unwrap();
    let paths: Vec<_> = own_addresses(own)
        .map(|address| ReturnPath {
            vpc_id: VpcId::clone(&own.vpc_id),
            address,
            protocol: TCP,
            port: 80,
            load_balancer: load_balancer.clone(),
        })
        .collect();
    world.slice.returns.extend(paths);
}

fn own_addresses(
    own: &lb_userspace::snapshot::host::HostInterface,
) -> impl Iterator<Item = std::net::IpAddr> {
    [Some(own.address.into()), own.ipv6.map(Into::into)].into_iter().flatten()
}

fn route_of(namespace: &str, words: &str) -> String {
    let output = command_in(namespace, "ip").args(words.split_whitespace()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// How a machine's answer to the link leaves it.
fn way(world: &World, port: u16) -> [String; 2] {
    let of = |family: &str, to: &str, from: &str| {
        let question = format!("{family} route get {to} from {from} ipproto tcp sport {port}");
        let route = route_of(&world.machine(&VPC), &question);
        let mut words = route.split_whitespace().skip_while(|word| *word != "via");
        words.nth(1).unwrap_or_default().to_owned()
    };
    [of("-4", "10.0.1.5", "10.0.2.6"), of("-6", "fd00:0:0:1::5", "fd00:0:0:2::6")]
}

#[test]
fn answers_of_targets_that_see_clients_go_by_the_load_balancer_and_only_theirs() {
    let mut world = World::new();
    world.add_vpc(&VPC);
    add_ipv6(&mut world);
    world.apply();
    let (router, balancer) = (["10.0.2.1", "fd00:0:0:2::1"], ["10.0.2.4", "fd00:0:0:2::4"]);
    assert_eq!(way(&world, 80), router);
    return_answers(&mut world);
    world.apply();
    assert_eq!(way(&world, 80), balancer);
    assert_eq!(way(&world, 81), router);
    // A client of nobody but the machine is answered too: the node sends it on.
    let listener = listen(&world.machine(&VPC), "10.0.2.6:80");
    assert_eq!(seen_as(&world.link(&VPC), &listener).to_string(), "10.0.1.5");
    // A driver that starts anew knows nothing, and changes nothing.
    let rules = || route_of(&world.machine(&VPC), "rule") + &route_of(&world.machine(&VPC), "-6 rule");
    let before = rules();
    world.apply();
    assert_eq!(rules(), before);
    world.slice.returns.clear();
    world.apply();
    assert_eq!(way(&world, 80), router);
}
