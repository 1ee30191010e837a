//! ECS: cluster, task definition, service, task and container instance.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    id::{Arn, InstanceId, TimestampMs},
    network::Tags,
};

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// `…:cluster/<name>`.
    pub arn: Arn,
    /// Its name.
    pub name: String,
    /// `ACTIVE` or `INACTIVE`.
    pub status: String,
    /// Its tags.
    pub tags: Tags,
}

/// A revision of a task definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskDefinition {
    /// `…:task-definition/<family>:<revision>`.
    pub arn: Arn,
    /// Its family.
    pub family: String,
    /// From 1.
    pub revision: u32,
    /// `bridge`, `host`, `awsvpc` or `none`.
    pub network_mode: String,
    /// Its containers.
    pub containers: Vec<ContainerDefinition>,
    /// Roles and platform, as given.
    pub recorded: Recorded,
    /// `ACTIVE` or `INACTIVE`.
    pub status: String,
    /// When it was registered.
    pub registered_at: TimestampMs,
    /// Its tags.
    pub tags: Tags,
}

/// Members of a request that are kept and shown as they were given, and that nothing acts on.
pub type Recorded = serde_json::Map<String, serde_json::Value>;

/// A container of a task definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerDefinition {
    /// Its name.
    pub name: String,
    /// Its image; the process driver finds a program by it.
    pub image: String,
    /// Arguments.
    pub command: Vec<String>,
    /// EntryPoint.
    pub entry_point: Vec<String>,
    /// Environment.
    pub environment: BTreeMap<String, String>,
    /// Ports.
    pub port_mappings: Vec<PortMapping>,
    /// CPU units, 1,024 a core; 0 is no limit.
    pub cpu: u32,
    /// Hard limit in MiB.
    pub memory_mib: Option<u32>,
    /// Whether the task ends with it.
    pub essential: bool,
    /// Seconds from SIGTERM to SIGKILL; default 30.
    pub stop_timeout_s: u32,
    /// MemoryReservation, log configuration and labels, as given.
    pub recorded: Recorded,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// ContainerPort.
    pub container_port: u16,
    /// HostPort; 0 picks an unused one.
    pub host_port: u16,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its name, as given.
    pub name: Option<String>,
}

/// A service: keeps a number of tasks running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcsService {
    /// `…:service/<cluster>/<name>`.
    pub arn: Arn,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its cluster.
    pub cluster_arn: Arn,
    /// What its tasks run.
    pub task_definition_arn: Arn,
    /// How many.
    pub desired_count: u32,
    /// Deployments, the newest (`PRIMARY`) first; older ones until their last task is on its way out.
    pub deployments: Vec<ServiceDeployment>,
    /// MinimumHealthyPercent: how much of the desired count a deployment keeps running.
    pub minimum_healthy_percent: u32,
    /// MaximumPercent: how much of the desired count a deployment may have running.
    pub maximum_percent: u32,
    /// Where tasks are registered.
    pub load_balancers: Vec<ServiceLoadBalancer>,
    /// Where tasks are registered in Cloud Map.
    pub registries: Vec<ServiceRegistry>,
    /// `ACTIVE`, `DRAINING` or `INACTIVE`.
    pub status: String,
    /// When it was created.
    pub created_at: TimestampMs,
    /// When it became `INACTIVE`; kept for an hour.
    pub inactive_since: Option<TimestampMs>,
    /// Grace period and placement strategy, as given.
    pub recorded: Recorded,
    /// ClientToken of its creation.
    pub client_token: Option<String>,
    /// Whether it has as many running tasks as desired, all of its newest deployment.
    pub is_steady: bool,
    /// How many tasks ended early in a row; slows their replacement down.
    pub crash_streak: u32,
    /// When a task last ended by itself.
    pub last_crash_at: Option<TimestampMs>,
    /// Last events, newest first, at most 100 as AWS's.
    pub events: Vec<ServiceEvent>,
    /// Its tags.
    pub tags: Tags,
}

