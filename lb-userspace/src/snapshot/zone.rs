//! What a VPC's resolver answers: the VPC's private DNS namespaces as zones, and who may ask.
//!
//! Before it: Cloud Map's namespaces, services and instances in the state. After it: `registry` makes an index of names
//! of it and answers. Names are as the user gave them, joined only there.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::model::{
    State,
    discovery::{DiscoveryInstance, DiscoveryService, DnsConfig, Namespace, NamespaceKind},
    id::VpcId,
    network::Vpc,
};

/// A VPC's resolver: where it is, whom it answers, and what it knows by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolverView {
    /// Where it answers.
    pub address: Ipv4Addr,
    /// Who may ask: the VPC's range.
    pub clients: Ipv4Net,
    /// Zones by the name of their namespace.
    pub zones: BTreeMap<String, ZoneView>,
}

/// A private DNS namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneView {
    /// How long a resolver may remember that a name does not exist, in seconds.
    pub soa_ttl_s: u32,
    /// Services by name, below the namespace's.
    pub services: BTreeMap<String, ZoneServiceView>,
}

/// A service that has records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneServiceView {
    /// Which of its instances an answer names.
    pub routing: Routing,
    /// TTL in seconds by record type.
    pub records: BTreeMap<RecordKind, u32>,
    /// Registered instances by id.
    pub instances: BTreeMap<String, ZoneInstanceView>,
}

/// RoutingPolicy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Routing {
    /// `MULTIVALUE`: up to eight at random.
    Multivalue,
    /// `WEIGHTED`: one at random.
    Weighted,
}

/// A type of record that a service may declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Host names with ports.
    Srv,
    /// Another name.
    Cname,
}

/// A registered instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneInstanceView {
    /// `AWS_INSTANCE_IPV4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// `AWS_INSTANCE_IPV6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// `AWS_INSTANCE_PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `AWS_INSTANCE_CNAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cname: Option<String>,
    /// Its custom health; true for a service without a health check.
    pub healthy: bool,
}

/// Whether names of this VPC's own are resolved in it.
pub(super) fn has_zone(state: &State, vpc: &VpcId) -> bool {
    namespaces_of(state, vpc).next().is_some()
}

/// The resolver of a VPC; `None` if EnableDnsSupport is off.
pub(super) fn resolver(state: &State, vpc: &Vpc) -> Option<ResolverView> {
    let zones = namespaces_of(state, &vpc.id)
        .map(|(namespace, soa_ttl_s)| (namespace.name.clone(), zone(state, namespace, soa_ttl_s)));
    Some(ResolverView { address: vpc.resolver()?, clients: vpc.cidr, zones: zones.collect() })
}

fn namespaces_of<'a>(state: &'a State, vpc: &'a VpcId) -> impl Iterator<Item = (&'a Namespace, u32)> {
    state.namespaces.values().filter_map(move |namespace| match &namespace.kind {
        NamespaceKind::DnsPrivate { vpc_id, soa_ttl_s } if vpc_id == vpc => {
            Some((namespace.as_ref(), *soa_ttl_s))
        }
        _ => None,
    })
}

fn zone(state: &State, namespace: &Namespace, soa_ttl_s: u32) -> ZoneView {
    let services = state
        .discovery_services
        .values()
        .filter(|service| service.namespace_id == namespace.id)
        .filter_map(|service| {
            let dns = service.dns.as_ref()?;
            Some((service.name.clone(), service_view(state, service, dns)))
        })
        .collect();
    ZoneView { soa_ttl_s, services }
}

fn service_view(state: &State, service: &DiscoveryService, dns: &DnsConfig) -> ZoneServiceView {
    let kind = |word: &str| match word {
        "A" => Some(RecordKind::A),
        "AAAA" => Some(RecordKind::Aaaa),
        "SRV" => Some(RecordKind::Srv),
        "CNAME" => Some(RecordKind::Cname),
        _ => None,
    };
    let prefix = format!("{}/", service.id);
    let instances = state
        .with_prefix::<DiscoveryInstance>(&prefix)
        // Who finds a draining one now would still be asking it when it is gone.
        .filter(|instance| instance.draining_until.is_none())
        .map(|instance| (instance.id.clone(), instance_view(service, instance)))
        .collect();
    ZoneServiceView {
        routing: if dns.routing_policy == "WEIGHTED" { Routing::Weighted } else { Routing::Multivalue },
        records: dns.records.iter().filter_map(|(word, ttl)| Some((kind(word)?, *ttl))).collect(),
        instances,
    }
}

fn instance_view(service: &DiscoveryService, instance: &DiscoveryInstance) -> ZoneInstanceView {
    let attribute = |key: &str| instance.attributes.get(key);
    ZoneInstanceView {
        ipv4: attribute("AWS_INSTANCE_IPV4").and_then(|text| text.parse().ok()),
        ipv6: attribute("AWS_INSTANCE_IPV6").and_then(|text| text.parse().ok()),
        port: attribute("AWS_INSTANCE_PORT").and_then(|text| text.parse().ok()),
        cname: attribute("AWS_INSTANCE_CNAME").cloned(),
        healthy: instance.healthy || !service.custom_health,
    }
}
