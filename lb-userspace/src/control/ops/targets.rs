//! elbv2: the targets of a group: registered, checked by the node, drained and gone.
//!
//! After: `snapshot` tells the node of VPC's data plane; its verdicts come back through `apply_health`, and
//! `apply_drained` or `expire_draining` ends a deregistration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry,
    actions::load_balancers_of,
    attributes,
    elbv2::Nothing,
    interfaces, operation, server_ids,
    target_groups::{attribute_table, find},
};
use crate::model::{
    Resource,
    id::{Arn, TimestampMs},
    load_balancer::{Listener, LoadBalancer, LoadBalancerKind},
    network::{Instance, Vpc},
    state::{Draft, State},
    target_group::{
        Draining, Target, TargetAddressType, TargetGroup, TargetHealth, TargetHealthState, TargetKey,
        TargetType,
    },
};

/// The operations on targets.
pub const OPERATIONS: &[Entry] = &[
    operation!("RegisterTargets", register),
    operation!("DeregisterTargets", deregister),
    operation!("DescribeTargetHealth", describe_health),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TargetsInput {
    target_group_arn: String,
    targets: Vec<TargetInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TargetInput {
    id: String,
    port: Option<i64>,
    availability_zone: Option<String>,
    quic_server_id: Option<String>,
}

fn register(draft: &mut Draft, _: &Caller, input: TargetsInput) -> Result<Nothing, ApiError> {
    let group = find(draft.state(), &input.target_group_arn)?.clone();
    if input.targets.is_empty() {
        return Err(ApiError::validation("At least one target must be specified"));
    }
    for given in input.targets {
        let port = match given.port {
            Some(port) => check_port(port)?,
            None => group.port,
        };
        let key = TargetKey { id: canonical(&given.id), port };
        let place = locate(draft.state(), &group, &key, given.availability_zone.as_deref())?;
        let server_id = server_ids::server_id(draft.state(), &group, &key, given.quic_server_id.as_deref())?;
        register_one(draft, &group, key, place, server_id)?;
    }
    Ok(Nothing {})
}

/// The one spelling of an IPv6 address; anything else as it is.
fn canonical(id: &str) -> String {
    id.parse::<Ipv6Addr>().map_or_else(|_| id.to_owned(), |address| address.to_string())
}

/// Where a target is.
struct Place {
    address: IpAddr,
    zone: Option<String>,
}

/// Registers one target: a new one, or one that is draining, starts a new registration; one that is registered stays.
fn register_one(
    draft: &mut Draft,
    group: &TargetGroup,
    key: TargetKey,
    place: Place,
    server_id: Option<u64>,
) -> Result<(), ApiError> {
    let mut target = Target {
        target_group_arn: group.arn.clone(),
        key,
        address: place.address,
        zone: place.zone,
        server_id,
        registered_at: draft.now(),
        draining: None,
        health: TargetHealth::registering(),
    };
    match draft.one::<Target>(&target.key()) {
        Some(existing) if existing.draining.is_none() => return Ok(()),
        // Two registrations of one name must differ, or a verdict on the first would count for the second.
        Some(existing) => target.registered_at = target.registered_at.max(existing.registered_at + 1),
        None => {
            let count = draft.state().with_prefix::<Target>(&format!("{}|", group.arn)).count();
            if count >= TARGETS_MAX {
                return Err(ApiError::limit(
                    "TooManyTargets",
                    format!("The limit of {TARGETS_MAX} targets of target group '{}' is reached", group.arn),
                ));
            }
        }
    }
    draft.put(target);
    Ok(())
}

fn check_port(port: i64) -> Result<u16, ApiError> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| ApiError::validation(format!("Target port '{port}' must be between '1' and '65535'")))
}

fn locate(
    state: &State,
    group: &TargetGroup,
    key: &TargetKey,
    zone: Option<&str>,
) -> Result<Place, ApiError> {
    let id = key.id.as_str();
    if zone.is_some() && group.target_type != TargetType::Ip {
        return Err(ApiError::validation(format!(
            "AvailabilityZone can be specified only for targets by IP address, not for '{id}'"
        )));
    }
    match group.target_type {
        TargetType::Instance => locate_instance(state, group, id),
        TargetType::Ip => locate_address(state, group, id, zone),
        TargetType::Alb => locate_application(state, group, key),
    }
}

fn invalid<T>(message: String) -> Result<T, ApiError> {
    Err(ApiError::sender("InvalidTarget", message))
}

