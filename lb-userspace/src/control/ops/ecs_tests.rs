//! Stories of ecs's operations: what they keep, what they refuse, and in which words.

use serde_json::{Value, json};

use super::world::World;
use crate::model::{
    network::Instance,
    task::{EcsService, Task, TaskStatus},
};

/// A cluster with a container instance, a definition and a target group.
fn demo() -> World {
    let mut world = World::new();
    world.ok("ecs", "CreateCluster", json!({"clusterName": "demo", "tags": [{"key": "a", "value": "b"}]}));
    world
        .change(|draft| {
            draft.edit::<Instance>("i-1", |row| row.ecs_cluster = Some("demo".into()));
            Ok::<_, ()>(())
        })
        .unwrap();
    world.ok("ecs", "RegisterTaskDefinition", definition());
    world
}

fn definition() -> Value {
    json!({
        "family": "web",
        "containerDefinitions": [{
            "name": "app", "image": "whoami", "memory": 64, "environment": [{"name": "A", "value": "1"}],
            "portMappings": [{"containerPort": 80}],
            "logConfiguration": {"logDriver": "awslogs"},
        }],
    })
}

fn group(world: &mut World) -> String {
    let answer = world.ok(
        "elbv2",
        "CreateTargetGroup",
        json!({"Name": "web", "Protocol": "HTTP", "Port": 80, "VpcId": "vpc-1", "TargetType": "instance"}),
    );
    answer["TargetGroups"][0]["TargetGroupArn"].as_str().unwrap().to_owned()
}

fn service_input() -> Value {
    json!({"cluster": "demo", "serviceName": "web", "taskDefinition": "web", "desiredCount": 2})
}

fn with(mut input: Value, name: &str, value: Value) -> Value {
    input[name] = value;
    input
}

#[test]
fn a_cluster_is_made_once_and_deleted_when_nothing_is_in_it() {
    let mut world = demo();
    let again = world.ok("ecs", "CreateCluster", json!({"clusterName": "demo"}));
    assert_eq!(again["cluster"]["tags"][0]["value"], "b", "the one that exists is answered");
    let described = world.ok("ecs", "DescribeClusters", json!({"clusters": ["demo", "none"]}));
    assert_eq!(described["clusters"][0]["registeredContainerInstancesCount"], 1);
    assert_eq!(described["failures"][0]["reason"], "MISSING");
    assert!(described["failures"][0]["arn"].as_str().unwrap().ends_with(":cluster/none"));
    let refused = world.refuse("ecs", "DeleteCluster", json!({"cluster": "demo"}));
    assert_eq!(refused.0, "ClusterContainsContainerInstancesException");
    world.ok("ecs", "CreateService", service_input());
    assert_eq!(
        world.refuse("ecs", "DeleteCluster", json!({"cluster": "demo"})).0,
        "ClusterContainsServicesException"
    );
    assert_eq!(
        world.refuse("ecs", "DeleteCluster", json!({"cluster": "none"})),
        ("ClusterNotFoundException".into(), "Cluster not found.".into())
    );
    world.ok("ecs", "CreateCluster", json!({}));
    let deleted = world.ok("ecs", "DeleteCluster", json!({"cluster": "default"}));
    assert_eq!(deleted["cluster"]["status"], "INACTIVE");
}

