//! elbv2 by boto3: listeners of TLS, their certificates and policies.

use serde_json::{Value, json};

use super::{certificates::issue, load_balancing::Ground, served::Served};

const ELB: &str = "elbv2";
const UNKNOWN: &str =
    "arn:aws:acm:eu-central-1:000000000000:certificate/00000000-0000-4000-8000-000000000000";

/// A network load balancer, groups to forward to, and imported certificates.
struct World {
    served: Served,
    lb: Value,
    groups: Vec<Value>,
    certificates: Vec<Value>,
}

impl World {
    fn lay() -> Self {
        let served = Served::start();
        let ground = Ground::lay(&served);
        let lb = json!({"Name": "edge", "Type": "network", "Scheme": "internal", "Subnets": ground.subnets});
        let lb = served.must(ELB, "CreateLoadBalancer", lb)["LoadBalancers"][0]["LoadBalancerArn"].clone();
        let group = |(name, protocol): (&str, &str)| {
            let input = json!({"Name": name, "Protocol": protocol, "Port": 8080, "VpcId": ground.vpc});
            served.must(ELB, "CreateTargetGroup", input)["TargetGroups"][0]["TargetGroupArn"].clone()
        };
        let groups = [("flows", "TCP"), ("secure", "TLS"), ("web", "HTTP")].into_iter().map(group).collect();
        let certificate = |name: &str| {
            let (certificate, key) = issue(name, |_| {});
            let input = json!({"Certificate": certificate, "PrivateKey": key});
            served.must("acm", "ImportCertificate", input)["CertificateArn"].clone()
        };
        let certificates = ["a.test", "b.test", "c.test"].into_iter().map(certificate).collect();
        Self { lb, groups, certificates, served }
    }

