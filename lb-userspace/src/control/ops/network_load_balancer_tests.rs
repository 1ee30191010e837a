//! Stories of network load balancers, from the API to what a node and a host are told.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::world::World;
use crate::{
    model::load_balancer::Attributes,
    snapshot::{
        compile::{Settings, Slices, compile},
        node::{NodeSlice, TargetGroupView},
        permit::{TCP, UDP},
    },
};

/// A world with IPv6 in its VPC, in both subnets, and on its instance.
fn dual() -> World {
    let mut world = World::new();
    world.ok("ec2", "AssociateVpcCidrBlock", json!({"VpcId": "vpc-1", "Ipv6CidrBlock": "fd00::/56"}));
    for (at, subnet) in ["subnet-a", "subnet-b"].iter().enumerate() {
        let block = json!({"SubnetId": subnet, "Ipv6CidrBlock": format!("fd00:0:0:{}::/64", at + 1)});
        world.ok("ec2", "AssociateSubnetCidrBlock", block);
    }
    world
}

fn load_balancer(world: &mut World, kind: &str, name: &str) -> Value {
    let input =
        json!({"Name": name, "Type": kind, "Scheme": "internal", "Subnets": ["subnet-a", "subnet-b"]});
    world.ok("elbv2", "CreateLoadBalancer", input)["LoadBalancers"][0]["LoadBalancerArn"].clone()
}

fn group(world: &mut World, name: &str, more: Value) -> Value {
    let mut input = json!({"Name": name, "Port": 8080, "VpcId": "vpc-1"});
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.ok("elbv2", "CreateTargetGroup", input)["TargetGroups"][0]["TargetGroupArn"].clone()
}

fn listener(lb: &Value, protocol: &str, port: u16, groups: &[(&Value, u16)]) -> Value {
    let groups: Vec<_> =
        groups.iter().map(|(arn, weight)| json!({"TargetGroupArn": arn, "Weight": weight})).collect();
    json!({"LoadBalancerArn": lb, "Protocol": protocol, "Port": port,
        "DefaultActions": [{"Type": "forward", "ForwardConfig": {"TargetGroups": groups}}]})
}

fn compiled(world: &World) -> Slices {
    let settings = Settings {
        appliance: "t".to_owned(),
        domain_suffix: "amazonaws.com".to_owned(),
        gateways: BTreeMap::new(),
        identity_root_pem: String::new(),
        resolvers: false,
        unseal: Box::new(|_| None),
    };
    compile(&world.state, &settings)
}

fn node(world: &World) -> NodeSlice {
    compiled(world).nodes.into_values().next().unwrap()
}

fn only(slice: &NodeSlice) -> TargetGroupView {
    assert_eq!(slice.target_groups.len(), 1);
    slice.target_groups.values().next().unwrap().clone()
}

fn set(world: &mut World, group: &Value, pairs: &[(&str, &str)]) {
    let attributes: Vec<_> = pairs.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
    let input = json!({"TargetGroupArn": group, "Attributes": attributes});
    world.ok("elbv2", "ModifyTargetGroupAttributes", input);
}

#[test]
fn protocols_of_a_listener_and_of_its_groups_go_together_as_at_aws() {
    let mut world = World::new();
    let lb = load_balancer(&mut world, "network", "nlb");
    let groups: BTreeMap<&str, Value> = ["TCP", "UDP", "TCP_UDP", "QUIC", "TCP_QUIC"]
        .into_iter()
        .map(|protocol| {
            (protocol, group(&mut world, &protocol.replace('_', "-"), json!({"Protocol": protocol})))
        })
        .collect();
    let lawful = [
        ("TCP", vec!["TCP", "TCP_UDP"]),
        ("UDP", vec!["UDP", "TCP_UDP"]),
        ("TCP_UDP", vec!["TCP_UDP"]),
        ("QUIC", vec!["QUIC", "TCP_QUIC"]),
        ("TCP_QUIC", vec!["TCP_QUIC"]),
    ];
    for (protocol, allowed) in lawful {
        for (own, arn) in &groups {
            let input = listener(&lb, protocol, 7, &[(arn, 1)]);
            if allowed.contains(own) {
                let made = world.ok("elbv2", "CreateListener", input)["Listeners"][0].clone();
                assert_eq!(made["Protocol"], protocol);
                world.ok("elbv2", "DeleteListener", json!({"ListenerArn": made["ListenerArn"]}));
            } else {
                let (code, message) = world.refuse("elbv2", "CreateListener", input);
                assert_eq!(code, "IncompatibleProtocols", "{protocol} to {own}");
                assert!(message.contains(protocol), "{message}");
            }
        }
    }
}