fn locate_instance(state: &State, group: &TargetGroup, id: &str) -> Result<Place, ApiError> {
    let Some(instance) = state.instances.get(id).map(|instance: &std::sync::Arc<Instance>| &**instance)
    else {
        return invalid(format!("The following targets are not valid instances: '{id}'"));
    };
    if !instance.state.is_alive() {
        return invalid(format!(
            "The following targets are not in a running state and cannot be registered: '{id}'"
        ));
    }
    if instance.vpc_id != group.vpc_id {
        return invalid(format!(
            "The following targets are not in the target group VPC '{}': '{id}'",
            group.vpc_id
        ));
    }
    let subnet = state.subnets.get(instance.subnet_id.as_str());
    let Some(address) = state.instance_address(instance, group.ip_address_type) else {
        return invalid(format!("The following targets have no primary IPv6 address: '{id}'"));
    };
    Ok(Place { address, zone: subnet.map(|subnet| subnet.zone.clone()) })
}

fn locate_address(
    state: &State,
    group: &TargetGroup,
    id: &str,
    zone: Option<&str>,
) -> Result<Place, ApiError> {
    let family = group.ip_address_type;
    let address = id
        .parse::<IpAddr>()
        .ok()
        .filter(|address| address.is_ipv6() == (family == TargetAddressType::Ipv6))
        .ok_or_else(|| {
            let name = if family == TargetAddressType::Ipv6 { "IPv6" } else { "IPv4" };
            ApiError::validation(format!("The IP address '{id}' is not a valid {name} address"))
        })?;
    let vpc: Option<&Vpc> = state.vpcs.get(group.vpc_id.as_str()).map(AsRef::as_ref);
    let is_inside = |vpc: &Vpc| match address {
        IpAddr::V4(address) => vpc.cidr.contains(&address),
        IpAddr::V6(address) => vpc.ipv6.as_ref().is_some_and(|block| block.cidr.contains(&address)),
    };
    if vpc.is_some_and(is_inside) {
        let subnet = interfaces::subnet_of(state, group.vpc_id.as_str(), address);
        return match (subnet, zone) {
            (Some(subnet), Some(zone)) if zone != "all" && zone != subnet.zone => invalid(format!(
                "The Availability Zone '{zone}' is not the one of the target '{id}', '{}'",
                subnet.zone
            )),
            (subnet, _) => Ok(Place { address, zone: subnet.map(|subnet| subnet.zone.clone()) }),
        };
    }
    if !PRIVATE_RANGES.iter().any(|range| range.contains(&address)) {
        return invalid(format!("The IP address '{id}' is not within a valid private IP range"));
    }
    match zone {
        Some("all") => Ok(Place { address, zone: None }),
        _ => Err(ApiError::validation(format!(
            "You must specify the Availability Zone value 'all' for the IP address '{id}', which is outside the VPC"
        ))),
    }
}

fn locate_application(state: &State, group: &TargetGroup, key: &TargetKey) -> Result<Place, ApiError> {
    let (id, port) = (key.id.as_str(), key.port);
    let lb: Option<&LoadBalancer> = state.load_balancers.get(id).map(AsRef::as_ref);
    let Some(lb) = lb.filter(|lb| lb.kind == LoadBalancerKind::Application) else {
        return invalid(format!("The following targets are not valid application load balancers: '{id}'"));
    };
    if lb.vpc_id != group.vpc_id {
        return invalid(format!(
            "The following targets are not in the target group VPC '{}': '{id}'",
            group.vpc_id
        ));
    }
    if port != group.port {
        return invalid(format!(
            "Target port '{port}' must be the port of the target group, '{}'",
            group.port
        ));
    }
    let listens = |listener: &Listener| listener.load_balancer_arn == lb.arn && listener.port == port;
    if !state.listeners.values().any(|listener| listens(listener)) {
        return invalid(format!(
            "The application load balancer '{id}' has no listener on target port '{port}'"
        ));
    }
    let prefix = format!("{}|", group.arn);
    if state.with_prefix::<Target>(&prefix).any(|other| other.key != *key && other.draining.is_none()) {
        return Err(ApiError::limit(
            "TooManyTargets",
            format!("A target group with target type 'alb' has one target: '{}' has one already", group.arn),
        ));
    }
    let zone = lb.zones.first().ok_or_else(ApiError::internal)?;
    Ok(Place { address: zone.address.into(), zone: None })
}

