//! ec2: the rules of security groups: authorize, revoke, describe.
//!
//! A request may name several ranges and groups in one permission; each becomes a rule of its own, as at AWS.

use ipnet::{IpNet, Ipv6Net};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{ById, Selection, by_id, ec2_operation, is_named},
    vpcs::parse_cidr,
};
use crate::model::{
    id::{Arn, SecurityGroupId},
    network::{SecurityGroup, SecurityGroupPeer, SecurityGroupRule},
    state::Draft,
};

/// The operations on rules of security groups.
pub const OPERATIONS: &[Entry] = &[
    ec2_operation!("AuthorizeSecurityGroupIngress", authorize_ingress),
    ec2_operation!("AuthorizeSecurityGroupEgress", authorize_egress),
    ec2_operation!("RevokeSecurityGroupIngress", revoke_ingress),
    ec2_operation!("RevokeSecurityGroupEgress", revoke_egress),
    ec2_operation!("DescribeSecurityGroupRules", describe),
];

/// The protocol of a rule for all protocols.
pub(super) const ALL: &str = "-1";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeInput {
    group_id: Option<String>,
    #[serde(default)]
    ip_permissions: Vec<Permission>,
    // A permission may also stand in the request itself.
    ip_protocol: Option<String>,
    from_port: Option<i32>,
    to_port: Option<i32>,
    cidr_ip: Option<String>,
    #[serde(default)]
    security_group_rule_ids: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Permission {
    ip_protocol: Option<String>,
    from_port: Option<i32>,
    to_port: Option<i32>,
    #[serde(default)]
    ip_ranges: Vec<Range>,
    #[serde(default)]
    ipv6_ranges: Vec<Range6>,
    #[serde(default)]
    prefix_list_ids: Vec<Value>,
    #[serde(default)]
    user_id_group_pairs: Vec<Pair>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Range {
    cidr_ip: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Range6 {
    cidr_ipv6: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    group_id: Option<String>,
    group_name: Option<String>,
    description: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Ingress,
    Egress,
}

fn rules_of(group: &mut SecurityGroup, direction: Direction) -> &mut Vec<SecurityGroupRule> {
    match direction {
        Direction::Ingress => &mut group.ingress,
        Direction::Egress => &mut group.egress,
    }
}

fn authorize_ingress(draft: &mut Draft, caller: &Caller, input: ChangeInput) -> Result<Value, ApiError> {
    authorize(draft, caller, input, Direction::Ingress)
}

fn authorize_egress(draft: &mut Draft, caller: &Caller, input: ChangeInput) -> Result<Value, ApiError> {
    authorize(draft, caller, input, Direction::Egress)
}

fn revoke_ingress(draft: &mut Draft, caller: &Caller, input: ChangeInput) -> Result<Value, ApiError> {
    revoke(draft, caller, input, Direction::Ingress)
}

fn revoke_egress(draft: &mut Draft, caller: &Caller, input: ChangeInput) -> Result<Value, ApiError> {
    revoke(draft, caller, input, Direction::Egress)
}

fn authorize(
    draft: &mut Draft,
    caller: &Caller,
    input: ChangeInput,
    direction: Direction,
) -> Result<Value, ApiError> {
    let mut group = named_group(draft, &input)?;
    let mut added = Vec::new();
    for mut rule in expand(draft, &group, input)? {
        let held = rules_of(&mut group, direction);
        if held.iter().chain(&added).any(|other| is_same(other, &rule)) {
            return Err(ApiError::conflict(
                "InvalidPermission.Duplicate",
                format!("the specified rule \"{}\" already exists", spell(&rule)),
            ));
        }
        if held.len() + added.len() >= RULES_MAX {
            return Err(ApiError::limit(
                "RulesPerSecurityGroupLimitExceeded",
                format!("A security group has at most {RULES_MAX} rules in each direction."),
            ));
        }
        rule.id = format!("sgr-{}", draft.hex(17));
        added.push(rule);
    }
    if added.is_empty() {
        return Err(ApiError::missing("IpPermissions"));
    }
    let answer: Vec<_> = added.iter().map(|rule| wire(draft, caller, &group, direction, rule)).collect();
    rules_of(&mut group, direction).extend(added);
    draft.put(group);
    Ok(json!({"Return": true, "SecurityGroupRules": answer}))
}

fn revoke(
    draft: &mut Draft,
    _: &Caller,
    mut input: ChangeInput,
    direction: Direction,
) -> Result<Value, ApiError> {
    let mut group = named_group(draft, &input)?;
    let ids = std::mem::take(&mut input.security_group_rule_ids);
    let held = rules_of(&mut group, direction).clone();
    let mut removed = Vec::new();
    for id in ids {
        let rule = held.iter().find(|rule| rule.id == id).ok_or_else(|| {
            let message = format!("The security group rule ID '{id}' does not exist");
            ApiError::not_found("InvalidSecurityGroupRuleId.NotFound", message)
        })?;
        removed.push(rule.clone());
    }
    for wanted in expand(draft, &group, input)? {
        let rule = held.iter().find(|rule| is_same(rule, &wanted)).ok_or_else(|| {
            let message = "The specified rule does not exist in this security group.";
            ApiError::not_found("InvalidPermission.NotFound", message)
        })?;
        removed.push(rule.clone());
    }
    if removed.is_empty() {
        return Err(ApiError::missing("IpPermissions"));
    }
    rules_of(&mut group, direction).retain(|rule| removed.iter().all(|gone| gone.id != rule.id));
    let answer: Vec<_> = removed
        .iter()
        .map(|rule| {
            let PeerForms { cidr, cidr6, group: named } = peer_forms(&rule.peer);
            json!({
                "SecurityGroupRuleId": rule.id, "GroupId": group.id, "IsEgress": direction == Direction::Egress,
                "IpProtocol": rule.protocol, "FromPort": rule.from_port.unwrap_or(-1),
                "ToPort": rule.to_port.unwrap_or(-1), "CidrIpv4": cidr, "CidrIpv6": cidr6,
                "ReferencedGroupId": named, "Description": rule.description,
            })
        })
        .collect();
    draft.put(group);
    Ok(json!({"Return": true, "RevokedSecurityGroupRules": answer}))
}

fn named_group(draft: &Draft, input: &ChangeInput) -> Result<SecurityGroup, ApiError> {
    // By name alone would mean the default VPC's, and there is none.
    by_id(draft, input.group_id.as_deref().ok_or_else(|| ApiError::missing("GroupId"))?)
}

/// The rules that a request spells, each with one peer and without an id.
fn expand(
    draft: &Draft,
    group: &SecurityGroup,
    input: ChangeInput,
) -> Result<Vec<SecurityGroupRule>, ApiError> {
    let mut permissions = input.ip_permissions;
    if input.ip_protocol.is_some() || input.cidr_ip.is_some() {
        permissions.push(Permission {
            ip_protocol: input.ip_protocol,
            from_port: input.from_port,
            to_port: input.to_port,
            ip_ranges: vec![Range { cidr_ip: input.cidr_ip, description: None }],
            ipv6_ranges: Vec::new(),
            prefix_list_ids: Vec::new(),
            user_id_group_pairs: Vec::new(),
        });
    }
    let mut rules = Vec::new();
    for permission in permissions {
        if !permission.prefix_list_ids.is_empty() {
            return Err(ApiError::validation(
                "PrefixListIds are not supported here; use IpRanges and Ipv6Ranges",
            ));
        }
        let protocol = protocol_of(permission.ip_protocol.as_deref())?;
        let (from_port, to_port) = ports_of(&protocol, permission.from_port, permission.to_port)?;
        let mut add = |peer, description: Option<String>| -> Result<(), ApiError> {
            if description.as_ref().is_some_and(|text| text.chars().count() > 255) {
                return Err(ApiError::validation("A rule's description has at most 255 characters"));
            }
            let protocol = protocol.clone();
            rules.push(SecurityGroupRule {
                id: String::new(),
                protocol,
                from_port,
                to_port,
                peer,
                description,
            });
            Ok(())
        };
        let is_empty = permission.ip_ranges.is_empty()
            && permission.ipv6_ranges.is_empty()
            && permission.user_id_group_pairs.is_empty();
        if is_empty {
            return Err(ApiError::missing("IpRanges"));
        }
        for range in permission.ip_ranges {
            let cidr = range.cidr_ip.ok_or_else(|| ApiError::missing("CidrIp"))?;
            add(SecurityGroupPeer::Cidr(parse_cidr(&cidr, "CidrIp")?.into()), range.description)?;
        }
        for range in permission.ipv6_ranges {
            let cidr = range.cidr_ipv6.ok_or_else(|| ApiError::missing("CidrIpv6"))?;
            add(SecurityGroupPeer::Cidr(parse_cidr6(&cidr)?.into()), range.description)?;
        }
        for pair in permission.user_id_group_pairs {
            let peer = peer_group(draft, group, pair.group_id.as_deref(), pair.group_name.as_deref())?;
            add(SecurityGroupPeer::Group(peer), pair.description)?;
        }
    }
    Ok(rules)
}

/// An IPv6 range; its host bits are cleared, as AWS does.
fn parse_cidr6(text: &str) -> Result<Ipv6Net, ApiError> {
    text.parse::<Ipv6Net>().map(|cidr| cidr.trunc()).map_err(|_| {
        ApiError::validation(format!(
            "Value ({text}) for parameter CidrIpv6 is invalid. This is not a valid IPv6 CIDR block."
        ))
    })
}

/// The group that a rule names, which must be of the same VPC.
fn peer_group(
    draft: &Draft,
    group: &SecurityGroup,
    id: Option<&str>,
    name: Option<&str>,
) -> Result<SecurityGroupId, ApiError> {
    let mut siblings = draft.all::<SecurityGroup>().filter(|other| other.vpc_id == group.vpc_id);
    let found = match (id, name) {
        (Some(id), _) => siblings.find(|other| other.id.as_str() == id),
        (None, Some(name)) => siblings.find(|other| other.name == name),
        (None, None) => return Err(ApiError::missing("GroupId")),
    };
    match found {
        Some(found) => Ok(found.id.clone()),
        None => Err(SecurityGroup::missing(id.or(name).unwrap_or_default())),
    }
}

/// A protocol under the name that answers have.
fn protocol_of(given: Option<&str>) -> Result<String, ApiError> {
    let given = given.ok_or_else(|| ApiError::missing("IpProtocol"))?.to_ascii_lowercase();
    let name = match given.as_str() {
        "-1" | "all" => ALL,
        "tcp" | "6" => "tcp",
        "udp" | "17" => "udp",
        "icmp" | "1" => "icmp",
        "icmpv6" | "58" => "icmpv6",
        number if number.parse::<u8>().is_ok() => number,
        _ => {
            return Err(ApiError::validation(format!(
                "Invalid value '{given}' for IP protocol. Unknown protocol."
            )));
        }
    };
    Ok(name.to_owned())
}

fn ports_of(
    protocol: &str,
    from: Option<i32>,
    to: Option<i32>,
) -> Result<(Option<i32>, Option<i32>), ApiError> {
    match (protocol, from, to) {
        ("tcp" | "udp", Some(from), Some(to)) => {
            let ports = 0..=65_535;
            if !ports.contains(&from) || !ports.contains(&to) || from > to {
                return Err(ApiError::validation(format!("Invalid port range {from} to {to}")));
            }
            Ok((Some(from), Some(to)))
        }
        ("tcp" | "udp", ..) => Err(ApiError::validation(
            "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.",
        )),
        ("icmp" | "icmpv6", from, to) => {
            let (from, to) = (from.unwrap_or(-1), to.unwrap_or(-1));
            if !(-1..=255).contains(&from) || !(-1..=255).contains(&to) {
                return Err(ApiError::validation(format!("Invalid ICMP type {from} or code {to}")));
            }
            Ok((Some(from), Some(to)))
        }
        _ => Ok((None, None)),
    }
}

/// Whether two rules permit the same; ids and descriptions do not count.
fn is_same(one: &SecurityGroupRule, other: &SecurityGroupRule) -> bool {
    let key =
        |rule: &SecurityGroupRule| (rule.protocol.clone(), rule.from_port, rule.to_port, rule.peer.clone());
    key(one) == key(other)
}

fn spell(rule: &SecurityGroupRule) -> String {
    let peer = match &rule.peer {
        SecurityGroupPeer::Cidr(cidr) => cidr.to_string(),
        SecurityGroupPeer::Group(id) => id.to_string(),
    };
    let ports = match (rule.from_port, rule.to_port) {
        (Some(from), Some(to)) => format!("from port: {from}, to port: {to}, "),
        _ => String::new(),
    };
    let protocol = if rule.protocol == ALL { "ALL".to_owned() } else { rule.protocol.to_uppercase() };
    format!("peer: {peer}, {protocol}, {ports}ALLOW")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    #[serde(default)]
    security_group_rule_ids: Vec<String>,
    #[serde(flatten)]
    selection: Selection,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<Value, ApiError> {
    let mut rows = Vec::new();
    let mut found = Vec::new();
    for group in draft.all::<SecurityGroup>() {
        let ingress = group.ingress.iter().map(|rule| (Direction::Ingress, rule));
        for (direction, rule) in ingress.chain(group.egress.iter().map(|rule| (Direction::Egress, rule))) {
            if !is_named(&input.security_group_rule_ids, &rule.id) {
                continue;
            }
            found.push(rule.id.clone());
            let field = |name: &str| match name {
                "group-id" => Some(vec![group.id.to_string()]),
                "security-group-rule-id" => Some(vec![rule.id.clone()]),
                _ => None,
            };
            if input.selection.admits(&[], field)? {
                rows.push((rule.id.clone(), wire(draft, caller, group, direction, rule)));
            }
        }
    }
    if let Some(missing) = input.security_group_rule_ids.iter().find(|id| !found.contains(id)) {
        return Err(ApiError::not_found(
            "InvalidSecurityGroupRuleId.NotFound",
            format!("The security group rule ID '{missing}' does not exist"),
        ));
    }
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    input.selection.page("SecurityGroupRules", rows)
}

/// A peer as answers have it: one of the three.
#[derive(Default)]
struct PeerForms<'a> {
    cidr: Option<String>,
    cidr6: Option<String>,
    group: Option<&'a SecurityGroupId>,
}

fn peer_forms(peer: &SecurityGroupPeer) -> PeerForms<'_> {
    match peer {
        SecurityGroupPeer::Cidr(IpNet::V4(cidr)) => {
            PeerForms { cidr: Some(cidr.to_string()), ..PeerForms::default() }
        }
        SecurityGroupPeer::Cidr(IpNet::V6(cidr)) => {
            PeerForms { cidr6: Some(cidr.to_string()), ..PeerForms::default() }
        }
        SecurityGroupPeer::Group(id) => PeerForms { group: Some(id), ..PeerForms::default() },
    }
}

fn wire(
    draft: &Draft,
    caller: &Caller,
    group: &SecurityGroup,
    direction: Direction,
    rule: &SecurityGroupRule,
) -> Value {
    let PeerForms { cidr, cidr6, group: named } = peer_forms(&rule.peer);
    let referenced = named.map(|id| {
        let vpc = draft.one::<SecurityGroup>(id.as_str()).map(|group| group.vpc_id.clone());
        json!({"GroupId": id, "UserId": caller.account, "VpcId": vpc})
    });
    let arn =
        Arn::new("ec2", &caller.region, &caller.account, format_args!("security-group-rule/{}", rule.id));
    json!({
        "SecurityGroupRuleId": rule.id,
        "SecurityGroupRuleArn": arn,
        "GroupId": group.id,
        "GroupOwnerId": caller.account,
        "IsEgress": direction == Direction::Egress,
        "IpProtocol": rule.protocol,
        "FromPort": rule.from_port.unwrap_or(-1),
        "ToPort": rule.to_port.unwrap_or(-1),
        "CidrIpv4": cidr,
        "CidrIpv6": cidr6,
        "ReferencedGroupInfo": referenced,
        "Description": rule.description,
        "Tags": [],
    })
}

/// Rules as groups have them in answers: those of one protocol and port range together.
pub(super) fn wire_permissions(caller: &Caller, rules: &[SecurityGroupRule]) -> Value {
    let mut kinds: Vec<(&str, Option<i32>, Option<i32>)> =
        rules.iter().map(|rule| (rule.protocol.as_str(), rule.from_port, rule.to_port)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let permissions = kinds.into_iter().map(|(protocol, from, to)| {
        let of_kind = |rule: &&SecurityGroupRule| (rule.protocol.as_str(), rule.from_port, rule.to_port) == (protocol, from, to);
        let (mut ranges, mut ranges6, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        for rule in rules.iter().filter(of_kind) {
            match &rule.peer {
                SecurityGroupPeer::Cidr(IpNet::V4(cidr)) => {
                    ranges.push(json!({"CidrIp": cidr, "Description": rule.description}));
                }
                SecurityGroupPeer::Cidr(IpNet::V6(cidr)) => {
                    ranges6.push(json!({"CidrIpv6": cidr, "Description": rule.description}));
                }
                SecurityGroupPeer::Group(id) => pairs.push(json!({
                    "GroupId": id, "UserId": caller.account, "Description": rule.description,
                })),
            }
        }
        json!({
            "IpProtocol": protocol, "FromPort": from, "ToPort": to, "IpRanges": ranges, "UserIdGroupPairs": pairs,
            "Ipv6Ranges": ranges6, "PrefixListIds": [],
        })
    });
    permissions.collect()
}

/// AWS's quota, in each direction.
const RULES_MAX: usize = 60;
