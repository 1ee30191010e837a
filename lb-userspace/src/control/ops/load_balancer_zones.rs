//! elbv2: where a load balancer is: its subnets, and its addresses there, given or allocated and kept for its life.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{
    ApiError, actions::groups_of, attributes, elastic_ips, elbv2::unsupported, interfaces, underlay,
};
use crate::model::{
    id::VpcId,
    load_balancer::{IpAddressType, LoadBalancer, LoadBalancerKind, LoadBalancerZone},
    network::{Interface, InterfaceOwner, Subnet},
    state::{Draft, State},
    target_group::TargetAddressType,
};

/// SubnetMapping.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SubnetMapping {
    subnet_id: Option<String>,
    allocation_id: Option<String>,
    #[serde(rename = "PrivateIPv4Address")]
    private_ipv4_address: Option<String>,
    #[serde(rename = "IPv6Address")]
    ipv6_address: Option<String>,
    source_nat_ipv6_prefix: Option<String>,
}

/// AvailabilityZone.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ZoneForm {
    zone_name: String,
    subnet_id: String,
    load_balancer_addresses: Vec<AddressForm>,
}

/// LoadBalancerAddress.
#[derive(Serialize)]
struct AddressForm {
    #[serde(rename = "IpAddress", skip_serializing_if = "Option::is_none")]
    ip_address: Option<Ipv4Addr>,
    #[serde(rename = "AllocationId", skip_serializing_if = "Option::is_none")]
    allocation_id: Option<String>,
    #[serde(rename = "PrivateIPv4Address")]
    private_ipv4_address: Ipv4Addr,
    #[serde(rename = "IPv6Address", skip_serializing_if = "Option::is_none")]
    ipv6_address: Option<Ipv6Addr>,
}

/// The places of a load balancer as answers have them.
pub(super) fn zone_forms(state: &State, lb: &LoadBalancer) -> Vec<ZoneForm> {
    let public = |zone: &LoadBalancerZone| {
        let row = state.elastic_ips.get(zone.allocation_id.as_deref()?)?;
        Some(row.address)
    };
    let zones = lb.zones.iter().map(|zone| ZoneForm {
        zone_name: zone.zone.clone(),
        subnet_id: zone.subnet_id.0.clone(),
        // Static addresses are a network load balancer's; an application load balancer is known by its name.
        load_balancer_addresses: match lb.kind {
            LoadBalancerKind::Network => vec![AddressForm {
                ip_address: public(zone),
                allocation_id: zone.allocation_id.clone(),
                private_ipv4_address: zone.address,
                ipv6_address: zone.ipv6,
            }],
            LoadBalancerKind::Application => Vec::new(),
        },
    });
    zones.collect()
}

/// The subnets that a load balancer is to be in, each with what was asked for there.
pub(super) struct Wanted {
    /// The subnets' VPC.
    pub(super) vpc_id: VpcId,
    /// One per subnet.
    pub(super) places: Vec<Place>,
}

/// A subnet with the addresses that were asked for; what was not is allocated.
pub(super) struct Place {
    /// The subnet.
    pub(super) subnet: Subnet,
    address: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    allocation_id: Option<String>,
}

impl Place {
    /// Whether a load balancer that is at `zone` is where this asks it to be.
    pub(super) fn is_at(&self, zone: &LoadBalancerZone) -> bool {
        zone.subnet_id == self.subnet.id
            && self.address.is_none_or(|address| address == zone.address)
            && self.ipv6.is_none_or(|address| Some(address) == zone.ipv6)
            && self.allocation_id.as_ref().is_none_or(|id| Some(id) == zone.allocation_id.as_ref())
    }
}

