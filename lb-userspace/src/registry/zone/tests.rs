//! Answers of small zones, told as questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr as _,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};

use super::*;
use crate::snapshot::zone::{RecordKind, ResolverView, Routing, ZoneInstanceView, ZoneServiceView, ZoneView};

struct World(ResolverView);

impl World {
    /// A zone `demo.local` without services; names that do not exist may be remembered for 15 s.
    fn new() -> Self {
        let zone = ZoneView { soa_ttl_s: 15, services: BTreeMap::new() };
        Self(ResolverView {
            address: "10.0.0.2".parse().unwrap(),
            clients: "10.0.0.0/16".parse().unwrap(),
            zones: BTreeMap::from([("demo.local".to_owned(), zone)]),
        })
    }

    fn zone(&mut self, name: &str) -> &mut ZoneView {
        let new = || ZoneView { soa_ttl_s: 15, services: BTreeMap::new() };
        self.0.zones.entry(name.to_owned()).or_insert_with(new)
    }

    /// A service of `demo.local` with these types of records, all with a TTL of 60 s.
    fn service(&mut self, name: &str, routing: Routing, kinds: &[RecordKind]) -> &mut ZoneServiceView {
        let records = kinds.iter().map(|kind| (*kind, 60)).collect();
        let service = ZoneServiceView { routing, records, instances: BTreeMap::new() };
        let services = &mut self.zone("demo.local").services;
        services.insert(name.to_owned(), service);
        services.get_mut(name).unwrap()
    }

    fn ask(&self, name: &str, kind: RecordType, seed: u64) -> Answer {
        match Zones::compile(&self.0).answer(&Name::from_ascii(name).unwrap(), kind, seed) {
            Decision::Answer(answer) => answer,
            elsewhere @ Decision::Elsewhere { .. } => panic!("{name} {kind}: {elsewhere:?}"),
        }
    }

    /// The answer's code and records, sorted: `A 60 10.0.1.6`.
    fn said(&self, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let answer = self.ask(name, kind, 1);
        let has_soa = answer.authorities.iter().any(|record| record.record_type() == RecordType::SOA);
        assert_eq!(has_soa, answer.answers.is_empty(), "{answer:?}");
        assert!(answer.authoritative);
        (answer.code, spelled(&answer.answers))
    }
}

fn spelled(records: &[Record]) -> Vec<String> {
    let spell = |record: &Record| format!("{} {} {}", record.record_type(), record.ttl, record.data);
    let mut all: Vec<String> = records.iter().map(spell).collect();
    all.sort();
    all
}

fn at(address: &str, port: u16) -> ZoneInstanceView {
    let (ipv4, ipv6) = (address.parse().ok(), address.parse().ok());
    ZoneInstanceView { ipv4, ipv6, port: Some(port), cname: None, healthy: true }
}

fn alias(target: &str) -> ZoneInstanceView {
    ZoneInstanceView { ipv4: None, ipv6: None, port: None, cname: Some(target.to_owned()), healthy: true }
}

impl ZoneServiceView {
    fn with(&mut self, id: &str, instance: ZoneInstanceView) -> &mut Self {
        self.instances.insert(id.to_owned(), instance);
        self
    }
}

use ResponseCode::{NXDomain, NoError};
use Routing::{Multivalue, Weighted};

#[test]
fn addresses_are_answered_by_family() {
    let mut world = World::new();
    let service = world.service("web", Multivalue, &[RecordKind::A, RecordKind::Aaaa]);
    service.with("a", at("10.0.1.6", 80)).with("b", at("10.0.1.7", 80)).with("c", at("fd00::6", 80));
    let records = |list: &[&str]| (NoError, list.iter().map(|text| (*text).to_owned()).collect());
    assert_eq!(world.said("web.demo.local.", RecordType::A), records(&["A 60 10.0.1.6", "A 60 10.0.1.7"]));
    assert_eq!(world.said("WEB.Demo.LOCAL.", RecordType::AAAA), records(&["AAAA 60 fd00::6"]));
    let answer = world.ask("WEB.Demo.LOCAL.", RecordType::A, 1);
    assert_eq!(answer.answers[0].name.to_ascii(), "WEB.Demo.LOCAL.", "as it was asked for");
}

