//! Tasks that die, come and go under load.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use gatehouse_tests::lab::{aws::Aws, wait::Wait};
use serde_json::{Value, json};

use super::{
    deployed,
    door::{Connection, connect},
    roles,
    traffic::{Ask, Exchange, GET, stop_without_failures, through_all},
};

#[test]
fn a_task_killed_under_load_fails_no_get_of_any_integration() {
    let lab = deployed();
    let traffic = through_all(&lab, GET, 4);
    let victim = some_task(&traffic[0].1.done());
    roles::kill_task(victim);
    let killed = Instant::now();
    for (_, traffic) in &traffic {
        traffic.wait_for(1_000);
    }
    let aws = lab.aws().unwrap();
    until_running(&aws, 3);
    for (integration, traffic) in &traffic {
        let late = |one: &&Exchange| one.process == Some(victim) && one.started > killed;
        assert_eq!(traffic.done().iter().filter(late).count(), 0, "{integration}: the dead answered");
    }
    stop_without_failures(traffic);
}

#[test]
fn a_task_killed_under_load_fails_at_most_the_posts_in_flight_with_502() {
    let lab = deployed();
    let ask = Ask { method: "POST", path: "/slow?ms=40", body: "once only" };
    let traffic = through_all(&lab, ask, 8);
    let victim = some_task(&traffic[0].1.done());
    let before = Instant::now();
    roles::kill_task(victim);
    let after = Instant::now();
    let mut failed_in_all = 0;
    for (integration, traffic) in traffic {
        traffic.wait_for(800);
        let all = traffic.stop();
        let in_flight = all.iter().filter(|one| one.started <= after && one.ended >= before).count();
        let failed: Vec<_> = all.iter().filter(|one| one.status != 200).collect();
        let count = failed.len();
        assert!(count <= in_flight, "{integration}: {count} failed of {in_flight} in flight: {failed:?}");
        // An application load balancer has an error page of its own.
        let is_whose = |said: &str| integration == "alb" || said == r#"{"message":"Bad Gateway"}"#;
        let is_502 = |one: &&Exchange| one.status == 502 && is_whose(&one.said);
        assert!(failed.iter().all(is_502), "{integration}: {failed:?}");
        failed_in_all += count;
    }
    assert!(failed_in_all > 0, "the kill met no request");
}

#[test]
fn a_task_added_takes_traffic_at_once_and_scaling_down_fails_nothing() {
    let lab = deployed();
    let aws = lab.aws().unwrap();
    let traffic = through_all(&lab, GET, 4);
    let old: BTreeSet<_> = traffic.iter().flat_map(|(_, one)| processes(&one.done())).collect();
    let group = target_group(&aws, "HTTP");
    let known = healthy(&aws, &group);
    scale(&aws, 4);

    let found = || Ok(healthy(&aws, &group).difference(&known).next().cloned());
    let added = Wait::default().until("healthy fourth target", Duration::from_secs(60), found).unwrap();
    let seen_healthy = Instant::now();
    let (_, alb) = traffic.iter().find(|(integration, _)| integration == "alb").unwrap();
    let by_new = |one: &Exchange| one.process.is_some_and(|process| !old.contains(&process));
    let first = || Ok(alb.done().into_iter().find(by_new));
    let first = Wait::default().until("answer of the new task", Duration::from_secs(10), first).unwrap();
    // What control knows, the node knew before: an answer that came earlier is early enough.
    let took = first.ended.saturating_duration_since(seen_healthy);
    assert!(took <= Duration::from_millis(100), "{added} answered {took:?} after it was healthy");

    scale(&aws, 1);
    until_running(&aws, 1);
    stop_without_failures(traffic);
}