#[test]
fn a_definition_shows_what_it_was_given_and_counts_revisions() {
    let mut world = demo();
    let second = world.ok("ecs", "RegisterTaskDefinition", definition());
    assert_eq!(second["taskDefinition"]["revision"], 2);
    let described = world.ok("ecs", "DescribeTaskDefinition", json!({"taskDefinition": "web"}));
    let container = &described["taskDefinition"]["containerDefinitions"][0];
    assert_eq!(described["taskDefinition"]["revision"], 2);
    assert_eq!(described["taskDefinition"]["networkMode"], "bridge");
    assert_eq!(container["portMappings"][0]["hostPort"], 0);
    assert_eq!(container["essential"], true);
    assert_eq!(container["environment"], json!([{"name": "A", "value": "1"}]));
    assert_eq!(container["logConfiguration"]["logDriver"], "awslogs");
    world.ok("ecs", "DeregisterTaskDefinition", json!({"taskDefinition": "web:2"}));
    let newest = world.ok("ecs", "DescribeTaskDefinition", json!({"taskDefinition": "web"}));
    assert_eq!(newest["taskDefinition"]["revision"], 1);
    let listed = world.ok("ecs", "ListTaskDefinitions", json!({"status": "INACTIVE"}));
    assert!(listed["taskDefinitionArns"][0].as_str().unwrap().ends_with("task-definition/web:2"));
    world.ok("ecs", "RegisterTaskDefinition", definition());
    let listed = world.ok("ecs", "ListTaskDefinitions", json!({"sort": "DESC", "maxResults": 1}));
    assert!(listed["taskDefinitionArns"][0].as_str().unwrap().ends_with("web:3"));
    let rest =
        world.ok("ecs", "ListTaskDefinitions", json!({"sort": "DESC", "nextToken": listed["nextToken"]}));
    assert!(rest["taskDefinitionArns"][0].as_str().unwrap().ends_with("web:1"));
    assert_eq!(world.ok("ecs", "ListTaskDefinitionFamilies", json!({}))["families"], json!(["web"]));
}

#[test]
fn what_the_driver_cannot_honour_is_refused_by_name() {
    let mut world = demo();
    let container = |name: &str, value: Value| {
        let mut input = definition();
        input["containerDefinitions"][0][name] = value;
        input
    };
    for (input, words) in [
        (with(definition(), "networkMode", json!("awsvpc")), "networkMode 'awsvpc'"),
        (
            with(definition(), "requiresCompatibilities", json!(["FARGATE"])),
            "requiresCompatibilities 'FARGATE'",
        ),
        (with(definition(), "volumes", json!([{"name": "v"}])), "volumes is not supported"),
        (with(definition(), "family", json!("a b")), "family has"),
        (with(definition(), "containerDefinitions", json!([])), "containerDefinitions has"),
        (container("mountPoints", json!([{"sourceVolume": "v"}])), "containerDefinitions[0].mountPoints"),
        (container("privileged", json!(true)), "containerDefinitions[0].privileged"),
        (container("user", json!("nobody")), "containerDefinitions[0].user"),
        (container("image", Value::Null), "Container.image"),
        (container("memory", Value::Null), "'memory' or 'memoryReservation'"),
        (container("memory", json!(1)), "at least 6"),
        (container("essential", json!(false)), "essential"),
        (container("stopTimeout", json!(-1)), "'stopTimeout'"),
        (container("portMappings", json!([{"containerPort": 70_000}])), "containerPort must be"),
        (container("portMappings", json!([{"containerPort": 80, "protocol": "sctp"}])), "protocol 'sctp'"),
        (container("environment", json!([{"name": "A=B", "value": ""}])), "environment variable"),
    ] {
        let before = world.state.task_definitions.len();
        let (code, message) = world.refuse("ecs", "RegisterTaskDefinition", input);
        assert_eq!(code, "ClientException", "{words}");
        assert!(message.contains(words), "{message}");
        assert_eq!(world.state.task_definitions.len(), before);
    }
    // What asks for nothing is not refused.
    let mut quiet = container("privileged", json!(false));
    quiet["volumes"] = json!([]);
    quiet["containerDefinitions"][0]["mountPoints"] = json!([]);
    world.ok("ecs", "RegisterTaskDefinition", quiet);
}

