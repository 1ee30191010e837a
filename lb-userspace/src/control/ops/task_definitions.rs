//! ecs: task definitions: what a task runs. Network modes `bridge` and `host` are built; everything that the process
//! driver cannot honour is refused by name, except what only informs, which is kept and shown.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    ApiError, Caller, Entry,
    ecs::{self, Tag, client, invalid, keep_recorded, revisions, task_definition, wire_tags},
    operation,
    paging::page,
    timestamp::seconds,
};
use crate::model::{
    Resource,
    state::Draft,
    task::{ContainerDefinition, PortMapping, TaskDefinition},
};

/// The operations on task definitions.
pub const OPERATIONS: &[Entry] = &[
    operation!("RegisterTaskDefinition", register),
    operation!("DescribeTaskDefinition", describe),
    operation!("ListTaskDefinitions", list),
    operation!("ListTaskDefinitionFamilies", list_families),
    operation!("DeregisterTaskDefinition", deregister),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RegisterInput {
    family: String,
    network_mode: Option<String>,
    container_definitions: Vec<ContainerInput>,
    #[serde(default)]
    requires_compatibilities: Vec<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerInput {
    name: Option<String>,
    image: Option<String>,
    cpu: Option<i64>,
    memory: Option<i64>,
    #[serde(default)]
    port_mappings: Vec<PortMappingInput>,
    essential: Option<bool>,
    #[serde(default)]
    entry_point: Vec<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: Vec<Pair>,
    stop_timeout: Option<i64>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortMappingInput {
    container_port: Option<i64>,
    host_port: Option<i64>,
    protocol: Option<String>,
    name: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Pair {
    name: Option<String>,
    value: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DefinitionAnswer {
    task_definition: Value,
    tags: Vec<Tag>,
}

fn register(draft: &mut Draft, caller: &Caller, input: RegisterInput) -> Result<DefinitionAnswer, ApiError> {
    if !ecs::is_name(&input.family) {
        return Err(client("family has 1 to 255 letters, digits, hyphens and underscores."));
    }
    let network_mode = input.network_mode.unwrap_or_else(|| "bridge".to_owned());
    if !matches!(network_mode.as_str(), "bridge" | "host") {
        return Err(client(format!(
            "networkMode '{network_mode}' is not supported; use 'bridge' or 'host'."
        )));
    }
    if let Some(other) = input.requires_compatibilities.iter().find(|word| *word != "EC2") {
        return Err(client(format!("requiresCompatibilities '{other}' is not supported; use 'EC2'.")));
    }
    let recorded = keep_recorded(input.rest, "", RECORDED)?;
    if !(1..=CONTAINERS_MAX).contains(&input.container_definitions.len()) {
        return Err(client(format!("containerDefinitions has 1 to {CONTAINERS_MAX} containers.")));
    }
    let containers: Vec<ContainerDefinition> = input
        .container_definitions
        .into_iter()
        .enumerate()
        .map(|(at, container)| container_definition(at, container, &network_mode))
        .collect::<Result<_, _>>()?;
    check_together(&containers)?;
    let revision = revisions(draft.state(), &input.family).last().map_or(0, |last| last.revision) + 1;
    let definition = TaskDefinition {
        arn: ecs::arn(caller, format_args!("task-definition/{}:{revision}", input.family)),
        family: input.family,
        revision,
        network_mode,
        containers,
        recorded,
        status: "ACTIVE".to_owned(),
        registered_at: draft.now(),
        tags: ecs::new_tags(input.tags)?,
    };
    let answer = DefinitionAnswer { task_definition: view(&definition), tags: wire_tags(&definition.tags) };
    draft.put(definition);
    Ok(answer)
}

fn container_definition(
    at: usize,
    input: ContainerInput,
    network_mode: &str,
) -> Result<ContainerDefinition, ApiError> {
    let name = input
        .name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| client("Container.name should not be null or empty."))?;
    if !ecs::is_name(&name) {
        return Err(client(format!(
            "Invalid setting for container '{name}'. A name has letters, digits, hyphens and underscores."
        )));
    }
    let image = input
        .image
        .filter(|image| !image.is_empty())
        .ok_or_else(|| client("Container.image should not be null or empty."))?;
    let setting = |what: &str| client(format!("Invalid setting for container '{name}'. {what}"));
    let recorded = keep_recorded(input.rest, &format!("containerDefinitions[{at}]."), RECORDED_OF_CONTAINER)?;
    let memory_mib = match input.memory {
        Some(memory) => Some(
            u32::try_from(memory)
                .ok()
                .filter(|memory| *memory >= MEMORY_MIN_MIB)
                .ok_or_else(|| setting(&format!("'memory' must be at least {MEMORY_MIN_MIB}.")))?,
        ),
        None if recorded.contains_key("memoryReservation") => None,
        None => return Err(setting("At least one of 'memory' or 'memoryReservation' must be specified.")),
    };
    let port_mappings = input
        .port_mappings
        .into_iter()
        .map(|mapping| {
            port_mapping(&format!("containerDefinitions[{at}].portMappings."), mapping, network_mode)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut environment = BTreeMap::new();
    for pair in input.environment {
        let variable = pair.name.filter(|name| !name.is_empty() && !name.contains(['=', '\0']));
        let value = pair.value.unwrap_or_default();
        match variable {
            Some(variable) if !value.contains('\0') => environment.insert(variable, value),
            _ => return Err(setting("An environment variable has no lawful name or value.")),
        };
    }
    if input.command.iter().chain(&input.entry_point).any(|word| word.contains('\0')) {
        return Err(setting("'command' and 'entryPoint' must not contain a NUL."));
    }
    Ok(ContainerDefinition {
        image,
        command: input.command,
        entry_point: input.entry_point,
        environment,
        port_mappings,
        cpu: u32::try_from(input.cpu.unwrap_or(0)).map_err(|_| setting("'cpu' must not be negative."))?,
        memory_mib,
        essential: input.essential.unwrap_or(true),
        stop_timeout_s: u32::try_from(input.stop_timeout.unwrap_or(STOP_TIMEOUT_S))
            .ok()
            .filter(|timeout| *timeout <= STOP_TIMEOUT_MAX_S)
            .ok_or_else(|| setting(&format!("'stopTimeout' must be between 0 and {STOP_TIMEOUT_MAX_S}.")))?,
        recorded,
        name,
    })
}

fn port_mapping(path: &str, input: PortMappingInput, network_mode: &str) -> Result<PortMapping, ApiError> {
    keep_recorded(input.rest, path, &[])?;
    let port = |what: &str, given: Option<i64>| {
        u16::try_from(given.unwrap_or(0))
            .map_err(|_| client(format!("{path}{what} must be between 0 and 65535.")))
    };
    let container_port = port("containerPort", input.container_port)?;
    if container_port == 0 {
        return Err(client(format!("{path}containerPort must be between 1 and 65535.")));
    }
    let host_port = match (network_mode, port("hostPort", input.host_port)?) {
        ("host", 0) => container_port,
        ("host", host_port) if host_port != container_port => {
            return Err(client(format!("{path}hostPort must be containerPort when networkMode is 'host'.")));
        }
        (_, host_port) => host_port,
    };
    let protocol = input.protocol.unwrap_or_else(|| "tcp".to_owned());
    if !matches!(protocol.as_str(), "tcp" | "udp") {
        return Err(client(format!("{path}protocol '{protocol}' must be 'tcp' or 'udp'.")));
    }
    Ok(PortMapping { container_port, host_port, protocol, name: input.name })
}

/// What containers of one definition owe each other.
fn check_together(containers: &[ContainerDefinition]) -> Result<(), ApiError> {
    let mut names = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for container in containers {
        if !names.insert(&container.name) {
            return Err(client("Container.name must be unique in a task definition."));
        }
        for mapping in container.port_mappings.iter().filter(|mapping| mapping.host_port != 0) {
            if !ports.insert((mapping.host_port, &mapping.protocol)) {
                return Err(client(format!("hostPort {} is mapped twice.", mapping.host_port)));
            }
        }
        let mut mapped = BTreeSet::new();
        for mapping in &container.port_mappings {
            if !mapped.insert((mapping.container_port, &mapping.protocol)) {
                return Err(client(format!(
                    "containerPort {} is mapped twice for protocol {}.",
                    mapping.container_port, mapping.protocol
                )));
            }
        }
    }
    if !containers.iter().any(|container| container.essential) {
        return Err(client("At least one container must be essential."));
    }
    Ok(())
}

fn view(definition: &TaskDefinition) -> Value {
    let containers: Vec<Value> = definition.containers.iter().map(container_view).collect();
    let mut view = json!({
        "taskDefinitionArn": definition.arn,
        "family": definition.family,
        "revision": definition.revision,
        "networkMode": definition.network_mode,
        "containerDefinitions": containers,
        "volumes": [],
        "placementConstraints": [],
        "requiresAttributes": [],
        "compatibilities": ["EC2"],
        "requiresCompatibilities": ["EC2"],
        "status": definition.status,
        "registeredAt": seconds(definition.registered_at),
    });
    extend(&mut view, &definition.recorded);
    view
}

fn container_view(container: &ContainerDefinition) -> Value {
    let environment: Vec<Value> =
        container.environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let mappings: Vec<Value> = container
        .port_mappings
        .iter()
        .map(|mapping| {
            json!({
                "containerPort": mapping.container_port,
                "hostPort": mapping.host_port,
                "protocol": mapping.protocol,
                "name": mapping.name,
            })
        })
        .collect();
    let mut view = json!({
        "name": container.name,
        "image": container.image,
        "cpu": container.cpu,
        "memory": container.memory_mib,
        "portMappings": mappings,
        "essential": container.essential,
        "entryPoint": some_list(&container.entry_point),
        "command": some_list(&container.command),
        "environment": environment,
        "mountPoints": [],
        "volumesFrom": [],
        "systemControls": [],
    });
    if i64::from(container.stop_timeout_s) != STOP_TIMEOUT_S
        && let Value::Object(members) = &mut view
    {
        members.insert("stopTimeout".to_owned(), container.stop_timeout_s.into());
    }
    extend(&mut view, &container.recorded);
    view
}

fn some_list(words: &[String]) -> Option<&[String]> {
    (!words.is_empty()).then_some(words)
}

fn extend(view: &mut Value, recorded: &Map<String, Value>) {
    if let Value::Object(members) = view {
        members.extend(recorded.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeInput {
    task_definition: String,
    #[serde(default)]
    include: Vec<String>,
}

fn describe(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<DefinitionAnswer, ApiError> {
    let definition = task_definition(draft.state(), &input.task_definition)
        .ok_or_else(|| client("Unable to describe task definition."))?;
    let with_tags = input.include.iter().any(|included| included == "TAGS");
    let tags = if with_tags { wire_tags(&definition.tags) } else { Vec::new() };
    Ok(DefinitionAnswer { task_definition: view(definition), tags })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListInput {
    family_prefix: Option<String>,
    status: Option<String>,
    sort: Option<String>,
    next_token: Option<String>,
    max_results: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    task_definition_arns: Vec<String>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    let status = input.status.as_deref().unwrap_or("ACTIVE");
    let mut rows: Vec<(String, String)> = draft
        .all::<TaskDefinition>()
        .filter(|row| row.status == status)
        .filter(|row| input.family_prefix.as_ref().is_none_or(|family| row.family == *family))
        .map(|row| (row.key(), row.arn.to_string()))
        .collect();
    if input.sort.as_deref() == Some("DESC") {
        // Pages want rising keys: a row's place from the end is one.
        let count = rows.len();
        rows.reverse();
        rows = rows.into_iter().enumerate().map(|(at, (_, arn))| (format!("{count}-{at:08}"), arn)).collect();
    }
    let (task_definition_arns, next_token) =
        page(rows, input.next_token.as_deref(), input.max_results, PAGE_MAX)?;
    Ok(ListAnswer { task_definition_arns, next_token })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamiliesAnswer {
    families: Vec<String>,
    next_token: Option<String>,
}

fn list_families(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<FamiliesAnswer, ApiError> {
    let status = input.status.as_deref().unwrap_or("ACTIVE");
    let prefix = input.family_prefix.unwrap_or_default();
    let families: BTreeSet<&String> = draft
        .all::<TaskDefinition>()
        .filter(|row| status == "ALL" || row.status == status)
        .map(|row| &row.family)
        .filter(|family| family.starts_with(&prefix))
        .collect();
    let rows = families.into_iter().map(|family| (family.clone(), family.clone()));
    let (families, next_token) = page(rows, input.next_token.as_deref(), input.max_results, PAGE_MAX)?;
    Ok(FamiliesAnswer { families, next_token })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeregisterInput {
    task_definition: String,
}

fn deregister(draft: &mut Draft, _: &Caller, input: DeregisterInput) -> Result<DefinitionAnswer, ApiError> {
    let named = &input.task_definition;
    let has_revision = named.rsplit(':').next().is_some_and(|revision| revision.parse::<u32>().is_ok());
    if !has_revision {
        return Err(invalid("Missing Revision Number"));
    }
    let definition = task_definition(draft.state(), named)
        .ok_or_else(|| invalid("The specified task definition does not exist."))?
        .clone();
    let definition = TaskDefinition { status: "INACTIVE".to_owned(), ..definition };
    let answer = DefinitionAnswer { task_definition: view(&definition), tags: wire_tags(&definition.tags) };
    draft.put(definition);
    Ok(answer)
}

/// Kept and shown; nothing acts on them: a process has no role of its own and runs on this machine's platform.
const RECORDED: &[&str] = &["executionRoleArn", "taskRoleArn", "runtimePlatform"];

/// Kept and shown: output goes to the driver's files, and only the hard limit on memory is enforced.
const RECORDED_OF_CONTAINER: &[&str] =
    &["logConfiguration", "dockerLabels", "memoryReservation", "versionConsistency"];

/// AWS's quota on containers in a task definition.
const CONTAINERS_MAX: usize = 10;

/// The least memory that ECS accepts for a container.
const MEMORY_MIN_MIB: u32 = 6;

/// The ECS agent's default.
const STOP_TIMEOUT_S: i64 = 30;

/// Longer than any client waits; a task that is being stopped holds its ports and memory.
const STOP_TIMEOUT_MAX_S: u32 = 3_600;

/// AWS's limit on maxResults.
const PAGE_MAX: u32 = 100;
