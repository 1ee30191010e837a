//! ec2: VPCs. Each comes with its default security group.

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{
        Selection, TagSpecification, by_id, check_named, ec2_operation, is_named, specified_tags, wire_tags,
    },
    ipv6_blocks::{VpcBlockInput, listed, vpc_form},
    security_groups::{self, DEFAULT_GROUP},
};
use crate::model::{
    id::VpcId,
    network::{Interface, SecurityGroup, Subnet, Vpc},
    state::Draft,
};

/// The operations on VPCs.
pub const OPERATIONS: &[Entry] = &[
    ec2_operation!("CreateVpc", create),
    ec2_operation!("DescribeVpcs", describe),
    ec2_operation!("DeleteVpc", delete),
    ec2_operation!("DescribeVpcAttribute", describe_attribute),
    ec2_operation!("ModifyVpcAttribute", modify_attribute),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    cidr_block: Option<String>,
    #[serde(flatten)]
    ipv6: VpcBlockInput,
    #[serde(default)]
    tag_specifications: Vec<TagSpecification>,
}

fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<Value, ApiError> {
    let text = input.cidr_block.ok_or_else(|| ApiError::missing("CidrBlock"))?;
    let cidr = parse_cidr(&text, "cidrBlock")?;
    if !PREFIXES.contains(&cidr.prefix_len()) {
        return Err(ApiError::sender("InvalidVpc.Range", format!("The CIDR '{text}' is invalid.")));
    }
    if draft.state().vpcs.len() >= VPCS_MAX {
        return Err(ApiError::limit("VpcLimitExceeded", format!("There are at most {VPCS_MAX} VPCs.")));
    }
    let tags = specified_tags(&input.tag_specifications, "vpc")?;
    let taken: Vec<_> = draft.all::<Vpc>().map(|vpc| vpc.index).collect();
    let index = (0..).find(|index| !taken.contains(index)).ok_or_else(ApiError::internal)?;
    let id = VpcId(format!("vpc-{}", draft.hex(17)));
    let ipv6 = input.ipv6.block(draft, &id)?;
    let vpc = Vpc { id, cidr, ipv6, index, dns_support: true, dns_hostnames: false, tags };
    security_groups::create_default(draft, &vpc);
    let answer = json!({"Vpc": wire(caller, &vpc)});
    draft.put(vpc);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    #[serde(default)]
    vpc_ids: Vec<String>,
    #[serde(flatten)]
    selection: Selection,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<Value, ApiError> {
    check_named::<Vpc>(draft, &input.vpc_ids)?;
    let mut rows = Vec::new();
    for vpc in draft.all::<Vpc>().filter(|vpc| is_named(&input.vpc_ids, vpc.id.as_str())) {
        let field = |name: &str| match name {
            "vpc-id" => Some(vec![vpc.id.to_string()]),
            "cidr" | "cidr-block" | "cidrBlock" | "cidr-block-association.cidr-block" => {
                Some(vec![vpc.cidr.to_string()])
            }
            "ipv6-cidr-block-association.ipv6-cidr-block" => {
                Some(vpc.ipv6.iter().map(|block| block.cidr.to_string()).collect())
            }
            "ipv6-cidr-block-association.association-id" => {
                Some(vpc.ipv6.iter().map(|block| block.association_id.clone()).collect())
            }
            "ipv6-cidr-block-association.state" => {
                Some(vpc.ipv6.iter().map(|_| "associated".to_owned()).collect())
            }
            "cidr-block-association.state" => Some(vec!["associated".to_owned()]),
            "state" => Some(vec!["available".to_owned()]),
            "is-default" | "isDefault" => Some(vec!["false".to_owned()]),
            "owner-id" => Some(vec![caller.account.clone()]),
            "dhcp-options-id" => Some(vec!["default".to_owned()]),
            _ => None,
        };
        if input.selection.admits(&vpc.tags, field)? {
            rows.push((vpc.id.to_string(), wire(caller, vpc)));
        }
    }
    input.selection.page("Vpcs", rows)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteInput {
    vpc_id: String,
}

fn delete(draft: &mut Draft, _: &Caller, input: DeleteInput) -> Result<Value, ApiError> {
    let vpc = by_id::<Vpc>(draft, &input.vpc_id)?;
    let has_subnets = draft.all::<Subnet>().any(|subnet| subnet.vpc_id == vpc.id);
    let has_interfaces = draft.all::<Interface>().any(|interface| interface.vpc_id == vpc.id);
    let groups: Vec<_> =
        draft.all::<SecurityGroup>().filter(|group| group.vpc_id == vpc.id).cloned().collect();
    if has_subnets || has_interfaces || groups.iter().any(|group| group.name != DEFAULT_GROUP) {
        return Err(ApiError::conflict(
            "DependencyViolation",
            format!("The vpc '{}' has dependencies and cannot be deleted.", vpc.id),
        ));
    }
    for group in groups {
        draft.remove::<SecurityGroup>(group.id.as_str());
    }
    draft.remove::<Vpc>(vpc.id.as_str());
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeAttributeInput {
    vpc_id: String,
    attribute: String,
}

fn describe_attribute(
    draft: &mut Draft,
    _: &Caller,
    input: DescribeAttributeInput,
) -> Result<Value, ApiError> {
    let vpc = by_id::<Vpc>(draft, &input.vpc_id)?;
    let (name, value) = match input.attribute.as_str() {
        "enableDnsSupport" => ("EnableDnsSupport", vpc.dns_support),
        "enableDnsHostnames" => ("EnableDnsHostnames", vpc.dns_hostnames),
        _ => ("EnableNetworkAddressUsageMetrics", false),
    };
    Ok(json!({"VpcId": vpc.id, name: {"Value": value}}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Flag {
    value: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyAttributeInput {
    vpc_id: String,
    enable_dns_support: Option<Flag>,
    enable_dns_hostnames: Option<Flag>,
    enable_network_address_usage_metrics: Option<Flag>,
}

fn modify_attribute(draft: &mut Draft, _: &Caller, input: ModifyAttributeInput) -> Result<Value, ApiError> {
    let mut vpc = by_id::<Vpc>(draft, &input.vpc_id)?;
    if input.enable_network_address_usage_metrics.is_some_and(|flag| flag.value) {
        return Err(ApiError::validation("EnableNetworkAddressUsageMetrics is not supported here"));
    }
    vpc.dns_support = input.enable_dns_support.map_or(vpc.dns_support, |flag| flag.value);
    vpc.dns_hostnames = input.enable_dns_hostnames.map_or(vpc.dns_hostnames, |flag| flag.value);
    draft.put(vpc);
    Ok(json!({}))
}

/// An address range; its host bits are cleared, as AWS does.
pub(super) fn parse_cidr(text: &str, parameter: &str) -> Result<Ipv4Net, ApiError> {
    text.parse::<Ipv4Net>().map(|cidr| cidr.trunc()).map_err(|_| {
        ApiError::validation(format!(
            "Value ({text}) for parameter {parameter} is invalid. This is not a valid CIDR block."
        ))
    })
}

fn wire(caller: &Caller, vpc: &Vpc) -> Value {
    json!({
        "VpcId": vpc.id,
        "CidrBlock": vpc.cidr,
        "CidrBlockAssociationSet": [{
            "AssociationId": vpc.id.as_str().replacen("vpc-", "vpc-cidr-assoc-", 1),
            "CidrBlock": vpc.cidr,
            "CidrBlockState": {"State": "associated"},
        }],
        "Ipv6CidrBlockAssociationSet": listed(vpc_form(caller, vpc)),
        "DhcpOptionsId": "default",
        "InstanceTenancy": "default",
        "IsDefault": false,
        "OwnerId": caller.account,
        "State": "available",
        "Tags": wire_tags(&vpc.tags),
    })
}

/// AWS's limits of a VPC's range.
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=28;
/// Each VPC is a namespace and a node of its own; AWS's quota is 5 and rises on request.
const VPCS_MAX: usize = 100;
