//! servicediscovery: what its resources share: tags, operations, lookups by id, ARN or name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller,
    paging::{Page, page},
};
use crate::model::{
    discovery::{DiscoveryInstance, DiscoveryService, Namespace, Operation},
    network::{self, Tags},
    state::{Draft, State},
};

/// An answer without members.
#[derive(Serialize)]
pub(super) struct Nothing {}

/// A tag on the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    key: String,
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
        return Err(ApiError::limit(
            "TooManyTagsException",
            format!("A resource can have at most {TAGS_MAX} tags."),
        ));
    }
    Ok(())
}

pub(super) fn new_tags(given: Vec<Tag>) -> Result<Tags, ApiError> {
    let mut tags = Tags::new();
    add_tags(&mut tags, given)?;
    Ok(tags)
}

/// InvalidInput.
pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::sender("InvalidInput", message)
}

/// What an asynchronous call is answered with.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OperationAnswer {
    pub(super) operation_id: String,
}

/// Puts an operation that is done once it is committed.
pub(super) fn done(draft: &mut Draft, kind: &str, targets: &[(&str, &str)]) -> OperationAnswer {
    put_operation(draft, kind, "SUCCESS", targets)
}

/// Puts an operation that waits until every data plane has applied the change; the scheduler ends it.
pub(super) fn submitted(draft: &mut Draft, kind: &str, targets: &[(&str, &str)]) -> OperationAnswer {
    put_operation(draft, kind, "SUBMITTED", targets)
}

fn put_operation(draft: &mut Draft, kind: &str, status: &str, targets: &[(&str, &str)]) -> OperationAnswer {
    // AWS's form: 32 alphanumerics, a hyphen, 8 more.
    let operation_id = format!("{}-{}", draft.alphanumerics(32), draft.alphanumerics(8));
    let targets: BTreeMap<String, String> =
        targets.iter().map(|(kind, id)| ((*kind).to_owned(), (*id).to_owned())).collect();
    draft.put(Operation {
        id: operation_id.clone(),
        kind: kind.to_owned(),
        status: status.to_owned(),
        targets,
        error_message: None,
        error_code: None,
        created_at: draft.now(),
        updated_at: draft.now(),
        waits_for_generation: None,
    });
    OperationAnswer { operation_id }
}

/// A namespace by its id or ARN.
pub(super) fn namespace<'a>(state: &'a State, named: &str) -> Result<&'a Namespace, ApiError> {
    let id = named.rsplit_once(":namespace/").map_or(named, |(_, id)| id);
    state.namespaces.get(id).map(AsRef::as_ref).ok_or_else(|| {
        ApiError::not_found("NamespaceNotFound", format!("Failed to find the namespace {named}."))
    })
}

/// A service by its id or ARN.
pub(super) fn service<'a>(state: &'a State, named: &str) -> Result<&'a DiscoveryService, ApiError> {
    let id = named.rsplit_once(":service/").map_or(named, |(_, id)| id);
    state
        .discovery_services
        .get(id)
        .map(AsRef::as_ref)
        .ok_or_else(|| ApiError::not_found("ServiceNotFound", format!("Failed to find the service {named}.")))
}

/// A service by the names of its namespace and itself, as DiscoverInstances has it.
pub(super) fn service_by_name<'a>(
    state: &'a State,
    namespace: &str,
    service: &str,
) -> Result<&'a DiscoveryService, ApiError> {
    let mut namespaces = state.namespaces.values().filter(|row| row.name == namespace).peekable();
    if namespaces.peek().is_none() {
        return Err(ApiError::not_found(
            "NamespaceNotFound",
            format!("Failed to find the namespace {namespace}."),
        ));
    }
    // Private namespaces of two VPCs may share their name.
    namespaces
        .find_map(|namespace| services_of(state, &namespace.id).find(|row| row.name == service))
        .ok_or_else(|| {
            ApiError::not_found("ServiceNotFound", format!("Failed to find the service {service}."))
        })
}

/// The services of a namespace.
pub(super) fn services_of<'a>(
    state: &'a State,
    namespace_id: &str,
) -> impl Iterator<Item = &'a DiscoveryService> + use<'a> {
    let namespace_id = namespace_id.to_owned();
    state
        .discovery_services
        .values()
        .map(AsRef::as_ref)
        .filter(move |service| service.namespace_id == namespace_id)
}

