//! elbv2 by boto3: what each operation answers, AWS's error codes, and that what is refused changes nothing.

use serde_json::{Value, json};

use super::served::Served;

const ELB: &str = "elbv2";

/// A VPC with two subnets in two zones and an instance, made by ec2's API.
pub(super) struct Ground {
    pub(super) vpc: Value,
    pub(super) subnets: Value,
    pub(super) group: Value,
    pub(super) instance: Value,
}

impl Ground {
    pub(super) fn lay(served: &Served) -> Self {
        let vpc =
            served.must("ec2", "CreateVpc", json!({"CidrBlock": "10.0.0.0/16"}))["Vpc"]["VpcId"].clone();
        let mut subnets = Vec::new();
        for (cidr, zone) in [("10.0.1.0/24", "eu-central-1a"), ("10.0.2.0/24", "eu-central-1b")] {
            let input = json!({"VpcId": vpc, "CidrBlock": cidr, "AvailabilityZone": zone});
            subnets.push(served.must("ec2", "CreateSubnet", input)["Subnet"]["SubnetId"].clone());
        }
        let input = json!({"GroupName": "web", "Description": "web", "VpcId": vpc});
        let group = served.must("ec2", "CreateSecurityGroup", input)["GroupId"].clone();
        let input = json!({"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "SubnetId": subnets[0]});
        let instance = served.must("ec2", "RunInstances", input)["Instances"][0]["InstanceId"].clone();
        Self { vpc, subnets: Value::Array(subnets), group, instance }
    }

    fn load_balancer(&self, served: &Served, name: &str, kind: &str) -> Value {
        let input = json!({"Name": name, "Type": kind, "Scheme": "internal", "Subnets": self.subnets,
            "SecurityGroups": [self.group]});
        served.must(ELB, "CreateLoadBalancer", input)["LoadBalancers"][0].clone()
    }

    fn target_group(&self, served: &Served, name: &str, protocol: &str) -> Value {
        let input = json!({"Name": name, "Protocol": protocol, "Port": 8080, "VpcId": self.vpc});
        served.must(ELB, "CreateTargetGroup", input)["TargetGroups"][0].clone()
    }
}

fn forward(group: &Value) -> Value {
    json!([{"Type": "forward", "TargetGroupArn": group["TargetGroupArn"]}])
}

#[test]
fn a_load_balancer_is_made_described_changed_and_deleted() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let lb = ground.load_balancer(&served, "web", "application");
    let arn = &lb["LoadBalancerArn"];
    assert!(lb["CreatedTime"].is_number(), "a time that boto3 understands: {lb:#}");
    assert_eq!(lb["State"], json!({"Code": "active"}));
    assert_eq!(lb["AvailabilityZones"].as_array().unwrap().len(), 2);

    let by_name = served.must(ELB, "DescribeLoadBalancers", json!({"Names": ["web"]}));
    assert_eq!(by_name["LoadBalancers"], json!([lb]));
    let first = served.must(ELB, "DescribeLoadBalancers", json!({"PageSize": 1}));
    assert_eq!(first.get("NextMarker"), None, "there is no second page");

    let attributes = served.must(ELB, "DescribeLoadBalancerAttributes", json!({"LoadBalancerArn": arn}));
    let value = |attributes: &Value, key: &str| {
        let all = attributes["Attributes"].as_array().unwrap();
        all.iter().find(|one| one["Key"] == key).map(|one| one["Value"].clone())
    };
    assert_eq!(value(&attributes, "idle_timeout.timeout_seconds"), Some(json!("60")));
    let input = json!({"LoadBalancerArn": arn, "Attributes": [
        {"Key": "idle_timeout.timeout_seconds", "Value": "90"},
        {"Key": "routing.http.xff_client_port.enabled", "Value": "true"},
        {"Key": "waf.fail_open.enabled", "Value": "false"},
    ]});
    let changed = served.must(ELB, "ModifyLoadBalancerAttributes", input);
    assert_eq!(value(&changed, "idle_timeout.timeout_seconds"), Some(json!("90")));

    let input = json!({"LoadBalancerArn": arn, "SecurityGroups": [ground.group]});
    assert_eq!(served.must(ELB, "SetSecurityGroups", input)["SecurityGroupIds"], json!([ground.group]));
    let input = json!({"LoadBalancerArn": arn, "Subnets": ground.subnets});
    assert_eq!(served.must(ELB, "SetSubnets", input)["AvailabilityZones"], lb["AvailabilityZones"]);
    let input = json!({"LoadBalancerArn": arn, "IpAddressType": "ipv4"});
    assert_eq!(served.must(ELB, "SetIpAddressType", input)["IpAddressType"], "ipv4");
    served.must(ELB, "DescribeCapacityReservation", json!({"LoadBalancerArn": arn}));

    let filters = json!([{"Name": "description", "Values": ["ELB app/web/*"]}]);
    let interfaces = served.must("ec2", "DescribeNetworkInterfaces", json!({"Filters": filters}));
    assert_eq!(interfaces["NetworkInterfaces"].as_array().unwrap().len(), 2);
    served.must(ELB, "DeleteLoadBalancer", json!({"LoadBalancerArn": arn}));
    served.must(ELB, "DeleteLoadBalancer", json!({"LoadBalancerArn": arn}));
    let left = served.must("ec2", "DescribeNetworkInterfaces", json!({"Filters": filters}));
    assert_eq!(left["NetworkInterfaces"], json!([]));
    served.refuse(ELB, "DescribeLoadBalancers", json!({"Names": ["web"]}), "LoadBalancerNotFound");
}

#[test]
fn listeners_and_rules_forward_to_target_groups() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let lb = ground.load_balancer(&served, "web", "application");
    let group = ground.target_group(&served, "tasks", "HTTP");
    let not_found = json!([{"Type": "fixed-response", "FixedResponseConfig":
        {"StatusCode": "404", "ContentType": "text/plain", "MessageBody": "no"}}]);
    let input = json!({"LoadBalancerArn": lb["LoadBalancerArn"], "Protocol": "HTTP", "Port": 80,
        "DefaultActions": not_found});
    let listener = served.must(ELB, "CreateListener", input)["Listeners"][0].clone();
    let arn = &listener["ListenerArn"];
    assert_eq!(listener["DefaultActions"][0]["FixedResponseConfig"]["MessageBody"], "no");

