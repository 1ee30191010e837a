//! Roles that are killed at any moment: what stands goes on, and what was lost comes back.

use std::{
    fs,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use gatehouse_tests::lab::{Lab, name::Name};
use serde_json::json;

use super::{
    deployed,
    door::{Connection, connect},
    roles,
    tasks::{nlb_addresses, scale, until_running},
    traffic::{GET, stop_without_failures, through_all},
};

#[test]
fn an_established_nlb_flow_survives_new_targets_and_a_killed_node() {
    let mut lab = deployed();
    let aws = lab.aws().unwrap();
    let link = lab.ready().namespaces.link.unwrap();
    let mut flows: Vec<(Connection<TcpStream>, i32)> = Vec::new();
    for address in nlb_addresses(&aws).into_iter().cycle().take(8) {
        let stream = connect(&link, (address, 80).into(), Duration::from_secs(2)).unwrap();
        let mut flow = Connection::plain(stream);
        let process = flow.request("GET", "/", "").unwrap().process().unwrap();
        flows.push((flow, process));
    }
    let check = |flows: &mut Vec<(Connection<TcpStream>, i32)>, after: &str| {
        for (flow, process) in flows {
            let reply = flow.request("GET", "/", "").unwrap_or_else(|error| panic!("{after}: {error}"));
            assert_eq!(reply.process(), Some(*process), "{after}");
        }
    };
    // Answers that are on their way while the node is away.
    for (flow, _) in &mut flows {
        flow.send(b"GET /slow?ms=1500 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    }
    roles::crash(&mut lab, "node");
    for (flow, process) in &mut flows {
        assert_eq!(flow.receive().unwrap().process(), Some(*process));
    }
    check(&mut flows, "after the node was killed");
    scale(&aws, 5);
    until_running(&aws, 5);
    lab.serves(&lab.urls()["nlb"]).unwrap();
    check(&mut flows, "after two targets were added");
    roles::crash(&mut lab, "node");
    check(&mut flows, "after the node was killed with a new ring");
}

#[test]
fn what_control_acknowledged_survives_its_kill_and_requests_go_on_meanwhile() {
    let mut lab = deployed();
    let aws = lab.aws().unwrap();
    let traffic = through_all(&lab, GET, 2);
    for round in 0..3 {
        let name = format!("kept-{round}");
        aws.call("ecs", "CreateCluster", json!({"clusterName": name})).unwrap();
        roles::crash(&mut lab, "control");
        for (_, traffic) in &traffic {
            traffic.wait_for(200);
        }
        let deadline = Instant::now() + COMEBACK;
        let clusters = loop {
            match aws.call("ecs", "DescribeClusters", json!({"clusters": [name]})) {
                Ok(found) => break found,
                Err(error) if Instant::now() > deadline => panic!("control does not come back: {error}"),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        };
        assert_eq!(clusters["clusters"][0]["status"], "ACTIVE", "{clusters}");
    }
    // What it has said to the data planes since did no harm either.
    for (_, traffic) in &traffic {
        traffic.wait_for(200);
    }
    stop_without_failures(traffic);
}

#[test]
fn a_killed_gateway_and_a_killed_link_answer_again_within_seconds() {
    let mut lab = deployed();
    for role in ["gateway", "link", "host"] {
        roles::crash(&mut lab, role);
        let killed = Instant::now();
        for (integration, url) in lab.urls() {
            lab.serves(url).unwrap();
            assert!(
                killed.elapsed() < COMEBACK,
                "{integration} {:?} after {role} was killed",
                killed.elapsed()
            );
        }
    }
}

#[test]
fn after_a_killed_supervisor_down_leaves_nothing_and_a_start_makes_everything_anew() {
    let mut lab = deployed();
    lab.appliance().kill().unwrap();
    lab.down().unwrap();
    assert_eq!(remains(&lab), [""; 0]);
    // With nothing left there is nothing to fail at.
    lab.down().unwrap();
    lab.start_again().unwrap();
    for url in lab.urls().values() {
        lab.serves(url).unwrap();
    }
}

/// What the appliance made and did not remove: namespaces, pins, cgroups, interfaces, processes.
fn remains(lab: &Lab) -> Vec<String> {
    let (name, internet): (&Name, _) = (lab.name(), lab.internet());
    let labs_own = [internet.client(), internet.router(), internet.gateway()];
    let mut found = name.remains();
    found.retain(|one| {
        labs_own.iter().all(|own| own.name() != one) && *one != lab.directory().display().to_string()
    });
    let devices = internet.router().command("ip").args(["-oneline", "link", "show"]).output().unwrap();
    for line in String::from_utf8(devices.stdout).unwrap().lines() {
        let device = line.split(": ").nth(1).and_then(|device| device.split('@').next()).unwrap();
        if !["lo", "wan", "client", "gateway"].contains(&device) {
            found.push(format!("device {device}"));
        }
    }
    let directory = lab.directory().display().to_string();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&directory) {
            found.push(format!("process {}: {line}", process.file_name().to_string_lossy()));
        }
    }
    found
}

/// From a kill to answers: a pause, a start, a connection to control and a TLS handshake or two, on a slow machine.
const COMEBACK: Duration = Duration::from_secs(10);
