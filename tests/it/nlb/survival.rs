//! What no kill and no start of an appliance may cost: data of connections that stand.

use std::fs;
use std::path::PathBuf;

use gatehouse_tests::lab::Lab;
use lb_common::abi::ABI_VERSION;
use serde_json::json;

use super::world::{Balancer, TRAFFIC_PORT, World, ask, at, until, until_it_ends};
use crate::packets::sockets::{echo_datagrams_within, echo_streams_within};
use crate::packets::traffic::Traffic;
use crate::whole::roles::crash;

/// A load balancer over targets that send back.
fn balanced(world: &World) -> Balancer {
    let balancer = world.balancer("edge", json!({}));
    let cross = ("load_balancing.cross_zone.enabled", "true");
    let group = world.group("web", &[cross], json!({"Protocol": "TCP_UDP"}));
    world.register(&group);
    world.listener(&balancer, "TCP_UDP", 80, &group);
    (0..2).for_each(|target| world.until_state(&group, target, "healthy"));
    until("the first connection", || world.connect(at(balancer.addresses[0], 80)).is_ok());
    balancer
}

#[test]
fn killed_nodes_break_nothing_that_carries_data() {
    let mut world = World::start();
    for target in &world.targets {
        let own = at(target.address, TRAFFIC_PORT);
        echo_streams_within(&target.namespace, own);
        echo_datagrams_within(&target.namespace, own);
    }
    let balancer = balanced(&world);
    let to: Vec<_> = balancer.addresses.iter().cycle().take(6).map(|address| at(*address, 80)).collect();
    let traffic = Traffic::streams(&world.client.namespace, &to).datagrams(&world.client.namespace, &to);
    traffic.goes_on("at first");
    for role in ["node", "control", "node", "host", "node"] {
        crash(&mut world.lab, role);
        traffic.goes_on(&format!("after a kill of {role}"));
    }
    traffic.stop();
}

#[test]
fn a_load_balancer_that_becomes_dual_stack_and_back_breaks_nothing() {
    let world = World::start();
    for target in &world.targets {
        let own = at(target.address, TRAFFIC_PORT);
        echo_streams_within(&target.namespace, own);
        echo_datagrams_within(&target.namespace, own);
    }
    let balancer = balanced(&world);
    let to = balancer.addresses.map(|address| at(address, 80));
    let traffic = Traffic::streams(&world.client.namespace, &to).datagrams(&world.client.namespace, &to);
    traffic.goes_on("at first");
    for kind in ["dualstack", "ipv4", "dualstack"] {
        let input = json!({"LoadBalancerArn": balancer.arn, "IpAddressType": kind});
        world.must("elbv2", "SetIpAddressType", input);
        let addresses = world.addresses6("edge");
        assert_eq!(addresses.len(), if kind == "ipv4" { 0 } else { 2 });
        for address in addresses {
            until("a connection by IPv6", || world.connect(at(address, 80)).is_ok());
        }
        traffic.goes_on(&format!("as {kind}"));
    }
    traffic.stop();
}

#[test]
fn an_appliance_that_finds_maps_of_another_version_says_so_and_serves() {
    let mut world = World::start();
    world.serve();
    let balancer = balanced(&world);
    let listener = at(balancer.addresses[0], 80);
    let mut old = world.connect(listener).unwrap();
    ask(&mut old).unwrap();
    world.lab.appliance().stop().unwrap();
    assert!(ask(&mut old).is_ok(), "nobody is there, and packets flow");
    let maps = pins(&world.lab).join(format!("v{ABI_VERSION}"));
    let older = maps.with_file_name(format!("v{}", ABI_VERSION - 1));
    fs::rename(&maps, &older).unwrap();
    world.lab.start_again().unwrap();
    until_it_ends("a connection of the other version's maps", &mut old);
    until("a connection again", || world.who(listener).is_ok());
    assert!(!older.exists());
    let log = world.lab.appliance().log();
    assert!(log.contains("removing maps of another version; their flows end"), "{log}");
}

/// Where the node of the one VPC keeps its pins.
fn pins(lab: &Lab) -> PathBuf {
    let all = PathBuf::from("/sys/fs/bpf").join(format!("gatehouse-{}", lab.name()));
    let mut vpcs = fs::read_dir(&all).unwrap().flatten().map(|entry| entry.path());
    vpcs.find(|path| path.join("links").exists()).unwrap_or_else(|| panic!("no pins in {}", all.display()))
}
