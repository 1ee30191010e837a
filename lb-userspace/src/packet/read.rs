//! What a node's slice means for packets.
//!
//! First of the path from a slice to the maps; `reconcile` comes next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::plan::{
    ListenerName, ListenerPlan, Mode, NodePlan, Plan, Protocol, Service, Side, TargetName, TargetPlan,
    Verdict,
};
use crate::model::{
    id::Arn,
    load_balancer::{Action, Attributes, LoadBalancerKind},
    target_group::TargetKey,
};
use crate::snapshot::node::{ListenerView, LoadBalancerView, NodeInterface, NodeSlice, TargetGroupView};
use crate::snapshot::permit::Permit;
use crate::snapshot::spread::{Candidate, Minimum, Share, crosses_zones, spread};

/// Reads a slice. `health` says what checks found of a target; draining targets are not asked about.
pub fn plan(slice: &NodeSlice, mut health: impl FnMut(&Arn, &TargetKey) -> Verdict) -> Plan {
    let mut plan = Plan::default();
    for (arn, balancer) in &slice.load_balancers {
        if balancer.kind != LoadBalancerKind::Network {
            continue;
        }
        let permits = permits(slice, balancer);
        for interface in balancer.interfaces.values() {
            let Some((ipv4, ipv6)) = sides(interface) else { continue };
            let mut node = NodePlan {
                device: interface.device.clone(),
                balancer: arn.clone(),
                zone: interface.zone.clone(),
                ipv4,
                ipv6,
                secondary: secondary(interface),
                listeners: BTreeMap::new(),
            };
            let addresses: Vec<IpAddr> = node.addresses().collect();
            let views = slice.listeners.iter().filter(|(_, listener)| listener.load_balancer == *arn);
            for (arn, view) in views {
                let forward = Forward { slice, balancer, arn, view, zone: &interface.zone };
                let targets = forward.targets(&mut health);
                for protocol in protocols(view) {
                    let listener = forward.listener(*protocol, &targets);
                    for address in &addresses {
                        let name = ListenerName { address: *address, port: view.port, protocol: *protocol };
                        let sources = permits.as_ref().map(|permits| sources(permits, &name));
                        node.listeners.insert(name, ListenerPlan { sources, ..listener.clone() });
                    }
                }
            }
            plan.nodes.insert(node.ipv4.address, node);
        }
    }
    plan
}

/// Whether a group's targets get packets, and not connections that end in userspace first.
pub fn is_forwarded(group: &TargetGroupView) -> bool {
    matches!(group.protocol.as_str(), "TCP" | "UDP" | "TCP_UDP" | "QUIC" | "TCP_QUIC")
        && !is_on(&group.attributes, "proxy_protocol_v2.enabled")
}

/// What may come in; `None` without security groups.
fn permits<'a>(slice: &'a NodeSlice, balancer: &LoadBalancerView) -> Option<Vec<&'a Permit>> {
    let groups = &balancer.security_groups;
    let views = groups.iter().filter_map(|group| slice.security_groups.get(group));
    (!groups.is_empty()).then(|| views.flat_map(|group| &group.ingress).collect())
}

/// `None` if the prefix is longer than an address: no slice that control compiled has one.
fn sides(interface: &NodeInterface) -> Option<(Side, Option<Side>)> {
    let side = |address: IpAddr, length: u8, router: IpAddr| {
        let subnet = IpNet::new(address, length).ok()?.trunc();
        Some(Side { address, subnet, router })
    };
    let ipv4 = side(interface.address.into(), interface.prefix_len, interface.router.into())?;
    let ipv6 = interface.ipv6.and_then(|own| side(own.address.into(), own.prefix_len, own.router.into()));
    Some((ipv4, ipv6))
}

fn secondary(interface: &NodeInterface) -> BTreeMap<IpAddr, String> {
    let own = interface.secondary.iter();
    own.map(|secondary| (secondary.address.into(), secondary.device.clone())).collect()
}

