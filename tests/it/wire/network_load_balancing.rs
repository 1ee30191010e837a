//! elbv2 by boto3: what only network load balancers have, and every combination of theirs that AWS refuses.

use serde_json::{Value, json};

use super::load_balancing::Ground;
use super::served::Served;

const ELB: &str = "elbv2";

/// A VPC with load balancers and a target group of each protocol.
struct Stage {
    served: Served,
    ground: Ground,
}

impl Stage {
    fn set() -> Self {
        let served = Served::start();
        let ground = Ground::lay(&served);
        let stage = Self { served, ground };
        stage.balancer(json!({"Name": "nlb"}));
        stage.balancer(json!({"Name": "second"}));
        stage.balancer(json!({"Name": "open", "SecurityGroups": []}));
        stage.balancer(json!({"Name": "alb", "Type": "application"}));
        for protocol in ["HTTP", "TCP", "TLS", "UDP", "TCP_UDP", "QUIC", "TCP_QUIC"] {
            stage
                .group(json!({"Name": protocol.replace('_', "-"), "Protocol": protocol, "TargetType": "ip"}));
        }
        stage.group(json!({"Name": "to-alb", "Protocol": "TCP", "TargetType": "alb"}));
        stage.group(json!({"Name": "machines", "Protocol": "TCP"}));
        stage
    }

    fn balancer(&self, own: Value) {
        let base = json!({"Type": "network", "Scheme": "internal", "Subnets": self.ground.subnets,
            "SecurityGroups": [self.ground.group]});
        self.served.must(ELB, "CreateLoadBalancer", over(base, &own));
    }

    fn group(&self, own: Value) {
        let base = json!({"Port": 8080, "VpcId": self.ground.vpc});
        self.served.must(ELB, "CreateTargetGroup", over(base, &own));
    }

    fn balancer_arn(&self, name: &str) -> Value {
        let found = self.served.must(ELB, "DescribeLoadBalancers", json!({"Names": [name]}));
        found["LoadBalancers"][0]["LoadBalancerArn"].clone()
    }

    fn group_arn(&self, name: &str) -> Value {
        let found = self.served.must(ELB, "DescribeTargetGroups", json!({"Names": [name]}));
        found["TargetGroups"][0]["TargetGroupArn"].clone()
    }

