//! servicediscovery: instances: registered, found, deregistered.
//!
//! After: the gateways and links are told with the next generation, which the operation waits for. A deregistered
//! instance stays in the links' slices, draining, until what it was asked is answered.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    cloud_map::{
        Nothing, OperationAnswer, check_dns_name, instance, instances_of, invalid, owner, service,
        service_by_name, services_of, submitted,
    },
    namespaces::is_dns_name,
    operation,
    paging::page,
};
use crate::model::{
    discovery::{DiscoveryInstance, DiscoveryService, NamespaceKind, Operation},
    network::Instance,
    state::{Draft, State},
};
use crate::snapshot::discovery::{HealthStatusFilter, discover, drain_ms};

/// The operations on instances.
pub const OPERATIONS: &[Entry] = &[
    operation!("RegisterInstance", register),
    operation!("DeregisterInstance", deregister),
    operation!("GetInstance", read),
    operation!("ListInstances", list),
    operation!("DiscoverInstances", discover_instances),
    operation!("DiscoverInstancesRevision", discover_revision),
    operation!("UpdateInstanceCustomHealthStatus", update_health),
    operation!("GetInstancesHealthStatus", read_health),
];

type Attributes = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RegisterInput {
    service_id: String,
    instance_id: String,
    creator_request_id: Option<String>,
    attributes: Attributes,
}

/// Registers an instance; one with this id takes the new attributes.
fn register(draft: &mut Draft, _: &Caller, input: RegisterInput) -> Result<OperationAnswer, ApiError> {
    let service = service(draft.state(), &input.service_id)?.clone();
    let key = format!("{}/{}", service.id, input.instance_id);
    let known = draft.one::<DiscoveryInstance>(&key).filter(|row| row.draining_until.is_none()).cloned();
    if let Some(running) = in_flight(draft, &service.id, &input.instance_id) {
        let is_repeated = input.creator_request_id.is_some()
            && known.as_ref().is_some_and(|row| row.creator_request_id == input.creator_request_id);
        return match is_repeated && running.kind == "REGISTER_INSTANCE" {
            true => Ok(OperationAnswer { operation_id: running.id.clone() }),
            false => Err(duplicate(running)),
        };
    }
    let attributes = check_attributes(draft.state(), &service, input.attributes)?;
    check_own_name(draft.state(), &service, &input.instance_id)?;
    if known.is_none() {
        check_quotas(draft.state(), &service)?;
    }
    let healthy = match attributes.get("AWS_INIT_HEALTH_STATUS").map(String::as_str) {
        Some(word) => word == "HEALTHY",
        None => known.is_none_or(|row| row.healthy),
    };
    draft.put(DiscoveryInstance {
        service_id: service.id.clone(),
        id: input.instance_id.clone(),
        attributes,
        creator_request_id: input.creator_request_id,
        healthy,
        draining_until: None,
    });
    draft.edit::<DiscoveryService>(&service.id, |row| row.instances_revision += 1);
    Ok(submitted(draft, "REGISTER_INSTANCE", &[("INSTANCE", &input.instance_id), ("SERVICE", &service.id)]))
}

/// The operation on this instance that is not done yet: there is one at a time.
fn in_flight<'a>(draft: &'a Draft, service_id: &str, instance_id: &str) -> Option<&'a Operation> {
    let is = |operation: &Operation, kind: &str, id: &str| {
        operation.targets.get(kind).is_some_and(|target| target == id)
    };
    draft.all::<Operation>().map(AsRef::as_ref).find(|operation: &&Operation| {
        matches!(operation.status.as_str(), "SUBMITTED" | "PENDING")
            && is(operation, "SERVICE", service_id)
            && is(operation, "INSTANCE", instance_id)
    })
}

fn duplicate(running: &Operation) -> ApiError {
    ApiError::conflict("DuplicateRequest", "Another operation on this instance is in progress.")
        .with_field("DuplicateOperationId", running.id.clone())
}

