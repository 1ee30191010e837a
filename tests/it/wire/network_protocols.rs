//! Network load balancers by boto3: both families, every protocol, static addresses, attributes and server ids; and what
//! is refused names the member that is wrong.

use std::net::Ipv6Addr;

use serde_json::{Value, json};

use super::{load_balancing::Ground, served::Served};

const ELB: &str = "elbv2";

/// A VPC with two dual-stack subnets.
struct Dual {
    vpc: Value,
    subnets: Vec<Value>,
    /// The first address of the VPC's range.
    range: u128,
}

impl Dual {
    fn lay(served: &Served) -> Self {
        let input = json!({"CidrBlock": "10.0.0.0/16", "AmazonProvidedIpv6CidrBlock": true});
        let vpc = served.must("ec2", "CreateVpc", input)["Vpc"].clone();
        let block = &vpc["Ipv6CidrBlockAssociationSet"][0];
        let range = block["Ipv6CidrBlock"].as_str().unwrap().strip_suffix("/56").unwrap();
        let range = u128::from(range.parse::<Ipv6Addr>().unwrap());
        let mut subnets = Vec::new();
        for (number, zone) in [(1, "eu-central-1a"), (2, "eu-central-1b")] {
            let input = json!({"VpcId": vpc["VpcId"], "CidrBlock": format!("10.0.{number}.0/24"),
                "AvailabilityZone": zone, "Ipv6CidrBlock": format!("{}/64", part(range, number))});
            subnets.push(served.must("ec2", "CreateSubnet", input)["Subnet"].clone());
        }
        Self { vpc: vpc["VpcId"].clone(), subnets, range }
    }

    fn id(&self, number: usize) -> &Value {
        &self.subnets[number - 1]["SubnetId"]
    }

    /// An IPv6 address of a subnet.
    fn address(&self, number: usize, host: u128) -> String {
        Ipv6Addr::from(u128::from(part(self.range, number)) + host).to_string()
    }

