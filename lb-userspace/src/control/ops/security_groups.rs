//! ec2: security groups.
//!
//! Their rules are in `security_group_rules`.

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{Selection, TagSpecification, by_id, ec2_operation, is_named, specified_tags, wire_tags},
    ipv6_blocks::is_dual,
    security_group_rules::{ALL, wire_permissions},
};
use crate::model::{
    api::VpcLink,
    id::{Arn, SecurityGroupId, VpcId},
    load_balancer::LoadBalancer,
    network::{Interface, SecurityGroup, SecurityGroupPeer, SecurityGroupRule, Vpc},
    state::Draft,
};

/// The operations on security groups as a whole.
pub const OPERATIONS: &[Entry] = &[
    ec2_operation!("CreateSecurityGroup", create),
    ec2_operation!("DescribeSecurityGroups", describe),
    ec2_operation!("DeleteSecurityGroup", delete),
];

/// The group that every VPC has from the start and that cannot be deleted.
pub(super) const DEFAULT_GROUP: &str = "default";

/// Gives a new VPC its default group: members may talk to each other, and to anyone.
pub(super) fn create_default(draft: &mut Draft, vpc: &Vpc) {
    let id = SecurityGroupId(format!("sg-{}", draft.hex(17)));
    let ingress = vec![all_traffic(draft, SecurityGroupPeer::Group(id.clone()))];
    let egress = to_anywhere(draft, vpc.ipv6.is_some());
    draft.put(SecurityGroup {
        id,
        vpc_id: vpc.id.clone(),
        name: DEFAULT_GROUP.to_owned(),
        description: "default VPC security group".to_owned(),
        ingress,
        egress,
        tags: Vec::new(),
    });
}

/// What a new group permits going out, as at AWS.
fn to_anywhere(draft: &mut Draft, is_dual: bool) -> Vec<SecurityGroupRule> {
    let v6 = is_dual.then(|| all_traffic(draft, anywhere6()));
    [Some(all_traffic(draft, anywhere())), v6].into_iter().flatten().collect()
}

/// Lets groups of a VPC that is given IPv6 send it anywhere, if that is what they do with IPv4, as AWS does.
pub(super) fn open_ipv6(draft: &mut Draft, vpc_id: &VpcId) {
    let is_untouched = |group: &SecurityGroup| matches!(group.egress.as_slice(), [only] if only.protocol == ALL && only.peer == anywhere());
    let groups: Vec<_> = draft
        .all::<SecurityGroup>()
        .filter(|group| group.vpc_id == *vpc_id && is_untouched(group))
        .map(|group| group.id.clone())
        .collect();
    for id in groups {
        let rule = all_traffic(draft, anywhere6());
        draft.edit::<SecurityGroup>(id.as_str(), |group| group.egress.push(rule));
    }
}

fn anywhere() -> SecurityGroupPeer {
    SecurityGroupPeer::Cidr(ipnet::Ipv4Net::default().into())
}

fn anywhere6() -> SecurityGroupPeer {
    SecurityGroupPeer::Cidr(ipnet::Ipv6Net::default().into())
}

