//! AWS::EC2: VPC and subnet with their IPv6 ranges, Elastic IP, security group and its rules, instance.

use serde_json::{Value, json};

use super::{Kind, Made, Making, Readiness, at_once, attribute, physical, pick, stands, tag_specifications};
use crate::control::ops::ApiError;
use crate::model::{
    network::{Instance, InstanceState, SecurityGroup, Vpc},
    stack::StackResource,
    state::Draft,
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "AWS::EC2::VPC",
        properties: &["CidrBlock", "EnableDnsSupport", "EnableDnsHostnames", "Tags"],
        create: create_vpc,
        readiness: stands,
        delete: |making, resource| {
            making.call("ec2", "DeleteVpc", json!({"VpcId": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::EC2::Subnet",
        properties: &[
            "VpcId",
            "CidrBlock",
            "Ipv6CidrBlock",
            "AssignIpv6AddressOnCreation",
            "AvailabilityZone",
            "MapPublicIpOnLaunch",
            "Tags",
        ],
        create: create_subnet,
        readiness: stands,
        delete: |making, resource| {
            making.call("ec2", "DeleteSubnet", json!({"SubnetId": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::EC2::VPCCidrBlock",
        properties: &["VpcId", "AmazonProvidedIpv6CidrBlock", "Ipv6CidrBlock"],
        create: |making| associate(making, "AssociateVpcCidrBlock"),
        readiness: stands,
        delete: |making, resource| disassociate(making, resource, "DisassociateVpcCidrBlock"),
        is_gone: at_once,
    },
    Kind {
        name: "AWS::EC2::SubnetCidrBlock",
        properties: &["SubnetId", "Ipv6CidrBlock"],
        create: |making| associate(making, "AssociateSubnetCidrBlock"),
        readiness: stands,
        delete: |making, resource| disassociate(making, resource, "DisassociateSubnetCidrBlock"),
        is_gone: at_once,
    },
    Kind {
        name: "AWS::EC2::EIP",
        properties: &["Domain", "Address", "Tags"],
        create: create_elastic_ip,
        readiness: stands,
        delete: |making, resource| {
            let input = json!({"AllocationId": attribute(resource, "AllocationId")});
            making.call("ec2", "ReleaseAddress", input).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::EC2::SecurityGroup",
        properties: &[
            "GroupName",
            "GroupDescription",
            "VpcId",
            "SecurityGroupIngress",
            "SecurityGroupEgress",
            "Tags",
        ],
        create: create_security_group,
        readiness: stands,
        delete: |making, resource| {
            making.call("ec2", "DeleteSecurityGroup", json!({"GroupId": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::EC2::SecurityGroupIngress",
        properties: RULE_PROPERTIES,
        create: |making| create_rule(making, "AuthorizeSecurityGroupIngress", "SourceSecurityGroupId"),
        readiness: stands,
        delete: |making, resource| delete_rule(making, resource, "RevokeSecurityGroupIngress"),
        is_gone: at_once,
    },
    Kind {
        name: "AWS::EC2::SecurityGroupEgress",
        properties: RULE_PROPERTIES,
        create: |making| create_rule(making, "AuthorizeSecurityGroupEgress", "DestinationSecurityGroupId"),
        readiness: stands,
        delete: |making, resource| delete_rule(making, resource, "RevokeSecurityGroupEgress"),
        is_gone: at_once,
    },
    Kind {
        name: "AWS::EC2::Instance",
        properties: &[
            "ImageId",
            "InstanceType",
            "SubnetId",
            "SecurityGroupIds",
            "UserData",
            "Ipv6AddressCount",
            "Ipv6Addresses",
            "Tags",
        ],
        create: create_instance,
        readiness: instance_runs,
        delete: |making, resource| {
            making.call("ec2", "TerminateInstances", json!({"InstanceIds": [physical(resource)]})).map(drop)
        },
        is_gone: |draft, resource| {
            let instance = draft.one::<Instance>(physical(resource));
            instance.is_none_or(|instance| matches!(instance.state, InstanceState::Terminated { .. }))
        },
    },
];

const RULE_PROPERTIES: &[&str] = &[
    "GroupId",
    "IpProtocol",
    "FromPort",
    "ToPort",
    "CidrIp",
    "CidrIpv6",
    "SourceSecurityGroupId",
    "DestinationSecurityGroupId",
    "Description",
];

fn create_vpc(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let tags = tag_specifications(making, "vpc");
    let settings = ["EnableDnsSupport", "EnableDnsHostnames"].map(|name| (name, making.take(name)));
    let mut input = making.rest();
    input["TagSpecifications"] = tags;
    let answer = making.call("ec2", "CreateVpc", input)?;
    let id = pick(&answer, "/Vpc/VpcId")?;
    for (name, value) in settings {
        if let Some(value) = value {
            let mut input = json!({"VpcId": id});
            input[name] = json!({"Value": value});
            making.call("ec2", "ModifyVpcAttribute", input)?;
        }
    }
    let cidr = pick(&answer, "/Vpc/CidrBlock")?;
    Ok(Made::new(&id).with("VpcId", &id).with("CidrBlock", cidr))
}

fn create_subnet(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let tags = tag_specifications(making, "subnet");
    // Nothing here has a public address to map.
    making.take("MapPublicIpOnLaunch");
    let assign_ipv6 = making.take("AssignIpv6AddressOnCreation");
    let mut input = making.rest();
    input["TagSpecifications"] = tags;
    let answer = making.call("ec2", "CreateSubnet", input)?;
    let id = pick(&answer, "/Subnet/SubnetId")?;
    if let Some(value) = assign_ipv6 {
        let input = json!({"SubnetId": id, "AssignIpv6AddressOnCreation": {"Value": value}});
        making.call("ec2", "ModifySubnetAttribute", input)?;
    }
    let zone = pick(&answer, "/Subnet/AvailabilityZone")?;
    let vpc = pick(&answer, "/Subnet/VpcId")?;
    Ok(Made::new(&id).with("SubnetId", &id).with("AvailabilityZone", zone).with("VpcId", vpc))
}

/// A VPC's IPv6 ranges, which it may be given after it was made.
pub(super) fn ipv6_blocks(draft: &Draft, resource: &StackResource) -> Option<(String, String)> {
    let vpc = draft.one::<Vpc>(physical(resource))?;
    let blocks: Vec<_> = vpc.ipv6.iter().map(|block| block.cidr.to_string()).collect();
    Some(("Ipv6CidrBlocks".to_owned(), blocks.join(",")))
}

fn associate(making: &mut Making<'_>, operation: &str) -> Result<Made, ApiError> {
    let input = making.rest();
    let answer = making.call("ec2", operation, input)?;
    let id = pick(&answer, "/Ipv6CidrBlockAssociation/AssociationId")?;
    Ok(Made::new(&id)
        .with("Id", &id)
        .with("Ipv6CidrBlock", pick(&answer, "/Ipv6CidrBlockAssociation/Ipv6CidrBlock")?))
}

fn disassociate(making: &mut Making<'_>, resource: &StackResource, operation: &str) -> Result<(), ApiError> {
    making.call("ec2", operation, json!({"AssociationId": physical(resource)})).map(drop)
}

fn create_elastic_ip(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let tags = tag_specifications(making, "elastic-ip");
    let mut input = making.rest();
    input["TagSpecifications"] = tags;
    let answer = making.call("ec2", "AllocateAddress", input)?;
    let address = pick(&answer, "/PublicIp")?;
    Ok(Made::new(&address).with("PublicIp", &address).with("AllocationId", pick(&answer, "/AllocationId")?))
}

fn create_security_group(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let tags = tag_specifications(making, "security-group");
    let (ingress, egress) = (making.take("SecurityGroupIngress"), making.take("SecurityGroupEgress"));
    let name = making.name_or_generated("GroupName", 255);
    let description = making.take("GroupDescription");
    let vpc = making.text("VpcId");
    let input = json!({
        "GroupName": name, "Description": description, "VpcId": vpc, "TagSpecifications": tags,
    });
    let answer = making.call("ec2", "CreateSecurityGroup", input)?;
    let id = pick(&answer, "/GroupId")?;
    for rule in rules(ingress) {
        let input = json!({"GroupId": id, "IpPermissions": [permission(&rule, "SourceSecurityGroupId")]});
        making.call("ec2", "AuthorizeSecurityGroupIngress", input)?;
    }
    if let Some(egress) = egress {
        // Rules of one's own replace those that permit all.
        let made = making.draft.one::<SecurityGroup>(&id);
        let ids: Vec<_> = made.iter().flat_map(|made| &made.egress).map(|rule| rule.id.clone()).collect();
        let all = json!({"GroupId": id, "SecurityGroupRuleIds": ids});
        making.call("ec2", "RevokeSecurityGroupEgress", all)?;
        for rule in rules(Some(egress)) {
            let input =
                json!({"GroupId": id, "IpPermissions": [permission(&rule, "DestinationSecurityGroupId")]});
            making.call("ec2", "AuthorizeSecurityGroupEgress", input)?;
        }
    }
    Ok(Made::new(&id).with("GroupId", &id).with("VpcId", vpc))
}

fn rules(given: Option<Value>) -> Vec<Value> {
    match given {
        Some(Value::Array(rules)) => rules,
        Some(one) => vec![one],
        None => Vec::new(),
    }
}

/// A rule of a template as ec2's IpPermission.
fn permission(rule: &Value, group_member: &str) -> Value {
    let mut permission = json!({"IpProtocol": rule["IpProtocol"]});
    for name in ["FromPort", "ToPort"] {
        if let Some(port) = rule.get(name) {
            permission[name] = port.clone();
        }
    }
    let describe = |mut peer: Value| {
        if let Some(description) = rule.get("Description") {
            peer["Description"] = description.clone();
        }
        json!([peer])
    };
    if let Some(range) = rule.get("CidrIp") {
        permission["IpRanges"] = describe(json!({"CidrIp": range}));
    }
    if let Some(range) = rule.get("CidrIpv6") {
        permission["Ipv6Ranges"] = describe(json!({"CidrIpv6": range}));
    }
    if let Some(group) = rule.get(group_member) {
        permission["UserIdGroupPairs"] = describe(json!({"GroupId": group}));
    }
    permission
}

fn create_rule(making: &mut Making<'_>, operation: &str, group_member: &str) -> Result<Made, ApiError> {
    let rule = making.rest();
    let input = json!({"GroupId": rule["GroupId"], "IpPermissions": [permission(&rule, group_member)]});
    let answer = making.call("ec2", operation, input)?;
    let id = pick(&answer, "/SecurityGroupRules/0/SecurityGroupRuleId")?;
    Ok(Made::new(&id).with("Id", &id).with("GroupId", rule["GroupId"].as_str().unwrap_or_default()))
}

fn delete_rule(making: &mut Making<'_>, resource: &StackResource, operation: &str) -> Result<(), ApiError> {
    let input = json!({
        "GroupId": attribute(resource, "GroupId"),
        "SecurityGroupRuleIds": [physical(resource)],
    });
    making.call("ec2", operation, input).map(drop)
}

fn create_instance(making: &mut Making<'_>) -> Result<Made, ApiError> {
    let tags = tag_specifications(making, "instance");
    let mut input = making.rest();
    input["TagSpecifications"] = tags;
    input["MinCount"] = json!(1);
    input["MaxCount"] = json!(1);
    let answer = making.call("ec2", "RunInstances", input)?;
    let id = pick(&answer, "/Instances/0/InstanceId")?;
    let address = pick(&answer, "/Instances/0/PrivateIpAddress")?;
    Ok(Made::new(&id).with("InstanceId", &id).with("PrivateIp", address))
}

fn instance_runs(draft: &Draft, resource: &StackResource) -> Readiness {
    match draft.one::<Instance>(physical(resource)).map(|instance| instance.state) {
        Some(InstanceState::Running) => Readiness::Stands(None),
        Some(InstanceState::Pending) => Readiness::Waits,
        Some(InstanceState::ShuttingDown | InstanceState::Terminated { .. }) | None => {
            Readiness::Failed("the instance was terminated".to_owned())
        }
    }
}
