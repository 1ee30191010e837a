//! What a request and a response look like on the other side.

use std::time::Duration;

use super::{
    client::{Client, header},
    stage::{PORT, SOON, Stage},
    target::Target,
};

fn stage_with(behave: impl Fn(&mut super::target::Connection) + Send + Sync + 'static) -> (Stage, Target) {
    let mut stage = Stage::with_workers(1);
    let target = Target::start(stage.target_ip(2), behave);
    stage.group("main", &[target.address]);
    stage.apply();
    (stage, target)
}

fn echo() -> (Stage, Target) {
    stage_with(|connection| {
        while connection.request().is_some() {
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nserver: own\r\n\r\nok");
        }
    })
}

#[test]
fn a_request_arrives_with_the_load_balancers_headers_and_from_its_address() {
    let (stage, target) = echo();
    let mut client = Client::connect(stage.address());
    let answer = client.get(
        "/a/b?c=d%20e",
        "X-Forwarded-For: 198.51.100.9\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n",
    );
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert_eq!(answer.header("server"), Some("own"), "a target's server header passes");
    assert!(answer.header("date").is_some());
    let received = target.last();
    assert!(received.head.starts_with("GET /a/b?c=d%20e HTTP/1.1\r\n"), "{}", received.head);
    let client_ip = client.stream.local_addr().unwrap().ip();
    assert_eq!(
        header(&received.head, "x-forwarded-for"),
        Some(format!("198.51.100.9, {client_ip}").as_str())
    );
    assert_eq!(header(&received.head, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&received.head, "x-forwarded-port"), Some("8080"));
    assert!(header(&received.head, "x-amzn-trace-id").unwrap().starts_with("Root=1-"));
    assert_eq!(header(&received.head, "host"), Some(format!("demo.example:{PORT}").as_str()));
    for gone in ["connection", "x-hop", "keep-alive"] {
        assert_eq!(header(&received.head, gone), None, "{gone}");
    }
    assert_eq!(received.peer.ip(), stage.address().ip(), "the source is the load balancer's interface");
}

#[test]
fn connections_to_targets_are_used_again() {
    let (stage, target) = echo();
    for _ in 0..3 {
        let mut client = Client::connect(stage.address());
        for _ in 0..5 {
            assert_eq!(client.get("/", "").status, 200);
        }
    }
    assert_eq!((target.requests(), target.accepted()), (15, 1));
}

#[test]
fn bodies_pass_both_ways_in_every_framing() {
    let (stage, target) = stage_with(|connection| {
        while let Some(received) = connection.request() {
            let size = received.body.len();
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            connection.send(format!("3;x=y\r\nabc\r\n{:x}\r\n", size.max(1)).as_bytes());
            connection.send(&vec![b'z'; size.max(1)]);
            connection.send(b"\r\n0\r\n\r\n");
        }
    });
    let mut client = Client::connect(stage.address());
    let sent = vec![b'q'; 3_000_000];
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", sent.len()));
    client.send(&sent);
    let answer = client.answer().unwrap();
    assert_eq!(answer.body.len(), 3 + sent.len());
    assert_eq!(target.last().body, sent);
    assert_eq!(header(&target.last().head, "content-length"), Some("3000000"));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send("5\r\nhello\r\n");
    client.send("0\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(target.last().body, b"5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(header(&target.last().head, "transfer-encoding"), Some("chunked"));
    assert_eq!(target.accepted(), 1);
}

#[test]
fn a_response_without_a_length_ends_with_its_connection() {
    let (stage, target) = stage_with(|connection| {
        connection.request();
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
    });
    let mut client = Client::connect(stage.address());
    assert_eq!(client.get("/", "").text(), "until the end");
    assert_eq!(client.get("/", "").text(), "until the end", "the client's connection goes on");
    assert_eq!(target.accepted(), 2);
}

#[test]
fn responses_without_a_body_have_none() {
    let (stage, target) = stage_with(|connection| {
        while let Some(received) = connection.request() {
            let answer: &[u8] = if received.head.starts_with("HEAD") {
                b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n"
            } else if received.head.starts_with("GET /304") {
                b"HTTP/1.1 304 Not Modified\r\ncontent-length: 100\r\netag: x\r\n\r\n"
            } else {
                b"HTTP/1.1 204 No Content\r\n\r\n"
            };
            connection.send(answer);
        }
    });
    let mut client = Client::connect(stage.address());
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.answer_to("HEAD").unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("100")));
    assert_eq!(client.get("/304", "").status, 304);
    assert_eq!(client.get("/204", "").status, 204);
    assert_eq!(target.accepted(), 1, "nothing was left over");
}

