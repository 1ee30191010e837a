//! elbv2: QuicServerId, by which QUIC's connection ids name a target, so that a client that moves keeps it.
//!
//! Required of the targets of QUIC and TCP_QUIC groups, unlawful elsewhere, and unique wherever a connection id could
//! mean either of two: in a group, and among the groups that one listener forwards to.

use std::collections::BTreeMap;

use super::ApiError;
use crate::model::{
    id::Arn,
    load_balancer::{Action, Listener},
    state::State,
    target_group::{Target, TargetGroup, TargetKey},
};

/// Reads the id that a target is registered with.
///
/// # Errors
/// A validation error for one that is missing, unlawful or too long; `InvalidTarget` for one that another target has, or
/// that is not the one this target is registered with.
pub(super) fn server_id(
    state: &State,
    group: &TargetGroup,
    key: &TargetKey,
    given: Option<&str>,
) -> Result<Option<u64>, ApiError> {
    let protocol = &group.protocol;
    let text = match (given, is_quic(protocol)) {
        (None, false) => return Ok(None),
        (Some(_), false) => {
            return Err(ApiError::validation(format!(
                "QuicServerId can be specified only for targets of QUIC and TCP_QUIC target groups, not '{protocol}'"
            )));
        }
        (None, true) => {
            return Err(ApiError::validation(format!(
                "QuicServerId must be specified for targets of target groups with the protocol '{protocol}'"
            )));
        }
        (Some(text), true) => text,
    };
    let id = parse(text)?;
    check_length(id, server_id_length(group))?;
    for arn in beside(state, &group.arn) {
        for other in targets_of(state, arn).filter(|other| other.server_id == Some(id)) {
            if arn != &group.arn || other.key != *key {
                return Err(ApiError::sender(
                    "InvalidTarget",
                    format!("The QuicServerId '{text}' is in use by target '{}' of '{arn}'", other.key),
                ));
            }
        }
    }
    let held = targets_of(state, &group.arn).find(|target| target.key == *key && target.draining.is_none());
    match held.and_then(|target| target.server_id) {
        Some(old) if old != id => Err(ApiError::sender(
            "InvalidTarget",
            format!(
                "The QuicServerId of target '{key}' is '{}' and cannot be changed while it is registered",
                spell(old)
            ),
        )),
        _ => Ok(Some(id)),
    }
}

/// Whether connection ids name the targets of a group, or of a listener, of this protocol.
pub(super) fn is_quic(protocol: &str) -> bool {
    matches!(protocol, "QUIC" | "TCP_QUIC")
}

/// An id as the wire has it.
pub(super) fn spell(id: u64) -> String {
    format!("0x{id:016x}")
}

fn parse(text: &str) -> Result<u64, ApiError> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("0x")
        .filter(|digits| digits.len() == DIGITS && digits.bytes().all(is_digit))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| {
            ApiError::validation(format!(
                "QuicServerId '{text}' must be '0x' and {DIGITS} hexadecimal digits, letters in lower case"
            ))
        })
}

/// Bytes of the ids in connection ids of a group (`gatehouse.quic.server_id_length`).
fn server_id_length(group: &TargetGroup) -> u32 {
    group.attributes.get(LENGTH_KEY).and_then(|bytes| bytes.parse().ok()).unwrap_or(LENGTH)
}

/// Checks that an id can be said in so many bytes.
fn check_length(id: u64, bytes: u32) -> Result<(), ApiError> {
    if bytes < LENGTH && id >> (8 * bytes) != 0 {
        return Err(ApiError::validation(format!(
            "QuicServerId '{}' does not fit in the {bytes} bytes of the attribute '{LENGTH_KEY}'",
            spell(id)
        )));
    }
    Ok(())
}

/// Checks that the targets of a group can be named in connection ids as its attributes say now.
///
/// # Errors
/// A validation error naming the id that cannot.
pub(super) fn check_group(state: &State, group: &TargetGroup) -> Result<(), ApiError> {
    let mut ids = targets_of(state, &group.arn).filter_map(|target| target.server_id);
    ids.try_for_each(|id| check_length(id, server_id_length(group)))
}

