//! What a node's slice means for packets: listeners on addresses, who may use them, and where their flows go.
//!
//! First of the path from a slice to the maps; `reconcile` comes next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::{
    id::Arn,
    load_balancer::{Action, LoadBalancerKind},
    target_group::TargetKey,
};
use crate::snapshot::node::{ListenerView, NodeSlice, TargetGroupView};
use crate::snapshot::permit::{Permit, TCP};

/// What the packet path should be. Values only: whatever is not in it is removed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Load balancers' interfaces by address.
    pub nodes: BTreeMap<Ipv4Addr, NodePlan>,
}

/// One interface of a network load balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct NodePlan {
    /// Name of the device in the node's namespace.
    pub device: String,
    /// The subnet.
    pub subnet: Ipv4Net,
    /// Next hop to everything outside the subnet.
    pub router: Ipv4Addr,
    /// Listeners by port.
    pub listeners: BTreeMap<u16, ListenerPlan>,
}

/// One listener on one interface.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPlan {
    /// The listener.
    pub arn: Arn,
    /// Who may use it; `None` is everyone.
    pub sources: Option<BTreeSet<Ipv4Net>>,
    /// Seconds of silence after which a flow makes room.
    pub idle_timeout_s: u32,
    /// All that flows may be at.
    pub targets: BTreeMap<TargetName, TargetPlan>,
}

/// A target of a listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetName {
    /// Its group.
    pub group: Arn,
    /// Its name in the group.
    pub key: TargetKey,
}

/// Where a target is and what it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPlan {
    /// Its address; the port is the name's.
    pub address: Ipv4Addr,
    /// Share of new flows; 0 gets none.
    pub weight: u32,
    /// What health checks say.
    pub health: Verdict,
    /// Whether its flows end when it is gone (`deregistration_delay.connection_termination.enabled`).
    pub terminates: bool,
}

/// What health checks say of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It gets new flows.
    Healthy,
    /// It gets new flows only if no target of its group is healthy.
    Unhealthy,
    /// Not checked since this process began: it gets new flows if it got them before.
    Unknown,
    /// Deregistered: it gets no new flow.
    Draining,
}

/// Reads a slice. `health` says what checks found of a target; draining targets are not asked about.
pub fn plan(slice: &NodeSlice, mut health: impl FnMut(&Arn, &TargetKey) -> Verdict) -> Plan {
    let mut plan = Plan::default();
    for (arn, balancer) in &slice.load_balancers {
        if balancer.kind != LoadBalancerKind::Network {
            continue;
        }
        let permits: Vec<&Permit> = balancer
            .security_groups
            .iter()
            .filter_map(|group| slice.security_groups.get(group))
            .flat_map(|group| &group.ingress)
            .collect();
        let guarded = !balancer.security_groups.is_empty();
        let listeners: BTreeMap<u16, ListenerPlan> = slice
            .listeners
            .iter()
            .filter(|(_, listener)| listener.load_balancer == *arn && listener.protocol == "TCP")
            .map(|(arn, listener)| {
                let sources = guarded.then(|| sources(&permits, listener.port));
                let plan = ListenerPlan {
                    arn: arn.clone(),
                    sources,
                    idle_timeout_s: idle_timeout_s(listener),
                    targets: targets(slice, listener, &mut health),
                };
                (listener.port, plan)
            })
            .collect();
        for interface in balancer.interfaces.values() {
            let Ok(subnet) = Ipv4Net::new(interface.address, interface.prefix_len) else { continue };
            let node = NodePlan {
                device: interface.device.clone(),
                subnet: subnet.trunc(),
                router: interface.router,
                listeners: listeners.clone(),
            };
            plan.nodes.insert(interface.address, node);
        }
    }
    plan
}

/// Where a node sends what is for `address`.
pub fn next_hop(node: &NodePlan, address: Ipv4Addr) -> Ipv4Addr {
    if node.subnet.contains(&address) { address } else { node.router }
}

/// The ranges that may use a port. The kernel finds the longest, so one that is inside another changes nothing.
fn sources(permits: &[&Permit], port: u16) -> BTreeSet<Ipv4Net> {
    let admitted = permits
        .iter()
        .filter(|permit| permit.protocol.is_none_or(|own| own == TCP))
        .filter(|permit| (permit.first_port..=permit.last_port).contains(&port))
        .flat_map(|permit| permit.peers.iter().copied())
        .collect();
    Ipv4Net::aggregate(&admitted).into_iter().collect()
}

