//! A service in the whole appliance, changed while clients send requests through all three integrations: nobody may
//! notice that tasks die, come and go.

use std::time::{Duration, Instant};

use gatehouse_tests::lab::{Lab, aws::Aws};
use serde_json::{Value, json};

use super::world::eventually_within;
use crate::whole::{
    deployed,
    roles::kill_task,
    tasks::some_task,
    traffic::{GET, stop_without_failures, through_all},
};

/// The only service of the lab, by boto3.
struct Service {
    aws: Aws,
    cluster: Value,
    service: Value,
}

impl Service {
    fn of(lab: &Lab) -> Self {
        let aws = lab.aws().unwrap();
        let cluster = aws.call("ecs", "ListClusters", json!({})).unwrap()["clusterArns"][0].clone();
        let services = aws.call("ecs", "ListServices", json!({"cluster": cluster})).unwrap();
        Self { service: services["serviceArns"][0].clone(), aws, cluster }
    }

    fn call(&self, operation: &str, more: Value) -> Value {
        let mut params = json!({"cluster": self.cluster});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.aws.call("ecs", operation, params).unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    fn described(&self) -> Value {
        self.call("DescribeServices", json!({"services": [self.service]}))["services"][0].clone()
    }

    fn desire(&self, count: u32) {
        self.call("UpdateService", json!({"service": self.service, "desiredCount": count}));
    }

    /// Waits until as many tasks run as are desired, of one deployment, all others gone for good.
    fn settle(&self, what: &str) {
        let is_settled = || {
            let service = self.described();
            let tasks = self.call("ListTasks", json!({"desiredStatus": "STOPPED"}));
            let arns = tasks["taskArns"].as_array().unwrap();
            let all_stopped = arns.is_empty()
                || self.call("DescribeTasks", json!({"tasks": arns}))["tasks"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|task| task["lastStatus"] == "STOPPED");
            let one = service["deployments"].as_array().unwrap().len() == 1;
            one && all_stopped && service["runningCount"] == service["desiredCount"]
        };
        eventually_within(Duration::from_secs(60), what, is_settled);
    }

    fn tasks(&self) -> Vec<Value> {
        let listed = self.call("ListTasks", json!({"desiredStatus": "RUNNING"}));
        listed["taskArns"].as_array().unwrap().clone()
    }

    /// Requests through Cloud Map last two seconds at most, so that its drain is short too.
    fn shorten_integrations(&self) {
        let apis = self.aws.call("apigatewayv2", "GetApis", json!({})).unwrap();
        for api in apis["Items"].as_array().unwrap() {
            let id = &api["ApiId"];
            let found = self.aws.call("apigatewayv2", "GetIntegrations", json!({"ApiId": id})).unwrap();
            for integration in found["Items"].as_array().unwrap() {
                let change = json!({
                    "ApiId": id, "IntegrationId": integration["IntegrationId"], "TimeoutInMillis": 2000,
                });
                self.aws.call("apigatewayv2", "UpdateIntegration", change).unwrap();
            }
        }
    }
}

#[test]
fn tasks_die_come_and_go_and_no_client_notices() {
    let lab = deployed();
    let service = Service::of(&lab);
    service.shorten_integrations();
    service.settle("the service as deployed");
    let traffic = through_all(&lab, GET, 3);
    let started = Instant::now();
    // Shown if anything fails.
    let note = |what: &str| println!("{what} at {} ms", started.elapsed().as_millis());

    kill_task(some_task(&traffic[0].1.done()));
    note("a task is killed");
    service.settle("the killed task is replaced");
    note("it is replaced");
    let stopped = &service.tasks()[0];
    service.call("StopTask", json!({"task": stopped}));
    note("a task is stopped");
    service.settle("the stopped task is replaced");
    note("it is replaced");
    assert!(!service.tasks().contains(stopped));
    service.desire(4);
    service.settle("four tasks");
    note("there are four");
    service.desire(1);
    service.settle("one task");
    note("there is one");
    service.call("UpdateService", json!({"service": service.service, "forceNewDeployment": true}));
    service.settle("a new deployment");
    note("it is another");
    stop_without_failures(traffic);
}