/// Checks that no two targets that actions forward to have the same id, and that their groups agree on its length.
///
/// # Errors
/// `InvalidConfigurationRequest`, naming the id.
pub(super) fn check_actions(state: &State, actions: &[Action]) -> Result<(), ApiError> {
    let mut seen: BTreeMap<u64, &Target> = BTreeMap::new();
    let mut lengths = BTreeMap::new();
    for arn in actions.iter().flat_map(Action::groups) {
        if let Some(group) = state.target_groups.get(arn.as_str()) {
            lengths.insert(server_id_length(group), arn);
        }
        for target in targets_of(state, arn) {
            let Some(id) = target.server_id else { continue };
            if let Some(other) = seen.insert(id, target) {
                return Err(ApiError::sender(
                    "InvalidConfigurationRequest",
                    format!(
                        "The QuicServerId '{}' is in use by target '{}' of '{}' and target '{}' of '{arn}'",
                        spell(id),
                        other.key,
                        other.target_group_arn,
                        target.key
                    ),
                ));
            }
        }
    }
    if lengths.len() > 1 {
        return Err(ApiError::sender(
            "InvalidConfigurationRequest",
            format!("The target groups of one listener must agree on the attribute '{LENGTH_KEY}'"),
        ));
    }
    Ok(())
}

/// The group, and every group that a listener forwards to beside it.
fn beside<'a>(state: &'a State, group: &'a Arn) -> Vec<&'a Arn> {
    let mut groups = vec![group];
    for listener in state.listeners.values() {
        let listener: &Listener = listener;
        let named: Vec<_> = listener.default_actions.iter().flat_map(Action::groups).collect();
        if named.contains(&group) {
            groups.extend(named.into_iter().filter(|other| *other != group));
        }
    }
    groups
}

fn targets_of<'a>(state: &'a State, group: &Arn) -> impl Iterator<Item = &'a Target> + use<'a> {
    let prefix = format!("{group}|");
    let rows = state.targets.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix));
    rows.map(|(_, target)| &**target)
}

