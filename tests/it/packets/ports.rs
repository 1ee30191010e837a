//! More flows to one target than one address has ports for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use gatehouse_tests::lab::wait::Wait;
use lb_userspace::model::network::InterfaceOwner;
use lb_userspace::network::namespace;
use lb_userspace::packet::{Limits, ListenerName, Options, Plan, Protocol};
use lb_userspace::snapshot::names;

use super::world::{
    BALANCER, CLIENT, NEAR, Node, PORT, TARGET_PORT, World, balancer_arn, interface_id, plan,
};

/// A further address of the load balancer.
const MORE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 5);
/// A further address of the client.
const CLIENT_TOO: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 31);
/// Of each of the client's addresses, from the first that NAT keeps.
const PORTS: std::ops::Range<u16> = 1_024..29_024;

/// A UDP listener with one target, which is reached from both addresses.
fn plan_with_both() -> Plan {
    let mut plan = plan(&[NEAR]);
    let node = plan.nodes.values_mut().next().unwrap();
    node.secondary = [(MORE.into(), names::device(&interface_id(MORE)))].into();
    let listeners = std::mem::take(&mut node.listeners);
    let name = ListenerName { address: BALANCER.into(), port: PORT, protocol: Protocol::Udp };
    node.listeners = listeners.into_values().map(|listener| (name, listener)).collect();
    plan
}

/// Flows by the address that they reach the target from.
fn flows(node: &Node) -> BTreeMap<IpAddr, u64> {
    node.counters().targets.iter().map(|target| (target.via, target.counters.new_flows)).collect()
}

#[test]
fn one_target_takes_more_flows_than_one_address_has_ports_for() {
    let mut world = World::new();
    world.add_interface(MORE, InterfaceOwner::LoadBalancer(balancer_arn()));
    world.apply();
    let machine = world.machine(CLIENT);
    let device = names::device(&interface_id(CLIENT));
    let add = ["-n", &machine, "address", "add", "10.0.1.31/24", "dev", &device];
    assert!(Command::new("ip").args(add).status().unwrap().success());
    // It reads nothing, and answers nothing.
    let _target = namespace::within(&world.machine(NEAR), || UdpSocket::bind((NEAR, TARGET_PORT))).unwrap();

    let limits = Limits { new_flows_per_s: Some(10_000_000), new_flows_per_source: None };
    let node = world.start_node_with(Options { limits, ..Options::default() });
    node.apply(plan_with_both());
    let wanted = 2 * u64::try_from(PORTS.len()).unwrap();
    assert!(wanted > 55_000);
    // What finds no port, or is lost in a full queue, is sent again, as clients do.
    let sent = || {
        let send = || {
            for (client, port) in
                [CLIENT, CLIENT_TOO].into_iter().flat_map(|own| PORTS.map(move |port| (own, port)))
            {
                let socket = UdpSocket::bind((client, port))?;
                socket.send_to(b"?", (BALANCER, PORT))?;
            }
            Ok::<_, std::io::Error>(())
        };
        namespace::within(&machine, send).unwrap().unwrap();
        let flows = flows(&node);
        Ok((flows.values().sum::<u64>() >= wanted).then_some(flows))
    };
    let flows = Wait::default()
        .until("a flow for each of the clients' ports", Duration::from_secs(60), sent)
        .unwrap();
    let most = flows.values().max().unwrap();
    assert!(flows.len() == 2 && *most < 48_128, "{flows:?}");
}
