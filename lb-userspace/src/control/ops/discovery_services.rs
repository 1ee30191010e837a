//! servicediscovery: services: what instances are registered with, and how they appear in DNS.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    cloud_map::{
        self, Filter, IdInput, ListInput, Nothing, OperationAnswer, Tag, check_dns_name, done, instances_of,
        invalid, namespace, owner, service, services_of,
    },
    operation,
    timestamp::seconds,
};
use crate::model::{
    Resource,
    discovery::{DiscoveryInstance, DiscoveryService, DnsConfig, NamespaceKind},
    id::Arn,
    state::{Draft, State},
};

/// The operations on services.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateService", create),
    operation!("UpdateService", update),
    operation!("DeleteService", delete),
    operation!("GetService", read),
    operation!("ListServices", list),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    name: String,
    namespace_id: Option<String>,
    creator_request_id: Option<String>,
    description: Option<String>,
    dns_config: Option<DnsInput>,
    health_check_config: Option<Value>,
    health_check_custom_config: Option<Value>,
    r#type: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DnsInput {
    namespace_id: Option<String>,
    routing_policy: Option<String>,
    dns_records: Vec<RecordInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecordInput {
    r#type: String,
    #[serde(rename = "TTL")]
    ttl: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceAnswer {
    service: Value,
}

fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<ServiceAnswer, ApiError> {
    let named = input
        .namespace_id
        .as_deref()
        .or(input.dns_config.as_ref().and_then(|dns| dns.namespace_id.as_deref()))
        .ok_or_else(|| invalid("NamespaceId is required."))?;
    let namespace = namespace(draft.state(), named)?.clone();
    if !is_service_name(&input.name) {
        return Err(invalid(format!(
            "Name is not one or more DNS labels, in all at most 127 characters: {}",
            input.name
        )));
    }
    // Names that differ only by case are one name in DNS.
    let same = |row: &&DiscoveryService| row.name.eq_ignore_ascii_case(&input.name);
    if let Some(existing) = services_of(draft.state(), &namespace.id).find(same) {
        let is_repeated = existing.name == input.name
            && input.creator_request_id.is_some()
            && existing.creator_request_id == input.creator_request_id;
        if is_repeated {
            return Ok(ServiceAnswer { service: view(draft.state(), caller, existing) });
        }
        return Err(ApiError::conflict(
            "ServiceAlreadyExists",
            format!("The service {} already exists in the namespace.", input.name),
        )
        .with_field("ServiceId", existing.id.clone())
        .with_field("CreatorRequestId", existing.creator_request_id.clone()));
    }
    if input.health_check_config.is_some() {
        return Err(invalid("HealthCheckConfig is for public DNS namespaces; use HealthCheckCustomConfig."));
    }
    let dns = match (&namespace.kind, input.dns_config, input.r#type.as_deref()) {
        (NamespaceKind::Http, None, _) | (NamespaceKind::DnsPrivate { .. }, None, Some("HTTP")) => None,
        (NamespaceKind::Http, Some(_), _) => {
            return Err(invalid("DnsConfig is not for services of an HTTP namespace."));
        }
        (NamespaceKind::DnsPrivate { .. }, Some(_), Some("HTTP")) => {
            return Err(invalid("DnsConfig is not for services of type HTTP."));
        }
        (NamespaceKind::DnsPrivate { .. }, Some(dns), _) => {
            check_dns_name("Name", &[&input.name, &namespace.name])?;
            Some(dns_config(dns)?)
        }
        (NamespaceKind::DnsPrivate { .. }, None, _) => {
            return Err(invalid("DnsConfig is required in a DNS namespace, unless Type is HTTP."));
        }
    };
    let id = format!("srv-{}", draft.alphanumerics(16));
    let service = DiscoveryService {
        arn: Arn::new("servicediscovery", &caller.region, &caller.account, format_args!("service/{id}")),
        id,
        name: input.name,
        namespace_id: namespace.id,
        description: input.description,
        dns,
        custom_health: input.health_check_custom_config.is_some(),
        instances_revision: 1,
        created_at: draft.now(),
        creator_request_id: input.creator_request_id,
        tags: cloud_map::new_tags(input.tags)?,
    };
    let answer = ServiceAnswer { service: view(draft.state(), caller, &service) };
    draft.put(service);
    Ok(answer)
}

fn is_service_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| is_inner(byte) || byte == b'-')
            && label.bytes().next().is_some_and(is_inner)
            && label.bytes().last().is_some_and(is_inner)
            && (label.len() > 1 || label != "_")
    };
    (1..=127).contains(&name.len()) && name.split('.').all(is_label)
}

