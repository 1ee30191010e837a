//! Both families and both protocols through the load balancer, to targets that see it and to targets that see clients:
//! with the ways that the product's own driver made for their answers.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use lb_userspace::network::namespace;
use lb_userspace::packet::{ListenerName, Mode, Plan, Protocol, Side, Verdict};
use lb_userspace::snapshot::host::ReturnPath;

use super::world::{
    BALANCER, CLIENT, FAR, FAR_CLIENT, NEAR, Node, PORT, TARGET_PORT, World, balancer_arn, plan, target,
    target_name, vpc,
};

const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The IPv6 address that goes with an IPv4 one.
pub(super) fn six(address: Ipv4Addr) -> Ipv6Addr {
    let [.., subnet, host] = address.octets();
    format!("fd00:0:0:{subnet}::{host}").parse().unwrap()
}

/// A world with IPv6 in its subnets and on everything in them.
pub(super) fn dual() -> World {
    let mut world = World::new();
    for subnet in world.slice.subnets.values_mut() {
        let [.., number, _] = subnet.router.octets();
        subnet.ipv6 = Some(format!("fd00:0:0:{number}::/64").parse().unwrap());
    }
    for interface in world.slice.interfaces.values_mut() {
        interface.ipv6 = Some(six(interface.address));
    }
    for group in world.slice.security_groups.values_mut() {
        group.ingress[0].peers.push("::/0".parse().unwrap());
        group.egress[0].peers.push("::/0".parse().unwrap());
    }
    world.apply();
    world
}

/// Sends a target's answers by the load balancer.
fn return_answers(world: &mut World, address: IpAddr) {
    for protocol in PROTOCOLS {
        world.slice.returns.insert(ReturnPath {
            vpc_id: vpc(),
            address,
            protocol: protocol.number(),
            port: TARGET_PORT,
            load_balancer: balancer_arn(),
        });
    }
    world.apply();
}

/// A plan with listeners of both protocols on all addresses, and one target.
pub(super) fn plan_to(machine: Ipv4Addr, address: IpAddr, mode: Mode, is_dual: bool) -> Plan {
    let mut plan = plan(&[machine]);
    let node = plan.nodes.values_mut().next().unwrap();
    let (_, mut listener) = node.listeners.pop_first().unwrap();
    let mut name = target_name(machine);
    name.key.id = address.to_string();
    let mut wanted = target(machine, Verdict::Healthy);
    (wanted.address, wanted.mode) = (address, mode);
    listener.targets = [(name, wanted)].into();
    if is_dual {
        node.ipv6 = Some(Side {
            address: six(BALANCER).into(),
            subnet: "fd00:0:0:1::/64".parse().unwrap(),
            router: "fd00:0:0:1::1".parse().unwrap(),
        });
    }
    for address in node.addresses().collect::<Vec<_>>() {
        for protocol in PROTOCOLS {
            node.listeners.insert(ListenerName { address, port: PORT, protocol }, listener.clone());
        }
    }
    plan
}

/// Tells everybody who connects, or sends a datagram, as whom he is seen.
pub(super) fn serve(world: &World, machine: Ipv4Addr, at: IpAddr) {
    let at = SocketAddr::new(at, TARGET_PORT);
    let sockets = namespace::within(&world.machine(machine), || (TcpListener::bind(at), UdpSocket::bind(at)));
    let (listener, socket) = sockets.unwrap();
    let (listener, socket) = (listener.unwrap(), socket.unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// As whom a machine is seen by whoever answers at `to`.
fn seen(world: &World, from: Ipv4Addr, to: SocketAddr, protocol: Protocol) -> io::Result<String> {
    let ask = || match protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        }
        Protocol::Udp => {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            socket.send(b"who am I")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        }
    };
    namespace::within(&world.machine(from), ask).unwrap()
}