#[test]
fn the_nlb_sends_a_dead_target_no_new_flow_once_it_is_known_to_be_dead() {
    let lab = deployed();
    let aws = lab.aws().unwrap();
    let (link, address) = (lab.ready().namespaces.link.unwrap(), nlb_addresses(&aws)[0]);
    // From inside, where each connection is one flow of the load balancer, and nobody tries twice.
    let ask = || -> std::io::Result<i32> {
        let stream = connect(&link, (address, 80).into(), Duration::from_secs(2))?;
        let reply = Connection::plain(stream).request("GET", "/", "")?;
        reply.process().ok_or_else(|| std::io::Error::other(reply.body))
    };
    let victim = ask().unwrap();
    roles::kill_task(victim);
    // The verdict is the node's own, so it shows in what the node does: every third flow would meet the dead.
    let known = || Ok((0..40).all(|_| ask().is_ok()).then_some(()));
    Wait::default().until("end of flows to the dead target", THRESHOLD, known).unwrap();
    let answers: Vec<_> = (0..100).map(|_| ask()).collect();
    assert!(answers.iter().all(|one| one.as_ref().is_ok_and(|process| *process != victim)), "{answers:?}");
}

/// A process that answers.
pub(crate) fn some_task(exchanges: &[Exchange]) -> i32 {
    *processes(exchanges).first().expect("an answer of a task")
}

fn processes(exchanges: &[Exchange]) -> BTreeSet<i32> {
    exchanges.iter().filter_map(|one| one.process).collect()
}

/// The target group of a protocol; the example has one each.
fn target_group(aws: &Aws, protocol: &str) -> Value {
    let groups = aws.call("elbv2", "DescribeTargetGroups", json!({})).unwrap();
    let mut groups = groups["TargetGroups"].as_array().unwrap().iter();
    groups.find(|group| group["Protocol"] == protocol).unwrap()["TargetGroupArn"].clone()
}

/// Healthy targets of a group.
fn healthy(aws: &Aws, group: &Value) -> BTreeSet<String> {
    let health = aws.call("elbv2", "DescribeTargetHealth", json!({"TargetGroupArn": group})).unwrap();
    let targets = health["TargetHealthDescriptions"].as_array().unwrap().iter();
    let healthy = targets.filter(|one| one["TargetHealth"]["State"] == "healthy");
    healthy.map(|one| one["Target"].to_string()).collect()
}

/// Cluster and name of the example's service.
fn service(aws: &Aws) -> (Value, Value) {
    let clusters = aws.call("ecs", "ListClusters", json!({})).unwrap();
    let cluster = clusters["clusterArns"][0].clone();
    let services = aws.call("ecs", "ListServices", json!({"cluster": cluster})).unwrap();
    (cluster, services["serviceArns"][0].clone())
}

pub(super) fn scale(aws: &Aws, count: u32) {
    let (cluster, service) = service(aws);
    let change = json!({"cluster": cluster, "service": service, "desiredCount": count});
    aws.call("ecs", "UpdateService", change).unwrap();
}

/// Waits until so many tasks of the service run and no other is left, draining ones included.
pub(super) fn until_running(aws: &Aws, count: u64) {
    let (cluster, service) = service(aws);
    let mut last = Value::Null;
    let settled = || {
        let services = json!({"cluster": cluster, "services": [service]});
        let one = aws.call("ecs", "DescribeServices", services).unwrap()["services"][0].clone();
        let tasks = aws.call("ecs", "ListTasks", json!({"cluster": cluster})).unwrap();
        let listed = tasks["taskArns"].as_array().unwrap().len() as u64;
        last = json!({"running": one["runningCount"], "listed": listed});
        Ok((one["runningCount"] == count && listed == count).then_some(()))
    };
    Wait::default()
        .until(&format!("service of {count} tasks"), Duration::from_secs(60), settled)
        .unwrap_or_else(|error| panic!("{error}: {last}"));
}

/// The network load balancer's address in each subnet.
pub(super) fn nlb_addresses(aws: &Aws) -> Vec<Ipv4Addr> {
    let interfaces = aws.call("ec2", "DescribeNetworkInterfaces", json!({})).unwrap();
    let interfaces = interfaces["NetworkInterfaces"].as_array().unwrap().iter();
    let own = interfaces.filter(|one| one["InterfaceType"] == "network_load_balancer");
    own.map(|one| one["PrivateIpAddress"].as_str().unwrap().parse().unwrap()).collect()
}

/// Two checks with 5 s between them, and a bit.
const THRESHOLD: Duration = Duration::from_secs(15);