#[test]
fn a_service_is_checked_against_its_definition_and_its_groups() {
    let mut world = demo();
    let group = group(&mut world);
    let by_address = world.ok(
        "elbv2",
        "CreateTargetGroup",
        json!({"Name": "ip", "Protocol": "HTTP", "Port": 80, "VpcId": "vpc-1", "TargetType": "ip"}),
    );
    let by_address = &by_address["TargetGroups"][0]["TargetGroupArn"];
    let balancers = |arn: &Value, name: &str, port: u32| {
        let balancer = json!({"targetGroupArn": arn, "containerName": name, "containerPort": port});
        with(service_input(), "loadBalancers", json!([balancer]))
    };
    let arn = json!(group);
    for (input, code, words) in [
        (with(service_input(), "cluster", json!("none")), "ClusterNotFoundException", "Cluster not found."),
        (
            with(service_input(), "taskDefinition", json!("none")),
            "ClientException",
            "TaskDefinition not found.",
        ),
        (with(service_input(), "desiredCount", Value::Null), "InvalidParameterException", "desiredCount"),
        (with(service_input(), "desiredCount", json!(-1)), "InvalidParameterException", "desiredCount"),
        (with(service_input(), "serviceName", json!("a/b")), "InvalidParameterException", "serviceName"),
        (with(service_input(), "launchType", json!("FARGATE")), "InvalidParameterException", "launchType"),
        (
            with(service_input(), "schedulingStrategy", json!("DAEMON")),
            "InvalidParameterException",
            "REPLICA",
        ),
        (
            with(service_input(), "networkConfiguration", json!({"awsvpcConfiguration": {"subnets": ["x"]}})),
            "ClientException",
            "networkConfiguration is not supported",
        ),
        (
            with(
                service_input(),
                "deploymentConfiguration",
                json!({"minimumHealthyPercent": 100, "maximumPercent": 100}),
            ),
            "InvalidParameterException",
            "maximumPercent must be greater",
        ),
        (balancers(&arn, "none", 80), "InvalidParameterException", "The container none does not exist"),
        (balancers(&arn, "app", 81), "InvalidParameterException", "did not have a container port 81"),
        (balancers(&json!("arn:x"), "app", 80), "InvalidParameterException", "target group does not exist"),
        (balancers(by_address, "app", 80), "InvalidParameterException", "target type instance"),
        (
            with(service_input(), "serviceRegistries", json!([{"registryArn": "arn:x"}])),
            "InvalidParameterException",
            "service registry does not exist",
        ),
    ] {
        let refused = world.refuse("ecs", "CreateService", input);
        assert_eq!(refused.0, code, "{words}");
        assert!(refused.1.contains(words), "{}", refused.1);
        assert!(world.state.services.is_empty());
    }
    world.ok("ecs", "CreateService", balancers(&arn, "app", 80));
    let described =
        world.ok("ecs", "DescribeServices", json!({"cluster": "demo", "services": ["web", "no"]}));
    let service = &described["services"][0];
    assert_eq!(service["loadBalancers"][0]["targetGroupArn"], arn);
    assert_eq!(service["deployments"][0]["status"], "PRIMARY");
    assert_eq!(service["deployments"][0]["rolloutState"], "IN_PROGRESS");
    assert_eq!(service["deploymentConfiguration"]["minimumHealthyPercent"], 100);
    assert!(described["failures"][0]["arn"].as_str().unwrap().ends_with(":service/demo/no"));
}

#[test]
fn a_repeated_creation_with_its_token_is_answered_and_another_refused() {
    let mut world = demo();
    let input = with(service_input(), "clientToken", json!("t"));
    let first = world.ok("ecs", "CreateService", input.clone());
    assert_eq!(world.ok("ecs", "CreateService", input)["service"], first["service"]);
    let refused = world.refuse("ecs", "CreateService", with(service_input(), "clientToken", json!("u")));
    assert_eq!(refused.1, "Creation of service was not idempotent.");
}