    /// CreateListener of load balancer `nlb`, forwarding to one group.
    fn listener(&self, protocol: &str, group: &str, own: &Value) -> Value {
        let base = json!({"LoadBalancerArn": self.balancer_arn("nlb"), "Protocol": protocol, "Port": 90,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": self.group_arn(group)}]});
        over(base, own)
    }

    /// The same, forwarding to groups with weights.
    fn weighted(&self, protocol: &str, groups: &[(&str, i64)]) -> Value {
        let groups: Vec<Value> = groups
            .iter()
            .map(|(name, weight)| json!({"TargetGroupArn": self.group_arn(name), "Weight": weight}))
            .collect();
        let action = json!([{"Type": "forward", "ForwardConfig": {"TargetGroups": groups}}]);
        self.listener(protocol, "TCP", &json!({"DefaultActions": action}))
    }

    /// ModifyTargetGroupAttributes.
    fn attributes(&self, group: &str, pairs: &[(&str, &str)]) -> Value {
        json!({"TargetGroupArn": self.group_arn(group), "Attributes": attributes(pairs)})
    }

    /// RegisterTargets.
    fn targets(&self, group: &str, target: Value) -> Value {
        json!({"TargetGroupArn": self.group_arn(group), "Targets": [target]})
    }
}

fn attributes(pairs: &[(&str, &str)]) -> Vec<Value> {
    pairs.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

/// An input with other members in it.
fn over(mut base: Value, own: &Value) -> Value {
    for (key, value) in own.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn value(answer: &Value, key: &str) -> Value {
    let all = answer["Attributes"].as_array().unwrap();
    all.iter().find(|one| one["Key"] == key).map_or(Value::Null, |one| one["Value"].clone())
}

/// Each input, AWS's code, and what the message must name.
type Cases = Vec<(&'static str, Value, &'static str, &'static str)>;

fn refuse_all(stage: &Stage, cases: Cases) {
    for (operation, input, code, word) in cases {
        let said = input.to_string();
        let message = stage.served.refuse(ELB, operation, input, code);
        assert!(message.contains(word), "{operation} {said}: {message:?} does not name {word:?}");
    }
}

#[test]
fn listeners_take_what_their_protocol_has_and_nothing_else() {
    let stage = Stage::set();
    let none = json!({});
    let to = |protocol: &str, group: &str| stage.listener(protocol, group, &none);
    let with = |protocol: &str, group: &str, own: Value| stage.listener(protocol, group, &own);
    let certificate = json!([{"CertificateArn": "arn:aws:acm:eu-central-1:000000000000:certificate/x"}]);
    stage.served.must(ELB, "CreateListener", with("TCP", "TCP", json!({"Port": 80})));
    let validation = "ValidationError";
    let (create, incompatible) = ("CreateListener", "IncompatibleProtocols");
    refuse_all(
        &stage,
        vec![
            (create, to("HTTP", "TCP"), validation, "Listener protocol 'HTTP'"),
            (create, to("GENEVE", "TCP"), validation, "Listener protocol 'GENEVE'"),
            (create, to("SCTP", "TCP"), validation, "'SCTP' at 'protocol'"),
            (create, with("TCP", "TCP", json!({"Port": 0})), validation, "at 'port'"),
            (create, with("TCP", "TCP", json!({"Port": 65_536})), validation, "at 'port'"),
            (create, with("UDP", "UDP", json!({"Port": 80})), "DuplicateListener", "port"),
            (create, to("TCP", "UDP"), incompatible, "'UDP'"),
            (create, to("TCP", "TLS"), incompatible, "'TLS'"),
            (create, to("TCP", "HTTP"), incompatible, "'HTTP'"),
            (create, to("UDP", "TCP"), incompatible, "'TCP'"),
            (create, to("TCP_UDP", "TCP"), incompatible, "'TCP'"),
            (create, to("TCP_UDP", "UDP"), incompatible, "'UDP'"),
            (create, to("QUIC", "UDP"), incompatible, "'UDP'"),
            (create, to("TCP_QUIC", "QUIC"), incompatible, "'QUIC'"),
            (create, to("UDP", "QUIC"), incompatible, "'QUIC'"),
            (create, to("TLS", "TLS"), validation, "certificate must be specified for TLS"),
            (
                create,
                with("TLS", "TLS", json!({"Certificates": certificate})),
                "CertificateNotFound",
                "certificate/x",
            ),
            (create, with("TCP", "TCP", json!({"Certificates": certificate})), validation, "certificate"),
            (create, with("TCP", "TCP", json!({"SslPolicy": "x"})), validation, "SSL policy"),
            (create, with("UDP", "UDP", json!({"AlpnPolicy": ["None"]})), validation, "ALPN policy"),
            (
                create,
                with(
                    "TCP",
                    "TCP",
                    json!({"DefaultActions": [{"Type": "fixed-response",
                    "FixedResponseConfig": {"StatusCode": "200"}}]}),
                ),
                "InvalidLoadBalancerAction",
                "forward",
            ),
            (create, with("TCP", "TCP", json!({"DefaultActions": []})), validation, "action"),
            (create, with("TCP", "to-alb", json!({"Protocol": "UDP"})), incompatible, "'TCP'"),
        ],
    );
}

#[test]
fn groups_share_by_weights_from_0_to_999_and_at_most_five() {
    let stage = Stage::set();
    for name in ["a", "b", "c", "d", "e"] {
        stage.group(json!({"Name": name, "Protocol": "TCP"}));
    }
    let made = stage.served.must(ELB, "CreateListener", stage.weighted("TCP", &[("a", 0), ("b", 999)]));
    let listener = &made["Listeners"][0];
    let weights: Vec<_> = listener["DefaultActions"][0]["ForwardConfig"]["TargetGroups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["Weight"].clone())
        .collect();
    assert_eq!(weights, [0, 999]);
    let moved = json!({"ListenerArn": listener["ListenerArn"],
        "DefaultActions": stage.weighted("TCP", &[("a", 7), ("b", 3)])["DefaultActions"]});
    stage.served.must(ELB, "ModifyListener", moved);
    let sticky = json!([{"Type": "forward", "ForwardConfig": {"TargetGroups": [
        {"TargetGroupArn": stage.group_arn("c")}, {"TargetGroupArn": stage.group_arn("d")}],
        "TargetGroupStickinessConfig": {"Enabled": true, "DurationSeconds": 60}}}]);
    let six = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1), ("machines", 1)];
    let of_second =
        over(stage.weighted("TCP", &[("a", 1)]), &json!({"LoadBalancerArn": stage.balancer_arn("second")}));
    refuse_all(
        &stage,
        vec![
            ("CreateListener", stage.weighted("TCP", &[("c", 1_000)]), "ValidationError", "'1000'"),
            ("CreateListener", stage.weighted("TCP", &[("c", -1)]), "ValidationError", "'-1'"),
            (
                "CreateListener",
                stage.weighted("TCP", &[("c", 1), ("c", 1)]),
                "ValidationError",
                "more than once",
            ),
            ("CreateListener", stage.weighted("TCP", &six), "ValidationError", "at most 5"),
            (
                "CreateListener",
                stage.weighted("TCP", &[("c", 1), ("UDP", 1)]),
                "IncompatibleProtocols",
                "'UDP'",
            ),
            (
                "CreateListener",
                stage.weighted("TCP", &[("c", 1), ("to-alb", 1)]),
                "InvalidConfigurationRequest",
                "'alb'",
            ),
            (
                "CreateListener",
                stage.listener("TCP", "TCP", &json!({"DefaultActions": sticky})),
                "InvalidLoadBalancerAction",
                "stickiness",
            ),
            ("CreateListener", of_second, "TargetGroupAssociationLimit", "targetgroup/a/"),
        ],
    );
}

#[test]
fn target_groups_have_the_health_checks_that_their_protocol_can_be_asked_by() {
    let stage = Stage::set();
    let base = json!({"Name": "x", "Protocol": "TCP", "Port": 80, "VpcId": stage.ground.vpc});
    let with = |own: Value| over(base.clone(), &own);
    let mut cases: Cases = ["TLS", "UDP", "TCP_UDP", "QUIC", "TCP_QUIC", "GENEVE"]
        .into_iter()
        .map(|protocol| {
            let input = with(json!({"HealthCheckProtocol": protocol}));
            ("CreateTargetGroup", input, "ValidationError", "Health check protocol")
        })
        .collect();
    let configuration = "InvalidConfigurationRequest";
    let rest: Cases = vec![
        ("CreateTargetGroup", with(json!({"HealthCheckPath": "/x"})), configuration, "paths"),
        ("CreateTargetGroup", with(json!({"Matcher": {"HttpCode": "200"}})), configuration, "matchers"),
        (
            "CreateTargetGroup",
            with(json!({"HealthCheckProtocol": "HTTPS", "Matcher": {"HttpCode": "200-600"}})),
            "ValidationError",
            "200-600",
        ),
        (
            "CreateTargetGroup",
            with(json!({"HealthCheckProtocol": "HTTP", "HealthCheckPath": "x"})),
            "ValidationError",
            "path 'x'",
        ),
        (
            "CreateTargetGroup",
            with(json!({"HealthCheckIntervalSeconds": 4})),
            "ValidationError",
            "healthCheckIntervalSeconds",
        ),
        (
            "CreateTargetGroup",
            with(json!({"HealthCheckTimeoutSeconds": 121})),
            "ValidationError",
            "healthCheckTimeoutSeconds",
        ),
        (
            "CreateTargetGroup",
            with(json!({"HealthCheckIntervalSeconds": 10, "HealthCheckTimeoutSeconds": 10})),
            "ValidationError",
            "interval '10', timeout '10'",
        ),
        (
            "CreateTargetGroup",
            with(json!({"HealthyThresholdCount": 11})),
            "ValidationError",
            "healthyThresholdCount",
        ),
        (
            "CreateTargetGroup",
            with(json!({"UnhealthyThresholdCount": 1})),
            "ValidationError",
            "unhealthyThresholdCount",
        ),
        (
            "CreateTargetGroup",
            with(json!({"HealthCheckPort": "0"})),
            "ValidationError",
            "Health check port '0'",
        ),
        (
            "CreateTargetGroup",
            with(json!({"HealthCheckEnabled": false})),
            "ValidationError",
            "Health check enabled",
        ),
        (
            "CreateTargetGroup",
            with(json!({"ProtocolVersion": "HTTP2"})),
            "ValidationError",
            "protocol version",
        ),
        (
            "CreateTargetGroup",
            with(json!({"TargetType": "alb", "Protocol": "UDP"})),
            "ValidationError",
            "'alb'",
        ),
        (
            "CreateTargetGroup",
            with(json!({"TargetType": "alb", "HealthCheckProtocol": "TCP"})),
            "ValidationError",
            "Health check protocol 'TCP'",
        ),
        (
            "CreateTargetGroup",
            with(json!({"IpAddressType": "dualstack"})),
            "ValidationError",
            "at 'ipAddressType'",
        ),
        ("CreateTargetGroup", with(json!({"Port": 0})), "ValidationError", "at 'port'"),
        ("CreateTargetGroup", with(json!({"VpcId": "vpc-0"})), "ValidationError", "vpc-0"),
        (
            "ModifyTargetGroup",
            json!({"TargetGroupArn": stage.group_arn("UDP"), "HealthCheckProtocol": "UDP"}),
            "ValidationError",
            "Health check protocol 'UDP'",
        ),
    ];
    cases.extend(rest);
    refuse_all(&stage, cases);
}

#[test]
fn attributes_have_their_protocols_defaults_and_what_has_no_effect_is_refused() {
    let stage = Stage::set();
    let of = |group: &str, key: &str| {
        let input = json!({"TargetGroupArn": stage.group_arn(group)});
        value(&stage.served.must(ELB, "DescribeTargetGroupAttributes", input), key)
    };
    let deregistered = "deregistration_delay.connection_termination.enabled";
    let unhealthy = "target_health_state.unhealthy.connection_termination.enabled";
    let interval = "target_health_state.unhealthy.draining_interval_seconds";
    for (group, ends_deregistered, ends_unhealthy) in [
        ("TCP", "false", "true"),
        ("TLS", "false", "true"),
        ("UDP", "true", "false"),
        ("TCP-UDP", "true", "false"),
        ("QUIC", "false", "true"),
    ] {
        assert_eq!(
            (of(group, deregistered), of(group, unhealthy)),
            (json!(ends_deregistered), json!(ends_unhealthy)),
            "{group}"
        );
    }
    let must = |group: &str, pairs: &[(&str, &str)]| {
        stage.served.must(ELB, "ModifyTargetGroupAttributes", stage.attributes(group, pairs));
    };
    must("TCP", &[(unhealthy, "false"), (interval, "360000")]);
    must("UDP", &[(interval, "30"), (deregistered, "false"), ("stickiness.enabled", "true")]);
    must("TLS", &[("proxy_protocol_v2.enabled", "true")]);

    let set = |group: &str, pairs: &[(&str, &str)]| stage.attributes(group, pairs);
    let (modify, validation, configuration) =
        ("ModifyTargetGroupAttributes", "ValidationError", "InvalidConfigurationRequest");
    let minimum = "target_group_health.unhealthy_state_routing.minimum_healthy_targets";
    let (count, percentage) = (format!("{minimum}.count"), format!("{minimum}.percentage"));
    refuse_all(
        &stage,
        vec![
            (
                modify,
                set("UDP", &[(unhealthy, "true")]),
                validation,
                "target_health_state.unhealthy.connection_termination",
            ),
            (modify, set("machines", &[(interval, "60")]), validation, "draining_interval_seconds"),
            (modify, set("TCP", &[(interval, "360001")]), validation, "draining_interval_seconds"),
            (
                modify,
                set("UDP", &[("proxy_protocol_v2.enabled", "true")]),
                configuration,
                "proxy_protocol_v2.enabled",
            ),
            (
                modify,
                set("QUIC", &[("proxy_protocol_v2.enabled", "true")]),
                configuration,
                "proxy_protocol_v2.enabled",
            ),
            (
                modify,
                set("TLS", &[("preserve_client_ip.enabled", "true")]),
                configuration,
                "preserve_client_ip.enabled",
            ),
            (modify, set("TLS", &[("stickiness.enabled", "true")]), validation, "stickiness.enabled"),
            (modify, set("QUIC", &[("stickiness.enabled", "true")]), configuration, "stickiness.enabled"),
            (modify, set("TCP", &[("stickiness.type", "lb_cookie")]), validation, "stickiness.type"),
            (
                modify,
                set("TCP", &[("slow_start.duration_seconds", "30")]),
                validation,
                "slow_start.duration_seconds",
            ),
            (
                modify,
                set("TCP", &[("load_balancing.cross_zone.enabled", "off")]),
                validation,
                "load_balancing.cross_zone.enabled",
            ),
            (
                modify,
                set("TCP", &[("deregistration_delay.timeout_seconds", "3601")]),
                validation,
                "deregistration_delay.timeout_seconds",
            ),
            (modify, set("TCP", &[(&count, "0")]), validation, "minimum_healthy_targets.count"),
            (modify, set("TCP", &[(&percentage, "101")]), validation, "minimum_healthy_targets.percentage"),
            (modify, set("TCP", &[("gatehouse.forwarding", "gre")]), validation, "gatehouse.forwarding"),
            (
                modify,
                set("TCP", &[("stickiness.enabled", "true"), ("stickiness.enabled", "true")]),
                validation,
                "more than once",
            ),
        ],
    );
}

#[test]
fn listener_attributes_follow_the_listeners_protocol() {
    let stage = Stage::set();
    let made = |protocol: &str, group: &str, port: u16| {
        let input = stage.listener(protocol, group, &json!({"Port": port}));
        stage.served.must(ELB, "CreateListener", input)["Listeners"][0]["ListenerArn"].clone()
    };
    let (tcp, udp) = (made("TCP", "TCP", 80), made("UDP", "UDP", 53));
    let set = |listener: &Value, key: &str, value: &str| json!({"ListenerArn": listener, "Attributes": attributes(&[(key, value)])});
    let idle = "tcp.idle_timeout.seconds";
    let answer = stage.served.must(ELB, "ModifyListenerAttributes", set(&tcp, idle, "6000"));
    assert_eq!(value(&answer, idle), "6000");
    let modify = "ModifyListenerAttributes";
    refuse_all(
        &stage,
        vec![
            (modify, set(&tcp, idle, "59"), "ValidationError", idle),
            (modify, set(&tcp, idle, "6001"), "ValidationError", idle),
            (modify, set(&udp, idle, "350"), "ValidationError", idle),
            (
                modify,
                set(&tcp, "routing.http.response.server.enabled", "true"),
                "ValidationError",
                "routing.http",
            ),
            (
                modify,
                set(&tcp, "gatehouse.new_flows_per_second", "0"),
                "ValidationError",
                "gatehouse.new_flows",
            ),
            (
                "CreateRule",
                json!({"ListenerArn": tcp, "Priority": 1, "Conditions": [{"Field": "path-pattern", "Values": ["/"]}],
                    "Actions": [{"Type": "forward", "TargetGroupArn": stage.group_arn("TCP")}]}),
                "UnsupportedProtocol",
                "'TCP'",
            ),
        ],
    );
}

#[test]
fn targets_are_named_as_their_group_says() {
    let stage = Stage::set();
    let to = |group: &str, target: Value| stage.targets(group, target);
    let quic = json!({"Id": "10.0.1.20", "QuicServerId": "0x0000000000000001"});
    stage.served.must(ELB, "RegisterTargets", to("QUIC", quic));
    let id = "0x0000000000000001";
    let (register, validation, target) = ("RegisterTargets", "ValidationError", "InvalidTarget");
    refuse_all(
        &stage,
        vec![
            (register, to("TCP", json!({"Id": "10.0.1"})), validation, "'10.0.1'"),
            (register, to("TCP", json!({"Id": "fd00::1"})), validation, "'fd00::1'"),
            (register, to("TCP", json!({"Id": "8.8.8.8", "AvailabilityZone": "all"})), target, "8.8.8.8"),
            (register, to("TCP", json!({"Id": "192.168.7.7"})), validation, "Availability Zone"),
            (
                register,
                to("TCP", json!({"Id": "10.0.1.20", "AvailabilityZone": "eu-central-1b"})),
                target,
                "eu-central-1b",
            ),
            (register, to("TCP", json!({"Id": "10.0.1.20", "Port": 0})), validation, "at 'targets"),
            (register, to("TCP", json!({"Id": "10.0.1.20", "QuicServerId": id})), validation, "QuicServerId"),
            (register, to("QUIC", json!({"Id": "10.0.1.21"})), validation, "QuicServerId"),
            (
                register,
                to("QUIC", json!({"Id": "10.0.1.21", "QuicServerId": "1"})),
                validation,
                "QuicServerId",
            ),
            (register, to("QUIC", json!({"Id": "10.0.1.21", "QuicServerId": id})), target, id),
            (register, to("machines", json!({"Id": "10.0.1.20"})), target, "10.0.1.20"),
            (
                register,
                to("machines", json!({"Id": stage.ground.instance, "AvailabilityZone": "all"})),
                validation,
                "AvailabilityZone",
            ),
            (
                register,
                to("to-alb", json!({"Id": stage.balancer_arn("nlb")})),
                target,
                "application load balancers",
            ),
            (register, to("to-alb", json!({"Id": stage.balancer_arn("alb")})), target, "no listener"),
        ],
    );
}

#[test]
fn further_addresses_are_interfaces_of_the_load_balancer_and_cannot_become_fewer() {
    let stage = Stage::set();
    let arn = stage.balancer_arn("nlb");
    let key = "secondary_ips.auto_assigned.per_subnet";
    let set =
        |arn: &Value, value: &str| json!({"LoadBalancerArn": arn, "Attributes": attributes(&[(key, value)])});
    let interfaces = || {
        let filters = json!([{"Name": "description", "Values": ["ELB net/nlb/*"]}]);
        let found = stage.served.must("ec2", "DescribeNetworkInterfaces", json!({"Filters": filters}));
        found["NetworkInterfaces"].as_array().unwrap().len()
    };
    assert_eq!(interfaces(), 2);
    let modify = "ModifyLoadBalancerAttributes";
    let answer = stage.served.must(ELB, modify, set(&arn, "2"));
    assert_eq!((value(&answer, key), interfaces()), (json!("2"), 6));
    let open = stage.balancer_arn("open");
    let groups = json!({"LoadBalancerArn": open, "SecurityGroups": [stage.ground.group]});
    let subnet = &stage.ground.subnets[0];
    let mapped = |own: Value| {
        let mapping = over(json!({"SubnetId": subnet}), &own);
        json!({"Name": "x", "Type": "network", "Scheme": "internal", "SubnetMappings": [mapping]})
    };
    refuse_all(
        &stage,
        vec![
            (modify, set(&arn, "1"), "InvalidConfigurationRequest", key),
            (modify, set(&arn, "8"), "ValidationError", key),
            (modify, set(&stage.balancer_arn("alb"), "1"), "ValidationError", key),
            ("SetSecurityGroups", groups, "InvalidConfigurationRequest", "security groups"),
            (
                "CreateLoadBalancer",
                mapped(json!({"PrivateIPv4Address": "10.0.1.1"})),
                "InvalidConfigurationRequest",
                "10.0.1.1",
            ),
            (
                "CreateLoadBalancer",
                mapped(json!({"PrivateIPv4Address": "10.0.9.9"})),
                "InvalidConfigurationRequest",
                "10.0.9.9",
            ),
            ("CreateLoadBalancer", mapped(json!({"PrivateIPv4Address": "x"})), "ValidationError", "'x'"),
            (
                "CreateLoadBalancer",
                mapped(json!({"IPv6Address": "fd00::9"})),
                "InvalidConfigurationRequest",
                "IPv6Address",
            ),
            (
                "CreateLoadBalancer",
                mapped(json!({"AllocationId": "eipalloc-0"})),
                "AllocationIdNotFound",
                "eipalloc-0",
            ),
            (
                "SetSubnets",
                json!({"LoadBalancerArn": arn, "SubnetMappings": [{"SubnetId": subnet, "PrivateIPv4Address": "10.0.1.77"}]}),
                "InvalidConfigurationRequest",
                "cannot be changed",
            ),
            (
                "SetIpAddressType",
                json!({"LoadBalancerArn": arn, "IpAddressType": "dualstack"}),
                "InvalidSubnet",
                "IPv6 CIDR",
            ),
        ],
    );
    stage.served.must(ELB, "DeleteLoadBalancer", json!({"LoadBalancerArn": arn}));
    assert_eq!(interfaces(), 0);
}
