//! elbv2: load balancers, their attributes, subnets and security groups.
//!
//! A load balancer takes one interface per subnet, whose address it keeps for its life. Listeners hang below it.

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry,
    attributes::{self, Attribute, Known},
    elbv2::{Nothing, Tag, check_arn, check_name, check_security_groups, check_tags, unsupported},
    interfaces,
    load_balancer_zones::{
        SubnetMapping, ZoneForm, change_family, ip_address_type, move_to, set_addresses, take_secondary,
        take_zone, wanted_subnets, zone_forms,
    },
    operation,
    paging::page,
    targets::application_registration,
    timestamp::seconds,
};
use crate::model::{
    id::{Arn, SecurityGroupId, VpcId},
    load_balancer::{Listener, LoadBalancer, LoadBalancerKind, LoadBalancerZone, Rule},
    network::{Interface, InterfaceOwner, Standing},
    state::{Draft, State},
};

/// The operations on load balancers.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateLoadBalancer", create),
    operation!("DescribeLoadBalancers", describe),
    operation!("DeleteLoadBalancer", delete),
    operation!("DescribeLoadBalancerAttributes", describe_attributes),
    operation!("ModifyLoadBalancerAttributes", modify_attributes),
    operation!("SetSecurityGroups", set_security_groups),
    operation!("SetSubnets", set_subnets),
    operation!("SetIpAddressType", set_ip_address_type),
    operation!("DescribeCapacityReservation", describe_capacity_reservation),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    name: String,
    #[serde(default)]
    subnets: Vec<String>,
    #[serde(default)]
    subnet_mappings: Vec<SubnetMapping>,
    #[serde(default)]
    security_groups: Vec<String>,
    scheme: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    r#type: Option<String>,
    ip_address_type: Option<String>,
    customer_owned_ipv4_pool: Option<String>,
    ipam_pools: Option<serde_json::Value>,
    enable_prefix_for_ipv6_source_nat: Option<String>,
}