/// Reads what a request says of subnets.
///
/// # Errors
/// AWS's codes: `SubnetNotFound`, `InvalidSubnet`, `InvalidConfigurationRequest`, `AllocationIdNotFound`, or a
/// validation error, naming the subnet or the address.
pub(super) fn wanted_subnets(
    state: &State,
    kind: LoadBalancerKind,
    scheme: &str,
    addresses: IpAddressType,
    subnets: Vec<String>,
    mappings: Vec<SubnetMapping>,
) -> Result<Wanted, ApiError> {
    if !subnets.is_empty() && !mappings.is_empty() {
        return Err(ApiError::validation("You must specify either Subnets or SubnetMappings, not both"));
    }
    let mut places: Vec<Place> = Vec::new();
    for (id, mapping) in subnets.into_iter().map(|id| (id, None)).chain(
        mappings.into_iter().map(|mapping| (mapping.subnet_id.clone().unwrap_or_default(), Some(mapping))),
    ) {
        let subnet: &Subnet = state.subnets.get(&id).ok_or_else(|| {
            ApiError::not_found("SubnetNotFound", format!("The subnet ID '{id}' does not exist"))
        })?;
        let place = match mapping {
            Some(mapping) => mapped(state, kind, scheme, addresses, subnet, mapping)?,
            None => Place { subnet: subnet.clone(), address: None, ipv6: None, allocation_id: None },
        };
        check_family(addresses, subnet)?;
        if let Some(other) = places.iter().find(|other| other.subnet.zone == subnet.zone) {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!(
                    "A load balancer cannot be attached to multiple subnets in the same Availability Zone: '{}' and \
                     '{id}' are in {}",
                    other.subnet.id, subnet.zone
                ),
            ));
        }
        let is_twice =
            |other: &Place| place.allocation_id.is_some() && other.allocation_id == place.allocation_id;
        if places.iter().any(is_twice) {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!(
                    "The allocation ID '{}' is specified for two subnets",
                    place.allocation_id.unwrap_or_default()
                ),
            ));
        }
        places.push(place);
    }
    let Some(first) = places.first() else {
        return Err(ApiError::validation("At least one subnet must be specified"));
    };
    if kind == LoadBalancerKind::Application && places.len() < 2 {
        return Err(ApiError::validation(
            "At least two subnets in two different Availability Zones must be specified",
        ));
    }
    let vpc_id = first.subnet.vpc_id.clone();
    if let Some(other) = places.iter().find(|place| place.subnet.vpc_id != vpc_id) {
        return Err(ApiError::sender(
            "InvalidSubnet",
            format!("All subnets must belong to the same VPC: '{}' is not in '{vpc_id}'", other.subnet.id),
        ));
    }
    for place in &places {
        underlay::check_subnet(state, &vpc_id, &place.subnet, addresses)?;
    }
    Ok(Wanted { vpc_id, places })
}

fn check_family(addresses: IpAddressType, subnet: &Subnet) -> Result<(), ApiError> {
    if addresses == IpAddressType::Dualstack && subnet.ipv6.is_none() {
        return Err(ApiError::sender(
            "InvalidSubnet",
            format!("A dualstack load balancer needs IPv6 CIDR blocks, and subnet '{}' has none", subnet.id),
        ));
    }
    Ok(())
}

