//! ecs: container instances: the instances whose user data names the cluster.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ecs::{Failure, cluster, container_instance_arn, container_instances, invalid, keep_recorded, wire_tags},
    operation,
    paging::page,
    timestamp::seconds,
};
use crate::model::{
    network::{Instance, InstanceState},
    state::{Draft, State},
    task::{Cluster, TaskStatus},
};

/// The operations on container instances.
pub const OPERATIONS: &[Entry] =
    &[operation!("DescribeContainerInstances", describe), operation!("ListContainerInstances", list)];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeInput {
    cluster: Option<String>,
    container_instances: Vec<String>,
    #[serde(default)]
    include: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DescribeAnswer {
    container_instances: Vec<Value>,
    failures: Vec<Failure>,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<DescribeAnswer, ApiError> {
    let state = draft.state();
    let cluster = cluster(state, caller, input.cluster.as_deref())?;
    if !(1..=DESCRIBED_MAX).contains(&input.container_instances.len()) {
        return Err(invalid(format!("containerInstances has 1 to {DESCRIBED_MAX} elements.")));
    }
    let with_tags = input.include.iter().any(|included| included == "TAGS");
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for named in input.container_instances {
        let instance = container_instances(state, cluster).find(|instance| {
            let arn = container_instance_arn(&cluster.arn, instance.id.as_str());
            arn.0 == named || arn.0.rsplit('/').next() == Some(named.as_str())
        });
        match instance {
            Some(instance) => found.push(view(state, cluster, instance, with_tags)),
            None => failures.push(Failure::missing(named)),
        }
    }
    Ok(DescribeAnswer { container_instances: found, failures })
}

fn view(state: &State, cluster: &Cluster, instance: &Instance, with_tags: bool) -> Value {
    let count = |keep: fn(TaskStatus) -> bool| {
        state.tasks.values().filter(|task| task.instance_id == instance.id && keep(task.last_status)).count()
    };
    let zone = state.subnets.get(instance.subnet_id.as_str()).map(|subnet| subnet.zone.clone());
    let attributes = [
        ("ecs.availability-zone", zone),
        ("ecs.instance-type", Some(instance.instance_type.clone())),
        ("ecs.subnet-id", Some(instance.subnet_id.to_string())),
        ("ecs.vpc-id", Some(instance.vpc_id.to_string())),
    ];
    let attributes: Vec<Value> = attributes
        .into_iter()
        .filter_map(|(name, value)| Some(json!({"name": name, "value": value?})))
        .collect();
    json!({
        "containerInstanceArn": container_instance_arn(&cluster.arn, instance.id.as_str()),
        "ec2InstanceId": instance.id,
        "status": status(instance),
        "agentConnected": instance.state == InstanceState::Running,
        "runningTasksCount": count(|status| status == TaskStatus::Running),
        "pendingTasksCount": count(|status| status < TaskStatus::Running),
        "registeredResources": [],
        "remainingResources": [],
        "attributes": attributes,
        "registeredAt": seconds(instance.launched_at),
        "attachments": [],
        "tags": if with_tags { wire_tags(&instance.tags) } else { Vec::new() },
    })
}

fn status(instance: &Instance) -> &'static str {
    match instance.state {
        InstanceState::Pending => "REGISTERING",
        InstanceState::Running => "ACTIVE",
        InstanceState::ShuttingDown | InstanceState::Terminated { .. } => "DEREGISTERING",
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListInput {
    cluster: Option<String>,
    filter: Option<String>,
    status: Option<String>,
    next_token: Option<String>,
    max_results: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    container_instance_arns: Vec<String>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, caller: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    let filter = input.filter.map(|filter| ("filter".to_owned(), filter.into()));
    keep_recorded(filter.into_iter().collect(), "", &[])?;
    let cluster = cluster(draft.state(), caller, input.cluster.as_deref())?;
    let rows = container_instances(draft.state(), cluster)
        .filter(|instance| input.status.as_ref().is_none_or(|wanted| status(instance) == wanted))
        .map(|instance| {
            let arn = container_instance_arn(&cluster.arn, instance.id.as_str()).0;
            (instance.id.to_string(), arn)
        });
    let (container_instance_arns, next_token) =
        page(rows, input.next_token.as_deref(), input.max_results, PAGE_MAX)?;
    Ok(ListAnswer { container_instance_arns, next_token })
}

/// AWS's limit on container instances in one call.
const DESCRIBED_MAX: usize = 100;

/// AWS's limit on maxResults.
const PAGE_MAX: u32 = 100;