/// A load balancer on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    load_balancer_arn: Arn,
    #[serde(rename = "DNSName")]
    dns_name: String,
    canonical_hosted_zone_id: &'static str,
    created_time: f64,
    load_balancer_name: String,
    scheme: String,
    vpc_id: VpcId,
    state: StateForm,
    r#type: &'static str,
    availability_zones: Vec<ZoneForm>,
    security_groups: Vec<SecurityGroupId>,
    ip_address_type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateForm {
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LoadBalancers {
    load_balancers: Vec<Form>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<LoadBalancers, ApiError> {
    check_name("Load balancer", &input.name)?;
    if input.name.starts_with("internal-") {
        return Err(ApiError::validation(format!(
            "Load balancer name '{}' cannot begin with 'internal-'",
            input.name
        )));
    }
    let kind = match input.r#type.as_deref() {
        None | Some("application") => LoadBalancerKind::Application,
        Some("network") => LoadBalancerKind::Network,
        Some(other) => return Err(unsupported(format_args!("The load balancer type '{other}'"))),
    };
    let scheme = input.scheme.unwrap_or_else(|| "internet-facing".to_owned());
    if !matches!(scheme.as_str(), "internal" | "internet-facing") {
        return Err(ApiError::sender(
            "InvalidScheme",
            format!("The scheme '{scheme}' must be 'internal' or 'internet-facing'"),
        ));
    }
    let addresses = ip_address_type(kind, input.ip_address_type.as_deref())?.unwrap_or_default();
    check_source_nat(input.enable_prefix_for_ipv6_source_nat.as_deref())?;
    if input.customer_owned_ipv4_pool.is_some() || input.ipam_pools.is_some() {
        return Err(unsupported("An address pool of a load balancer"));
    }
    let wanted =
        wanted_subnets(draft.state(), kind, &scheme, addresses, input.subnets, input.subnet_mappings)?;
    let vpc_id = wanted.vpc_id.clone();
    let groups = match input.security_groups.as_slice() {
        [] if kind == LoadBalancerKind::Application => default_groups(draft.state(), &vpc_id),
        ids => check_security_groups(draft.state(), vpc_id.as_str(), ids)?,
    };
    let tags = check_tags(input.tags)?;

    if let Some(existing) = draft.all::<LoadBalancer>().find(|lb| lb.name == input.name) {
        let is_same = existing.kind == kind
            && existing.scheme == scheme
            && existing.security_groups == groups
            && existing.tags == tags
            && existing.ip_address_type == addresses
            && existing.zones.len() == wanted.places.len()
            && wanted.places.iter().all(|place| existing.zones.iter().any(|zone| place.is_at(zone)));
        if is_same {
            let load_balancers = vec![form(draft.state(), existing)];
            return Ok(LoadBalancers { load_balancers, next_marker: None });
        }
        return Err(ApiError::conflict(
            "DuplicateLoadBalancerName",
            format!(
                "A load balancer with the same name '{}' exists, but with different settings",
                input.name
            ),
        ));
    }
    if draft.all::<LoadBalancer>().filter(|lb| lb.kind == kind).count() >= LOAD_BALANCERS_MAX {
        return Err(ApiError::limit(
            "TooManyLoadBalancers",
            format!("The limit of {LOAD_BALANCERS_MAX} load balancers of type '{}' is reached", kind.word()),
        ));
    }

    let id = draft.hex(16);
    let resource = format!("{}/{}/{id}", kind.arn_word(), input.name);
    let arn = Arn::new(
        "elasticloadbalancing",
        &caller.region,
        &caller.account,
        format_args!("loadbalancer/{resource}"),
    );
    let prefix = if scheme == "internal" && kind == LoadBalancerKind::Application { "internal-" } else { "" };
    let mut lb = LoadBalancer {
        dns_name: format!("{prefix}{}-{id}.elb.{}.amazonaws.com", input.name, caller.region),
        arn,
        name: input.name,
        kind,
        scheme,
        vpc_id,
        ip_address_type: addresses,
        zones: Vec::new(),
        security_groups: groups,
        attributes: Default::default(),
        created_at: draft.now(),
        tags,
    };
    for place in &wanted.places {
        let zone = take_zone(draft, &lb, place)?;
        lb.zones.push(zone);
    }
    lb.zones.sort_by(|one, other| one.zone.cmp(&other.zone));
    draft.put(lb.clone());
    Ok(LoadBalancers { load_balancers: vec![form(draft.state(), &lb)], next_marker: None })
}

/// The group named `default` of a VPC, which AWS gives an application load balancer without groups.
fn default_groups(state: &State, vpc_id: &VpcId) -> Vec<SecurityGroupId> {
    state
        .security_groups
        .values()
        .filter(|group| group.vpc_id == *vpc_id && group.name == "default")
        .map(|group| group.id.clone())
        .collect()
}

/// Every IPv6 address that is needed is one of the load balancer's own: there is no prefix to take more from.
fn check_source_nat(given: Option<&str>) -> Result<(), ApiError> {
    match given {
        None | Some("off") => Ok(()),
        Some(other) => {
            Err(unsupported(format_args!("EnablePrefixForIpv6SourceNat with the value '{other}'")))
        }
    }
}

fn table(kind: LoadBalancerKind) -> &'static [Known] {
    match kind {
        LoadBalancerKind::Application => attributes::APPLICATION,
        LoadBalancerKind::Network => attributes::NETWORK,
    }
}

fn form(state: &State, lb: &LoadBalancer) -> Form {
    Form {
        load_balancer_arn: lb.arn.clone(),
        dns_name: lb.dns_name.clone(),
        canonical_hosted_zone_id: HOSTED_ZONE,
        created_time: seconds(lb.created_at),
        load_balancer_name: lb.name.clone(),
        scheme: lb.scheme.clone(),
        vpc_id: lb.vpc_id.clone(),
        state: standing(state, lb),
        r#type: lb.kind.word(),
        availability_zones: zone_forms(state, lb),
        security_groups: lb.security_groups.clone(),
        ip_address_type: lb.ip_address_type.word(),
    }
}

