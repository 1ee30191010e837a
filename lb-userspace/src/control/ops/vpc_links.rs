//! apigatewayv2: VPC links, one interface per subnet.
//!
//! After: `snapshot` makes the supervisor start a link process, whose lanes come back as `apply_attached`. A deleted link
//! finishes what it carries; `apply_attached` or `expire_deleting` ends it.

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry,
    apigatewayv2::{Items, ListInput, Nothing, bad_request, check_name, check_tags, limit, not_found},
    interfaces, operation,
    timestamp::seconds,
    underlay,
};
use crate::model::{
    Resource,
    api::{TagMap, VpcLink, VpcLinkStatus},
    id::{SecurityGroupId, SubnetId, TimestampMs, VpcLinkId},
    network::{InterfaceOwner, SecurityGroup, Subnet},
    state::{Draft, State},
};

/// The operations on VPC links.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateVpcLink", create),
    operation!("GetVpcLink", one),
    operation!("GetVpcLinks", list),
    operation!("UpdateVpcLink", update),
    operation!("DeleteVpcLink", delete),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    name: String,
    #[serde(default)]
    security_group_ids: Vec<String>,
    subnet_ids: Vec<String>,
    #[serde(default)]
    tags: TagMap,
}

/// A VPC link on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    created_date: f64,
    name: String,
    security_group_ids: Vec<SecurityGroupId>,
    subnet_ids: Vec<SubnetId>,
    tags: TagMap,
    vpc_link_id: VpcLinkId,
    vpc_link_status: &'static str,
    vpc_link_status_message: String,
    vpc_link_version: &'static str,
}

fn form(link: &VpcLink) -> Form {
    Form {
        created_date: seconds(link.created_at),
        name: link.name.clone(),
        security_group_ids: link.security_group_ids.clone(),
        subnet_ids: link.subnet_ids.clone(),
        tags: link.tags.clone(),
        vpc_link_id: link.id.clone(),
        vpc_link_status: link.status.as_str(),
        vpc_link_status_message: link.status_message.clone(),
        vpc_link_version: "V2",
    }
}

fn create(draft: &mut Draft, _: &Caller, input: CreateInput) -> Result<Form, ApiError> {
    check_name("Name", &input.name, 128)?;
    check_tags(&input.tags)?;
    if let Some(reason) = underlay::lacks(draft.state(), "VPC links") {
        return Err(bad_request(reason));
    }
    if draft.all::<VpcLink>().count() >= LINKS_MAX {
        return Err(limit("VPC links", LINKS_MAX));
    }
    let subnets = subnets(draft.state(), &input.subnet_ids)?;
    let Some(vpc_id) = subnets.first().map(|subnet| subnet.vpc_id.clone()) else {
        return Err(bad_request("At least one subnet must be specified in SubnetIds"));
    };
    let groups = security_groups(draft.state(), vpc_id.as_str(), &input.security_group_ids)?;
    let id = VpcLinkId(draft.alphanumerics(6));
    let mut link = VpcLink {
        id: id.clone(),
        name: input.name,
        subnet_ids: subnets.iter().map(|subnet| subnet.id.clone()).collect(),
        security_group_ids: groups.clone(),
        interface_ids: Vec::new(),
        status: VpcLinkStatus::Pending,
        status_message: "VPC link is provisioning resources".to_owned(),
        created_at: draft.now(),
        deleting_since: None,
        tags: input.tags,
    };
    for subnet in subnets {
        let address = interfaces::free_address(draft.state(), &subnet)
            .ok_or_else(|| bad_request(format!("Subnet {} has no free addresses", subnet.id)))?;
        let owner = InterfaceOwner::VpcLink(id.clone());
        let description = format!("VPC Link {id}");
        let interface = interfaces::attach(draft, &subnet, address, groups.clone(), owner, description);
        link.interface_ids.push(interface.id);
    }
    let answer = form(&link);
    draft.put(link);
    Ok(answer)
}