#[test]
fn srv_records_name_instances_and_bring_their_addresses() {
    let mut world = World::new();
    let service = world.service("web", Multivalue, &[RecordKind::Srv]);
    let dual = ZoneInstanceView { ipv6: "fd00::7".parse().ok(), ..at("10.0.1.7", 61_001) };
    service.with("one", at("10.0.1.6", 61_000)).with("two", dual);
    let (code, records) = world.said("web.demo.local.", RecordType::SRV);
    assert_eq!(code, NoError);
    assert_eq!(records, ["SRV 60 1 1 61000 one.web.demo.local.", "SRV 60 1 1 61001 two.web.demo.local."]);
    let answer = world.ask("web.demo.local.", RecordType::SRV, 1);
    assert_eq!(spelled(&answer.additionals), ["A 60 10.0.1.6", "A 60 10.0.1.7", "AAAA 60 fd00::7"]);
    // And each of these names is one that can be asked for.
    assert_eq!(world.said("two.web.demo.local.", RecordType::A).1, ["A 60 10.0.1.7"]);
    assert_eq!(world.said("two.web.demo.local.", RecordType::AAAA).1, ["AAAA 60 fd00::7"]);
    assert_eq!(world.said("one.web.demo.local.", RecordType::AAAA), (NoError, vec![]));
    assert_eq!(world.said("web.demo.local.", RecordType::A), (NoError, vec![]));
    assert_eq!(world.said("three.web.demo.local.", RecordType::A), (NXDomain, vec![]));
}

#[test]
fn instances_have_names_of_their_own_only_in_services_with_srv_records() {
    let mut world = World::new();
    world.service("web", Multivalue, &[RecordKind::A]).with("one", at("10.0.1.6", 80));
    assert_eq!(world.said("one.web.demo.local.", RecordType::A), (NXDomain, vec![]));
}

#[test]
fn many_are_eight_at_random_and_weighted_is_one() {
    let mut world = World::new();
    for (name, routing, most) in [("many", Multivalue, 8), ("one", Weighted, 1)] {
        let service = world.service(name, routing, &[RecordKind::A]);
        for host in 1..=20 {
            service.with(&format!("i{host}"), at(&format!("10.0.1.{host}"), 80));
        }
        let asked = (0..100).map(|seed| world.ask(&format!("{name}.demo.local."), RecordType::A, seed));
        let answers: Vec<Vec<String>> = asked.map(|answer| spelled(&answer.answers)).collect();
        assert!(answers.iter().all(|records| records.len() == most), "{answers:?}");
        assert_eq!(answers.iter().flatten().collect::<BTreeSet<_>>().len(), 20);
    }
}

#[test]
fn sick_instances_are_left_out_until_all_are() {
    let mut world = World::new();
    let sick = |address| ZoneInstanceView { healthy: false, ..at(address, 80) };
    for routing in [Multivalue, Weighted] {
        let service = world.service("web", routing, &[RecordKind::A]);
        service.with("a", at("10.0.1.6", 80)).with("b", sick("10.0.1.7"));
        for seed in 0..20 {
            let answer = world.ask("web.demo.local.", RecordType::A, seed);
            assert_eq!(spelled(&answer.answers), ["A 60 10.0.1.6"]);
        }
    }
    world
        .service("web", Multivalue, &[RecordKind::A])
        .with("a", sick("10.0.1.6"))
        .with("b", sick("10.0.1.7"));
    assert_eq!(world.said("web.demo.local.", RecordType::A).1.len(), 2);
}

#[test]
fn a_name_exists_while_something_is_registered_under_it_or_below_it() {
    let mut world = World::new();
    world.service("_http._tcp.web", Multivalue, &[RecordKind::A]);
    assert_eq!(world.said("_http._tcp.web.demo.local.", RecordType::A), (NXDomain, vec![]));
    assert_eq!(world.said("web.demo.local.", RecordType::A), (NXDomain, vec![]));
    world.service("_http._tcp.web", Multivalue, &[RecordKind::A]).with("a", at("10.0.1.6", 80));
    assert_eq!(world.said("_http._tcp.web.demo.local.", RecordType::A).1, ["A 60 10.0.1.6"]);
    assert_eq!(world.said("_tcp.web.demo.local.", RecordType::A), (NoError, vec![]));
    assert_eq!(world.said("web.demo.local.", RecordType::ANY), (NoError, vec![]));
    assert_eq!(world.said("other.web.demo.local.", RecordType::A), (NXDomain, vec![]));
}

#[test]
fn what_does_not_exist_may_be_remembered_for_as_long_as_the_namespace_says() {
    let mut world = World::new();
    world.zone("demo.local").soa_ttl_s = 7;
    let answer = world.ask("absent.demo.local.", RecordType::A, 1);
    let [soa] = answer.authorities.as_slice() else { panic!("{answer:?}") };
    assert_eq!((soa.name.to_ascii().as_str(), soa.ttl), ("demo.local.", 7));
    let RData::SOA(data) = &soa.data else { panic!("{soa:?}") };
    assert_eq!(data.minimum, 7);
}

