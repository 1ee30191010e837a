//! servicediscovery: HTTP and private DNS namespaces.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    cloud_map::{
        self, Filter, IdInput, ListInput, OperationAnswer, Tag, done, invalid, namespace, owner, services_of,
    },
    operation,
    timestamp::seconds,
};
use crate::model::{
    Resource,
    discovery::{Namespace, NamespaceKind, Operation},
    id::{Arn, VpcId},
    state::{Draft, State},
};

/// The operations on namespaces.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateHttpNamespace", create_http),
    operation!("CreatePrivateDnsNamespace", create_private_dns),
    operation!("UpdateHttpNamespace", update_http),
    operation!("UpdatePrivateDnsNamespace", update_private_dns),
    operation!("DeleteNamespace", delete),
    operation!("GetNamespace", read),
    operation!("ListNamespaces", list),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    name: String,
    creator_request_id: Option<String>,
    description: Option<String>,
    vpc: Option<String>,
    properties: Option<Properties>,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Properties {
    dns_properties: DnsProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DnsProperties {
    #[serde(rename = "SOA")]
    soa: Soa,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Soa {
    #[serde(rename = "TTL")]
    ttl: u32,
}

fn create_http(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<OperationAnswer, ApiError> {
    if !is_printable(&input.name, HTTP_NAME_MAX) {
        return Err(invalid(format!("Name has 1 to {HTTP_NAME_MAX} printable characters without spaces.")));
    }
    create(draft, caller, input, NamespaceKind::Http)
}

/// A private DNS namespace is there once it is committed: its zone is made from the state, not filled by a call.
fn create_private_dns(
    draft: &mut Draft,
    caller: &Caller,
    mut input: CreateInput,
) -> Result<OperationAnswer, ApiError> {
    let vpc_id = VpcId(input.vpc.clone().unwrap_or_default());
    if draft.one::<crate::model::network::Vpc>(vpc_id.as_str()).is_none() {
        return Err(invalid(format!("The VPC {vpc_id} does not exist in region {}.", caller.region)));
    }
    input.name = input.name.trim_end_matches('.').to_owned();
    if !is_dns_name(&input.name) {
        return Err(invalid(format!(
            "Name is not a DNS name of at most {DNS_NAME_MAX} characters: {}",
            input.name
        )));
    }
    let soa_ttl_s = input.properties.as_ref().map_or(SOA_TTL_S, |given| given.dns_properties.soa.ttl);
    create(draft, caller, input, NamespaceKind::DnsPrivate { vpc_id, soa_ttl_s })
}

fn create(
    draft: &mut Draft,
    caller: &Caller,
    input: CreateInput,
    kind: NamespaceKind,
) -> Result<OperationAnswer, ApiError> {
    // Names that differ only by case are one name in DNS.
    let is_same = |name: &str| match kind {
        NamespaceKind::Http => name == input.name,
        NamespaceKind::DnsPrivate { .. } => name.eq_ignore_ascii_case(&input.name),
    };
    let clashes = |row: &Namespace| is_same(&row.name) && place(&row.kind) == place(&kind);
    if let Some(existing) = draft.all::<Namespace>().find(|row| clashes(row)) {
        // The same request once more is answered as before; its operation may be forgotten by then.
        let before = draft.all::<Operation>().find(|operation| {
            operation.kind == "CREATE_NAMESPACE" && operation.targets.get("NAMESPACE") == Some(&existing.id)
        });
        return match before {
            Some(operation)
                if input.creator_request_id.is_some()
                    && existing.creator_request_id == input.creator_request_id =>
            {
                Ok(OperationAnswer { operation_id: operation.id.clone() })
            }
            _ => Err(ApiError::conflict(
                "NamespaceAlreadyExists",
                format!("The namespace {} already exists.", input.name),
            )
            .with_field("NamespaceId", existing.id.clone())
            .with_field("CreatorRequestId", existing.creator_request_id.clone())),
        };
    }
    if draft.all::<Namespace>().count() >= NAMESPACES_MAX {
        return Err(ApiError::limit(
            "ResourceLimitExceeded",
            format!("The quota of {NAMESPACES_MAX} namespaces is reached."),
        ));
    }
    let id = format!("ns-{}", draft.alphanumerics(16));
    draft.put(Namespace {
        arn: Arn::new("servicediscovery", &caller.region, &caller.account, format_args!("namespace/{id}")),
        id: id.clone(),
        name: input.name,
        kind,
        description: input.description,
        created_at: draft.now(),
        creator_request_id: input.creator_request_id,
        tags: cloud_map::new_tags(input.tags)?,
    });
    Ok(done(draft, "CREATE_NAMESPACE", &[("NAMESPACE", &id)]))
}

/// Where a namespace's name must be unique: one VPC, or the whole account.
fn place(kind: &NamespaceKind) -> Option<&VpcId> {
    match kind {
        NamespaceKind::Http => None,
        NamespaceKind::DnsPrivate { vpc_id, .. } => Some(vpc_id),
    }
}

fn is_printable(name: &str, most: usize) -> bool {
    (1..=most).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic())
        && !name.starts_with("arn:")
}

/// Whether it is one or more labels of letters, digits, hyphens and underscores, at most 253 characters.
pub(super) fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    is_printable(name, DNS_NAME_MAX) && name.split('.').all(is_label)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateInput {
    id: String,
    namespace: ChangeInput,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeInput {
    description: Option<String>,
    properties: Option<Properties>,
}

fn update_http(draft: &mut Draft, _: &Caller, input: UpdateInput) -> Result<OperationAnswer, ApiError> {
    update(draft, input, false)
}

fn update_private_dns(
    draft: &mut Draft,
    _: &Caller,
    input: UpdateInput,
) -> Result<OperationAnswer, ApiError> {
    update(draft, input, true)
}

fn update(draft: &mut Draft, input: UpdateInput, is_dns: bool) -> Result<OperationAnswer, ApiError> {
    let mut changed = namespace(draft.state(), &input.id)?.clone();
    match (&mut changed.kind, is_dns) {
        (NamespaceKind::DnsPrivate { soa_ttl_s, .. }, true) => {
            *soa_ttl_s = input.namespace.properties.map_or(*soa_ttl_s, |given| given.dns_properties.soa.ttl);
        }
        (NamespaceKind::Http, false) => {}
        _ => return Err(invalid(format!("The namespace {} is of another type.", changed.id))),
    }
    changed.description = input.namespace.description.or(changed.description);
    let id = changed.id.clone();
    draft.put(changed);
    Ok(done(draft, "UPDATE_NAMESPACE", &[("NAMESPACE", &id)]))
}

fn delete(draft: &mut Draft, _: &Caller, input: IdInput) -> Result<OperationAnswer, ApiError> {
    let id = namespace(draft.state(), &input.id)?.id.clone();
    if services_of(draft.state(), &id).next().is_some() {
        return Err(ApiError::conflict(
            "ResourceInUse",
            format!("The namespace {id} has services. Delete them first."),
        ));
    }
    draft.remove::<Namespace>(&id);
    Ok(done(draft, "DELETE_NAMESPACE", &[("NAMESPACE", &id)]))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReadAnswer {
    namespace: Value,
}

fn read(draft: &mut Draft, caller: &Caller, input: IdInput) -> Result<ReadAnswer, ApiError> {
    let row = namespace(draft.state(), &input.id)?;
    let mut view = summary(draft.state(), caller, row);
    if let Value::Object(members) = &mut view {
        members.insert("CreatorRequestId".to_owned(), json!(row.creator_request_id));
    }
    Ok(ReadAnswer { namespace: view })
}

fn summary(state: &State, caller: &Caller, row: &Namespace) -> Value {
    let http = json!({"HttpName": row.name});
    let properties = match &row.kind {
        NamespaceKind::Http => json!({"HttpProperties": http}),
        NamespaceKind::DnsPrivate { soa_ttl_s, .. } => json!({
            "DnsProperties": {"HostedZoneId": hosted_zone_id(&row.id), "SOA": {"TTL": soa_ttl_s}},
            "HttpProperties": http,
        }),
    };
    json!({
        "Id": row.id,
        "Arn": row.arn,
        "ResourceOwner": owner(caller),
        "Name": row.name,
        "Type": type_word(&row.kind),
        "Description": row.description,
        "ServiceCount": services_of(state, &row.id).count(),
        "Properties": properties,
        "CreateDate": seconds(row.created_at),
    })
}

fn type_word(kind: &NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::Http => "HTTP",
        NamespaceKind::DnsPrivate { .. } => "DNS_PRIVATE",
    }
}

/// The zone has no life of its own here; its id has Route 53's form and follows from the namespace's.
fn hosted_zone_id(namespace_id: &str) -> String {
    format!("Z{}", namespace_id.trim_start_matches("ns-").to_uppercase())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    namespaces: Vec<Value>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, caller: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    Filter::check(&input.filters, &["TYPE", "NAME", "HTTP_NAME", "RESOURCE_OWNER"])?;
    let is_wanted = |row: &Namespace| {
        input.filters.iter().all(|filter| match filter.name.as_str() {
            "TYPE" => filter.admits(type_word(&row.kind)),
            "RESOURCE_OWNER" => filter.admits("SELF"),
            _ => filter.admits(&row.name),
        })
    };
    let state = draft.state();
    let rows = state
        .namespaces
        .values()
        .filter(|row| is_wanted(row))
        .map(|row| (row.key(), summary(state, caller, row)));
    let (namespaces, next_token) = input.page(rows)?;
    Ok(ListAnswer { namespaces, next_token })
}

/// AWS's quota on namespaces in a region.
const NAMESPACES_MAX: usize = 50;

/// The model's limit on the name of an HTTP namespace.
const HTTP_NAME_MAX: usize = 1_024;

/// The model's limit on the name of a private DNS namespace.
const DNS_NAME_MAX: usize = 253;

/// The SOA record's TTL when none is given. AWS does not state its own.
const SOA_TTL_S: u32 = 15;
