//! Targets beyond another of the host's interfaces than the load balancer's address is on: packets come in by one and leave
//! by the other.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
};

use gatehouse_tests::lab::wait::Wait;
use lb_userspace::network::namespace;
use serde_json::json;

use super::world::{PATIENCE, Vpc, World};

/// The target's address on the host's other network.
const BEYOND: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 60);
/// One behind it.
const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 0, 7, 7);
const CLIENT: &str = "10.0.1.50";

/// A host that may use both interfaces; the target is on the other one's network alone, and has its routes by the host.
fn world() -> World {
    let mut world = World::new();
    for words in ["link set eth0 down", "address add 10.0.7.7/32 dev lo", "route add default via 10.0.2.10"] {
        world.target.ip(words).unwrap();
    }
    world.host.ip("route add 10.0.7.0/24 via 10.0.2.60").unwrap();
    world.start(&["eth1", "eth2"]);
    for address in [BEYOND, BEHIND] {
        serve(&world, address);
    }
    world
}

/// A server on the target that answers each byte with as whom it sees its client.
fn serve(world: &World, address: Ipv4Addr) {
    let at = SocketAddr::from((address, 80));
    let listener = namespace::within(world.target.name(), || TcpListener::bind(at)).unwrap().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let client = stream.peer_addr().unwrap().ip().to_string();
                let reply = [&[u8::try_from(client.len()).unwrap()], client.as_bytes()].concat();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&reply).is_ok() {}
            });
        }
    });
}

#[test]
fn a_target_on_another_of_the_hosts_networks_is_reached_by_its_interface() {
    let world = world();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer_to("web", json!({"SubnetId": subnet}), 80, BEYOND);
    let address = balancer.address(&vpc.aws);
    assert_eq!(world.answered(address, 80), address.to_string());
    assert_eq!((world.program("eth1"), world.program("eth2")), (Some("native"), Some("native")));
    let healthy = || {
        let health =
            vpc.aws.call("elbv2", "DescribeTargetHealth", json!({"TargetGroupArn": balancer.group}))?;
        Ok((health["TargetHealthDescriptions"][0]["TargetHealth"]["State"] == "healthy").then_some(()))
    };
    Wait::default().until("healthy target beyond the host", PATIENCE, healthy).unwrap();
    // Nothing but the program carries packets from one network to the other.
    let forwarding = world.host.command("cat").arg("/proc/sys/net/ipv4/ip_forward").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&forwarding.stdout).trim(), "0");
    // The host's own addresses on both are as they were.
    assert_eq!(world.addresses("eth2"), ["10.0.2.10/24"]);
}

#[test]
fn a_target_behind_a_router_is_reached_as_the_hosts_routes_say_and_follows_them() {
    let world = world();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer_to("web", json!({"SubnetId": subnet}), 80, BEHIND);
    let address = balancer.address(&vpc.aws);
    assert_eq!(world.answered(address, 80), address.to_string());
    let reaches = |is_so: bool| {
        let what = if is_so { "answer by the route" } else { "silence without the route" };
        let asked = || {
            let answer = world.connect(address, 80).and_then(|mut connection| connection.ask());
            Ok((answer.is_ok() == is_so).then_some(()))
        };
        Wait::default().until(what, PATIENCE, asked).unwrap();
    };
    world.host.ip("route del 10.0.7.0/24").unwrap();
    reaches(false);
    world.host.ip("route add 10.0.7.0/24 via 10.0.2.60").unwrap();
    reaches(true);
}

#[test]
fn a_client_keeps_its_address_where_the_targets_routes_lead_back_by_the_host() {
    let world = world();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer_to("web", json!({"SubnetId": subnet}), 80, BEYOND);
    let address = balancer.address(&vpc.aws);
    // Off by default here, where nobody but the operator knows the targets' routes.
    assert_eq!(world.answered(address, 80), address.to_string());
    let on = json!([{"Key": "preserve_client_ip.enabled", "Value": "true"}]);
    let input = json!({"TargetGroupArn": balancer.group, "Attributes": on});
    vpc.aws.call("elbv2", "ModifyTargetGroupAttributes", input).unwrap();
    let seen = || {
        let answer = world.connect(address, 80).and_then(|mut connection| connection.ask()).ok();
        Ok(answer.filter(|seen| seen == CLIENT))
    };
    Wait::default().until("target that sees the client", PATIENCE, seen).unwrap();
}
