//! ec2: subnets, their attributes, and the zones that they are in.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{
        Selection, TagSpecification, ZONE_LETTERS, addresses_taken, by_id, check_named, ec2_operation,
        is_named, short_region, specified_tags, wire_tags,
    },
    ipv6_blocks::{listed, subnet_block, subnet_form},
    vpcs::parse_cidr,
};
use crate::model::{
    id::{Arn, SubnetId},
    network::{Subnet, Vpc},
    state::Draft,
};

/// The operations on subnets and zones.
pub const OPERATIONS: &[Entry] = &[
    ec2_operation!("CreateSubnet", create),
    ec2_operation!("DescribeSubnets", describe),
    ec2_operation!("DeleteSubnet", delete),
    ec2_operation!("ModifySubnetAttribute", modify_attribute),
    ec2_operation!("DescribeAvailabilityZones", describe_zones),
    ec2_operation!("DescribeRegions", describe_regions),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    vpc_id: String,
    cidr_block: Option<String>,
    ipv6_cidr_block: Option<String>,
    ipv6_native: Option<bool>,
    ipv6_ipam_pool_id: Option<String>,
    ipv6_netmask_length: Option<i32>,
    availability_zone: Option<String>,
    availability_zone_id: Option<String>,
    #[serde(default)]
    tag_specifications: Vec<TagSpecification>,
}

fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<Value, ApiError> {
    let vpc = by_id::<Vpc>(draft, &input.vpc_id)?;
    let refused = [
        ("Ipv6Native", input.ipv6_native == Some(true)),
        ("Ipv6IpamPoolId", input.ipv6_ipam_pool_id.is_some()),
        ("Ipv6NetmaskLength", input.ipv6_netmask_length.is_some()),
    ];
    if let Some((name, _)) = refused.iter().find(|(_, given)| *given) {
        return Err(ApiError::validation(format!(
            "{name} is not supported here: a subnet has an IPv4 range, and an IPv6 range if Ipv6CidrBlock names one"
        )));
    }
    let text = input.cidr_block.ok_or_else(|| ApiError::missing("CidrBlock"))?;
    let cidr = parse_cidr(&text, "cidrBlock")?;
    if !PREFIXES.contains(&cidr.prefix_len()) || !vpc.cidr.contains(&cidr) {
        return Err(ApiError::sender("InvalidSubnet.Range", format!("The CIDR '{text}' is invalid.")));
    }
    let siblings: Vec<_> = draft.all::<Subnet>().filter(|subnet| subnet.vpc_id == vpc.id).collect();
    if siblings.iter().any(|subnet| subnet.cidr.contains(&cidr) || cidr.contains(&subnet.cidr)) {
        return Err(ApiError::conflict(
            "InvalidSubnet.Conflict",
            format!("The CIDR '{text}' conflicts with another subnet"),
        ));
    }
    if siblings.len() >= SUBNETS_MAX {
        return Err(ApiError::limit(
            "SubnetLimitExceeded",
            format!("A VPC has at most {SUBNETS_MAX} subnets."),
        ));
    }
    let zone = zone_of(caller, input.availability_zone.as_deref(), input.availability_zone_id.as_deref())?;
    let tags = specified_tags(&input.tag_specifications, "subnet")?;
    let id = SubnetId(format!("subnet-{}", draft.hex(17)));
    let ipv6 = input.ipv6_cidr_block.map(|text| subnet_block(draft, &vpc, None, &text)).transpose()?;
    let subnet = Subnet { id, vpc_id: vpc.id, cidr, ipv6, assign_ipv6: false, zone, tags };
    let answer = json!({"Subnet": wire(draft, caller, &subnet)});
    draft.put(subnet);
    Ok(answer)
}

