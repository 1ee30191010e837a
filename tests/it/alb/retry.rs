//! When a request is tried again, and what the client sees when it is not.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener},
    time::Instant,
};

use super::{
    client::Client,
    stage::{SOON, Stage},
    target::{Connection, Target},
};

/// One target that behaves so, and its stage.
fn one(behave: impl Fn(&mut Connection) + Send + Sync + 'static) -> (Stage, Target) {
    let mut stage = Stage::with_workers(1);
    let target = Target::start(stage.target_ip(2), behave);
    stage.group("main", &[target.address]);
    stage.apply();
    (stage, target)
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";

/// An address where nobody listens.
fn nobody(stage: &Stage, number: u8) -> SocketAddr {
    TcpListener::bind((stage.target_ip(number), 0)).unwrap().local_addr().unwrap()
}

#[test]
fn a_get_is_tried_once_more_when_the_connection_closes_before_a_response() {
    let (stage, target) = one(|connection| {
        if connection.request().is_some() && connection.number > 0 {
            connection.send(OK);
        }
    });
    assert_eq!(Client::connect(stage.address()).get("/", "").text(), "ok");
    assert_eq!((target.accepted(), target.requests()), (2, 2));
}

#[test]
fn a_reset_counts_as_a_close() {
    let (stage, target) = one(|connection| {
        // Before anything is read, after the head, and in the middle of the response.
        match connection.number {
            0 => connection.reset(),
            1 | 3 => {
                connection.request();
                connection.send(OK);
                connection.request();
                connection.reset();
            }
            2 => {
                connection.first_byte();
                connection.reset();
            }
            _ => {
                connection.request();
                connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
                connection.reset();
            }
        }
    });
    let mut client = Client::connect(stage.address());
    assert_eq!(client.get("/", "").text(), "ok", "reset at once, then answered by connection 1");
    client.send(POST);
    assert_eq!(client.answer().unwrap().status, 502, "reset behind the head by connection 1");
    assert_eq!(client.get("/", "").text(), "ok", "reset by connection 2, then answered by 3");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let cut = client.answer();
    assert!(
        cut.as_ref().is_none_or(|answer| answer.status == 502),
        "reset by connection 3, then half an answer: {cut:?}"
    );
    assert_eq!(target.accepted(), 5);
}

#[test]
fn a_get_is_not_tried_a_third_time() {
    let (stage, target) = one(|connection| {
        connection.request();
    });
    let mut client = Client::connect(stage.address());
    let answer = client.get("/", "");
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("server"), Some("awselb/2.0"));
    assert_eq!(target.requests(), 2);
    assert_eq!(stage.metric("gatehouse_alb_HTTPCode_ELB_502_Count_total"), 1);
    assert_eq!(stage.metric("gatehouse_alb_TargetConnectionErrorCount_total"), 1);
}

#[test]
fn the_other_target_is_preferred_for_the_second_try() {
    let mut stage = Stage::with_workers(1);
    let bad = Target::start(stage.target_ip(2), |connection| {
        connection.request();
    });
    let good = Target::named(stage.target_ip(3), "good");
    stage.group("main", &[bad.address, good.address]);
    stage.apply();
    let mut client = Client::connect(stage.address());
    for _ in 0..20 {
        assert_eq!(client.get("/", "").text(), "good");
    }
    assert!(bad.requests() >= 5, "it had its turns: {}", bad.requests());
}

