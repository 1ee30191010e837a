//! Clients on the host itself reach targets as they connect, if the operator wants it and they are in the cgroup for it.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command},
};

use gatehouse_tests::lab::wait::Wait;
use lb_userspace::network::places;
use serde_json::json;

use super::world::{PATIENCE, Vpc, World};

#[test]
fn a_client_in_the_cgroup_reaches_the_target_and_outlives_the_appliance() {
    let mut world = World::new();
    world.start(&["eth1"]);
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 80);
    let address = balancer.address(&vpc.aws);
    assert_eq!(world.answered(address, 80), "target");
    let clients = places::clients(world.name.0.as_str()).unwrap();
    assert!(!clients.exists(), "off until it is asked for");

    restart(&mut world, "steer_local_clients = true");
    let from = |cgroup| ask(&world, cgroup, address);
    let led = || Ok((from(Some(&clients)) == format!("target by {address} 80")).then_some(()));
    Wait::default().until("answer to a client on the host", PATIENCE, led).unwrap();
    assert_eq!(from(None), "Connection refused", "outside of the cgroup");

    restart(&mut world, "");
    assert_eq!(world.answered(address, 80), "target");
    let gone = || Ok((!clients.exists()).then_some(()));
    Wait::default().until("end of the empty cgroup", PATIENCE, gone).unwrap();

    restart(&mut world, "steer_local_clients = true");
    let made = || Ok(clients.exists().then_some(()));
    Wait::default().until("cgroup", PATIENCE, made).unwrap();
    let mut client = Sleeper::in_cgroup(&clients);
    world.appliance().stop().unwrap();
    let boot = world.boot_file();
    world.appliance().down(&boot).unwrap();
    assert!(!clients.exists() && !world.pins().exists());
    assert!(client.0.try_wait().unwrap().is_none(), "it is not the appliance's to kill");
}

fn restart(world: &mut World, node_lines: &'static str) {
    world.kill();
    world.node_lines = node_lines;
    world.start(&["eth1"]);
}

/// What a process on the host is told by a load balancer's port 80, and whom it takes that for.
fn ask(world: &World, cgroup: Option<&Path>, address: Ipv4Addr) -> String {
    let output = Command::new("sh")
        .args([
            "-c",
            r#"if [ "$1" ]; then echo $$ > "$1/cgroup.procs" || exit 1; fi; shift; exec "$@""#,
            "sh",
        ])
        .arg(cgroup.unwrap_or(Path::new("")))
        .args(["nsenter", &format!("--net={}", world.host.path().display()), "--", "/usr/bin/python3", "-c"])
        .args([SCRIPT, &address.to_string()])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

const SCRIPT: &str = "
import socket, sys
try:
    one = socket.create_connection((sys.argv[1], 80), timeout=2)
    one.sendall(b'?')
    print(one.recv(64)[1:].decode(), 'by', *one.getpeername())
except OSError as error:
    print(error.strerror or error)
";

/// A process that does nothing.
struct Sleeper(Child);

impl Sleeper {
    fn in_cgroup(cgroup: &Path) -> Self {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let sleeper = Self(child);
        std::fs::write(cgroup.join("cgroup.procs"), sleeper.0.id().to_string()).unwrap();
        sleeper
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