fn mapped(
    state: &State,
    kind: LoadBalancerKind,
    scheme: &str,
    addresses: IpAddressType,
    subnet: &Subnet,
    mapping: SubnetMapping,
) -> Result<Place, ApiError> {
    let refuse = |message: String| Err(ApiError::sender("InvalidConfigurationRequest", message));
    if mapping.source_nat_ipv6_prefix.is_some_and(|prefix| prefix != "auto_assigned") {
        return Err(unsupported("SourceNatIpv6Prefix in a subnet mapping"));
    }
    if let Some(id) = &mapping.allocation_id {
        if !state.elastic_ips.contains_key(id) {
            return Err(ApiError::not_found(
                "AllocationIdNotFound",
                format!("The allocation ID '{id}' does not exist"),
            ));
        }
        if kind != LoadBalancerKind::Network || scheme != "internet-facing" {
            return refuse(
                "AllocationId can be specified only for internet-facing network load balancers".to_owned(),
            );
        }
    }
    let mut place =
        Place { subnet: subnet.clone(), address: None, ipv6: None, allocation_id: mapping.allocation_id };
    if let Some(text) = &mapping.private_ipv4_address {
        if kind != LoadBalancerKind::Network || scheme != "internal" {
            return refuse(
                "PrivateIPv4Address can be specified only for internal network load balancers".to_owned(),
            );
        }
        let address: Ipv4Addr = text
            .parse()
            .map_err(|_| ApiError::validation(format!("The private IPv4 address '{text}' is not valid")))?;
        if !subnet.is_assignable(address) {
            return refuse(format!(
                "The private IPv4 address '{address}' is not an assignable address of subnet '{}'",
                subnet.id
            ));
        }
        place.address = Some(address);
    }
    if let Some(text) = &mapping.ipv6_address {
        if kind != LoadBalancerKind::Network || addresses != IpAddressType::Dualstack {
            return refuse(
                "IPv6Address can be specified only for dualstack network load balancers".to_owned(),
            );
        }
        let address: Ipv6Addr = text
            .parse()
            .map_err(|_| ApiError::validation(format!("The IPv6 address '{text}' is not valid")))?;
        if !subnet.is_assignable6(address) {
            return refuse(format!(
                "The IPv6 address '{address}' is not an assignable address of subnet '{}'",
                subnet.id
            ));
        }
        place.ipv6 = Some(address);
    }
    Ok(place)
}

/// Takes addresses in a subnet for the load balancer.
///
/// # Errors
/// `InvalidConfigurationRequest` when an address is in use, `InvalidSubnet` when none is left.
pub(super) fn take_zone(
    draft: &mut Draft,
    lb: &LoadBalancer,
    place: &Place,
) -> Result<LoadBalancerZone, ApiError> {
    let subnet = &place.subnet;
    let address = match place.address {
        Some(address) if !interfaces::is_free(draft.state(), subnet, address) => {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!("The private IPv4 address '{address}' of subnet '{}' is already in use", subnet.id),
            ));
        }
        Some(address) => address,
        None => interfaces::free_address(draft.state(), subnet).ok_or_else(|| no_space(subnet))?,
    };
    if let Some(id) = &place.allocation_id
        && let Some((user, _)) = elastic_ips::user(draft.state(), id)
    {
        return Err(ApiError::sender(
            "InvalidConfigurationRequest",
            format!("The allocation ID '{id}' is already in use by load balancer '{}'", user.name),
        ));
    }
    let interface = attach(draft, lb, subnet, address);
    if place.address.is_some() {
        draft.edit::<Interface>(interface.id.as_str(), |interface| interface.requested = true);
    }
    let mut zone = LoadBalancerZone {
        zone: subnet.zone.clone(),
        subnet_id: subnet.id.clone(),
        interface_id: interface.id,
        address,
        ipv6: None,
        allocation_id: place.allocation_id.clone(),
        secondary: Vec::new(),
    };
    if lb.ip_address_type == IpAddressType::Dualstack {
        take_ipv6(draft, &mut zone, subnet, place.ipv6)?;
    }
    Ok(zone)
}

fn attach(draft: &mut Draft, lb: &LoadBalancer, subnet: &Subnet, address: Ipv4Addr) -> Interface {
    let description = format!("ELB {}", lb.arn.resource().trim_start_matches("loadbalancer/"));
    let owner = InterfaceOwner::LoadBalancer(lb.arn.clone());
    interfaces::attach(draft, subnet, address, lb.security_groups.clone(), owner, description)
}

