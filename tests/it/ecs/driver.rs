//! Tasks started, watched, stopped and found again by the process driver, with real processes in a real namespace.

use std::{collections::BTreeMap, fs, net::UdpSocket, process::Stdio, time::Duration};

use lb_userspace::{
    model::task::{ContainerDefinition, PortMapping, TaskStatus},
    network::namespace::within,
};
use serde_json::Value;

use super::world::{UID, World, eventually, shell, whoami};

fn field(pid: &Value, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_task_serves_in_its_namespace_on_a_port_of_its_own_and_as_nobody() {
    let mut world = World::new();
    let tasks = [world.add("a1", vec![whoami()]), world.add("a2", vec![whoami()])];
    world.apply();
    let mut running = [world.next(), world.next()];
    running.sort_by(|one, other| one.task.cmp(&other.task));
    let mut ports = vec![];
    for (said, task) in running.iter().zip(&tasks) {
        assert_eq!((&said.task, said.status), (task, TaskStatus::Running), "{said:?}");
        let port = said.bindings[0].host_port;
        let answer: Value = serde_json::from_str(&world.fetch(port, "/some/path?q=1")).unwrap();
        let who = &answer["who"];
        assert_eq!(who["task"], task.as_str());
        assert_eq!((&who["port"], &who["name"]), (&port.into(), &"alice".into()));
        assert_eq!((&who["cluster"], &who["region"]), (&"demo".into(), &"eu-central-1".into()));
        assert_eq!(answer["received"]["path"], "/some/path");
        let pid = &who["pid"];
        assert_eq!(field(pid, "Uid:"), format!("{UID} {UID} {UID} {UID}"));
        assert_eq!((field(pid, "Groups:"), field(pid, "NoNewPrivs:")), (String::new(), "1".into()));
        assert_eq!(field(pid, "CapEff:"), "0000000000000000");
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let id = task.as_str().rsplit('/').next().unwrap();
        assert!(cgroup.lines().any(|line| line.ends_with(&format!("/tasks/{id}/app"))), "{cgroup}");
        ports.push(port);
    }
    assert_ne!(ports[0], ports[1]);
}

#[test]
fn one_container_port_is_one_host_port_for_both_protocols() {
    let mut world = World::new();
    let mapping = |protocol: &str| PortMapping {
        container_port: 53,
        host_port: 0,
        protocol: protocol.into(),
        name: None,
    };
    let script = "exec /usr/bin/python3 -c '
import os, socket
at = (\"\", int(os.environ[\"PORT\"]))
stream, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
stream.bind(at), stream.listen(), datagram.bind(at)
while True: datagram.sendto(*datagram.recvfrom(99))
'";
    let container =
        ContainerDefinition { port_mappings: vec![mapping("tcp"), mapping("udp")], ..shell(script) };
    let task = world.add("u1", vec![container]);
    world.apply();
    let bindings = world.wait_for(&task, TaskStatus::Running).bindings;
    let told: Vec<_> = bindings.iter().map(|own| (own.host_port, own.protocol.as_str())).collect();
    let port = bindings[0].host_port;
    assert_eq!(told, [(port, "tcp"), (port, "udp")]);
    // It is RUNNING once both are there, so the first datagram is answered.
    let answer = within(world.machine.name(), || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.send_to(b"echo", ("127.0.0.1", port))?;
        let mut heard = [0; 9];
        socket.recv(&mut heard).map(|length| heard[..length].to_vec())
    });
    assert_eq!(answer.unwrap().unwrap(), b"echo");
}

#[test]
fn a_stopped_task_finishes_what_it_has_and_leaves_nothing() {
    let mut world = World::new();
    let task = world.add("b1", vec![ContainerDefinition { stop_timeout_s: 20, ..whoami() }]);
    world.apply();
    let port = world.wait_for(&task, TaskStatus::Running).bindings[0].host_port;
    let url = format!("http://127.0.0.1:{port}/slow?ms=700");
    let mut client = world.machine.command("curl");
    let client = client.args(["-sS", "--max-time", "10", &url]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the request is in flight", || {
        let sockets = world.machine.command("ss").args(["-tnH", "state", "established"]).output().unwrap();
        String::from_utf8(sockets.stdout).unwrap().contains(&format!(":{port}"))
    });
    world.stop(&task);
    let said = world.wait_for(&task, TaskStatus::Stopped);
    assert_eq!(said.exit_codes, BTreeMap::from([("app".into(), 0)]));
    let answer = client.wait_with_output().unwrap();
    assert!(String::from_utf8(answer.stdout).unwrap().contains("\"received\""));
    eventually("everything is removed", || world.kept().is_empty());
}