#[test]
fn an_update_scales_in_place_and_deploys_only_what_changed() {
    let mut world = demo();
    world.ok("ecs", "CreateService", service_input());
    let update = |count: u32| json!({"cluster": "demo", "service": "web", "desiredCount": count});
    let scaled = world.ok("ecs", "UpdateService", update(5));
    assert_eq!(scaled["service"]["desiredCount"], 5);
    assert_eq!(scaled["service"]["deployments"].as_array().unwrap().len(), 1);
    let same = world.ok("ecs", "UpdateService", with(update(5), "taskDefinition", json!("web:1")));
    assert_eq!(same["service"]["deployments"].as_array().unwrap().len(), 1);
    let forced = world.ok("ecs", "UpdateService", with(update(5), "forceNewDeployment", json!(true)));
    assert_eq!(forced["service"]["deployments"].as_array().unwrap().len(), 2);
    assert_eq!(forced["service"]["deployments"][1]["status"], "ACTIVE");
    world.ok("ecs", "RegisterTaskDefinition", definition());
    let deployed = world.ok("ecs", "UpdateService", with(update(5), "taskDefinition", json!("web")));
    assert!(deployed["service"]["taskDefinition"].as_str().unwrap().ends_with("web:2"));
    assert_eq!(
        world.refuse("ecs", "UpdateService", json!({"cluster": "demo", "service": "no"})).0,
        "ServiceNotFoundException"
    );
}

#[test]
fn a_service_that_runs_is_deleted_only_by_force() {
    let mut world = demo();
    world.ok("ecs", "CreateService", service_input());
    let delete = json!({"cluster": "demo", "service": "web"});
    let refused = world.refuse("ecs", "DeleteService", delete.clone());
    assert_eq!(refused.1, "The service cannot be stopped while it is scaled above 0.");
    let deleted = world.ok("ecs", "DeleteService", with(delete, "force", json!(true)));
    assert_eq!(deleted["service"]["status"], "DRAINING");
    assert_eq!(world.refuse("ecs", "CreateService", service_input()).0, "InvalidParameterException");
    let refused = world.refuse("ecs", "UpdateService", json!({"cluster": "demo", "service": "web"}));
    assert_eq!(refused.0, "ServiceNotActiveException");
    world
        .change(|draft| {
            let key = draft.all::<EcsService>().next().unwrap().arn.0.clone();
            draft.edit::<EcsService>(&key, |row| row.status = "INACTIVE".into());
            Ok::<_, ()>(())
        })
        .unwrap();
    world.ok("ecs", "CreateService", service_input());
}

#[test]
fn tasks_are_run_stopped_and_found() {
    let mut world = demo();
    let input = json!({"cluster": "demo", "taskDefinition": "web", "count": 2, "startedBy": "me"});
    let answer = world.ok("ecs", "RunTask", input.clone());
    let arn = answer["tasks"][0]["taskArn"].as_str().unwrap().to_owned();
    assert_eq!(answer["tasks"].as_array().unwrap().len(), 2);
    assert_eq!(answer["tasks"][0]["lastStatus"], "PROVISIONING");
    assert_eq!(answer["tasks"][0]["group"], "family:web");
    for (name, value) in [
        ("count", json!(11)),
        ("group", json!("service:web")),
        ("overrides", json!({"containerOverrides": [{"name": "app"}]})),
        ("launchType", json!("FARGATE")),
    ] {
        world.refuse("ecs", "RunTask", with(input.clone(), name, value));
    }
    let stopped = world.ok("ecs", "StopTask", json!({"cluster": "demo", "task": arn, "reason": "enough"}));
    assert_eq!(stopped["task"]["desiredStatus"], "STOPPED");
    assert_eq!(stopped["task"]["stoppedReason"], "enough");
    let running = world.ok("ecs", "ListTasks", json!({"cluster": "demo", "family": "web"}));
    assert_eq!(running["taskArns"].as_array().unwrap().len(), 1);
    let id = arn.rsplit('/').next().unwrap().to_owned();
    let described = world.ok("ecs", "DescribeTasks", json!({"cluster": "demo", "tasks": [id, "no"]}));
    assert_eq!(described["tasks"][0]["taskArn"], json!(arn));
    assert_eq!(described["failures"][0]["reason"], "MISSING");
    assert_eq!(
        world.refuse("ecs", "StopTask", json!({"cluster": "demo", "task": "no"})).1,
        "The referenced task was not found."
    );
    world
        .change(|draft| {
            draft.edit::<Instance>("i-1", |row| row.ecs_cluster = None);
            Ok::<_, ()>(())
        })
        .unwrap();
    assert_eq!(world.refuse("ecs", "RunTask", input).1, "No Container Instances were found in your cluster.");
}

