//! The header in front, and TLS to targets.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::{Mutex, mpsc},
    thread,
};

use rustls::ServerConnection;

use super::{
    peer::{Target, certificate, connect, connect_tls, copy, echo},
    stage::{SOON, Stage},
};

/// A PROXY protocol header as a target reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) client: (Ipv4Addr, u16),
    pub(super) listener: (Ipv4Addr, u16),
    pub(super) endpoint: Option<String>,
}

impl Header {
    /// Reads a header of a client over IPv4; the bytes after it stay.
    pub(super) fn read(stream: &mut impl Read) -> Self {
        let mut fixed = [0; 16];
        stream.read_exact(&mut fixed).unwrap();
        assert_eq!(&fixed[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x11", "PROXY, TCP over IPv4");
        let mut rest = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
        stream.read_exact(&mut rest).unwrap();
        let address = |at: usize| Ipv4Addr::new(rest[at], rest[at + 1], rest[at + 2], rest[at + 3]);
        let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
        let mut endpoint = None;
        let mut values = &rest[12..];
        while let [kind, high, low, after @ ..] = values {
            let (value, next) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
            if let (0xea, [1, id @ ..]) = (*kind, value) {
                endpoint = Some(String::from_utf8(id.to_vec()).unwrap());
            }
            values = next;
        }
        Self { client: (address(0), port(8)), listener: (address(4), port(10)), endpoint }
    }
}

fn v4(address: std::net::SocketAddr) -> (Ipv4Addr, u16) {
    let std::net::SocketAddr::V4(address) = address else { panic!("IPv6") };
    (*address.ip(), address.port())
}

#[test]
fn a_target_is_told_of_the_client_in_front_of_its_bytes() {
    let mut stage = Stage::header();
    let (said, heard) = mpsc::channel();
    let target = Target::start(stage.ip(2), move |mut stream| {
        said.send((Header::read(&mut stream), stream.peer_addr().unwrap().ip())).unwrap();
        copy(stream);
    });
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    let mut client = connect(stage.address()).unwrap();
    let (header, seen) = heard.recv_timeout(SOON).expect("a header before the client's first byte");
    let from = v4(client.local_addr().unwrap());
    let expected = Header { client: from, listener: v4(stage.address()), endpoint: None };
    assert_eq!(header, expected);
    assert_eq!(seen, stage.address().ip(), "the connection comes from the load balancer");
    assert_eq!(echo(&mut client, b"hello").unwrap(), b"hello");

    // The client's address is a link's from now on.
    stage.slice.links.insert("abc123".into(), vec![from.0]);
    stage.apply();
    let _client = connect(stage.address()).unwrap();
    let (header, _) = heard.recv_timeout(SOON).unwrap();
    assert_eq!(header.endpoint.as_deref(), Some("abc123"));
}

#[test]
fn the_header_goes_before_tls_to_the_target() {
    let mut stage = Stage::tls(&[&certificate(&["a.test"])]);
    let (said, heard) = mpsc::channel();
    let inner = Target::tls(stage.ip(3), &[], copy);
    let inner_address = inner.address;
    // Reads the header, and hands the rest to a target that speaks TLS.
    let outer = Target::start(stage.ip(2), move |mut stream| {
        said.send(Header::read(&mut stream)).unwrap();
        let onward = TcpStream::connect(inner_address).unwrap();
        let (mut from, mut to) = (stream.try_clone().unwrap(), onward.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let _ = std::io::copy(&mut &onward, &mut stream);
    });
    stage.group("main", "TLS", &[outer.address]);
    stage.attribute("main", "proxy_protocol_v2.enabled", "true");
    stage.apply();
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    assert_eq!(echo(&mut client, b"hello").unwrap(), b"hello");
    let header = heard.recv_timeout(SOON).unwrap();
    assert_eq!(header.client, v4(client.sock.local_addr().unwrap()));
}

#[test]
fn what_alpn_agreed_with_the_client_is_offered_to_the_target() {
    let mut stage = Stage::tls(&[&certificate(&["a.test"])]);
    let (said, heard) = mpsc::channel();
    let said = Mutex::new(said);
    let target = Target::tls(stage.ip(2), &["http/1.1", "h2"], move |stream| {
        let agreed = |connection: &ServerConnection| connection.alpn_protocol().map(<[u8]>::to_vec);
        said.lock()
            .unwrap()
            .send((agreed(&stream.conn), stream.conn.server_name().map(str::to_owned)))
            .unwrap();
        copy(stream);
    });
    stage.group("main", "TLS", &[target.address]);
    for (policy, offered, agreed) in [
        ("HTTP2Preferred", &["http/1.1", "h2"][..], Some("h2")),
        ("HTTP1Only", &["http/1.1", "h2"], Some("http/1.1")),
        ("HTTP2Only", &["h2"], Some("h2")),
        ("HTTP2Only", &["http/1.1"], None),
        ("None", &["h2"], None),
    ] {
        stage.alpn(policy);
        stage.apply();
        let mut client = connect_tls(stage.address(), "a.test", offered).unwrap();
        assert_eq!(echo(&mut client, b"hello").unwrap(), b"hello");
        let agreed = agreed.map(str::as_bytes);
        assert_eq!(client.conn.alpn_protocol(), agreed, "{policy} {offered:?}");
        let (at_target, name) = heard.recv_timeout(SOON).unwrap();
        assert_eq!(at_target.as_deref(), agreed, "{policy} {offered:?}");
        assert_eq!(name, None, "a target is an address");
    }
}

#[test]
fn a_target_that_speaks_no_tls_is_counted_and_the_client_knows() {
    let mut stage = Stage::tls(&[&certificate(&["a.test"])]);
    let target = Target::start(stage.ip(2), |mut stream| {
        let _ = stream.write_all(b"SSH-2.0-nobody\r\n");
    });
    stage.group("main", "TLS", &[target.address]);
    stage.apply();
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    assert!(echo(&mut client, b"hello").is_err());
    stage.metric_becomes("gatehouse_nlb_TargetTLSNegotiationErrorCount_total", 1);
    assert_eq!(stage.metric("gatehouse_nlb_ClientTLSNegotiationErrorCount_total"), 0);
    assert_eq!(stage.metric("gatehouse_nlb_RejectedFlowCount_total"), 1);
}
