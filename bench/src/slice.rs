//! What control would send a node: one load balancer with one listener and one target group, open to everybody.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use anyhow::Result;
use lb_userspace::{
    model::{
        id::{Arn, VpcId},
        load_balancer::{Action, LoadBalancerKind, WeightedTargetGroup},
        target_group::{HealthCheck, TargetKey},
    },
    snapshot::{
        node::{ListenerView, LoadBalancerView, NodeInterface, NodeSlice, TargetGroupView, TargetView},
        permit::{Permit, SecurityGroupView},
    },
};

/// What differs between the benches.
pub(crate) struct Shape<'a> {
    pub(crate) kind: LoadBalancerKind,
    /// Of the listener and of the target group.
    pub(crate) protocol: &'a str,
    /// The load balancer's interface.
    pub(crate) device: &'a str,
    pub(crate) prefix_len: u8,
    pub(crate) router: Ipv4Addr,
    /// The listener.
    pub(crate) address: SocketAddrV4,
    pub(crate) targets: &'a [SocketAddrV4],
}

/// The slice.
pub(crate) fn slice(shape: &Shape<'_>) -> Result<NodeSlice> {
    let (balancer, group) = (Arn::from("balancer"), Arn::from("group"));
    let interface = NodeInterface {
        device: shape.device.to_owned(),
        address: *shape.address.ip(),
        prefix_len: shape.prefix_len,
        router: shape.router,
        zone: "a".to_owned(),
        ipv6: None,
        secondary: Vec::new(),
    };
    let load_balancer = LoadBalancerView {
        kind: shape.kind,
        name: "bench".to_owned(),
        interfaces: BTreeMap::from([("eni".into(), interface)]),
        security_groups: vec!["sg".into()],
        attributes: BTreeMap::new(),
    };
    let forward = WeightedTargetGroup { target_group_arn: group.clone(), weight: 1 };
    let listener = ListenerView {
        load_balancer: balancer.clone(),
        protocol: shape.protocol.to_owned(),
        port: shape.address.port(),
        rules: Vec::new(),
        default_actions: vec![Action::Forward(vec![forward])],
        attributes: BTreeMap::new(),
        tls: None,
    };
    let targets = shape.targets.iter().map(|target| {
        let key = TargetKey { id: target.ip().to_string(), port: target.port() };
        let view = TargetView {
            key,
            address: (*target.ip()).into(),
            zone: None,
            server_id: None,
            registered_at: 1,
            draining_until: None,
        };
        (view.key.to_string(), view)
    });
    let targets = TargetGroupView {
        name: "bench".to_owned(),
        protocol: shape.protocol.to_owned(),
        in_use: true,
        health_check: HealthCheck {
            enabled: false,
            protocol: shape.protocol.to_owned(),
            port: "traffic-port".to_owned(),
            path: "/".to_owned(),
            interval_s: 30,
            timeout_s: 6,
            healthy_threshold: 5,
            unhealthy_threshold: 2,
            matcher: "200".to_owned(),
        },
        attributes: BTreeMap::new(),
        targets: targets.collect(),
    };
    let permit =
        Permit { protocol: None, first_port: 0, last_port: u16::MAX, peers: vec!["0.0.0.0/0".parse()?] };
    Ok(NodeSlice {
        resolver: None,
        certificates: BTreeMap::new(),
        links: BTreeMap::new(),
        vpc_id: VpcId::from("vpc"),
        namespace: String::new(),
        load_balancers: BTreeMap::from([(balancer, load_balancer)]),
        listeners: BTreeMap::from([(Arn::from("listener"), listener)]),
        target_groups: BTreeMap::from([(group, targets)]),
        security_groups: BTreeMap::from([(
            "sg".into(),
            SecurityGroupView { ingress: vec![permit.clone()], egress: vec![permit] },
        )]),
    })
}
