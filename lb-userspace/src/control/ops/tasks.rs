//! ecs: tasks: what runs, what ran within the last hour, and tasks without a service.
//!
//! After: the scheduler, in the same commit, places what RunTask asked for and withdraws what StopTask stopped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    ApiError, Caller, Entry,
    ecs::{
        self, Failure, Tag, client, cluster, container_instance_arn, container_instances, invalid,
        keep_recorded, task_definition, wire_tags,
    },
    operation,
    paging::page,
    timestamp::seconds,
};
use crate::model::{
    Resource,
    id::{Arn, InstanceId},
    network::{Instance, InstanceState},
    state::{Draft, State},
    task::{ContainerDefinition, Task, TaskStatus},
};

/// The operations on tasks.
pub const OPERATIONS: &[Entry] = &[
    operation!("RunTask", run),
    operation!("StopTask", stop),
    operation!("DescribeTasks", describe),
    operation!("ListTasks", list),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RunInput {
    cluster: Option<String>,
    task_definition: String,
    count: Option<u32>,
    group: Option<String>,
    started_by: Option<String>,
    launch_type: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize)]
struct TasksAnswer {
    tasks: Vec<Value>,
    failures: Vec<Failure>,
}

fn run(draft: &mut Draft, caller: &Caller, input: RunInput) -> Result<TasksAnswer, ApiError> {
    let cluster = cluster(draft.state(), caller, input.cluster.as_deref())?.clone();
    let definition = task_definition(draft.state(), &input.task_definition)
        .filter(|definition| definition.status == "ACTIVE")
        .ok_or_else(|| client("TaskDefinition not found."))?
        .clone();
    keep_recorded(input.rest, "", &["clientToken"])?;
    if input.launch_type.is_some_and(|word| word != "EC2") {
        return Err(invalid("launchType is not supported but for 'EC2'."));
    }
    let count = input.count.unwrap_or(1);
    if !(1..=RUN_MAX).contains(&count) {
        return Err(invalid(format!("count must be between 1 and {RUN_MAX}.")));
    }
    let group = input.group.unwrap_or_else(|| format!("family:{}", definition.family));
    if group.starts_with("service:") {
        return Err(invalid("group must not begin with 'service:': that is for a service's own tasks."));
    }
    let is_running = |instance: &Instance| instance.state == InstanceState::Running;
    if !container_instances(draft.state(), &cluster).any(is_running) {
        return Err(invalid("No Container Instances were found in your cluster."));
    }
    let tags = ecs::new_tags(input.tags)?;
    let mut tasks = Vec::new();
    for _ in 0..count {
        let id = draft.hex(32);
        let task = Task {
            arn: Arn(format!("{}/{id}", cluster.arn.0.replacen(":cluster/", ":task/", 1))),
            cluster_arn: cluster.arn.clone(),
            task_definition_arn: definition.arn.clone(),
            group: group.clone(),
            started_by: input.started_by.clone(),
            // The scheduler places it.
            instance_id: InstanceId::from(""),
            last_status: TaskStatus::Provisioning,
            desired_status: TaskStatus::Running,
            bindings: Vec::new(),
            created_at: draft.now(),
            started_at: None,
            deactivating_since: None,
            withdrawn_in_generation: None,
            stopping_at: None,
            stopped_at: None,
            stopped_reason: None,
            stop_code: None,
            exit_codes: BTreeMap::new(),
            tags: tags.clone(),
        };
        tasks.push(view(draft.state(), &task, true));
        draft.put(task);
    }
    Ok(TasksAnswer { tasks, failures: Vec::new() })
}

#[derive(Deserialize)]
struct StopInput {
    cluster: Option<String>,
    task: String,
    reason: Option<String>,
}

#[derive(Serialize)]
struct TaskAnswer {
    task: Value,
}

fn stop(draft: &mut Draft, caller: &Caller, input: StopInput) -> Result<TaskAnswer, ApiError> {
    let cluster = cluster(draft.state(), caller, input.cluster.as_deref())?;
    let mut task = ecs::task(draft.state(), cluster, &input.task)
        .ok_or_else(|| invalid("The referenced task was not found."))?
        .clone();
    if task.desired_status == TaskStatus::Running {
        task.desired_status = TaskStatus::Stopped;
        task.stop_code = Some("UserInitiated".to_owned());
        task.stopped_reason = Some(input.reason.unwrap_or_else(|| "Task stopped by user".to_owned()));
        draft.put(task.clone());
    }
    Ok(TaskAnswer { task: view(draft.state(), &task, true) })
}

