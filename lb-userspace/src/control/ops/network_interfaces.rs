//! ec2: network interfaces, described. Load balancers, VPC links, instances and tasks make them; nobody else does.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{Selection, ec2_operation, is_named},
    instances::ipv6_forms,
    subnets::zone_id,
};
use crate::model::{
    network::{Interface, InterfaceOwner, SecurityGroup, Subnet},
    state::Draft,
};

/// The operations on network interfaces.
pub const OPERATIONS: &[Entry] = &[ec2_operation!("DescribeNetworkInterfaces", describe)];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    #[serde(default)]
    network_interface_ids: Vec<String>,
    #[serde(flatten)]
    selection: Selection,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<Value, ApiError> {
    if let Some(id) = input.network_interface_ids.iter().find(|id| draft.one::<Interface>(id).is_none()) {
        return Err(ApiError::not_found(
            "InvalidNetworkInterfaceID.NotFound",
            format!("The networkInterface ID '{id}' does not exist"),
        ));
    }
    let mut rows = Vec::new();
    for interface in draft.all::<Interface>() {
        if !is_named(&input.network_interface_ids, interface.id.as_str()) {
            continue;
        }
        let form = wire(draft, caller, interface);
        let field = |name: &str| filter_values(interface, &form, name);
        if input.selection.admits(&[], field)? {
            rows.push((interface.id.to_string(), form));
        }
    }
    input.selection.page("NetworkInterfaces", rows)
}

fn filter_values(interface: &Interface, form: &Value, name: &str) -> Option<Vec<String>> {
    let text = |pointer: &str| match form.pointer(pointer) {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Bool(truth)) => vec![truth.to_string()],
        _ => Vec::new(),
    };
    match name {
        "network-interface-id" => Some(vec![interface.id.to_string()]),
        "description" => Some(vec![interface.description.clone()]),
        "subnet-id" => Some(vec![interface.subnet_id.to_string()]),
        "vpc-id" => Some(vec![interface.vpc_id.to_string()]),
        "private-ip-address" | "addresses.private-ip-address" => Some(vec![interface.address.to_string()]),
        "ipv6-addresses.ipv6-address" => Some(interface.ipv6.iter().map(ToString::to_string).collect()),
        "group-id" => Some(interface.groups.iter().map(ToString::to_string).collect()),
        "group-name" => {
            let groups = form["Groups"].as_array().into_iter().flatten();
            Some(groups.filter_map(|group| group["GroupName"].as_str().map(str::to_owned)).collect())
        }
        "status" => Some(text("/Status")),
        "interface-type" => Some(text("/InterfaceType")),
        "availability-zone" => Some(text("/AvailabilityZone")),
        "owner-id" => Some(text("/OwnerId")),
        "requester-id" => Some(text("/RequesterId")),
        "requester-managed" => Some(text("/RequesterManaged")),
        "attachment.instance-id" => Some(text("/Attachment/InstanceId")),
        "attachment.instance-owner-id" => Some(text("/Attachment/InstanceOwnerId")),
        "attachment.attachment-id" => Some(text("/Attachment/AttachmentId")),
        "attachment.status" => Some(text("/Attachment/Status")),
        _ => None,
    }
}

fn wire(draft: &Draft, caller: &Caller, interface: &Interface) -> Value {
    // As AWS names who asked for an interface, and who holds its other end.
    let (requester, holder, kind) = match &interface.owner {
        InterfaceOwner::LoadBalancer(arn) if arn.resource().starts_with("loadbalancer/net/") => {
            (Some("amazon-elb"), "amazon-elb", "network_load_balancer")
        }
        InterfaceOwner::LoadBalancer(_) => (Some("amazon-elb"), "amazon-elb", "interface"),
        InterfaceOwner::VpcLink(_) => (Some("amazon-apigateway"), "amazon-apigateway", "api_gateway_managed"),
        InterfaceOwner::Task(_) => (Some("amazon-ecs"), "amazon-ecs", "interface"),
        InterfaceOwner::Instance(_) => (None, caller.account.as_str(), "interface"),
    };
    let instance = match &interface.owner {
        InterfaceOwner::Instance(id) => Some(id),
        _ => None,
    };
    let zone = draft.one::<Subnet>(interface.subnet_id.as_str()).map(|subnet| subnet.zone.clone());
    let groups: Vec<_> = interface
        .groups
        .iter()
        .map(|id| {
            let name = draft.one::<SecurityGroup>(id.as_str()).map(|group| group.name.clone());
            json!({"GroupId": id, "GroupName": name})
        })
        .collect();
    json!({
        "NetworkInterfaceId": interface.id,
        "Description": interface.description,
        "InterfaceType": kind,
        "Status": "in-use",
        "SubnetId": interface.subnet_id,
        "VpcId": interface.vpc_id,
        "AvailabilityZone": zone,
        "AvailabilityZoneId": zone.as_deref().map(|zone| zone_id(caller, zone)),
        "PrivateIpAddress": interface.address,
        "PrivateIpAddresses": [{"Primary": true, "PrivateIpAddress": interface.address}],
        "Ipv6Address": interface.ipv6,
        "Ipv6Addresses": ipv6_forms(interface),
        "Groups": groups,
        "OwnerId": caller.account,
        "RequesterId": requester,
        "RequesterManaged": requester.is_some(),
        "SourceDestCheck": true,
        "Attachment": {
            "AttachmentId": interface.id.as_str().replacen("eni-", "eni-attach-", 1),
            "DeleteOnTermination": instance.is_some(),
            "DeviceIndex": i32::from(instance.is_none()),
            "InstanceId": instance,
            "InstanceOwnerId": holder,
            "Status": "attached",
        },
        "TagSet": [],
    })
}
