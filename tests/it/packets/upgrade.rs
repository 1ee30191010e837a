//! Nodes that are killed and programs that are exchanged under connections that carry data: none of them notices. Maps of
//! another version are not adopted: their flows end, and are told so.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;

use gatehouse_tests::lab::netns::command_in;
use lb_common::abi::ABI_VERSION;
use lb_userspace::packet::{Options, Plan, Protocol};

use super::plans::{self, at, healthy, listener};
use super::sockets::{dial, echo_datagrams, echo_streams, pour};
use super::traffic::Traffic;
use super::world::{BALANCER, CLIENT, FAR, FAR_CLIENT, NEAR, PORT, TARGET_PORT, World, ipv6};

fn plan() -> Plan {
    let four = listener(healthy(&[NEAR, FAR]));
    let six = listener(healthy(&[ipv6(NEAR), ipv6(FAR)]));
    plans::node([
        (at(BALANCER, PORT, Protocol::Tcp), four.clone()),
        (at(BALANCER, PORT, Protocol::Udp), four),
        (at(ipv6(BALANCER), PORT, Protocol::Tcp), six.clone()),
        (at(ipv6(BALANCER), PORT, Protocol::Udp), six),
    ])
}

fn world() -> World {
    let world = World::new();
    for address in [NEAR, FAR] {
        echo_streams(&world, address, TARGET_PORT);
        echo_streams(&world, ipv6(address), TARGET_PORT);
        echo_datagrams(&world, address, TARGET_PORT);
        echo_datagrams(&world, ipv6(address), TARGET_PORT);
    }
    world
}

/// Both clients, both families, streams and datagrams; two of each, so that both targets take part.
fn traffic(world: &World, from: std::net::Ipv4Addr) -> Traffic {
    let to = [SocketAddr::new(BALANCER.into(), PORT), SocketAddr::new(ipv6(BALANCER).into(), PORT)];
    let to = [to, to].concat();
    Traffic::streams(&world.machine(from), &to).datagrams(&world.machine(from), &to)
}

/// The kernel's number and the tag of the program that is on the load balancer's device.
fn attached(world: &World) -> (u64, String) {
    let output = command_in(&world.node(), "ip")
        .args(["-json", "-details", "link", "show", "dev", &World::device()])
        .output()
        .unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let program = &links[0]["xdp"]["prog"];
    let tag = program["tag"].as_str().unwrap_or_else(|| panic!("no program: {links}"));
    (program["id"].as_u64().unwrap(), tag.to_owned())
}

/// Another build of the kernel program: it logs every packet.
fn trace_build() -> Options {
    let object = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/gatehouse-trace.o")).unwrap();
    Options { object: Cow::Owned(object), ..Options::default() }
}

#[test]
fn kills_upgrades_and_downgrades_break_nothing_that_carries_data() {
    let world = world();
    let mut node = world.start_node();
    node.apply(plan());
    let traffics = [CLIENT, FAR_CLIENT].map(|from| traffic(&world, from));
    let goes_on = |when: &str| traffics.iter().for_each(|traffic| traffic.goes_on(when));
    goes_on("at first");
    let (mut id, first_tag) = attached(&world);
    let builds = [
        ("its return", Options::default(), false),
        ("an upgrade", trace_build(), true),
        ("a kill of the upgraded", trace_build(), true),
        ("a downgrade", Options::default(), false),
    ];
    for (what, options, is_other) in builds {
        node.kill();
        goes_on(&format!("while no node runs, before {what}"));
        node = world.start_node_with(options);
        assert!(node.with(|balancer| balancer.is_adopted()), "{what}");
        goes_on(&format!("before a plan after {what}"));
        node.apply(plan());
        goes_on(&format!("after {what}"));
        let (now, tag) = attached(&world);
        assert_ne!(now, id, "{what} exchanged no program");
        assert_eq!(tag != first_tag, is_other, "{what}");
        id = now;
        pour(&dial(&world, CLIENT, BALANCER, PORT).unwrap(), 10_000).unwrap();
    }
    for traffic in traffics {
        traffic.stop();
    }
    let resets: u64 = node.counters().listeners.iter().map(|listener| listener.counters.resets).sum();
    assert_eq!(resets, 0, "{:#?}", node.counters());
}

#[test]
fn maps_of_another_version_carry_their_flows_until_a_plan_is_there_and_then_end_them() {
    let world = world();
    let node = world.start_node();
    node.apply(plan());
    let old = dial(&world, CLIENT, BALANCER, PORT).unwrap();
    pour(&old, 10_000).unwrap();
    node.kill();
    let maps = |version| world.bpffs.path.join(format!("v{version}"));
    fs::rename(maps(ABI_VERSION), maps(ABI_VERSION - 1)).unwrap();

    let node = world.start_node();
    assert!(!node.with(|balancer| balancer.is_adopted()));
    pour(&old, 10_000).unwrap();
    node.apply(plan());
    assert_eq!(pour(&old, 10_000).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(!maps(ABI_VERSION - 1).exists(), "nobody uses them");
    pour(&dial(&world, CLIENT, BALANCER, PORT).unwrap(), 10_000).unwrap();
    assert!(node.counters().listeners[0].counters.resets > 0, "{:#?}", node.counters());
}

#[test]
fn maps_of_another_layout_are_made_anew() {
    let world = world();
    let node = world.start_node();
    node.apply(plan());
    let old = dial(&world, CLIENT, BALANCER, PORT).unwrap();
    pour(&old, 10_000).unwrap();
    node.kill();
    let fewer = Options { flow_entries: 1 << 16, ..Options::default() };
    let node = world.start_node_with(fewer);
    assert!(!node.with(|balancer| balancer.is_adopted()));
    pour(&old, 10_000).unwrap();
    node.apply(plan());
    assert_eq!(pour(&old, 10_000).unwrap_err().kind(), ErrorKind::ConnectionReset);
    pour(&dial(&world, CLIENT, BALANCER, PORT).unwrap(), 10_000).unwrap();
}