#[derive(Deserialize)]
struct DescribeInput {
    cluster: Option<String>,
    tasks: Vec<String>,
    #[serde(default)]
    include: Vec<String>,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<TasksAnswer, ApiError> {
    let state = draft.state();
    let cluster = cluster(state, caller, input.cluster.as_deref())?;
    if input.tasks.is_empty() {
        return Err(invalid("Tasks cannot be empty."));
    }
    if input.tasks.len() > DESCRIBED_MAX {
        return Err(invalid(format!("At most {DESCRIBED_MAX} tasks can be described in one call.")));
    }
    let with_tags = input.include.iter().any(|included| included == "TAGS");
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for named in input.tasks {
        match ecs::task(state, cluster, &named) {
            Some(task) => tasks.push(view(state, task, with_tags)),
            None if named.starts_with("arn:") => failures.push(Failure::missing(named)),
            None => failures.push(Failure::missing(format!(
                "{}/{named}",
                cluster.arn.0.replacen(":cluster/", ":task/", 1)
            ))),
        }
    }
    Ok(TasksAnswer { tasks, failures })
}

fn view(state: &State, task: &Task, with_tags: bool) -> Value {
    let instance = state.instances.get(task.instance_id.as_str());
    let zone = instance
        .and_then(|instance| state.subnets.get(instance.subnet_id.as_str()))
        .map(|subnet| subnet.zone.clone());
    let placed = !task.instance_id.as_str().is_empty();
    let definition = task_definition(state, task.task_definition_arn.as_str());
    let containers: Vec<Value> = definition
        .iter()
        .flat_map(|definition| &definition.containers)
        .map(|container| container_view(task, container))
        .collect();
    json!({
        "taskArn": task.arn,
        "clusterArn": task.cluster_arn,
        "taskDefinitionArn": task.task_definition_arn,
        "containerInstanceArn":
            placed.then(|| container_instance_arn(&task.cluster_arn, task.instance_id.as_str())),
        "availabilityZone": zone,
        "group": task.group,
        "startedBy": task.started_by,
        "lastStatus": task.last_status.as_str(),
        "desiredStatus": task.desired_status.as_str(),
        "launchType": "EC2",
        "connectivity": "CONNECTED",
        "healthStatus": "UNKNOWN",
        "containers": containers,
        "attachments": [],
        "attributes": [],
        "overrides": {"containerOverrides": []},
        "createdAt": seconds(task.created_at),
        "startedAt": task.started_at.map(seconds),
        "stoppingAt": task.stopping_at.map(seconds),
        "stoppedAt": task.stopped_at.map(seconds),
        "stoppedReason": task.stopped_reason,
        "stopCode": task.stop_code,
        "enableExecuteCommand": false,
        "tags": if with_tags { wire_tags(&task.tags) } else { Vec::new() },
    })
}

fn container_view(task: &Task, container: &ContainerDefinition) -> Value {
    let bindings: Vec<Value> = task
        .bindings
        .iter()
        .filter(|binding| binding.container_name == container.name)
        .map(|binding| {
            json!({
                "bindIP": "0.0.0.0",
                "containerPort": binding.container_port,
                "hostPort": binding.host_port,
                "protocol": binding.protocol,
            })
        })
        .collect();
    let status = match task.last_status {
        TaskStatus::Provisioning | TaskStatus::Pending => "PENDING",
        TaskStatus::Stopped => "STOPPED",
        _ => "RUNNING",
    };
    let arn = task.arn.0.replacen(":task/", ":container/", 1);
    json!({
        "containerArn": format!("{arn}/{}", container.name),
        "taskArn": task.arn,
        "name": container.name,
        "image": container.image,
        "lastStatus": status,
        "exitCode": task.exit_codes.get(&container.name),
        "networkBindings": bindings,
        "networkInterfaces": [],
        "healthStatus": "UNKNOWN",
        "cpu": container.cpu.to_string(),
        "memory": container.memory_mib.map(|memory| memory.to_string()),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListInput {
    cluster: Option<String>,
    container_instance: Option<String>,
    family: Option<String>,
    service_name: Option<String>,
    started_by: Option<String>,
    desired_status: Option<String>,
    launch_type: Option<String>,
    next_token: Option<String>,
    max_results: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    task_arns: Vec<String>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, caller: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    let state = draft.state();
    let cluster = cluster(state, caller, input.cluster.as_deref())?;
    let group = match &input.service_name {
        Some(named) => {
            let service = ecs::service(state, cluster, named)
                .ok_or_else(|| ApiError::not_found("ServiceNotFoundException", "Service not found."))?;
            Some(format!("service:{}", service.name))
        }
        None => None,
    };
    let desired = input.desired_status.as_deref().unwrap_or("RUNNING");
    let is_on = |task: &Task, named: &String| {
        let arn = container_instance_arn(&task.cluster_arn, task.instance_id.as_str()).0;
        arn == *named || arn.rsplit('/').next() == Some(named.as_str())
    };
    let is_of_family = |task: &Task, family: &String| {
        task.task_definition_arn
            .resource()
            .strip_prefix("task-definition/")
            .and_then(|name| name.rsplit_once(':'))
            .is_some_and(|(own, _)| own == family)
    };
    let rows = state
        .tasks
        .values()
        .filter(|task| task.cluster_arn == cluster.arn && task.desired_status.as_str() == desired)
        .filter(|task| group.as_ref().is_none_or(|group| task.group == *group))
        .filter(|task| input.started_by.is_none() || task.started_by == input.started_by)
        .filter(|task| input.container_instance.as_ref().is_none_or(|named| is_on(task, named)))
        .filter(|task| input.family.as_ref().is_none_or(|family| is_of_family(task, family)))
        .filter(|_| input.launch_type.as_ref().is_none_or(|word| word == "EC2"))
        .map(|task| (task.key(), task.arn.to_string()));
    let (task_arns, next_token) = page(rows, input.next_token.as_deref(), input.max_results, PAGE_MAX)?;
    Ok(ListAnswer { task_arns, next_token })
}

/// AWS's limit on RunTask's count.
const RUN_MAX: u32 = 10;

/// AWS's limit on tasks in one DescribeTasks call.
const DESCRIBED_MAX: usize = 100;

/// AWS's limit on maxResults.
const PAGE_MAX: u32 = 100;