/// A deployment of a service: one task definition on its way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDeployment {
    /// `ecs-svc/<19 digits>`; its tasks' `started_by`.
    pub id: String,
    /// What its tasks run.
    pub task_definition_arn: Arn,
    /// When it was created.
    pub created_at: TimestampMs,
    /// When it last changed.
    pub updated_at: TimestampMs,
    /// Whether it once had all its tasks running and no older deployment beside it.
    pub is_complete: bool,
    /// How many of its tasks ended by themselves since it was created or last complete.
    pub failed_tasks: u32,
}

/// A target group that a service registers its tasks with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLoadBalancer {
    /// The group.
    pub target_group_arn: Arn,
    /// The container.
    pub container_name: String,
    /// Its port.
    pub container_port: u16,
}

/// A Cloud Map service that a service registers its tasks with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRegistry {
    /// The Cloud Map service's ARN.
    pub registry_arn: Arn,
    /// The container, in bridge and host mode.
    pub container_name: Option<String>,
    /// Its port, in bridge and host mode.
    pub container_port: Option<u16>,
    /// Port, in awsvpc mode.
    pub port: Option<u16>,
}

/// An event of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEvent {
    /// Its id.
    pub id: String,
    /// When.
    pub at: TimestampMs,
    /// What.
    pub message: String,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// `…:task/<cluster>/<32 hex>`.
    pub arn: Arn,
    /// Its cluster.
    pub cluster_arn: Arn,
    /// What it runs.
    pub task_definition_arn: Arn,
    /// `service:<name>`, or the caller's.
    pub group: String,
    /// The deployment of a service's task, or what the caller of RunTask said.
    pub started_by: Option<String>,
    /// Where it was placed.
    pub instance_id: InstanceId,
    /// Where it is in its life.
    pub last_status: TaskStatus,
    /// Where it should be: Running or Stopped.
    pub desired_status: TaskStatus,
    /// Host ports by container name and container port, once known.
    pub bindings: Vec<PortBinding>,
    /// When it was created.
    pub created_at: TimestampMs,
    /// When it ran.
    pub started_at: Option<TimestampMs>,
    /// When deregistration from groups and registries began.
    pub deactivating_since: Option<TimestampMs>,
    /// The first generation of the snapshot without it, which the data planes must apply before it is stopped.
    pub withdrawn_in_generation: Option<u64>,
    /// When the host was told to stop it.
    pub stopping_at: Option<TimestampMs>,
    /// When it stopped; kept for an hour, as ECS does.
    pub stopped_at: Option<TimestampMs>,
    /// Why it stopped, for people.
    pub stopped_reason: Option<String>,
    /// Why it stopped: TaskFailedToStart, EssentialContainerExited, UserInitiated, ServiceSchedulerInitiated or
    /// InfrastructureHealth.
    pub stop_code: Option<String>,
    /// Exit codes by container.
    pub exit_codes: BTreeMap<String, i32>,
    /// Its tags.
    pub tags: Tags,
}

impl Task {
    /// The last part of its ARN: 32 hex digits.
    pub fn id(&self) -> &str {
        self.arn.0.rsplit('/').next().unwrap_or_default()
    }

    /// The ARN of the service it belongs to, if its group names one.
    pub fn service_arn(&self) -> Option<Arn> {
        let name = self.group.strip_prefix("service:")?;
        let (before, cluster) = self.cluster_arn.0.rsplit_once(":cluster/")?;
        Some(Arn(format!("{before}:service/{cluster}/{name}")))
    }
}

/// A container port and the host port that was picked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// The container.
    pub container_name: String,
    /// ContainerPort.
    pub container_port: u16,
    /// The unused port that the host picked.
    pub host_port: u16,
    /// `tcp` or `udp`.
    #[serde(default = "tcp")]
    pub protocol: String,
}

fn tcp() -> String {
    "tcp".to_owned()
}

/// Where a task is in its life, in ECS's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskStatus {
    /// Placed; the host has not started it.
    Provisioning,
    /// The host is starting it.
    Pending,
    /// Started; being registered.
    Activating,
    /// Registered.
    Running,
    /// Being deregistered, draining.
    Deactivating,
    /// SIGTERM was sent.
    Stopping,
    /// Gone.
    Stopped,
}

impl TaskStatus {
    /// ECS's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "PROVISIONING",
            Self::Pending => "PENDING",
            Self::Activating => "ACTIVATING",
            Self::Running => "RUNNING",
            Self::Deactivating => "DEACTIVATING",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
        }
    }
}
