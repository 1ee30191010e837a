//! Which target, for how long.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{
    peer::{Target, Tls, certificate, connect, connect_tls, echo, ends},
    stage::{PORT, Stage, eventually},
};

/// A TLS listener in front of two targets that say who they are, both healthy.
fn pair(protocol: &str) -> (Stage, Target, Target) {
    let mut stage = Stage::tls(&[&certificate(&["a.test"])]);
    let (first, second) = match protocol {
        "TLS" => {
            let say = |name: &'static str| {
                move |mut stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>| {
                    use std::io::Write;
                    let _ = stream.write_all(name.as_bytes());
                    super::peer::copy(stream);
                }
            };
            (Target::tls(stage.ip(2), &[], say("1")), Target::tls(stage.ip(3), &[], say("2")))
        }
        _ => (Target::named(stage.ip(2), "1"), Target::named(stage.ip(3), "2")),
    };
    stage.group("main", protocol, &[first.address, second.address]);
    stage.apply();
    stage.healthy("main", &[first.address, second.address]);
    (stage, first, second)
}

/// A connection, and who answers it.
fn ask(stage: &Stage) -> (Tls, u8) {
    ask_at(stage.address())
}

/// As [`ask`], at an address of the load balancer.
fn ask_at(address: SocketAddr) -> (Tls, u8) {
    let mut client = connect_tls(address, "a.test", &[]).unwrap();
    let mut name = [0];
    client.read_exact(&mut name).unwrap();
    (client, name[0])
}

/// A connection to this one.
fn ask_for(stage: &Stage, name: u8) -> Tls {
    let mut found = None;
    eventually("connection to the target", || {
        let (client, own) = ask(stage);
        found = (own == name).then_some(client);
        found.is_some()
    });
    found.unwrap()
}

fn counts(stage: &Stage, connections: usize) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..connections {
        *counts.entry(ask(stage).1).or_default() += 1;
    }
    counts
}

#[test]
fn targets_take_turns_by_their_groups_weights() {
    let (mut stage, first, second) = pair("TCP");
    let even = counts(&stage, 40);
    assert!(even.values().all(|count| (10..=30).contains(count)), "{even:?}");
    stage.group("main", "TCP", &[first.address]);
    stage.group("other", "TCP", &[second.address]);
    stage.forward(&[("main", 0), ("other", 5)]);
    stage.apply();
    assert_eq!(counts(&stage, 10), BTreeMap::from([(b'2', 10)]));
    // A group without targets leaves its share to the others.
    stage.group("other", "TCP", &[]);
    stage.forward(&[("main", 1), ("other", 999)]);
    stage.apply();
    assert_eq!(counts(&stage, 5), BTreeMap::from([(b'1', 5)]));
}

#[test]
fn a_draining_target_keeps_its_connections_and_gets_no_new_one() {
    let (mut stage, first, second) = pair("TCP");
    let mut kept = ask_for(&stage, b'1');
    stage.drain("main", first.address);
    stage.apply();
    assert_eq!(counts(&stage, 10), BTreeMap::from([(b'2', 10)]));
    assert_eq!(echo(&mut kept, b"hello").unwrap(), b"hello");
    assert_eq!(stage.connections_of("main", first.address), 1);
    // Its delay is over: without the attribute the connection stays all the same.
    stage.group("main", "TCP", &[second.address]);
    stage.apply();
    assert_eq!(echo(&mut kept, b"hello").unwrap(), b"hello");
}

#[test]
fn connections_end_with_a_deregistered_target_if_its_group_says_so() {
    let (mut stage, first, second) = pair("TCP");
    stage.attribute("main", "deregistration_delay.connection_termination.enabled", "true");
    stage.apply();
    let (mut gone, mut kept) = (ask_for(&stage, b'1'), ask_for(&stage, b'2'));
    stage.drain("main", first.address);
    stage.apply();
    assert_eq!(echo(&mut gone, b"hello").unwrap(), b"hello", "not before the delay is over");
    assert_eq!(stage.active_flows(), 2);
    stage.group("main", "TCP", &[second.address]);
    stage.apply();
    assert!(ends(&mut gone));
    assert_eq!(echo(&mut kept, b"hello").unwrap(), b"hello");
}

