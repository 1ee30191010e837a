//! ec2: tags of VPCs, subnets, security groups, instances and Elastic IP addresses.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{ById, Selection, TagForm, by_id, ec2_operation, set_tag},
};
use crate::model::{
    network::{ElasticIp, Instance, SecurityGroup, Subnet, Tags, Vpc},
    state::Draft,
};

/// The operations on tags.
pub const OPERATIONS: &[Entry] = &[
    ec2_operation!("CreateTags", create),
    ec2_operation!("DeleteTags", delete),
    ec2_operation!("DescribeTags", describe),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeInput {
    resources: Vec<String>,
    #[serde(default)]
    tags: Vec<TagForm>,
}

fn create(draft: &mut Draft, _: &Caller, input: ChangeInput) -> Result<Value, ApiError> {
    for id in &input.resources {
        change(draft, id, |tags| input.tags.iter().try_for_each(|tag| set_tag(tags, tag)))?;
    }
    Ok(json!({}))
}

/// Without tags, all are removed; a tag with a value is removed only if it has that value.
fn delete(draft: &mut Draft, _: &Caller, input: ChangeInput) -> Result<Value, ApiError> {
    for id in &input.resources {
        change(draft, id, |tags| {
            tags.retain(|held| {
                let names = |given: &TagForm| {
                    given.key.as_deref() == Some(&held.key)
                        && given.value.as_ref().is_none_or(|v| *v == held.value)
                };
                !input.tags.is_empty() && !input.tags.iter().any(names)
            });
            Ok(())
        })?;
    }
    Ok(json!({}))
}

fn change(
    draft: &mut Draft,
    id: &str,
    change: impl FnOnce(&mut Tags) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    macro_rules! change {
        ($kind:ty) => {{
            let mut row = by_id::<$kind>(draft, id)?;
            change(&mut row.tags)?;
            draft.put(row);
        }};
    }
    match id.split_once('-').map(|(kind, _)| kind) {
        Some("vpc") => change!(Vpc),
        Some("subnet") => change!(Subnet),
        Some("sg") => change!(SecurityGroup),
        Some("i") => change!(Instance),
        Some("eipalloc") => change!(ElasticIp),
        _ => return Err(ApiError::not_found("InvalidID", format!("The ID '{id}' is not valid"))),
    }
    Ok(())
}

#[derive(Deserialize)]
struct DescribeInput {
    #[serde(flatten)]
    selection: Selection,
}

fn describe(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<Value, ApiError> {
    fn tagged<'a, T: ById>(
        draft: &'a Draft,
        tags: fn(&T) -> &Tags,
    ) -> impl Iterator<Item = (String, Tags)> + 'a {
        draft.all::<T>().map(move |row| (row.key(), tags(row).clone()))
    }
    let all = tagged::<Vpc>(draft, |row| &row.tags)
        .map(|(id, tags)| ("vpc", id, tags))
        .chain(tagged::<Subnet>(draft, |row| &row.tags).map(|(id, tags)| ("subnet", id, tags)))
        .chain(tagged::<SecurityGroup>(draft, |row| &row.tags).map(|(id, tags)| ("security-group", id, tags)))
        .chain(tagged::<Instance>(draft, |row| &row.tags).map(|(id, tags)| ("instance", id, tags)))
        .chain(tagged::<ElasticIp>(draft, |row| &row.tags).map(|(id, tags)| ("elastic-ip", id, tags)));
    let mut rows = Vec::new();
    for (kind, id, tags) in all {
        for tag in &tags {
            let field = |name: &str| match name {
                "resource-id" => Some(vec![id.clone()]),
                "resource-type" => Some(vec![kind.to_owned()]),
                "key" => Some(vec![tag.key.clone()]),
                "value" => Some(vec![tag.value.clone()]),
                _ => None,
            };
            if input.selection.admits(std::slice::from_ref(tag), field)? {
                let form =
                    json!({"ResourceId": id, "ResourceType": kind, "Key": tag.key, "Value": tag.value});
                rows.push((format!("{id} {}", tag.key), form));
            }
        }
    }
    rows.sort_by(|one, other| one.0.cmp(&other.0));
    input.selection.page("Tags", rows)
}