/// Gives a load balancer as many further addresses in each of its subnets as its attributes say; it keeps those that it
/// has.
///
/// # Errors
/// `InvalidConfigurationRequest` when it has more already, `InvalidSubnet` when no address is left.
pub(super) fn take_secondary(draft: &mut Draft, lb: &mut LoadBalancer) -> Result<(), ApiError> {
    let text = attributes::value(attributes::NETWORK, &lb.attributes, attributes::SECONDARY_ADDRESSES);
    let wanted: usize = text.parse().unwrap_or(0);
    let mut zones = std::mem::take(&mut lb.zones);
    for zone in &mut zones {
        if zone.secondary.len() > wanted {
            // "After you set this value, you can't decrease it."
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!(
                    "Load balancer attribute '{}' cannot be decreased from '{}' to '{wanted}'",
                    attributes::SECONDARY_ADDRESSES,
                    zone.secondary.len()
                ),
            ));
        }
        let Some(subnet) = draft.one::<Subnet>(zone.subnet_id.as_str()).map(|subnet| Subnet::clone(subnet))
        else {
            continue;
        };
        while zone.secondary.len() < wanted {
            let address =
                interfaces::free_address(draft.state(), &subnet).ok_or_else(|| no_space(&subnet))?;
            zone.secondary.push(attach(draft, lb, &subnet, address).id);
        }
    }
    lb.zones = zones;
    Ok(())
}

/// Gives a load balancer that is in a subnet an IPv6 address there.
fn take_ipv6(
    draft: &mut Draft,
    zone: &mut LoadBalancerZone,
    subnet: &Subnet,
    wanted: Option<Ipv6Addr>,
) -> Result<(), ApiError> {
    let address = match wanted {
        Some(address) if !interfaces::is_free6(draft.state(), subnet, address) => {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!("The IPv6 address '{address}' of subnet '{}' is already in use", subnet.id),
            ));
        }
        Some(address) => address,
        None => interfaces::free_ipv6(draft.state(), subnet).ok_or_else(|| no_space(subnet))?,
    };
    interfaces::set_ipv6(draft, &zone.interface_id, Some(address));
    if wanted.is_some() {
        draft.edit::<Interface>(zone.interface_id.as_str(), |interface| interface.ipv6_requested = true);
    }
    zone.ipv6 = Some(address);
    Ok(())
}

fn no_space(subnet: &Subnet) -> ApiError {
    ApiError::sender("InvalidSubnet", format!("Not enough IP space available in {}", subnet.id))
}

/// Gives a load balancer the addresses of `places`: where it is already, those that it has, which cannot be changed.
/// What it leaves is free again.
///
/// # Errors
/// As [`take_zone`]; `InvalidConfigurationRequest` for another address in a subnet where it is.
pub(super) fn move_to(draft: &mut Draft, lb: &mut LoadBalancer, places: &[Place]) -> Result<(), ApiError> {
    let (kept, left): (Vec<_>, Vec<_>) = std::mem::take(&mut lb.zones)
        .into_iter()
        .partition(|zone| places.iter().any(|place| place.subnet.id == zone.subnet_id));
    for id in left.iter().flat_map(LoadBalancerZone::interfaces) {
        draft.remove::<Interface>(id.as_str());
    }
    let addresses = lb.ip_address_type;
    lb.zones = kept;
    // A zone that stays and has no IPv6 yet takes the address that is asked for.
    for zone in lb.zones.iter_mut() {
        let Some(place) = places.iter().find(|place| place.subnet.id == zone.subnet_id) else { continue };
        settle_ipv6(draft, zone, addresses, &place.subnet, place.ipv6)?;
        if !place.is_at(zone) {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!("The address of the load balancer in subnet '{}' cannot be changed", place.subnet.id),
            ));
        }
    }
    for place in places {
        if lb.zones.iter().all(|zone| zone.subnet_id != place.subnet.id) {
            let zone = take_zone(draft, lb, place)?;
            lb.zones.push(zone);
        }
    }
    lb.zones.sort_by(|one, other| one.zone.cmp(&other.zone));
    take_secondary(draft, lb)
}

/// Says that a load balancer is dual-stack from now on, or IPv4; its addresses follow by [`move_to`].
///
/// # Errors
/// `InvalidConfigurationRequest` when it forwards to IPv6 targets and is to be without IPv6.
pub(super) fn change_family(
    state: &State,
    lb: &mut LoadBalancer,
    addresses: IpAddressType,
) -> Result<(), ApiError> {
    let is_ipv6 = |arn: &str| {
        let group = state.target_groups.get(arn);
        group.is_some_and(|group| group.ip_address_type == TargetAddressType::Ipv6)
    };
    if addresses == IpAddressType::Ipv4
        && let Some(group) = groups_of(state, &lb.arn).into_iter().find(|arn| is_ipv6(arn.as_str()))
    {
        return Err(ApiError::sender(
            "InvalidConfigurationRequest",
            format!(
                "IpAddressType 'ipv4' is not possible while a listener forwards to IPv6 targets: '{group}'"
            ),
        ));
    }
    lb.ip_address_type = addresses;
    Ok(())
}