#[test]
fn a_drained_target_is_known_to_have_nothing_left() {
    let (mut stage, first, _second) = pair("TCP");
    let kept = ask_for(&stage, b'1');
    stage.drain("main", first.address);
    stage.apply();
    assert_eq!(stage.connections_of("main", first.address), 1);
    drop(kept);
    eventually("end of the last connection", || stage.connections_of("main", first.address) == 0);
}

#[test]
fn an_unhealthy_target_gets_nothing_new_and_loses_what_it_has_unless_told_not_to() {
    for (protocol, loses) in [("TLS", true), ("TCP", true), ("TCP", false)] {
        let (mut stage, first, second) = pair(protocol);
        if !loses {
            stage.attribute("main", TERMINATION, "false");
            stage.apply();
        }
        let mut held = ask_for(&stage, b'1');
        stage.healthy("main", &[second.address]);
        eventually("end of new connections", || !counts(&stage, 6).contains_key(&b'1'));
        if loses {
            assert!(ends(&mut held), "{protocol}");
        } else {
            assert_eq!(echo(&mut held, b"hello").unwrap(), b"hello", "{protocol}");
        }
        // Nobody is healthy: all get connections, and none loses any.
        let mut held = ask_for(&stage, b'2');
        stage.healthy("main", &[]);
        eventually("failing open", || counts(&stage, 6).len() == 2);
        assert_eq!(echo(&mut held, b"hello").unwrap(), b"hello", "{protocol}");
        assert!(first.accepted() > 0);
    }
}

