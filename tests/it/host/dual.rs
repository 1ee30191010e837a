//! A host with IPv6, and load balancers of both families on it.
//!
//! The machines are the world's; `10.0.1.10` is `fd00:0:0:1::10` too.

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use gatehouse_tests::lab::{netns::Netns, wait::Wait};
use lb_userspace::network::namespace;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use super::world::{Balancer, PATIENCE, TARGET, Vpc, World, serve, show, text};

/// The host's own address on eth1's network.
pub(super) const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0x10);
/// The target's.
pub(super) const TARGET6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0x60);
/// The client's.
pub(super) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 0x50);
/// Where the target serves datagrams.
pub(super) const DATAGRAMS: u16 = 5_353;
/// The first that is given out on eth1's network.
pub(super) const FIRST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 4);

/// A world whose machines have IPv6, and nothing running on them but servers on the target.
pub(super) fn new() -> World {
    let world = World::new();
    let ends = [
        (&world.host, "eth1", "fd00:0:0:1::10"),
        (&world.host, "eth2", "fd00:0:0:2::10"),
        (&world.client, "lan", "fd00:0:0:1::50"),
        (&world.target, "eth0", "fd00:0:0:1::60"),
        (&world.target, "eth1", "fd00:0:0:2::60"),
    ];
    for machine in [&world.host, &world.client, &world.target] {
        // Nobody here has another's address yet, and nobody waits for a router.
        machine.set("net/ipv6/conf/all/accept_dad", "0").unwrap();
        machine.set("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
    }
    for (machine, device, address) in ends {
        for setting in ["accept_dad", "accept_ra", "disable_ipv6"] {
            machine.set(&format!("net/ipv6/conf/{device}/{setting}"), "0").unwrap();
        }
        machine.ip(&format!("address add {address}/64 dev {device} nodad")).unwrap();
    }
    for machine in [&world.host, &world.client, &world.target] {
        let is_settled =
            || Ok((!show(machine, "-6 address").to_string().contains("tentative")).then_some(()));
        Wait::default().until("link-local addresses", PATIENCE, is_settled).unwrap();
    }
    serve(&world.target, TARGET6, 80, "target");
    echo(&world.target, TARGET6);
    world
}

/// The same with an appliance that may use eth1.
pub(super) fn started() -> World {
    let mut world = new();
    world.start(&["eth1"]);
    world
}

/// The world's VPC, with IPv6.
pub(super) fn vpc(world: &World) -> Vpc {
    let vpc = Vpc::create(world);
    let block = json!({"VpcId": vpc.id, "Ipv6CidrBlock": "fd00::/56"});
    vpc.aws.call("ec2", "AssociateVpcCidrBlock", block).unwrap();
    vpc
}

/// A subnet of both families on eth1's network.
pub(super) fn subnet(vpc: &Vpc) -> String {
    subnet_of(vpc, "10.0.1.0/24", 'a', "fd00:0:0:1::/64")
}

pub(super) fn subnet_of(vpc: &Vpc, cidr: &str, zone: char, ipv6: &str) -> String {
    let subnet = vpc.subnet(cidr, zone);
    let block = json!({"SubnetId": subnet, "Ipv6CidrBlock": ipv6});
    vpc.aws.call("ec2", "AssociateSubnetCidrBlock", block).unwrap();
    subnet
}

/// A group of one address.
pub(super) fn group(vpc: &Vpc, name: &str, protocol: &str, target: (IpAddr, u16)) -> String {
    let (address, port) = target;
    let group = json!({
        "Name": name, "Protocol": protocol, "Port": port, "VpcId": vpc.id, "TargetType": "ip",
        "IpAddressType": if address.is_ipv4() { "ipv4" } else { "ipv6" },
        "HealthCheckProtocol": "TCP", "HealthCheckPort": "80",
        "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2, "HealthyThresholdCount": 2,
    });
    let made = vpc.aws.call("elbv2", "CreateTargetGroup", group).unwrap();
    let group = text(&made["TargetGroups"][0]["TargetGroupArn"]);
    let targets = json!({"TargetGroupArn": group, "Targets": [{"Id": address, "Port": port}]});
    vpc.aws.call("elbv2", "RegisterTargets", targets).unwrap();
    group
}

pub(super) fn listen(vpc: &Vpc, balancer: &Balancer, protocol: &str, port: u16, group: &str) {
    let listener = json!({
        "LoadBalancerArn": balancer.arn, "Protocol": protocol, "Port": port,
        "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}],
    });
    vpc.aws.call("elbv2", "CreateListener", listener).unwrap();
}

/// Waits until a group's target passes its checks.
pub(super) fn wait_until_healthy(vpc: &Vpc, group: &str) {
    let is_healthy = || {
        let health = vpc.aws.call("elbv2", "DescribeTargetHealth", json!({"TargetGroupArn": group}))?;
        Ok((health["TargetHealthDescriptions"][0]["TargetHealth"]["State"] == "healthy").then_some(()))
    };
    Wait::default().until("a healthy target", PATIENCE, is_healthy).unwrap();
}

/// A request for a network load balancer of both families.
pub(super) fn request(name: &str, mapping: &Value) -> Value {
    json!({"Name": name, "Type": "network", "Scheme": "internal", "IpAddressType": "dualstack",
        "SubnetMappings": [mapping]})
}

/// A network load balancer of both families that serves the target's TCP at port 80, once it is no longer provisioning.
pub(super) fn balancer(vpc: &Vpc, name: &str, mapping: &Value) -> Balancer {
    let made = vpc.aws.call("elbv2", "CreateLoadBalancer", request(name, mapping)).unwrap();
    let group = group(vpc, name, "TCP", (TARGET6.into(), 80));
    let balancer = Balancer { arn: text(&made["LoadBalancers"][0]["LoadBalancerArn"]), group };
    listen(vpc, &balancer, "TCP", 80, &balancer.group);
    balancer.settled(&vpc.aws)
}

/// Its IPv6 address.
pub(super) fn address(vpc: &Vpc, balancer: &Balancer) -> Ipv6Addr {
    let zone = balancer.describe(&vpc.aws)["AvailabilityZones"][0].clone();
    text(&zone["LoadBalancerAddresses"][0]["IPv6Address"]).parse().unwrap()
}

/// IPv6 addresses of a machine's interface that are of this scope: `global` or `link`.
pub(super) fn held(machine: &Netns, device: &str, scope: &str) -> BTreeSet<String> {
    let shown = show(machine, &format!("-6 address show dev {device}"));
    let infos = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let own = infos.iter().filter(|info| info["scope"] == scope);
    own.map(|info| format!("{}/{}", text(&info["local"]), info["prefixlen"])).collect()
}

/// Waits until an interface of the host has these and no others.
pub(super) fn wait_for_addresses(world: &World, device: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|&address| address.to_owned()).collect();
    let is_so = || Ok((held(&world.host, device, "global") == wanted).then_some(()));
    Wait::default().until(&format!("{device} with {wanted:?}"), PATIENCE, is_so).unwrap();
}

