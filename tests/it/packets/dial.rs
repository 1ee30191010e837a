//! Clients on the node itself: what a cgroup's sockets get in the place of a load balancer, and who is left alone.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use lb_common::abi::{FlowKey, Ipv4Be, PortBe};
use lb_common::packet::{Dial, V4, dial};
use lb_common::wire::protocol::TCP;
use lb_userspace::packet::{Counters, Mode, Options, Plan};

use super::families::{dual, plan_to, serve, six};
use super::given::{self, Given, Runner as _};
use super::host::Host;
use super::segment;
use super::world::{BALANCER, CLIENT, FAR, NEAR, Node, PORT, World, plan, plan_of, target, target_name};

/// How a client speaks: over a connection, over a connected socket of datagrams, or over one that is not.
const KINDS: [&str; 3] = ["tcp", "udp", "sendto"];

/// A process in a network namespace and, if one is given, in a cgroup. It speaks to the load balancer some times, each
/// time from a new socket and twice over it if it is not connected; answers what the last one came to.
fn client(namespace: &str, cgroup: Option<&Path>, kind: &str, to: (&str, u16), times: usize) -> String {
    let output = Command::new("sh")
        .args([
            "-c",
            r#"if [ "$1" ]; then echo $$ > "$1/cgroup.procs" || exit 1; fi; shift; exec "$@""#,
            "sh",
        ])
        .arg(cgroup.unwrap_or(Path::new("")))
        .args(["nsenter", &format!("--net=/run/netns/{namespace}"), "--", "/usr/bin/python3", "-c", SCRIPT])
        .args([kind, to.0, &to.1.to_string(), &times.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Says as whom the target sees the client, and whom the client takes it for.
const SCRIPT: &str = "
import socket, sys
kind, address, port, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
try:
    for _ in range(times):
        one = socket.socket(family, socket.SOCK_DGRAM if kind in ('udp', 'sendto') else socket.SOCK_STREAM)
        if kind == 'loopback':
            one.bind(('127.0.0.1', 0))
        one.settimeout(3)
        if kind == 'sendto':
            for _ in range(2):
                one.sendto(b'who am I', (address, port))
                said, peer = one.recvfrom(64)
        else:
            one.connect((address, port))
            if kind == 'udp':
                one.send(b'who am I')
            said, peer = one.recv(64), one.getpeername()
    print(said.decode(), 'by', peer[0], peer[1])
except OSError as error:
    print(error.strerror or error)
";

/// A node that leads clients, and the cgroup that they are in.
struct Steering {
    world: World,
    node: Node,
}

impl Steering {
    fn over(world: World, plan: Plan) -> Self {
        let node = world.start_node_with(Options { clients: Some(world.clients()), ..Options::default() });
        node.apply(plan);
        Self { world, node }
    }

    /// What a client in the cgroup and the node's own namespace is told.
    fn ask(&self, kind: &str, to: &str) -> String {
        client(&self.world.node(), Some(&self.world.clients()), kind, (to, PORT), 1)
    }

    fn counters(&self) -> Counters {
        self.node.counters()
    }
}

/// Packets that XDP forwarded.
fn packets(counters: &Counters) -> u64 {
    counters.listeners.iter().map(|listener| listener.counters.packets).sum()
}

fn new_flows(counters: &Counters) -> u64 {
    counters.listeners.iter().map(|listener| listener.counters.new_flows).sum()
}

const REFUSED: &str = "Connection refused";

#[test]
fn a_client_on_the_node_reaches_targets_itself_and_takes_them_for_the_load_balancer() {
    let world = dual();
    serve(&world, NEAR, NEAR.into());
    serve(&world, NEAR, six(NEAR).into());
    let steering = Steering::over(world, plan_to(NEAR, NEAR.into(), Mode::Nat, true));
    let (ipv4, ipv6) = (BALANCER.to_string(), six(BALANCER).to_string());
    let mapped = format!("::ffff:{ipv4}");
    let mut flows = 0;
    for kind in KINDS {
        // The node has the load balancer's address and no other, so that is as whom it is seen.
        assert_eq!(steering.ask(kind, &ipv4), format!("{ipv4} by {ipv4} {PORT}"), "{kind}");
        assert_eq!(steering.ask(kind, &mapped), format!("{ipv4} by {mapped} {PORT}"), "{kind}");
        flows += 2;
        let crossed = steering.ask(kind, &ipv6);
        if kind == "sendto" {
            assert_eq!(crossed, REFUSED, "the kernel cannot send it as IPv4");
        } else {
            assert_eq!(crossed, format!("{ipv4} by {ipv6} {PORT}"), "{kind}");
            flows += 1;
        }
    }
    steering.node.apply(plan_to(NEAR, six(NEAR).into(), Mode::Nat, true));
    for kind in KINDS {
        assert_eq!(steering.ask(kind, &ipv6), format!("{ipv6} by {ipv6} {PORT}"), "{kind}");
        assert_eq!(steering.ask(kind, &ipv4), REFUSED, "an IPv4 socket has no way to an IPv6 target");
        flows += 1;
    }
    let counters = steering.counters();
    assert_eq!(new_flows(&counters), flows, "one each, however many datagrams: {counters:#?}");
    assert_eq!(counters.targets.iter().map(|target| target.counters.new_flows).sum::<u64>(), 3);
    let rejected: u64 = counters.listeners.iter().map(|listener| listener.counters.rejected).sum();
    assert_eq!(rejected, 4, "three by IPv4 and one by IPv6");
    assert_eq!(packets(&counters), 0, "no packet was rewritten: {counters:#?}");
}

#[test]
fn clients_are_spread_as_flows_are() {
    let world = World::new();
    serve(&world, NEAR, NEAR.into());
    serve(&world, FAR, FAR.into());
    let steering = Steering::over(world, plan(&[NEAR, FAR]));
    let to = BALANCER.to_string();
    client(&steering.world.node(), Some(&steering.world.clients()), "tcp", (&to, PORT), 200);
    let counters = steering.counters();
    let shares: Vec<_> = counters.targets.iter().map(|target| target.counters.new_flows).collect();
    assert_eq!(shares.iter().sum::<u64>(), 200);
    assert!(shares.iter().all(|share| (60..=140).contains(share)), "{shares:?}");
}

#[test]
fn who_is_not_in_the_cgroup_or_not_in_the_namespace_is_left_alone() {
    let world = World::new();
    serve(&world, NEAR, NEAR.into());
    let steering = Steering::over(world, plan(&[NEAR]));
    let (world, to) = (&steering.world, BALANCER.to_string());
    assert_eq!(client(&world.node(), None, "tcp", (&to, PORT), 1), REFUSED, "nobody listens there");
    // From elsewhere the load balancer is reached by packets, whatever cgroup they come from.
    let elsewhere = client(&world.machine(CLIENT), Some(&world.clients()), "tcp", (&to, PORT), 1);
    assert_eq!(elsewhere, format!("{to} by {to} {PORT}"));
    assert!(packets(&steering.counters()) > 0);
    let to_another_port = client(&world.node(), Some(&world.clients()), "tcp", (&to, PORT + 1), 1);
    assert_eq!(to_another_port, REFUSED, "no listener, no change");
    // A socket that speaks from loopback would reach no target.
    assert_eq!(steering.ask("loopback", &to), REFUSED);
}

#[test]
fn security_groups_and_missing_targets_refuse_at_once() {
    let world = World::new();
    serve(&world, NEAR, NEAR.into());
    let only_near = || [(target_name(NEAR), target(NEAR, lb_userspace::packet::Verdict::Healthy))].into();
    let steering = Steering::over(world, plan_of(only_near(), Some("10.9.0.0/16")));
    let to = BALANCER.to_string();
    assert_eq!(steering.ask("tcp", &to), "Operation not permitted");
    assert_eq!(steering.counters().listeners[0].counters.blocked, 1);
    // Who connects to an address of his own machine comes from there.
    steering.node.apply(plan_of(only_near(), Some("10.0.1.4/32")));
    assert_eq!(steering.ask("tcp", &to), format!("{to} by {to} {PORT}"));
    steering.node.apply(plan(&[] as &[Ipv4Addr]));
    assert_eq!(steering.ask("tcp", &to), REFUSED);
    assert_eq!(steering.counters().listeners[0].counters.rejected, 1);
}

#[test]
fn it_is_off_until_asked_for_outlives_a_crash_and_ends_when_no_longer_asked_for() {
    let world = World::new();
    serve(&world, NEAR, NEAR.into());
    let (clients, to) = (world.clients(), BALANCER.to_string());
    let ask = || client(&world.node(), Some(&clients), "tcp", (&to, PORT), 1);
    let led = format!("{to} by {to} {PORT}");
    let node = world.start_node();
    node.apply(plan(&[NEAR]));
    assert_eq!(ask(), REFUSED, "nobody asked for it");
    node.kill();

    let asked_for = || Options { clients: Some(clients.clone()), ..Options::default() };
    let node = world.start_node_with(asked_for());
    assert_eq!(ask(), led, "by what the node before left in the tables");
    node.kill();
    assert_eq!(ask(), led, "without a process");
    let node = world.start_node_with(asked_for());
    node.apply(plan(&[NEAR]));
    assert_eq!(ask(), led, "by the next one");
    assert_eq!(new_flows(&node.counters()), 3, "once each");
    node.kill();

    let node = world.start_node();
    assert_eq!(ask(), REFUSED, "no longer");
    assert!(!world.bpffs.path.join("dial").exists());
    node.kill();
}

/// What is decided about a connection from an address to a port of the fixtures' load balancer.
fn decided(given: &Given, source: [u8; 4], port: u16, before: Option<(u16, u16)>) -> String {
    let mut tables = Host::default();
    tables.begin(given);
    let key = FlowKey {
        source: Ipv4Be::from(Ipv4Addr::from(source)),
        destination: segment::BALANCER.into(),
        source_port: PortBe::new(50_000),
        destination_port: PortBe::new(port),
        protocol: TCP.into(),
    };
    match dial::<V4, _, _>(&key, before, &tables, &tables) {
        Dial::Leave => "left".to_owned(),
        Dial::Block { listener } => format!("blocked at {listener}"),
        Dial::Reject { listener } => format!("rejected at {listener}"),
        Dial::Reach { listener, index, target } => {
            assert_eq!(given.targets[usize::from(index)], *target);
            format!("{index} of {listener}")
        }
    }
}

#[test]
fn a_socket_gets_what_a_packet_would_and_otherwise_keeps_its_address() {
    let given = Given::default();
    let (admitted, stranger) = ([10, 0, 1, 9], [10, 9, 0, 1]);
    for (port, source, expected) in [
        (given::HTTP, admitted, "0 of 0"),
        (given::EMPTY, admitted, "rejected at 2"),
        (given::HOLLOW, admitted, "rejected at 5"),
        (given::GUARDED, admitted, "0 of 3"),
        (given::GUARDED, stranger, "blocked at 3"),
        // The kernel asks for next hops itself.
        (given::UNRESOLVED, admitted, "1 of 4"),
        (given::CROSSING, admitted, "4 of 7"),
        // What these do not take at an address of their own.
        (given::BRIDGED, admitted, "left"),
        (given::GUE, admitted, "left"),
        // There is a socket already.
        (given::LOCAL, admitted, "left"),
        (9_999, admitted, "left"),
    ] {
        assert_eq!(decided(&given, source, port, None), expected, "port {port} from {source:?}");
    }
}

#[test]
fn a_socket_of_datagrams_keeps_its_target_until_that_is_gone() {
    let given = Given::default();
    let to = |before| decided(&given, [10, 0, 1, 9], given::HTTP, Some(before));
    let (kept, gone) = (1, 2);
    let generation = given.targets[usize::from(kept)].generation;
    assert_eq!(to((kept, generation)), "1 of 0", "though the ring has another");
    assert_eq!(to((kept, generation + 1)), "0 of 0", "the index is another target's now");
    assert_eq!(to((gone, 0)), "0 of 0");
    assert_eq!(to((u16::MAX, 0)), "0 of 0");
}
