//! ecs: clusters.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    ApiError, Caller, Entry,
    ecs::{self, Failure, Tag, cluster, container_instances, invalid, wire_tags},
    operation,
    paging::page,
};
use crate::model::{
    Resource,
    network::InstanceState,
    state::{Draft, State},
    task::{Cluster, EcsService, Task, TaskStatus},
};

/// The operations on clusters.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateCluster", create),
    operation!("DescribeClusters", describe),
    operation!("ListClusters", list),
    operation!("DeleteCluster", delete),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateInput {
    cluster_name: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    settings: Vec<Setting>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Setting {
    name: String,
    value: String,
}

#[derive(Serialize)]
struct ClusterAnswer {
    cluster: ClusterView,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterView {
    cluster_arn: String,
    cluster_name: String,
    status: String,
    registered_container_instances_count: usize,
    running_tasks_count: usize,
    pending_tasks_count: usize,
    active_services_count: usize,
    statistics: Vec<Value>,
    tags: Vec<Tag>,
    settings: Vec<Setting>,
    capacity_providers: Vec<String>,
    default_capacity_provider_strategy: Vec<Value>,
}

fn view(state: &State, cluster: &Cluster, include: &[String]) -> ClusterView {
    let has = |what: &str| include.iter().any(|included| included == what);
    let tasks = |count: fn(&Task) -> bool| tasks_of(state, cluster).filter(|task| count(task)).count();
    ClusterView {
        cluster_arn: cluster.arn.to_string(),
        cluster_name: cluster.name.clone(),
        status: cluster.status.clone(),
        registered_container_instances_count: container_instances(state, cluster)
            .filter(|instance| instance.state == InstanceState::Running)
            .count(),
        running_tasks_count: tasks(|task| task.last_status == TaskStatus::Running),
        pending_tasks_count: tasks(|task| task.last_status < TaskStatus::Running),
        active_services_count: services_of(state, cluster).filter(|row| row.status == "ACTIVE").count(),
        statistics: Vec::new(),
        tags: if has("TAGS") { wire_tags(&cluster.tags) } else { Vec::new() },
        settings: if has("SETTINGS") {
            vec![Setting { name: "containerInsights".to_owned(), value: "disabled".to_owned() }]
        } else {
            Vec::new()
        },
        capacity_providers: Vec::new(),
        default_capacity_provider_strategy: Vec::new(),
    }
}

fn tasks_of<'a>(state: &'a State, cluster: &'a Cluster) -> impl Iterator<Item = &'a Task> {
    state
        .tasks
        .values()
        .map(AsRef::as_ref)
        .filter(|task| task.cluster_arn == cluster.arn && task.last_status < TaskStatus::Stopped)
}

fn services_of<'a>(state: &'a State, cluster: &'a Cluster) -> impl Iterator<Item = &'a EcsService> {
    state.services.values().map(AsRef::as_ref).filter(|service| service.cluster_arn == cluster.arn)
}

/// Creates a cluster; one that exists is answered as it is, as ECS does.
fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<ClusterAnswer, ApiError> {
    let name = input.cluster_name.unwrap_or_else(|| "default".to_owned());
    if !ecs::is_name(&name) {
        return Err(invalid(
            "Identifier is invalid: a cluster name has 1 to 255 letters, digits, hyphens and underscores.",
        ));
    }
    ecs::keep_recorded(input.rest, "", &[])?;
    if let Some(setting) = input.settings.iter().find(|setting| setting.value != "disabled") {
        return Err(invalid(format!("settings: {} {} is not supported.", setting.name, setting.value)));
    }
    let arn = ecs::arn(caller, format_args!("cluster/{name}"));
    if draft.one::<Cluster>(arn.as_str()).is_none() {
        let tags = ecs::new_tags(input.tags)?;
        draft.put(Cluster { arn: arn.clone(), name, status: "ACTIVE".to_owned(), tags });
    }
    let include = ["TAGS".to_owned(), "SETTINGS".to_owned()];
    Ok(ClusterAnswer {
        cluster: view(draft.state(), cluster(draft.state(), caller, Some(arn.as_str()))?, &include),
    })
}

#[derive(Deserialize)]
struct DescribeInput {
    #[serde(default)]
    clusters: Vec<String>,
    #[serde(default)]
    include: Vec<String>,
}

#[derive(Serialize)]
struct DescribeAnswer {
    clusters: Vec<ClusterView>,
    failures: Vec<Failure>,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<DescribeAnswer, ApiError> {
    let named = if input.clusters.is_empty() { vec!["default".to_owned()] } else { input.clusters };
    if named.len() > DESCRIBED_MAX {
        return Err(invalid(format!("At most {DESCRIBED_MAX} clusters can be described in one call.")));
    }
    let (mut clusters, mut failures) = (Vec::new(), Vec::new());
    for name in named {
        match cluster(draft.state(), caller, Some(&name)) {
            Ok(cluster) => clusters.push(view(draft.state(), cluster, &input.include)),
            Err(_) => failures.push(Failure::missing(ecs::cluster_arn(caller, &name).0)),
        }
    }
    Ok(DescribeAnswer { clusters, failures })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListInput {
    next_token: Option<String>,
    max_results: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListAnswer {
    cluster_arns: Vec<String>,
    next_token: Option<String>,
}

fn list(draft: &mut Draft, caller: &Caller, input: ListInput) -> Result<ListAnswer, ApiError> {
    let own = ecs::arn(caller, "cluster/").0;
    let rows = draft.state().with_prefix::<Cluster>(&own).map(|row| (row.key(), row.arn.to_string()));
    let (cluster_arns, next_token) = page(rows, input.next_token.as_deref(), input.max_results, PAGE_MAX)?;
    Ok(ListAnswer { cluster_arns, next_token })
}

#[derive(Deserialize)]
struct DeleteInput {
    cluster: String,
}

fn delete(draft: &mut Draft, caller: &Caller, input: DeleteInput) -> Result<ClusterAnswer, ApiError> {
    let state = draft.state();
    let cluster = cluster(state, caller, Some(&input.cluster))?.clone();
    if services_of(state, &cluster).any(|service| service.status != "INACTIVE") {
        return Err(ApiError::conflict(
            "ClusterContainsServicesException",
            "The Cluster cannot be deleted while Services are active.",
        ));
    }
    if tasks_of(state, &cluster).next().is_some() {
        return Err(ApiError::conflict(
            "ClusterContainsTasksException",
            "The Cluster cannot be deleted while Tasks are active.",
        ));
    }
    if container_instances(state, &cluster).next().is_some() {
        return Err(ApiError::conflict(
            "ClusterContainsContainerInstancesException",
            "The Cluster cannot be deleted while Container Instances are active or draining.",
        ));
    }
    let mut cluster_view = view(state, &cluster, &[]);
    "INACTIVE".clone_into(&mut cluster_view.status);
    let services: Vec<String> = services_of(state, &cluster).map(Resource::key).collect();
    let stopped: Vec<String> =
        state.tasks.values().filter(|task| task.cluster_arn == cluster.arn).map(|task| task.key()).collect();
    services.iter().for_each(|key| _ = draft.remove::<EcsService>(key));
    stopped.iter().for_each(|key| _ = draft.remove::<Task>(key));
    draft.remove::<Cluster>(cluster.arn.as_str());
    Ok(ClusterAnswer { cluster: cluster_view })
}

/// AWS's limit on clusters in one DescribeClusters call.
const DESCRIBED_MAX: usize = 100;

/// AWS's limit on ListClusters' maxResults.
const PAGE_MAX: u32 = 100;