#[test]
fn a_task_that_does_not_hear_is_killed_after_its_stop_timeout_with_all_its_children() {
    let mut world = World::new();
    let script = "trap '' TERM; sleep 600 & echo started; while true; do sleep 0.1; done";
    let task = world.add("c1", vec![shell(script)]);
    world.apply();
    world.wait_for(&task, TaskStatus::Running);
    let processes = || fs::read_to_string(world.cgroup().join("c1/app/cgroup.procs")).unwrap_or_default();
    eventually("the shell and its children run", || processes().lines().count() >= 2);
    let log = world.name.directory().join("host/output/c1.app.log");
    eventually("its output is kept", || fs::read_to_string(&log).unwrap() == "started\n");
    let started = std::time::Instant::now();
    world.stop(&task);
    let said = world.wait_for(&task, TaskStatus::Stopped);
    assert_eq!(said.exit_codes["app"], 128 + 9);
    assert!(started.elapsed() >= Duration::from_secs(1), "SIGKILL came early");
    eventually("everything is removed", || world.kept().is_empty());
}

#[test]
fn a_task_resolves_names_by_its_vpcs_resolver_and_the_host_by_its_own() {
    let mut world = World::new();
    let of_the_host = fs::read_to_string("/etc/resolv.conf").unwrap();
    let show = "cat /etc/resolv.conf; echo .; sleep 600";
    let without = world.add("a1", vec![shell(show)]);
    world.apply();
    world.wait_for(&without, TaskStatus::Running);
    world.give_resolver("10.0.0.2");
    let with = world.add("a2", vec![shell(show)]);
    world.apply();
    world.wait_for(&with, TaskStatus::Running);
    let output = |id: &str| {
        let path = world.name.directory().join(format!("host/output/{id}.app.log"));
        let mut text = String::new();
        eventually("the task has said what it sees", || {
            text = fs::read_to_string(&path).unwrap();
            text.ends_with("\n.\n")
        });
        text.trim_end_matches(".\n").to_owned()
    };
    assert_eq!(output("a1"), of_the_host);
    assert_eq!(output("a2"), "nameserver 10.0.0.2\n");
    assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), of_the_host);
}

#[test]
fn a_task_that_ends_by_itself_says_with_which_code() {
    let mut world = World::new();
    let task = world.add("d1", vec![shell("exit 3")]);
    world.apply();
    let mut said = world.next();
    if said.status == TaskStatus::Running {
        said = world.next();
    }
    assert_eq!((&said.task, said.status), (&task, TaskStatus::Stopped));
    assert_eq!(said.exit_codes["app"], 3);
    assert_eq!(said.reason.as_deref(), Some("Essential container in task exited"));
}

#[test]
fn a_container_that_is_not_essential_may_end() {
    let mut world = World::new();
    let helper = ContainerDefinition { name: "helper".into(), essential: false, ..shell("exit 0") };
    let task = world.add("e1", vec![whoami(), helper]);
    world.apply();
    world.wait_for(&task, TaskStatus::Running);
    world.stop(&task);
    let said = world.wait_for(&task, TaskStatus::Stopped);
    assert_eq!(said.exit_codes, BTreeMap::from([("app".into(), 0), ("helper".into(), 0)]));
}