#[test]
fn a_zone_has_its_own_records_and_only_at_its_own_name() {
    let mut world = World::new();
    world.service("web", Multivalue, &[RecordKind::A]).with("a", at("10.0.1.6", 80));
    let soa = "SOA 15 ns.gatehouse.invalid. hostmaster.gatehouse.invalid. 1 7200 900 1209600 15";
    assert_eq!(world.said("demo.local.", RecordType::SOA).1, [soa]);
    assert_eq!(world.said("demo.local.", RecordType::ANY).1, [soa]);
    assert_eq!(world.said("demo.local.", RecordType::NS).1, ["NS 172800 ns.gatehouse.invalid."]);
    assert_eq!(world.said("demo.local.", RecordType::A), (NoError, vec![]));
    assert_eq!(world.said("web.demo.local.", RecordType::SOA), (NoError, vec![]));
}

#[test]
fn a_question_for_all_is_answered_with_one_set() {
    let mut world = World::new();
    let service = world.service("web", Multivalue, &[RecordKind::A, RecordKind::Aaaa]);
    service.with("a", at("10.0.1.6", 80)).with("b", at("fd00::6", 80));
    assert_eq!(world.said("web.demo.local.", RecordType::ANY).1, ["A 60 10.0.1.6"]);
}

#[test]
fn aliases_are_followed_inside_and_named_outside() {
    let mut world = World::new();
    world.service("web", Multivalue, &[RecordKind::A]).with("a", at("10.0.1.6", 80));
    world.service("www", Weighted, &[RecordKind::Cname]).with("a", alias("Web.demo.local"));
    world.service("lost", Weighted, &[RecordKind::Cname]).with("a", alias("absent.demo.local."));
    world.service("away", Weighted, &[RecordKind::Cname]).with("a", alias("www.example.com."));
    let (code, records) = world.said("www.demo.local.", RecordType::A);
    assert_eq!((code, records), (NoError, vec!["A 60 10.0.1.6".into(), "CNAME 60 Web.demo.local.".into()]));
    assert_eq!(world.said("www.demo.local.", RecordType::CNAME).1, ["CNAME 60 Web.demo.local."]);
    assert_eq!(world.said("www.demo.local.", RecordType::ANY).1, ["CNAME 60 Web.demo.local."]);
    let lost = world.ask("lost.demo.local.", RecordType::A, 1);
    assert_eq!((lost.code, lost.answers.len(), lost.authorities.len()), (NXDomain, 1, 1));
    let away = Name::from_str("away.demo.local.").unwrap();
    let Decision::Elsewhere { name, aliases } = Zones::compile(&world.0).answer(&away, RecordType::A, 1)
    else {
        panic!("the name is in no zone");
    };
    assert_eq!((name.to_ascii().as_str(), aliases.len()), ("www.example.com.", 1));
}

#[test]
fn aliases_that_go_round_are_a_failure() {
    let mut world = World::new();
    world.service("a", Weighted, &[RecordKind::Cname]).with("a", alias("b.demo.local"));
    world.service("b", Weighted, &[RecordKind::Cname]).with("a", alias("a.demo.local"));
    let answer = world.ask("a.demo.local.", RecordType::A, 1);
    assert_eq!((answer.code, answer.answers.len()), (ResponseCode::ServFail, 0));
}

#[test]
fn the_most_specific_zone_answers() {
    let mut world = World::new();
    world.service("x.sub", Multivalue, &[RecordKind::A]).with("a", at("10.0.1.6", 80));
    world.zone("sub.demo.local").soa_ttl_s = 3;
    let answer = world.ask("x.sub.demo.local.", RecordType::A, 1);
    assert_eq!((answer.code, answer.authorities[0].ttl), (NXDomain, 3));
}

#[test]
fn other_names_are_asked_for_elsewhere() {
    let zones = Zones::compile(&World::new().0);
    for name in ["example.com.", "local.", ".", "xdemo.local.", "demo.local.example.com."] {
        let name = Name::from_str(name).unwrap();
        let decision = zones.answer(&name, RecordType::A, 1);
        assert_eq!(decision, Decision::Elsewhere { name, aliases: vec![] });
    }
}

#[test]
fn names_that_dns_cannot_have_take_nothing_else_along() {
    let mut world = World::new();
    let long = "a".repeat(64);
    let service = world.service("web", Multivalue, &[RecordKind::Srv]);
    service.with("one", at("10.0.1.6", 80)).with(&long, at("10.0.1.7", 80)).with("a..b", at("10.0.1.8", 80));
    service.with("task/1:2@3", at("10.0.1.9", 80));
    assert_eq!(world.said("web.demo.local.", RecordType::SRV).1.len(), 2);
    let own = Name::from_labels(["task/1:2@3", "web", "demo", "local"].map(str::as_bytes)).unwrap();
    let decision = Zones::compile(&world.0).answer(&own, RecordType::A, 1);
    assert!(matches!(decision, Decision::Answer(answer) if answer.answers.len() == 1));
}
