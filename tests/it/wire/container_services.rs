//! ecs by boto3: a service from its cluster to its deletion, with the scheduler behind the operations and a host that
//! reports what hosts report.

use std::collections::BTreeMap;

use lb_userspace::{
    model::{
        id::{Arn, InstanceId},
        task::{PortBinding, TaskStatus},
    },
    snapshot::report::Report,
    tasks::scheduler,
};
use serde_json::{Value, json};

use super::served::Served;

/// An endpoint whose cluster `demo` has one running instance, a definition `web` and a target group.
struct Demo {
    served: Served,
    group: String,
}

impl Demo {
    fn new() -> Self {
        let served = Served::start();
        let vpc = served.must("ec2", "CreateVpc", json!({"CidrBlock": "10.0.0.0/16"}));
        let vpc = vpc["Vpc"]["VpcId"].clone();
        let subnet = json!({"VpcId": vpc, "CidrBlock": "10.0.1.0/24", "AvailabilityZone": "eu-central-1a"});
        let subnet = served.must("ec2", "CreateSubnet", subnet)["Subnet"]["SubnetId"].clone();
        served.must("ecs", "CreateCluster", json!({"clusterName": "demo"}));
        // boto3 encodes user data itself.
        let instance = json!({
            "ImageId": "ami-1", "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "SubnetId": subnet,
            "UserData": "#!/bin/bash\necho ECS_CLUSTER=demo >> /etc/ecs/ecs.config\n",
        });
        let instance = served.must("ec2", "RunInstances", instance);
        let id = instance["Instances"][0]["InstanceId"].as_str().unwrap();
        served.must(
            "ecs",
            "RegisterTaskDefinition",
            json!({
                "family": "web",
                "networkMode": "bridge",
                "containerDefinitions": [{
                    "name": "app", "image": "whoami", "memory": 64,
                    "portMappings": [{"containerPort": 80, "hostPort": 0}],
                }],
            }),
        );
        let group =
            json!({"Name": "web", "Protocol": "HTTP", "Port": 80, "VpcId": vpc, "TargetType": "instance"});
        let group = served.must("elbv2", "CreateTargetGroup", group);
        let group = group["TargetGroups"][0]["TargetGroupArn"].as_str().unwrap().to_owned();
        let demo = Self { served, group };
        demo.report(&Report::InstanceRunning { instance: InstanceId::from(id) });
        demo
    }

    fn ok(&self, operation: &str, params: Value) -> Value {
        let answer = self.served.must("ecs", operation, params);
        self.reconcile();
        answer
    }

    fn reconcile(&self) {
        self.served.state().change(|draft| scheduler::reconcile(draft, u64::MAX, 1));
    }

    fn report(&self, report: &Report) {
        self.served.state().change(|draft| scheduler::apply_report(draft, report));
        self.reconcile();
    }

    fn tasks(&self, desired: &str) -> Vec<String> {
        let params = json!({"cluster": "demo", "serviceName": "web", "desiredStatus": desired});
        let answer = self.served.must("ecs", "ListTasks", params);
        answer["taskArns"].as_array().unwrap().iter().map(|arn| arn.as_str().unwrap().to_owned()).collect()
    }

    fn host_says(&self, task: &str, status: TaskStatus, port: u16) {
        let binding = PortBinding {
            container_name: "app".into(),
            container_port: 80,
            host_port: port,
            protocol: "tcp".into(),
        };
        let running = status == TaskStatus::Running;
        self.report(&Report::Task {
            task: Arn::from(task),
            status,
            bindings: if running { vec![binding] } else { vec![] },
            reason: None,
            exit_codes: if running { BTreeMap::new() } else { BTreeMap::from([("app".into(), 0)]) },
        });
    }

    fn service(&self) -> Value {
        let params = json!({"cluster": "demo", "services": ["web"]});
        self.served.must("ecs", "DescribeServices", params)["services"][0].clone()
    }

    fn targets(&self) -> Vec<Value> {
        let answer = self.served.must("elbv2", "DescribeTargetHealth", json!({"TargetGroupArn": self.group}));
        answer["TargetHealthDescriptions"].as_array().unwrap().clone()
    }
}

