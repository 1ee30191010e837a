//! Ours: the load balancer of the `gatehouse` binary, with one worker and one target.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::{Result, bail};
use lb_userspace::{
    model::{
        id::{Arn, VpcId},
        load_balancer::{Action, LoadBalancerKind, WeightedTargetGroup},
        target_group::{HealthCheck, TargetKey},
    },
    proxy::Proxy,
    snapshot::{
        node::{ListenerView, LoadBalancerView, NodeInterface, NodeSlice, TargetGroupView, TargetView},
        permit::{Permit, SecurityGroupView},
        verdict::Verdicts,
    },
    telemetry::Metrics,
};
use tokio::sync::{mpsc, watch};

/// Serves for ever.
pub(super) fn serve(address: SocketAddr, target: SocketAddr) -> Result<()> {
    let (SocketAddr::V4(address), SocketAddr::V4(target)) = (address, target) else { bail!("IPv4 only") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (_verdicts, table) = watch::channel(Arc::new(Verdicts::default()));
        let (reports, _reports) = mpsc::channel(16);
        let mut proxy = Proxy::start(1, table, reports, Arc::new(Metrics::new()))?;
        proxy.apply(&Arc::new(slice(address, target)?)).await?;
        std::future::pending::<Result<()>>().await
    })
}

fn slice(address: std::net::SocketAddrV4, target: std::net::SocketAddrV4) -> Result<NodeSlice> {
    let (balancer, group) = (Arn::from("balancer"), Arn::from("group"));
    let interface = NodeInterface {
        device: "lo".to_owned(),
        address: *address.ip(),
        prefix_len: 8,
        router: *address.ip(),
        zone: "a".to_owned(),
    };
    let load_balancer = LoadBalancerView {
        kind: LoadBalancerKind::Application,
        name: "bench".to_owned(),
        interfaces: BTreeMap::from([("eni".into(), interface)]),
        security_groups: vec!["sg".into()],
        attributes: BTreeMap::new(),
    };
    let forward = WeightedTargetGroup { target_group_arn: group.clone(), weight: 1 };
    let listener = ListenerView {
        load_balancer: balancer.clone(),
        protocol: "HTTP".to_owned(),
        port: address.port(),
        rules: Vec::new(),
        default_actions: vec![Action::Forward(vec![forward])],
        attributes: BTreeMap::new(),
    };
    let view = TargetView {
        key: TargetKey { id: target.ip().to_string(), port: target.port() },
        address: *target.ip(),
        registered_at: 1,
        draining_until: None,
    };
    let targets = TargetGroupView {
        name: "bench".to_owned(),
        protocol: "HTTP".to_owned(),
        in_use: true,
        health_check: HealthCheck {
            enabled: false,
            protocol: "HTTP".to_owned(),
            port: "traffic-port".to_owned(),
            path: "/".to_owned(),
            interval_s: 30,
            timeout_s: 6,
            healthy_threshold: 5,
            unhealthy_threshold: 2,
            matcher: "200".to_owned(),
        },
        attributes: BTreeMap::new(),
        targets: BTreeMap::from([(view.key.to_string(), view)]),
    };
    let permit =
        Permit { protocol: None, first_port: 0, last_port: u16::MAX, peers: vec!["0.0.0.0/0".parse()?] };
    Ok(NodeSlice {
        vpc_id: VpcId::from("vpc"),
        namespace: String::new(),
        load_balancers: BTreeMap::from([(balancer, load_balancer)]),
        listeners: BTreeMap::from([(Arn::from("listener"), listener)]),
        target_groups: BTreeMap::from([(group, targets)]),
        security_groups: BTreeMap::from([(
            "sg".into(),
            SecurityGroupView { ingress: vec![permit], egress: Vec::new() },
        )]),
        resolver: None,
    })
}