#[test]
fn expect_is_answered_by_the_load_balancer() {
    let (stage, target) = echo();
    let mut client = Client::connect(stage.address());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 100);
    client.send("abc");
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(target.last().body, b"abc");
    assert_eq!(header(&target.last().head, "expect"), None);
}

#[test]
fn informational_responses_are_not_final() {
    let (stage, _target) = stage_with(|connection| {
        while connection.request().is_some() {
            connection.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    assert_eq!(Client::connect(stage.address()).get("/", "").text(), "ok");
}

#[test]
fn an_absolute_target_names_the_host() {
    let (stage, target) = echo();
    let mut client = Client::connect(stage.address());
    client.send("GET http://other.example/x?y HTTP/1.1\r\nHost: demo.example\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 200);
    assert!(target.last().head.starts_with("GET /x?y HTTP/1.1\r\n"), "{}", target.last().head);
    assert_eq!(header(&target.last().head, "host"), Some("other.example:8080"));
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let (stage, target) = echo();
    let mut client = Client::connect(stage.address());
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().unwrap().text(), "ok");
    assert!(client.is_closed());
    assert!(target.last().head.starts_with("GET / HTTP/1.1\r\n"));
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let (stage, _target) = stage_with(|connection| {
        while let Some(received) = connection.request() {
            let path = received.head.split(' ').nth(1).unwrap().to_owned();
            connection
                .send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).as_bytes());
        }
    });
    let mut client = Client::connect(stage.address());
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    let bodies: Vec<_> = (0..3).map(|_| client.answer().unwrap().text().to_owned()).collect();
    assert_eq!(bodies, ["/1", "/2", "/3"]);
}

#[test]
fn a_websocket_becomes_a_tunnel_only_after_101() {
    let (stage, target) = stage_with(|connection| {
        let received = connection.request().unwrap();
        if received.head.starts_with("GET /no") {
            connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
            return;
        }
        connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        );
        let mut echoed = [0; 4];
        std::io::Read::read_exact(&mut connection.stream, &mut echoed).unwrap();
        connection.send(&echoed);
    });
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let mut client = Client::connect(stage.address());
    // The first frame comes with the request: it must not be read as one.
    client.send(format!("GET /ws HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n\x01\r\n\x02"));
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("upgrade"), Some("websocket"));
    let mut received = [0; 9];
    let mut at = client.take_buffered(&mut received);
    while at < received.len() {
        at += std::io::Read::read(&mut client.stream, &mut received[at..]).unwrap();
    }
    assert_eq!(&received, b"hello\x01\r\n\x02");
    assert_eq!(header(&target.last().head, "upgrade"), Some("websocket"));
    let mut client = Client::connect(stage.address());
    assert_eq!(client.get("/no", upgrade).status, 400);
    assert_eq!(client.get("/no", "").status, 400, "declined: the connection goes on with requests");
}

#[test]
fn an_upgrade_nobody_asked_for_is_a_bad_response() {
    let (stage, _target) = stage_with(|connection| {
        connection.request();
        connection
            .send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let _ = connection.request();
    });
    assert_eq!(Client::connect(stage.address()).get("/", "").status, 502);
}

#[test]
fn stopping_answers_what_is_in_hand() {
    let (mut stage, target) = stage_with(|connection| {
        connection.request();
        std::thread::sleep(Duration::from_millis(300));
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let mut idle = Client::connect(stage.address());
    let address = stage.address();
    let mut busy = Client::connect(address);
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    while target.requests() == 0 {
        std::thread::yield_now();
    }
    stage.stop(SOON);
    let answer = busy.answer().unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(idle.is_closed());
    assert!(std::net::TcpStream::connect(address).is_err());
}
