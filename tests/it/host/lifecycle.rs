//! Crashes, reboots, and the end.

use std::{fs, path::Path};

use serde_json::{Value, json};

use super::world::{Balancer, Vpc, World, show};

fn balanced() -> (World, Vpc, Balancer) {
    let world = World::started();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 80);
    (world, vpc, balancer)
}

#[test]
fn a_reboot_is_made_good_from_state() {
    let (mut world, vpc, balancer) = balanced();
    let address = balancer.address(&vpc.aws);
    assert_eq!(world.answered(address, 80), "target");
    world.kill();
    // What a reboot takes: addresses that no configuration of the host has, and everything in the kernel.
    world.host.ip(&format!("address del {address}/32 dev eth1")).unwrap();
    remove_tree(&world.pins());
    assert!(world.connect(address, 80).is_err(), "nothing is left that could answer");
    world.start(&["eth1"]);
    assert_eq!(world.answered(address, 80), "target");
    assert_eq!(world.program("eth1"), Some("native"));
    assert_eq!(balancer.state(&world.aws()), json!({"Code": "active"}));
}

#[test]
fn what_a_killed_run_left_is_adopted_with_its_flows() {
    let (mut world, vpc, balancer) = balanced();
    let address = balancer.address(&vpc.aws);
    assert_eq!(world.answered(address, 80), "target");
    let mut flow = world.connect(address, 80).unwrap();
    assert_eq!(flow.ask().unwrap(), "target");
    let held = world.addresses("eth1");
    world.kill();
    assert_eq!(flow.ask().unwrap(), "target", "while nothing runs");
    world.start(&["eth1"]);
    assert_eq!(world.answered(address, 80), "target");
    assert_eq!(flow.ask().unwrap(), "target", "after the start");
    assert_eq!(world.addresses("eth1"), held);
}

#[test]
fn down_leaves_the_host_as_it_was() {
    let mut world = World::new();
    let before = picture(&world);
    world.start(&["eth1"]);
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 80);
    assert_eq!(world.answered(balancer.address(&vpc.aws), 80), "target");
    for (now, then) in picture(&world).iter().zip(&before).filter(|((fact, _), _)| fact.starts_with("its ")) {
        assert_ne!(now, then, "a test that sees nothing");
    }
    let boot_file = world.boot_file();
    world.appliance().down(&boot_file).unwrap();
    assert_eq!(picture(&world), before);
    // With nothing left there is nothing to fail at, and a start makes it all anew.
    world.appliance().down(&boot_file).unwrap();
    assert_eq!(picture(&world), before);
    world.start(&["eth1"]);
    assert_eq!(world.answered(balancer.address(&vpc.aws), 80), "target");
}

#[test]
fn down_after_a_kill_removes_what_was_left_and_nothing_of_the_hosts() {
    let mut world = World::new();
    // A second address of the host's own, which nobody may take for one of ours.
    world.host.ip("address add 10.0.1.11/32 dev eth1").unwrap();
    let before = picture(&world);
    world.start(&["eth1"]);
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 80);
    assert_eq!(world.answered(balancer.address(&vpc.aws), 80), "target");
    world.kill();
    assert_ne!(picture(&world), before, "a test that sees nothing");
    let boot_file = world.boot_file();
    world.appliance().down(&boot_file).unwrap();
    assert_eq!(picture(&world), before);
}

#[test]
fn an_address_that_somebody_removes_comes_back() {
    let (world, vpc, balancer) = balanced();
    let address = balancer.address(&vpc.aws);
    assert_eq!(world.answered(address, 80), "target");
    world.host.ip(&format!("address del {address}/32 dev eth1")).unwrap();
    world.client.ip("neigh flush dev lan").unwrap();
    assert_eq!(world.answered(address, 80), "target");
}

/// What of a host an appliance could change, by what it is; that which it must change begins with `its`.
fn picture(world: &World) -> Vec<(&'static str, Value)> {
    let mut neighbours = show(&world.host, "neigh show");
    if let Some(list) = neighbours.as_array_mut() {
        // Others come and go with traffic.
        list.retain(|entry| entry.get("managed").is_some());
    }
    let setting = |name: &str| {
        let read = world.host.command("cat").arg(format!("/proc/sys/net/ipv4/{name}")).output().unwrap();
        json!(String::from_utf8(read.stdout).unwrap())
    };
    vec![
        ("its addresses", show(&world.host, "address")),
        ("its links", show(&world.host, "link")),
        ("its routes", show(&world.host, "route show table all")),
        ("its neighbours", neighbours),
        ("its pins", json!(world.pins().exists())),
        ("ports", setting("ip_local_port_range")),
        ("filter", setting("conf/eth1/rp_filter")),
        ("forwarding", setting("ip_forward")),
    ]
}

pub(super) fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            remove_tree(&entry.path());
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::remove_dir(path).unwrap();
}
