//! Rules, turns, draining, failing open.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_userspace::{
    model::load_balancer::{Action, Condition},
    snapshot::report::Report,
};

use super::{
    client::Client,
    stage::{Stage, forward},
    target::Target,
};

/// How often each name answers `count` requests on one connection.
fn counts(address: SocketAddr, count: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(address);
    let mut counts = BTreeMap::new();
    for _ in 0..count {
        let answer = client.get("/", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        *counts.entry(answer.text().to_owned()).or_insert(0) += 1;
    }
    counts
}

fn three(stage: &mut Stage) -> Vec<Target> {
    let targets: Vec<_> =
        ["a", "b", "c"].iter().zip(2..).map(|(name, n)| Target::named(stage.target_ip(n), name)).collect();
    stage.group("main", &targets.iter().map(|target| target.address).collect::<Vec<_>>());
    stage.apply();
    targets
}

#[test]
fn requests_take_turns_over_healthy_targets() {
    let mut stage = Stage::with_workers(1);
    let targets = three(&mut stage);
    stage.healthy("main", &[targets[0].address, targets[2].address]);
    until(|| !counts(stage.address(), 10).contains_key("b"));
    assert_eq!(counts(stage.address(), 30), [("a".to_owned(), 15), ("c".to_owned(), 15)].into());
}

#[test]
fn a_group_without_a_healthy_target_fails_open() {
    let mut stage = Stage::with_workers(1);
    let _targets = three(&mut stage);
    stage.healthy("main", &[]);
    assert_eq!(counts(stage.address(), 30).len(), 3);
    assert!(stage.metric("gatehouse_alb_UnhealthyRoutingRequestCount_total") >= 30);
}

#[test]
fn a_group_without_targets_answers_503() {
    let stage = Stage::new();
    let answer = Client::connect(stage.address()).get("/", "");
    assert_eq!(answer.status, 503);
    assert!(answer.head.starts_with("HTTP/1.1 503 Service Temporarily Unavailable\r\n"), "{}", answer.head);
    assert_eq!(answer.header("server"), Some("awselb/2.0"));
    assert!(answer.text().contains("<h1>503 Service Temporarily Unavailable</h1>"));
    assert_eq!(stage.metric("gatehouse_alb_HTTPCode_ELB_503_Count_total"), 1);
}

#[test]
fn rules_choose_by_priority_host_and_path() {
    let mut stage = Stage::new();
    let api = Target::named(stage.target_ip(2), "api");
    stage.group("api", &[api.address]);
    stage.rule(
        10,
        vec![
            Condition::HostHeader(vec!["*.example".to_owned()]),
            Condition::PathPattern(vec!["/api/*".to_owned()]),
        ],
        forward("api"),
    );
    stage.rule(
        5,
        vec![Condition::PathPattern(vec!["/api/teapot".to_owned()])],
        Action::FixedResponse {
            status: 418,
            content_type: Some("application/json".to_owned()),
            body: "{}".to_owned(),
        },
    );
    stage.apply();
    let mut client = Client::connect(stage.address());
    assert_eq!(client.get("/api/x?/other", "").text(), "api");
    assert_eq!(client.get("/API/x", "").status, 503, "the default's group is empty");
    let teapot = client.get("/api/teapot", "");
    assert_eq!((teapot.status, teapot.text()), (418, "{}"));
    assert_eq!(teapot.header("content-type"), Some("application/json"));
    assert_eq!(teapot.header("server"), Some("awselb/2.0"));
}

#[test]
fn a_slice_changes_listeners_under_established_connections() {
    let mut stage = Stage::new();
    let _targets = three(&mut stage);
    let mut client = Client::connect(stage.address());
    assert_eq!(client.get("/", "").status, 200);
    let kept = stage.slice.listeners.clone();
    stage.default_action(Action::FixedResponse { status: 404, content_type: None, body: String::new() });
    stage.apply();
    assert_eq!(client.get("/", "").status, 404, "the same connection, the new rule");
    stage.slice.listeners.clear();
    stage.apply();
    assert!(client.is_closed(), "idle connections of a listener that is gone are closed");
    assert!(std::net::TcpStream::connect(stage.address()).is_err());
    stage.slice.listeners = kept;
    stage.apply();
    assert_eq!(Client::connect(stage.address()).get("/", "").status, 200);
}

#[test]
fn a_network_load_balancer_in_front_takes_connections_by_the_same_rules() {
    let mut stage = Stage::new();
    let _targets = three(&mut stage);
    let front = stage.put_in_front(9_090);
    stage.apply();
    let mut client = Client::connect(front);
    assert_eq!(client.get("/", "").status, 200);
    assert_eq!(counts(stage.address(), 9).values().sum::<usize>(), 9, "its own address goes on");
    stage.remove_front();
    stage.apply();
    assert!(std::net::TcpStream::connect(front).is_err());
    assert_eq!(client.get("/", "").status, 200, "what is established goes on");
    // Its security groups hold whichever way a client comes.
    let front = stage.put_in_front(9_091);
    stage.admit("10.0.0.0/8");
    stage.apply();
    assert!(Client::connect(front).is_closed());
}

#[test]
fn a_security_group_refuses_at_accept() {
    let mut stage = Stage::new();
    let _targets = three(&mut stage);
    stage.admit("10.0.0.0/8");
    stage.apply();
    let mut client = Client::connect(stage.address());
    assert!(client.is_closed());
    assert_eq!(stage.metric("gatehouse_alb_RejectedConnectionCount_total"), 1);
    stage.admit("127.0.0.0/8");
    stage.apply();
    assert_eq!(Client::connect(stage.address()).get("/", "").status, 200);
}

#[test]
fn a_draining_target_finishes_what_it_has_and_gets_nothing_new() {
    let mut stage = Stage::new();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let slow = Target::start(stage.target_ip(2), move |connection| {
        while connection.request().is_some() {
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsl");
            released.lock().unwrap().recv().unwrap();
            connection.send(b"ow");
        }
    });
    stage.group("main", &[slow.address]);
    stage.apply();
    let mut waiting = Client::connect(stage.address());
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until(|| slow.requests() == 1);
    let other = Target::named(stage.target_ip(3), "other");
    stage.group("main", &[slow.address, other.address]);
    stage.drain("main", slow.address);
    stage.apply();
    assert_eq!(counts(stage.address(), 20), [("other".to_owned(), 20)].into());
    assert!(stage.reports.try_recv().is_err(), "a request is in flight");
    release.send(()).unwrap();
    assert_eq!(waiting.answer().unwrap().text(), "slow");
    let Some(Report::TargetDrained { target, .. }) = stage.report() else { panic!("no report") };
    assert_eq!(target.port, slow.address.port());
    assert_eq!(slow.requests(), 1);
}

#[test]
fn a_target_with_nothing_in_flight_is_drained_at_once() {
    let mut stage = Stage::new();
    let targets = three(&mut stage);
    counts(stage.address(), 3);
    stage.drain("main", targets[1].address);
    stage.apply();
    assert!(matches!(stage.report(), Some(Report::TargetDrained { .. })));
    assert!(!counts(stage.address(), 10).contains_key("b"));
}

/// Waits until something is so.
fn until(condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + super::stage::SOON;
    while !condition() {
        assert!(std::time::Instant::now() < end, "it did not become so");
        std::thread::yield_now();
    }
}
