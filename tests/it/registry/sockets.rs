//! Queries answered, refused and dropped on real sockets.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

use hickory_proto::op::ResponseCode;
use lb_userspace::snapshot::zone::RecordKind;
use proptest::{collection::vec, prelude::any, strategy::Strategy as _, test_runner::TestRunner};

use super::bed::{Bed, SOON, query, receive};

#[test]
fn udp_and_tcp_answer_alike() {
    let mut bed = Bed::new();
    bed.service("web", RecordKind::A, &["one"]);
    for transport in ["+notcp", "+tcp"] {
        let said = bed.dig(&format!("{transport} web.demo.local A"));
        assert_eq!(said.answer, ["web.demo.local. 60 A 10.0.1.6"], "{}", said.text);
        assert_eq!((said.status.as_str(), said.flags.as_str()), ("NOERROR", "qr aa rd"));
        let absent = bed.dig(&format!("{transport} absent.demo.local A"));
        assert_eq!(absent.status, "NXDOMAIN");
        assert!(absent.authority[0].starts_with("demo.local. 15 SOA "), "{}", absent.text);
        let nothing = bed.dig(&format!("{transport} web.demo.local TXT"));
        assert_eq!((nothing.status.as_str(), nothing.answer.len()), ("NOERROR", 0));
        assert_eq!(bed.dig(&format!("{transport} www.example.com A")).status, "REFUSED");
    }
    bed.counted("QueryCount_total{ResponseCode=\"NXDOMAIN\"}", 2);
    bed.counted("QueryCount_total{ResponseCode=\"NOERROR\"}", 4);
}