    let input = json!({"ListenerArn": arn, "Priority": 5, "Actions": forward(&group), "Conditions": [
        {"Field": "path-pattern", "Values": ["/api/*"]},
        {"Field": "host-header", "HostHeaderConfig": {"Values": ["*.example.com", "example.com"]}},
    ]});
    let rule = served.must(ELB, "CreateRule", input)["Rules"][0].clone();
    assert_eq!((&rule["Priority"], &rule["IsDefault"]), (&json!("5"), &json!(false)));
    assert_eq!(rule["Conditions"][0]["PathPatternConfig"], json!({"Values": ["/api/*"]}));
    assert_eq!(rule["Conditions"][1]["Values"], json!(["*.example.com", "example.com"]));
    assert_eq!(rule["Actions"][0]["ForwardConfig"]["TargetGroups"][0]["Weight"], 1);

    let rules = served.must(ELB, "DescribeRules", json!({"ListenerArn": arn}));
    assert_eq!(rules["Rules"][1]["Priority"], "default");
    let input = json!({"RulePriorities": [{"RuleArn": rule["RuleArn"], "Priority": 7}]});
    assert_eq!(served.must(ELB, "SetRulePriorities", input)["Rules"][0]["Priority"], "7");
    let input =
        json!({"RuleArn": rule["RuleArn"], "Conditions": [{"Field": "path-pattern", "Values": ["/v2/*"]}]});
    let modified = served.must(ELB, "ModifyRule", input);
    assert_eq!(modified["Rules"][0]["Conditions"].as_array().unwrap().len(), 1);

    let groups = served.must(ELB, "DescribeTargetGroups", json!({"LoadBalancerArn": lb["LoadBalancerArn"]}));
    assert_eq!(groups["TargetGroups"][0]["LoadBalancerArns"], json!([lb["LoadBalancerArn"]]));
    served.refuse(
        ELB,
        "DeleteTargetGroup",
        json!({"TargetGroupArn": group["TargetGroupArn"]}),
        "ResourceInUse",
    );