#[test]
fn one_port_has_one_listener_whatever_its_protocol() {
    let mut world = World::new();
    let lb = load_balancer(&mut world, "network", "nlb");
    let tcp = group(&mut world, "tcp", json!({"Protocol": "TCP"}));
    let udp = group(&mut world, "udp", json!({"Protocol": "UDP"}));
    world.ok("elbv2", "CreateListener", listener(&lb, "TCP", 53, &[(&tcp, 1)]));
    let (code, _) = world.refuse("elbv2", "CreateListener", listener(&lb, "UDP", 53, &[(&udp, 1)]));
    assert_eq!(code, "DuplicateListener", "AWS has TCP_UDP for this");
    for port in [1, 65_535] {
        world.ok("elbv2", "CreateListener", listener(&lb, "UDP", port, &[(&udp, 1)]));
    }
}

#[test]
fn what_aws_refuses_of_quic_is_allowed_here() {
    let mut world = dual();
    let lb = json!({"Name": "nlb", "Type": "network", "Scheme": "internal", "Subnets": ["subnet-a"],
        "IpAddressType": "dualstack", "SecurityGroups": ["sg-1"]});
    let lb = world.ok("elbv2", "CreateLoadBalancer", lb)["LoadBalancers"][0]["LoadBalancerArn"].clone();
    let quic =
        group(&mut world, "quic", json!({"Protocol": "QUIC", "TargetType": "ip", "IpAddressType": "ipv6"}));
    let both = group(&mut world, "both", json!({"Protocol": "TCP_QUIC"}));
    let udp = group(&mut world, "udp", json!({"Protocol": "UDP"}));
    world.ok("elbv2", "CreateListener", listener(&lb, "QUIC", 443, &[(&quic, 1)]));
    world.ok("elbv2", "CreateListener", listener(&lb, "TCP_QUIC", 8443, &[(&both, 1)]));
    world.ok("elbv2", "CreateListener", listener(&lb, "UDP", 53, &[(&udp, 1)]));
    let target = json!({"Id": "fd00:0:0:1:0::9", "QuicServerId": "0x0000000000000102"});
    world.ok("elbv2", "RegisterTargets", json!({"TargetGroupArn": quic, "Targets": [target]}));
    let slice = node(&world);
    assert_eq!(slice.listeners.len(), 3);
    let view = slice.target_groups.values().find(|group| group.name == "quic").unwrap();
    let target = &view.targets["fd00:0:0:1::9:8080"];
    assert_eq!(target.server_id, Some(0x0102));
    assert_eq!(target.address.to_string(), "fd00:0:0:1::9", "one address, however it is written");
    assert_eq!(target.zone.as_deref(), Some("eu-central-1a"));
}

#[test]
fn a_weighted_forward_reaches_the_node_with_its_weights() {
    let mut world = World::new();
    let lb = load_balancer(&mut world, "network", "nlb");
    let groups: Vec<_> =
        (0..6).map(|at| group(&mut world, &format!("g{at}"), json!({"Protocol": "UDP"}))).collect();
    let weights = [0, 1, 10, 500, 999];
    let five: Vec<_> = groups.iter().zip(weights).collect();
    world.ok("elbv2", "CreateListener", listener(&lb, "UDP", 53, &five));
    let slice = node(&world);
    let view = slice.listeners.values().next().unwrap();
    assert_eq!(view.protocol, "UDP");
    let crate::model::load_balancer::Action::Forward(told) = &view.default_actions[0] else { panic!() };
    assert_eq!(told.iter().map(|group| group.weight).collect::<Vec<_>>(), weights);
    let six: Vec<_> = groups.iter().map(|group| (group, 1)).collect();
    let (_, message) = world.refuse("elbv2", "CreateListener", listener(&lb, "UDP", 54, &six));
    assert!(message.contains("at most 5"), "{message}");
    let (_, message) =
        world.refuse("elbv2", "CreateListener", listener(&lb, "UDP", 54, &[(&groups[0], 1_000)]));
    assert!(message.contains("weight"), "{message}");
}

