//! The answer to a question: records, or that there are none, or that somebody else must be asked.

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SRV},
    },
};

use super::{
    choose::{Offer, Random, choose},
    index::{Host, Instance, Node, Service, Zone, Zones},
    key::key,
};
use crate::snapshot::zone::RecordKind;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// This is the answer.
    Answer(Answer),
    /// No zone holds this name.
    Elsewhere {
        /// The name to ask for: the question's, or where aliases led.
        name: Name,
        /// The aliases that led there, which come first in the answer.
        aliases: Vec<Record>,
    },
}

/// An answer, by its sections.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// NOERROR, or why not.
    pub code: ResponseCode,
    /// Whether the name is in a zone of the VPC's own.
    pub authoritative: bool,
    /// Whether there is more than whoever was asked could send.
    pub truncated: bool,
    /// What was asked for.
    pub answers: Vec<Record>,
    /// The zone's SOA record, if there is nothing.
    pub authorities: Vec<Record>,
    /// Addresses of the names in the answer.
    pub additionals: Vec<Record>,
}

impl Answer {
    /// An answer that is only a code.
    pub fn code(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

impl Zones {
    /// Answers a question. `seed` decides which instances of many, and in which order.
    pub fn answer(&self, name: &Name, kind: RecordType, seed: u64) -> Decision {
        let mut random = Random::new(seed);
        let mut answer = Answer { authoritative: true, ..Answer::default() };
        let mut owner = name.clone();
        for _ in 0..=ALIASES_MAX {
            let key = key(&owner);
            let Some(zone) = self.zone_of(&key) else {
                return Decision::Elsewhere { name: owner, aliases: answer.answers };
            };
            let Some(node) = zone.node(&key) else {
                // RFC 2308, 3: the SOA record says how long to remember that.
                answer.code = ResponseCode::NXDomain;
                answer.authorities.push(zone.soa.clone());
                return Decision::Answer(answer);
            };
            if let Some((ttl, target)) = node.alias(kind, &mut random) {
                let alias = RData::CNAME(CNAME(target.clone()));
                answer.answers.push(Record::from_rdata(owner, ttl, alias));
                owner = target;
                continue;
            }
            answer.fill(zone, node, &owner, kind, &mut random);
            return Decision::Answer(answer);
        }
        // Aliases that lead back to themselves lead nowhere.
        Decision::Answer(Answer { authoritative: true, ..Answer::code(ResponseCode::ServFail) })
    }
}

impl Answer {
    /// Adds the records of this type, or says that there are none.
    fn fill(&mut self, zone: &Zone, node: &Node, owner: &Name, kind: RecordType, random: &mut Random) {
        let kinds = match kind {
            // RFC 8482, 4.1: one set of records is answer enough to a question for all.
            RecordType::ANY => ANY_ORDER,
            ref one => std::slice::from_ref(one),
        };
        for kind in kinds {
            let found = self.records(zone, node, owner, *kind, random);
            if !found.is_empty() {
                self.answers.extend(found);
                return;
            }
        }
        self.authorities.push(zone.soa.clone());
    }

    fn records(
        &mut self,
        zone: &Zone,
        node: &Node,
        owner: &Name,
        kind: RecordType,
        random: &mut Random,
    ) -> Vec<Record> {
        let record = |(ttl, data)| Record::from_rdata(owner.clone(), ttl, data);
        match kind {
            RecordType::A => node
                .service_records(RecordKind::A, |instance| instance.ipv4, random)
                .into_iter()
                .chain(node.host_records(|host| host.ipv4))
                .map(|(ttl, address)| record((ttl, RData::A(A(address)))))
                .collect(),
            RecordType::AAAA => node
                .service_records(RecordKind::Aaaa, |instance| instance.ipv6, random)
                .into_iter()
                .chain(node.host_records(|host| host.ipv6))
                .map(|(ttl, address)| record((ttl, RData::AAAA(AAAA(address)))))
                .collect(),
            RecordType::CNAME => node
                .service_records(RecordKind::Cname, |instance| instance.cname.as_ref(), random)
                .into_iter()
                .map(|(ttl, target)| record((ttl, RData::CNAME(CNAME(target.clone())))))
                .collect(),
            RecordType::SRV => node
                .service_records(RecordKind::Srv, |instance| instance.srv.as_ref(), random)
                .into_iter()
                .map(|(ttl, (port, target))| {
                    // RFC 2782: the targets' addresses come along, and save a question for each.
                    self.add_addresses(zone, target);
                    record((ttl, RData::SRV(SRV::new(PRIORITY, WEIGHT, *port, target.clone()))))
                })
                .collect(),
            RecordType::SOA if *owner == zone.apex => vec![zone.soa.clone()],
            RecordType::NS if *owner == zone.apex => vec![zone.ns.clone()],
            _ => Vec::new(),
        }
    }

    fn add_addresses(&mut self, zone: &Zone, target: &Name) {
        for host in zone.node(&key(target)).iter().flat_map(|node| &node.hosts) {
            let data = host.ipv4.map(|address| RData::A(A(address)));
            let data = data.into_iter().chain(host.ipv6.map(|address| RData::AAAA(AAAA(address))));
            self.additionals.extend(data.map(|data| Record::from_rdata(target.clone(), host.ttl, data)));
        }
    }
}

impl Node {
    /// The name that this one is another name for, unless the question is for that very fact (RFC 1034, 3.6.2).
    fn alias(&self, kind: RecordType, random: &mut Random) -> Option<(u32, Name)> {
        if matches!(kind, RecordType::CNAME | RecordType::ANY) {
            return None;
        }
        let alias =
            self.service_records(RecordKind::Cname, |instance| instance.cname.as_ref(), random).pop()?;
        Some((alias.0, alias.1.clone()))
    }

    /// TTL and value of the service's records of a type.
    fn service_records<'a, T: PartialEq>(
        &'a self,
        kind: RecordKind,
        value: impl Fn(&'a Instance) -> Option<T>,
        random: &mut Random,
    ) -> Vec<(u32, T)> {
        let Some(service) = &self.service else { return Vec::new() };
        let Some(ttl) = service.ttls.get(&kind) else { return Vec::new() };
        service.choose(value, random).into_iter().map(|value| (*ttl, value)).collect()
    }

    fn host_records<T>(&self, value: impl Fn(&Host) -> Option<T>) -> impl Iterator<Item = (u32, T)> {
        self.hosts.iter().filter_map(move |host| Some((host.ttl, value(host)?)))
    }
}

impl Service {
    fn choose<'a, T: PartialEq>(
        &'a self,
        value: impl Fn(&'a Instance) -> Option<T>,
        random: &mut Random,
    ) -> Vec<T> {
        let offers = self
            .instances
            .iter()
            .filter_map(|instance| Some(Offer { record: value(instance)?, healthy: instance.healthy }));
        choose(offers, self.routing, random)
    }
}

/// Cloud Map's SRV records say `1 1 <port> <instance>.<service>.<namespace>`.
const PRIORITY: u16 = 1;
const WEIGHT: u16 = 1;

/// Which records answer a question for all, if there are some.
const ANY_ORDER: &[RecordType] =
    &[RecordType::CNAME, RecordType::SRV, RecordType::A, RecordType::AAAA, RecordType::SOA];

/// Aliases that are followed for one question. Chains of more than two are no design.
const ALIASES_MAX: usize = 8;
