//! SYNs of nobody, more than anybody wants: connections go on, and what a flood takes is bounded by count and by time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lb_common::abi::{DropReason, FIRST_NAT_PORT, LAST_NAT_PORT};
use lb_userspace::network::namespace::within;
use lb_userspace::packet::{Limits, ListenerPlan, Options, Plan, Protocol};

use socket2::{Domain, Socket, Type};

use super::plans::{self, at, healthy, listener};
use super::raw::Raw;
use super::sockets::{Talker, echo_datagrams, until};
use super::world::{BALANCER, CLIENT, FAR_CLIENT, NEAR, Node, PORT, TARGET_PORT, World};

/// A listener that is flooded and one that is not.
fn plan(new_flows_per_s: Option<u32>) -> Plan {
    let flooded = ListenerPlan { new_flows_per_s, ..listener(healthy(&[NEAR])) };
    plans::node([
        (at(BALANCER, PORT, Protocol::Tcp), flooded),
        (at(BALANCER, OTHER, Protocol::Tcp), listener(healthy(&[NEAR]))),
        (at(BALANCER, OTHER, Protocol::Udp), listener(healthy(&[NEAR]))),
    ])
}

fn world() -> World {
    let world = World::new();
    world.serve(NEAR);
    echo_datagrams(&world, NEAR, TARGET_PORT);
    world
}

fn flood(raw: &Raw, round: u16) {
    for number in 0..BURST {
        raw.syn(round * BURST + number, 1_024 + number, BALANCER, PORT);
    }
}

fn entries(node: &Node) -> u64 {
    node.after_a_census();
    node.counters().flow_entries
}

#[test]
fn a_flood_of_syns_takes_the_room_it_may_and_leaves_it_in_ten_seconds() {
    let world = world();
    let limits = Limits { new_flows_per_s: Some(100), ..Limits::default() };
    let node = world.start_node_with(Options { limits, ..Options::default() });
    node.apply(plan(None));
    let mut connections: Vec<_> =
        [CLIENT, FAR_CLIENT].into_iter().map(|from| world.connect(from, BALANCER, PORT).unwrap()).collect();
    let raw = Raw::new(&world, CLIENT);
    let rounds = 5;
    for round in 0..rounds {
        flood(&raw, round);
        for connection in &mut connections {
            assert_eq!(connection.ask().unwrap(), NEAR, "{:#?}", node.counters());
        }
    }
    let sent = u64::from(rounds * BURST);
    let counters = node.counters();
    let refused = node.drops(DropReason::SynFlood);
    let others = [DropReason::PortsExhausted, DropReason::FlowRace].map(|reason| node.drops(reason));
    let began = sent - refused - others.iter().sum::<u64>();
    // A second's allowance on each CPU, and the test may last some.
    assert!(refused > sent / 2, "{refused} of {sent} refused: {counters:#?}");
    assert_eq!(counters.listeners[0].counters.rejected, sent - began, "{counters:#?}");
    assert_eq!(counters.listeners[0].counters.new_flows, 2, "no SYN alone is a flow: {counters:#?}");
    let held = entries(&node);
    assert!(held > 4 && held <= 2 * (began + 2), "{held} entries of {began} SYNs: {:#?}", node.counters());
    node.pass(11);
    until("room again", || entries(&node) == 4);
    for connection in &mut connections {
        assert_eq!(connection.ask().unwrap(), NEAR);
    }
}

#[test]
fn a_listeners_own_limit_keeps_a_flood_from_its_neighbours() {
    let world = world();
    let node = world.start_node();
    node.apply(plan(Some(50)));
    let raw = Raw::new(&world, CLIENT);
    for round in 0..5 {
        flood(&raw, round);
        for _ in 0..5 {
            assert_eq!(world.connect(FAR_CLIENT, BALANCER, OTHER).unwrap().ask().unwrap(), NEAR);
            assert_eq!(Talker::new(&world, CLIENT, BALANCER, OTHER).ask(b"here?").unwrap(), NEAR);
        }
    }
    let counters = node.counters();
    let rejected = |port| {
        let of = counters.listeners.iter().filter(move |one| one.name.port == port);
        of.map(|one| one.counters.rejected).sum::<u64>()
    };
    assert!(rejected(PORT) > 4 * u64::from(BURST), "{counters:#?}");
    assert_eq!(rejected(OTHER), 0, "{counters:#?}");
}

#[test]
fn one_source_may_begin_so_many_flows_and_others_begin_theirs() {
    let world = world();
    let limits = Limits { new_flows_per_source: Some(20), ..Limits::default() };
    let node = world.start_node_with(Options { limits, ..Options::default() });
    node.apply(plan(None));
    let raw = Raw::new(&world, CLIENT);
    for port in 0..2_000 {
        raw.syn(7, 1_024 + port, BALANCER, PORT);
    }
    for _ in 0..5 {
        assert_eq!(world.connect(FAR_CLIENT, BALANCER, PORT).unwrap().ask().unwrap(), NEAR);
    }
    assert!(node.drops(DropReason::SourceLimit) > 1_500, "{:#?}", node.counters());
}

#[test]
fn a_run_of_taken_source_ports_is_left_at_once() {
    let world = world();
    let limits = Limits { new_flows_per_s: Some(1_000_000), ..Limits::default() };
    let node = world.start_node_with(Options { limits, ..Options::default() });
    node.apply(plan(Some(1_000_000)));
    let raw = Raw::new(&world, CLIENT);
    // Each of them keeps its port towards the target: the first of every CPU's range are taken.
    let cpus = u16::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    let span = (LAST_NAT_PORT - FIRST_NAT_PORT + 1) / cpus;
    for first in (0..cpus).map(|cpu| FIRST_NAT_PORT + cpu * span) {
        for port in first..first + 1_000 {
            raw.syn(port, port, BALANCER, PORT);
        }
    }
    // Not one that a flow may keep: it is given one of those ranges, and not after a SYN that got none.
    for port in LAST_NAT_PORT + 1..LAST_NAT_PORT + 11 {
        let begun = Instant::now();
        let socket = within(&world.machine(CLIENT), || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::from(([0; 4], port)).into())?;
            socket.connect_timeout(&SocketAddr::from((BALANCER, PORT)).into(), Duration::from_secs(5))?;
            Ok::<_, std::io::Error>(socket)
        });
        assert!(socket.unwrap().is_ok(), "{:#?}", node.counters());
        assert!(begun.elapsed() < SYN_REPEATED, "{port}: {:?}: {:#?}", begun.elapsed(), node.counters());
    }
    assert_eq!(node.drops(DropReason::PortsExhausted), 0);
}

/// A SYN is sent again after a second (RFC 6298, §2).
const SYN_REPEATED: Duration = Duration::from_secs(1);
/// Another listener's port.
const OTHER: u16 = 81;
/// SYNs between two looks at the connections.
const BURST: u16 = 1_000;