fn all_traffic(draft: &mut Draft, peer: SecurityGroupPeer) -> SecurityGroupRule {
    SecurityGroupRule {
        id: format!("sgr-{}", draft.hex(17)),
        protocol: ALL.to_owned(),
        from_port: None,
        to_port: None,
        peer,
        description: None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    group_name: String,
    description: String,
    vpc_id: Option<String>,
    #[serde(default)]
    tag_specifications: Vec<TagSpecification>,
}

fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<Value, ApiError> {
    let vpc_id = input
        .vpc_id
        .ok_or_else(|| ApiError::sender("VPCIdNotSpecified", "There is no default VPC; name one by VpcId"))?;
    let vpc = by_id::<Vpc>(draft, &vpc_id)?;
    check_text("GroupName", &input.group_name)?;
    check_text("GroupDescription", &input.description)?;
    if input.group_name.starts_with("sg-") {
        return Err(ApiError::validation(format!(
            "Value ({}) for parameter GroupName is invalid. Group names may not be in the format sg-*.",
            input.group_name
        )));
    }
    if input.group_name == DEFAULT_GROUP {
        return Err(ApiError::validation("Cannot use reserved security group name: default"));
    }
    if draft.all::<SecurityGroup>().any(|group| group.vpc_id == vpc.id && group.name == input.group_name) {
        return Err(ApiError::conflict(
            "InvalidGroup.Duplicate",
            format!("The security group '{}' already exists for VPC '{}'", input.group_name, vpc.id),
        ));
    }
    if draft.state().security_groups.len() >= GROUPS_MAX {
        let message = format!("There are at most {GROUPS_MAX} security groups.");
        return Err(ApiError::limit("SecurityGroupLimitExceeded", message));
    }
    let tags = specified_tags(&input.tag_specifications, "security-group")?;
    let is_dual = is_dual(draft.state(), &vpc.id);
    let egress = to_anywhere(draft, is_dual);
    let group = SecurityGroup {
        id: SecurityGroupId(format!("sg-{}", draft.hex(17))),
        vpc_id: vpc.id,
        name: input.group_name,
        description: input.description,
        ingress: Vec::new(),
        egress,
        tags,
    };
    let answer = json!({
        "GroupId": group.id, "SecurityGroupArn": arn(caller, &group), "Tags": wire_tags(&group.tags),
    });
    draft.put(group);
    Ok(answer)
}

fn check_text(parameter: &str, text: &str) -> Result<(), ApiError> {
    let is_lawful = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
    if (1..=255).contains(&text.len()) && text.chars().all(is_lawful) {
        return Ok(());
    }
    let shown: String = text.chars().take(255).collect();
    Err(ApiError::validation(format!(
        "Value ({shown}) for parameter {parameter} is invalid. It must have 1 to 255 of the characters a-z, A-Z, 0-9, \
         spaces, and ._-:/()#,@[]+=&;{{}}!$*."
    )))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    #[serde(default)]
    group_ids: Vec<String>,
    #[serde(default)]
    group_names: Vec<String>,
    #[serde(flatten)]
    selection: Selection,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<Value, ApiError> {
    super::ec2::check_named::<SecurityGroup>(draft, &input.group_ids)?;
    for name in &input.group_names {
        if !draft.all::<SecurityGroup>().any(|group| group.name == *name) {
            return Err(<SecurityGroup as super::ec2::ById>::missing(name));
        }
    }
    let mut rows = Vec::new();
    for group in draft.all::<SecurityGroup>() {
        if !is_named(&input.group_ids, group.id.as_str()) || !is_named(&input.group_names, &group.name) {
            continue;
        }
        let field = |name: &str| filter_values(caller, group, name);
        if input.selection.admits(&group.tags, field)? {
            rows.push((group.id.to_string(), wire(caller, group)));
        }
    }
    input.selection.page("SecurityGroups", rows)
}

fn filter_values(caller: &Caller, group: &SecurityGroup, name: &str) -> Option<Vec<String>> {
    let of_rules = |rules: &[SecurityGroupRule], what: &str| {
        let values = rules.iter().filter_map(|rule| match (what, &rule.peer) {
            ("cidr", SecurityGroupPeer::Cidr(IpNet::V4(cidr))) => Some(cidr.to_string()),
            ("ipv6-cidr", SecurityGroupPeer::Cidr(IpNet::V6(cidr))) => Some(cidr.to_string()),
            ("group-id", SecurityGroupPeer::Group(id)) => Some(id.to_string()),
            ("protocol", _) => Some(rule.protocol.clone()),
            ("from-port", _) => rule.from_port.map(|port| port.to_string()),
            ("to-port", _) => rule.to_port.map(|port| port.to_string()),
            _ => None,
        });
        let is_known =
            matches!(what, "cidr" | "ipv6-cidr" | "group-id" | "protocol" | "from-port" | "to-port");
        is_known.then(|| values.collect())
    };
    match name {
        "group-id" => Some(vec![group.id.to_string()]),
        "group-name" => Some(vec![group.name.clone()]),
        "vpc-id" => Some(vec![group.vpc_id.to_string()]),
        "description" => Some(vec![group.description.clone()]),
        "owner-id" => Some(vec![caller.account.clone()]),
        name => match (name.strip_prefix("ip-permission."), name.strip_prefix("egress.ip-permission.")) {
            (Some(what), _) => of_rules(&group.ingress, what),
            (_, Some(what)) => of_rules(&group.egress, what),
            _ => None,
        },
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteInput {
    group_id: Option<String>,
    group_name: Option<String>,
}

fn delete(draft: &mut Draft, _: &Caller, input: DeleteInput) -> Result<Value, ApiError> {
    if input.group_id.is_none() && input.group_name.is_some() {
        return Err(ApiError::validation("There is no default VPC; name the group by GroupId"));
    }
    let id = input.group_id.ok_or_else(|| ApiError::missing("GroupId"))?;
    let group = by_id::<SecurityGroup>(draft, &id)?;
    if group.name == DEFAULT_GROUP {
        return Err(ApiError::sender(
            "CannotDelete",
            format!("the specified group: \"{id}\" name: \"default\" cannot be deleted by a user"),
        ));
    }
    let is_held = draft.all::<Interface>().any(|interface| interface.groups.contains(&group.id))
        || draft.all::<LoadBalancer>().any(|balancer| balancer.security_groups.contains(&group.id))
        || draft.all::<VpcLink>().any(|link| link.security_group_ids.contains(&group.id));
    let names = |rule: &SecurityGroupRule| matches!(&rule.peer, SecurityGroupPeer::Group(named) if *named == group.id);
    let is_named = draft
        .all::<SecurityGroup>()
        .filter(|other| other.id != group.id)
        .any(|other| other.ingress.iter().chain(&other.egress).any(names));
    if is_held || is_named {
        return Err(ApiError::conflict(
            "DependencyViolation",
            format!("resource {id} has a dependent object"),
        ));
    }
    draft.remove::<SecurityGroup>(&id);
    Ok(json!({"Return": true, "GroupId": id}))
}

fn arn(caller: &Caller, group: &SecurityGroup) -> Arn {
    Arn::new("ec2", &caller.region, &caller.account, format_args!("security-group/{}", group.id))
}

fn wire(caller: &Caller, group: &SecurityGroup) -> Value {
    json!({
        "GroupId": group.id,
        "GroupName": group.name,
        "Description": group.description,
        "VpcId": group.vpc_id,
        "OwnerId": caller.account,
        "SecurityGroupArn": arn(caller, group),
        "IpPermissions": wire_permissions(caller, &group.ingress),
        "IpPermissionsEgress": wire_permissions(caller, &group.egress),
        "Tags": wire_tags(&group.tags),
    })
}

/// AWS's quota for a region.
const GROUPS_MAX: usize = 2500;
