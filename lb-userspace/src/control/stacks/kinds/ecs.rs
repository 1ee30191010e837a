//! AWS::ECS: cluster, task definition, service. Properties are the API's members with a capital first letter.

use serde_json::{Map, Value, json};

use super::{Kind, Made, Readiness, at_once, attribute, physical, pick, stands};
use crate::model::{
    stack::StackResource,
    state::Draft,
    task::{EcsService, Task, TaskStatus},
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "AWS::ECS::Cluster",
        properties: &["ClusterName", "Tags"],
        create: |making| {
            let name = making.name_or_generated("ClusterName", 255);
            let mut input = lower(making.rest());
            input["clusterName"] = name.clone().into();
            let answer = making.call("ecs", "CreateCluster", input)?;
            Ok(Made::new(name).with("Arn", pick(&answer, "/cluster/clusterArn")?))
        },
        readiness: stands,
        delete: |making, resource| {
            making.call("ecs", "DeleteCluster", json!({"cluster": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ECS::TaskDefinition",
        properties: &[
            "Family",
            "NetworkMode",
            "ContainerDefinitions",
            "Cpu",
            "Memory",
            "RequiresCompatibilities",
            "ExecutionRoleArn",
            "TaskRoleArn",
            "Volumes",
            "Tags",
        ],
        create: |making| {
            let family = making.name_or_generated("Family", 255);
            let mut input = lower(making.rest());
            input["family"] = family.into();
            let answer = making.call("ecs", "RegisterTaskDefinition", input)?;
            let arn = pick(&answer, "/taskDefinition/taskDefinitionArn")?;
            Ok(Made::new(&arn).with("TaskDefinitionArn", &arn))
        },
        readiness: stands,
        delete: |making, resource| {
            let input = json!({"taskDefinition": physical(resource)});
            making.call("ecs", "DeregisterTaskDefinition", input).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ECS::Service",
        properties: &[
            "ServiceName",
            "Cluster",
            "TaskDefinition",
            "DesiredCount",
            "LaunchType",
            "LoadBalancers",
            "ServiceRegistries",
            "DeploymentConfiguration",
            "SchedulingStrategy",
            "HealthCheckGracePeriodSeconds",
            "NetworkConfiguration",
            "PlacementStrategies",
            "PlacementConstraints",
            "Role",
            "Tags",
        ],
        create: |making| {
            let name = making.name_or_generated("ServiceName", 255);
            let mut input = lower(making.rest());
            input["serviceName"] = name.clone().into();
            let answer = making.call("ecs", "CreateService", input)?;
            let arn = pick(&answer, "/service/serviceArn")?;
            let cluster = pick(&answer, "/service/clusterArn")?;
            Ok(Made::new(&arn).with("ServiceArn", &arn).with("Name", name).with("ClusterArn", cluster))
        },
        readiness: service_is_steady,
        delete: |making, resource| {
            let input = json!({
                "cluster": attribute(resource, "ClusterArn"),
                "service": physical(resource),
                "force": true,
            });
            making.call("ecs", "DeleteService", input).map(drop)
        },
        is_gone: |draft, resource| tasks_of(draft, resource).next().is_none(),
    },
];

/// Members with a small first letter, except inside maps whose keys are the user's.
fn lower(value: Value) -> Value {
    const USERS_KEYS: &[&str] = &["DockerLabels", "Options"];
    match value {
        Value::Object(members) => {
            let mut object = Map::new();
            for (name, value) in members {
                let value = if USERS_KEYS.contains(&name.as_str()) { value } else { lower(value) };
                let mut letters = name.chars();
                let first = letters.next().map(|letter| letter.to_ascii_lowercase());
                object.insert(first.into_iter().chain(letters).collect(), value);
            }
            Value::Object(object)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(lower).collect()),
        plain => plain,
    }
}

fn tasks_of<'a>(draft: &'a Draft, resource: &'a StackResource) -> impl Iterator<Item = TaskStatus> + 'a {
    let group = format!("service:{}", attribute(resource, "Name"));
    draft
        .all::<Task>()
        .filter(move |task| {
            task.group == group && task.cluster_arn.as_str() == attribute(resource, "ClusterArn")
        })
        .map(|task| task.last_status)
        .filter(|status| *status != TaskStatus::Stopped)
}

/// Steady as ECS means it: as many tasks run as are desired, none is on its way.
fn service_is_steady(draft: &Draft, resource: &StackResource) -> Readiness {
    let Some(service) = draft.one::<EcsService>(physical(resource)) else {
        return Readiness::Failed("the service was deleted".to_owned());
    };
    let running = tasks_of(draft, resource).filter(|status| *status == TaskStatus::Running).count();
    let all = tasks_of(draft, resource).count();
    if all == running && u32::try_from(running) == Ok(service.desired_count) {
        Readiness::Stands(None)
    } else {
        Readiness::Waits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_become_the_apis_and_users_keys_stay() {
        let lowered = lower(
            json!({"ContainerDefinitions": [{"DockerLabels": {"Key": "v"}, "PortMappings": [{"HostPort": 0}]}]}),
        );
        assert_eq!(
            lowered,
            json!({"containerDefinitions": [{"dockerLabels": {"Key": "v"}, "portMappings": [{"hostPort": 0}]}]})
        );
    }
}
