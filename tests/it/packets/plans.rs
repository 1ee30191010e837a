//! Plans of one load balancer that has an address of each family.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use lb_userspace::model::id::Arn;
use lb_userspace::packet::{
    ListenerName, ListenerPlan, NodePlan, Plan, Protocol, Service, Side, TargetName, TargetPlan, Verdict,
};

use super::world::{BALANCER, World, balancer_arn, ipv6, target, target_name};

/// A listener of a static address.
pub(super) fn at(address: impl Into<IpAddr>, port: u16, protocol: Protocol) -> ListenerName {
    ListenerName { address: address.into(), port, protocol }
}

/// Targets of which all is well.
pub(super) fn healthy<A: Into<IpAddr> + Copy>(targets: &[A]) -> BTreeMap<TargetName, TargetPlan> {
    targets.iter().map(|address| (target_name(*address), target(*address, Verdict::Healthy))).collect()
}

/// A listener that everybody may use.
pub(super) fn listener(targets: BTreeMap<TargetName, TargetPlan>) -> ListenerPlan {
    ListenerPlan {
        arn: Arn::from("arn:aws:elasticloadbalancing:r:1:listener/net/a/1/1".to_owned()),
        sources: None,
        idle_timeout_s: 350,
        service: Service::Forward,
        is_sticky: false,
        new_flows_per_s: None,
        targets,
    }
}

/// The load balancer with these listeners.
pub(super) fn node(listeners: impl IntoIterator<Item = (ListenerName, ListenerPlan)>) -> Plan {
    let node = NodePlan {
        device: World::device(),
        balancer: balancer_arn(),
        zone: "a".to_owned(),
        ipv4: Side {
            address: BALANCER.into(),
            subnet: "10.0.1.0/24".parse().unwrap(),
            router: Ipv4Addr::new(10, 0, 1, 1).into(),
        },
        ipv6: Some(Side {
            address: ipv6(BALANCER).into(),
            subnet: "fd00:0:0:1::/64".parse().unwrap(),
            router: ipv6(Ipv4Addr::new(10, 0, 1, 1)).into(),
        }),
        secondary: BTreeMap::new(),
        listeners: listeners.into_iter().collect(),
    };
    Plan { nodes: [(BALANCER.into(), node)].into(), ..Plan::default() }
}