#[test]
fn a_post_that_may_have_been_seen_is_not_tried_again() {
    let (stage, target) = one(|connection| {
        connection.request();
    });
    let mut client = Client::connect(stage.address());
    client.send(POST);
    assert_eq!(client.answer().unwrap().status, 502);
    assert_eq!(target.requests(), 1);
    client.send("DELETE /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 502);
    assert_eq!(target.requests(), 2, "without a body, but not a method to repeat");
}

#[test]
fn a_get_with_a_body_is_not_tried_again() {
    let (stage, target) = one(|connection| {
        connection.request();
    });
    let mut client = Client::connect(stage.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.answer().unwrap().status, 502);
    assert_eq!(target.requests(), 1);
}

#[test]
fn a_response_that_has_begun_is_not_asked_for_again() {
    let (stage, target) = one(|connection| {
        connection.request();
        connection.send(b"HTTP/1.1 200");
    });
    assert_eq!(Client::connect(stage.address()).get("/", "").status, 502);
    assert_eq!(target.requests(), 1);
}

#[test]
fn without_the_attribute_nothing_is_tried_again() {
    let (mut stage, target) = one(|connection| {
        connection.request();
    });
    stage.attribute("gatehouse.retry.enabled", "false");
    stage.apply();
    assert_eq!(Client::connect(stage.address()).get("/", "").status, 502);
    assert_eq!(target.requests(), 1);
}

#[test]
fn a_refused_connection_leads_to_the_next_target_whatever_the_method() {
    let mut stage = Stage::with_workers(1);
    let good = Target::named(stage.target_ip(2), "good");
    let dead = nobody(&stage, 3);
    stage.group("main", &[good.address, dead]);
    stage.apply();
    let mut client = Client::connect(stage.address());
    for _ in 0..10 {
        client.send(POST);
        assert_eq!(client.answer().unwrap().text(), "good");
    }
    assert_eq!(good.last().body, b"abc");
}

#[test]
fn refusing_targets_alone_are_a_502() {
    let mut stage = Stage::with_workers(1);
    let dead = [nobody(&stage, 2), nobody(&stage, 3)];
    stage.group("main", &dead);
    stage.apply();
    let mut client = Client::connect(stage.address());
    assert_eq!(client.get("/", "").status, 502);
    client.send(POST);
    assert_eq!(client.answer().unwrap().status, 502);
}

#[test]
fn a_connection_that_the_target_closed_while_idle_is_not_used_for_a_post() {
    let (closed, is_closed) = std::sync::mpsc::channel();
    let (stage, target) = one(move |connection| {
        connection.request();
        connection.send(OK);
        connection.close();
        closed.send(()).unwrap();
    });
    let mut client = Client::connect(stage.address());
    for _ in 0..50 {
        client.send(POST);
        assert_eq!(client.answer().unwrap().text(), "ok");
        // Only what has not arrived can be missed, and loopback delivers at once.
        is_closed.recv_timeout(SOON).unwrap();
    }
    assert_eq!(target.accepted(), 50);
}

#[test]
fn idle_connections_that_were_all_closed_fail_nothing() {
    let (stage, target) = one(|connection| {
        while connection.request().is_some() {
            connection.send(OK);
        }
    });
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(stage.address())).collect();
    for round in 0..5 {
        // All at once, so that as many connections are open to the target.
        for client in &mut clients {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        for client in &mut clients {
            assert_eq!(client.answer().unwrap().status, 200, "round {round}");
        }
        target.close_connections();
        for client in &mut clients {
            let request = if round % 2 == 0 { POST } else { "GET / HTTP/1.1\r\nHost: a\r\n\r\n" };
            client.send(request);
            assert_eq!(client.answer().unwrap().status, 200, "round {round}");
        }
    }
}

#[test]
fn malformed_responses_are_a_502() {
    for bytes in [
        b"SSH-2.0-OpenSSH\r\n\r\n".as_slice(),
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n",
    ] {
        let (stage, target) = one(move |connection| {
            connection.request();
            connection.send(bytes);
            let _ = connection.request();
        });
        let answer = Client::connect(stage.address()).get("/", "");
        assert_eq!(answer.status, 502, "{:?}", String::from_utf8_lossy(bytes));
        assert_eq!(target.requests(), 1, "a response had begun");
    }
}

#[test]
fn response_headers_over_the_limit_are_a_502() {
    let (stage, _target) = one(|connection| {
        connection.request();
        connection.send(b"HTTP/1.1 200 OK\r\n");
        for _ in 0..40 {
            connection.send(format!("x: {}\r\n", "y".repeat(1000)).as_bytes());
        }
        connection.send(b"content-length: 0\r\n\r\n");
        let _ = connection.request();
    });
    assert_eq!(Client::connect(stage.address()).get("/", "").status, 502);
}

#[test]
fn a_response_cut_short_ends_the_clients_connection() {
    let (stage, target) = one(|connection| {
        connection.request();
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this");
    });
    let mut client = Client::connect(stage.address());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer(), None, "a body that is not whole must not look whole");
    assert_eq!(target.requests(), 1);
}

#[test]
fn a_target_that_does_not_answer_is_a_504() {
    let (mut stage, target) = one(|connection| {
        connection.request();
        let _ = connection.stream.read(&mut [0; 16]);
    });
    stage.attribute("idle_timeout.timeout_seconds", "1");
    stage.apply();
    let begun = Instant::now();
    let mut client = Client::connect(stage.address());
    assert_eq!(client.get("/", "").status, 504);
    assert!((900..3000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!(target.requests(), 1, "it may be working on it");
}

#[test]
fn a_client_that_stops_sending_is_a_408_and_an_idle_one_is_closed() {
    let (mut stage, _target) = one(|connection| {
        let _ = connection.request();
    });
    stage.attribute("idle_timeout.timeout_seconds", "1");
    stage.apply();
    let mut slow = Client::connect(stage.address());
    slow.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    let mut head = Client::connect(stage.address());
    head.send("GET / HTTP/1.1\r\nHo");
    let mut idle = Client::connect(stage.address());
    assert_eq!(slow.answer().unwrap().status, 408);
    assert!(head.is_closed());
    assert!(idle.is_closed());
}

#[test]
fn an_early_response_reaches_the_client_and_its_connection_is_not_used_again() {
    let (stage, target) = one(|connection| {
        connection.first_byte();
        if connection.number == 0 {
            connection.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno");
            let _ = connection.request();
        } else {
            while connection.request().is_some() {
                connection.send(OK);
            }
        }
    });
    let mut client = Client::connect(stage.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.text()), (413, "no"));
    assert_eq!(Client::connect(stage.address()).get("/", "").text(), "ok");
    assert_eq!(target.accepted(), 2);
}
