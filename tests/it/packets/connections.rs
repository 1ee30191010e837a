//! Connections of real kernels through the load balancer: everything of a target's life that a client must not notice.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use aya::programs::{Xdp, xdp::XdpMode};
use lb_common::abi::RING_SIZE;
use lb_userspace::network::namespace;
use lb_userspace::packet::Verdict;

use super::world::{
    BALANCER, CLIENT, FAR, FAR_CLIENT, NEAR, PORT, World, plan, plan_of, target, target_name,
};

fn packets(node: &super::world::Node) -> u64 {
    node.counters().listeners.iter().map(|listener| listener.counters.packets).sum()
}

/// Connects until both targets have answered.
fn find_both(world: &World, client: Ipv4Addr) {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(world.connect(client, BALANCER, PORT).unwrap().ask().unwrap());
    }
    assert_eq!(seen, [NEAR.into(), FAR.into()].into());
}

#[test]
fn curl_reaches_a_target_and_every_packet_is_counted() {
    let world = World::new();
    world.serve(NEAR);
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let before = packets(&node);
    for _ in 0..5 {
        let said = world.curl(CLIENT, "http://10.0.1.4/");
        assert_eq!(said, Ok(NEAR.to_string()), "{:#?}", node.counters());
    }
    let after = packets(&node);
    assert!(after - before >= 10, "{before} then {after}");
    let counters = node.counters();
    assert_eq!(counters.listeners[0].counters.new_flows, 5);
    assert_eq!(counters.targets[0].counters.packets, after - before);
}

#[test]
fn a_program_that_only_passes_reaches_nothing() {
    let world = World::new();
    world.serve(NEAR);
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/driver.o");
    let mut ebpf = aya::Ebpf::load_file(object).unwrap();
    let program: &mut Xdp = ebpf.program_mut("pass").unwrap().try_into().unwrap();
    program.load().unwrap();
    namespace::within(&world.node(), || program.attach(&World::device(), XdpMode::Driver).unwrap()).unwrap();
    world.curl(CLIENT, "http://10.0.1.4/").unwrap_err();
}

#[test]
fn clients_and_targets_may_be_behind_the_router() {
    let world = World::new();
    world.serve(NEAR);
    world.serve(FAR);
    let node = world.start_node();
    node.apply(plan(&[NEAR, FAR]));
    find_both(&world, CLIENT);
    find_both(&world, FAR_CLIENT);
}

#[test]
fn established_flows_survive_a_new_target_and_new_ones_find_it() {
    let world = World::new();
    world.serve(NEAR);
    world.serve(FAR);
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let mut connections: Vec<_> = (0..20).map(|_| world.connect(CLIENT, BALANCER, PORT).unwrap()).collect();
    node.apply(plan(&[NEAR, FAR]));
    for connection in &mut connections {
        assert_eq!(connection.ask().unwrap(), NEAR);
    }
    // One of two is new: half of the slots had to move, and no other did.
    let moves = node.counters().reshuffled;
    assert!(moves.ideal.abs_diff(RING_SIZE / 2) <= 1, "{moves:?}");
    assert!(moves.moved >= moves.ideal && moves.moved - moves.ideal < RING_SIZE / 50, "{moves:?}");
    find_both(&world, CLIENT);
    // And a swap to the other one alone.
    node.apply(plan(&[FAR]));
    for connection in &mut connections {
        assert_eq!(connection.ask().unwrap(), NEAR);
    }
    assert_eq!(world.connect(CLIENT, BALANCER, PORT).unwrap().ask().unwrap(), FAR);
}

#[test]
fn established_flows_survive_the_node_and_its_return() {
    let world = World::new();
    world.serve(NEAR);
    world.serve(FAR);
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let mut old = world.connect(CLIENT, BALANCER, PORT).unwrap();
    node.kill();
    // Nobody is there, and packets flow: of this connection and of new ones.
    assert_eq!(old.ask().unwrap(), NEAR);
    let mut between = world.connect(CLIENT, BALANCER, PORT).unwrap();
    assert_eq!(between.ask().unwrap(), NEAR);

    let node = world.start_node();
    assert!(node.with(|balancer| balancer.is_adopted()));
    // Before checks have said anything, targets keep what they had.
    let unknown = [NEAR, FAR].map(|at| (target_name(at), target(at, Verdict::Unknown)));
    node.apply(plan_of(unknown.into(), None));
    for _ in 0..10 {
        assert_eq!(world.connect(CLIENT, BALANCER, PORT).unwrap().ask().unwrap(), NEAR);
    }
    node.apply(plan(&[FAR]));
    assert_eq!(old.ask().unwrap(), NEAR);
    assert_eq!(between.ask().unwrap(), NEAR);
    assert_eq!(world.connect(CLIENT, BALANCER, PORT).unwrap().ask().unwrap(), FAR);
}