fn targets(
    slice: &NodeSlice,
    listener: &ListenerView,
    health: &mut impl FnMut(&Arn, &TargetKey) -> Verdict,
) -> BTreeMap<TargetName, TargetPlan> {
    let Some(Action::Forward(groups)) = listener.default_actions.first() else { return BTreeMap::new() };
    // A single group takes everything, whatever its weight says.
    let alone = groups.len() == 1;
    let mut targets = BTreeMap::new();
    for share in groups {
        let Some(group) = slice.target_groups.get(&share.target_group_arn) else { continue };
        let weight = if alone { 1 } else { u32::from(share.weight) };
        add_group(&mut targets, &share.target_group_arn, group, weight, health);
    }
    targets
}

/// A group's weight is shared by those of its targets that take part.
fn add_group(
    targets: &mut BTreeMap<TargetName, TargetPlan>,
    arn: &Arn,
    group: &TargetGroupView,
    weight: u32,
    health: &mut impl FnMut(&Arn, &TargetKey) -> Verdict,
) {
    let terminates = group
        .attributes
        .get("deregistration_delay.connection_termination.enabled")
        .is_some_and(|value| value == "true");
    let verdicts: Vec<Verdict> = group
        .targets
        .values()
        .map(|target| match target.draining_until {
            Some(_) => Verdict::Draining,
            None => health(arn, &target.key),
        })
        .collect();
    // Fail open: when none is healthy, all are as good (AWS: "if all targets are unhealthy, the load balancer fails open").
    let open = !verdicts.iter().any(|verdict| matches!(verdict, Verdict::Healthy | Verdict::Unknown));
    let taking_part = |verdict: &Verdict| match verdict {
        Verdict::Healthy | Verdict::Unknown => true,
        Verdict::Unhealthy => open,
        Verdict::Draining => false,
    };
    let count =
        u32::try_from(verdicts.iter().filter(|verdict| taking_part(verdict)).count()).unwrap_or(u32::MAX);
    for (target, verdict) in group.targets.values().zip(verdicts) {
        let takes_part = taking_part(&verdict);
        let plan = TargetPlan {
            address: target.address,
            weight: if takes_part {
                (weight * SHARES).checked_div(count).unwrap_or(0).max(weight.min(1))
            } else {
                0
            },
            health: if takes_part && verdict == Verdict::Unhealthy { Verdict::Healthy } else { verdict },
            terminates,
        };
        targets.insert(TargetName { group: arn.clone(), key: target.key.clone() }, plan);
    }
}

fn idle_timeout_s(listener: &ListenerView) -> u32 {
    listener
        .attributes
        .get("tcp.idle_timeout.seconds")
        .and_then(|value| value.parse().ok())
        .filter(|seconds| (60..=6000).contains(seconds))
        .unwrap_or(DEFAULT_IDLE_TIMEOUT_S)
}

/// AWS's default for TCP listeners.
const DEFAULT_IDLE_TIMEOUT_S: u32 = 350;