#[test]
fn what_cannot_be_started_is_stopped_with_the_reason() {
    let mut world = World::new();
    let image = |image: &str| vec![ContainerDefinition { image: image.into(), ..shell("x") }];
    for (id, name, words) in [
        ("f1", "unknown", "image unknown is not among the images of this host"),
        ("f2", "absent", "starting /no/such/program: No such file or directory"),
    ] {
        let task = world.add(id, image(name));
        world.apply();
        let said = world.wait_for(&task, TaskStatus::Stopped);
        assert!(said.reason.as_ref().unwrap().contains(words), "{said:?}");
    }
    let taken = world.add("f3", vec![whoami()]);
    let port = {
        world.apply();
        world.wait_for(&taken, TaskStatus::Running).bindings[0].host_port
    };
    let mut fixed = whoami();
    fixed.port_mappings[0].host_port = port;
    let task = world.add("f4", vec![fixed]);
    world.apply();
    let said = world.wait_for(&task, TaskStatus::Stopped);
    assert!(said.reason.as_ref().unwrap().contains("No host port is free"), "{said:?}");
}

#[test]
fn tasks_outlive_the_driver_and_the_next_one_finds_them() {
    let mut world = World::new();
    let kept = world.add("a0001", vec![whoami()]);
    let lost = world.add("a0002", vec![shell("sleep 600")]);
    world.apply();
    let mut running = [world.next(), world.next()];
    running.sort_by(|one, other| one.task.cmp(&other.task));
    let port = running[0].bindings[0].host_port;
    world.kill_driver();
    assert!(world.fetch(port, "/health").contains("ok"), "it serves without a driver");
    fs::write(world.cgroup().join("a0002/cgroup.kill"), "1").unwrap();
    // As a crash between a start and its record would leave it.
    fs::create_dir_all(world.cgroup().join("stray/app")).unwrap();
    eventually("the killed task is gone", || {
        fs::read_to_string(world.cgroup().join("a0002/app/cgroup.procs")).unwrap().is_empty()
    });

    world.start_driver();
    let mut said = [world.next(), world.next()];
    said.sort_by(|one, other| one.task.cmp(&other.task));
    assert_eq!((&said[0].task, said[0].status), (&kept, TaskStatus::Running));
    assert_eq!(said[0].bindings, running[0].bindings);
    assert_eq!((&said[1].task, said[1].status), (&lost, TaskStatus::Stopped));
    assert!(!world.cgroup().join("stray").exists());
    for task in world.slice.tasks.values_mut() {
        task.started = true;
    }
    world.apply();
    assert!(world.fetch(port, "/health").contains("ok"));
    world.stop(&kept);
    let said = world.wait_for(&kept, TaskStatus::Stopped);
    assert!(said.exit_codes.is_empty(), "who did not start it cannot know its exit code");
    eventually("everything is removed", || world.kept().is_empty());
}

#[test]
fn a_task_that_is_no_longer_named_is_killed_and_not_spoken_of() {
    let mut world = World::new();
    let task = world.add("a1", vec![shell("trap '' TERM; while true; do sleep 0.1; done")]);
    world.apply();
    world.wait_for(&task, TaskStatus::Running);
    world.slice.tasks.clear();
    world.apply();
    eventually("everything is removed", || world.kept().is_empty());
    assert_eq!(world.report_within(Duration::from_millis(100)), None);
}

#[test]
fn a_task_is_not_started_twice() {
    let mut world = World::new();
    let gone = world.add("a1", vec![whoami()]);
    world.slice.tasks.get_mut(&gone).unwrap().started = true;
    world.apply();
    let said = world.wait_for(&gone, TaskStatus::Stopped);
    assert_eq!(said.reason.as_deref(), Some("The task's processes are gone."));
    let late = world.add("a2", vec![whoami()]);
    world.stop(&late);
    world.wait_for(&late, TaskStatus::Stopped);
    assert_eq!(world.report_within(Duration::from_millis(100)), None);
}