#[test]
fn a_node_is_told_both_addresses_and_both_routers() {
    let mut world = dual();
    let lb = load_balancer(&mut world, "network", "nlb");
    assert!(
        node(&world)
            .load_balancers
            .values()
            .all(|view| view.interfaces.values().all(|own| own.ipv6.is_none()))
    );
    world.ok("elbv2", "SetIpAddressType", json!({"LoadBalancerArn": lb, "IpAddressType": "dualstack"}));
    let slices = compiled(&world);
    let view = slices.nodes.values().next().unwrap().load_balancers.values().next().unwrap();
    let mut told: Vec<_> = view.interfaces.values().filter_map(|own| own.ipv6).collect();
    told.sort_by_key(|own| own.address);
    let spelled: Vec<_> =
        told.iter().map(|own| format!("{}/{} via {}", own.address, own.prefix_len, own.router)).collect();
    assert_eq!(spelled, ["fd00:0:0:1::4/64 via fd00:0:0:1::1", "fd00:0:0:2::4/64 via fd00:0:0:2::1"]);
    let subnets: Vec<_> = slices.host.subnets.values().filter_map(|subnet| subnet.router6()).collect();
    assert_eq!(subnets.len(), 2, "the host makes the routers");
    assert_eq!(slices.host.interfaces.values().filter(|own| own.ipv6.is_some()).count(), 2);
}

#[test]
fn ipv6_groups_need_a_dual_stack_load_balancer_for_as_long_as_it_forwards_to_them() {
    let mut world = dual();
    let lb = load_balancer(&mut world, "network", "nlb");
    let six =
        group(&mut world, "six", json!({"Protocol": "TCP", "TargetType": "ip", "IpAddressType": "ipv6"}));
    let (code, message) = world.refuse("elbv2", "CreateListener", listener(&lb, "TCP", 80, &[(&six, 1)]));
    assert_eq!(code, "InvalidConfigurationRequest");
    assert!(message.contains("IpAddressType"), "{message}");
    let set = |kind: &str| json!({"LoadBalancerArn": lb, "IpAddressType": kind});
    world.ok("elbv2", "SetIpAddressType", set("dualstack"));
    world.ok("elbv2", "CreateListener", listener(&lb, "TCP", 80, &[(&six, 1)]));
    let (code, message) = world.refuse("elbv2", "SetIpAddressType", set("ipv4"));
    assert_eq!(code, "InvalidConfigurationRequest");
    assert!(message.contains("IpAddressType"), "{message}");
}