/// A group's weight is cut in this many parts, so that groups of unlike sizes share as they should to within a percent.
const SHARES: u32 = 1_000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::id::{InterfaceId, SecurityGroupId, TimestampMs};
    use crate::model::load_balancer::WeightedTargetGroup;
    use crate::model::target_group::HealthCheck;
    use crate::snapshot::node::{LoadBalancerView, NodeInterface, TargetView};
    use crate::snapshot::permit::SecurityGroupView;

    fn arn(text: &str) -> Arn {
        Arn::from(text.to_owned())
    }

    fn group(addresses: &[(u8, bool)]) -> TargetGroupView {
        let targets = addresses.iter().map(|(host, drains)| {
            let key = TargetKey { id: format!("10.0.1.{host}"), port: 80 };
            let view = TargetView {
                address: Ipv4Addr::new(10, 0, 1, *host),
                registered_at: TimestampMs::default(),
                draining_until: drains.then(TimestampMs::default),
                key: key.clone(),
            };
            (key.to_string(), view)
        });
        TargetGroupView {
            name: "group".to_owned(),
            protocol: "TCP".to_owned(),
            in_use: true,
            health_check: HealthCheck {
                enabled: true,
                protocol: "TCP".to_owned(),
                port: "traffic-port".to_owned(),
                path: String::new(),
                interval_s: 30,
                timeout_s: 10,
                healthy_threshold: 5,
                unhealthy_threshold: 2,
                matcher: String::new(),
            },
            attributes: BTreeMap::new(),
            targets: targets.collect(),
        }
    }

    fn slice(groups: Vec<(&str, u16, TargetGroupView)>, security: Option<Vec<Permit>>) -> NodeSlice {
        let interface = NodeInterface {
            device: "eni".to_owned(),
            address: Ipv4Addr::new(10, 0, 1, 4),
            prefix_len: 24,
            router: Ipv4Addr::new(10, 0, 1, 1),
            zone: "a".to_owned(),
        };
        let forward = groups
            .iter()
            .map(|(name, weight, _)| WeightedTargetGroup { target_group_arn: arn(name), weight: *weight })
            .collect();
        let id = SecurityGroupId::from("sg-1".to_owned());
        NodeSlice {
            vpc_id: crate::model::id::VpcId::from("vpc-1".to_owned()),
            namespace: "node".to_owned(),
            load_balancers: [(
                arn("balancer"),
                LoadBalancerView {
                    kind: LoadBalancerKind::Network,
                    name: "a".to_owned(),
                    interfaces: [(InterfaceId::from("eni-1".to_owned()), interface)].into(),
                    security_groups: security.iter().map(|_| id.clone()).collect(),
                    attributes: BTreeMap::new(),
                },
            )]
            .into(),
            listeners: [(
                arn("listener"),
                ListenerView {
                    load_balancer: arn("balancer"),
                    protocol: "TCP".to_owned(),
                    port: 80,
                    rules: Vec::new(),
                    default_actions: vec![Action::Forward(forward)],
                    attributes: [("tcp.idle_timeout.seconds".to_owned(), "60".to_owned())].into(),
                },
            )]
            .into(),
            target_groups: groups.into_iter().map(|(name, _, view)| (arn(name), view)).collect(),
            security_groups: security
                .into_iter()
                .map(|ingress| (id.clone(), SecurityGroupView { ingress, egress: Vec::new() }))
                .collect(),
            resolver: None,
        }
    }

    fn listener(plan: &Plan) -> &ListenerPlan {
        plan.nodes.values().next().and_then(|node| node.listeners.get(&80)).unwrap()
    }

    #[test]
    fn a_network_load_balancer_becomes_its_listeners_on_its_addresses() {
        let plan = plan(&slice(vec![("g", 1, group(&[(20, false)]))], None), |_, _| Verdict::Healthy);
        let node = &plan.nodes[&Ipv4Addr::new(10, 0, 1, 4)];
        assert_eq!(node.subnet.to_string(), "10.0.1.0/24");
        assert_eq!(listener(&plan).idle_timeout_s, 60);
        assert_eq!(listener(&plan).sources, None);
    }

    #[test]
    fn groups_share_by_weight_and_their_targets_equally() {
        let groups = vec![("one", 1, group(&[(20, false)])), ("two", 3, group(&[(21, false), (22, false)]))];
        let plan = plan(&slice(groups, None), |_, _| Verdict::Healthy);
        let weights: Vec<u32> = listener(&plan).targets.values().map(|target| target.weight).collect();
        assert_eq!(weights, [1_000, 1_500, 1_500]);
    }

    #[test]
    fn unhealthy_targets_get_nothing_unless_all_are() {
        let slice = slice(vec![("g", 1, group(&[(20, false), (21, false)]))], None);
        let one =
            plan(&slice, |_, key| if key.id.ends_with("20") { Verdict::Healthy } else { Verdict::Unhealthy });
        let weights: Vec<u32> = listener(&one).targets.values().map(|target| target.weight).collect();
        assert_eq!(weights, [1_000, 0]);
        let none = plan(&slice, |_, _| Verdict::Unhealthy);
        assert!(listener(&none).targets.values().all(|target| target.weight > 0));
    }

    #[test]
    fn draining_targets_stay_without_new_flows() {
        let slice = slice(vec![("g", 1, group(&[(20, true), (21, false)]))], None);
        let plan = plan(&slice, |_, _| Verdict::Healthy);
        let weights: Vec<u32> = listener(&plan).targets.values().map(|target| target.weight).collect();
        assert_eq!(weights, [0, 1_000]);
    }

    #[test]
    fn security_groups_become_the_ranges_of_the_listeners_port() {
        let permit = |first_port, last_port, peer: &str| Permit {
            protocol: Some(TCP),
            first_port,
            last_port,
            peers: vec![peer.parse().unwrap()],
        };
        let permits = vec![
            permit(80, 80, "10.1.0.0/16"),
            permit(1, 1_000, "10.1.2.0/24"),
            permit(443, 443, "0.0.0.0/0"),
            permit(0, 65_535, "192.0.2.7/32"),
        ];
        let plan = plan(&slice(vec![("g", 1, group(&[]))], Some(permits)), |_, _| Verdict::Healthy);
        let ranges: Vec<String> = listener(&plan).sources.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(ranges, ["10.1.0.0/16", "192.0.2.7/32"]);
    }

    #[test]
    fn groups_that_admit_nobody_are_not_groups_that_are_not_there() {
        let plan = plan(&slice(Vec::new(), Some(Vec::new())), |_, _| Verdict::Healthy);
        assert_eq!(listener(&plan).sources, Some(BTreeSet::new()));
    }
}