/// The attributes as they are stored: lawful, sufficient for the service's records, an EC2 instance resolved.
fn check_attributes(
    state: &State,
    service: &DiscoveryService,
    mut attributes: Attributes,
) -> Result<Attributes, ApiError> {
    let mut custom = 0;
    for (key, value) in &attributes {
        let lawful = match key.as_str() {
            "AWS_INSTANCE_IPV4" => value.parse::<Ipv4Addr>().is_ok(),
            "AWS_INSTANCE_IPV6" => value.parse::<Ipv6Addr>().is_ok(),
            "AWS_INSTANCE_PORT" => value.parse::<u16>().is_ok_and(|port| port > 0),
            "AWS_INSTANCE_CNAME" => is_dns_name(value.trim_end_matches('.')),
            "AWS_EC2_INSTANCE_ID" => !value.is_empty(),
            "AWS_INIT_HEALTH_STATUS" => {
                service.custom_health && matches!(value.as_str(), "HEALTHY" | "UNHEALTHY")
            }
            other => {
                custom += 1;
                !other.is_empty() && !other.starts_with("AWS_")
            }
        };
        if !lawful {
            return Err(invalid(format!(
                "The attribute {key} may not be here, or not have the value '{value}'."
            )));
        }
    }
    if custom > CUSTOM_ATTRIBUTES_MAX {
        return Err(invalid(format!(
            "An instance can have at most {CUSTOM_ATTRIBUTES_MAX} custom attributes."
        )));
    }
    let length: usize =
        attributes.iter().map(|(key, value)| key.chars().count() + value.chars().count()).sum();
    if length > ATTRIBUTES_LENGTH_MAX {
        return Err(invalid(format!(
            "All attributes together can have at most {ATTRIBUTES_LENGTH_MAX} characters."
        )));
    }
    if let Some(id) = attributes.get("AWS_EC2_INSTANCE_ID").cloned() {
        let is_http = state
            .namespaces
            .get(&service.namespace_id)
            .is_some_and(|namespace| namespace.kind == NamespaceKind::Http);
        if !is_http || attributes.keys().any(|key| key.starts_with("AWS_INSTANCE_")) {
            return Err(invalid(
                "AWS_EC2_INSTANCE_ID is for HTTP namespaces, and without other AWS_INSTANCE_ attributes.",
            ));
        }
        let address = state
            .instances
            .get(&id)
            .map(|instance: &std::sync::Arc<Instance>| instance.address)
            .ok_or_else(|| invalid(format!("The instance {id} does not exist.")))?;
        attributes.insert("AWS_INSTANCE_IPV4".to_owned(), address.to_string());
    }
    for (kind, _) in service.dns.iter().flat_map(|dns| &dns.records) {
        let has = |key: &str| attributes.contains_key(key);
        let needed = match kind.as_str() {
            "A" => (has("AWS_INSTANCE_IPV4"), "AWS_INSTANCE_IPV4"),
            "AAAA" => (has("AWS_INSTANCE_IPV6"), "AWS_INSTANCE_IPV6"),
            "CNAME" => (has("AWS_INSTANCE_CNAME"), "AWS_INSTANCE_CNAME"),
            _ => (
                has("AWS_INSTANCE_PORT") && (has("AWS_INSTANCE_IPV4") || has("AWS_INSTANCE_IPV6")),
                "AWS_INSTANCE_PORT and AWS_INSTANCE_IPV4 or AWS_INSTANCE_IPV6",
            ),
        };
        if let (false, names) = needed {
            return Err(invalid(format!("The service's {kind} record needs {names}.")));
        }
    }
    Ok(attributes)
}

/// SRV records lead to a name that begins with the instance's id.
fn check_own_name(state: &State, service: &DiscoveryService, instance_id: &str) -> Result<(), ApiError> {
    let has_srv = service.dns.iter().flat_map(|dns| &dns.records).any(|(kind, _)| kind == "SRV");
    match state.namespaces.get(&service.namespace_id) {
        Some(namespace) if has_srv => {
            check_dns_name("InstanceId", &[instance_id, &service.name, &namespace.name])
        }
        _ => Ok(()),
    }
}