    let input = json!({"ListenerArn": arn, "Port": 8080, "DefaultActions": forward(&group)});
    let moved = served.must(ELB, "ModifyListener", input)["Listeners"][0].clone();
    assert_eq!((&moved["Port"], &moved["DefaultActions"][0]["Type"]), (&json!(8080), &json!("forward")));
    let listed = served.must(ELB, "DescribeListeners", json!({"LoadBalancerArn": lb["LoadBalancerArn"]}));
    assert_eq!(listed["Listeners"], json!([moved]));
    let input = json!({"ListenerArn": arn, "Attributes": [
        {"Key": "routing.http.response.server.enabled", "Value": "true"}]});
    served.must(ELB, "ModifyListenerAttributes", input);
    let attributes = served.must(ELB, "DescribeListenerAttributes", json!({"ListenerArn": arn}));
    assert_eq!(attributes["Attributes"][0]["Value"], "true");

    served.must(ELB, "DeleteRule", json!({"RuleArn": rule["RuleArn"]}));
    served.must(ELB, "DeleteListener", json!({"ListenerArn": arn}));
    served.must(ELB, "DeleteTargetGroup", json!({"TargetGroupArn": group["TargetGroupArn"]}));
}

#[test]
fn targets_are_registered_described_and_drained() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let lb = ground.load_balancer(&served, "nlb", "network");
    let group = ground.target_group(&served, "tasks", "TCP");
    let arn = &group["TargetGroupArn"];
    let input = json!({"LoadBalancerArn": lb["LoadBalancerArn"], "Protocol": "TCP", "Port": 80,
        "DefaultActions": forward(&group)});
    served.must(ELB, "CreateListener", input);
    let input = json!({"TargetGroupArn": arn, "Attributes": [
        {"Key": "deregistration_delay.timeout_seconds", "Value": "5"}]});
    served.must(ELB, "ModifyTargetGroupAttributes", input);
    let input =
        json!({"TargetGroupArn": arn, "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2});
    assert_eq!(
        served.must(ELB, "ModifyTargetGroup", input)["TargetGroups"][0]["HealthCheckTimeoutSeconds"],
        2
    );

    let targets = json!({"TargetGroupArn": arn, "Targets": [{"Id": ground.instance}, {"Id": ground.instance, "Port": 81}]});
    served.must(ELB, "RegisterTargets", targets.clone());
    let health = served.must(ELB, "DescribeTargetHealth", json!({"TargetGroupArn": arn}));
    let first = &health["TargetHealthDescriptions"][0];
    assert_eq!(first["Target"]["Id"], ground.instance);
    assert_eq!((&first["Target"]["Port"], &first["HealthCheckPort"]), (&json!(81), &json!("81")));
    assert_eq!(first["TargetHealth"]["Reason"], "Elb.RegistrationInProgress");
    assert_eq!(health["TargetHealthDescriptions"].as_array().unwrap().len(), 2);

    served.must(
        ELB,
        "DeregisterTargets",
        json!({"TargetGroupArn": arn, "Targets": [{"Id": ground.instance, "Port": 81}]}),
    );
    let input = json!({"TargetGroupArn": arn, "Targets": [
        {"Id": ground.instance, "Port": 81}, {"Id": ground.instance, "Port": 82}]});
    let health = served.must(ELB, "DescribeTargetHealth", input);
    let states: Vec<_> = health["TargetHealthDescriptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["TargetHealth"]["State"].clone())
        .collect();
    assert_eq!(states, ["draining", "unused"]);
    let unknown = json!({"TargetGroupArn": arn, "Targets": [{"Id": "i-00000000000000000"}]});
    served.refuse(ELB, "RegisterTargets", unknown, "InvalidTarget");
}

#[test]
fn tags_limits_and_policies_are_answered() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let lb = ground.load_balancer(&served, "web", "application");
    let arns = json!([lb["LoadBalancerArn"]]);
    let tags = json!([{"Key": "stage", "Value": "test"}, {"Key": "owner", "Value": "us"}]);
    served.must(ELB, "AddTags", json!({"ResourceArns": arns, "Tags": tags}));
    served.must(ELB, "RemoveTags", json!({"ResourceArns": arns, "TagKeys": ["owner"]}));
    let described = served.must(ELB, "DescribeTags", json!({"ResourceArns": arns}));
    assert_eq!(described["TagDescriptions"][0]["Tags"], json!([{"Key": "stage", "Value": "test"}]));
    let limits = served.must(ELB, "DescribeAccountLimits", json!({}));
    let rules = json!({"Name": "rules-per-application-load-balancer", "Max": "100"});
    assert!(limits["Limits"].as_array().unwrap().contains(&rules));
    let first = served.must(ELB, "DescribeSSLPolicies", json!({"PageSize": 1}));
    assert!(first["NextMarker"].is_string(), "{first}");
}

/// Each operation with input that AWS refuses: AWS's code, and nothing has changed.
#[test]
fn what_is_malformed_or_conflicts_is_refused_and_changes_nothing() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let lb = ground.load_balancer(&served, "web", "application");
    let nlb = ground.load_balancer(&served, "nlb", "network");
    let group = ground.target_group(&served, "tasks", "HTTP");
    let tcp = ground.target_group(&served, "flows", "TCP");
    let lb_arn = &lb["LoadBalancerArn"];
    let input =
        json!({"LoadBalancerArn": lb_arn, "Protocol": "HTTP", "Port": 80, "DefaultActions": forward(&group)});
    let listener = served.must(ELB, "CreateListener", input)["Listeners"][0]["ListenerArn"].clone();
    let rule = |priority: i64, path: &str| {
        json!({"ListenerArn": listener, "Priority": priority, "Actions": forward(&group),
            "Conditions": [{"Field": "path-pattern", "Values": [path]}]})
    };
    served.must(ELB, "CreateRule", rule(1, "/"));
    let gone = |arn: &Value| format!("{}0", arn.as_str().unwrap());
    let listen = |lb: &Value, protocol: &str, port: i64, group: &Value| {
        json!({"LoadBalancerArn": lb["LoadBalancerArn"], "Protocol": protocol, "Port": port,
            "DefaultActions": forward(group)})
    };

    let subnets = &ground.subnets;
    let cases = [
        ("CreateLoadBalancer", json!({}), "ValidationError"),
        ("CreateLoadBalancer", json!({"Name": "web", "Subnets": subnets}), "DuplicateLoadBalancerName"),
        ("CreateLoadBalancer", json!({"Name": "a b", "Subnets": subnets}), "ValidationError"),
        ("CreateLoadBalancer", json!({"Name": "x", "Subnets": [subnets[0]]}), "ValidationError"),
        ("CreateLoadBalancer", json!({"Name": "x", "Subnets": ["subnet-1", "subnet-2"]}), "SubnetNotFound"),
        (
            "CreateLoadBalancer",
            json!({"Name": "x", "Subnets": subnets, "Scheme": "public"}),
            "ValidationError",
        ),
        (
            "CreateLoadBalancer",
            json!({"Name": "x", "Subnets": subnets, "SecurityGroups": ["sg-1"]}),
            "InvalidSecurityGroup",
        ),
        (
            "ModifyLoadBalancerAttributes",
            json!({"LoadBalancerArn": lb_arn, "Attributes": [
            {"Key": "idle_timeout.timeout_seconds", "Value": "90"}, {"Key": "no.such.key", "Value": "1"}]}),
            "ValidationError",
        ),
        (
            "ModifyLoadBalancerAttributes",
            json!({"LoadBalancerArn": gone(lb_arn), "Attributes": []}),
            "LoadBalancerNotFound",
        ),
        ("SetSubnets", json!({"LoadBalancerArn": lb_arn, "Subnets": [subnets[0]]}), "ValidationError"),
        (
            "SetSecurityGroups",
            json!({"LoadBalancerArn": lb_arn, "SecurityGroups": ["sg-1"]}),
            "InvalidSecurityGroup",
        ),
        (
            "SetIpAddressType",
            json!({"LoadBalancerArn": lb_arn, "IpAddressType": "dualstack"}),
            "InvalidConfigurationRequest",
        ),
        ("DescribeLoadBalancers", json!({"LoadBalancerArns": [gone(lb_arn)]}), "LoadBalancerNotFound"),
        ("DescribeLoadBalancers", json!({"Marker": "!"}), "ValidationError"),
        ("DeleteLoadBalancer", json!({"LoadBalancerArn": "web"}), "ValidationError"),
        (
            "CreateTargetGroup",
            json!({"Name": "tasks", "Protocol": "TCP", "Port": 1, "VpcId": ground.vpc}),
            "DuplicateTargetGroupName",
        ),
        (
            "CreateTargetGroup",
            json!({"Name": "x", "Protocol": "HTTP", "Port": 70_000, "VpcId": ground.vpc}),
            "ValidationError",
        ),
        (
            "CreateTargetGroup",
            json!({"Name": "x", "Protocol": "SPDY", "Port": 1, "VpcId": ground.vpc}),
            "ValidationError",
        ),
        ("CreateTargetGroup", json!({"Name": "x", "Protocol": "HTTP", "Port": 1}), "ValidationError"),
        (
            "ModifyTargetGroup",
            json!({"TargetGroupArn": gone(&group["TargetGroupArn"])}),
            "TargetGroupNotFound",
        ),
        (
            "ModifyTargetGroupAttributes",
            json!({"TargetGroupArn": group["TargetGroupArn"], "Attributes": [
            {"Key": "deregistration_delay.timeout_seconds", "Value": "3601"}]}),
            "ValidationError",
        ),
        ("CreateListener", listen(&lb, "HTTP", 80, &tcp), "IncompatibleProtocols"),
        ("CreateListener", listen(&lb, "TCP", 81, &tcp), "ValidationError"),
        ("CreateListener", listen(&lb, "HTTPS", 443, &group), "UnsupportedProtocol"),
        (
            "CreateListener",
            listen(&lb, "HTTP", 81, &json!({"TargetGroupArn": gone(&group["TargetGroupArn"])})),
            "TargetGroupNotFound",
        ),
        ("CreateListener", listen(&nlb, "TCP", 0, &tcp), "ValidationError"),
        (
            "CreateListener",
            json!({"LoadBalancerArn": lb_arn, "Protocol": "HTTP", "Port": 80, "DefaultActions":
            [{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "200"}}]}),
            "DuplicateListener",
        ),
        ("ModifyListener", json!({"ListenerArn": gone(&listener), "Port": 81}), "ListenerNotFound"),
        ("DescribeListeners", json!({}), "ValidationError"),
        ("CreateRule", rule(1, "/x"), "PriorityInUse"),
        ("CreateRule", rule(0, "/x"), "ValidationError"),
        ("CreateRule", rule(2, "/\u{e9}"), "ValidationError"),
        (
            "CreateRule",
            json!({"ListenerArn": listener, "Priority": 2, "Actions": forward(&group), "Conditions": []}),
            "ValidationError",
        ),
        (
            "CreateRule",
            json!({"ListenerArn": listener, "Priority": 2, "Conditions": [{"Field": "path-pattern", "Values": ["/"]}],
            "Actions": [{"Type": "redirect", "RedirectConfig": {"StatusCode": "HTTP_301"}}]}),
            "InvalidLoadBalancerAction",
        ),
        (
            "CreateRule",
            json!({"ListenerArn": listener, "Priority": 2, "Actions": forward(&group), "Conditions": [
            {"Field": "source-ip", "SourceIpConfig": {"Values": ["10.0.0.0/8"]}}]}),
            "ValidationError",
        ),
        (
            "DeleteRule",
            json!({"RuleArn": "arn:aws:elasticloadbalancing:eu-central-1:000000000000:listener-rule/x"}),
            "RuleNotFound",
        ),
        (
            "RegisterTargets",
            json!({"TargetGroupArn": group["TargetGroupArn"], "Targets": []}),
            "ValidationError",
        ),
        (
            "RegisterTargets",
            json!({"TargetGroupArn": group["TargetGroupArn"], "Targets": [
            {"Id": ground.instance}, {"Id": "i-1"}]}),
            "InvalidTarget",
        ),
        (
            "DescribeTargetHealth",
            json!({"TargetGroupArn": gone(&group["TargetGroupArn"])}),
            "TargetGroupNotFound",
        ),
        (
            "AddTags",
            json!({"ResourceArns": [lb_arn], "Tags": [{"Key": "a"}, {"Key": "a"}]}),
            "DuplicateTagKeys",
        ),
        (
            "AddTags",
            json!({"ResourceArns": [lb_arn, gone(lb_arn)], "Tags": [{"Key": "a"}]}),
            "LoadBalancerNotFound",
        ),
    ];
    for (operation, input, code) in cases {
        let message = served.refuse(ELB, operation, input, code);
        assert!(!message.is_empty(), "{operation} {code}");
    }
}