#[test]
fn ipv6_targets_are_addresses_or_instances_that_have_one() {
    let mut world = dual();
    let by_id = group(&mut world, "by-id", json!({"Protocol": "TCP", "IpAddressType": "ipv6"}));
    let register = |group: &Value, target: Value| json!({"TargetGroupArn": group, "Targets": [target]});
    let (code, message) = world.refuse("elbv2", "RegisterTargets", register(&by_id, json!({"Id": "i-1"})));
    assert_eq!(code, "InvalidTarget");
    assert!(message.contains("i-1"), "{message}");
    let launch = json!({"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "SubnetId": "subnet-b", "Ipv6AddressCount": 1});
    let launched = world.ok("ec2", "RunInstances", launch)["Instances"][0].clone();
    assert_eq!(launched["Ipv6Address"], "fd00:0:0:2::4");
    world.ok("elbv2", "RegisterTargets", register(&by_id, json!({"Id": launched["InstanceId"]})));

    let by_address =
        group(&mut world, "by-ip", json!({"Protocol": "UDP", "TargetType": "ip", "IpAddressType": "ipv6"}));
    for (id, zone, expected) in [
        ("10.0.1.9", None, "Validation"),
        ("fe80::1", None, "InvalidTarget"),
        ("2001:db8::1", None, "Validation"),
        ("fd00:0:0:1::9", Some("eu-central-1b"), "InvalidTarget"),
    ] {
        let mut target = json!({"Id": id});
        if let Some(zone) = zone {
            target["AvailabilityZone"] = json!(zone);
        }
        let (code, message) = world.refuse("elbv2", "RegisterTargets", register(&by_address, target));
        assert_eq!(code, expected, "{message}");
        assert!(message.contains(id), "{message}");
    }
    let outside = json!({"Id": "2001:db8::1", "AvailabilityZone": "all"});
    world.ok("elbv2", "RegisterTargets", register(&by_address, outside));
    let inside = json!({"Id": "FD00:0:0:2:0:0:0:9"});
    world.ok("elbv2", "RegisterTargets", register(&by_address, inside.clone()));
    let health = json!({"TargetGroupArn": by_address, "Targets": [inside]});
    let health = world.ok("elbv2", "DescribeTargetHealth", health);
    assert_eq!(health["TargetHealthDescriptions"][0]["Target"]["Id"], "fd00:0:0:2::9");
    assert_eq!(health["TargetHealthDescriptions"][0]["TargetHealth"]["Reason"], "Target.NotInUse");
}

#[test]
fn answers_come_back_by_the_load_balancer_where_targets_see_their_clients() {
    let mut world = World::new();
    let lb = load_balancer(&mut world, "network", "nlb");
    let dns = group(&mut world, "dns", json!({"Protocol": "TCP_UDP"}));
    world.ok(
        "elbv2",
        "RegisterTargets",
        json!({"TargetGroupArn": dns, "Targets": [{"Id": "i-1", "Port": 53}]}),
    );
    set(&mut world, &dns, &[("gatehouse.forwarding", "preserve")]);
    assert!(compiled(&world).host.returns.is_empty(), "nobody forwards to it");
    let made = world.ok("elbv2", "CreateListener", listener(&lb, "TCP_UDP", 53, &[(&dns, 1)]));
    let told: Vec<_> = compiled(&world)
        .host
        .returns
        .iter()
        .map(|path| (path.address.to_string(), path.protocol, path.port))
        .collect();
    assert_eq!(told, [("10.0.1.4".to_owned(), TCP, 53), ("10.0.1.4".to_owned(), UDP, 53)]);
    set(&mut world, &dns, &[("gatehouse.forwarding", "nat"), ("preserve_client_ip.enabled", "true")]);
    assert!(compiled(&world).host.returns.is_empty(), "ours decides where it is set");
    set(&mut world, &dns, &[("gatehouse.forwarding", "auto")]);
    assert_eq!(compiled(&world).host.returns.len(), 2);
    let arn = &made["Listeners"][0]["ListenerArn"];
    world.ok("elbv2", "DeleteListener", json!({"ListenerArn": arn}));
    assert!(compiled(&world).host.returns.is_empty());
}

#[test]
fn attributes_reach_the_node_as_they_are_set() {
    let mut world = World::new();
    let udp = group(&mut world, "udp", json!({"Protocol": "UDP"}));
    let pairs = [
        ("deregistration_delay.connection_termination.enabled", "true"),
        ("gatehouse.forwarding", "l2"),
        ("load_balancing.cross_zone.enabled", "false"),
        ("stickiness.enabled", "true"),
        ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "2"),
        ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "50"),
        ("target_health_state.unhealthy.connection_termination.enabled", "false"),
        ("target_health_state.unhealthy.draining_interval_seconds", "60"),
    ];
    set(&mut world, &udp, &pairs);
    let lb = load_balancer(&mut world, "network", "nlb");
    world.ok("elbv2", "CreateListener", listener(&lb, "UDP", 53, &[(&udp, 1)]));
    let expected: Attributes =
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(only(&node(&world)).attributes, expected);
}

