//! Made once, adopted ever after, removed to the last device.

use std::time::Duration;

use gatehouse_tests::lab::netns::command_in;
use lb_userspace::{
    network::{
        EnterError, Virtual, enter, places,
        plan::{Network, Step},
        remove_everything,
    },
    snapshot::host::HostSlice,
};

use super::world::{Vpc, World, listen, seen_as};

const VPC: Vpc = Vpc(0);

fn world() -> World {
    let mut world = World::new();
    world.add_vpc(&VPC);
    world
}

/// The link reaches the machine, through the router between their subnets.
fn assert_serves(world: &World, when: &str) {
    let listener = listen(&world.machine(&VPC), "10.0.2.6:80");
    assert_eq!(seen_as(&world.link(&VPC), &listener).to_string(), "10.0.1.5", "{when}");
}

fn output(namespace: &str, words: &str) -> String {
    let mut words = words.split(' ');
    let output = command_in(namespace, words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn applying_a_slice_again_does_nothing() {
    let world = world();
    let mut driver = world.driver();
    assert!(driver.apply(&world.slice).unwrap().done > 10);
    assert_serves(&world, "at first");
    let again = driver.apply(&world.slice).unwrap();
    assert_eq!((again.done, again.is_whole()), (0, true), "{again:?}");
}

#[test]
fn a_new_driver_adopts_what_stands_without_touching_a_connection() {
    let world = world();
    world.apply();
    let listener = listen(&world.machine(&VPC), "10.0.2.6:80");
    let mut client = super::world::connect(&world.link(&VPC), "10.0.2.6:80").unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let steps =
        world.driver().plan(&Network::of(&world.slice, world.name.as_str(), Some(&world.uplink()))).unwrap();
    let is_light = |step: &Step| match step {
        Step::Filter { .. } => true,
        Step::Return { returns, .. } => returns.is_empty(),
        _ => false,
    };
    assert!(steps.iter().all(is_light), "{steps:?}");
    world.apply();
    use std::io::{Read as _, Write as _};
    server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    client.write_all(b"still here").unwrap();
    let mut read = [0; 10];
    server.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"still here");
}

#[test]
fn a_crash_between_any_two_steps_is_made_good_by_the_next_driver() {
    let world = world();
    let network = Network::of(&world.slice, world.name.as_str(), Some(&world.uplink()));
    let all = world.driver().plan(&network).unwrap();
    for cut in 0..all.len() {
        let mut crashed = world.driver();
        for step in &all[..cut] {
            crashed.carry_out(step).unwrap();
        }
        drop(crashed);
        world.apply();
        assert_serves(&world, &format!("after a crash before `{}`", all[cut]));
        let removed = remove_everything(world.name.as_str());
        assert!(removed.failures.is_empty(), "{removed:?}");
    }
}

#[test]
fn what_a_crash_left_half_made_is_made_anew() {
    let world = world();
    world.apply();
    let ports = output(&world.vpc(&VPC), "ip -oneline link show type veth");
    let port = ports.lines().find(|line| line.contains("10.0.1.5/24")).unwrap();
    let port = port.split(": ").nth(1).unwrap().split('@').next().unwrap();
    output(&world.link(&VPC), "ip address flush dev eni-15-000000a0");
    output(&world.vpc(&VPC), &format!("ip link set {port} alias half-made"));
    let applied = world.apply();
    assert!(applied.done >= 2, "{applied:?}");
    assert_serves(&world, "after it was made anew");
}

#[test]
fn a_namespace_removed_by_hand_is_made_again() {
    let world = world();
    world.apply();
    let removed =
        std::process::Command::new("ip").args(["netns", "delete", &world.machine(&VPC)]).status().unwrap();
    assert!(removed.success());
    world.apply();
    assert_serves(&world, "after its namespace was made again");
}

#[test]
fn deleting_leaves_nothing() {
    let mut world = world();
    world.apply();
    world.slice = HostSlice::default();
    world.apply();
    assert_eq!(world.standing(), [""; 0]);
    assert_eq!(output(world.internet.name(), "ip -oneline link show type veth"), "");
}

#[test]
fn an_interface_that_is_no_longer_asked_for_goes_and_the_rest_stays() {
    let mut world = world();
    world.apply();
    world.slice.instances.clear();
    world.apply();
    assert!(!world.standing().contains(&world.machine(&VPC)));
    assert_eq!(output(&world.vpc(&VPC), "ip -oneline link show type veth").lines().count(), 4);
    assert_eq!(output(&world.link(&VPC), "ip -oneline link show type veth").lines().count(), 1);
}

#[test]
fn removing_an_appliance_takes_all_of_it_and_nothing_of_the_host_around_it() {
    let world = world();
    world.apply();
    let removed = remove_everything(world.name.as_str());
    assert!(removed.failures.is_empty(), "{removed:?}");
    assert_eq!(removed.gone.len(), 4, "{removed:?}");
    assert_eq!(world.standing(), [""; 0]);
    assert_eq!(output(world.internet.name(), "ip -oneline link show type veth"), "");
}

#[test]
fn tasks_and_pins_go_with_the_appliance() {
    let world = world();
    places::mount_bpffs().unwrap();
    let group = places::cgroup(world.name.as_str()).unwrap();
    std::fs::create_dir_all(group.join("task/inner")).unwrap();
    let mut task = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    std::fs::write(group.join("task/inner/cgroup.procs"), task.id().to_string()).unwrap();
    let pins = places::pins(world.name.as_str());
    std::fs::create_dir_all(pins.join("vpc")).unwrap();
    let removed = remove_everything(world.name.as_str());
    assert!(removed.failures.is_empty(), "{removed:?}");
    assert!(!group.exists() && !pins.exists(), "{removed:?}");
    assert!(!task.wait().unwrap().success());
}

#[test]
fn a_failure_is_named_and_stops_only_what_needs_it() {
    let world = world();
    let uplink = lb_userspace::network::Uplink { bridge: "absent".to_owned(), ..world.uplink() };
    let mut driver = Virtual::new(world.name.as_str(), Some(uplink));
    for attempt in ["first", "second"] {
        let applied = driver.apply(&world.slice).unwrap();
        let failed: Vec<String> = applied.failures.iter().map(|failure| failure.step.to_string()).collect();
        assert_eq!(failed, [format!("make the uplink of {} as 192.0.2.10", world.vpc(&VPC))], "{attempt}");
        assert_eq!(applied.failures[0].error.to_string(), "there is no device absent", "{attempt}");
        assert!(applied.stands(&world.machine(&VPC)) && applied.stands(&world.link(&VPC)), "{attempt}");
        assert!(!applied.stands(&world.vpc(&VPC)), "{attempt}");
        assert_serves(&world, attempt);
    }
    world.apply();
}

#[test]
fn offloads_are_as_xdp_needs_them() {
    let world = world();
    world.apply();
    let on = |namespace: &str, device: &str, feature: &str| {
        let features = output(namespace, &format!("ethtool -k {device}"));
        features.lines().any(|line| line.trim().starts_with(&format!("{feature}: on")))
    };
    for (namespace, device) in
        [(world.link(&VPC), "eni-15-000000a0"), (world.machine(&VPC), "eni-26-000000a0")]
    {
        assert!(!on(&namespace, device, "tx-checksumming"), "{device}");
    }
    let port = "prt-14-000000a0";
    assert!(
        on(&world.vpc(&VPC), port, "generic-receive-offload")
            && !on(&world.vpc(&VPC), port, "tx-checksumming")
    );
}

#[test]
fn hardware_addresses_are_the_same_after_every_restart() {
    let world = world();
    world.apply();
    let shown = output(&world.link(&VPC), "ip -oneline link show eni-15-000000a0");
    assert!(shown.contains("link/ether 02:67:0a:00:01:05"), "{shown}");
    let shown = output(&world.vpc(&VPC), "ip -oneline link show type bridge");
    assert!(shown.contains("link/ether 02:67:0a:00:02:01"), "{shown}");
}

#[test]
fn a_process_with_threads_may_not_change_its_namespace() {
    let world = world();
    let error = enter(world.internet.name(), Duration::ZERO).unwrap_err();
    assert!(matches!(error, EnterError::Threads(2..)), "{error}");
}