/// Makes an IPv4 load balancer dual-stack, or the reverse: its IPv4 addresses stay.
///
/// # Errors
/// As [`change_family`]; `InvalidSubnet` when a subnet has no IPv6.
pub(super) fn set_addresses(
    draft: &mut Draft,
    lb: &mut LoadBalancer,
    addresses: IpAddressType,
) -> Result<(), ApiError> {
    change_family(draft.state(), lb, addresses)?;
    for zone in &mut lb.zones {
        let Some(subnet) = draft.one::<Subnet>(zone.subnet_id.as_str()).map(|subnet| Subnet::clone(subnet))
        else {
            continue;
        };
        check_family(addresses, &subnet)?;
        if addresses == IpAddressType::Dualstack {
            underlay::check_subnet(draft.state(), &lb.vpc_id, &subnet, addresses)?;
        }
        settle_ipv6(draft, zone, addresses, &subnet, None)?;
    }
    Ok(())
}

fn settle_ipv6(
    draft: &mut Draft,
    zone: &mut LoadBalancerZone,
    addresses: IpAddressType,
    subnet: &Subnet,
    wanted: Option<Ipv6Addr>,
) -> Result<(), ApiError> {
    match addresses {
        IpAddressType::Ipv4 => {
            interfaces::set_ipv6(draft, &zone.interface_id, None);
            zone.ipv6 = None;
        }
        IpAddressType::Dualstack if zone.ipv6.is_none() => take_ipv6(draft, zone, subnet, wanted)?,
        IpAddressType::Dualstack => {}
    }
    Ok(())
}