fn check_quotas(state: &State, service: &DiscoveryService) -> Result<(), ApiError> {
    let exceeded = |most: usize, of: &str| {
        Err(ApiError::limit(
            "ResourceLimitExceeded",
            format!("The quota of {most} instances of a {of} is reached."),
        ))
    };
    if instances_of(state, &service.id).count() >= SERVICE_INSTANCES_MAX {
        return exceeded(SERVICE_INSTANCES_MAX, "service");
    }
    let is_dns = state
        .namespaces
        .get(&service.namespace_id)
        .is_some_and(|namespace| matches!(namespace.kind, NamespaceKind::DnsPrivate { .. }));
    let most = if is_dns { DNS_NAMESPACE_INSTANCES_MAX } else { HTTP_NAMESPACE_INSTANCES_MAX };
    let count: usize = services_of(state, &service.namespace_id)
        .map(|service| instances_of(state, &service.id).count())
        .sum();
    if count >= most { exceeded(most, "namespace") } else { Ok(()) }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InstanceInput {
    service_id: String,
    instance_id: String,
}

/// Deregisters an instance: it is found no more at once, and drains for as long as a request to it may still run.
fn deregister(draft: &mut Draft, _: &Caller, input: InstanceInput) -> Result<OperationAnswer, ApiError> {
    let service = service(draft.state(), &input.service_id)?.clone();
    if let Some(running) = in_flight(draft, &service.id, &input.instance_id) {
        return match running.kind == "DEREGISTER_INSTANCE" {
            true => Ok(OperationAnswer { operation_id: running.id.clone() }),
            false => Err(duplicate(running)),
        };
    }
    instance(draft.state(), &service, &input.instance_id)?;
    let until = draft.now().saturating_add(drain_ms(draft.state(), &service.id));
    let key = format!("{}/{}", service.id, input.instance_id);
    draft.edit::<DiscoveryInstance>(&key, |row| row.draining_until = Some(until));
    draft.edit::<DiscoveryService>(&service.id, |row| row.instances_revision += 1);
    Ok(submitted(draft, "DEREGISTER_INSTANCE", &[("INSTANCE", &input.instance_id), ("SERVICE", &service.id)]))
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReadAnswer {
    resource_owner: String,
    instance: Value,
}

fn read(draft: &mut Draft, caller: &Caller, input: InstanceInput) -> Result<ReadAnswer, ApiError> {
    let service = service(draft.state(), &input.service_id)?;
    let row = instance(draft.state(), service, &input.instance_id)?;
    let mut view = summary(caller, row);
    if let Value::Object(members) = &mut view {
        members.insert("CreatorRequestId".to_owned(), json!(row.creator_request_id));
    }
    Ok(ReadAnswer { resource_owner: owner(caller), instance: view })
}

fn summary(caller: &Caller, row: &DiscoveryInstance) -> Value {
    json!({"Id": row.id, "Attributes": row.attributes, "CreatedByAccount": owner(caller)})
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListInput {
    service_id: String,
    #[serde(default)]
    instances: Vec<String>,
    next_token: Option<String>,
    max_results: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    resource_owner: String,
    instances: Vec<Value>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, caller: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    let service = service(draft.state(), &input.service_id)?;
    let rows = instances_of(draft.state(), &service.id).map(|row| (row.id.clone(), summary(caller, row)));
    let (instances, next_token) = page(rows, input.next_token.as_deref(), input.max_results, PAGE_MAX)?;
    Ok(ListAnswer { resource_owner: owner(caller), instances, next_token })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DiscoverInput {
    namespace_name: String,
    service_name: String,
    max_results: Option<usize>,
    #[serde(default)]
    query_parameters: Attributes,
    #[serde(default)]
    optional_parameters: Attributes,
    health_status: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DiscoverAnswer {
    instances: Vec<Value>,
    instances_revision: u64,
}

/// Finds instances, in random order. Without HealthStatus the healthy ones, or all when none is: AWS does not state its
/// default, and this one never hides a whole service.
fn discover_instances(
    draft: &mut Draft,
    _: &Caller,
    input: DiscoverInput,
) -> Result<DiscoverAnswer, ApiError> {
    let service = service_by_name(draft.state(), &input.namespace_name, &input.service_name)?.clone();
    let health_status = match (&input.health_status, service.custom_health) {
        // Health is ignored for a service without a health check.
        (_, false) => HealthStatusFilter::All,
        (None, true) => HealthStatusFilter::HealthyOrElseAll,
        (Some(word), true) => HealthStatusFilter::parse(word)
            .ok_or_else(|| invalid(format!("HealthStatus '{word}' is not one of its words.")))?,
    };
    let most = input.max_results.unwrap_or(DISCOVERED_DEFAULT);
    let order = draft.hex(16);
    let found = discover(
        instances_of(draft.state(), &service.id),
        &input.query_parameters,
        &input.optional_parameters,
        health_status,
    );
    let instances = shuffled(found, &order)
        .into_iter()
        .take(most)
        .map(|row| {
            json!({
                "InstanceId": row.id,
                "NamespaceName": input.namespace_name,
                "ServiceName": input.service_name,
                "HealthStatus": health_word(&service, row),
                "Attributes": row.attributes,
            })
        })
        .collect();
    Ok(DiscoverAnswer { instances, instances_revision: service.instances_revision })
}

/// The same rows in an order that `seed`, hex digits, decides (Fisher–Yates over SplitMix64).
fn shuffled<T>(mut rows: Vec<T>, seed: &str) -> Vec<T> {
    let mut random = u64::from_str_radix(seed, 16).unwrap_or(0);
    for last in (1..rows.len()).rev() {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bound = u64::try_from(last + 1).unwrap_or(u64::MAX);
        let chosen = usize::try_from((mixed ^ (mixed >> 31)) % bound).unwrap_or(0);
        rows.swap(last, chosen);
    }
    rows
}

fn health_word(service: &DiscoveryService, row: &DiscoveryInstance) -> &'static str {
    match (service.custom_health, row.healthy) {
        (false, _) => "UNKNOWN",
        (true, true) => "HEALTHY",
        (true, false) => "UNHEALTHY",
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RevisionAnswer {
    instances_revision: u64,
}

fn discover_revision(
    draft: &mut Draft,
    _: &Caller,
    input: DiscoverInput,
) -> Result<RevisionAnswer, ApiError> {
    let service = service_by_name(draft.state(), &input.namespace_name, &input.service_name)?;
    Ok(RevisionAnswer { instances_revision: service.instances_revision })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthInput {
    service_id: String,
    instance_id: String,
    status: String,
}

/// Sets an instance's custom health, at once; AWS waits 30 s for a second thought. InstancesRevision stays.
fn update_health(draft: &mut Draft, _: &Caller, input: HealthInput) -> Result<Nothing, ApiError> {
    let service = service(draft.state(), &input.service_id)?.clone();
    let row = instance(draft.state(), &service, &input.instance_id)?;
    if !service.custom_health {
        return Err(ApiError::not_found(
            "CustomHealthNotFound",
            format!("The service {} has no HealthCheckCustomConfig.", service.id),
        ));
    }
    let healthy = input.status == "HEALTHY";
    if row.healthy != healthy {
        let key = format!("{}/{}", service.id, input.instance_id);
        draft.edit::<DiscoveryInstance>(&key, |row| row.healthy = healthy);
    }
    Ok(Nothing {})
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HealthAnswer {
    status: BTreeMap<String, &'static str>,
    next_token: Option<String>,
}

fn read_health(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<HealthAnswer, ApiError> {
    let service = service(draft.state(), &input.service_id)?;
    for id in &input.instances {
        instance(draft.state(), service, id)?;
    }
    let rows = instances_of(draft.state(), &service.id)
        .filter(|row| input.instances.is_empty() || input.instances.contains(&row.id))
        .map(|row| (row.id.clone(), (row.id.clone(), health_word(service, row))));
    let (status, next_token) = page(rows, input.next_token.as_deref(), input.max_results, PAGE_MAX)?;
    Ok(HealthAnswer { status: status.into_iter().collect(), next_token })
}

/// AWS's quotas on instances.
const SERVICE_INSTANCES_MAX: usize = 1_000;
const DNS_NAMESPACE_INSTANCES_MAX: usize = 2_000;
const HTTP_NAMESPACE_INSTANCES_MAX: usize = 6_000;

/// AWS's quotas on attributes.
const CUSTOM_ATTRIBUTES_MAX: usize = 30;
const ATTRIBUTES_LENGTH_MAX: usize = 5_000;

/// DiscoverInstances' MaxResults when none is given.
const DISCOVERED_DEFAULT: usize = 100;

/// AWS's limit on MaxResults of lists.
const PAGE_MAX: u32 = 100;