    fn group(&self, served: &Served, name: &str, more: Value) -> Value {
        let mut input = json!({"Name": name, "Port": 53, "VpcId": self.vpc, "TargetType": "ip"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        served.must(ELB, "CreateTargetGroup", input)["TargetGroups"][0]["TargetGroupArn"].clone()
    }
}

/// The /64 with this number in a /56.
fn part(range: u128, number: usize) -> Ipv6Addr {
    Ipv6Addr::from(range | (number as u128) << 64)
}

fn listen(lb: &Value, protocol: &str, port: u16, groups: &[(&Value, u16)]) -> Value {
    let groups: Vec<_> =
        groups.iter().map(|(arn, weight)| json!({"TargetGroupArn": arn, "Weight": weight})).collect();
    json!({"LoadBalancerArn": lb, "Protocol": protocol, "Port": port,
        "DefaultActions": [{"Type": "forward", "ForwardConfig": {"TargetGroups": groups}}]})
}

fn value(attributes: &Value, key: &str) -> String {
    let all = attributes["Attributes"].as_array().unwrap();
    let found =
        all.iter().find(|one| one["Key"] == key).unwrap_or_else(|| panic!("no {key} in {attributes}"));
    found["Value"].as_str().unwrap().to_owned()
}

#[test]
fn a_dual_stack_load_balancer_keeps_the_addresses_that_it_was_given() {
    let served = Served::start();
    let dual = Dual::lay(&served);
    let mapping = |number: usize, host: u128| {
        json!({"SubnetId": dual.id(number), "PrivateIPv4Address": format!("10.0.{number}.{host}"),
            "IPv6Address": dual.address(number, host)})
    };
    let input = json!({"Name": "nlb", "Type": "network", "Scheme": "internal", "IpAddressType": "dualstack",
        "SubnetMappings": [mapping(1, 50)]});
    let lb = served.must(ELB, "CreateLoadBalancer", input)["LoadBalancers"][0].clone();
    let arn = &lb["LoadBalancerArn"];
    assert_eq!(lb["IpAddressType"], "dualstack");
    let address = |number: usize, host: u128| json!([{"PrivateIPv4Address": format!("10.0.{number}.{host}"), "IPv6Address": dual.address(number, host)}]);
    assert_eq!(lb["AvailabilityZones"][0]["LoadBalancerAddresses"], address(1, 50));

    let input = json!({"LoadBalancerArn": arn, "SubnetMappings": [mapping(1, 50), mapping(2, 60)]});
    let moved = served.must(ELB, "SetSubnets", input);
    assert_eq!(moved["IpAddressType"], "dualstack");
    assert_eq!(moved["AvailabilityZones"][1]["LoadBalancerAddresses"], address(2, 60));
    let described = served.must(ELB, "DescribeLoadBalancers", json!({"Names": ["nlb"]}));
    assert_eq!(described["LoadBalancers"][0]["AvailabilityZones"], moved["AvailabilityZones"]);
    let filters = json!([{"Name": "ipv6-addresses.ipv6-address", "Values": [dual.address(2, 60)]}]);
    let interface = served.must("ec2", "DescribeNetworkInterfaces", json!({"Filters": filters}));
    assert_eq!(interface["NetworkInterfaces"][0]["PrivateIpAddress"], "10.0.2.60");
    assert_eq!(interface["NetworkInterfaces"][0]["Ipv6Addresses"][0]["IsPrimaryIpv6"], true);

    let set = |kind: &str| json!({"LoadBalancerArn": arn, "IpAddressType": kind});
    assert_eq!(served.must(ELB, "SetIpAddressType", set("ipv4"))["IpAddressType"], "ipv4");
    let described = served.must(ELB, "DescribeLoadBalancers", json!({"LoadBalancerArns": [arn]}));
    let left = &described["LoadBalancers"][0]["AvailabilityZones"][0]["LoadBalancerAddresses"];
    assert_eq!(*left, json!([{"PrivateIPv4Address": "10.0.1.50"}]));
    served.must(ELB, "SetIpAddressType", set("dualstack"));
    served.must(ELB, "DeleteLoadBalancer", json!({"LoadBalancerArn": arn}));
}

#[test]
fn an_elastic_ip_is_recorded_where_it_leads() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let tags = json!([{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": "front"}]}]);
    let input = json!({"Domain": "vpc", "Address": "198.51.100.7", "TagSpecifications": tags});
    let allocated = served.must("ec2", "AllocateAddress", input);
    let id = &allocated["AllocationId"];
    let input = json!({"Name": "nlb", "Type": "network", "Scheme": "internet-facing",
        "SubnetMappings": [{"SubnetId": ground.subnets[0], "AllocationId": id}]});
    let lb = served.must(ELB, "CreateLoadBalancer", input)["LoadBalancers"][0].clone();
    let address = &lb["AvailabilityZones"][0]["LoadBalancerAddresses"][0];
    assert_eq!((&address["AllocationId"], &address["IpAddress"]), (id, &json!("198.51.100.7")));
    let found = json!({"Filters": [{"Name": "tag:Name", "Values": ["front"]}]});
    let described = served.must("ec2", "DescribeAddresses", found);
    assert_eq!(described["Addresses"][0]["PrivateIpAddress"], address["PrivateIPv4Address"]);
    served.refuse("ec2", "ReleaseAddress", json!({"AllocationId": id}), "InvalidIPAddress.InUse");
    served.must(ELB, "DeleteLoadBalancer", json!({"LoadBalancerArn": lb["LoadBalancerArn"]}));
    served.must("ec2", "ReleaseAddress", json!({"AllocationId": id}));
    served.refuse("ec2", "DescribeAddresses", json!({"AllocationIds": [id]}), "InvalidAllocationID.NotFound");
}

#[test]
fn listeners_of_every_protocol_forward_by_weight() {
    let served = Served::start();
    let dual = Dual::lay(&served);
    let input = json!({"Name": "nlb", "Type": "network", "Scheme": "internal", "Subnets": [dual.id(1)]});
    let lb = served.must(ELB, "CreateLoadBalancer", input)["LoadBalancers"][0]["LoadBalancerArn"].clone();
    for (protocol, port) in [("TCP", 1), ("UDP", 53), ("TCP_UDP", 65_535), ("QUIC", 443), ("TCP_QUIC", 8_443)]
    {
        let names = ["a", "b"].map(|end| format!("{}-{end}", protocol.replace('_', "-")));
        let groups = names.map(|name| dual.group(&served, &name, json!({"Protocol": protocol})));
        let input = listen(&lb, protocol, port, &[(&groups[0], 999), (&groups[1], 0)]);
        let listener = served.must(ELB, "CreateListener", input)["Listeners"][0].clone();
        assert_eq!((&listener["Protocol"], &listener["Port"]), (&json!(protocol), &json!(port)));
        let told = &listener["DefaultActions"][0]["ForwardConfig"]["TargetGroups"];
        assert_eq!((&told[0]["Weight"], &told[1]["Weight"]), (&json!(999), &json!(0)));
        let group = json!({"TargetGroupArns": [groups[0]]});
        let described = served.must(ELB, "DescribeTargetGroups", group)["TargetGroups"][0].clone();
        assert_eq!(described["Protocol"], protocol);
        assert_eq!(described["HealthCheckProtocol"], "TCP");
        assert_eq!(described["LoadBalancerArns"], json!([lb]));
        let arn = &listener["ListenerArn"];
        let attributes = served.must(ELB, "DescribeListenerAttributes", json!({"ListenerArn": arn}));
        assert_eq!(value(&attributes, "gatehouse.new_flows_per_second"), "off");
        if protocol.starts_with("TCP") {
            let set = json!({"ListenerArn": arn, "Attributes": [{"Key": "tcp.idle_timeout.seconds", "Value": "6000"}]});
            let set = served.must(ELB, "ModifyListenerAttributes", set);
            assert_eq!(value(&set, "tcp.idle_timeout.seconds"), "6000");
        } else {
            let set = json!({"ListenerArn": arn, "Attributes": [{"Key": "tcp.idle_timeout.seconds", "Value": "350"}]});
            let message = served.refuse(ELB, "ModifyListenerAttributes", set, "ValidationError");
            assert!(message.contains("tcp.idle_timeout.seconds"), "{message}");
        }
    }
    let listed = served.must(ELB, "DescribeListeners", json!({"LoadBalancerArn": lb}));
    assert_eq!(listed["Listeners"].as_array().unwrap().len(), 5);
}

#[test]
fn a_target_group_has_aws_s_attributes_and_ours() {
    let served = Served::start();
    let dual = Dual::lay(&served);
    let group = dual.group(&served, "udp", json!({"Protocol": "UDP"}));
    let attributes = served.must(ELB, "DescribeTargetGroupAttributes", json!({"TargetGroupArn": group}));
    for (key, default) in [
        ("deregistration_delay.connection_termination.enabled", "true"),
        ("deregistration_delay.timeout_seconds", "300"),
        ("gatehouse.forwarding", "auto"),
        ("load_balancing.cross_zone.enabled", "use_load_balancer_configuration"),
        ("stickiness.enabled", "false"),
        ("stickiness.type", "source_ip"),
        ("target_group_health.dns_failover.minimum_healthy_targets.count", "1"),
        ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "1"),
        ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "off"),
        ("target_health_state.unhealthy.connection_termination.enabled", "false"),
        ("target_health_state.unhealthy.draining_interval_seconds", "0"),
    ] {
        assert_eq!(value(&attributes, key), default, "{key}");
    }
    let set = |pairs: &[(&str, &str)]| {
        let attributes: Vec<_> =
            pairs.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        json!({"TargetGroupArn": group, "Attributes": attributes})
    };
    for mode in ["nat", "preserve", "l2", "ipip", "gue", "auto"] {
        let changed = served.must(ELB, "ModifyTargetGroupAttributes", set(&[("gatehouse.forwarding", mode)]));
        assert_eq!(value(&changed, "gatehouse.forwarding"), mode);
    }
    let together = set(&[
        ("target_health_state.unhealthy.draining_interval_seconds", "360000"),
        ("target_health_state.unhealthy.connection_termination.enabled", "false"),
        ("stickiness.enabled", "true"),
        ("load_balancing.cross_zone.enabled", "true"),
    ]);
    served.must(ELB, "ModifyTargetGroupAttributes", together);
    for (key, bad) in [
        ("gatehouse.forwarding", "dsr"),
        ("gatehouse.quic.server_id_length", "4"),
        ("load_balancing.cross_zone.enabled", "off"),
        ("stickiness.type", "lb_cookie"),
        ("target_group_health.dns_failover.minimum_healthy_targets.percentage", "50"),
        ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "0"),
        ("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "101"),
        ("target_health_state.unhealthy.connection_termination.enabled", "maybe"),
        ("target_health_state.unhealthy.draining_interval_seconds", "-1"),
    ] {
        let error = served.aws.call(ELB, "ModifyTargetGroupAttributes", set(&[(key, bad)])).expect_err(key);
        assert!(
            error.to_string().contains(key) || error.to_string().contains("draining_interval"),
            "{key}: {error}"
        );
    }
    let lb = json!({"Name": "nlb", "Type": "network", "Subnets": [dual.id(1)]});
    let lb = served.must(ELB, "CreateLoadBalancer", lb)["LoadBalancers"][0]["LoadBalancerArn"].clone();
    let cross = json!({"LoadBalancerArn": lb, "Attributes": [
        {"Key": "load_balancing.cross_zone.enabled", "Value": "true"}]});
    let cross = served.must(ELB, "ModifyLoadBalancerAttributes", cross);
    assert_eq!(value(&cross, "load_balancing.cross_zone.enabled"), "true");
}

#[test]
fn quic_targets_are_named_by_their_server_ids() {
    let served = Served::start();
    let dual = Dual::lay(&served);
    let group = dual.group(&served, "quic", json!({"Protocol": "QUIC", "IpAddressType": "ipv6"}));
    let target = |host: u128, id: &str| json!({"Id": dual.address(1, host), "QuicServerId": id});
    let register = |targets: Value| json!({"TargetGroupArn": group, "Targets": targets});
    served.must(
        ELB,
        "RegisterTargets",
        register(json!([target(9, "0x00000000000000a9"), target(10, "0x00000000000000aa")])),
    );
    let health = served.must(ELB, "DescribeTargetHealth", json!({"TargetGroupArn": group}));
    let ids: Vec<_> = health["TargetHealthDescriptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["Target"]["QuicServerId"], &one["Target"]["AvailabilityZone"]))
        .collect();
    let zone = json!("eu-central-1a");
    assert_eq!(ids.len(), 2);
    assert!(ids.contains(&(&json!("0x00000000000000a9"), &zone)), "{ids:?}");
    for (targets, code) in [
        (json!([{"Id": dual.address(1, 11)}]), "ValidationError"),
        (json!([target(11, "0xa9")]), "ValidationError"),
        (json!([target(11, "0x00000000000000A9")]), "ValidationError"),
        (json!([target(11, "0x00000000000000a9")]), "InvalidTarget"),
        (json!([target(9, "0x00000000000000ab")]), "InvalidTarget"),
    ] {
        let message = served.refuse(ELB, "RegisterTargets", register(targets), code);
        assert!(message.contains("QuicServerId"), "{message}");
    }
}

#[test]
fn an_application_load_balancer_may_be_the_target() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let make = |name: &str, kind: &str| {
        let input = json!({"Name": name, "Type": kind, "Scheme": "internal", "Subnets": ground.subnets});
        served.must(ELB, "CreateLoadBalancer", input)["LoadBalancers"][0]["LoadBalancerArn"].clone()
    };
    let (alb, nlb) = (make("alb", "application"), make("nlb", "network"));
    let input =
        json!({"Name": "front", "Protocol": "TCP", "Port": 80, "VpcId": ground.vpc, "TargetType": "alb"});
    let group = served.must(ELB, "CreateTargetGroup", input)["TargetGroups"][0].clone();
    assert_eq!((&group["TargetType"], &group["HealthCheckProtocol"]), (&json!("alb"), &json!("HTTP")));
    let arn = &group["TargetGroupArn"];
    let register = json!({"TargetGroupArn": arn, "Targets": [{"Id": alb}]});
    served.refuse(ELB, "RegisterTargets", register.clone(), "InvalidTarget");
    let input = json!({"LoadBalancerArn": alb, "Protocol": "HTTP", "Port": 80,
        "DefaultActions": [{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "200"}}]});
    served.must(ELB, "CreateListener", input);
    served.must(ELB, "RegisterTargets", register);
    served.must(ELB, "CreateListener", listen(&nlb, "TCP", 80, &[(arn, 1)]));
    let message = served.refuse(ELB, "DeleteLoadBalancer", json!({"LoadBalancerArn": alb}), "ResourceInUse");
    assert!(message.contains("front"), "{message}");
    let attributes = served.must(ELB, "DescribeTargetGroupAttributes", json!({"TargetGroupArn": arn}));
    assert_eq!(value(&attributes, "preserve_client_ip.enabled"), "true");
}

/// Each with the word that its message must have.
#[test]
fn what_is_refused_names_the_member_that_is_wrong() {
    let served = Served::start();
    let dual = Dual::lay(&served);
    let input = json!({"Name": "nlb", "Type": "network", "Scheme": "internal", "Subnets": [dual.id(1)]});
    let lb = served.must(ELB, "CreateLoadBalancer", input)["LoadBalancers"][0]["LoadBalancerArn"].clone();
    let udp = dual.group(&served, "udp", json!({"Protocol": "UDP"}));
    let tcp = dual.group(&served, "tcp", json!({"Protocol": "TCP"}));
    let six = dual.group(&served, "six", json!({"Protocol": "UDP", "IpAddressType": "ipv6"}));
    served.must(ELB, "CreateListener", listen(&lb, "UDP", 53, &[(&udp, 1)]));
    let new_lb = |more: Value| {
        let mut input = json!({"Name": "x", "Type": "network", "Scheme": "internal"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    let mapped = |more: Value| {
        let mut mapping = json!({"SubnetId": dual.id(1)});
        mapping.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        new_lb(json!({"SubnetMappings": [mapping]}))
    };
    let group = |more: Value| {
        let mut input =
            json!({"Name": "x", "Protocol": "UDP", "Port": 53, "VpcId": dual.vpc, "TargetType": "ip"});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    let register = |arn: &Value, target: Value| json!({"TargetGroupArn": arn, "Targets": [target]});
    let cases = [
        ("CreateLoadBalancer", mapped(json!({"IPv6Address": dual.address(1, 9)})), "IPv6Address"),
        ("CreateLoadBalancer", mapped(json!({"AllocationId": "eipalloc-0"})), "eipalloc-0"),
        ("CreateLoadBalancer", mapped(json!({"PrivateIPv4Address": "10.0.9.9"})), "10.0.9.9"),
        (
            "CreateLoadBalancer",
            new_lb(json!({"Subnets": [dual.id(1)], "IpAddressType": "dualstack-without-public-ipv4"})),
            "IpAddressType",
        ),
        (
            "CreateLoadBalancer",
            new_lb(json!({"Subnets": [dual.id(1)], "EnablePrefixForIpv6SourceNat": "on"})),
            "EnablePrefixForIpv6SourceNat",
        ),
        ("CreateListener", listen(&lb, "UDP", 53, &[(&tcp, 1)]), "UDP"),
        ("CreateListener", listen(&lb, "TCP", 54, &[(&udp, 1)]), "protocol 'UDP'"),
        ("CreateListener", listen(&lb, "UDP", 54, &[(&six, 1)]), "IpAddressType"),
        ("CreateListener", listen(&lb, "UDP", 54, &[(&udp, 1_000)]), "weight"),
        ("CreateListener", listen(&lb, "HTTP", 54, &[(&udp, 1)]), "protocol 'HTTP'"),
        ("CreateTargetGroup", group(json!({"TargetType": "alb"})), "Protocol 'UDP'"),
        ("CreateTargetGroup", group(json!({"TargetType": "lambda"})), "lambda"),
        ("CreateTargetGroup", group(json!({"HealthCheckProtocol": "UDP"})), "Health check protocol"),
        ("CreateTargetGroup", group(json!({"Protocol": "HTTP", "IpAddressType": "ipv6"})), "IpAddressType"),
        ("RegisterTargets", register(&udp, json!({"Id": dual.address(1, 9)})), "IPv4"),
        ("RegisterTargets", register(&six, json!({"Id": "10.0.1.9"})), "IPv6"),
        ("RegisterTargets", register(&six, json!({"Id": "fe80::1"})), "fe80::1"),
        (
            "RegisterTargets",
            register(&udp, json!({"Id": "10.0.1.9", "QuicServerId": "0x0000000000000001"})),
            "QuicServerId",
        ),
        (
            "RegisterTargets",
            register(&udp, json!({"Id": "10.0.1.9", "AvailabilityZone": "eu-central-1b"})),
            "Availability Zone",
        ),
    ];
    for (operation, input, word) in cases {
        let rows = served.state().dump();
        let error = served.aws.call(ELB, operation, input.clone()).expect_err(operation);
        assert!(error.to_string().contains(word), "{operation} {input}: {error}");
        assert_eq!(served.state().dump(), rows, "{operation} {input} changed something");
    }
}

#[test]
fn ranges_are_associated_described_and_taken_back() {
    let served = Served::start();
    let vpc = served.must("ec2", "CreateVpc", json!({"CidrBlock": "10.0.0.0/16"}))["Vpc"]["VpcId"].clone();
    let subnet = json!({"VpcId": vpc, "CidrBlock": "10.0.1.0/24"});
    let subnet = served.must("ec2", "CreateSubnet", subnet)["Subnet"]["SubnetId"].clone();
    let input = json!({"VpcId": vpc, "Ipv6CidrBlock": "2001:db8:0:ff00::/56"});
    let block = served.must("ec2", "AssociateVpcCidrBlock", input)["Ipv6CidrBlockAssociation"].clone();
    assert_eq!(block["Ipv6CidrBlockState"]["State"], "associated");
    let input = json!({"SubnetId": subnet, "Ipv6CidrBlock": "2001:db8:0:ff01::/64"});
    let part = served.must("ec2", "AssociateSubnetCidrBlock", input)["Ipv6CidrBlockAssociation"].clone();
    let filters = json!({"Filters": [{"Name": "ipv6-cidr-block-association.ipv6-cidr-block", "Values": ["2001:db8:0:ff01::/64"]}]});
    let found = served.must("ec2", "DescribeSubnets", filters);
    assert_eq!(found["Subnets"][0]["Ipv6CidrBlockAssociationSet"], json!([part]));
    let on = json!({"SubnetId": subnet, "AssignIpv6AddressOnCreation": {"Value": true}});
    served.must("ec2", "ModifySubnetAttribute", on);
    let launch = json!({"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "SubnetId": subnet});
    let launched = served.must("ec2", "RunInstances", launch)["Instances"][0].clone();
    assert_eq!(launched["Ipv6Address"], "2001:db8:0:ff01::4", "unasked");

    let rules =
        json!([{"IpProtocol": "icmpv6", "FromPort": -1, "ToPort": -1, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]);
    let group = json!({"GroupName": "six", "Description": "six", "VpcId": vpc});
    let group = served.must("ec2", "CreateSecurityGroup", group)["GroupId"].clone();
    let input = json!({"GroupId": group, "IpPermissions": rules});
    served.must("ec2", "AuthorizeSecurityGroupIngress", input.clone());
    let described = served.must("ec2", "DescribeSecurityGroups", json!({"GroupIds": [group]}));
    let described = &described["SecurityGroups"][0];
    assert_eq!(described["IpPermissions"][0]["Ipv6Ranges"], json!([{"CidrIpv6": "::/0"}]));
    assert_eq!(described["IpPermissionsEgress"][0]["Ipv6Ranges"], json!([{"CidrIpv6": "::/0"}]));
    served.must("ec2", "RevokeSecurityGroupIngress", input);

    let give_back = json!({"AssociationId": part["AssociationId"]});
    served.refuse("ec2", "DisassociateSubnetCidrBlock", give_back, "InvalidCidrBlock.InUse");
    let give_back = json!({"AssociationId": block["AssociationId"]});
    served.refuse("ec2", "DisassociateVpcCidrBlock", give_back, "InvalidCidrBlock.InUse");
}
