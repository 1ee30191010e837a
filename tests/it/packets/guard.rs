//! Security groups over real sockets: nothing is allocated for whom they do not admit, and a change is for new flows.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

use lb_common::abi::DropReason;
use lb_userspace::packet::{ListenerPlan, Plan, Protocol};

use super::plans::{self, at, healthy, listener};
use super::raw::Raw;
use super::sockets::{Talker, echo_datagrams};
use super::world::{BALANCER, CLIENT, FAR_CLIENT, NEAR, Node, PORT, TARGET_PORT, World, ipv6};

/// TCP and UDP of both families, for these ranges.
fn plan(sources: &[&str]) -> Plan {
    let listeners = [IpAddr::from(BALANCER), ipv6(BALANCER).into()].into_iter().flat_map(|address| {
        let of = move |range: &&&str| address.is_ipv4() != range.contains(':');
        let sources = sources.iter().filter(of).map(|range| range.parse().unwrap()).collect();
        let listener = ListenerPlan {
            sources: Some(sources),
            ..if address.is_ipv4() { listener(healthy(&[NEAR])) } else { listener(healthy(&[ipv6(NEAR)])) }
        };
        [Protocol::Tcp, Protocol::Udp].map(|protocol| (at(address, PORT, protocol), listener.clone()))
    });
    plans::node(listeners.collect::<Vec<_>>())
}

fn world() -> World {
    let world = World::new();
    for address in [IpAddr::from(NEAR), ipv6(NEAR).into()] {
        world.serve(address);
        echo_datagrams(&world, address, TARGET_PORT);
    }
    world
}

fn balancers() -> [IpAddr; 2] {
    [BALANCER.into(), ipv6(BALANCER).into()]
}

fn is_admitted(world: &World, from: Ipv4Addr) {
    for balancer in balancers() {
        let target = if balancer.is_ipv4() { IpAddr::from(NEAR) } else { ipv6(NEAR).into() };
        assert_eq!(world.connect(from, balancer, PORT).unwrap().ask().unwrap(), target);
        assert_eq!(Talker::new(world, from, balancer, PORT).ask(b"in?").unwrap(), target);
    }
}

fn is_denied(world: &World, from: Ipv4Addr) {
    for balancer in balancers() {
        let refused = world.connect(from, balancer, PORT).err().map(|error| error.kind());
        assert_eq!(refused, Some(ErrorKind::TimedOut), "{from} by {balancer}");
        let silence = Talker::new(world, from, balancer, PORT).ask(b"in?").unwrap_err();
        assert_eq!(silence.kind(), ErrorKind::WouldBlock, "{from} by {balancer}");
    }
}

fn blocked(node: &Node) -> u64 {
    node.counters().listeners.iter().map(|listener| listener.counters.blocked).sum()
}

#[test]
fn nothing_is_allocated_for_whom_no_group_admits() {
    let world = world();
    let node = world.start_node();
    node.apply(plan(&["10.0.1.30/32", "fd00:0:0:1::30/128"]));
    is_denied(&world, FAR_CLIENT);
    let raw = Raw::new(&world, CLIENT);
    for port in 0..1_000 {
        raw.syn(port % 199, 1_024 + port, BALANCER, PORT);
        raw.datagram(port % 199, 1_024 + port, BALANCER, PORT);
    }
    let counters = node.counters();
    assert!(blocked(&node) >= 2_004 && node.drops(DropReason::SecurityGroup) >= 2_004, "{counters:#?}");
    let began: u64 =
        counters.listeners.iter().map(|one| one.counters.new_flows + one.counters.rejected).sum();
    assert_eq!(began, 0, "{counters:#?}");
    node.after_a_census();
    assert_eq!(node.counters().flow_entries, 0, "{:#?}", node.counters());
    is_admitted(&world, CLIENT);
}

#[test]
fn a_change_is_for_new_flows_at_once_and_conversations_go_on() {
    let world = world();
    let node = world.start_node();
    node.apply(plan(&["10.0.1.0/24", "fd00:0:0:1::/64"]));
    is_admitted(&world, CLIENT);
    is_denied(&world, FAR_CLIENT);
    let mut streams: Vec<_> =
        balancers().into_iter().map(|balancer| world.connect(CLIENT, balancer, PORT).unwrap()).collect();
    for stream in &mut streams {
        stream.ask().unwrap();
    }
    node.apply(plan(&["10.0.2.0/24", "fd00:0:0:2::/64"]));
    is_admitted(&world, FAR_CLIENT);
    is_denied(&world, CLIENT);
    for stream in &mut streams {
        stream.ask().unwrap();
    }
    // A group without rules admits nobody; everybody is let in where there is none.
    node.apply(plan(&[]));
    is_denied(&world, FAR_CLIENT);
    node.apply(plan(&["0.0.0.0/0", "::/0"]));
    is_admitted(&world, CLIENT);
    is_admitted(&world, FAR_CLIENT);
}
