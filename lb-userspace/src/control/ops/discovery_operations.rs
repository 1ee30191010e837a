//! servicediscovery: operations, and the tags of namespaces and services.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    cloud_map::{Filter, ListInput, Nothing, Tag, add_tags, namespace, owner, service, wire_tags},
    operation,
    timestamp::seconds,
};
use crate::model::{
    Resource,
    discovery::{DiscoveryService, Namespace, Operation},
    network::Tags,
    state::Draft,
};

/// The operations on operations and tags.
pub const OPERATIONS: &[Entry] = &[
    operation!("GetOperation", read),
    operation!("ListOperations", list),
    operation!("TagResource", tag),
    operation!("UntagResource", untag),
    operation!("ListTagsForResource", list_tags),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReadInput {
    operation_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReadAnswer {
    operation: Value,
}

fn read(draft: &mut Draft, caller: &Caller, input: ReadInput) -> Result<ReadAnswer, ApiError> {
    let row = draft.one::<Operation>(&input.operation_id).ok_or_else(|| {
        ApiError::not_found(
            "OperationNotFound",
            format!("Failed to find the operation {}.", input.operation_id),
        )
    })?;
    let operation = json!({
        "Id": row.id,
        "OwnerAccount": owner(caller),
        "Type": row.kind,
        "Status": row.status,
        "ErrorMessage": row.error_message,
        "ErrorCode": row.error_code,
        "CreateDate": seconds(row.created_at),
        "UpdateDate": seconds(row.updated_at),
        "Targets": row.targets,
    });
    Ok(ReadAnswer { operation })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    operations: Vec<Value>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    Filter::check(&input.filters, &["NAMESPACE_ID", "SERVICE_ID", "STATUS", "TYPE", "UPDATE_DATE"])?;
    let is_wanted = |row: &Operation| {
        let targets =
            |filter: &Filter, kind: &str| row.targets.get(kind).is_some_and(|target| filter.admits(target));
        input.filters.iter().all(|filter| match filter.name.as_str() {
            "NAMESPACE_ID" => targets(filter, "NAMESPACE"),
            "SERVICE_ID" => targets(filter, "SERVICE"),
            "STATUS" => filter.admits(&row.status),
            "TYPE" => filter.admits(&row.kind),
            _ => filter.admits_time(row.updated_at),
        })
    };
    let rows = draft
        .all::<Operation>()
        .filter(|row| is_wanted(row))
        .map(|row| (row.key(), json!({"Id": row.id, "Status": row.status})));
    let (operations, next_token) = input.page(rows)?;
    Ok(ListAnswer { operations, next_token })
}

#[derive(Deserialize)]
struct TagInput {
    #[serde(rename = "ResourceARN")]
    resource_arn: String,
    #[serde(rename = "Tags", default)]
    tags: Vec<Tag>,
    #[serde(rename = "TagKeys", default)]
    tag_keys: Vec<String>,
}

/// Changes the tags of the namespace or service with this ARN, or only reads them.
fn with_tags(
    draft: &mut Draft,
    arn: &str,
    change: impl FnOnce(&mut Tags) -> Result<(), ApiError>,
) -> Result<Tags, ApiError> {
    let not_found =
        |_| ApiError::not_found("ResourceNotFoundException", format!("The resource {arn} does not exist."));
    if arn.contains(":service/") {
        let mut row = service(draft.state(), arn).map_err(not_found)?.clone();
        change(&mut row.tags)?;
        put_if_changed::<DiscoveryService>(draft, row.clone());
        Ok(row.tags)
    } else {
        let mut row = namespace(draft.state(), arn).map_err(not_found)?.clone();
        change(&mut row.tags)?;
        put_if_changed::<Namespace>(draft, row.clone());
        Ok(row.tags)
    }
}

fn put_if_changed<T: Resource + PartialEq>(draft: &mut Draft, row: T) {
    if draft.one::<T>(&row.key()).is_none_or(|before| **before != row) {
        draft.put(row);
    }
}

fn tag(draft: &mut Draft, _: &Caller, input: TagInput) -> Result<Nothing, ApiError> {
    with_tags(draft, &input.resource_arn, |tags| add_tags(tags, input.tags)).map(|_| Nothing {})
}

fn untag(draft: &mut Draft, _: &Caller, input: TagInput) -> Result<Nothing, ApiError> {
    with_tags(draft, &input.resource_arn, |tags| {
        tags.retain(|tag| !input.tag_keys.contains(&tag.key));
        Ok(())
    })
    .map(|_| Nothing {})
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TagsAnswer {
    tags: Vec<Tag>,
}

fn list_tags(draft: &mut Draft, _: &Caller, input: TagInput) -> Result<TagsAnswer, ApiError> {
    let tags = with_tags(draft, &input.resource_arn, |_| Ok(()))?;
    Ok(TagsAnswer { tags: wire_tags(&tags) })
}