#[test]
fn connections_to_an_unhealthy_target_end_after_its_draining_interval() {
    let (mut stage, _first, second) = pair("TCP");
    stage.attribute("main", TERMINATION, "false");
    stage.attribute("main", "target_health_state.unhealthy.draining_interval_seconds", "1");
    stage.apply();
    let mut held = ask_for(&stage, b'1');
    let begun = Instant::now();
    stage.healthy("main", &[second.address]);
    assert!(ends(&mut held));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_zones_connections_stay_in_it_while_it_has_a_healthy_target() {
    let (mut stage, first, second) = pair("TCP");
    let there = stage.another_zone("eu-central-1b");
    stage.zone("main", first.address, "eu-central-1a");
    stage.zone("main", second.address, "eu-central-1b");
    stage.apply();
    let asked = |address| {
        let mut names: Vec<u8> = (0..6).map(|_| ask_at(address).1).collect();
        names.dedup();
        names
    };
    assert_eq!((asked(stage.address()), asked(there)), (vec![b'1'], vec![b'2']));
    // The other zone serves where this one cannot.
    stage.healthy("main", &[second.address]);
    eventually("the other zone's target", || asked(stage.address()) == [b'2']);
    stage.healthy("main", &[first.address, second.address]);
    stage.attribute("main", "load_balancing.cross_zone.enabled", "true");
    stage.apply();
    eventually("both zones' targets", || {
        counts(&stage, 8).len() == 2 && (0..8).any(|_| ask_at(there).1 == b'1')
    });
}

#[test]
fn too_few_healthy_targets_are_as_good_as_none() {
    let (mut stage, first, _second) = pair("TCP");
    stage.attribute("main", "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "2");
    stage.apply();
    stage.healthy("main", &[first.address]);
    eventually("failing open", || counts(&stage, 6).len() == 2);
    assert!(stage.metric("gatehouse_nlb_UnhealthyRoutingFlowCount_total") > 0);
}

#[test]
fn a_client_sticks_to_its_target() {
    let mut stage = Stage::header();
    let say = |name: &'static str| {
        move |mut stream: std::net::TcpStream| {
            let _ = stream.write_all(name.as_bytes());
            super::peer::copy(stream);
        }
    };
    let targets = [Target::start(stage.ip(2), say("1")), Target::start(stage.ip(3), say("2"))];
    stage.group("main", "TCP", &targets.each_ref().map(|target| target.address));
    stage.attribute("main", "stickiness.enabled", "true");
    stage.apply();
    let name = |_| {
        let mut byte = [0];
        connect(stage.address()).unwrap().read_exact(&mut byte).unwrap();
        byte[0]
    };
    let names: Vec<u8> = (0..8).map(name).collect();
    assert!(names.iter().all(|own| *own == names[0]), "{names:?}");
}

#[test]
fn connections_that_begin_too_fast_are_refused_and_counted() {
    let (mut stage, _first, _second) = pair("TCP");
    stage.listener_attribute("gatehouse.new_flows_per_second", "4");
    stage.apply();
    let made = (0..40).filter(|_| connect_tls(stage.address(), "a.test", &[]).is_ok()).count();
    let refused = stage.metric("gatehouse_nlb_RejectedFlowCount_total");
    assert_eq!(refused, i64::try_from(40 - made).unwrap());
    assert!(refused > 0, "all of 40 began at once");
}

#[test]
fn a_dual_stack_listener_takes_both_families_to_targets_of_either() {
    let (mut stage, _first, _second) = pair("TCP");
    stage.dual_stack(Ipv6Addr::LOCALHOST);
    stage.apply();
    let there = SocketAddr::from((Ipv6Addr::LOCALHOST, PORT));
    assert!(matches!(ask_at(there).1, b'1' | b'2'));
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let third = Target::on(listener, |mut stream| {
        let _ = stream.write_all(b"3");
    });
    stage.group("main", "TCP", &[third.address]);
    stage.apply();
    assert_eq!((ask_at(there).1, ask(&stage).1), (b'3', b'3'));
}

#[test]
fn a_target_that_refuses_costs_no_connection() {
    let (mut stage, _first, second) = pair("TCP");
    // A port that nobody listens on any more.
    let closed = TcpListener::bind((stage.ip(4), 0)).unwrap().local_addr().unwrap();
    stage.group("main", "TCP", &[closed, second.address]);
    stage.apply();
    stage.healthy("main", &[closed, second.address]);
    assert_eq!(counts(&stage, 10), BTreeMap::from([(b'2', 10)]));
}

#[test]
fn without_a_target_a_connection_is_reset_and_counted() {
    let mut stage = Stage::tls(&[&certificate(&["a.test"])]);
    stage.apply();
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    assert!(ends(&mut client));
    assert_eq!(stage.metric("gatehouse_nlb_RejectedFlowCount_total"), 1);
}

#[test]
fn a_listener_that_is_gone_takes_its_connections_along() {
    let (mut stage, _first, _second) = pair("TCP");
    let (mut client, _) = ask(&stage);
    stage.slice.listeners.clear();
    stage.apply();
    assert!(ends(&mut client), "XDP passes no packets of a port without a listener");
    assert!(connect_tls(stage.address(), "a.test", &[]).is_err());
}

#[test]
fn a_connection_that_is_cut_off_before_it_had_a_target_is_reset() {
    let mut stage = Stage::header();
    let (said, heard) = mpsc::channel();
    // Takes the connection, and never shakes hands.
    let target = Target::start(stage.ip(2), move |mut stream| {
        said.send(()).unwrap();
        while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
    });
    stage.group("main", "TLS", &[target.address]);
    stage.apply();
    let mut client = connect(stage.address()).unwrap();
    heard.recv_timeout(Duration::from_secs(5)).unwrap();
    stage.slice.listeners.clear();
    stage.apply();
    let error = client.read(&mut [0]).expect_err("an end would be an answer without a byte");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

const TERMINATION: &str = "target_health_state.unhealthy.connection_termination.enabled";