fn subnets(state: &State, ids: &[String]) -> Result<Vec<Subnet>, ApiError> {
    if ids.len() > SUBNETS_MAX {
        return Err(bad_request(format!("SubnetIds can name at most {SUBNETS_MAX} subnets")));
    }
    let mut subnets: Vec<Subnet> = Vec::new();
    for id in ids {
        let subnet: &Subnet = state
            .subnets
            .get(id)
            .ok_or_else(|| bad_request(format!("Invalid subnet id: {id} does not exist")))?;
        if subnets.iter().any(|other| other.id == subnet.id) {
            return Err(bad_request(format!("SubnetIds names {id} more than once")));
        }
        if let Some(other) = subnets.iter().find(|other| other.vpc_id != subnet.vpc_id) {
            return Err(bad_request(format!("Subnets {} and {id} are not in the same VPC", other.id)));
        }
        subnets.push(subnet.clone());
    }
    Ok(subnets)
}

/// The groups by id; the VPC's default group when none is named, as on AWS.
fn security_groups(state: &State, vpc_id: &str, ids: &[String]) -> Result<Vec<SecurityGroupId>, ApiError> {
    if ids.is_empty() {
        let is_default = |group: &&SecurityGroup| group.vpc_id.as_str() == vpc_id && group.name == "default";
        let groups = state.security_groups.values().map(AsRef::as_ref).filter(is_default);
        return Ok(groups.map(|group: &SecurityGroup| group.id.clone()).collect());
    }
    if ids.len() > SECURITY_GROUPS_MAX {
        return Err(bad_request(format!("SecurityGroupIds can name at most {SECURITY_GROUPS_MAX} groups")));
    }
    let mut groups: Vec<SecurityGroupId> = Vec::new();
    for id in ids {
        let group: &SecurityGroup = state
            .security_groups
            .get(id)
            .ok_or_else(|| bad_request(format!("Invalid security group id: {id} does not exist")))?;
        if group.vpc_id.as_str() != vpc_id {
            return Err(bad_request(format!("Security group {id} is not in VPC {vpc_id}")));
        }
        if !groups.contains(&group.id) {
            groups.push(group.id.clone());
        }
    }
    Ok(groups)
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a VpcLink, ApiError> {
    state.vpc_links.get(id).map(AsRef::as_ref).ok_or_else(|| not_found("VpcLink", id))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    vpc_link_id: String,
    name: Option<String>,
}

fn one(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Form, ApiError> {
    Ok(form(find(draft.state(), &input.vpc_link_id)?))
}

fn list(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<Items<Form>, ApiError> {
    input.page(draft.all::<VpcLink>().map(|link| (link.key(), form(link))))
}

/// As on AWS, only the name can change.
fn update(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Form, ApiError> {
    let mut link = find(draft.state(), &input.vpc_link_id)?.clone();
    if let Some(name) = input.name {
        check_name("Name", &name, 128)?;
        link.name = name;
    }
    let answer = form(&link);
    draft.put(link);
    Ok(answer)
}

fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    let link = find(draft.state(), &input.vpc_link_id)?;
    let (id, was) = (link.id.clone(), link.status);
    match was {
        VpcLinkStatus::Deleting => {}
        // No lane ever came up, so there is nothing to finish.
        VpcLinkStatus::Pending | VpcLinkStatus::Failed => {
            finish_deletion(draft, &id);
        }
        VpcLinkStatus::Available => {
            let now = draft.now();
            draft.edit::<VpcLink>(id.as_str(), |link| {
                link.status = VpcLinkStatus::Deleting;
                link.status_message = "VPC link is deleting".to_owned();
                link.deleting_since = Some(now);
            });
        }
    }
    Ok(Nothing {})
}

/// Notes to how many gateways a link has ready lanes: the first makes it AVAILABLE, none ends a deletion. Answers
/// whether anything changed.
pub fn apply_attached(draft: &mut Draft, link: &VpcLinkId, gateways: u32) -> bool {
    let Some(known) = draft.one::<VpcLink>(link.as_str()) else { return false };
    match (known.status, gateways) {
        (VpcLinkStatus::Pending, 1..) => draft.edit::<VpcLink>(link.as_str(), |link| {
            link.status = VpcLinkStatus::Available;
            link.status_message = "VPC link is ready to route traffic".to_owned();
        }),
        (VpcLinkStatus::Deleting, 0) => finish_deletion(draft, link),
        _ => false,
    }
}

/// Removes a link with its interfaces; answers whether there was one.
pub fn finish_deletion(draft: &mut Draft, link: &VpcLinkId) -> bool {
    interfaces::detach_all(draft, &InterfaceOwner::VpcLink(link.clone()));
    draft.remove::<VpcLink>(link.as_str())
}

/// Removes links that have had their time to finish; answers when the next one ends.
pub fn expire_deleting(draft: &mut Draft) -> Option<TimestampMs> {
    let now = draft.now();
    let mut over = Vec::new();
    let mut next = None;
    for link in draft.all::<VpcLink>().filter(|link| link.status == VpcLinkStatus::Deleting) {
        let until = link.deleting_since.unwrap_or(0) + DELETING_MAX_MS;
        if until <= now {
            over.push(link.id.clone());
        } else {
            next = Some(next.map_or(until, |next: TimestampMs| next.min(until)));
        }
    }
    for link in over {
        finish_deletion(draft, &link);
    }
    next
}

/// AWS's quota of VPC links per region.
const LINKS_MAX: usize = 10;
/// AWS's quota of subnets per VPC link.
const SUBNETS_MAX: usize = 10;
/// AWS's quota of security groups per interface at its highest setting.
const SECURITY_GROUPS_MAX: usize = 16;
/// The longest integration timeout: what a link carried when its deletion began has ended by then.
const DELETING_MAX_MS: TimestampMs = 30_000;

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use serde_json::{Value, json};

    fn attached(world: &mut World, id: &Value, gateways: u32) -> bool {
        let id = VpcLinkId::from(id.as_str().unwrap());
        world.change(|draft| Ok::<_, ()>(apply_attached(draft, &id, gateways))).unwrap()
    }

    #[test]
    fn a_link_lives_from_pending_to_available_to_deleting_to_gone() {
        let mut world = World::new();
        let before = world.state.interfaces.len();
        let input =
            json!({"Name": "link", "SubnetIds": ["subnet-a", "subnet-b"], "SecurityGroupIds": ["sg-1"]});
        let link = world.ok("apigatewayv2", "CreateVpcLink", input);
        assert_eq!(link["VpcLinkStatus"], "PENDING");
        assert_eq!(world.state.interfaces.len(), before + 2);
        let id = &link["VpcLinkId"];
        assert!(!attached(&mut world, id, 0));
        assert!(attached(&mut world, id, 1));
        assert!(!attached(&mut world, id, 2), "no news");
        let one = json!({"VpcLinkId": id});
        let read = world.ok("apigatewayv2", "GetVpcLink", one.clone());
        assert_eq!(read["VpcLinkStatus"], "AVAILABLE");
        assert_eq!(read["VpcLinkStatusMessage"], "VPC link is ready to route traffic");
        world.ok("apigatewayv2", "DeleteVpcLink", one.clone());
        assert_eq!(world.ok("apigatewayv2", "GetVpcLink", one.clone())["VpcLinkStatus"], "DELETING");
        let until = world.now + DELETING_MAX_MS;
        assert_eq!(world.change(|draft| Ok::<_, ()>(expire_deleting(draft))), Ok(Some(until)));
        assert!(attached(&mut world, id, 0));
        assert_eq!(world.refuse("apigatewayv2", "GetVpcLink", one).0, "NotFoundException");
        assert_eq!(world.state.interfaces.len(), before);
    }

    #[test]
    fn unlawful_links_are_refused_and_take_no_address() {
        let mut world = World::new();
        let before = world.state.interfaces.len();
        for (input, word) in [
            (json!({"Name": "", "SubnetIds": ["subnet-a"]}), "Name"),
            (json!({"Name": "x", "SubnetIds": []}), "SubnetIds"),
            (json!({"Name": "x", "SubnetIds": ["subnet-9"]}), "subnet-9"),
            (json!({"Name": "x", "SubnetIds": ["subnet-a", "subnet-a"]}), "subnet-a"),
            (json!({"Name": "x", "SubnetIds": ["subnet-a"], "SecurityGroupIds": ["sg-9"]}), "sg-9"),
        ] {
            let (code, message) = world.refuse("apigatewayv2", "CreateVpcLink", input);
            assert_eq!(code, "BadRequestException");
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(world.state.interfaces.len(), before);
    }
}