#[test]
fn a_running_task_shows_its_ports_and_its_container_instance() {
    let mut world = demo();
    world.ok("ecs", "RunTask", json!({"cluster": "demo", "taskDefinition": "web"}));
    world
        .change(|draft| {
            let key = draft.all::<Task>().next().unwrap().arn.0.clone();
            draft.edit::<Task>(&key, |row| {
                row.instance_id = "i-1".into();
                row.last_status = TaskStatus::Running;
                row.bindings = serde_json::from_value(
                    json!([{"container_name": "app", "container_port": 80, "host_port": 32_770}]),
                )
                .unwrap();
            });
            Ok::<_, ()>(())
        })
        .unwrap();
    let arn = world.only::<Task>().arn.clone();
    let task = &world.ok("ecs", "DescribeTasks", json!({"cluster": "demo", "tasks": [arn]}))["tasks"][0];
    assert_eq!(task["containers"][0]["networkBindings"][0]["hostPort"], 32_770);
    assert_eq!(task["availabilityZone"], "eu-central-1a");
    let listed = world.ok("ecs", "ListContainerInstances", json!({"cluster": "demo"}));
    assert_eq!(listed["containerInstanceArns"][0], task["containerInstanceArn"]);
    let described = world.ok(
        "ecs",
        "DescribeContainerInstances",
        json!({"cluster": "demo", "containerInstances": listed["containerInstanceArns"]}),
    );
    let instance = &described["containerInstances"][0];
    assert_eq!((&instance["ec2InstanceId"], &instance["runningTasksCount"]), (&json!("i-1"), &json!(1)));
    let on = json!({"cluster": "demo", "containerInstance": task["containerInstanceArn"]});
    assert_eq!(world.ok("ecs", "ListTasks", on)["taskArns"].as_array().unwrap().len(), 1);
}

#[test]
fn tags_are_added_replaced_and_taken_away() {
    let mut world = demo();
    let arn = "arn:aws:ecs:eu-central-1:000000000000:cluster/demo";
    let tags = json!([{"key": "a", "value": "c"}, {"key": "d", "value": ""}]);
    world.ok("ecs", "TagResource", json!({"resourceArn": arn, "tags": tags}));
    assert_eq!(world.ok("ecs", "ListTagsForResource", json!({"resourceArn": arn}))["tags"], tags);
    world.ok("ecs", "UntagResource", json!({"resourceArn": arn, "tagKeys": ["a"]}));
    let left = world.ok("ecs", "ListTagsForResource", json!({"resourceArn": arn}));
    assert_eq!(left["tags"], json!([{"key": "d", "value": ""}]));
    let definition = "arn:aws:ecs:eu-central-1:000000000000:task-definition/web:1";
    world.ok("ecs", "TagResource", json!({"resourceArn": definition, "tags": tags}));
    for input in [
        json!({"resourceArn": arn, "tags": [{"key": "aws:x", "value": ""}]}),
        json!({"resourceArn": "arn:aws:ecs:eu-central-1:000000000000:cluster/none", "tags": tags}),
        json!({"resourceArn": "nonsense", "tags": tags}),
    ] {
        assert_eq!(world.refuse("ecs", "TagResource", input).0, "InvalidParameterException");
    }
}