#[test]
fn a_target_on_a_machine_that_had_none_for_a_while_is_reached_at_once() {
    let world = World::new();
    let node = world.start_node();
    node.apply(plan(&[NEAR, FAR]));
    for round in 1..=5 {
        // Neither the machine nor the router is wanted any more, and the kernel knows both for long after.
        node.apply(plan(&[]));
        let others = [NEAR, FAR].map(|at| {
            let mut name = target_name(at);
            name.key.port += round;
            (name, target(at, Verdict::Healthy))
        });
        let began = Instant::now();
        node.apply(plan_of(others.into(), None));
        assert!(
            began.elapsed() < Duration::from_millis(500),
            "{round}: resolved after {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn a_draining_target_keeps_its_flows_until_the_last_has_ended() {
    let world = World::new();
    world.serve(NEAR);
    world.serve(FAR);
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let mut connection = world.connect(CLIENT, BALANCER, PORT).unwrap();
    assert_eq!(connection.ask().unwrap(), NEAR);
    let targets = [
        (target_name(NEAR), target(NEAR, Verdict::Draining)),
        (target_name(FAR), target(FAR, Verdict::Healthy)),
    ];
    node.apply(plan_of(targets.into(), None));
    let near = target_name(NEAR);
    node.until("census of the draining target", move |balancer| {
        balancer.flows_of_target(&near.group, &near.key) == Some(1)
    });
    assert_eq!(connection.ask().unwrap(), NEAR);
    assert_eq!(world.connect(CLIENT, BALANCER, PORT).unwrap().ask().unwrap(), FAR);
    drop(connection);
    let near = target_name(NEAR);
    node.until("end of the draining target's flow", move |balancer| {
        balancer.flows_of_target(&near.group, &near.key) == Some(0)
    });
}

#[test]
fn flows_of_a_target_that_terminates_are_reset_when_it_is_gone() {
    let world = World::new();
    world.serve(NEAR);
    world.serve(FAR);
    let node = world.start_node();
    let mut near = target(NEAR, Verdict::Healthy);
    near.terminates = true;
    node.apply(plan_of([(target_name(NEAR), near)].into(), None));
    let mut connection = world.connect(CLIENT, BALANCER, PORT).unwrap();
    assert_eq!(connection.ask().unwrap(), NEAR);
    node.apply(plan(&[FAR]));
    assert_eq!(connection.ask().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_idle_connection_is_reset_when_it_speaks_again_and_not_before() {
    let world = World::new();
    world.serve(NEAR);
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let [mut silent, mut lively] = [(); 2].map(|()| world.connect(CLIENT, BALANCER, PORT).unwrap());
    silent.ask().unwrap();
    lively.ask().unwrap();
    node.pass(340);
    lively.ask().unwrap();
    node.pass(15);
    node.until_flows(1);
    assert_eq!(node.counters().listeners[0].counters.resets, 0, "nobody asked");
    assert_eq!(silent.ask().unwrap_err().kind(), ErrorKind::ConnectionReset);
    lively.ask().unwrap();
}

#[test]
fn security_groups_admit_by_source() {
    let world = World::new();
    world.serve(NEAR);
    let node = world.start_node();
    let targets = [(target_name(NEAR), target(NEAR, Verdict::Healthy))];
    node.apply(plan_of(targets.into(), Some("10.0.1.30/32")));
    assert_eq!(world.connect(CLIENT, BALANCER, PORT).unwrap().ask().unwrap(), NEAR);
    let refused = world.connect(FAR_CLIENT, BALANCER, PORT).err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::TimedOut));
    assert!(node.counters().listeners[0].counters.blocked > 0);
}

#[test]
fn a_listener_without_targets_refuses_and_an_unknown_port_is_silent() {
    let world = World::new();
    let node = world.start_node();
    node.apply(plan(&[]));
    let refused = world.connect(CLIENT, BALANCER, PORT).err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::ConnectionRefused));
    let silent = world.connect(CLIENT, BALANCER, 81).err().map(|error| error.kind());
    assert_eq!(silent, Some(ErrorKind::TimedOut));
}

#[test]
fn the_kernel_answers_ping_and_the_node_may_connect_from_the_static_address() {
    let world = World::new();
    world.serve(NEAR);
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    let ping = std::process::Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", world.machine(CLIENT)))
        .args(["--", "ping", "-c", "1", "-W", "2", "10.0.1.4"])
        .output()
        .unwrap();
    assert!(ping.status.success(), "{ping:?}");
    // As health checks do.
    let at = std::net::SocketAddr::from((NEAR, super::world::TARGET_PORT));
    let limit = Duration::from_secs(2);
    namespace::within(&world.node(), || std::net::TcpStream::connect_timeout(&at, limit)).unwrap().unwrap();
}