/// Refuses a member that cannot begin the DNS name that is made of these parts.
pub(super) fn check_dns_name(member: &str, parts: &[&str]) -> Result<(), ApiError> {
    let name = parts.join(".");
    let fits = name.len() <= DNS_NAME_MAX && name.split('.').all(|label| (1..=63).contains(&label.len()));
    if fits {
        return Ok(());
    }
    Err(invalid(format!(
        "{member} makes {name} no DNS name: labels have 1 to 63 characters, and all together at most {DNS_NAME_MAX}."
    )))
}

/// The registered instances of a service; those that drain are not.
pub(super) fn instances_of<'a>(
    state: &'a State,
    service_id: &str,
) -> impl Iterator<Item = &'a DiscoveryInstance> + use<'a> {
    let service_id = service_id.to_owned();
    state
        .discovery_instances
        .range(format!("{service_id}/")..)
        .map(|(_, instance)| instance.as_ref())
        .take_while(move |instance| instance.service_id == service_id)
        .filter(|instance| instance.draining_until.is_none())
}

/// A registered instance of a service.
pub(super) fn instance<'a>(
    state: &'a State,
    service: &DiscoveryService,
    instance_id: &str,
) -> Result<&'a DiscoveryInstance, ApiError> {
    state
        .discovery_instances
        .get(&format!("{}/{instance_id}", service.id))
        .map(AsRef::as_ref)
        .filter(|instance| instance.draining_until.is_none())
        .ok_or_else(|| {
            ApiError::not_found("InstanceNotFound", format!("Failed to find the instance {instance_id}."))
        })
}

/// A list in pages, of what filters admit.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListInput {
    next_token: Option<String>,
    max_results: Option<u32>,
    #[serde(default)]
    pub(super) filters: Vec<Filter>,
}

impl ListInput {
    /// The page of `rows` that is asked for. Rows come in rising order of their keys.
    pub(super) fn page<T>(&self, rows: impl IntoIterator<Item = (String, T)>) -> Result<Page<T>, ApiError> {
        page(rows, self.next_token.as_deref(), self.max_results, PAGE_MAX)
    }
}

/// Names one resource.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct IdInput {
    pub(super) id: String,
}

/// A filter of a list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Filter {
    pub(super) name: String,
    values: Vec<String>,
    condition: Option<String>,
}

impl Filter {
    /// Whether the filter admits a value, by EQ, IN or BEGINS_WITH.
    pub(super) fn admits(&self, value: &str) -> bool {
        match self.condition.as_deref() {
            Some("BEGINS_WITH") => self.values.iter().any(|prefix| value.starts_with(prefix.as_str())),
            _ => self.values.iter().any(|wanted| wanted == value),
        }
    }

    /// Whether a time in milliseconds is between the filter's two, in seconds.
    pub(super) fn admits_time(&self, at_ms: u64) -> bool {
        let mut bounds = self.values.iter().filter_map(|value| value.parse::<u64>().ok());
        match (bounds.next(), bounds.next()) {
            (Some(from), Some(to)) => (from..=to).contains(&(at_ms / 1_000)),
            _ => false,
        }
    }

    /// Refuses a condition that makes no sense for the filter's name and number of values.
    pub(super) fn check(filters: &[Self], names: &[&str]) -> Result<(), ApiError> {
        for filter in filters {
            if !names.contains(&filter.name.as_str()) {
                return Err(invalid(format!("The filter {} is not supported here.", filter.name)));
            }
            let lawful = match (filter.condition.as_deref(), filter.name.as_str()) {
                (Some("BETWEEN"), "UPDATE_DATE") => filter.values.len() == 2,
                (Some("BETWEEN"), _) | (_, "UPDATE_DATE") => false,
                (Some("IN"), _) => !filter.values.is_empty(),
                (Some("BEGINS_WITH"), name) => {
                    matches!(name, "NAME" | "HTTP_NAME") && filter.values.len() == 1
                }
                _ => filter.values.len() == 1,
            };
            if !lawful {
                return Err(invalid(format!(
                    "The filter {} does not have this condition, or not with {} values.",
                    filter.name,
                    filter.values.len()
                )));
            }
        }
        Ok(())
    }
}

/// The account that owns everything here: the caller's.
pub(super) fn owner(caller: &Caller) -> String {
    caller.account.clone()
}

/// The longest DNS name, as text.
const DNS_NAME_MAX: usize = 253;

/// AWS's limit on tags of a resource.
const TAGS_MAX: usize = 200;

/// AWS's limit on MaxResults.
const PAGE_MAX: u32 = 100;
