//! UDP over real sockets: questions and answers, silence, fragments, and more of it than anybody wants.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::IpAddr;

use lb_common::abi::DropReason;
use lb_userspace::packet::{Limits, Options, Plan, Protocol};

use super::plans::{self, at, healthy, listener};
use super::raw::Raw;
use super::sockets::{Talker, dial, echo_datagrams, echo_streams, pour};
use super::world::{BALANCER, CLIENT, FAR, FAR_CLIENT, NEAR, PORT, TARGET_PORT, World, ipv6};

/// Listeners of both families for UDP.
fn plan(targets: &[std::net::Ipv4Addr]) -> Plan {
    let sixes: Vec<_> = targets.iter().copied().map(ipv6).collect();
    plans::node([
        (at(BALANCER, PORT, Protocol::Udp), listener(healthy(targets))),
        (at(ipv6(BALANCER), PORT, Protocol::Udp), listener(healthy(&sixes))),
    ])
}

#[test]
fn a_question_is_answered_by_a_target_and_counted() {
    let world = World::new();
    echo_datagrams(&world, NEAR, TARGET_PORT);
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let talker = Talker::new(&world, CLIENT, BALANCER, PORT);
    for question in [&b"a"[..], b"", b"a longer question than the one before"] {
        assert_eq!(talker.ask(question).unwrap(), NEAR, "{:#?}", node.counters());
    }
    let counters = node.counters();
    let listener = &counters.listeners[0];
    assert_eq!((listener.counters.new_flows, listener.counters.packets), (1, 6), "{counters:#?}");
    assert_eq!(counters.targets[0].counters.packets, 6);
    node.until_flows(1);
}

#[test]
fn many_flows_find_both_targets_and_each_stays_with_its_own() {
    let world = World::new();
    for address in [NEAR, FAR] {
        echo_datagrams(&world, address, TARGET_PORT);
    }
    let node = world.start_node();
    node.apply(plan(&[NEAR, FAR]));
    let from = [CLIENT, FAR_CLIENT].into_iter().cycle();
    let talkers: Vec<Talker> = from.take(300).map(|from| Talker::new(&world, from, BALANCER, PORT)).collect();
    let first: Vec<IpAddr> = talkers.iter().map(|talker| talker.ask(b"first").unwrap()).collect();
    let mut shares = BTreeMap::<IpAddr, usize>::new();
    for target in &first {
        *shares.entry(*target).or_default() += 1;
    }
    assert!(shares.len() == 2 && shares.values().all(|share| *share > 100), "{shares:?}");
    node.apply(plan(&[FAR]));
    for (talker, target) in talkers.iter().zip(&first) {
        assert_eq!(talker.ask(b"second").unwrap(), *target, "a target that is gone keeps its flows");
    }
    // Unless it terminates them. UDP has no other way to hear of it: its clients find another.
    let mut terminates = plan(&[NEAR, FAR]);
    for listener in terminates.nodes.values_mut().flat_map(|node| node.listeners.values_mut()) {
        listener.targets.values_mut().for_each(|target| target.terminates = true);
    }
    node.apply(terminates);
    node.apply(plan(&[FAR]));
    for (talker, target) in talkers.iter().zip(&first) {
        assert_eq!(talker.ask(b"third").unwrap(), FAR, "after {target}");
    }
    node.until_flows(300);
}

#[test]
fn a_silent_flow_makes_room_after_its_timeout_and_begins_anew() {
    let world = World::new();
    echo_datagrams(&world, NEAR, TARGET_PORT);
    let node = world.start_node();
    let mut plan = plan(&[NEAR]);
    for listener in plan.nodes.values_mut().flat_map(|node| node.listeners.values_mut()) {
        listener.idle_timeout_s = 120;
    }
    node.apply(plan);
    let (silent, lively) =
        (Talker::new(&world, CLIENT, BALANCER, PORT), Talker::new(&world, CLIENT, BALANCER, PORT));
    for talker in [&silent, &lively] {
        assert_eq!(talker.ask(b"first").unwrap(), NEAR);
    }
    node.until_flows(2);
    node.pass(110);
    assert_eq!(lively.ask(b"still there").unwrap(), NEAR);
    node.until_flows(2);
    node.pass(20);
    node.until_flows(1);
    assert_eq!(silent.ask(b"again").unwrap(), NEAR);
    assert_eq!(lively.ask(b"still there").unwrap(), NEAR);
    node.until_flows(2);
    assert_eq!(node.counters().listeners[0].counters.new_flows, 3);
}

#[test]
fn one_port_takes_tcp_and_udp() {
    let world = World::new();
    echo_datagrams(&world, NEAR, TARGET_PORT);
    echo_streams(&world, NEAR, TARGET_PORT);
    let node = world.start_node();
    node.apply(plans::node(
        [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| (at(BALANCER, PORT, protocol), listener(healthy(&[NEAR])))),
    ));
    let stream = dial(&world, CLIENT, BALANCER, PORT).unwrap();
    let talker = Talker::new(&world, CLIENT, BALANCER, PORT);
    for _ in 0..3 {
        pour(&stream, 100_000).unwrap();
        assert_eq!(talker.ask(b"and a datagram").unwrap(), NEAR);
    }
    let counters = node.counters();
    assert!(counters.listeners.iter().all(|one| one.counters.new_flows == 1), "{counters:#?}");
}