fn dns_config(input: DnsInput) -> Result<DnsConfig, ApiError> {
    let routing_policy = input.routing_policy.unwrap_or_else(|| "MULTIVALUE".to_owned());
    let mut types: Vec<&str> = input.dns_records.iter().map(|record| record.r#type.as_str()).collect();
    types.sort_unstable();
    match (types.as_slice(), routing_policy.as_str()) {
        (["A"] | ["AAAA"] | ["A", "AAAA"] | ["SRV"], _) | (["CNAME"], "WEIGHTED") => {}
        (["CNAME"], _) => return Err(invalid("A CNAME record needs the routing policy WEIGHTED.")),
        _ => return Err(invalid("DnsRecords must be A, AAAA, A and AAAA, SRV, or CNAME.")),
    }
    let records = input.dns_records.into_iter().map(|record| (record.r#type, record.ttl)).collect();
    Ok(DnsConfig { routing_policy, records })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateInput {
    id: String,
    service: ChangeInput,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeInput {
    description: Option<String>,
    dns_config: Option<DnsInput>,
    health_check_config: Option<Value>,
}

/// Changes the description and the records' TTLs. AWS takes records away that the change leaves out; here what is left
/// out stays, so that a change of the description alone cannot take a service out of DNS.
fn update(draft: &mut Draft, _: &Caller, input: UpdateInput) -> Result<OperationAnswer, ApiError> {
    let mut changed = service(draft.state(), &input.id)?.clone();
    if input.service.health_check_config.is_some() {
        return Err(invalid("HealthCheckConfig is for public DNS namespaces."));
    }
    if let Some(given) = input.service.dns_config {
        let Some(dns) = &mut changed.dns else {
            return Err(invalid("The service has no DnsConfig, and none can be added."));
        };
        for record in given.dns_records {
            match dns.records.iter_mut().find(|(kind, _)| *kind == record.r#type) {
                Some((_, ttl)) => *ttl = record.ttl,
                None => return Err(invalid("The types of a service's records cannot be changed.")),
            }
        }
    }
    changed.description = input.service.description.or(changed.description);
    let id = changed.id.clone();
    draft.put(changed);
    Ok(done(draft, "UPDATE_SERVICE", &[("SERVICE", &id)]))
}

fn delete(draft: &mut Draft, _: &Caller, input: IdInput) -> Result<Nothing, ApiError> {
    let id = service(draft.state(), &input.id)?.id.clone();
    if instances_of(draft.state(), &id).next().is_some() {
        return Err(ApiError::conflict(
            "ResourceInUse",
            format!("The service {id} has instances. Deregister them first."),
        ));
    }
    let prefix = format!("{id}/");
    let draining: Vec<String> =
        draft.state().with_prefix::<DiscoveryInstance>(&prefix).map(|row| row.key()).collect();
    draining.iter().for_each(|key| _ = draft.remove::<DiscoveryInstance>(key));
    draft.remove::<DiscoveryService>(&id);
    Ok(Nothing {})
}

fn read(draft: &mut Draft, caller: &Caller, input: IdInput) -> Result<ServiceAnswer, ApiError> {
    let row = service(draft.state(), &input.id)?;
    Ok(ServiceAnswer { service: view(draft.state(), caller, row) })
}

fn view(state: &State, caller: &Caller, row: &DiscoveryService) -> Value {
    let mut view = summary(state, caller, row);
    if let Value::Object(members) = &mut view {
        members.insert("NamespaceId".to_owned(), json!(row.namespace_id));
        members.insert("CreatorRequestId".to_owned(), json!(row.creator_request_id));
    }
    view
}

fn summary(state: &State, caller: &Caller, row: &DiscoveryService) -> Value {
    let is_dns_namespace = state
        .namespaces
        .get(&row.namespace_id)
        .is_some_and(|namespace| matches!(namespace.kind, NamespaceKind::DnsPrivate { .. }));
    let dns = row.dns.as_ref().map(|dns| {
        let records: Vec<Value> =
            dns.records.iter().map(|(kind, ttl)| json!({"Type": kind, "TTL": ttl})).collect();
        json!({
            "NamespaceId": row.namespace_id,
            "RoutingPolicy": dns.routing_policy,
            "DnsRecords": records,
        })
    });
    json!({
        "Id": row.id,
        "Arn": row.arn,
        "ResourceOwner": owner(caller),
        "CreatedByAccount": owner(caller),
        "Name": row.name,
        "Type": if is_dns_namespace && dns.is_some() { "DNS_HTTP" } else { "HTTP" },
        "Description": row.description,
        "InstanceCount": instances_of(state, &row.id).count(),
        "DnsConfig": dns,
        "HealthCheckCustomConfig": row.custom_health.then(|| json!({"FailureThreshold": 1})),
        "CreateDate": seconds(row.created_at),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    services: Vec<Value>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, caller: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    Filter::check(&input.filters, &["NAMESPACE_ID", "RESOURCE_OWNER"])?;
    let state = draft.state();
    let is_wanted = |row: &DiscoveryService| {
        input.filters.iter().all(|filter| match filter.name.as_str() {
            "RESOURCE_OWNER" => filter.admits("SELF"),
            _ => {
                let arn = state.namespaces.get(&row.namespace_id).map(|namespace| namespace.arn.as_str());
                filter.admits(&row.namespace_id) || arn.is_some_and(|arn| filter.admits(arn))
            }
        })
    };
    let rows = state
        .discovery_services
        .values()
        .filter(|row| is_wanted(row))
        .map(|row| (row.key(), summary(state, caller, row)));
    let (services, next_token) = input.page(rows)?;
    Ok(ListAnswer { services, next_token })
}
