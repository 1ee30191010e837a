//! ec2: Elastic IP addresses: allocated, described, released.
//!
//! Nothing here has a public address of its own, so an allocation is a record: which public address the operator's
//! network translates to a load balancer's. Names the address, or one of those kept for documentation (RFC 5737).

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{
        Selection, TagSpecification, by_id, check_named, ec2_operation, is_named, specified_tags, wire_tags,
    },
};
use crate::model::{
    load_balancer::{LoadBalancer, LoadBalancerZone},
    network::ElasticIp,
    state::{Draft, State},
};

/// The operations on Elastic IP addresses.
pub const OPERATIONS: &[Entry] = &[
    ec2_operation!("AllocateAddress", allocate),
    ec2_operation!("DescribeAddresses", describe),
    ec2_operation!("ReleaseAddress", release),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AllocateInput {
    address: Option<String>,
    domain: Option<String>,
    public_ipv4_pool: Option<String>,
    ipam_pool_id: Option<String>,
    customer_owned_ipv4_pool: Option<String>,
    network_border_group: Option<String>,
    #[serde(default)]
    tag_specifications: Vec<TagSpecification>,
}

fn allocate(draft: &mut Draft, caller: &Caller, input: AllocateInput) -> Result<Value, ApiError> {
    if input.domain.as_deref().is_some_and(|domain| domain != "vpc") {
        return Err(ApiError::validation("Domain must be 'vpc'"));
    }
    let pools = [
        ("PublicIpv4Pool", input.public_ipv4_pool.is_some_and(|pool| pool != "amazon")),
        ("IpamPoolId", input.ipam_pool_id.is_some()),
        ("CustomerOwnedIpv4Pool", input.customer_owned_ipv4_pool.is_some()),
        ("NetworkBorderGroup", input.network_border_group.is_some_and(|group| group != caller.region)),
    ];
    if let Some((name, _)) = pools.iter().find(|(_, given)| *given) {
        return Err(ApiError::validation(format!(
            "{name} is not supported here: name the address by Address"
        )));
    }
    if draft.state().elastic_ips.len() >= ADDRESSES_MAX {
        return Err(ApiError::limit(
            "AddressLimitExceeded",
            format!("There are at most {ADDRESSES_MAX} Elastic IP addresses."),
        ));
    }
    let is_taken = |address: Ipv4Addr| draft.all::<ElasticIp>().any(|other| other.address == address);
    let address = match input.address {
        None => PLACEHOLDERS.iter().flat_map(Ipv4Net::hosts).find(|address| !is_taken(*address)),
        Some(text) => {
            let address = text.parse().ok().filter(|address| is_unicast(*address)).ok_or_else(|| {
                ApiError::validation(format!(
                    "Value ({text}) for parameter Address is not a unicast IPv4 address"
                ))
            })?;
            if is_taken(address) {
                return Err(ApiError::conflict(
                    "InvalidAddress.Locked",
                    format!("The address '{address}' is allocated already"),
                ));
            }
            Some(address)
        }
    };
    let Some(address) = address else {
        return Err(ApiError::limit(
            "InsufficientAddressCapacity",
            "No address is left for allocations that name none; name one by Address",
        ));
    };
    let tags = specified_tags(&input.tag_specifications, "elastic-ip")?;
    let allocation_id = format!("eipalloc-{}", draft.hex(17));
    draft.put(ElasticIp { allocation_id: allocation_id.clone(), address, tags });
    Ok(json!({
        "AllocationId": allocation_id, "PublicIp": address, "Domain": "vpc", "PublicIpv4Pool": "amazon",
        "NetworkBorderGroup": caller.region,
    }))
}

fn is_unicast(address: Ipv4Addr) -> bool {
    !(address.is_multicast()
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.is_link_local())
}

/// Where an allocation is used: the load balancer and its place in a subnet.
pub(super) fn user<'a>(
    state: &'a State,
    allocation: &str,
) -> Option<(&'a LoadBalancer, &'a LoadBalancerZone)> {
    state.load_balancers.values().find_map(|lb| {
        let zone = lb.zones.iter().find(|zone| zone.allocation_id.as_deref() == Some(allocation))?;
        Some((&**lb, zone))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    #[serde(default)]
    allocation_ids: Vec<String>,
    #[serde(default)]
    public_ips: Vec<String>,
    #[serde(flatten)]
    selection: Selection,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<Value, ApiError> {
    check_named::<ElasticIp>(draft, &input.allocation_ids)?;
    let is_known = |text: &String| draft.all::<ElasticIp>().any(|row| row.address.to_string() == *text);
    if let Some(missing) = input.public_ips.iter().find(|text| !is_known(text)) {
        return Err(ApiError::not_found(
            "InvalidAddress.NotFound",
            format!("Address '{missing}' not found."),
        ));
    }
    let mut rows = Vec::new();
    for row in draft.all::<ElasticIp>() {
        if !is_named(&input.allocation_ids, &row.allocation_id)
            || !is_named(&input.public_ips, &row.address.to_string())
        {
            continue;
        }
        let form = wire(draft.state(), caller, row);
        let text = |member: &str| form[member].as_str().map(str::to_owned).into_iter().collect();
        let field = |name: &str| match name {
            "allocation-id" => Some(text("AllocationId")),
            "association-id" => Some(text("AssociationId")),
            "domain" => Some(text("Domain")),
            "network-interface-id" => Some(text("NetworkInterfaceId")),
            "private-ip-address" => Some(text("PrivateIpAddress")),
            "public-ip" => Some(text("PublicIp")),
            _ => None,
        };
        if input.selection.admits(&row.tags, field)? {
            rows.push(form);
        }
    }
    Ok(json!({"Addresses": rows}))
}

fn wire(state: &State, caller: &Caller, row: &ElasticIp) -> Value {
    let user = user(state, &row.allocation_id);
    json!({
        "AllocationId": row.allocation_id,
        "PublicIp": row.address,
        "Domain": "vpc",
        "PublicIpv4Pool": "amazon",
        "NetworkBorderGroup": caller.region,
        "AssociationId": user.map(|_| row.allocation_id.replacen("eipalloc-", "eipassoc-", 1)),
        "NetworkInterfaceId": user.map(|(_, zone)| &zone.interface_id),
        "NetworkInterfaceOwnerId": user.map(|_| "amazon-elb"),
        "PrivateIpAddress": user.map(|(_, zone)| zone.address),
        "ServiceManaged": user.map(|_| "nlb"),
        "Tags": wire_tags(&row.tags),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReleaseInput {
    allocation_id: Option<String>,
}

fn release(draft: &mut Draft, _: &Caller, input: ReleaseInput) -> Result<Value, ApiError> {
    let id = input.allocation_id.ok_or_else(|| ApiError::missing("AllocationId"))?;
    by_id::<ElasticIp>(draft, &id)?;
    if let Some((lb, _)) = user(draft.state(), &id) {
        return Err(ApiError::conflict(
            "InvalidIPAddress.InUse",
            format!("The allocation '{id}' is in use by load balancer '{}'", lb.name),
        ));
    }
    draft.remove::<ElasticIp>(&id);
    Ok(json!({}))
}

/// AWS's quota is 5 and rises on request.
const ADDRESSES_MAX: usize = 200;
/// What stands for an address that the operator has not named: RFC 5737, routed by nobody.
const PLACEHOLDERS: &[Ipv4Net] = &[Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24)];

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    #[test]
    fn an_address_is_recorded_shown_and_released_when_nobody_uses_it() {
        let mut world = World::new();
        let own = world.ok("ec2", "AllocateAddress", json!({"Address": "198.51.100.7", "Domain": "vpc"}));
        let id = own["AllocationId"].clone();
        assert_eq!(own["PublicIp"], "198.51.100.7");
        let other = world.ok("ec2", "AllocateAddress", json!({}));
        assert_eq!(other["PublicIp"], "203.0.113.1");
        let input = json!({"Name": "nlb", "Type": "network", "SubnetMappings":
            [{"SubnetId": "subnet-a", "AllocationId": id}]});
        let lb = world.ok("elbv2", "CreateLoadBalancer", input)["LoadBalancers"][0].clone();
        let address = &lb["AvailabilityZones"][0]["LoadBalancerAddresses"][0];
        assert_eq!((&address["IpAddress"], &address["AllocationId"]), (&json!("198.51.100.7"), &id));

        let described = world.ok("ec2", "DescribeAddresses", json!({"AllocationIds": [id]}));
        assert_eq!(described["Addresses"][0]["ServiceManaged"], "nlb");
        assert_eq!(described["Addresses"][0]["PrivateIpAddress"], "10.0.1.5");
        let (code, message) = world.refuse("ec2", "ReleaseAddress", json!({"AllocationId": id}));
        assert_eq!(code, "InvalidIPAddress.InUse");
        assert!(message.contains("nlb"), "{message}");
        world.ok("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": lb["LoadBalancerArn"]}));
        world.ok("ec2", "ReleaseAddress", json!({"AllocationId": id}));
        assert_eq!(world.state.elastic_ips.len(), 1);
    }

    #[test]
    fn what_cannot_be_allocated_or_found_is_refused_by_name() {
        let mut world = World::new();
        world.ok("ec2", "AllocateAddress", json!({"Address": "198.51.100.7"}));
        for (operation, input, expected, word) in [
            ("AllocateAddress", json!({"Address": "198.51.100.7"}), "InvalidAddress.Locked", "198.51.100.7"),
            ("AllocateAddress", json!({"Address": "224.0.0.1"}), "Validation", "Address"),
            ("AllocateAddress", json!({"PublicIpv4Pool": "mine"}), "Validation", "PublicIpv4Pool"),
            ("AllocateAddress", json!({"Domain": "standard"}), "Validation", "Domain"),
            ("ReleaseAddress", json!({}), "MissingParameter", "AllocationId"),
            (
                "ReleaseAddress",
                json!({"AllocationId": "eipalloc-0"}),
                "InvalidAllocationID.NotFound",
                "eipalloc-0",
            ),
            ("DescribeAddresses", json!({"PublicIps": ["1.2.3.4"]}), "InvalidAddress.NotFound", "1.2.3.4"),
        ] {
            let (code, message) = world.refuse("ec2", operation, input);
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(world.state.elastic_ips.len(), 1);
    }
}