/// What a listener's packets carry; nothing for a protocol that is not a network load balancer's.
fn protocols(listener: &ListenerView) -> &'static [Protocol] {
    match listener.protocol.as_str() {
        "TCP" | "TLS" => &[Protocol::Tcp],
        "UDP" | "QUIC" => &[Protocol::Udp],
        "TCP_UDP" | "TCP_QUIC" => &[Protocol::Tcp, Protocol::Udp],
        _ => &[],
    }
}

/// The ranges that may use a listener. The kernel finds the longest, so one that is inside another changes nothing.
fn sources(permits: &[&Permit], name: &ListenerName) -> BTreeSet<IpNet> {
    let admitted: Vec<IpNet> = permits
        .iter()
        .filter(|permit| permit.protocol.is_none_or(|own| own == name.protocol.number()))
        .filter(|permit| (permit.first_port..=permit.last_port).contains(&name.port))
        .flat_map(|permit| permit.peers.iter().copied())
        .filter(|range| range.addr().is_ipv4() == name.address.is_ipv4())
        .collect();
    IpNet::aggregate(&admitted).into_iter().collect()
}

/// A listener in one zone.
struct Forward<'a> {
    slice: &'a NodeSlice,
    balancer: &'a LoadBalancerView,
    arn: &'a Arn,
    view: &'a ListenerView,
    zone: &'a str,
}

impl Forward<'_> {
    /// Its groups with their weights. A single group takes everything, whatever its weight says.
    fn groups(&self) -> impl Iterator<Item = (&Arn, &TargetGroupView, u32)> {
        let groups = match self.view.default_actions.first() {
            Some(Action::Forward(groups)) => groups.as_slice(),
            _ => &[],
        };
        let is_alone = groups.len() == 1;
        groups.iter().filter_map(move |share| {
            let arn = &share.target_group_arn;
            let weight = if is_alone { 1 } else { u32::from(share.weight) };
            Some((arn, self.slice.target_groups.get(arn)?, weight))
        })
    }

    /// All that its flows may be at.
    fn targets(
        &self,
        health: &mut impl FnMut(&Arn, &TargetKey) -> Verdict,
    ) -> BTreeMap<TargetName, TargetPlan> {
        let mut targets = BTreeMap::new();
        for (arn, group, weight) in self.groups() {
            self.add_group(&mut targets, arn, group, weight, health);
        }
        targets
    }

    fn add_group(
        &self,
        targets: &mut BTreeMap<TargetName, TargetPlan>,
        arn: &Arn,
        group: &TargetGroupView,
        weight: u32,
        health: &mut impl FnMut(&Arn, &TargetKey) -> Verdict,
    ) {
        let candidates: Vec<Candidate> = group
            .targets
            .values()
            .map(|target| Candidate {
                is_near: target.zone.as_deref().is_none_or(|zone| zone == self.zone),
                health: match target.draining_until {
                    Some(_) => Verdict::Draining,
                    None => health(arn, &target.key),
                },
            })
            .collect();
        let crosses_zones = crosses_zones(&group.attributes, &self.balancer.attributes);
        let shares = spread(&candidates, crosses_zones, Minimum::of(&group.attributes));
        let terminates = group.ends_deregistered();
        let ends_after_s = group.ends_unhealthy_after_s();
        let length = self.server_id_length();
        for ((target, candidate), Share { takes_part, fails_open }) in
            group.targets.values().zip(candidates).zip(shares)
        {
            let is_picked = takes_part && fails_open && candidate.health != Verdict::Unknown;
            let plan = TargetPlan {
                address: target.address,
                weight: if takes_part { weight } else { 0 },
                // When too few are healthy, all are as good.
                health: if is_picked { Verdict::Healthy } else { candidate.health },
                mode: mode(&group.attributes),
                server_id: target.server_id.and_then(|id| server_id(id, length)),
                terminates,
                ends_after_s,
                fails_open,
            };
            targets.insert(TargetName { group: arn.clone(), key: target.key.clone() }, plan);
        }
    }

    fn may_send(&self, protocol: Protocol, name: &TargetName, target: &TargetPlan) -> bool {
        let to = SocketAddr::new(target.address, name.key.port);
        self.slice.may_send(self.balancer, protocol.number(), to)
    }

    /// Bytes of the ids that its connection ids have. An attribute of ours, of its first group: AWS's have eight.
    fn server_id_length(&self) -> u8 {
        let set = self
            .groups()
            .next()
            .and_then(|(_, group, _)| group.attributes.get("gatehouse.quic.server_id_length")?.parse().ok());
        set.filter(|bytes| (1..=SERVER_ID_LENGTH).contains(bytes)).unwrap_or(SERVER_ID_LENGTH)
    }

    /// One of its protocols, open to everyone.
    fn listener(&self, protocol: Protocol, targets: &BTreeMap<TargetName, TargetPlan>) -> ListenerPlan {
        let has = |key: &str| self.groups().any(|(_, group, _)| is_on(&group.attributes, key));
        let service = match (self.view.protocol.as_str(), protocol) {
            ("TLS", _) => Service::Local,
            ("TCP", _) if self.slice.application_behind(self.view).is_some() => Service::Local,
            (_, Protocol::Tcp) if has("proxy_protocol_v2.enabled") => Service::Local,
            ("QUIC" | "TCP_QUIC", Protocol::Udp) => {
                Service::Quic { server_id_length: self.server_id_length() }
            }
            _ => Service::Forward,
        };
        ListenerPlan {
            arn: self.arn.clone(),
            sources: None,
            idle_timeout_s: match protocol {
                Protocol::Tcp => idle_timeout_s(&self.view.attributes),
                Protocol::Udp => UDP_IDLE_TIMEOUT_S,
            },
            service,
            is_sticky: has("stickiness.enabled"),
            new_flows_per_s: new_flows_per_s(&self.view.attributes),
            // What ends in a socket has its targets there. What the security groups let nobody send to is no target.
            targets: targets
                .iter()
                .filter(|_| service != Service::Local)
                .filter(|(name, target)| self.may_send(protocol, name, target))
                .map(|(name, target)| (name.clone(), target.clone()))
                .collect(),
        }
    }
}