    fn listen(&self, port: i64, group: usize, more: Value) -> Value {
        let mut input = json!({"LoadBalancerArn": self.lb, "Protocol": "TLS", "Port": port,
            "Certificates": [{"CertificateArn": self.certificates[0]}],
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": self.groups[group]}]});
        for (key, value) in more.as_object().unwrap() {
            input[key] = value.clone();
        }
        input
    }
}

#[test]
fn a_tls_listener_is_made_changed_and_its_certificates_are_listed() {
    let world = World::lay();
    let served = &world.served;
    let more = json!({"AlpnPolicy": ["HTTP2Preferred"], "SslPolicy": "ELBSecurityPolicy-TLS13-1-2-2021-06"});
    let made = served.must(ELB, "CreateListener", world.listen(443, 0, more))["Listeners"][0].clone();
    let arn = &made["ListenerArn"];
    assert_eq!(made["Certificates"], json!([{"CertificateArn": world.certificates[0]}]));
    assert_eq!(made["AlpnPolicy"], json!(["HTTP2Preferred"]));
    let described = served.must(ELB, "DescribeListeners", json!({"ListenerArns": [arn]}));
    assert_eq!(described["Listeners"], json!([made]));

    let list = json!({"ListenerArn": arn, "Certificates": [{"CertificateArn": world.certificates[1]}]});
    let added = served.must(ELB, "AddListenerCertificates", list.clone());
    let entry = |number: usize, is_default: bool| json!({"CertificateArn": world.certificates[number], "IsDefault": is_default});
    assert_eq!(added["Certificates"], json!([entry(1, false)]));
    let all = served.must(ELB, "DescribeListenerCertificates", json!({"ListenerArn": arn}));
    assert_eq!(all["Certificates"], json!([entry(0, true), entry(1, false)]));
    let used = served.must("acm", "DescribeCertificate", json!({"CertificateArn": world.certificates[1]}));
    assert_eq!(used["Certificate"]["InUseBy"], json!([world.lb]));
    served.must(ELB, "RemoveListenerCertificates", list);

    let change = json!({"ListenerArn": arn, "Certificates": [{"CertificateArn": world.certificates[2]}],
        "DefaultActions": [{"Type": "forward", "TargetGroupArn": world.groups[1]}]});
    let changed = served.must(ELB, "ModifyListener", change)["Listeners"][0].clone();
    assert_eq!(changed["Certificates"], json!([{"CertificateArn": world.certificates[2]}]));
    assert_eq!(changed["SslPolicy"], "ELBSecurityPolicy-TLS13-1-2-2021-06", "kept");
    let attributes = served.must(ELB, "DescribeListenerAttributes", json!({"ListenerArn": arn}));
    let keys: Vec<_> =
        attributes["Attributes"].as_array().unwrap().iter().map(|known| &known["Key"]).collect();
    assert_eq!(keys, ["gatehouse.new_flows_per_second"], "the idle timeout of TLS is fixed");
    let on = json!([{"Key": "proxy_protocol_v2.enabled", "Value": "true"}]);
    for group in &world.groups[..2] {
        let input = json!({"TargetGroupArn": group, "Attributes": on});
        let set = served.must(ELB, "ModifyTargetGroupAttributes", input)["Attributes"].clone();
        assert!(set.as_array().unwrap().contains(&on[0]), "{set}");
    }
}

#[test]
fn policies_are_those_that_are_offered() {
    let served = Served::start();
    let all = served.must(ELB, "DescribeSSLPolicies", json!({"LoadBalancerType": "network"}));
    let policies = all["SslPolicies"].as_array().unwrap();
    assert!(policies.iter().all(|policy| !policy["Ciphers"].as_array().unwrap().is_empty()), "{all:#}");
    let one = json!({"Names": ["ELBSecurityPolicy-TLS13-1-3-2021-06"]});
    let one = served.must(ELB, "DescribeSSLPolicies", one)["SslPolicies"][0].clone();
    assert_eq!(one["SslProtocols"], json!(["TLSv1.3"]));
    assert_eq!(one["SupportedLoadBalancerTypes"], json!(["application", "network"]));
    for old in ["ELBSecurityPolicy-2016-08", "ELBSecurityPolicy-TLS13-1-2-FIPS-2023-04", "mine"] {
        let message = served.refuse(ELB, "DescribeSSLPolicies", json!({"Names": [old]}), "SSLPolicyNotFound");
        assert!(message.contains(old), "{message}");
    }
}

#[test]
fn unlawful_tls_is_refused_with_awss_codes_and_changes_nothing() {
    let world = World::lay();
    let served = &world.served;
    let more = json!({});
    let listener = served.must(ELB, "CreateListener", world.listen(443, 0, more))["Listeners"][0].clone();
    let arn = &listener["ListenerArn"];
    let given = |certificate: Value| json!({"Certificates": [{"CertificateArn": certificate}]});
    let create = |more: Value| world.listen(8443, 0, more);
    let with = |certificate: Value| {
        let mut input = given(certificate);
        input["ListenerArn"] = arn.clone();
        input
    };
    let plain = json!({"Protocol": "TCP", "Certificates": []});
    let cases = [
        ("CreateListener", create(given(json!(UNKNOWN))), "CertificateNotFound", UNKNOWN),
        ("CreateListener", create(given(json!("nonsense"))), "ValidationError", "nonsense"),
        ("CreateListener", create(json!({"Certificates": []})), "ValidationError", "certificate"),
        (
            "CreateListener",
            create(
                json!({"Certificates": [{"CertificateArn": world.certificates[0]}, {"CertificateArn": world.certificates[1]}]}),
            ),
            "ValidationError",
            "'2'",
        ),
        (
            "CreateListener",
            create(json!({"SslPolicy": "ELBSecurityPolicy-2016-08"})),
            "SSLPolicyNotFound",
            "TLS 1.0",
        ),
        ("CreateListener", create(json!({"AlpnPolicy": ["HTTP4"]})), "ALPNPolicyNotFound", "HTTP4"),
        ("CreateListener", create(json!({"Protocol": "QUIC"})), "ValidationError", "HTTPS or TLS"),
        ("CreateListener", create(json!({"Protocol": "SCTP"})), "ValidationError", "SCTP"),
        ("CreateListener", world.listen(8443, 2, json!({})), "IncompatibleProtocols", "HTTP"),
        ("CreateListener", world.listen(8443, 1, plain), "IncompatibleProtocols", "TLS"),
        (
            "ModifyListener",
            json!({"ListenerArn": arn, "Protocol": "TCP", "SslPolicy": "x"}),
            "ValidationError",
            "SSL",
        ),
        ("ModifyListener", with(json!(UNKNOWN)), "CertificateNotFound", UNKNOWN),
        ("AddListenerCertificates", with(json!(UNKNOWN)), "CertificateNotFound", UNKNOWN),
        (
            "RemoveListenerCertificates",
            with(world.certificates[0].clone()),
            "OperationNotPermitted",
            "default",
        ),
    ];
    for (operation, input, code, word) in cases {
        let message = served.refuse(ELB, operation, input, code);
        assert!(message.contains(word), "{operation} {code}: {message}");
    }
    let in_use = json!({"CertificateArn": world.certificates[0]});
    let error = served.aws.call("acm", "DeleteCertificate", in_use).unwrap_err();
    assert_eq!(error.code, "ResourceInUseException");
}
