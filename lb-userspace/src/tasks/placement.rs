//! Which container instance a task goes to: spread over zones, then over instances, as ECS does by default.
//!
//! Before it: the scheduler found a task missing, or RunTask asked for one. After it: the host starts the task there.

use std::collections::BTreeMap;

use crate::model::{
    State,
    id::InstanceId,
    network::{Instance, InstanceState},
    task::{Cluster, Task, TaskDefinition, TaskStatus},
};

/// Why no container instance can take a task.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The cluster has no running container instance.
    #[error("No Container Instances were found in your cluster.")]
    NoInstances,
    /// A fixed host port is in use on every container instance.
    #[error(
        "The closest matching container-instance {instance} is already using a port required by your task."
    )]
    PortInUse {
        /// The one with the fewest tasks.
        instance: InstanceId,
    },
}

/// Chooses a running container instance of `cluster` for one more task of `group`: in the zone with the fewest of the
/// group's tasks, there the instance with the fewest of them, then the one with the fewest tasks at all, then the one
/// whose id comes first. An instance on which a fixed host port of the definition is taken is left out.
///
/// # Errors
/// When no container instance can take the task.
pub fn place(
    state: &State,
    cluster: &Cluster,
    definition: &TaskDefinition,
    group: &str,
) -> Result<InstanceId, PlaceError> {
    let mut load: BTreeMap<&InstanceId, Load> = BTreeMap::new();
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    for task in state.tasks.values().filter(|task| task.last_status < TaskStatus::Stopped) {
        let load = load.entry(&task.instance_id).or_default();
        load.all += 1;
        load.ports.extend(fixed_ports(state, task));
        if task.desired_status == TaskStatus::Running && task.group == group {
            load.own += 1;
            if let Some(zone) = state.instances.get(task.instance_id.as_str()).and_then(|i| zone(state, i)) {
                *zones.entry(zone).or_default() += 1;
            }
        }
    }
    let none = Load::default();
    let of = |instance: &Instance| load.get(&instance.id).unwrap_or(&none);
    let mut candidates: Vec<&Instance> = container_instances(state, cluster).collect();
    candidates.sort_by_key(|instance| {
        let load = of(instance);
        let in_zone = zone(state, instance).and_then(|zone| zones.get(zone)).copied().unwrap_or(0);
        (in_zone, load.own, load.all, &instance.id)
    });
    let wanted = fixed_ports_of(definition);
    let fits = |instance: &&&Instance| !wanted.iter().any(|port| of(instance).ports.contains(port));
    match candidates.iter().find(fits) {
        Some(instance) => Ok(instance.id.clone()),
        None => Err(candidates
            .first()
            .map_or(PlaceError::NoInstances, |first| PlaceError::PortInUse { instance: first.id.clone() })),
    }
}

/// The running instances whose user data names the cluster.
pub fn container_instances<'a>(
    state: &'a State,
    cluster: &'a Cluster,
) -> impl Iterator<Item = &'a Instance> + 'a {
    state.instances.values().map(AsRef::as_ref).filter(|instance| {
        instance.state == InstanceState::Running && instance.ecs_cluster.as_ref() == Some(&cluster.name)
    })
}

/// What already runs on an instance.
#[derive(Default)]
struct Load {
    /// Tasks of the same group.
    own: usize,
    /// All tasks.
    all: usize,
    /// Fixed host ports that are taken, each with its protocol.
    ports: Vec<FixedPort>,
}

fn zone<'a>(state: &'a State, instance: &Instance) -> Option<&'a str> {
    state.subnets.get(instance.subnet_id.as_str()).map(|subnet| subnet.zone.as_str())
}

type FixedPort = (u16, String);

fn fixed_ports(state: &State, task: &Task) -> Vec<FixedPort> {
    let definition = super::scheduler::definition(state, &task.task_definition_arn);
    definition.map(|definition| fixed_ports_of(definition)).unwrap_or_default()
}

fn fixed_ports_of(definition: &TaskDefinition) -> Vec<FixedPort> {
    let mappings = definition.containers.iter().flat_map(|container| &container.port_mappings);
    mappings
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| (mapping.host_port, mapping.protocol.clone()))
        .collect()
}