fn is_on(attributes: &Attributes, key: &str) -> bool {
    attributes.get(key).is_some_and(|value| value == "true")
}

/// How packets come to a group's targets: our attribute if it is set, else AWS's.
fn mode(attributes: &Attributes) -> Mode {
    match attributes.get("gatehouse.forwarding").map(String::as_str) {
        Some("nat") => Mode::Nat,
        Some("preserve") => Mode::Preserve,
        Some("l2") => Mode::L2,
        Some("ipip") => Mode::Ipip,
        Some("gue") => Mode::Gue,
        _ if is_on(attributes, "preserve_client_ip.enabled") => Mode::Preserve,
        _ => Mode::Nat,
    }
}

/// AWS's attribute of TCP listeners, 60–6000 s.
fn idle_timeout_s(attributes: &Attributes) -> u32 {
    let set = attributes.get("tcp.idle_timeout.seconds").and_then(|value| value.parse().ok());
    set.filter(|seconds| (60..=6000).contains(seconds)).unwrap_or(TCP_IDLE_TIMEOUT_S)
}

fn new_flows_per_s(attributes: &Attributes) -> Option<u32> {
    attributes.get("gatehouse.new_flows_per_second")?.parse().ok()
}

/// A QuicServerId, its last hexadecimal digits lowest, as connection ids have it: first byte lowest. `None` if it is
/// longer than ids are.
fn server_id(id: u64, length: u8) -> Option<u64> {
    let unused = 64 - 8 * u32::from(length.min(SERVER_ID_LENGTH));
    let shifted = id.checked_shl(unused)?;
    (shifted >> unused == id).then(|| shifted.swap_bytes())
}

/// AWS's default for TCP listeners.
pub(super) const TCP_IDLE_TIMEOUT_S: u32 = 350;
/// AWS's for UDP, which has no attribute.
const UDP_IDLE_TIMEOUT_S: u32 = 120;
/// AWS's, in bytes.
const SERVER_ID_LENGTH: u8 = 8;

#[cfg(test)]
mod tests;
