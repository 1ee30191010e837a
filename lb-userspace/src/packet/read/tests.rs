//! Slices to plans.

use std::net::Ipv4Addr;

use super::*;
use crate::model::id::{InterfaceId, SecurityGroupId, TimestampMs, VpcId};
use crate::model::load_balancer::WeightedTargetGroup;
use crate::model::target_group::HealthCheck;
use crate::snapshot::node::{NodeInterface6, NodeSecondary, TargetView};
use crate::snapshot::permit::{SecurityGroupView, TCP, UDP};

fn arn(text: &str) -> Arn {
    Arn::from(text.to_owned())
}

fn set(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Targets by host number, in zones, drained where they are told to.
fn group(targets: &[(u8, &str, bool)], attributes: &[(&str, &str)]) -> TargetGroupView {
    let targets = targets.iter().map(|(host, zone, drains)| {
        let key = TargetKey { id: format!("10.0.1.{host}"), port: 80 };
        let view = TargetView {
            address: IpAddr::from([10, 0, 1, *host]),
            zone: Some((*zone).to_owned()),
            server_id: Some(0x0102),
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
        attributes: set(attributes),
        targets: targets.collect(),
    }
}

/// A load balancer in zones a and b with one listener at port 80.
fn slice(protocol: &str, groups: Vec<(&str, u16, TargetGroupView)>) -> NodeSlice {
    let interface = |number: u8, zone: &str| {
        let id = InterfaceId::from(format!("eni-{number}"));
        let view = NodeInterface {
            device: format!("eni{number}"),
            address: Ipv4Addr::new(10, 0, number, 4),
            prefix_len: 24,
            router: Ipv4Addr::new(10, 0, number, 1),
            zone: zone.to_owned(),
            ipv6: None,
            secondary: Vec::new(),
        };
        (id, view)
    };
    let forward = groups
        .iter()
        .map(|(name, weight, _)| WeightedTargetGroup { target_group_arn: arn(name), weight: *weight })
        .collect();
    NodeSlice {
        resolver: None,
        certificates: BTreeMap::new(),
        links: BTreeMap::new(),
        vpc_id: VpcId::from("vpc-1".to_owned()),
        namespace: "node".to_owned(),
        load_balancers: [(
            arn("balancer"),
            LoadBalancerView {
                kind: LoadBalancerKind::Network,
                name: "a".to_owned(),
                interfaces: [interface(1, "a"), interface(2, "b")].into(),
                security_groups: Vec::new(),
                attributes: set(&[("load_balancing.cross_zone.enabled", "true")]),
            },
        )]
        .into(),
        listeners: [(
            arn("listener"),
            ListenerView {
                load_balancer: arn("balancer"),
                protocol: protocol.to_owned(),
                port: 80,
                rules: Vec::new(),
                default_actions: vec![Action::Forward(forward)],
                attributes: set(&[("tcp.idle_timeout.seconds", "60")]),
                tls: None,
            },
        )]
        .into(),
        target_groups: groups.into_iter().map(|(name, _, view)| (arn(name), view)).collect(),
        security_groups: BTreeMap::new(),
    }
}

fn one(attributes: &[(&str, &str)]) -> Vec<(&'static str, u16, TargetGroupView)> {
    vec![("g", 1, group(&[(20, "a", false)], attributes))]
}

fn healthy(_: &Arn, _: &TargetKey) -> Verdict {
    Verdict::Healthy
}

fn name(address: &str, protocol: Protocol) -> ListenerName {
    ListenerName { address: address.parse().unwrap(), port: 80, protocol }
}

fn listener<'plan>(plan: &'plan Plan, address: &str, protocol: Protocol) -> &'plan ListenerPlan {
    let found = plan.listeners().find(|(_, own, _)| **own == name(address, protocol));
    found.unwrap_or_else(|| panic!("no {address} {protocol} in {plan:#?}")).2
}

fn tcp(plan: &Plan) -> &ListenerPlan {
    listener(plan, "10.0.1.4", Protocol::Tcp)
}

#[test]
fn a_network_load_balancer_becomes_its_listeners_on_its_addresses() {
    let plan = plan(&slice("TCP", one(&[])), healthy);
    let node = plan.nodes.values().next().unwrap();
    assert_eq!(node.ipv4.subnet.to_string(), "10.0.1.0/24");
    assert_eq!(node.ipv4.router.to_string(), "10.0.1.1");
    assert_eq!(tcp(&plan).idle_timeout_s, 60);
    assert_eq!(tcp(&plan).sources, None);
    assert_eq!(plan.listeners().count(), 2, "one on each of its addresses");
}

#[test]
fn a_dual_stack_interface_has_every_listener_twice() {
    let mut slice = slice("TCP", one(&[]));
    let balancer = slice.load_balancers.values_mut().next().unwrap();
    balancer.interfaces.values_mut().next().unwrap().ipv6 = Some(NodeInterface6 {
        address: "fd00::4".parse().unwrap(),
        prefix_len: 64,
        router: "fd00::1".parse().unwrap(),
    });
    let plan = plan(&slice, healthy);
    assert_eq!(listener(&plan, "fd00::4", Protocol::Tcp), tcp(&plan));
    assert_eq!(plan.nodes.values().next().unwrap().ipv6.unwrap().subnet.to_string(), "fd00::/64");
}

#[test]
fn nobody_connects_to_a_further_address() {
    let mut slice = slice("TCP", one(&[]));
    let balancer = slice.load_balancers.values_mut().next().unwrap();
    let more = NodeSecondary { device: "more".to_owned(), address: Ipv4Addr::new(10, 0, 1, 5) };
    balancer.interfaces.values_mut().next().unwrap().secondary = vec![more];
    let plan = plan(&slice, healthy);
    assert_eq!(plan.listeners().count(), 2, "one on each of its first addresses");
    let devices: Vec<&String> = plan.devices().collect();
    assert_eq!(devices, ["eni1", "more", "eni2"]);
}

#[test]
fn a_listener_of_two_protocols_is_two() {
    let both = plan(&slice("TCP_UDP", one(&[])), healthy);
    assert_eq!(tcp(&both).targets, listener(&both, "10.0.1.4", Protocol::Udp).targets);
    assert_eq!(listener(&both, "10.0.1.4", Protocol::Udp).idle_timeout_s, UDP_IDLE_TIMEOUT_S);
    let quic = plan(&slice("TCP_QUIC", one(&[])), healthy);
    assert_eq!(tcp(&quic).service, Service::Forward);
    let udp = listener(&quic, "10.0.1.4", Protocol::Udp);
    assert_eq!(udp.service, Service::Quic { server_id_length: 8 });
    // As the wire has it: QuicServerId 0x…0102 ends in these two bytes.
    assert_eq!(udp.targets.values().next().unwrap().server_id, Some(0x0201_0000_0000_0000));
}

#[test]
fn shorter_server_ids_are_the_last_bytes() {
    assert_eq!(server_id(0x0102, 2), Some(0x0201));
    assert_eq!(server_id(0x0102_0304_0506_0708, 8), Some(0x0807_0605_0403_0201));
    assert_eq!(server_id(0x01_0000, 2), None);
    let short = one(&[("gatehouse.quic.server_id_length", "2")]);
    let plan = plan(&slice("QUIC", short), healthy);
    let udp = listener(&plan, "10.0.1.4", Protocol::Udp);
    assert_eq!(udp.service, Service::Quic { server_id_length: 2 });
    assert_eq!(udp.targets.values().next().unwrap().server_id, Some(0x0201));
}

#[test]
fn tls_and_the_proxy_protocol_end_in_sockets() {
    let plan_of =
        |protocol: &str, attributes: &[(&str, &str)]| plan(&slice(protocol, one(attributes)), healthy);
    assert_eq!(tcp(&plan_of("TLS", &[])).service, Service::Local);
    let proxied = plan_of("TCP_UDP", &[("proxy_protocol_v2.enabled", "true")]);
    assert_eq!(tcp(&proxied).service, Service::Local);
    assert!(tcp(&proxied).targets.is_empty());
    assert_eq!(listener(&proxied, "10.0.1.4", Protocol::Udp).service, Service::Forward);
}

#[test]
fn attributes_of_the_group_say_how_its_targets_are_reached() {
    let found = |attributes: &[(&str, &str)]| {
        let plan = plan(&slice("TCP", one(attributes)), healthy);
        tcp(&plan).targets.values().next().unwrap().mode
    };
    assert_eq!(found(&[]), Mode::Nat);
    assert_eq!(found(&[("preserve_client_ip.enabled", "true")]), Mode::Preserve);
    assert_eq!(found(&[("preserve_client_ip.enabled", "true"), ("gatehouse.forwarding", "nat")]), Mode::Nat);
    assert_eq!(found(&[("gatehouse.forwarding", "l2")]), Mode::L2);
    assert_eq!(found(&[("gatehouse.forwarding", "ipip")]), Mode::Ipip);
    assert_eq!(found(&[("gatehouse.forwarding", "gue")]), Mode::Gue);
}

#[test]
fn stickiness_and_direct_answers_are_the_listeners() {
    let attributes = [("stickiness.enabled", "true"), ("gatehouse.forwarding", "gue")];
    let plan = plan(&slice("TCP", one(&attributes)), healthy);
    assert!(tcp(&plan).is_sticky);
    assert!(tcp(&plan).is_direct());
}

#[test]
fn groups_have_the_weights_of_the_action_and_one_alone_takes_everything() {
    let two =
        vec![("one", 1, group(&[(20, "a", false)], &[])), ("two", 999, group(&[(21, "a", false)], &[]))];
    let plan_of_two = plan(&slice("TCP", two), healthy);
    let weights: Vec<u32> = tcp(&plan_of_two).targets.values().map(|target| target.weight).collect();
    assert_eq!(weights, [1, 999]);
    let alone = vec![("one", 0, group(&[(20, "a", false)], &[]))];
    let plan = plan(&slice("TCP", alone), healthy);
    assert!(tcp(&plan).targets.values().all(|target| target.weight == 1));
}

#[test]
fn unhealthy_targets_get_nothing_unless_all_are() {
    let slice = slice("TCP", vec![("g", 1, group(&[(20, "a", false), (21, "a", false)], &[]))]);
    let one =
        plan(&slice, |_, key| if key.id.ends_with("20") { Verdict::Healthy } else { Verdict::Unhealthy });
    let weights: Vec<u32> = tcp(&one).targets.values().map(|target| target.weight).collect();
    assert_eq!(weights, [1, 0]);
    let none = plan(&slice, |_, _| Verdict::Unhealthy);
    // Failing open, they are as good as healthy ones: their flows do not end.
    assert!(
        tcp(&none).targets.values().all(|t| t.weight > 0 && t.health == Verdict::Healthy && t.fails_open)
    );
}

#[test]
fn flows_of_unhealthy_targets_end_as_the_group_says() {
    const TERMINATION: &str = "target_health_state.unhealthy.connection_termination.enabled";
    const INTERVAL: &str = "target_health_state.unhealthy.draining_interval_seconds";
    let after = |protocol: &str, attributes: &[(&str, &str)]| {
        TargetGroupView { protocol: protocol.to_owned(), ..group(&[], attributes) }.ends_unhealthy_after_s()
    };
    assert_eq!(after("TCP", &[]), Some(0));
    assert_eq!(after("TCP", &[(TERMINATION, "false")]), None);
    assert_eq!(after("TCP", &[(TERMINATION, "false"), (INTERVAL, "0")]), None);
    assert_eq!(after("TCP", &[(TERMINATION, "false"), (INTERVAL, "30")]), Some(30));
    assert_eq!(after("UDP", &[]), None);
    assert_eq!(after("TCP_UDP", &[(INTERVAL, "30")]), Some(30));
}

#[test]
fn flows_of_datagrams_end_with_their_target_unless_told_otherwise() {
    const TERMINATION: &str = "deregistration_delay.connection_termination.enabled";
    let ends = |protocol: &str, attributes: &[(&str, &str)]| {
        TargetGroupView { protocol: protocol.to_owned(), ..group(&[], attributes) }.ends_deregistered()
    };
    assert_eq!(["TCP", "UDP", "TCP_UDP", "QUIC"].map(|own| ends(own, &[])), [false, true, true, false]);
    assert!(!ends("UDP", &[(TERMINATION, "false")]) && ends("TCP", &[(TERMINATION, "true")]));
}

#[test]
fn draining_targets_stay_without_new_flows() {
    let slice = slice("TCP", vec![("g", 1, group(&[(20, "a", true), (21, "a", false)], &[]))]);
    let plan = plan(&slice, healthy);
    let weights: Vec<u32> = tcp(&plan).targets.values().map(|target| target.weight).collect();
    assert_eq!(weights, [0, 1]);
}

#[test]
fn zones_keep_to_themselves_without_cross_zone_balancing_unless_the_group_says_otherwise() {
    let weights = |balancer: &str, attributes: &[(&str, &str)]| {
        let groups = vec![("g", 1, group(&[(20, "a", false), (21, "b", false)], attributes))];
        let mut slice = slice("TCP", groups);
        let view = slice.load_balancers.values_mut().next().unwrap();
        view.attributes = set(&[("load_balancing.cross_zone.enabled", balancer)]);
        let plan = plan(&slice, healthy);
        ["10.0.1.4", "10.0.2.4"].map(|address| -> Vec<u32> {
            let listener = listener(&plan, address, Protocol::Tcp);
            listener.targets.values().map(|target| target.weight).collect()
        })
    };
    assert_eq!(weights("false", &[]), [[1, 0], [0, 1]]);
    assert_eq!(weights("true", &[]), [[1, 1], [1, 1]]);
    assert_eq!(weights("false", &[("load_balancing.cross_zone.enabled", "true")]), [[1, 1], [1, 1]]);
    assert_eq!(weights("true", &[("load_balancing.cross_zone.enabled", "false")]), [[1, 0], [0, 1]]);
    let inherits = [("load_balancing.cross_zone.enabled", "use_load_balancer_configuration")];
    assert_eq!(weights("false", &inherits), [[1, 0], [0, 1]]);
}

#[test]
fn security_groups_become_the_ranges_of_the_listeners_port_and_protocol() {
    let permit = |protocol, first_port, last_port, peer: &str| Permit {
        protocol,
        first_port,
        last_port,
        peers: vec![peer.parse().unwrap()],
    };
    let id = SecurityGroupId::from("sg-1".to_owned());
    let mut slice = slice("TCP_UDP", one(&[]));
    slice.load_balancers.values_mut().next().unwrap().security_groups = vec![id.clone()];
    let ingress = vec![
        permit(Some(TCP), 80, 80, "10.1.0.0/16"),
        permit(Some(TCP), 1, 1000, "10.1.2.0/24"),
        permit(Some(TCP), 443, 443, "10.2.0.0/16"),
        permit(Some(UDP), 80, 80, "10.3.0.0/16"),
        permit(None, 0, u16::MAX, "192.0.2.7/32"),
    ];
    slice.security_groups.insert(id.clone(), SecurityGroupView { ingress, egress: Vec::new() });
    let plan_of_five = plan(&slice, healthy);
    let ranges = |protocol| -> Vec<String> {
        let listener = listener(&plan_of_five, "10.0.1.4", protocol);
        listener.sources.iter().flatten().map(ToString::to_string).collect()
    };
    assert_eq!(ranges(Protocol::Tcp), ["10.1.0.0/16", "192.0.2.7/32"]);
    assert_eq!(ranges(Protocol::Udp), ["10.3.0.0/16", "192.0.2.7/32"]);
    assert!(tcp(&plan_of_five).targets.is_empty(), "a group that lets nothing out sends nowhere");
    // Groups that admit nobody are not groups that are not there.
    slice.security_groups.insert(id, SecurityGroupView::default());
    assert_eq!(tcp(&plan(&slice, healthy)).sources, Some(BTreeSet::new()));
}

#[test]
fn security_groups_say_which_targets_may_be_sent_to() {
    let id = SecurityGroupId::from("sg-1".to_owned());
    let both = vec![("g", 1, group(&[(20, "a", false), (21, "a", false)], &[]))];
    let mut slice = slice("TCP_UDP", both);
    slice.load_balancers.values_mut().next().unwrap().security_groups = vec![id.clone()];
    let permit = |protocol, peer: &str| Permit {
        protocol: Some(protocol),
        first_port: 80,
        last_port: 80,
        peers: vec![peer.parse().unwrap()],
    };
    let egress = vec![permit(TCP, "10.0.1.20/32"), permit(UDP, "10.0.1.0/24")];
    slice.security_groups.insert(id, SecurityGroupView { ingress: Vec::new(), egress });
    let plan = plan(&slice, healthy);
    let targets = |protocol| listener(&plan, "10.0.1.4", protocol).targets.len();
    assert_eq!((targets(Protocol::Tcp), targets(Protocol::Udp)), (1, 2));
}
