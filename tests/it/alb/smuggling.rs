//! Unlawful bytes: each refused with 400 and closed, and nothing of them reaches a target.

use super::{client::Client, stage::Stage, target::Target};

fn stage() -> (Stage, Target) {
    let mut stage = Stage::with_workers(1);
    let target = Target::named(stage.target_ip(2), "ok");
    stage.group("main", &[target.address]);
    stage.apply();
    (stage, target)
}

/// Every request is answered with `status`, then closed, and the target has seen nothing.
fn refused(status: u16, requests: &[&str]) {
    let (stage, target) = stage();
    for request in requests {
        let mut client = Client::connect(stage.address());
        client.send(request);
        let answer = client.answer().unwrap_or_else(|| panic!("no answer to {request:?}"));
        assert_eq!(answer.status, status, "{request:?}");
        assert_eq!(answer.header("server"), Some("awselb/2.0"), "{request:?}");
        assert!(client.is_closed(), "{request:?}");
    }
    assert_eq!(target.requests(), 0);
    assert_eq!(
        stage.metric("gatehouse_own_RefusedRequestCount_total"),
        u64::try_from(requests.len()).unwrap()
    );
}

#[test]
fn ambiguous_lengths_are_refused() {
    refused(
        400,
        &[
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    );
}

#[test]
fn unlawful_lines_are_refused() {
    refused(
        400,
        &[
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: w\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\0z\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET\r\n\r\n",
        ],
    );
}

#[test]
fn unlawful_hosts_are_refused() {
    refused(
        400,
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
            "GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    );
}

#[test]
fn other_refusals_have_their_own_status() {
    refused(405, &["CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"]);
    refused(417, &["GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n"]);
    refused(501, &["POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"]);
    refused(505, &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(17 << 10));
    refused(414, &[&long]);
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(17 << 10));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200));
    refused(400, &[&large, &many]);
}

#[test]
fn tokens_that_only_the_parser_reads_are_refused_too() {
    let (stage, target) = stage();
    for request in [
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n\r\n",
        "GET /<> HTTP/1.1\r\nHost: a\r\n\u{e9}: z\r\n\r\n",
    ] {
        let mut client = Client::connect(stage.address());
        client.send(request);
        assert_eq!(client.answer().map(|answer| answer.status), Some(400), "{request:?}");
        assert!(client.is_closed(), "{request:?}");
    }
    assert_eq!(target.requests(), 0);
}

#[test]
fn a_refusal_waits_for_the_requests_before_it() {
    let (stage, target) = stage();
    let mut client = Client::connect(stage.address());
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3\n\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "ok");
    assert_eq!(client.answer().unwrap().text(), "ok");
    assert_eq!(client.answer().unwrap().status, 400);
    assert!(client.is_closed());
    assert_eq!(target.requests(), 2, "what follows the refused request is not read");
}

#[test]
fn an_unlawful_chunk_is_refused_and_the_targets_connection_is_not_used_again() {
    let (stage, target) = stage();
    for chunk in ["5\nhello\r\n", "zz\r\n", "5\r\nhelloworld\r\n", "0\r\n folded: x\r\n\r\n"] {
        let mut client = Client::connect(stage.address());
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}"));
        assert_eq!(client.answer().map(|answer| answer.status), Some(400), "{chunk:?}");
        assert!(client.is_closed(), "{chunk:?}");
    }
    assert_eq!(target.requests(), 0, "no whole request has reached the target");
    assert_eq!(Client::connect(stage.address()).get("/", "").text(), "ok");
}

#[test]
fn a_body_cannot_become_a_request() {
    let (stage, target) = stage();
    let mut client = Client::connect(stage.address());
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    client
        .send(format!("POST /seen HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()));
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(client.get("/next", "").status, 200);
    assert_eq!(target.requests(), 2);
    assert!(target.last().head.starts_with("GET /next "));
}

#[test]
fn bytes_beyond_a_response_do_not_answer_the_next_request() {
    let mut stage = Stage::with_workers(1);
    let target = Target::start(stage.target_ip(2), |connection| {
        while connection.request().is_some() {
            connection.send(
                b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrueHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfake",
            );
        }
    });
    stage.group("main", &[target.address]);
    stage.apply();
    let mut client = Client::connect(stage.address());
    for _ in 0..5 {
        assert_eq!(client.get("/", "").text(), "true");
    }
    assert_eq!(target.accepted(), 5, "a connection that said too much is not used again");
}
