//! ecs: what its resources share: tags, failures, lookups by name or ARN, and what becomes of parameters that are not
//! built.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ApiError, Caller};
use crate::model::{
    id::Arn,
    network::{self, Instance, Tags},
    state::State,
    task::{Cluster, EcsService, Recorded, Task, TaskDefinition},
};

/// An answer without members.
#[derive(Serialize)]
pub(super) struct Nothing {}

/// A tag on the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

pub(super) fn wire_tags(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|tag| Tag { key: tag.key.clone(), value: tag.value.clone() }).collect()
}

/// Adds tags to others; one with the same key takes the new value.
pub(super) fn add_tags(tags: &mut Tags, given: Vec<Tag>) -> Result<(), ApiError> {
    for Tag { key, value } in given {
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(invalid(format!("Tag keys must not begin with aws: {key}")));
        }
        match tags.iter_mut().find(|tag| tag.key == key) {
            Some(tag) => tag.value = value,
            None => tags.push(network::Tag { key, value }),
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(invalid(format!("A resource can have at most {TAGS_MAX} tags")));
    }
    Ok(())
}

pub(super) fn new_tags(given: Vec<Tag>) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    add_tags(&mut tags, given)?;
    Ok(tags)
}

/// A resource that a Describe call was asked for and that does not exist.
#[derive(Serialize)]
pub(super) struct Failure {
    arn: String,
    reason: &'static str,
}

impl Failure {
    pub(super) fn missing(arn: impl Into<String>) -> Self {
        Self { arn: arn.into(), reason: "MISSING" }
    }
}

/// InvalidParameterException.
pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::sender("InvalidParameterException", message)
}

/// ClientException.
pub(super) fn client(message: impl Into<String>) -> ApiError {
    ApiError::sender("ClientException", message)
}

/// An ARN of the caller's account and region.
pub(super) fn arn(caller: &Caller, resource: impl std::fmt::Display) -> Arn {
    Arn::new("ecs", &caller.region, &caller.account, resource)
}

/// The cluster by name or ARN; `default` when none is named.
pub(super) fn cluster<'a>(
    state: &'a State,
    caller: &Caller,
    named: Option<&str>,
) -> Result<&'a Cluster, ApiError> {
    let key = cluster_arn(caller, named.unwrap_or("default"));
    state
        .clusters
        .get(key.as_str())
        .map(AsRef::as_ref)
        .ok_or_else(|| ApiError::not_found("ClusterNotFoundException", "Cluster not found."))
}

/// A cluster's ARN by its name or ARN.
pub(super) fn cluster_arn(caller: &Caller, named: &str) -> Arn {
    if named.starts_with("arn:") { Arn::from(named) } else { arn(caller, format_args!("cluster/{named}")) }
}

/// A service of a cluster by name or ARN.
pub(super) fn service<'a>(state: &'a State, cluster: &Cluster, named: &str) -> Option<&'a EcsService> {
    let key = if named.starts_with("arn:") {
        named.to_owned()
    } else {
        format!("{}/{named}", cluster.arn.0.replacen(":cluster/", ":service/", 1))
    };
    state.services.get(&key).map(AsRef::as_ref).filter(|service| service.cluster_arn == cluster.arn)
}

/// A task of a cluster by id or ARN.
pub(super) fn task<'a>(state: &'a State, cluster: &Cluster, named: &str) -> Option<&'a Task> {
    let key = if named.starts_with("arn:") {
        named.to_owned()
    } else {
        format!("{}/{named}", cluster.arn.0.replacen(":cluster/", ":task/", 1))
    };
    state.tasks.get(&key).map(AsRef::as_ref).filter(|task| task.cluster_arn == cluster.arn)
}

/// A task definition by `family` (its newest active revision), `family:revision`, or ARN.
pub(super) fn task_definition<'a>(state: &'a State, named: &str) -> Option<&'a TaskDefinition> {
    let name = match named.starts_with("arn:") {
        true => named.rsplit_once(":task-definition/")?.1,
        false => named,
    };
    match name.rsplit_once(':') {
        Some((family, revision)) => {
            let revision: u32 = revision.parse().ok()?;
            state.task_definitions.get(&format!("{family}:{revision:08}")).map(AsRef::as_ref)
        }
        None => revisions(state, name).filter(|definition| definition.status == "ACTIVE").last(),
    }
}

/// The revisions of a family, oldest first.
pub(super) fn revisions<'a>(
    state: &'a State,
    family: &str,
) -> impl Iterator<Item = &'a TaskDefinition> + use<'a> {
    let family = family.to_owned();
    state
        .task_definitions
        .range(format!("{family}:")..)
        .map(|(_, definition)| definition.as_ref())
        .take_while(move |definition| definition.family == family)
}

/// The container instances of a cluster: instances whose user data names it.
pub(super) fn container_instances<'a>(
    state: &'a State,
    cluster: &'a Cluster,
) -> impl Iterator<Item = &'a Instance> {
    state
        .instances
        .values()
        .map(AsRef::as_ref)
        .filter(|instance| instance.state.is_alive() && instance.ecs_cluster.as_ref() == Some(&cluster.name))
}

/// The ARN of an instance as a container instance: ECS has 32 hex digits where EC2 has 17.
pub(super) fn container_instance_arn(cluster: &Arn, instance_id: &str) -> Arn {
    let digits = instance_id.strip_prefix("i-").unwrap_or(instance_id);
    Arn(format!("{}/{digits:0>32}", cluster.0.replacen(":cluster/", ":container-instance/", 1)))
}

/// Refuses what is not built: every member that is set, but for those in `recorded`, which are kept as given. A member
/// that is null, false, empty or a word for nothing asks for nothing.
pub(super) fn keep_recorded(
    mut rest: Map<String, Value>,
    path: &str,
    recorded: &[&str],
) -> Result<Recorded, ApiError> {
    rest.retain(|_, value| !asks_for_nothing(value));
    if let Some(name) = rest.keys().find(|name| !recorded.contains(&name.as_str())) {
        return Err(client(format!("{path}{name} is not supported.")));
    }
    Ok(rest)
}

fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => matches!(text.as_str(), "" | "NONE" | "DISABLED" | "disabled"),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.values().all(asks_for_nothing),
        _ => false,
    }
}

/// Whether a name has 1 to 255 letters, digits, hyphens and underscores.
pub(super) fn is_name(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
}

/// AWS's limit on tags of a resource.
const TAGS_MAX: usize = 50;
