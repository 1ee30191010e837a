//! A slice's zones as an index of names: what is looked up for a query was decided when the slice came.
//!
//! A name is there while something is registered under it or below it, as in AWS, where records come and go with their
//! instances. A service or instance whose name DNS cannot have is not there; the operations refuse to make one.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{
    Name, RData, Record,
    rdata::{NS, SOA},
};

use super::key::{ancestry, key, name};
use crate::snapshot::zone::{RecordKind, ResolverView, Routing, ZoneInstanceView, ZoneServiceView, ZoneView};

/// The zones of a VPC by name.
#[derive(Debug, Default)]
pub struct Zones {
    zones: HashMap<Vec<u8>, Zone>,
}

/// One zone.
#[derive(Debug)]
pub(super) struct Zone {
    /// Its own name.
    pub(super) apex: Name,
    /// Its SOA record: what an answer that a name or type does not exist carries.
    pub(super) soa: Record,
    /// Its NS record.
    pub(super) ns: Record,
    names: HashMap<Vec<u8>, Node>,
}

/// What is under one name. Nothing at all if names below it have something.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The service of this name.
    pub(super) service: Option<Service>,
    /// Instances of this name, which a service's SRV records lead to.
    pub(super) hosts: Vec<Host>,
}

/// A service with something registered.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) routing: Routing,
    pub(super) ttls: BTreeMap<RecordKind, u32>,
    pub(super) instances: Vec<Instance>,
}

/// A registered instance, as its service's records show it.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    /// Its port and its own name, in a service with SRV records.
    pub(super) srv: Option<(u16, Name)>,
    pub(super) cname: Option<Name>,
    pub(super) healthy: bool,
}

/// A registered instance under its own name.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) ttl: u32,
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
}

impl Zones {
    /// Makes the index. Takes time in proportion to the instances.
    pub fn compile(view: &ResolverView) -> Self {
        let zones = view.zones.iter().filter_map(|(namespace, zone)| {
            let apex = name(&[namespace])?;
            Some((key(&apex), Zone::compile(namespace, apex, zone)))
        });
        Self { zones: zones.collect() }
    }

    /// The most specific zone that the name is in.
    pub(super) fn zone_of(&self, key: &[u8]) -> Option<&Zone> {
        ancestry(key).find_map(|ancestor| self.zones.get(ancestor))
    }
}

impl Zone {
    fn compile(namespace: &str, apex: Name, view: &ZoneView) -> Self {
        let own = |label: &str| name(&[label, NOBODYS]).unwrap_or_else(Name::root);
        let soa = SOA::new(own("ns"), own("hostmaster"), 1, REFRESH_S, RETRY_S, EXPIRE_S, view.soa_ttl_s);
        let mut zone = Self {
            soa: Record::from_rdata(apex.clone(), view.soa_ttl_s, RData::SOA(soa)),
            ns: Record::from_rdata(apex.clone(), NS_TTL_S, RData::NS(NS(own("ns")))),
            names: HashMap::from([(key(&apex), Node::default())]),
            apex,
        };
        for (service, view) in &view.services {
            zone.add(namespace, service, view);
        }
        zone
    }

    /// What is under a name; `None` if the name does not exist.
    pub(super) fn node(&self, key: &[u8]) -> Option<&Node> {
        self.names.get(key)
    }

    fn add(&mut self, namespace: &str, service: &str, view: &ZoneServiceView) {
        let Some(owner) = name(&[service, namespace]) else { return };
        let srv_ttl = view.records.get(&RecordKind::Srv).copied();
        let mut instances = Vec::new();
        for (id, instance) in &view.instances {
            let own = srv_ttl.and_then(|ttl| Some((ttl, name(&[id, service, namespace])?)));
            let instance = Instance::compile(instance, own.as_ref().map(|(_, own)| own.clone()));
            if let (Some((ttl, own)), Some(_)) = (own, &instance.srv) {
                let host = Host { ttl, ipv4: instance.ipv4, ipv6: instance.ipv6 };
                self.under(&own).hosts.push(host);
            }
            if view.records.keys().any(|kind| instance.offers(*kind)) {
                instances.push(instance);
            }
        }
        if !instances.is_empty() {
            let service = Service { routing: view.routing, ttls: view.records.clone(), instances };
            self.under(&owner).service = Some(service);
        }
    }

    /// The node of a name in the zone, made if it is not there, with those between it and the zone's own.
    fn under(&mut self, name: &Name) -> &mut Node {
        let key = key(name);
        for parent in ancestry(&key).skip(1) {
            if self.names.contains_key(parent) {
                break;
            }
            self.names.insert(parent.to_vec(), Node::default());
        }
        self.names.entry(key).or_default()
    }
}

impl Instance {
    fn compile(view: &ZoneInstanceView, own: Option<Name>) -> Self {
        let has_address = view.ipv4.is_some() || view.ipv6.is_some();
        Self {
            ipv4: view.ipv4,
            ipv6: view.ipv6,
            srv: view.port.zip(own).filter(|_| has_address),
            cname: view.cname.as_ref().and_then(|target| name(&[target.trim_end_matches('.')])),
            healthy: view.healthy,
        }
    }

    fn offers(&self, kind: RecordKind) -> bool {
        match kind {
            RecordKind::A => self.ipv4.is_some(),
            RecordKind::Aaaa => self.ipv6.is_some(),
            RecordKind::Srv => self.srv.is_some(),
            RecordKind::Cname => self.cname.is_some(),
        }
    }
}

/// A domain that nobody can have (RFC 2606), because nobody can ask the name servers of a private zone. AWS names some
/// of its own there.
const NOBODYS: &str = "gatehouse.invalid";

/// Route 53's numbers in the SOA record. There are no secondary servers that would heed them.
const REFRESH_S: i32 = 7_200;
const RETRY_S: i32 = 900;
const EXPIRE_S: i32 = 1_209_600;

/// Route 53's TTL of NS records.
const NS_TTL_S: u32 = 172_800;