/// The target's IPv4 address.
pub(super) fn target4() -> IpAddr {
    IpAddr::from(TARGET)
}

/// Answers datagrams for as long as this process lives, with who sent them in front.
fn echo(machine: &Netns, address: Ipv6Addr) {
    let at = SocketAddr::new(address.into(), DATAGRAMS);
    let socket = namespace::within(machine.name(), || UdpSocket::bind(at)).unwrap().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let _ = socket.send_to(format!("{} {said}", from.ip()).as_bytes(), from);
        }
    });
}

/// What the answer to a datagram of the client is, once there is one.
pub(super) fn datagram(world: &World, to: Ipv6Addr, port: u16) -> String {
    let here = SocketAddr::new(CLIENT6.into(), 0);
    let socket = namespace::within(world.client.name(), || UdpSocket::bind(here)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let ask = || {
        socket.send_to(b"datagram", (to, port))?;
        let mut buffer = [0; 64];
        let answer = socket.recv_from(&mut buffer).ok();
        Ok(answer.map(|(length, _)| String::from_utf8_lossy(&buffer[..length]).into_owned()))
    };
    Wait::default().until(&format!("answer from {to} to a datagram"), PATIENCE, ask).unwrap()
}

/// Hears what is said over ICMPv6 on the client's network.
pub(super) struct Ear(Socket);

impl Ear {
    pub(super) fn new(world: &World) -> Self {
        let open = || Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6));
        let socket = namespace::within(world.client.name(), open).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Self(socket)
    }

    /// Unsolicited advertisements of an address so far, each with its flags and the hardware address that it names; waits
    /// for this many.
    pub(super) fn advertisements(&mut self, of: Ipv6Addr, count: usize) -> io::Result<Vec<(u8, String)>> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = Vec::new();
        while heard.len() < count {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("heard but {heard:?}")));
            }
            let mut message = [0; 128];
            let length = match self.0.read(&mut message) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            // RFC 4861 §4.4, with the one option of §4.6.1.
            if let [136, 0, _, _, flags, 0, 0, 0, rest @ ..] = &message[..length]
                && let Some((target, [2, 1, mac @ ..])) = rest.split_at_checked(16)
                && target == of.octets()
            {
                let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                heard.push((*flags, mac.join(":")));
            }
        }
        Ok(heard)
    }
}
