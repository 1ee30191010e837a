//! A dual-stack load balancer with a listener of each kind, all made by boto3.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::world::{Balancer, World, at, until};
use crate::packets::quic_peer::{Client, ServerId, serve_quic};
use crate::packets::sockets::{Talker, echo_datagrams_within};

/// A QuicServerId, and what connection ids have of it.
const SERVERS: [(&str, ServerId); 2] = [
    ("0x1122334455667788", [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
    ("0x99aabbccddeeff00", [0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x00]),
];
const CROSS: (&str, &str) = ("load_balancing.cross_zone.enabled", "true");

fn dual(world: &World, more: Value) -> Balancer {
    let mut input = json!({"IpAddressType": "dualstack"});
    for (key, value) in more.as_object().unwrap() {
        input[key] = value.clone();
    }
    let balancer = world.balancer("edge", input);
    assert_eq!(balancer.ipv6.len(), 2, "an address of each family in each zone");
    balancer
}

/// All addresses of a load balancer.
fn everywhere(balancer: &Balancer, port: u16) -> Vec<SocketAddr> {
    let fours = balancer.addresses.iter().copied().map(IpAddr::from);
    fours.chain(balancer.ipv6.iter().copied().map(IpAddr::from)).map(|own| at(own, port)).collect()
}

#[test]
fn clients_and_targets_of_both_families_find_each_other() {
    let world = World::start();
    world.serve();
    for target in &world.targets {
        for own in [IpAddr::from(target.address), target.ipv6.into()] {
            echo_datagrams_within(&target.namespace, at(own, super::world::TRAFFIC_PORT));
        }
    }
    let balancer = dual(&world, json!({}));
    let both = json!({"Protocol": "TCP_UDP"});
    let six = json!({"Protocol": "TCP_UDP", "IpAddressType": "ipv6"});
    for (name, more, port) in [("four", both, 80), ("six", six, 81)] {
        let group = world.group(name, &[CROSS], more);
        world.register(&group);
        world.listener(&balancer, "TCP_UDP", port, &group);
        (0..2).for_each(|target| world.until_state(&group, target, "healthy"));
        for listener in everywhere(&balancer, port) {
            world.until_found(listener, &[0, 1]);
            let answered = Talker::within(&world.client.namespace, listener).ask(b"who?").unwrap();
            let is_known = |one: &super::world::Machine| {
                answered == if name == "four" { IpAddr::from(one.address) } else { one.ipv6.into() }
            };
            assert!(world.targets.iter().any(is_known), "{answered} by {listener}");
        }
    }
}

#[test]
fn quic_clients_that_move_keep_the_target_that_its_quic_server_id_names() {
    let world = World::start();
    world.serve();
    for (target, (_, id)) in world.targets.iter().zip(SERVERS) {
        serve_quic(&target.namespace, at(target.address, super::world::TRAFFIC_PORT), id);
    }
    // AWS has QUIC neither on dual-stack load balancers nor with security groups.
    let guard = json!({"GroupName": "edge", "Description": "edge", "VpcId": world.vpc});
    let guard = world.must("ec2", "CreateSecurityGroup", guard)["GroupId"].clone();
    let from = json!([{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/16"}],
        "Ipv6Ranges": [{"CidrIpv6": "fd00:10::/56"}]}]);
    world.must("ec2", "AuthorizeSecurityGroupIngress", json!({"GroupId": guard, "IpPermissions": from}));
    let balancer = dual(&world, json!({"SecurityGroups": [guard]}));
    let group = world.group("web", &[CROSS], json!({"Protocol": "TCP_QUIC"}));
    let targets: Vec<Value> = world
        .targets
        .iter()
        .zip(SERVERS)
        .map(|(one, (id, _))| json!({"Id": one.id, "QuicServerId": id}))
        .collect();
    world.must("elbv2", "RegisterTargets", json!({"TargetGroupArn": group, "Targets": targets}));
    world.listener(&balancer, "TCP_QUIC", 443, &group);
    (0..2).for_each(|target| world.until_state(&group, target, "healthy"));
    for listener in everywhere(&balancer, 443) {
        world.until_found(listener, &[0, 1]);
        let mut connected = None;
        until("QUIC connection", || {
            let client = Client::new(&world.client.namespace, listener);
            connected = client.connect(listener).ok().map(|connection| (client, connection));
            connected.is_some()
        });
        let (client, connection) = connected.unwrap();
        let target = client.ask(&connection).unwrap();
        // From the client's machine to another's, in another zone, and back.
        for machine in [&world.targets[1], &world.client, &world.client] {
            client.move_to(&machine.namespace);
            assert_eq!(client.ask(&connection).unwrap(), target, "by {listener}");
        }
    }
}