/// The registration that needs an application load balancer, or its listener on `port`, to stay.
pub fn application_registration<'a>(state: &'a State, lb: &Arn, port: Option<u16>) -> Option<&'a Target> {
    let is_it = |target: &Target| {
        target.key.id == lb.as_str()
            && port.is_none_or(|port| target.key.port == port)
            && target.draining.is_none()
    };
    state.targets.values().map(AsRef::as_ref).find(|target| is_it(target))
}

/// As AWS, succeeds for targets that are not registered; without a port, all ports of the target are deregistered.
fn deregister(draft: &mut Draft, _: &Caller, input: TargetsInput) -> Result<Nothing, ApiError> {
    let group = find(draft.state(), &input.target_group_arn)?.clone();
    if input.targets.is_empty() {
        return Err(ApiError::validation("At least one target must be specified"));
    }
    for given in input.targets {
        let port = given.port.map(check_port).transpose()?;
        let keys: Vec<String> = draft
            .state()
            .with_prefix::<Target>(&format!("{}|{}|", group.arn, canonical(&given.id)))
            .filter(|target| port.is_none_or(|port| target.key.port == port))
            .map(|target| target.key())
            .collect();
        for key in keys {
            deregister_one(draft, &group, &key);
        }
    }
    Ok(Nothing {})
}

