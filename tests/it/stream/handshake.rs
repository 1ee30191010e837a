//! Handshakes with clients: certificates, ALPN, and those that fail.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lb_userspace::stream::{ApplyError, Limits};

use super::{
    peer::{Target, certificate, connect, connect_tls, echo, ends, leaf, shown},
    stage::{LIMITS, SOON, Stage, eventually},
};

const CLIENT_ERRORS: &str = "gatehouse_nlb_ClientTLSNegotiationErrorCount_total";

#[test]
fn a_server_name_chooses_the_certificate_and_a_target_gets_what_was_inside() {
    let (first, second) = (certificate(&["a.test"]), certificate(&["b.test"]));
    let mut stage = Stage::tls(&[&first, &second]);
    let target = Target::echo(stage.ip(2));
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    for (name, expected) in [("a.test", &first), ("b.test", &second), ("c.test", &first)] {
        let mut client = connect_tls(stage.address(), name, &["h2"]).unwrap();
        assert_eq!(shown(&client), leaf(expected), "{name}");
        assert_eq!(client.conn.alpn_protocol(), None);
        assert_eq!(echo(&mut client, b"hello").unwrap(), b"hello");
    }
    stage.metric_becomes("gatehouse_nlb_ActiveFlowCount_TLS", 0);
    assert_eq!(stage.metric("gatehouse_nlb_NewFlowCount_TLS_total"), 3);
    assert_eq!(stage.metric("gatehouse_nlb_NewFlowCount_total"), 3);
    assert_eq!(stage.metric("gatehouse_nlb_ProcessedBytes_TLS_total"), 3 * 2 * 5);
    assert_eq!(stage.metric(CLIENT_ERRORS), 0);
}

#[test]
fn bytes_that_are_no_handshake_are_counted_and_harm_nobody() {
    let mut stage = Stage::tls(&[&certificate(&["a.test"])]);
    let target = Target::echo(stage.ip(2));
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        // A record that promises a hello and holds none.
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        &[0xff; 600],
        b"",
    ];
    for (number, bytes) in (1..).zip(garbage) {
        let mut client = connect(stage.address()).unwrap();
        client.write_all(bytes).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        // An alert, perhaps, then an end.
        let _ = client.read_to_end(&mut rest);
        stage.metric_becomes(CLIENT_ERRORS, number);
    }
    assert_eq!(target.accepted(), 0);
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    assert_eq!(echo(&mut client, b"hello").unwrap(), b"hello");
}

#[test]
fn a_slow_handshake_is_cut() {
    let limits = Limits { handshake: Duration::from_millis(300), ..LIMITS };
    let stage = Stage::with(limits, 1, &[&certificate(&["a.test"])]);
    let begun = Instant::now();
    let mut client = connect(stage.address()).unwrap();
    // The beginning of a record, and no more.
    client.write_all(b"\x16\x03\x01").unwrap();
    assert!(ends(&mut client), "it is still there after {:?}", begun.elapsed());
    assert!(begun.elapsed() >= limits.handshake && begun.elapsed() < SOON, "{:?}", begun.elapsed());
    stage.metric_becomes(CLIENT_ERRORS, 1);
}

#[test]
fn handshakes_beyond_the_limit_are_reset_and_others_go_on() {
    let limits = Limits { handshakes: 1, ..LIMITS };
    let mut stage = Stage::with(limits, 1, &[&certificate(&["a.test"])]);
    let target = Target::echo(stage.ip(2));
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    let mut running = connect_tls(stage.address(), "a.test", &[]).unwrap();
    let slow = connect(stage.address()).unwrap();
    stage.metric_becomes("gatehouse_nlb_ActiveFlowCount_TLS", 2);
    assert!(connect_tls(stage.address(), "a.test", &[]).is_err());
    assert_eq!(stage.metric("gatehouse_nlb_RejectedHandshakeCount_total"), 1);
    assert_eq!(echo(&mut running, b"hello").unwrap(), b"hello");
    drop(slow);
    eventually("room for a handshake", || connect_tls(stage.address(), "a.test", &[]).is_ok());
}

#[test]
fn connections_beyond_the_limit_are_reset_and_counted() {
    let limits = Limits { connections: 2, ..LIMITS };
    let mut stage = Stage::with(limits, 1, &[&certificate(&["a.test"])]);
    let target = Target::echo(stage.ip(2));
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    let mut held: Vec<_> = (0..2).map(|_| connect_tls(stage.address(), "a.test", &[]).unwrap()).collect();
    assert!(connect_tls(stage.address(), "a.test", &[]).is_err());
    assert_eq!(stage.metric("gatehouse_nlb_RejectedFlowCount_total"), 1);
    for client in &mut held {
        assert_eq!(echo(client, b"hello").unwrap(), b"hello");
    }
}

#[test]
fn who_is_not_admitted_is_refused_and_counted() {
    let mut stage = Stage::tls(&[&certificate(&["a.test"])]);
    stage.admit("10.0.0.0/8");
    stage.apply();
    assert!(connect_tls(stage.address(), "a.test", &[]).is_err());
    assert_eq!(stage.metric("gatehouse_nlb_SecurityGroupBlockedFlowCount_Inbound_TCP_total"), 1);
    assert_eq!(stage.metric("gatehouse_nlb_NewFlowCount_TLS_total"), 0);
}

#[test]
fn a_certificate_is_replaced_under_traffic_without_a_failed_connection() {
    let (old, new) = (certificate(&["a.test"]), certificate(&["a.test"]));
    let mut stage = Stage::tls(&[&old]);
    let target = Target::echo(stage.ip(2));
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    let mut before = connect_tls(stage.address(), "a.test", &[]).unwrap();
    let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, stop, made) = (stage.address(), stop.clone(), made.clone());
            let (old, new) = (leaf(&old), leaf(&new));
            thread::spawn(move || {
                let mut seen = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let mut client = connect_tls(address, "a.test", &[]).unwrap();
                    assert_eq!(echo(&mut client, b"hello").unwrap(), b"hello");
                    seen.push(shown(&client));
                    made.fetch_add(1, Ordering::SeqCst);
                }
                // Never the old one after the new one.
                let first_new = seen.iter().position(|leaf| *leaf == new).unwrap_or(seen.len());
                assert!(seen[..first_new].iter().all(|leaf| *leaf == old), "neither");
                assert!(seen[first_new..].iter().all(|leaf| *leaf == new), "the old one came back");
                seen.len() - first_new
            })
        })
        .collect();
    let more = |count: usize| {
        let goal = made.load(Ordering::SeqCst) + count;
        eventually("more connections", || made.load(Ordering::SeqCst) >= goal);
    };
    more(20);
    stage.certificates(&[&new]);
    stage.apply();
    more(40);
    stop.store(true, Ordering::SeqCst);
    let replaced: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(replaced > 0);
    assert_eq!(echo(&mut before, b"still here").unwrap(), b"still here");
    assert_eq!(stage.metric(CLIENT_ERRORS), 0);
}

#[test]
fn a_certificate_that_cannot_be_used_is_said_and_the_one_before_serves_on() {
    let good = certificate(&["a.test"]);
    let mut stage = Stage::tls(&[&good]);
    let target = Target::echo(stage.ip(2));
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    let mut bad = certificate(&["a.test"]);
    bad.key_pem = good.key_pem.clone();
    stage.certificates(&[&bad]);
    assert!(matches!(stage.try_apply(), Err(ApplyError::Tls { .. })));
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    assert_eq!(shown(&client), leaf(&good));
    assert_eq!(echo(&mut client, b"hello").unwrap(), b"hello");
}
