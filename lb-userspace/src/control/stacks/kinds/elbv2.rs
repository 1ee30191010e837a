//! AWS::ElasticLoadBalancingV2: load balancer, target group, listener, listener certificates, rule.

use serde_json::{Value, json};

use super::{Kind, Made, Making, Readiness, at_once, attribute, physical, pick, stands};
use crate::control::ops::ApiError;
use crate::model::{
    id::Arn,
    load_balancer::LoadBalancer,
    network::{Interface, Standing},
    stack::StackResource,
    state::Draft,
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "AWS::ElasticLoadBalancingV2::LoadBalancer",
        properties: &[
            "Name",
            "Type",
            "Scheme",
            "Subnets",
            "SubnetMappings",
            "SecurityGroups",
            "IpAddressType",
            "LoadBalancerAttributes",
            "Tags",
        ],
        create: create_load_balancer,
        readiness: load_balancer_stands,
        delete: |making, resource| {
            making
                .call("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": physical(resource)}))
                .map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ElasticLoadBalancingV2::TargetGroup",
        properties: &[
            "Name",
            "Protocol",
            "ProtocolVersion",
            "Port",
            "VpcId",
            "TargetType",
            "IpAddressType",
            "HealthCheckEnabled",
            "HealthCheckProtocol",
            "HealthCheckPort",
            "HealthCheckPath",
            "HealthCheckIntervalSeconds",
            "HealthCheckTimeoutSeconds",
            "HealthyThresholdCount",
            "UnhealthyThresholdCount",
            "Matcher",
            "TargetGroupAttributes",
            "Targets",
            "Tags",
        ],
        create: create_target_group,
        readiness: stands,
        delete: |making, resource| {
            making.call("elbv2", "DeleteTargetGroup", json!({"TargetGroupArn": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ElasticLoadBalancingV2::Listener",
        properties: &[
            "LoadBalancerArn",
            "Port",
            "Protocol",
            "DefaultActions",
            "SslPolicy",
            "Certificates",
            "AlpnPolicy",
            "ListenerAttributes",
        ],
        create: create_listener,
        readiness: stands,
        delete: |making, resource| {
            making.call("elbv2", "DeleteListener", json!({"ListenerArn": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ElasticLoadBalancingV2::ListenerCertificate",
        properties: &["ListenerArn", "Certificates"],
        create: create_listener_certificates,
        readiness: stands,
        delete: |making, resource| {
            // A list of ARNs, which hold no comma.
            let certificates: Vec<Value> = attribute(resource, "Certificates")
                .split(',')
                .map(|arn| json!({"CertificateArn": arn}))
                .collect();
            let input =
                json!({"ListenerArn": attribute(resource, "ListenerArn"), "Certificates": certificates});
            making.call("elbv2", "RemoveListenerCertificates", input).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ElasticLoadBalancingV2::ListenerRule",
        properties: &["ListenerArn", "Priority", "Conditions", "Actions"],
        create: |making| {
            let input = making.rest();
            let answer = making.call("elbv2", "CreateRule", input)?;
            let arn = pick(&answer, "/Rules/0/RuleArn")?;
            Ok(Made::new(&arn).with("RuleArn", &arn))
        },
        readiness: stands,
        delete: |making, resource| {
            making.call("elbv2", "DeleteRule", json!({"RuleArn": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
];

fn create_load_balancer(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let attributes = making.take("LoadBalancerAttributes");
    let name = making.name_or_generated("Name", 32);
    let mut input = making.rest();
    input["Name"] = name.clone().into();
    let answer = making.call("elbv2", "CreateLoadBalancer", input)?;
    let arn = pick(&answer, "/LoadBalancers/0/LoadBalancerArn")?;
    if let Some(attributes) = attributes {
        let input = json!({"LoadBalancerArn": arn, "Attributes": attributes});
        making.call("elbv2", "ModifyLoadBalancerAttributes", input)?;
    }
    let zone = answer.pointer("/LoadBalancers/0/CanonicalHostedZoneId").and_then(Value::as_str);
    Ok(Made::new(&arn)
        .with("LoadBalancerArn", &arn)
        .with("LoadBalancerName", name)
        .with("LoadBalancerFullName", full_name(&arn, "loadbalancer/"))
        .with("DNSName", pick(&answer, "/LoadBalancers/0/DNSName")?)
        .with("CanonicalHostedZoneID", zone.unwrap_or_default()))
}

/// It does once its addresses do; and is worth nothing when one cannot.
fn load_balancer_stands(draft: &Draft, resource: &StackResource) -> Readiness {
    let Some(lb) = draft.one::<LoadBalancer>(physical(resource)) else {
        return Readiness::Failed("the load balancer was deleted".to_owned());
    };
    let interfaces = lb.zones.iter().filter_map(|zone| draft.one::<Interface>(zone.interface_id.as_str()));
    let mut readiness = Readiness::Stands(None);
    for standing in interfaces.flat_map(|interface| interface.standings()) {
        match standing {
            Standing::Stands => {}
            Standing::Awaited => readiness = Readiness::Waits,
            Standing::Refused(reason) => return Readiness::Failed(reason.clone()),
        }
    }
    readiness
}

fn create_target_group(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let (attributes, targets) = (making.take("TargetGroupAttributes"), making.take("Targets"));
    let name = making.name_or_generated("Name", 32);
    let mut input = making.rest();
    input["Name"] = name.clone().into();
    let answer = making.call("elbv2", "CreateTargetGroup", input)?;
    let arn = pick(&answer, "/TargetGroups/0/TargetGroupArn")?;
    if let Some(attributes) = attributes {
        let input = json!({"TargetGroupArn": arn, "Attributes": attributes});
        making.call("elbv2", "ModifyTargetGroupAttributes", input)?;
    }
    if let Some(targets) = targets {
        making.call("elbv2", "RegisterTargets", json!({"TargetGroupArn": arn, "Targets": targets}))?;
    }
    Ok(Made::new(&arn)
        .with("TargetGroupArn", &arn)
        .with("TargetGroupName", name)
        .with("TargetGroupFullName", full_name(&arn, "")))
}

fn create_listener(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let attributes = making.take("ListenerAttributes");
    let input = making.rest();
    let answer = making.call("elbv2", "CreateListener", input)?;
    let arn = pick(&answer, "/Listeners/0/ListenerArn")?;
    if let Some(attributes) = attributes {
        let input = json!({"ListenerArn": arn, "Attributes": attributes});
        making.call("elbv2", "ModifyListenerAttributes", input)?;
    }
    Ok(Made::new(&arn).with("ListenerArn", &arn))
}

fn create_listener_certificates(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let listener = making.text("ListenerArn");
    let input = making.rest();
    let answer = making.call("elbv2", "AddListenerCertificates", input)?;
    let added = answer.get("Certificates").and_then(Value::as_array).into_iter().flatten();
    let arns: Vec<&str> = added.filter_map(|one| one.get("CertificateArn").and_then(Value::as_str)).collect();
    let certificates = arns.join(",");
    Ok(Made::new(format!("{listener}|{certificates}"))
        .with("ListenerArn", listener)
        .with("Certificates", certificates))
}

/// The ARN's resource as CloudWatch's dimensions name it: `app/name/id`, `targetgroup/name/id`.
fn full_name(arn: &str, prefix: &str) -> String {
    let arn = Arn::from(arn);
    let resource = arn.resource();
    resource.strip_prefix(prefix).unwrap_or(resource).to_owned()
}