/// Reads IpAddressType; none asks for IPv4.
///
/// # Errors
/// `InvalidConfigurationRequest` for what is not built.
pub(super) fn ip_address_type(
    kind: LoadBalancerKind,
    given: Option<&str>,
) -> Result<Option<IpAddressType>, ApiError> {
    match given {
        None => Ok(None),
        Some("ipv4") => Ok(Some(IpAddressType::Ipv4)),
        Some("dualstack") if kind == LoadBalancerKind::Network => Ok(Some(IpAddressType::Dualstack)),
        Some(other) => {
            let kind = kind.word();
            Err(unsupported(format_args!("IpAddressType '{other}' of a load balancer of type '{kind}'")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use serde_json::{Value, json};

    /// A world whose VPC and first subnets have IPv6.
    fn dual() -> World {
        let mut world = World::new();
        let block = json!({"VpcId": "vpc-1", "Ipv6CidrBlock": "fd00::/56"});
        world.ok("ec2", "AssociateVpcCidrBlock", block);
        for (at, subnet) in ["subnet-a", "subnet-b"].iter().enumerate() {
            let block = json!({"SubnetId": subnet, "Ipv6CidrBlock": format!("fd00:0:0:{}::/64", at + 1)});
            world.ok("ec2", "AssociateSubnetCidrBlock", block);
        }
        world
    }

    fn create(world: &mut World, kind: &str, mappings: Value) -> Value {
        let input = json!({"Name": "nlb", "Type": "network", "Scheme": "internal", "IpAddressType": kind,
            "SubnetMappings": mappings});
        world.ok("elbv2", "CreateLoadBalancer", input)["LoadBalancers"][0].clone()
    }

    fn addresses(lb: &Value) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let zones = lb["AvailabilityZones"].as_array().unwrap().iter();
        zones
            .map(|zone| &zone["LoadBalancerAddresses"][0])
            .map(|address| (text(&address["PrivateIPv4Address"]), text(&address["IPv6Address"])))
            .collect()
    }

    fn described(world: &mut World) -> Vec<(String, String)> {
        addresses(&world.ok("elbv2", "DescribeLoadBalancers", json!({}))["LoadBalancers"][0])
    }

    fn both(one: &str, other: &str) -> (String, String) {
        (one.to_owned(), other.to_owned())
    }

    #[test]
    fn a_dual_stack_load_balancer_has_an_address_of_each_family_in_each_subnet() {
        let mut world = dual();
        let mappings = json!([{"SubnetId": "subnet-a", "IPv6Address": "fd00:0:0:1::50"},
            {"SubnetId": "subnet-b", "PrivateIPv4Address": "10.0.2.50"}]);
        let lb = create(&mut world, "dualstack", mappings);
        assert_eq!(lb["IpAddressType"], "dualstack");
        let expected = [both("10.0.1.5", "fd00:0:0:1::50"), both("10.0.2.50", "fd00:0:0:2::4")];
        assert_eq!(addresses(&lb), expected);
        let held: Vec<_> = world.state.interfaces.values().filter_map(|own| own.ipv6).collect();
        assert_eq!(held.len(), 2, "{held:?}");
    }

    #[test]
    fn ipv6_comes_and_goes_and_ipv4_stays() {
        let mut world = dual();
        let mappings = json!([{"SubnetId": "subnet-a"}]);
        let lb = create(&mut world, "ipv4", mappings)["LoadBalancerArn"].clone();
        assert_eq!(described(&mut world), [both("10.0.1.5", "")]);
        let set = |kind: &str| json!({"LoadBalancerArn": lb, "IpAddressType": kind});
        world.ok("elbv2", "SetIpAddressType", set("dualstack"));
        assert_eq!(described(&mut world), [both("10.0.1.5", "fd00:0:0:1::4")]);
        world.ok("elbv2", "SetIpAddressType", set("ipv4"));
        assert_eq!(described(&mut world), [both("10.0.1.5", "")]);
        assert!(world.state.interfaces.values().all(|own: &std::sync::Arc<Interface>| own.ipv6.is_none()));
    }

    #[test]
    fn a_subnet_is_added_with_the_address_that_is_asked_for() {
        let mut world = dual();
        let lb =
            create(&mut world, "dualstack", json!([{"SubnetId": "subnet-a"}]))["LoadBalancerArn"].clone();
        let set = |mappings: Value| json!({"LoadBalancerArn": lb, "SubnetMappings": mappings});
        let more = json!([{"SubnetId": "subnet-a"},
            {"SubnetId": "subnet-b", "PrivateIPv4Address": "10.0.2.9", "IPv6Address": "fd00:0:0:2::9"}]);
        world.ok("elbv2", "SetSubnets", set(more));
        let expected = [both("10.0.1.5", "fd00:0:0:1::4"), both("10.0.2.9", "fd00:0:0:2::9")];
        assert_eq!(described(&mut world), expected);
        for changed in [json!({"PrivateIPv4Address": "10.0.1.77"}), json!({"IPv6Address": "fd00:0:0:1::77"})]
        {
            let mut mapping = changed;
            mapping["SubnetId"] = json!("subnet-a");
            let (code, message) = world.refuse("elbv2", "SetSubnets", set(json!([mapping])));
            assert_eq!(code, "InvalidConfigurationRequest", "{message}");
            assert!(message.contains("subnet-a"), "{message}");
        }
        assert_eq!(described(&mut world), expected);
    }

    #[test]
    fn further_addresses_are_taken_kept_and_given_back() {
        let mut world = World::new();
        let lb = create(&mut world, "ipv4", json!([{"SubnetId": "subnet-a"}]))["LoadBalancerArn"].clone();
        let modify = |count: &str| {
            json!({"LoadBalancerArn": lb,
                "Attributes": [{"Key": "secondary_ips.auto_assigned.per_subnet", "Value": count}]})
        };
        let set = |subnets: Value| json!({"LoadBalancerArn": lb, "Subnets": subnets});
        let held = |world: &World| {
            let is_own = |own: &Interface| matches!(own.owner, InterfaceOwner::LoadBalancer(_));
            let own = world.state.interfaces.values().filter(|own| is_own(own));
            own.map(|own| own.address.to_string()).collect::<std::collections::BTreeSet<_>>()
        };
        world.ok("elbv2", "ModifyLoadBalancerAttributes", modify("1"));
        world.ok("elbv2", "ModifyLoadBalancerAttributes", modify("2"));
        let of_a = ["10.0.1.5", "10.0.1.6", "10.0.1.7"].map(str::to_owned);
        assert_eq!(held(&world), of_a.clone().into());
        assert_eq!(described(&mut world), [both("10.0.1.5", "")], "clients know the first alone");
        // A subnet that comes has as many; one that goes gives all back.
        world.ok("elbv2", "SetSubnets", set(json!(["subnet-a", "subnet-b"])));
        assert_eq!(held(&world).len(), 6);
        world.ok("elbv2", "SetSubnets", set(json!(["subnet-a"])));
        assert_eq!(held(&world), of_a.into());
        for (count, word) in [("1", "cannot be decreased"), ("8", "between '0' and '7'")] {
            let (_, message) = world.refuse("elbv2", "ModifyLoadBalancerAttributes", modify(count));
            assert!(message.contains(word) && message.contains("secondary_ips"), "{message}");
        }
        world.ok("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": lb}));
        assert_eq!(held(&world), [].into());
    }

    #[test]
    fn addresses_that_cannot_be_are_refused_by_name() {
        let mut world = dual();
        world.ok("ec2", "AllocateAddress", json!({"Address": "198.51.100.1"}));
        let id = world.state.elastic_ips.keys().next().unwrap().clone();
        let case = |scheme: &str, kind: &str, mut mapping: Value| {
            mapping["SubnetId"] = json!("subnet-a");
            json!({"Name": "x", "Type": "network", "Scheme": scheme, "IpAddressType": kind, "SubnetMappings": [mapping]})
        };
        let cases = [
            (case("internal", "ipv4", json!({"IPv6Address": "fd00:0:0:1::9"})), "IPv6Address"),
            (case("internal", "dualstack", json!({"IPv6Address": "fd00:0:0:9::9"})), "fd00:0:0:9::9"),
            (case("internal", "dualstack", json!({"IPv6Address": "fd00:0:0:1::2"})), "fd00:0:0:1::2"),
            (case("internal", "dualstack", json!({"IPv6Address": "10.0.0.1"})), "10.0.0.1"),
            (
                case("internet-facing", "ipv4", json!({"PrivateIPv4Address": "10.0.1.9"})),
                "PrivateIPv4Address",
            ),
            (case("internal", "ipv4", json!({"AllocationId": id})), "AllocationId"),
            (case("internet-facing", "ipv4", json!({"AllocationId": "eipalloc-0"})), "eipalloc-0"),
            (
                case("internal", "dualstack", json!({"SourceNatIpv6Prefix": "fd00::/80"})),
                "SourceNatIpv6Prefix",
            ),
            (case("internal", "dualstack-without-public-ipv4", json!({})), "dualstack-without-public-ipv4"),
        ];
        for (input, word) in cases {
            let (_, message) = world.refuse("elbv2", "CreateLoadBalancer", input.clone());
            assert!(message.contains(word), "{input}: {message}");
        }
        let twice = json!({"Name": "x", "Type": "network", "SubnetMappings": [
            {"SubnetId": "subnet-a", "AllocationId": id}, {"SubnetId": "subnet-b", "AllocationId": id}]});
        assert_eq!(world.refuse("elbv2", "CreateLoadBalancer", twice).0, "InvalidConfigurationRequest");
        let mut single = World::new();
        let input = case("internal", "dualstack", json!({}));
        let (code, message) = single.refuse("elbv2", "CreateLoadBalancer", input);
        assert_eq!(code, "InvalidSubnet");
        assert!(message.contains("subnet-a"), "{message}");
    }
}
