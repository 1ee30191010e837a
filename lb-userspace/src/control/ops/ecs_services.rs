//! ecs: services: how many tasks of a definition are kept running, and where they are registered.
//!
//! After: the scheduler, in the same commit, places and stops tasks until the service has what it asks for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    ApiError, Caller, Entry,
    ecs::{self, Failure, Tag, client, cluster, invalid, keep_recorded, service, task_definition, wire_tags},
    operation,
    paging::page,
    timestamp::seconds,
};
use crate::model::{
    Resource,
    discovery::DiscoveryService,
    id::{Arn, TimestampMs},
    state::{Draft, State},
    target_group::{TargetGroup, TargetType},
    task::{
        Cluster, EcsService, ServiceDeployment, ServiceLoadBalancer, ServiceRegistry, Task, TaskDefinition,
        TaskStatus,
    },
};

/// The operations on services.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateService", create),
    operation!("DescribeServices", describe),
    operation!("UpdateService", update),
    operation!("DeleteService", delete),
    operation!("ListServices", list),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateInput {
    cluster: Option<String>,
    service_name: String,
    task_definition: Option<String>,
    #[serde(default)]
    load_balancers: Vec<LoadBalancerInput>,
    #[serde(default)]
    service_registries: Vec<RegistryInput>,
    desired_count: Option<i64>,
    client_token: Option<String>,
    launch_type: Option<String>,
    scheduling_strategy: Option<String>,
    deployment_controller: Option<Controller>,
    deployment_configuration: Option<DeploymentInput>,
    #[serde(default)]
    placement_strategy: Vec<Strategy>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoadBalancerInput {
    target_group_arn: Option<String>,
    container_name: Option<String>,
    container_port: Option<i64>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RegistryInput {
    registry_arn: Option<String>,
    container_name: Option<String>,
    container_port: Option<i64>,
    port: Option<i64>,
}

#[derive(Deserialize)]
struct Controller {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeploymentInput {
    maximum_percent: Option<i64>,
    minimum_healthy_percent: Option<i64>,
    strategy: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
struct Strategy {
    r#type: Option<String>,
    field: Option<String>,
}

#[derive(Serialize)]
struct ServiceAnswer {
    service: Value,
}

fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<ServiceAnswer, ApiError> {
    let cluster = cluster(draft.state(), caller, input.cluster.as_deref())?.clone();
    if !ecs::is_name(&input.service_name) {
        return Err(invalid(
            "serviceName is invalid: it has 1 to 255 letters, digits, hyphens and underscores.",
        ));
    }
    if let Some(existing) = service(draft.state(), &cluster, &input.service_name) {
        match existing.status.as_str() {
            "ACTIVE" if input.client_token.is_some() && existing.client_token == input.client_token => {
                return Ok(ServiceAnswer { service: view(draft.state(), existing, true) });
            }
            "ACTIVE" => return Err(invalid("Creation of service was not idempotent.")),
            "DRAINING" => return Err(invalid("Unable to Start a service that is still Draining.")),
            _ => {}
        }
    }
    check_words(&input)?;
    let recorded = keep_recorded(input.rest, "", RECORDED)?;
    let desired_count = match input.desired_count {
        Some(count) => check_count(count)?,
        None => return Err(invalid("desiredCount is required with schedulingStrategy REPLICA.")),
    };
    let definition = input.task_definition.ok_or_else(|| invalid("TaskDefinition can not be blank."))?;
    let definition = active_definition(draft.state(), &definition)?.clone();
    let load_balancers = load_balancers(draft.state(), input.load_balancers)?;
    let registries = registries(draft.state(), input.service_registries)?;
    check_registrations(draft.state(), &definition, &load_balancers, &registries)?;
    let (minimum_healthy_percent, maximum_percent) =
        percents(input.deployment_configuration, DEFAULT_PERCENTS)?;
    let now = draft.now();
    let arn = Arn(format!("{}/{}", cluster.arn.0.replacen(":cluster/", ":service/", 1), input.service_name));
    let primary = deployment(draft, &definition.arn, now);
    let service = EcsService {
        arn: arn.clone(),
        name: input.service_name,
        cluster_arn: cluster.arn,
        task_definition_arn: definition.arn,
        desired_count,
        deployments: vec![primary],
        minimum_healthy_percent,
        maximum_percent,
        load_balancers,
        registries,
        status: "ACTIVE".to_owned(),
        created_at: now,
        inactive_since: None,
        recorded,
        client_token: input.client_token,
        is_steady: false,
        crash_streak: 0,
        last_crash_at: None,
        events: Vec::new(),
        tags: ecs::new_tags(input.tags)?,
    };
    let answer = ServiceAnswer { service: view(draft.state(), &service, true) };
    draft.put(service);
    Ok(answer)
}

fn check_words(input: &CreateInput) -> Result<(), ApiError> {
    let only = |name: &str, given: Option<&str>, built: &str| match given {
        Some(word) if word != built => {
            Err(invalid(format!("{name} '{word}' is not supported; use '{built}'.")))
        }
        _ => Ok(()),
    };
    only("launchType", input.launch_type.as_deref(), "EC2")?;
    only("schedulingStrategy", input.scheduling_strategy.as_deref(), "REPLICA")?;
    only(
        "deploymentController.type",
        input.deployment_controller.as_ref().map(|controller| controller.r#type.as_str()),
        "ECS",
    )?;
    let is_built = |strategy: &Strategy| {
        strategy.r#type.as_deref() == Some("spread")
            && matches!(
                strategy.field.as_deref(),
                Some("attribute:ecs.availability-zone" | "instanceId" | "host")
            )
    };
    match input.placement_strategy.iter().all(is_built) {
        true => Ok(()),
        false => Err(invalid(
            "placementStrategy is not supported but for spread by attribute:ecs.availability-zone or instanceId.",
        )),
    }
}

fn check_count(count: i64) -> Result<u32, ApiError> {
    u32::try_from(count)
        .ok()
        .filter(|count| *count <= TASKS_MAX)
        .ok_or_else(|| invalid(format!("desiredCount must be between 0 and {TASKS_MAX}.")))
}

fn active_definition<'a>(state: &'a State, named: &str) -> Result<&'a TaskDefinition, ApiError> {
    let definition = task_definition(state, named).ok_or_else(|| client("TaskDefinition not found."))?;
    match definition.status.as_str() {
        "ACTIVE" => Ok(definition),
        _ => Err(client("TaskDefinition is inactive")),
    }
}

fn load_balancers(
    state: &State,
    given: Vec<LoadBalancerInput>,
) -> Result<Vec<ServiceLoadBalancer>, ApiError> {
    if given.len() > LOAD_BALANCERS_MAX {
        return Err(invalid(format!("A service can have at most {LOAD_BALANCERS_MAX} target groups.")));
    }
    given
        .into_iter()
        .map(|input| {
            keep_recorded(input.rest, "loadBalancers.", &[])?;
            let arn = input
                .target_group_arn
                .filter(|arn| !arn.is_empty())
                .ok_or_else(|| invalid("loadBalancers.targetGroupArn can not be blank."))?;
            if !state.target_groups.contains_key(&arn) {
                return Err(invalid(format!("The specified target group does not exist: {arn}")));
            }
            Ok(ServiceLoadBalancer {
                target_group_arn: arn.into(),
                container_name: input
                    .container_name
                    .ok_or_else(|| invalid("loadBalancers.containerName can not be blank."))?,
                container_port: check_port("loadBalancers.containerPort", input.container_port)?,
            })
        })
        .collect()
}

fn registries(state: &State, given: Vec<RegistryInput>) -> Result<Vec<ServiceRegistry>, ApiError> {
    if given.len() > 1 {
        return Err(invalid("A service can have at most one service registry."));
    }
    given
        .into_iter()
        .map(|input| {
            let arn = Arn(input.registry_arn.unwrap_or_default());
            let known = arn
                .resource()
                .strip_prefix("service/")
                .is_some_and(|id| state.discovery_services.get(id).is_some_and(|row| row.arn == arn));
            if !known {
                return Err(invalid(format!("The specified service registry does not exist: {arn}")));
            }
            if input.port.is_some() {
                return Err(invalid(
                    "serviceRegistries.port is for networkMode 'awsvpc'; use containerName and containerPort.",
                ));
            }
            Ok(ServiceRegistry {
                registry_arn: arn,
                container_port: input
                    .container_port
                    .map(|port| check_port("serviceRegistries.containerPort", Some(port)))
                    .transpose()?,
                container_name: input.container_name,
                port: None,
            })
        })
        .collect()
}

fn check_port(what: &str, given: Option<i64>) -> Result<u16, ApiError> {
    given
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
        .ok_or_else(|| invalid(format!("{what} must be between 1 and 65535.")))
}

/// Whether the definition has the containers and ports that are to be registered, in a form that can be.
fn check_registrations(
    state: &State,
    definition: &TaskDefinition,
    load_balancers: &[ServiceLoadBalancer],
    registries: &[ServiceRegistry],
) -> Result<(), ApiError> {
    let check = |name: &str, port: u16, protocols: &[&str]| {
        let container =
            definition.containers.iter().find(|container| container.name == name).ok_or_else(|| {
                invalid(format!("The container {name} does not exist in the task definition."))
            })?;
        let of_port = || container.port_mappings.iter().filter(|mapping| mapping.container_port == port);
        if of_port().next().is_none() {
            return Err(invalid(format!(
                "The container {name} did not have a container port {port} defined."
            )));
        }
        let lacks = protocols.iter().find(|wanted| !of_port().any(|mapping| mapping.protocol == ***wanted));
        match lacks {
            None => Ok(()),
            Some(protocol) => Err(invalid(format!(
                "The container {name} did not have a container port {port} with protocol {protocol} defined."
            ))),
        }
    };
    for balancer in load_balancers {
        let group: Option<&TargetGroup> =
            state.target_groups.get(balancer.target_group_arn.as_str()).map(AsRef::as_ref);
        let protocols: &[&str] = match group.map(|group| group.protocol.as_str()) {
            Some("UDP") => &["udp"],
            Some("TCP_UDP") => &["tcp", "udp"],
            Some("QUIC" | "TCP_QUIC") => {
                return Err(invalid(format!(
                    "The targets of target group {} need a QuicServerId, which a service has none of.",
                    balancer.target_group_arn
                )));
            }
            _ => &["tcp"],
        };
        check(&balancer.container_name, balancer.container_port, protocols)?;
        if group.is_some_and(|group| group.target_type != TargetType::Instance) {
            return Err(invalid(format!(
                "The provided target group {} does not have target type instance, which the {} network mode specified in the task definition needs.",
                balancer.target_group_arn, definition.network_mode
            )));
        }
    }
    for registry in registries {
        let (Some(name), Some(port)) = (&registry.container_name, registry.container_port) else {
            return Err(invalid(
                "When specifying 'host' or 'bridge' for networkMode, values for 'containerName' and 'containerPort' must be specified from the task definition.",
            ));
        };
        check(name, port, &[])?;
        let id = registry.registry_arn.resource().strip_prefix("service/").unwrap_or_default();
        let records = state
            .discovery_services
            .get(id)
            .and_then(|row: &std::sync::Arc<DiscoveryService>| row.dns.as_ref());
        if records.is_some_and(|dns| dns.records.iter().any(|(kind, _)| kind != "SRV")) {
            return Err(invalid(
                "The service registry must have SRV records only when networkMode is 'host' or 'bridge'.",
            ));
        }
    }
    Ok(())
}

/// MinimumHealthyPercent and maximumPercent, with those of before where none are given.
fn percents(given: Option<DeploymentInput>, before: (u32, u32)) -> Result<(u32, u32), ApiError> {
    let Some(given) = given else { return Ok(before) };
    keep_recorded(given.rest, "deploymentConfiguration.", &[])?;
    if given.strategy.is_some_and(|strategy| strategy != "ROLLING") {
        return Err(invalid("deploymentConfiguration.strategy is not supported but for ROLLING."));
    }
    let percent = |given: Option<i64>, before: u32, most: u32| {
        given.map_or(Ok(before), |percent| {
            u32::try_from(percent).ok().filter(|percent| *percent <= most).ok_or_else(|| {
                invalid(
                    "deploymentConfiguration: minimumHealthyPercent is 0 to 100, maximumPercent 0 to 200.",
                )
            })
        })
    };
    let least = percent(given.minimum_healthy_percent, before.0, 100)?;
    let most = percent(given.maximum_percent, before.1, 200)?;
    if most <= least {
        return Err(invalid("maximumPercent must be greater than minimumHealthyPercent."));
    }
    Ok((least, most))
}

fn deployment(draft: &mut Draft, definition: &Arn, now: TimestampMs) -> ServiceDeployment {
    // 19 decimal digits, as ECS's.
    let drawn = u64::from_str_radix(&draft.hex(16), 16).unwrap_or(0) % 9_000_000_000_000_000_000;
    ServiceDeployment {
        id: format!("ecs-svc/{}", drawn + 1_000_000_000_000_000_000),
        task_definition_arn: definition.clone(),
        created_at: now,
        updated_at: now,
        is_complete: false,
        failed_tasks: 0,
    }
}

fn view(state: &State, service: &EcsService, with_tags: bool) -> Value {
    let tasks: Vec<&Task> = state
        .tasks
        .values()
        .map(AsRef::as_ref)
        .filter(|task| task.last_status < TaskStatus::Stopped)
        .filter(|task| task.service_arn().as_ref() == Some(&service.arn))
        .collect();
    let count = |deployment: Option<&str>, keep: fn(TaskStatus) -> bool| {
        tasks
            .iter()
            .filter(|task| deployment.is_none_or(|id| task.started_by.as_deref() == Some(id)))
            .filter(|task| keep(task.last_status))
            .count()
    };
    let is_running: fn(TaskStatus) -> bool = |status| status == TaskStatus::Running;
    let is_pending: fn(TaskStatus) -> bool = |status| status < TaskStatus::Running;
    let deployments: Vec<Value> = service
        .deployments
        .iter()
        .enumerate()
        .map(|(at, deployment)| {
            json!({
                "id": deployment.id,
                "status": if at == 0 { "PRIMARY" } else { "ACTIVE" },
                "taskDefinition": deployment.task_definition_arn,
                "desiredCount": if at == 0 { service.desired_count } else { 0 },
                "pendingCount": count(Some(&deployment.id), is_pending),
                "runningCount": count(Some(&deployment.id), is_running),
                "failedTasks": deployment.failed_tasks,
                "createdAt": seconds(deployment.created_at),
                "updatedAt": seconds(deployment.updated_at),
                "launchType": "EC2",
                "rolloutState": if deployment.is_complete { "COMPLETED" } else { "IN_PROGRESS" },
                "rolloutStateReason": format!(
                    "ECS deployment {} {}.",
                    deployment.id,
                    if deployment.is_complete { "completed" } else { "in progress" }
                ),
            })
        })
        .collect();
    let load_balancers: Vec<Value> = service
        .load_balancers
        .iter()
        .map(|balancer| {
            json!({
                "targetGroupArn": balancer.target_group_arn,
                "containerName": balancer.container_name,
                "containerPort": balancer.container_port,
            })
        })
        .collect();
    let registries: Vec<Value> = service
        .registries
        .iter()
        .map(|registry| {
            json!({
                "registryArn": registry.registry_arn,
                "containerName": registry.container_name,
                "containerPort": registry.container_port,
                "port": registry.port,
            })
        })
        .collect();
    let events: Vec<Value> = service
        .events
        .iter()
        .map(|event| json!({"id": event.id, "createdAt": seconds(event.at), "message": event.message}))
        .collect();
    let mut view = json!({
        "serviceArn": service.arn,
        "serviceName": service.name,
        "clusterArn": service.cluster_arn,
        "loadBalancers": load_balancers,
        "serviceRegistries": registries,
        "status": service.status,
        "desiredCount": service.desired_count,
        "runningCount": count(None, is_running),
        "pendingCount": count(None, is_pending),
        "launchType": "EC2",
        "taskDefinition": service.task_definition_arn,
        "deploymentConfiguration": {
            "maximumPercent": service.maximum_percent,
            "minimumHealthyPercent": service.minimum_healthy_percent,
            "deploymentCircuitBreaker": {"enable": false, "rollback": false},
        },
        "deployments": deployments,
        "events": events,
        "createdAt": seconds(service.created_at),
        "placementConstraints": [],
        "placementStrategy": PLACEMENT
            .map(|field| json!({"type": "spread", "field": field})),
        "schedulingStrategy": "REPLICA",
        "deploymentController": {"type": "ECS"},
        "enableECSManagedTags": false,
        "propagateTags": "NONE",
        "enableExecuteCommand": false,
        "tags": if with_tags { wire_tags(&service.tags) } else { Vec::new() },
    });
    if let Value::Object(members) = &mut view {
        members.extend(service.recorded.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    view
}

#[derive(Deserialize)]
struct DescribeInput {
    cluster: Option<String>,
    services: Vec<String>,
    #[serde(default)]
    include: Vec<String>,
}

#[derive(Serialize)]
struct DescribeAnswer {
    services: Vec<Value>,
    failures: Vec<Failure>,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<DescribeAnswer, ApiError> {
    let state = draft.state();
    let cluster = cluster(state, caller, input.cluster.as_deref())?;
    if input.services.is_empty() {
        return Err(invalid("Services cannot be empty."));
    }
    if input.services.len() > DESCRIBED_MAX {
        return Err(invalid(format!("At most {DESCRIBED_MAX} services can be described in one call.")));
    }
    let with_tags = input.include.iter().any(|included| included == "TAGS");
    let (mut services, mut failures) = (Vec::new(), Vec::new());
    for named in input.services {
        match service(state, cluster, &named) {
            Some(service) => services.push(view(state, service, with_tags)),
            None if named.starts_with("arn:") => failures.push(Failure::missing(named)),
            None => failures.push(Failure::missing(format!(
                "{}/{named}",
                cluster.arn.0.replacen(":cluster/", ":service/", 1)
            ))),
        }
    }
    Ok(DescribeAnswer { services, failures })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UpdateInput {
    cluster: Option<String>,
    service: String,
    desired_count: Option<i64>,
    task_definition: Option<String>,
    #[serde(default)]
    force_new_deployment: bool,
    deployment_configuration: Option<DeploymentInput>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn update(draft: &mut Draft, caller: &Caller, input: UpdateInput) -> Result<ServiceAnswer, ApiError> {
    let cluster = cluster(draft.state(), caller, input.cluster.as_deref())?.clone();
    let mut changed = existing(draft.state(), &cluster, &input.service)?.clone();
    if changed.status != "ACTIVE" {
        return Err(ApiError::conflict("ServiceNotActiveException", "Service was not ACTIVE."));
    }
    changed.recorded.extend(keep_recorded(input.rest, "", RECORDED)?);
    if let Some(count) = input.desired_count {
        changed.desired_count = check_count(count)?;
    }
    (changed.minimum_healthy_percent, changed.maximum_percent) =
        percents(input.deployment_configuration, (changed.minimum_healthy_percent, changed.maximum_percent))?;
    let before = changed.task_definition_arn.clone();
    if let Some(named) = input.task_definition {
        let definition = active_definition(draft.state(), &named)?;
        check_registrations(draft.state(), definition, &changed.load_balancers, &changed.registries)?;
        changed.task_definition_arn = definition.arn.clone();
    }
    if input.force_new_deployment || changed.task_definition_arn != before {
        let now = draft.now();
        let next = deployment(draft, &changed.task_definition_arn, now);
        changed.deployments.insert(0, next);
        changed.is_steady = false;
        // What failed before may work now.
        changed.crash_streak = 0;
    }
    let answer = ServiceAnswer { service: view(draft.state(), &changed, true) };
    draft.put(changed);
    Ok(answer)
}

fn existing<'a>(state: &'a State, cluster: &Cluster, named: &str) -> Result<&'a EcsService, ApiError> {
    service(state, cluster, named)
        .ok_or_else(|| ApiError::not_found("ServiceNotFoundException", "Service not found."))
}

#[derive(Deserialize)]
struct DeleteInput {
    cluster: Option<String>,
    service: String,
    #[serde(default)]
    force: bool,
}

/// The service drains: its tasks are withdrawn and stopped, and then it is INACTIVE.
fn delete(draft: &mut Draft, caller: &Caller, input: DeleteInput) -> Result<ServiceAnswer, ApiError> {
    let cluster = cluster(draft.state(), caller, input.cluster.as_deref())?.clone();
    let mut changed = existing(draft.state(), &cluster, &input.service)?.clone();
    if changed.status == "INACTIVE" {
        return Err(ApiError::not_found("ServiceNotFoundException", "Service not found."));
    }
    if changed.status == "ACTIVE" && changed.desired_count > 0 && !input.force {
        return Err(invalid("The service cannot be stopped while it is scaled above 0."));
    }
    changed.status = "DRAINING".to_owned();
    changed.desired_count = 0;
    let answer = ServiceAnswer { service: view(draft.state(), &changed, true) };
    draft.put(changed);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListInput {
    cluster: Option<String>,
    launch_type: Option<String>,
    scheduling_strategy: Option<String>,
    next_token: Option<String>,
    max_results: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    service_arns: Vec<String>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, caller: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    let cluster = cluster(draft.state(), caller, input.cluster.as_deref())?;
    let is_asked = input.launch_type.is_none_or(|word| word == "EC2")
        && input.scheduling_strategy.is_none_or(|word| word == "REPLICA");
    let rows = draft
        .all::<EcsService>()
        .filter(|row| is_asked && row.cluster_arn == cluster.arn && row.status != "INACTIVE")
        .map(|row| (row.key(), row.arn.to_string()));
    let (service_arns, next_token) = page(rows, input.next_token.as_deref(), input.max_results, PAGE_MAX)?;
    Ok(ListAnswer { service_arns, next_token })
}

/// The grace period is kept and shown; an unhealthy task is not replaced for being unhealthy, so none needs grace.
const RECORDED: &[&str] = &["healthCheckGracePeriodSeconds"];

/// How tasks are placed, whatever is asked: the scheduler's spread.
const PLACEMENT: [&str; 2] = ["attribute:ecs.availability-zone", "instanceId"];

/// MinimumHealthyPercent and maximumPercent when none are given.
const DEFAULT_PERCENTS: (u32, u32) = (100, 200);

/// AWS's quota on tasks in a service.
const TASKS_MAX: u32 = 5_000;

/// AWS's quota on target groups of a service.
const LOAD_BALANCERS_MAX: usize = 5;

/// AWS's limit on services in one DescribeServices call.
const DESCRIBED_MAX: usize = 10;

/// AWS's limit on maxResults.
const PAGE_MAX: u32 = 100;