#[test]
fn a_datagram_that_fits_no_frame_goes_in_fragments_both_ways() {
    let world = World::new();
    for address in [NEAR, FAR] {
        echo_datagrams(&world, address, TARGET_PORT);
        echo_datagrams(&world, ipv6(address), TARGET_PORT);
    }
    let node = world.start_node();
    for target in [NEAR, FAR] {
        node.apply(plan(&[target]));
        let pairs: [(IpAddr, IpAddr); 2] =
            [(BALANCER.into(), target.into()), (ipv6(BALANCER).into(), ipv6(target).into())];
        for (balancer, target) in pairs {
            for from in [CLIENT, FAR_CLIENT] {
                let talker = Talker::new(&world, from, balancer, PORT);
                for length in [1_473, 3_000, 20_000, 60_000] {
                    let payload: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
                    let heard = talker.ask(&payload);
                    let told = node.counters().drops;
                    assert_eq!(heard.unwrap(), target, "{length} bytes by {balancer} from {from}: {told:#?}");
                }
            }
        }
    }
    assert_eq!(node.drops(DropReason::Fragment), 0);
}

#[test]
fn a_flood_of_fragments_takes_no_more_room_and_whole_datagrams_go_on() {
    let world = World::new();
    echo_datagrams(&world, NEAR, TARGET_PORT);
    let limits = Limits { new_flows_per_s: Some(200), ..Limits::default() };
    let node = world.start_node_with(Options { limits, ..Options::default() });
    node.apply(plan(&[NEAR]));
    let talker = Talker::new(&world, CLIENT, BALANCER, PORT);
    let payload = [7; 20_000];
    assert_eq!(talker.ask(&payload).unwrap(), NEAR);
    let flood = Raw::new(&world, CLIENT);
    for round in 0..10 {
        for id in round * 1_000..(round + 1) * 1_000 {
            // A later fragment of nobody, and a first one of whom nothing follows.
            flood.fragment(id, 100, BALANCER, PORT);
            flood.fragment(id, 0, BALANCER, PORT);
        }
        assert_eq!(talker.ask(&payload).unwrap(), NEAR, "{:#?}", node.counters());
    }
    assert!(node.drops(DropReason::Fragment) >= 10_000, "{:#?}", node.counters());
    assert!(node.drops(DropReason::SynFlood) >= 5_000, "{:#?}", node.counters());
}

#[test]
fn a_datagram_to_a_port_where_nobody_listens_is_refused_by_the_target_in_the_clients_terms() {
    let world = World::new();
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    for balancer in [IpAddr::from(BALANCER), ipv6(BALANCER).into()] {
        let refused = Talker::new(&world, CLIENT, balancer, PORT).ask(b"anybody?").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{balancer}");
    }
}

#[test]
fn a_flood_takes_the_room_it_may_and_conversations_go_on() {
    let world = World::new();
    echo_datagrams(&world, NEAR, TARGET_PORT);
    let limits = Limits { new_flows_per_s: Some(200), ..Limits::default() };
    let node = world.start_node_with(Options { limits, ..Options::default() });
    // The far target listens to nobody.
    let mut plan = plan(&[NEAR]);
    let silent = (at(BALANCER, SILENT, Protocol::Udp), listener(healthy(&[FAR])));
    plan.nodes.values_mut().for_each(|node| node.listeners.extend([silent.clone()]));
    node.apply(plan);
    let talker = Talker::new(&world, CLIENT, BALANCER, PORT);
    assert_eq!(talker.ask(b"before").unwrap(), NEAR);
    let flood = Raw::new(&world, CLIENT);
    for burst in 0..10_u16 {
        for port in 0..1_000 {
            flood.datagram(port % 251, 1_024 + burst * 1_000 + port, BALANCER, SILENT);
        }
        assert_eq!(talker.ask(b"meanwhile").unwrap(), NEAR);
    }
    let counters = node.counters();
    let listener = counters.listeners.iter().find(|one| one.name.port == SILENT).unwrap();
    let listener = &listener.counters;
    let refused = node.drops(DropReason::SynFlood);
    // Seconds may change while it lasts, and each has its own allowance on each CPU.
    assert!(refused >= 5_000 && listener.rejected >= refused, "{counters:#?}");
    assert_eq!(listener.new_flows + refused, 10_000, "{counters:#?}");
    // Whom nobody answered makes room soon; a conversation stays.
    node.pass(15);
    node.until_flows(1);
    assert_eq!(talker.ask(b"after").unwrap(), NEAR);
}

/// The port of a listener whose target answers nobody.
const SILENT: u16 = 81;
