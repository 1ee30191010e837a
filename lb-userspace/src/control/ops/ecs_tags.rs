//! ecs: tags of clusters, services, tasks and task definitions.

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry,
    ecs::{Nothing, Tag, add_tags, invalid, wire_tags},
    operation,
};
use crate::model::{
    Resource,
    id::Arn,
    network::Tags,
    state::Draft,
    task::{Cluster, EcsService, Task, TaskDefinition},
};

/// The operations on tags.
pub const OPERATIONS: &[Entry] = &[
    operation!("TagResource", tag),
    operation!("UntagResource", untag),
    operation!("ListTagsForResource", list),
];

/// Changes a resource's tags, or only reads them.
fn with_tags(
    draft: &mut Draft,
    arn: &str,
    change: impl FnOnce(&mut Tags) -> Result<(), ApiError>,
) -> Result<Tags, ApiError> {
    let resource = Arn::from(arn);
    let kind = resource.parts().filter(|parts| parts.service == "ecs").map(|parts| parts.resource);
    let not_found = || invalid("The specified resource is not found. Specify a valid resource ARN.");
    match kind.and_then(|resource| resource.split('/').next()).unwrap_or_default() {
        "cluster" => on_row::<Cluster>(draft, arn, |row| &mut row.tags, change),
        "service" => on_row::<EcsService>(draft, arn, |row| &mut row.tags, change),
        "task" => on_row::<Task>(draft, arn, |row| &mut row.tags, change),
        "task-definition" => {
            let key = super::ecs::task_definition(draft.state(), arn).map(Resource::key);
            on_row::<TaskDefinition>(draft, &key.unwrap_or_default(), |row| &mut row.tags, change)
        }
        _ => None,
    }
    .unwrap_or_else(|| Err(not_found()))
}

fn on_row<T: Resource>(
    draft: &mut Draft,
    key: &str,
    tags: impl FnOnce(&mut T) -> &mut Tags,
    change: impl FnOnce(&mut Tags) -> Result<(), ApiError>,
) -> Option<Result<Tags, ApiError>> {
    let mut row = T::clone(draft.one::<T>(key)?);
    let tags = tags(&mut row);
    let before = tags.clone();
    let done = change(tags);
    let after = tags.clone();
    if done.is_ok() && before != after {
        draft.put(row);
    }
    Some(done.map(|()| after))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TagInput {
    resource_arn: String,
    tags: Vec<Tag>,
}

fn tag(draft: &mut Draft, _: &Caller, input: TagInput) -> Result<Nothing, ApiError> {
    with_tags(draft, &input.resource_arn, |tags| add_tags(tags, input.tags)).map(|_| Nothing {})
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UntagInput {
    resource_arn: String,
    tag_keys: Vec<String>,
}

fn untag(draft: &mut Draft, _: &Caller, input: UntagInput) -> Result<Nothing, ApiError> {
    with_tags(draft, &input.resource_arn, |tags| {
        tags.retain(|tag| !input.tag_keys.contains(&tag.key));
        Ok(())
    })
    .map(|_| Nothing {})
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListInput {
    resource_arn: String,
}

#[derive(Serialize)]
struct ListAnswer {
    tags: Vec<Tag>,
}

fn list(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    let tags = with_tags(draft, &input.resource_arn, |_| Ok(()))?;
    Ok(ListAnswer { tags: wire_tags(&tags) })
}
