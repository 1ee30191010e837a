//! Names that other servers are asked for.

use std::{net::Ipv4Addr, time::Instant};

use hickory_proto::op::ResponseCode;
use lb_userspace::snapshot::zone::{RecordKind, Routing};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::bed::{Bed, SOON, Says, query, receive, serve};

const ONE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 81);

/// A resolver that asks servers that say this, in this order.
fn asking(says: &[Says]) -> Bed {
    Bed::asking(|at| {
        let servers = says.iter().zip(20..).map(|(says, number)| {
            serve(at(number), *says);
            at(number)
        });
        servers.collect()
    })
}

#[test]
fn another_servers_answer_is_passed_on_by_udp_and_tcp() {
    let bed = asking(&[Says::Address(ONE)]);
    for transport in ["+notcp", "+tcp"] {
        let said = bed.dig(&format!("{transport} www.example.com A"));
        assert_eq!(said.answer, ["www.example.com. 5 A 192.0.2.80"], "{}", said.text);
        assert_eq!(said.flags, "qr rd ra", "{}", said.text);
    }
    assert_eq!(bed.dig("+norecurse www.example.com A").status, "REFUSED");
    assert_eq!(bed.dig("absent.demo.local A").status, "NXDOMAIN", "our own names are never asked for");
    bed.counted("ForwardedQueryCount_total{}", 2);
}

#[test]
fn the_next_server_is_asked_when_one_is_silent_or_unable() {
    let bed = asking(&[Says::Nothing, Says::Code(ResponseCode::ServFail), Says::Address(OTHER)]);
    let client = bed.client(bed.ip(9));
    client.send(&query("www.example.com.")).unwrap();
    assert_eq!(receive(&client).unwrap().answers.len(), 1);
}

#[test]
fn without_any_answer_the_client_is_told_before_it_asks_again() {
    let bed = asking(&[Says::Nothing, Says::Nothing, Says::Nothing]);
    let client = bed.client(bed.ip(9));
    let asked = Instant::now();
    client.send(&query("www.example.com.")).unwrap();
    assert_eq!(receive(&client).unwrap().metadata.response_code, ResponseCode::ServFail);
    assert!(asked.elapsed().as_secs() < 5, "{:?}", asked.elapsed());
    bed.counted("ForwardFailedCount_total{Reason=\"unanswered\"}", 1);
}

#[test]
fn a_name_that_does_not_exist_elsewhere_does_not_exist() {
    let bed = asking(&[Says::Code(ResponseCode::NXDomain), Says::Address(OTHER)]);
    assert_eq!(bed.dig("www.example.com A").status, "NXDOMAIN");
}

#[test]
fn forged_answers_are_not_believed() {
    let bed = asking(&[Says::ForgedThen(ONE)]);
    assert_eq!(bed.dig("www.example.com A").data(), ["192.0.2.80"]);
}

#[test]
fn a_server_that_has_more_to_say_is_asked_by_tcp() {
    let bed = asking(&[Says::More(ONE)]);
    let short = bed.dig("+ignore www.example.com A");
    assert_eq!((short.flags.as_str(), short.answer.len()), ("qr tc rd ra", 0), "{}", short.text);
    assert_eq!(bed.dig("www.example.com A").data(), ["192.0.2.80"]);
}

#[test]
fn an_alias_that_leads_outside_is_followed_there() {
    let mut bed = asking(&[Says::Address(ONE)]);
    bed.service("www", RecordKind::Cname, &["one"]);
    let service = bed.view.zones.get_mut("demo.local").unwrap().services.get_mut("www").unwrap();
    service.routing = Routing::Weighted;
    service.instances.get_mut("one").unwrap().cname = Some("www.example.com".to_owned());
    bed.apply();
    let said = bed.dig("www.demo.local A");
    assert_eq!(
        said.answer,
        ["www.demo.local. 60 CNAME www.example.com.", "www.example.com. 5 A 192.0.2.80"],
        "{}",
        said.text
    );
}

#[test]
fn too_many_questions_elsewhere_are_answered_at_once_and_delay_nobody() {
    let bed = asking(&[Says::Nothing]);
    let client = bed.client(bed.ip(9));
    // All are answered in one moment, which the usual buffer does not hold.
    setsockopt(&client, RcvBufForce, &(1 << 20)).unwrap();
    for id in 0..=255 {
        let mut query = query("www.example.com.");
        query[1] = id;
        client.send(&query).unwrap();
    }
    // All turns are taken for the time that one server may take.
    let other = bed.client(bed.ip(10));
    other.send(&query("one.more.example.com.")).unwrap();
    assert_eq!(receive(&other).unwrap().metadata.response_code, ResponseCode::ServFail);
    bed.counted("ForwardFailedCount_total{Reason=\"busy\"}", 1);
    other.send(&query("demo.local.")).unwrap();
    assert_eq!(receive(&other).unwrap().metadata.response_code, ResponseCode::NoError);
    // And each of them is answered in the end.
    client.set_read_timeout(Some(SOON)).unwrap();
    for _ in 0..=255 {
        assert_eq!(receive(&client).unwrap().metadata.response_code, ResponseCode::ServFail);
    }
}
