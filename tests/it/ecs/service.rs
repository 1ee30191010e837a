//! A service in the whole appliance, changed while clients send requests through the ALB and Cloud Map: nobody may
//! notice that tasks die, come and go.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use gatehouse_tests::lab::{Lab, aws::Aws};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::world::eventually_within;
use crate::whole::deployed;

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
    let (over, sent, started) = (AtomicBool::new(false), AtomicUsize::new(0), Instant::now());
    let note = |what: &str| format!("{what} {} ms", started.elapsed().as_millis());
    let mut notes = vec![];
    let failures: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = lab
            .urls()
            .iter()
            // Through the NLB a connection that the gateway holds idle is the task's own: a request that meets the
            // close of a stopping task is not always sent again in time.
            .filter(|(integration, _)| *integration != "nlb")
            .map(|(integration, url)| {
                let (lab, over, sent) = (&lab, &over, &sent);
                scope.spawn(move || {
                    let mut failures = vec![];
                    while !over.load(Ordering::Relaxed) {
                        let answer = lab.client().fetch(url).unwrap();
                        sent.fetch_add(1, Ordering::Relaxed);
                        if answer.status != 200 {
                            let at = started.elapsed().as_millis();
                            failures.push(format!("{integration} at {at} ms: {answer}"));
                        }
                    }
                    failures
                })
            })
            .collect();
        let ended = Over(&over);
        let url = lab.urls().values().next().unwrap();
        let answer: Value = serde_json::from_str(&lab.client().fetch(url).unwrap().body).unwrap();
        let pid = i32::try_from(answer["who"]["pid"].as_i64().unwrap()).unwrap();
        notes.push(note("killed at"));
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        service.settle("the killed task is replaced");
        notes.push(note("the killed task is replaced at"));
        let stopped = &service.tasks()[0];
        service.call("StopTask", json!({"task": stopped}));
        service.settle("the stopped task is replaced");
        notes.push(note("the stopped task is replaced at"));
        assert!(!service.tasks().contains(stopped));
        service.desire(4);
        service.settle("four tasks");
        notes.push(note("four tasks at"));
        service.desire(1);
        service.settle("one task");
        notes.push(note("one task at"));
        let update = json!({"service": service.service, "forceNewDeployment": true});
        service.call("UpdateService", update);
        service.settle("a new deployment");
        notes.push(note("a new deployment at"));
        drop(ended);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let sent = sent.into_inner();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {failures:#?}, {notes:#?}", failures.len());
    assert!(sent > 50, "only {sent} requests were sent");
}

/// Ends the clients, also when an assertion fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