/// Asks by both protocols through the load balancer from both clients, several times each.
#[track_caller]
fn all_are_seen_as(world: &World, node: &Node, balancer: IpAddr, expected: impl Fn(Ipv4Addr) -> IpAddr) {
    for client in [CLIENT, FAR_CLIENT] {
        for protocol in PROTOCOLS {
            for turn in 0..5 {
                let said = seen(world, client, SocketAddr::new(balancer, PORT), protocol);
                let said = said.unwrap_or_else(|error| {
                    panic!(
                        "{client} by {protocol} to {balancer}, turn {turn}: {error}; {:#?}",
                        node.counters()
                    )
                });
                assert_eq!(said, expected(client).to_string(), "{client} by {protocol}");
            }
        }
    }
}

#[test]
fn datagrams_and_streams_share_a_port() {
    let world = World::new();
    serve(&world, NEAR, NEAR.into());
    let node = world.start_node();
    node.apply(plan_to(NEAR, NEAR.into(), Mode::Nat, false));
    all_are_seen_as(&world, &node, BALANCER.into(), |_| BALANCER.into());
}

#[test]
fn a_target_beside_the_load_balancer_sees_clients_as_they_are() {
    let mut world = World::new();
    return_answers(&mut world, NEAR.into());
    serve(&world, NEAR, NEAR.into());
    let node = world.start_node();
    node.apply(plan_to(NEAR, NEAR.into(), Mode::Preserve, false));
    all_are_seen_as(&world, &node, BALANCER.into(), IpAddr::V4);
}

#[test]
fn a_target_behind_the_router_sees_clients_as_they_are() {
    let mut world = World::new();
    return_answers(&mut world, FAR.into());
    serve(&world, FAR, FAR.into());
    let node = world.start_node();
    node.apply(plan_to(FAR, FAR.into(), Mode::Preserve, false));
    all_are_seen_as(&world, &node, BALANCER.into(), IpAddr::V4);
}

#[test]
fn answers_to_whom_no_load_balancer_knows_go_on() {
    for target in [NEAR, FAR] {
        let mut world = World::new();
        return_answers(&mut world, target.into());
        serve(&world, target, target.into());
        let node = world.start_node();
        node.apply(plan_to(target, target.into(), Mode::Preserve, false));
        for client in [CLIENT, FAR_CLIENT] {
            for protocol in PROTOCOLS {
                let said = seen(&world, client, SocketAddr::from((target, TARGET_PORT)), protocol);
                assert_eq!(said.unwrap(), client.to_string(), "{client} past the load balancer to {target}");
            }
        }
    }
}

#[test]
fn without_its_way_an_answer_is_lost() {
    let world = World::new();
    serve(&world, NEAR, NEAR.into());
    let node = world.start_node();
    node.apply(plan_to(NEAR, NEAR.into(), Mode::Preserve, false));
    seen(&world, CLIENT, SocketAddr::from((BALANCER, PORT)), Protocol::Tcp).unwrap_err();
}

#[test]
fn ipv6_clients_reach_ipv6_targets() {
    for target in [NEAR, FAR] {
        let world = dual();
        serve(&world, target, six(target).into());
        let node = world.start_node();
        node.apply(plan_to(target, six(target).into(), Mode::Nat, true));
        all_are_seen_as(&world, &node, six(BALANCER).into(), |_| six(BALANCER).into());
    }
}

#[test]
fn ipv6_targets_see_clients_as_they_are() {
    for target in [NEAR, FAR] {
        let mut world = dual();
        return_answers(&mut world, six(target).into());
        serve(&world, target, six(target).into());
        let node = world.start_node();
        node.apply(plan_to(target, six(target).into(), Mode::Preserve, true));
        all_are_seen_as(&world, &node, six(BALANCER).into(), |client| six(client).into());
    }
}

#[test]
fn clients_and_targets_of_different_families_meet_as_the_load_balancer() {
    let world = dual();
    serve(&world, NEAR, NEAR.into());
    let node = world.start_node();
    node.apply(plan_to(NEAR, NEAR.into(), Mode::Nat, true));
    all_are_seen_as(&world, &node, six(BALANCER).into(), |_| BALANCER.into());
    serve(&world, FAR, six(FAR).into());
    node.apply(plan_to(FAR, six(FAR).into(), Mode::Nat, true));
    all_are_seen_as(&world, &node, BALANCER.into(), |_| six(BALANCER).into());
}

/// Longer than one lost SYN takes to be repeated.
const PATIENCE: Duration = Duration::from_millis(2_500);