#[test]
fn an_answer_too_long_for_a_datagram_comes_by_tcp() {
    let mut bed = Bed::new();
    let ids: Vec<String> = (0..8).map(|number| format!("{number}{}", "x".repeat(50))).collect();
    bed.service("web", RecordKind::Srv, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    let short = bed.dig("+noedns +ignore web.demo.local SRV");
    assert_eq!((short.flags.as_str(), short.answer.len()), ("qr aa tc rd", 0), "{}", short.text);
    let followed = bed.dig("+noedns web.demo.local SRV");
    assert_eq!((followed.answer.len(), followed.additional.len()), (8, 8), "{}", followed.text);
    let wide = bed.dig("+bufsize=1232 +ignore web.demo.local SRV");
    assert_eq!(wide.answer.len(), 8, "{}", wide.text);
    assert!(wide.text.contains("EDNS: version: 0, flags:; udp: 1232"), "{}", wide.text);
    bed.counted("TruncatedAnswerCount_total{}", 2);
}

#[test]
fn edns_of_another_version_is_told_so() {
    let bed = Bed::new();
    let said = bed.dig("+edns=1 +noednsnegotiation demo.local SOA");
    assert_eq!(said.status, "BADVERS", "{}", said.text);
}

#[test]
fn who_is_outside_gets_nothing() {
    let mut bed = Bed::new();
    bed.view.clients = format!("{}/32", bed.ip(9)).parse().unwrap();
    bed.apply();
    let (inside, outside) = (bed.client(bed.ip(9)), bed.client(bed.ip(10)));
    outside.send(&query("demo.local.")).unwrap();
    bed.counted("DroppedQueryCount_total{Reason=\"outside\"}", 1);
    outside.set_nonblocking(true).unwrap();
    assert_eq!(receive(&outside).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    inside.send(&query("demo.local.")).unwrap();
    assert_eq!(receive(&inside).unwrap().metadata.response_code, ResponseCode::NoError);
    // TCP of loopback's own address, which is not the one that may ask.
    let mut stream = TcpStream::connect(bed.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    bed.counted("DroppedQueryCount_total{Reason=\"outside\"}", 2);
}

#[test]
fn a_change_is_answered_from_the_moment_it_is_applied() {
    let mut bed = Bed::new();
    let client = bed.client(bed.ip(9));
    let code = || {
        client.send(&query("web.demo.local.")).unwrap();
        receive(&client).unwrap().metadata.response_code
    };
    for _ in 0..20 {
        bed.service("web", RecordKind::A, &["one"]);
        assert_eq!(code(), ResponseCode::NoError);
        bed.service("web", RecordKind::A, &[]);
        assert_eq!(code(), ResponseCode::NXDomain);
    }
}

#[test]
fn without_a_view_nobody_listens_and_with_another_address_only_there() {
    let mut bed = Bed::new();
    let mut stream = TcpStream::connect(bed.address()).unwrap();
    bed.follow(None).unwrap();
    let client = bed.client(bed.ip(9));
    client.send(&query("demo.local.")).unwrap();
    assert_eq!(receive(&client).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert!(TcpStream::connect(bed.address()).is_err());
    // A connection that was open gets no more answers either.
    let asked = query("demo.local.");
    stream.write_all(&[&[0, u8::try_from(asked.len()).unwrap()], &asked[..]].concat()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    bed.view.address = bed.ip(3);
    bed.apply();
    assert_eq!(bed.dig("demo.local SOA").status, "NOERROR");
}

#[test]
fn an_address_that_is_taken_is_said_and_tried_again() {
    let mut bed = Bed::new();
    let taken = std::net::UdpSocket::bind((bed.ip(4), 53)).unwrap();
    let moved = lb_userspace::snapshot::zone::ResolverView { address: bed.ip(4), ..bed.view.clone() };
    let error = bed.follow(Some(moved.clone())).unwrap_err();
    assert_eq!(error.to_string(), format!("answering DNS queries at {}:53", bed.ip(4)));
    drop(taken);
    bed.follow(Some(moved)).unwrap();
}

#[test]
fn connections_are_bounded_and_told_apart_from_nonsense() {
    let bed = Bed::new();
    let mut open: Vec<TcpStream> = (0..256).map(|_| TcpStream::connect(bed.address()).unwrap()).collect();
    bed.counted("ActiveConnectionCount{}", 256);
    let mut more = TcpStream::connect(bed.address()).unwrap();
    more.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(more.read(&mut [0]).unwrap(), 0);
    bed.counted("RejectedConnectionCount_total{}", 1);
    // A length that no query has.
    let mut stream = open.pop().unwrap();
    stream.write_all(&[0xff, 0xff]).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    bed.counted("DroppedQueryCount_total{Reason=\"oversized\"}", 1);
    drop(open);
    bed.counted("ActiveConnectionCount{}", 0);
}

#[test]
fn queries_on_one_connection_are_answered_in_order() {
    let bed = Bed::new();
    let mut stream = TcpStream::connect(bed.address()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut sent = Vec::new();
    for id in 0..50 {
        let mut query = query("demo.local.");
        query[1] = id;
        sent.extend([0, u8::try_from(query.len()).unwrap()]);
        sent.extend(query);
    }
    stream.write_all(&sent).unwrap();
    for id in 0..50 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[1], id);
    }
}

#[test]
fn no_datagram_ends_the_resolver() {
    let bed = Bed::new();
    let client = bed.client(bed.ip(9));
    let strategy = vec(any::<u8>(), 0..700).prop_map(|mut bytes: Vec<u8>| {
        // Most are queries by their first bits, so that what follows is read.
        if bytes.len() > 12 && !bytes[0].is_multiple_of(8) {
            bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        }
        bytes
    });
    let sequel = {
        let mut query = query("demo.local.");
        query[..2].copy_from_slice(&SEQUEL.to_be_bytes());
        query
    };
    let told = TestRunner::default().run(&strategy, |bytes| {
        client.send(&bytes).unwrap();
        client.send(&sequel).unwrap();
        // What came of the first may come before.
        while receive(&client).unwrap().metadata.id != SEQUEL {}
        Ok(())
    });
    told.unwrap();
    client.send(&[0; 5_000]).unwrap();
    bed.counted("DroppedQueryCount_total{Reason=\"oversized\"}", 1);
}

/// The id of the query after each.
const SEQUEL: u16 = 0x7777;