/// AWS's form: 8 bytes.
const DIGITS: usize = 16;
/// AWS's, in bytes.
const LENGTH: u32 = 8;
/// Ours: servers may have shorter ids in longer connection ids.
pub(super) const LENGTH_KEY: &str = "gatehouse.quic.server_id_length";

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use serde_json::{Value, json};

    const ONE: &str = "0x00000000000000a1";
    const TWO: &str = "0x00000000000000a2";

    fn group(world: &mut World, name: &str) -> Value {
        let input =
            json!({"Name": name, "Protocol": "QUIC", "Port": 443, "VpcId": "vpc-1", "TargetType": "ip"});
        world.ok("elbv2", "CreateTargetGroup", input)["TargetGroups"][0]["TargetGroupArn"].clone()
    }

    fn target(group: &Value, address: &str, id: Option<&str>) -> Value {
        let mut target = json!({"Id": address});
        if let Some(id) = id {
            target["QuicServerId"] = json!(id);
        }
        json!({"TargetGroupArn": group, "Targets": [target]})
    }

    fn listen(world: &mut World, groups: &[&Value]) -> Result<Value, ApiError> {
        let arn = match world.state.load_balancers.keys().next() {
            Some(arn) => arn.clone(),
            None => {
                let lb = json!({"Name": "nlb", "Type": "network", "Subnets": ["subnet-a"]});
                let lb = world.ok("elbv2", "CreateLoadBalancer", lb);
                lb["LoadBalancers"][0]["LoadBalancerArn"].as_str().unwrap().to_owned()
            }
        };
        let groups: Vec<_> = groups.iter().map(|group| json!({"TargetGroupArn": group})).collect();
        let input = json!({"LoadBalancerArn": arn, "Protocol": "QUIC", "Port": 443,
            "DefaultActions": [{"Type": "forward", "ForwardConfig": {"TargetGroups": groups}}]});
        world.call("elbv2", "CreateListener", input)
    }

    #[test]
    fn a_server_id_stands_with_its_target() {
        let mut world = World::new();
        let group = group(&mut world, "one");
        world.ok("elbv2", "RegisterTargets", target(&group, "10.0.1.9", Some(ONE)));
        world.ok("elbv2", "RegisterTargets", target(&group, "10.0.1.9", Some(ONE)));
        assert_eq!(world.only::<Target>().server_id, Some(0xa1));
        let health = world.ok("elbv2", "DescribeTargetHealth", json!({"TargetGroupArn": group}));
        assert_eq!(health["TargetHealthDescriptions"][0]["Target"]["QuicServerId"], ONE);
        let (code, message) = world.refuse("elbv2", "RegisterTargets", target(&group, "10.0.1.9", Some(TWO)));
        assert_eq!(code, "InvalidTarget");
        assert!(message.contains(ONE), "{message}");
        world.ok("elbv2", "DeregisterTargets", target(&group, "10.0.1.9", None));
        world.ok("elbv2", "RegisterTargets", target(&group, "10.0.1.9", Some(TWO)));
        assert_eq!(world.only::<Target>().server_id, Some(0xa2));
    }

    #[test]
    fn unlawful_ids_are_refused_by_name() {
        let mut world = World::new();
        let group = group(&mut world, "one");
        for bad in [None, Some("a1"), Some("0xa1"), Some("0x00000000000000A1"), Some("0x00000000000000g1")] {
            let (code, message) = world.refuse("elbv2", "RegisterTargets", target(&group, "10.0.1.9", bad));
            assert_eq!(code, "Validation", "{message}");
            assert!(message.contains("QuicServerId"), "{message}");
        }
        let tcp = json!({"Name": "tcp", "Protocol": "TCP", "Port": 1, "VpcId": "vpc-1", "TargetType": "ip"});
        let tcp = world.ok("elbv2", "CreateTargetGroup", tcp)["TargetGroups"][0]["TargetGroupArn"].clone();
        let (_, message) = world.refuse("elbv2", "RegisterTargets", target(&tcp, "10.0.1.9", Some(ONE)));
        assert!(message.contains("QuicServerId"), "{message}");
        assert!(world.state.targets.is_empty());
    }

    #[test]
    fn no_two_targets_of_a_listener_have_one_id() {
        let mut world = World::new();
        let (one, two) = (group(&mut world, "one"), group(&mut world, "two"));
        world.ok("elbv2", "RegisterTargets", target(&one, "10.0.1.9", Some(ONE)));
        let (code, message) = world.refuse("elbv2", "RegisterTargets", target(&one, "10.0.1.8", Some(ONE)));
        assert_eq!(code, "InvalidTarget");
        assert!(message.contains("10.0.1.9"), "{message}");
        // Another group may use it, as long as no listener forwards to both.
        world.ok("elbv2", "RegisterTargets", target(&two, "10.0.1.8", Some(ONE)));
        let refused = listen(&mut world, &[&one, &two]).unwrap_err();
        assert!(refused.message.contains(ONE), "{}", refused.message);
        world.ok("elbv2", "DeregisterTargets", target(&two, "10.0.1.8", None));
        listen(&mut world, &[&one, &two]).unwrap();
        let (code, _) = world.refuse("elbv2", "RegisterTargets", target(&two, "10.0.1.8", Some(ONE)));
        assert_eq!(code, "InvalidTarget");
    }

    #[test]
    fn shorter_ids_must_fit() {
        let mut world = World::new();
        let group = group(&mut world, "one");
        let length = |bytes: &str| json!({"TargetGroupArn": group, "Attributes": [{"Key": LENGTH_KEY, "Value": bytes}]});
        world.ok("elbv2", "ModifyTargetGroupAttributes", length("2"));
        let long = target(&group, "10.0.1.9", Some("0x0000000000010000"));
        let (_, message) = world.refuse("elbv2", "RegisterTargets", long.clone());
        assert!(message.contains("2 bytes"), "{message}");
        world.ok("elbv2", "ModifyTargetGroupAttributes", length("3"));
        world.ok("elbv2", "RegisterTargets", long);
        let (_, message) = world.refuse("elbv2", "ModifyTargetGroupAttributes", length("2"));
        assert!(message.contains("0x0000000000010000"), "{message}");
    }
}