/// Starts draining a target; one that nothing can be in flight to is removed at once.
fn deregister_one(draft: &mut Draft, group: &TargetGroup, key: &str) {
    let delay =
        attributes::value(attribute_table(group), &group.attributes, "deregistration_delay.timeout_seconds");
    let delay_ms = delay.parse::<u64>().unwrap_or(0) * 1_000;
    let is_unused = load_balancers_of(draft.state(), group.arn.as_str()).is_empty();
    if delay_ms == 0 || is_unused {
        draft.remove::<Target>(key);
        return;
    }
    let now = draft.now();
    if draft.one::<Target>(key).is_some_and(|target| target.draining.is_none()) {
        draft.edit::<Target>(key, |target| {
            target.draining = Some(Draining { since: now, until: now + delay_ms });
        });
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    target_group_arn: String,
    #[serde(default)]
    targets: Vec<TargetInput>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeAnswer {
    target_health_descriptions: Vec<Description>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    target: TargetForm,
    health_check_port: String,
    target_health: HealthForm,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TargetForm {
    id: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    availability_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quic_server_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthForm {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

fn describe_health(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<DescribeAnswer, ApiError> {
    let state = draft.state();
    let group = find(state, &input.target_group_arn)?;
    let is_used = !load_balancers_of(state, group.arn.as_str()).is_empty();
    let prefix = format!("{}|", group.arn);
    let all = || state.with_prefix::<Target>(&prefix);
    let describe = |target: &Target| Description {
        target: TargetForm {
            id: target.key.id.clone(),
            port: target.key.port,
            availability_zone: target.zone.clone(),
            quic_server_id: target.server_id.map(server_ids::spell),
        },
        health_check_port: check_port_of(group, target.key.port),
        target_health: health_form(target, is_used),
    };
    if input.targets.is_empty() {
        let target_health_descriptions = all().map(|target| describe(target)).collect();
        return Ok(DescribeAnswer { target_health_descriptions });
    }
    let mut target_health_descriptions = Vec::new();
    for given in input.targets {
        let port = given.port.map(check_port).transpose()?.unwrap_or(group.port);
        let id = canonical(&given.id);
        match all().find(|target| target.key.id == id && target.key.port == port) {
            Some(target) => target_health_descriptions.push(describe(target)),
            None => target_health_descriptions.push(Description {
                health_check_port: check_port_of(group, port),
                target: TargetForm { id: given.id, port, availability_zone: None, quic_server_id: None },
                target_health: HealthForm {
                    state: TargetHealthState::Unused.as_str(),
                    reason: Some("Target.NotRegistered".to_owned()),
                    description: Some("Target is not registered to the target group".to_owned()),
                },
            }),
        }
    }
    Ok(DescribeAnswer { target_health_descriptions })
}

fn check_port_of(group: &TargetGroup, port: u16) -> String {
    match group.health_check.port.as_str() {
        "traffic-port" => port.to_string(),
        other => other.to_owned(),
    }
}

fn health_form(target: &Target, is_used: bool) -> HealthForm {
    let (state, reason, description) = if target.draining.is_some() {
        (
            TargetHealthState::Draining,
            Some("Target.DeregistrationInProgress".to_owned()),
            Some("Target deregistration is in progress".to_owned()),
        )
    } else if is_used {
        (target.health.state, target.health.reason.clone(), target.health.description.clone())
    } else {
        (
            TargetHealthState::Unused,
            Some("Target.NotInUse".to_owned()),
            Some("Target group is not configured to receive traffic from the load balancer".to_owned()),
        )
    };
    HealthForm { state: state.as_str(), reason, description }
}

/// Takes over a node's verdict, if it is about the registration that stands; answers whether anything changed.
pub fn apply_health(
    draft: &mut Draft,
    target_group: &Arn,
    target: &TargetKey,
    registered_at: TimestampMs,
    health: TargetHealth,
) -> bool {
    let key = key_of(target_group, target);
    let is_news = draft.one::<Target>(&key).is_some_and(|known| {
        known.registered_at == registered_at && known.draining.is_none() && known.health != health
    });
    is_news && draft.edit::<Target>(&key, |known| known.health = health)
}

/// Removes a draining target that has nothing in flight any more; answers whether there was one.
pub fn apply_drained(draft: &mut Draft, target_group: &Arn, target: &TargetKey) -> bool {
    let key = key_of(target_group, target);
    let is_draining = draft.one::<Target>(&key).is_some_and(|target| target.draining.is_some());
    is_draining && draft.remove::<Target>(&key)
}

/// Removes targets whose deregistration delay is over; answers when the next one ends.
pub fn expire_draining(draft: &mut Draft) -> Option<TimestampMs> {
    let now = draft.now();
    let mut over = Vec::new();
    let mut next = None;
    for target in draft.all::<Target>() {
        let Some(draining) = target.draining else { continue };
        if draining.until <= now {
            over.push(target.key());
        } else {
            next = Some(next.map_or(draining.until, |next: TimestampMs| next.min(draining.until)));
        }
    }
    for key in over {
        draft.remove::<Target>(&key);
    }
    next
}

fn key_of(target_group: &Arn, target: &TargetKey) -> String {
    format!("{target_group}|{}|{:05}", target.id, target.port)
}

/// AWS's quota of targets per target group.
const TARGETS_MAX: usize = 1_000;
/// Where AWS lets targets outside the VPC be: RFC 1918 and RFC 6598; and what IPv6 has of unicast.
const PRIVATE_RANGES: &[IpNet] = &[
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)),
];

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use serde_json::{Value, json};

    /// A target group that a listener forwards to.
    fn group(world: &mut World, kind: &str) -> Value {
        let lb = json!({"Name": "nlb", "Type": "network", "Scheme": "internal", "Subnets": ["subnet-a"]});
        let lb = world.ok("elbv2", "CreateLoadBalancer", lb)["LoadBalancers"][0]["LoadBalancerArn"].clone();
        let group =
            json!({"Name": "tasks", "Protocol": "TCP", "Port": 8080, "VpcId": "vpc-1", "TargetType": kind});
        let group =
            world.ok("elbv2", "CreateTargetGroup", group)["TargetGroups"][0]["TargetGroupArn"].clone();
        let input = json!({"LoadBalancerArn": lb, "Protocol": "TCP", "Port": 80,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}]});
        world.ok("elbv2", "CreateListener", input);
        group
    }

    fn states(world: &mut World, group: &Value) -> Vec<(String, String)> {
        let answer = world.ok("elbv2", "DescribeTargetHealth", json!({"TargetGroupArn": group}));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        answer["TargetHealthDescriptions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (text(&one["TargetHealth"]["State"]), text(&one["TargetHealth"]["Reason"])))
            .collect()
    }

    fn healthy() -> TargetHealth {
        TargetHealth { state: TargetHealthState::Healthy, reason: None, description: None }
    }

    #[test]
    fn a_target_lives_from_initial_to_healthy_to_draining_to_gone() {
        let mut world = World::new();
        let group = group(&mut world, "instance");
        let one = json!({"TargetGroupArn": group, "Targets": [{"Id": "i-1"}]});
        world.ok("elbv2", "RegisterTargets", one.clone());
        assert_eq!(world.only::<Target>().key.port, 8080, "the group's port");
        assert_eq!(world.only::<Target>().address, IpAddr::from([10, 0, 1, 4]), "the instance's address");
        assert_eq!(states(&mut world, &group), [("initial".into(), "Elb.RegistrationInProgress".into())]);

        let target = world.only::<Target>().clone();
        let report = |draft: &mut Draft, registered_at| {
            Ok::<_, ()>(apply_health(draft, &target.target_group_arn, &target.key, registered_at, healthy()))
        };
        assert_eq!(world.change(|draft| report(draft, 7)), Ok(false), "a verdict on another registration");
        assert_eq!(world.change(|draft| report(draft, target.registered_at)), Ok(true));
        assert_eq!(world.change(|draft| report(draft, target.registered_at)), Ok(false), "no news");
        assert_eq!(states(&mut world, &group), [("healthy".into(), String::new())]);

        world.ok("elbv2", "DeregisterTargets", one);
        assert_eq!(
            states(&mut world, &group),
            [("draining".into(), "Target.DeregistrationInProgress".into())]
        );
        let until = world.now + 300_000;
        assert_eq!(world.change(|draft| Ok::<_, ()>(expire_draining(draft))), Ok(Some(until)));
        world.now = until;
        assert_eq!(world.change(|draft| Ok::<_, ()>(expire_draining(draft))), Ok(None));
        assert_eq!(states(&mut world, &group), []);
    }

    #[test]
    fn registering_a_draining_target_again_starts_a_new_registration() {
        let mut world = World::new();
        let group = group(&mut world, "instance");
        let one = json!({"TargetGroupArn": group, "Targets": [{"Id": "i-1", "Port": 9}]});
        world.ok("elbv2", "RegisterTargets", one.clone());
        let first = world.only::<Target>().clone();
        world.ok("elbv2", "DeregisterTargets", json!({"TargetGroupArn": group, "Targets": [{"Id": "i-1"}]}));
        world.ok("elbv2", "RegisterTargets", one);
        let second = world.only::<Target>().clone();
        assert!(second.registered_at > first.registered_at);
        assert_eq!(second.draining, None);
        let drained =
            world.change(|draft| Ok::<_, ()>(apply_drained(draft, &second.target_group_arn, &second.key)));
        assert_eq!(drained, Ok(false), "a late report of the first registration");
    }

    #[test]
    fn targets_of_a_group_that_nothing_forwards_to_are_unused_and_go_at_once() {
        let mut world = World::new();
        let input =
            json!({"Name": "idle", "Protocol": "HTTP", "Port": 80, "VpcId": "vpc-1", "TargetType": "ip"});
        let group =
            world.ok("elbv2", "CreateTargetGroup", input)["TargetGroups"][0]["TargetGroupArn"].clone();
        let targets = json!({"TargetGroupArn": group, "Targets": [{"Id": "10.0.2.9"}]});
        world.ok("elbv2", "RegisterTargets", targets.clone());
        assert_eq!(states(&mut world, &group), [("unused".into(), "Target.NotInUse".into())]);
        assert_eq!(world.only::<Target>().zone.as_deref(), Some("eu-central-1b"));
        world.ok("elbv2", "DeregisterTargets", targets);
        assert_eq!(states(&mut world, &group), []);
    }

    #[test]
    fn targets_that_cannot_be_are_refused_and_none_of_the_call_is_registered() {
        let mut world = World::new();
        let group = group(&mut world, "ip");
        let cases = [
            ("8.8.8.8", json!({"Id": "8.8.8.8"}), "InvalidTarget"),
            ("127.0.0.1", json!({"Id": "127.0.0.1"}), "InvalidTarget"),
            ("192.168.0.9", json!({"Id": "192.168.0.9"}), "Validation"),
            ("i-1", json!({"Id": "i-1"}), "Validation"),
            ("70000", json!({"Id": "10.0.1.9", "Port": 70_000}), "Validation"),
            ("0", json!({"Id": "10.0.1.9", "Port": 0}), "Validation"),
        ];
        for (word, bad, expected) in cases {
            let input = json!({"TargetGroupArn": group, "Targets": [{"Id": "10.0.1.7"}, bad]});
            let (code, message) = world.refuse("elbv2", "RegisterTargets", input);
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(word), "{message}");
            assert!(world.state.targets.is_empty());
        }
        let outside = json!({"Id": "192.168.0.9", "AvailabilityZone": "all"});
        world.ok("elbv2", "RegisterTargets", json!({"TargetGroupArn": group, "Targets": [outside]}));
        let unknown = json!({"TargetGroupArn": group, "Targets": [{"Id": "10.9.9.9"}]});
        world.ok("elbv2", "DeregisterTargets", unknown);
    }
}