/// The zone by name or id, else the first.
fn zone_of(caller: &Caller, name: Option<&str>, id: Option<&str>) -> Result<String, ApiError> {
    let zones = zones(caller);
    let found = match (name, id) {
        (None, None) => zones.first(),
        (Some(name), _) => zones.iter().find(|zone| zone.name == name),
        (None, Some(id)) => zones.iter().find(|zone| zone.id == id),
    };
    found.map(|zone| zone.name.clone()).ok_or_else(|| {
        let names: Vec<_> = zones.iter().map(|zone| zone.name.as_str()).collect();
        ApiError::validation(format!(
            "Value ({}) for parameter availabilityZone is invalid. Subnets can currently only be created in the \
             following availability zones: {}.",
            name.or(id).unwrap_or_default(),
            names.join(", ")
        ))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    #[serde(default)]
    subnet_ids: Vec<String>,
    #[serde(flatten)]
    selection: Selection,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<Value, ApiError> {
    check_named::<Subnet>(draft, &input.subnet_ids)?;
    let mut rows = Vec::new();
    for subnet in draft.all::<Subnet>().filter(|subnet| is_named(&input.subnet_ids, subnet.id.as_str())) {
        let field = |name: &str| match name {
            "subnet-id" => Some(vec![subnet.id.to_string()]),
            "subnet-arn" => Some(vec![arn(caller, subnet).0]),
            "vpc-id" => Some(vec![subnet.vpc_id.to_string()]),
            "cidr" | "cidr-block" | "cidrBlock" => Some(vec![subnet.cidr.to_string()]),
            "ipv6-cidr-block-association.ipv6-cidr-block" => {
                Some(subnet.ipv6.iter().map(|block| block.cidr.to_string()).collect())
            }
            "ipv6-cidr-block-association.association-id" => {
                Some(subnet.ipv6.iter().map(|block| block.association_id.clone()).collect())
            }
            "ipv6-cidr-block-association.state" => {
                Some(subnet.ipv6.iter().map(|_| "associated".to_owned()).collect())
            }
            "availability-zone" | "availabilityZone" => Some(vec![subnet.zone.clone()]),
            "availability-zone-id" | "availabilityZoneId" => Some(vec![zone_id(caller, &subnet.zone)]),
            "state" => Some(vec!["available".to_owned()]),
            "default-for-az" | "defaultForAz" | "map-public-ip-on-launch" => Some(vec!["false".to_owned()]),
            "owner-id" => Some(vec![caller.account.clone()]),
            _ => None,
        };
        if input.selection.admits(&subnet.tags, field)? {
            rows.push((subnet.id.to_string(), wire(draft, caller, subnet)));
        }
    }
    input.selection.page("Subnets", rows)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteInput {
    subnet_id: String,
}

fn delete(draft: &mut Draft, _: &Caller, input: DeleteInput) -> Result<Value, ApiError> {
    let subnet = by_id::<Subnet>(draft, &input.subnet_id)?;
    if addresses_taken(draft, &subnet.id) > 0 {
        return Err(ApiError::conflict(
            "DependencyViolation",
            format!("The subnet '{}' has dependencies and cannot be deleted.", subnet.id),
        ));
    }
    draft.remove::<Subnet>(subnet.id.as_str());
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Flag {
    #[serde(default)]
    value: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyAttributeInput {
    subnet_id: String,
    assign_ipv6_address_on_creation: Option<Flag>,
    map_public_ip_on_launch: Option<Flag>,
    map_customer_owned_ip_on_launch: Option<Flag>,
    enable_dns64: Option<Flag>,
    enable_resource_name_dns_a_record_on_launch: Option<Flag>,
    #[serde(rename = "EnableResourceNameDnsAAAARecordOnLaunch")]
    enable_resource_name_dns_aaaa_record_on_launch: Option<Flag>,
    private_dns_hostname_type_on_launch: Option<String>,
}

fn modify_attribute(draft: &mut Draft, _: &Caller, input: ModifyAttributeInput) -> Result<Value, ApiError> {
    let mut subnet = by_id::<Subnet>(draft, &input.subnet_id)?;
    let is_on = |flag: &Option<Flag>| flag.as_ref().is_some_and(|flag| flag.value);
    let others = [
        ("MapPublicIpOnLaunch", is_on(&input.map_public_ip_on_launch)),
        ("MapCustomerOwnedIpOnLaunch", is_on(&input.map_customer_owned_ip_on_launch)),
        ("EnableDns64", is_on(&input.enable_dns64)),
        ("EnableResourceNameDnsARecordOnLaunch", is_on(&input.enable_resource_name_dns_a_record_on_launch)),
        (
            "EnableResourceNameDnsAAAARecordOnLaunch",
            is_on(&input.enable_resource_name_dns_aaaa_record_on_launch),
        ),
        (
            "PrivateDnsHostnameTypeOnLaunch",
            input.private_dns_hostname_type_on_launch.is_some_and(|kind| kind != "ip-name"),
        ),
    ];
    if let Some((name, _)) = others.iter().find(|(_, given)| *given) {
        return Err(ApiError::validation(format!("{name} is not supported here")));
    }
    if let Some(flag) = input.assign_ipv6_address_on_creation {
        if flag.value && subnet.ipv6.is_none() {
            return Err(ApiError::validation(format!(
                "AssignIpv6AddressOnCreation cannot be set: subnet '{}' has no IPv6 CIDR block",
                subnet.id
            )));
        }
        subnet.assign_ipv6 = flag.value;
    }
    draft.put(subnet);
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeZonesInput {
    #[serde(default)]
    zone_names: Vec<String>,
    #[serde(default)]
    zone_ids: Vec<String>,
    #[serde(flatten)]
    selection: Selection,
}

fn describe_zones(_: &mut Draft, caller: &Caller, input: DescribeZonesInput) -> Result<Value, ApiError> {
    let zones = zones(caller);
    if let Some(name) = input.zone_names.iter().find(|name| zones.iter().all(|zone| zone.name != **name)) {
        return Err(ApiError::validation(format!("Invalid availability zone: [{name}]")));
    }
    let mut rows = Vec::new();
    for zone in zones
        .iter()
        .filter(|zone| is_named(&input.zone_names, &zone.name) && is_named(&input.zone_ids, &zone.id))
    {
        let field = |name: &str| match name {
            "zone-name" => Some(vec![zone.name.clone()]),
            "zone-id" => Some(vec![zone.id.clone()]),
            "state" => Some(vec!["available".to_owned()]),
            "region-name" | "group-name" => Some(vec![caller.region.clone()]),
            "zone-type" => Some(vec!["availability-zone".to_owned()]),
            "opt-in-status" => Some(vec!["opt-in-not-required".to_owned()]),
            _ => None,
        };
        if input.selection.admits(&[], field)? {
            rows.push(json!({
                "ZoneName": zone.name,
                "ZoneId": zone.id,
                "ZoneType": "availability-zone",
                "State": "available",
                "RegionName": caller.region,
                "GroupName": caller.region,
                "NetworkBorderGroup": caller.region,
                "OptInStatus": "opt-in-not-required",
                "Messages": [],
            }));
        }
    }
    Ok(json!({"AvailabilityZones": rows}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeRegionsInput {
    #[serde(default)]
    region_names: Vec<String>,
}

/// There is one region: the one that the client asks in.
fn describe_regions(_: &mut Draft, caller: &Caller, input: DescribeRegionsInput) -> Result<Value, ApiError> {
    if let Some(name) = input.region_names.iter().find(|name| **name != caller.region) {
        return Err(ApiError::validation(format!("Invalid region: [{name}]")));
    }
    Ok(json!({"Regions": [{
        "RegionName": caller.region,
        "Endpoint": format!("ec2.{}.amazonaws.com", caller.region),
        "OptInStatus": "opt-in-not-required",
    }]}))
}

struct Zone {
    name: String,
    id: String,
}

fn zones(caller: &Caller) -> Vec<Zone> {
    let short = short_region(&caller.region);
    let zones = ZONE_LETTERS.iter().enumerate().map(|(at, letter)| Zone {
        name: format!("{}{letter}", caller.region),
        id: format!("{short}-az{}", at + 1),
    });
    zones.collect()
}

/// A zone's id; empty for a zone of another region.
pub(super) fn zone_id(caller: &Caller, name: &str) -> String {
    zones(caller).into_iter().find(|zone| zone.name == name).map(|zone| zone.id).unwrap_or_default()
}

fn arn(caller: &Caller, subnet: &Subnet) -> Arn {
    Arn::new("ec2", &caller.region, &caller.account, format_args!("subnet/{}", subnet.id))
}

fn wire(draft: &Draft, caller: &Caller, subnet: &Subnet) -> Value {
    let size = 1_usize << (32 - subnet.cidr.prefix_len());
    json!({
        "SubnetId": subnet.id,
        "SubnetArn": arn(caller, subnet),
        "VpcId": subnet.vpc_id,
        "CidrBlock": subnet.cidr,
        "AvailabilityZone": subnet.zone,
        "AvailabilityZoneId": zone_id(caller, &subnet.zone),
        "AvailableIpAddressCount": size.saturating_sub(RESERVED + addresses_taken(draft, &subnet.id)),
        "AssignIpv6AddressOnCreation": subnet.assign_ipv6,
        "DefaultForAz": false,
        "EnableDns64": false,
        "Ipv6Native": false,
        "Ipv6CidrBlockAssociationSet": listed(subnet_form(subnet)),
        "MapPublicIpOnLaunch": false,
        "MapCustomerOwnedIpOnLaunch": false,
        "PrivateDnsNameOptionsOnLaunch": {
            "HostnameType": "ip-name", "EnableResourceNameDnsARecord": false, "EnableResourceNameDnsAAAARecord": false,
        },
        "OwnerId": caller.account,
        "State": "available",
        "Tags": wire_tags(&subnet.tags),
    })
}

/// AWS's limits of a subnet's range.
const PREFIXES: std::ops::RangeInclusive<u8> = 16..=28;
/// AWS's quota.
const SUBNETS_MAX: usize = 200;
/// The first four addresses and the last are AWS's.
const RESERVED: usize = 5;