/// What the addresses of a load balancer make of it.
fn standing(state: &State, lb: &LoadBalancer) -> StateForm {
    let interfaces = lb.zones.iter().filter_map(|zone| state.interfaces.get(zone.interface_id.as_str()));
    let mut standings = interfaces.flat_map(|interface| interface.standings());
    let refused = standings.clone().find_map(|standing| match standing {
        Standing::Refused(reason) => Some(reason.clone()),
        _ => None,
    });
    let mut is_awaited = || standings.any(|standing| *standing == Standing::Awaited);
    let code = match &refused {
        Some(_) => "failed",
        None if is_awaited() => "provisioning",
        None => "active",
    };
    StateForm { code, reason: refused }
}

/// The load balancer by ARN.
///
/// # Errors
/// A validation error for text that is no load balancer's ARN, `LoadBalancerNotFound` if there is none.
pub fn find<'a>(state: &'a State, arn: &str) -> Result<&'a LoadBalancer, ApiError> {
    check_arn(arn, "loadbalancer/", "load balancer")?;
    state.load_balancers.get(arn).map(AsRef::as_ref).ok_or_else(|| {
        ApiError::not_found("LoadBalancerNotFound", format!("Load balancer '{arn}' not found"))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    #[serde(default)]
    load_balancer_arns: Vec<String>,
    #[serde(default)]
    names: Vec<String>,
    marker: Option<String>,
    page_size: Option<u32>,
}

fn describe(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<LoadBalancers, ApiError> {
    if !input.load_balancer_arns.is_empty() && !input.names.is_empty() {
        return Err(ApiError::validation(
            "Load balancer names and load balancer ARNs cannot be specified together",
        ));
    }
    for arn in &input.load_balancer_arns {
        find(draft.state(), arn)?;
    }
    for name in &input.names {
        if !draft.all::<LoadBalancer>().any(|lb| lb.name == *name) {
            return Err(ApiError::not_found(
                "LoadBalancerNotFound",
                format!("Load balancers '[{name}]' not found"),
            ));
        }
    }
    let is_wanted = |lb: &LoadBalancer| {
        (input.load_balancer_arns.is_empty() || input.load_balancer_arns.contains(&lb.arn.0))
            && (input.names.is_empty() || input.names.contains(&lb.name))
    };
    let rows = draft
        .all::<LoadBalancer>()
        .filter(|lb| is_wanted(lb))
        .map(|lb| (lb.arn.0.clone(), form(draft.state(), lb)));
    let (load_balancers, next_marker) = page(rows, input.marker.as_deref(), input.page_size, PAGE_MAX)?;
    Ok(LoadBalancers { load_balancers, next_marker })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    load_balancer_arn: String,
}

/// As AWS, succeeds for a load balancer that does not exist.
fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    check_arn(&input.load_balancer_arn, "loadbalancer/", "load balancer")?;
    let Some(lb) = draft.one::<LoadBalancer>(&input.load_balancer_arn).cloned() else {
        return Ok(Nothing {});
    };
    if attributes::value(table(lb.kind), &lb.attributes, "deletion_protection.enabled") == "true" {
        return Err(ApiError::sender(
            "OperationNotPermitted",
            format!("Load balancer '{}' cannot be deleted because deletion protection is enabled", lb.arn),
        ));
    }
    if let Some(target) = application_registration(draft.state(), &lb.arn, None) {
        return Err(ApiError::conflict(
            "ResourceInUse",
            format!(
                "Load balancer '{}' cannot be deleted because it is a target of '{}'",
                lb.arn, target.target_group_arn
            ),
        ));
    }
    let listeners: Vec<Arn> = draft
        .all::<Listener>()
        .filter(|listener| listener.load_balancer_arn == lb.arn)
        .map(|listener| listener.arn.clone())
        .collect();
    for listener in listeners {
        remove_listener(draft, &listener);
    }
    interfaces::detach_all(draft, &InterfaceOwner::LoadBalancer(lb.arn.clone()));
    draft.remove::<LoadBalancer>(lb.arn.as_str());
    Ok(Nothing {})
}

/// Removes a listener with its rules.
pub fn remove_listener(draft: &mut Draft, listener: &Arn) {
    let rules: Vec<Arn> = draft
        .all::<Rule>()
        .filter(|rule| rule.listener_arn == *listener)
        .map(|rule| rule.arn.clone())
        .collect();
    for rule in rules {
        draft.remove::<Rule>(rule.as_str());
    }
    draft.remove::<Listener>(listener.as_str());
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AttributesAnswer {
    attributes: Vec<Attribute>,
}

fn describe_attributes(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<AttributesAnswer, ApiError> {
    let lb = find(draft.state(), &input.load_balancer_arn)?;
    Ok(AttributesAnswer { attributes: attributes::describe(table(lb.kind), &lb.attributes) })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyAttributesInput {
    load_balancer_arn: String,
    attributes: Vec<Attribute>,
}

fn modify_attributes(
    draft: &mut Draft,
    _: &Caller,
    input: ModifyAttributesInput,
) -> Result<AttributesAnswer, ApiError> {
    let mut lb = find(draft.state(), &input.load_balancer_arn)?.clone();
    attributes::set(table(lb.kind), &mut lb.attributes, input.attributes, "Load balancer")?;
    if lb.kind == LoadBalancerKind::Network {
        take_secondary(draft, &mut lb)?;
    }
    let attributes = attributes::describe(table(lb.kind), &lb.attributes);
    draft.put(lb);
    Ok(AttributesAnswer { attributes })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetSecurityGroupsInput {
    load_balancer_arn: String,
    security_groups: Vec<String>,
    enforce_security_group_inbound_rules_on_private_link_traffic: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SecurityGroupsAnswer {
    security_group_ids: Vec<SecurityGroupId>,
}

fn set_security_groups(
    draft: &mut Draft,
    _: &Caller,
    input: SetSecurityGroupsInput,
) -> Result<SecurityGroupsAnswer, ApiError> {
    let mut lb = find(draft.state(), &input.load_balancer_arn)?.clone();
    if input.enforce_security_group_inbound_rules_on_private_link_traffic.as_deref() == Some("off") {
        return Err(unsupported("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic with the value 'off'"));
    }
    if lb.kind == LoadBalancerKind::Network && lb.security_groups.is_empty() {
        return Err(ApiError::sender(
            "InvalidConfigurationRequest",
            "You cannot add security groups to a network load balancer that was created without any",
        ));
    }
    if input.security_groups.is_empty() {
        return Err(ApiError::validation("At least one security group must be specified"));
    }
    lb.security_groups = check_security_groups(draft.state(), lb.vpc_id.as_str(), &input.security_groups)?;
    let groups = lb.security_groups.clone();
    for id in lb.zones.iter().flat_map(LoadBalancerZone::interfaces) {
        draft.edit::<Interface>(id.as_str(), |interface| interface.groups.clone_from(&groups));
    }
    draft.put(lb);
    Ok(SecurityGroupsAnswer { security_group_ids: groups })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetSubnetsInput {
    load_balancer_arn: String,
    #[serde(default)]
    subnets: Vec<String>,
    #[serde(default)]
    subnet_mappings: Vec<SubnetMapping>,
    ip_address_type: Option<String>,
    enable_prefix_for_ipv6_source_nat: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SubnetsAnswer {
    availability_zones: Vec<ZoneForm>,
    ip_address_type: &'static str,
}

fn set_subnets(draft: &mut Draft, _: &Caller, input: SetSubnetsInput) -> Result<SubnetsAnswer, ApiError> {
    let mut lb = find(draft.state(), &input.load_balancer_arn)?.clone();
    check_source_nat(input.enable_prefix_for_ipv6_source_nat.as_deref())?;
    let addresses = ip_address_type(lb.kind, input.ip_address_type.as_deref())?.unwrap_or(lb.ip_address_type);
    let wanted =
        wanted_subnets(draft.state(), lb.kind, &lb.scheme, addresses, input.subnets, input.subnet_mappings)?;
    if wanted.vpc_id != lb.vpc_id {
        return Err(ApiError::sender(
            "InvalidSubnet",
            format!("The subnets of load balancer '{}' must belong to VPC '{}'", lb.name, lb.vpc_id),
        ));
    }
    change_family(draft.state(), &mut lb, addresses)?;
    move_to(draft, &mut lb, &wanted.places)?;
    let availability_zones = zone_forms(draft.state(), &lb);
    draft.put(lb);
    Ok(SubnetsAnswer { availability_zones, ip_address_type: addresses.word() })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetIpAddressTypeInput {
    load_balancer_arn: String,
    ip_address_type: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpAddressTypeAnswer {
    ip_address_type: &'static str,
}

fn set_ip_address_type(
    draft: &mut Draft,
    _: &Caller,
    input: SetIpAddressTypeInput,
) -> Result<IpAddressTypeAnswer, ApiError> {
    let mut lb = find(draft.state(), &input.load_balancer_arn)?.clone();
    let addresses = ip_address_type(lb.kind, Some(&input.ip_address_type))?.unwrap_or_default();
    set_addresses(draft, &mut lb, addresses)?;
    draft.put(lb);
    Ok(IpAddressTypeAnswer { ip_address_type: addresses.word() })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CapacityAnswer {
    capacity_reservation_state: Vec<Nothing>,
}

/// Nothing is ever reserved: capacity is the host's.
fn describe_capacity_reservation(
    draft: &mut Draft,
    _: &Caller,
    input: OneInput,
) -> Result<CapacityAnswer, ApiError> {
    find(draft.state(), &input.load_balancer_arn)?;
    Ok(CapacityAnswer { capacity_reservation_state: Vec::new() })
}

/// AWS's quota of load balancers of one type per region.
const LOAD_BALANCERS_MAX: usize = 50;
/// AWS's largest page.
pub const PAGE_MAX: u32 = 400;
/// There is no hosted zone behind these names; clients that ask for one get a word that says whose it is.
const HOSTED_ZONE: &str = "ZGATEHOUSE";

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use serde_json::{Value, json};

    fn create(world: &mut World, kind: &str, name: &str) -> Value {
        let input =
            json!({"Name": name, "Type": kind, "Scheme": "internal", "Subnets": ["subnet-a", "subnet-b"]});
        world.ok("elbv2", "CreateLoadBalancer", input)["LoadBalancers"][0].clone()
    }

    #[test]
    fn a_load_balancer_takes_one_interface_per_subnet_and_gives_them_back() {
        let mut world = World::new();
        let before = world.state.interfaces.len();
        let lb = create(&mut world, "application", "web");
        assert_eq!(world.state.interfaces.len(), before + 2);
        assert_eq!(lb["AvailabilityZones"][1]["ZoneName"], "eu-central-1b");
        assert_eq!(lb["State"]["Code"], "active");
        assert_eq!(lb["SecurityGroups"], json!(["sg-1"]), "the VPC's default group");
        assert!(lb["DNSName"].as_str().unwrap().starts_with("internal-web-"));
        let arn = lb["LoadBalancerArn"].as_str().unwrap().to_owned();
        assert!(
            arn.starts_with("arn:aws:elasticloadbalancing:eu-central-1:000000000000:loadbalancer/app/web/")
        );
        let described =
            world.state.interfaces.values().filter(|eni| eni.description.starts_with("ELB app/web/"));
        assert_eq!(described.count(), 2);
        world.ok("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": arn}));
        assert_eq!(world.state.interfaces.len(), before);
        assert!(world.state.load_balancers.is_empty());
        world.ok("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": arn}));
    }

    #[test]
    fn a_static_address_is_given_once() {
        let mut world = World::new();
        let input = |name: &str, address: &str| {
            json!({"Name": name, "Type": "network", "Scheme": "internal",
                "SubnetMappings": [{"SubnetId": "subnet-a", "PrivateIPv4Address": address}]})
        };
        let answer = world.ok("elbv2", "CreateLoadBalancer", input("one", "10.0.1.50"));
        let address = &answer["LoadBalancers"][0]["AvailabilityZones"][0]["LoadBalancerAddresses"][0];
        assert_eq!(address["PrivateIPv4Address"], "10.0.1.50");
        for (name, address) in [("two", "10.0.1.50"), ("two", "10.0.1.1"), ("two", "10.0.9.9")] {
            let (code, message) = world.refuse("elbv2", "CreateLoadBalancer", input(name, address));
            assert_eq!(code, "InvalidConfigurationRequest", "{message}");
            assert!(message.contains(address), "{message}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_in_aws_s_codes() {
        let mut world = World::new();
        create(&mut world, "application", "web");
        let rows = world.state.interfaces.len();
        let both = json!(["subnet-a", "subnet-b"]);
        let cases = [
            (json!({"Name": "web", "Subnets": both}), "DuplicateLoadBalancerName"),
            (json!({"Name": "a_b", "Subnets": both}), "Validation"),
            (json!({"Name": "internal-x", "Subnets": both}), "Validation"),
            (json!({"Name": "x".repeat(33), "Subnets": both}), "Validation"),
            (json!({"Name": "x"}), "Validation"),
            (json!({"Name": "x", "Subnets": ["subnet-a"]}), "Validation"),
            (json!({"Name": "x", "Subnets": ["subnet-a", "subnet-a"]}), "InvalidConfigurationRequest"),
            (json!({"Name": "x", "Subnets": ["subnet-a", "subnet-9"]}), "SubnetNotFound"),
            (json!({"Name": "x", "Subnets": both, "SecurityGroups": ["sg-9"]}), "InvalidSecurityGroup"),
            (json!({"Name": "x", "Subnets": both, "Scheme": "public"}), "InvalidScheme"),
            (json!({"Name": "x", "Subnets": both, "Type": "gateway"}), "InvalidConfigurationRequest"),
            (
                json!({"Name": "x", "Subnets": both, "IpAddressType": "dualstack"}),
                "InvalidConfigurationRequest",
            ),
            (json!({"Name": "x", "Subnets": both, "Tags": [{"Key": "a"}, {"Key": "a"}]}), "DuplicateTagKeys"),
            (
                json!({"Name": "x", "Type": "network", "SubnetMappings": [{"SubnetId": "subnet-a", "AllocationId": "e"}]}),
                "AllocationIdNotFound",
            ),
        ];
        for (input, expected) in cases {
            let (code, message) = world.refuse("elbv2", "CreateLoadBalancer", input.clone());
            assert_eq!(code, expected, "{input}: {message}");
        }
        assert_eq!(world.state.interfaces.len(), rows);
        let (code, _) = world.refuse("elbv2", "DescribeLoadBalancers", json!({"Names": ["none"]}));
        assert_eq!(code, "LoadBalancerNotFound");
    }

    #[test]
    fn creating_the_same_load_balancer_twice_answers_the_first() {
        let mut world = World::new();
        let first = create(&mut world, "application", "web");
        assert_eq!(create(&mut world, "application", "web"), first);
        assert_eq!(world.state.load_balancers.len(), 1);
    }

    #[test]
    fn deletion_protection_holds_until_it_is_taken_off() {
        let mut world = World::new();
        let arn = create(&mut world, "network", "nlb")["LoadBalancerArn"].clone();
        let set = |value: &str| json!({"LoadBalancerArn": arn, "Attributes": [{"Key": "deletion_protection.enabled", "Value": value}]});
        world.ok("elbv2", "ModifyLoadBalancerAttributes", set("true"));
        let (code, _) = world.refuse("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": arn}));
        assert_eq!(code, "OperationNotPermitted");
        world.ok("elbv2", "ModifyLoadBalancerAttributes", set("false"));
        world.ok("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": arn}));
    }

    #[test]
    fn subnets_that_stay_keep_their_addresses() {
        let mut world = World::new();
        let lb = create(&mut world, "network", "nlb");
        let before = world.only::<LoadBalancer>().zones.clone();
        let input = json!({"LoadBalancerArn": lb["LoadBalancerArn"], "Subnets": ["subnet-b"]});
        world.ok("elbv2", "SetSubnets", input);
        let after = &world.only::<LoadBalancer>().zones;
        assert_eq!(after.as_slice(), &before[1..]);
        assert!(!world.state.interfaces.contains_key(before[0].interface_id.as_str()));
    }
}
