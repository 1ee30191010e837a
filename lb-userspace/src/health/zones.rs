//! Which zones of network load balancers are healthy, as AWS tells it in ZonalHealthStatus.
//!
//! Told once a second, beside the prober: a zone's health is its groups' alone, and a verdict may change many.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    model::load_balancer::{Action, LoadBalancerKind},
    snapshot::{
        node::{LoadBalancerView, NodeSlice, TargetGroupView},
        spread::{Health, crosses_zones},
        verdict::Verdicts,
    },
    telemetry::{Metrics, metrics::Labels, name},
};

/// What was told of zones.
pub struct Zones {
    metrics: Arc<Metrics>,
    told: BTreeSet<Labels>,
}

impl Zones {
    /// Nothing yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, told: BTreeSet::new() }
    }

    /// Tells which zones are healthy now, and forgets those that are gone.
    pub fn tell(&mut self, slice: &NodeSlice, verdicts: &Verdicts) {
        let now = zones(slice, verdicts);
        for labels in self.told.iter().filter(|labels| !now.contains_key(*labels)) {
            self.metrics.remove(name::NLB_ZONAL_HEALTH, labels);
        }
        for (labels, is_healthy) in &now {
            self.metrics.gauge(name::NLB_ZONAL_HEALTH, labels).set(i64::from(*is_healthy));
        }
        self.told = now.into_keys().collect();
    }
}

/// Load balancers in zones, and whether each of their groups has a healthy target there; in any zone, if it crosses them.
fn zones(slice: &NodeSlice, verdicts: &Verdicts) -> BTreeMap<Labels, bool> {
    let mut zones = BTreeMap::new();
    for listener in slice.listeners.values() {
        let Some(balancer) = slice.load_balancers.get(&listener.load_balancer) else { continue };
        if balancer.kind != LoadBalancerKind::Network {
            continue;
        }
        for arn in listener.default_actions.iter().flat_map(Action::groups) {
            let Some(group) = slice.target_groups.get(arn) else { continue };
            let is_healthy =
                |zone: &str| has_healthy(group, zone, balancer, |target| verdicts.health(arn, target));
            for interface in balancer.interfaces.values() {
                let labels = vec![
                    ("LoadBalancer", balancer.name.clone()),
                    ("AvailabilityZone", interface.zone.clone()),
                ];
                *zones.entry(labels).or_insert(true) &= is_healthy(&interface.zone);
            }
        }
    }
    zones
}

fn has_healthy(
    group: &TargetGroupView,
    zone: &str,
    balancer: &LoadBalancerView,
    health: impl Fn(&crate::snapshot::node::TargetView) -> Health,
) -> bool {
    let crosses_zones = crosses_zones(&group.attributes, &balancer.attributes);
    let mut near = group
        .targets
        .values()
        .filter(|target| crosses_zones || target.zone.as_deref().is_none_or(|own| own == zone));
    near.any(|target| matches!(health(target), Health::Healthy | Health::Unknown))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        model::{
            id::{Arn, InterfaceId, VpcId},
            load_balancer::WeightedTargetGroup,
            target_group::{HealthCheck, TargetHealth, TargetHealthState, TargetKey},
        },
        snapshot::{
            node::{ListenerView, NodeInterface, TargetView},
            verdict::Verdict,
        },
    };

    fn key(zone: &str) -> TargetKey {
        TargetKey { id: zone.to_owned(), port: 80 }
    }

    /// A load balancer in zones a and b, and a group with a target in each.
    fn slice(crosses_zones: bool) -> NodeSlice {
        let interface = |zone: &str| {
            let view = NodeInterface {
                device: zone.to_owned(),
                address: Ipv4Addr::LOCALHOST,
                prefix_len: 24,
                router: Ipv4Addr::LOCALHOST,
                zone: zone.to_owned(),
                ipv6: None,
                secondary: Vec::new(),
            };
            (InterfaceId::from(zone), view)
        };
        let target = |zone: &str| {
            let view = TargetView {
                key: key(zone),
                address: Ipv4Addr::LOCALHOST.into(),
                zone: Some(zone.to_owned()),
                server_id: None,
                registered_at: 1,
                draining_until: None,
            };
            (zone.to_owned(), view)
        };
        let group = TargetGroupView {
            name: "g".to_owned(),
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
            targets: [target("a"), target("b")].into(),
        };
        let balancer = LoadBalancerView {
            kind: LoadBalancerKind::Network,
            name: "lb".to_owned(),
            interfaces: [interface("a"), interface("b")].into(),
            security_groups: Vec::new(),
            attributes: [("load_balancing.cross_zone.enabled".to_owned(), crosses_zones.to_string())].into(),
        };
        let forward = WeightedTargetGroup { target_group_arn: Arn::from("g"), weight: 1 };
        let listener = ListenerView {
            load_balancer: Arn::from("lb"),
            protocol: "TCP".to_owned(),
            port: 80,
            rules: Vec::new(),
            default_actions: vec![Action::Forward(vec![forward])],
            attributes: BTreeMap::new(),
            tls: None,
        };
        NodeSlice {
            vpc_id: VpcId::from("vpc-1"),
            namespace: String::new(),
            load_balancers: [(Arn::from("lb"), balancer)].into(),
            listeners: [(Arn::from("listener"), listener)].into(),
            target_groups: [(Arn::from("g"), group)].into(),
            security_groups: BTreeMap::new(),
            resolver: None,
            certificates: BTreeMap::new(),
            links: BTreeMap::new(),
        }
    }

    fn verdicts(states: [TargetHealthState; 2]) -> Verdicts {
        let verdict = |zone: &str, state| {
            let health = TargetHealth { state, reason: None, description: None };
            (key(zone), Verdict { registered_at: 1, health })
        };
        let [a, b] = states;
        let group = [verdict("a", a), verdict("b", b)].into();
        Verdicts { groups: [(Arn::from("g"), Arc::new(group))].into() }
    }

    #[test]
    fn a_zone_is_healthy_while_it_has_a_healthy_target_of_each_group() {
        use TargetHealthState::{Healthy, Unhealthy};
        let metrics = Arc::new(Metrics::new());
        let mut told = Zones::new(metrics.clone());
        let mut line = |slice: &NodeSlice, states, zone: &str| {
            told.tell(slice, &verdicts(states));
            let name = format!(
                "gatehouse_nlb_ZonalHealthStatus{{LoadBalancer=\"lb\",AvailabilityZone=\"{zone}\"}} "
            );
            let text = metrics.text();
            text.lines().find_map(|line| line.strip_prefix(name.as_str())).map(str::to_owned)
        };
        let of = |value: &str| Some(value.to_owned());
        assert_eq!(line(&slice(false), [Healthy, Unhealthy], "a"), of("1"));
        assert_eq!(line(&slice(false), [Healthy, Unhealthy], "b"), of("0"));
        assert_eq!(line(&slice(true), [Healthy, Unhealthy], "b"), of("1"));
        assert_eq!(line(&slice(true), [Unhealthy, Unhealthy], "b"), of("0"));
        let gone = NodeSlice { listeners: BTreeMap::new(), ..slice(true) };
        assert_eq!(line(&gone, [Healthy, Healthy], "a"), None);
    }
}