#[test]
fn security_groups_know_both_families_of_ranges_and_of_members() {
    let mut world = dual();
    let group_of = |name: &str| json!({"GroupName": name, "Description": name, "VpcId": "vpc-1"});
    let own = world.ok("ec2", "CreateSecurityGroup", group_of("own"))["GroupId"].clone();
    let permissions = json!([{"IpProtocol": "udp", "FromPort": 53, "ToPort": 53,
        "Ipv6Ranges": [{"CidrIpv6": "2001:db8::1/32", "Description": "the office"}],
        "UserIdGroupPairs": [{"GroupId": own}]}]);
    let rules = json!({"GroupId": own, "IpPermissions": permissions});
    let added = world.ok("ec2", "AuthorizeSecurityGroupIngress", rules.clone());
    assert_eq!(added["SecurityGroupRules"][0]["CidrIpv6"], "2001:db8::/32", "host bits are cleared");
    assert_eq!(world.refuse("ec2", "AuthorizeSecurityGroupIngress", rules).0, "InvalidPermission.Duplicate");
    let lb = json!({"Name": "nlb", "Type": "network", "Subnets": ["subnet-a"], "IpAddressType": "dualstack",
        "SecurityGroups": [own]});
    world.ok("elbv2", "CreateLoadBalancer", lb);
    let slice = node(&world);
    let view = &slice.security_groups[&crate::model::id::SecurityGroupId(own.as_str().unwrap().to_owned())];
    let peers: Vec<_> =
        view.ingress.iter().flat_map(|permit| &permit.peers).map(ToString::to_string).collect();
    assert_eq!(peers, ["2001:db8::/32", "10.0.1.5/32", "fd00:0:0:1::4/128"]);
    let everywhere: Vec<_> =
        view.egress.iter().flat_map(|permit| &permit.peers).map(ToString::to_string).collect();
    assert_eq!(everywhere, ["0.0.0.0/0", "::/0"]);
    let (_, message) = world.refuse(
        "ec2",
        "AuthorizeSecurityGroupIngress",
        json!({"GroupId": own, "IpPermissions": [{"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "10.0.0.0/8"}]}]}),
    );
    assert!(message.contains("CidrIpv6"), "{message}");
}

#[test]
fn an_application_load_balancer_is_a_target_while_it_listens() {
    let mut world = World::new();
    let (nlb, alb) =
        (load_balancer(&mut world, "network", "nlb"), load_balancer(&mut world, "application", "alb"));
    let front = group(&mut world, "front", json!({"Protocol": "TCP", "TargetType": "alb", "Port": 80}));
    let register = |id: &Value| json!({"TargetGroupArn": front, "Targets": [{"Id": id}]});
    for (id, word) in [(&nlb, "application load balancers"), (&json!("i-1"), "i-1"), (&alb, "no listener")] {
        let (code, message) = world.refuse("elbv2", "RegisterTargets", register(id));
        assert_eq!(code, "InvalidTarget");
        assert!(message.contains(word), "{message}");
    }
    let fixed = json!([{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "204"}}]);
    let input = json!({"LoadBalancerArn": alb, "Protocol": "HTTP", "Port": 80, "DefaultActions": fixed});
    let http = world.ok("elbv2", "CreateListener", input)["Listeners"][0]["ListenerArn"].clone();
    world.ok("elbv2", "RegisterTargets", register(&alb));
    world.ok("elbv2", "RegisterTargets", register(&alb));
    let other = load_balancer(&mut world, "application", "other");
    let input = json!({"LoadBalancerArn": other, "Protocol": "HTTP", "Port": 80, "DefaultActions": fixed});
    world.ok("elbv2", "CreateListener", input);
    assert_eq!(world.refuse("elbv2", "RegisterTargets", register(&other)).0, "TooManyTargets");

    for (operation, input) in [
        ("DeleteListener", json!({"ListenerArn": http})),
        ("ModifyListener", json!({"ListenerArn": http, "Port": 81})),
        ("DeleteLoadBalancer", json!({"LoadBalancerArn": alb})),
    ] {
        let (code, message) = world.refuse("elbv2", operation, input);
        assert_eq!(code, "ResourceInUse", "{operation}");
        assert!(message.contains("front"), "{message}");
    }
    let tcp = group(&mut world, "tcp", json!({"Protocol": "TCP"}));
    let (_, message) =
        world.refuse("elbv2", "CreateListener", listener(&nlb, "TCP", 80, &[(&front, 1), (&tcp, 1)]));
    assert!(message.contains("'alb'"), "{message}");
    world.ok("elbv2", "CreateListener", listener(&nlb, "TCP", 80, &[(&front, 1)]));
    world.ok("elbv2", "DeregisterTargets", register(&alb));
    world.ok("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": alb}));
}