#[test]
fn a_service_starts_registers_scales_and_goes() {
    let demo = Demo::new();
    demo.ok(
        "CreateService",
        json!({
            "cluster": "demo", "serviceName": "web", "taskDefinition": "web", "desiredCount": 2,
            "loadBalancers": [{"targetGroupArn": demo.group, "containerName": "app", "containerPort": 80}],
        }),
    );
    let placed = demo.tasks("RUNNING");
    assert_eq!(placed.len(), 2);
    assert_eq!(demo.service()["pendingCount"], 2);
    for (task, port) in placed.iter().zip([61_000, 61_001]) {
        demo.host_says(task, TaskStatus::Running, port);
    }
    let service = demo.service();
    assert_eq!((&service["runningCount"], &service["pendingCount"]), (&json!(2), &json!(0)));
    assert_eq!(service["deployments"][0]["rolloutState"], "COMPLETED");
    let said = service["events"].as_array().unwrap();
    assert_eq!(said[0]["message"], "(service web) has reached a steady state.");
    let ports: Vec<&Value> = said.iter().map(|event| &event["createdAt"]).collect();
    assert!(ports.iter().all(|at| at.as_f64().unwrap() > 1e9), "times are times: {ports:?}");
    let mut ports: Vec<i64> =
        demo.targets().iter().map(|target| target["Target"]["Port"].as_i64().unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [61_000, 61_001]);
    let described =
        demo.served.must("ecs", "DescribeTasks", json!({"cluster": "demo", "tasks": [placed[0]]}));
    let task = &described["tasks"][0];
    assert_eq!(task["lastStatus"], "RUNNING");
    assert_eq!(task["containers"][0]["networkBindings"][0]["hostPort"], 61_000);

    demo.ok("UpdateService", json!({"cluster": "demo", "service": "web", "desiredCount": 1}));
    let draining: Vec<Value> =
        demo.targets().into_iter().filter(|target| target["TargetHealth"]["State"] == "draining").collect();
    assert_eq!(draining.len(), 1);
    assert_eq!(demo.tasks("RUNNING").len(), 1);

    let refused = demo.served.refuse(
        "ecs",
        "DeleteService",
        json!({"cluster": "demo", "service": "web"}),
        "InvalidParameterException",
    );
    assert!(refused.contains("scaled above 0"), "{refused}");
    demo.ok("DeleteService", json!({"cluster": "demo", "service": "web", "force": true}));
    assert_eq!(demo.service()["status"], "DRAINING");
    for task in demo.tasks("STOPPED") {
        demo.host_says(&task, TaskStatus::Stopped, 0);
    }
    assert_eq!(demo.service()["status"], "INACTIVE");
    assert_eq!(demo.targets(), [Value::Null; 0]);
}

#[test]
fn refusals_are_awss_and_change_nothing() {
    let demo = Demo::new();
    let service =
        json!({"cluster": "demo", "serviceName": "web", "taskDefinition": "web", "desiredCount": 1});
    let with = |name: &str, value: Value| {
        let mut service = service.clone();
        service[name] = value;
        service
    };
    for (operation, params, code) in [
        ("DescribeServices", json!({"cluster": "none", "services": ["a"]}), "ClusterNotFoundException"),
        ("UpdateService", json!({"cluster": "demo", "service": "none"}), "ServiceNotFoundException"),
        ("DeleteService", json!({"cluster": "demo", "service": "none"}), "ServiceNotFoundException"),
        ("DescribeTaskDefinition", json!({"taskDefinition": "none"}), "ClientException"),
        ("DescribeTaskDefinition", json!({}), "InvalidParameterException"),
        ("CreateService", with("desiredCount", json!("two")), "SerializationException"),
        ("CreateService", with("desiredCount", json!(-2)), "InvalidParameterException"),
        ("CreateService", with("launchType", json!("FARGATE")), "InvalidParameterException"),
        ("CreateService", with("launchType", json!("BOAT")), "InvalidParameterException"),
        ("CreateService", with("loadBalancers", json!([{}])), "InvalidParameterException"),
        ("StopTask", json!({"cluster": "demo", "task": "none"}), "InvalidParameterException"),
        ("ListTasks", json!({"cluster": "demo", "nextToken": "*"}), "InvalidParameterException"),
        ("DeleteCluster", json!({"cluster": "demo"}), "ClusterContainsContainerInstancesException"),
        ("TagResource", json!({"resourceArn": "x", "tags": []}), "InvalidParameterException"),
    ] {
        demo.served.refuse("ecs", operation, params, code);
    }
}
