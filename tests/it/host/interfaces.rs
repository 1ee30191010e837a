//! Other interfaces than one good NIC: two networks that only the host joins, and one without native XDP.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

use gatehouse_tests::lab::{netns::Netns, wait::Wait};
use lb_userspace::network::namespace;
use serde_json::{Value, json};

use super::world::{PATIENCE, TARGET, Vpc, World, serve, show, text};

#[test]
fn an_application_load_balancer_joins_networks_that_only_the_host_joins() {
    let mut world = World::new();
    // The target has no way to the client's network.
    world.target.ip("link delete eth0").unwrap();
    world.start(&["eth1", "eth2"]);
    answer_peers(&world.target, "10.0.2.60:80");
    let vpc = Vpc::create(&world);
    let subnets = [vpc.subnet("10.0.1.0/24", 'a'), vpc.subnet("10.0.2.0/24", 'b')];
    let call = |operation: &str, input: Value| vpc.aws.call("elbv2", operation, input).unwrap();
    let input = json!({"GroupName": "open", "Description": "all", "VpcId": vpc.id});
    let open = text(&vpc.aws.call("ec2", "CreateSecurityGroup", input).unwrap()["GroupId"]);
    let all = json!([{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]);
    vpc.aws
        .call("ec2", "AuthorizeSecurityGroupIngress", json!({"GroupId": open, "IpPermissions": all}))
        .unwrap();
    let group = json!({
        "Name": "web", "Protocol": "HTTP", "Port": 80, "VpcId": vpc.id, "TargetType": "ip",
        "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2, "HealthyThresholdCount": 2,
    });
    let group = text(&call("CreateTargetGroup", group)["TargetGroups"][0]["TargetGroupArn"]);
    call("RegisterTargets", json!({"TargetGroupArn": group, "Targets": [{"Id": "10.0.2.60", "Port": 80}]}));
    let balancer = json!({"Name": "web", "Scheme": "internal", "Subnets": subnets, "SecurityGroups": [open]});
    let balancer = text(&call("CreateLoadBalancer", balancer)["LoadBalancers"][0]["LoadBalancerArn"]);
    let actions = json!([{"Type": "forward", "TargetGroupArn": group}]);
    let listener =
        json!({"LoadBalancerArn": balancer, "Protocol": "HTTP", "Port": 80, "DefaultActions": actions});
    call("CreateListener", listener);

    let fetched = || {
        let output = world
            .client
            .command("curl")
            .args(["--silent", "--max-time", "3", "http://10.0.1.4/"])
            .output()?;
        Ok((output.stdout == b"10.0.2.4").then_some(()))
    };
    Wait::default().until("answer from the other network, to the address there", PATIENCE, fetched).unwrap();
    let healthy = || {
        let health = call("DescribeTargetHealth", json!({"TargetGroupArn": group}));
        Ok((health["TargetHealthDescriptions"][0]["TargetHealth"]["State"] == "healthy").then_some(()))
    };
    Wait::default().until("healthy target", PATIENCE, healthy).unwrap();
    // No packet of an application load balancer is XDP's.
    assert_eq!((world.program("eth1"), world.program("eth2")), (None, None));
}

#[test]
fn an_interface_without_native_xdp_gets_the_program_generically_and_a_warning() {
    let mut world = World::new();
    // A bridge over both NICs: the client is on one, the target on the other.
    world.target.ip("link delete eth0").unwrap();
    world.target.ip("address add 10.0.1.60/24 dev eth1").unwrap();
    for words in [
        "address flush dev eth1",
        "address flush dev eth2",
        "link add br0 type bridge",
        "link set eth1 master br0",
        "link set eth2 master br0",
        "address add 10.0.1.10/24 dev br0",
        "link set br0 up",
    ] {
        world.host.ip(words).unwrap();
    }
    let carrier = || Ok((show(&world.host, "link show dev br0")[0]["operstate"] == "UP").then_some(()));
    Wait::default().until("carrier of the bridge", PATIENCE, carrier).unwrap();
    let before = [show(&world.host, "address"), show(&world.host, "link")];
    world.start(&["br0"]);
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 80);
    serve(&world.host, super::world::HOST, 22, "host");
    assert_eq!(world.answered(balancer.address(&vpc.aws), 80), "target");
    assert_eq!(world.answered(super::world::HOST, 22), "host");
    assert_eq!(
        [world.program("br0"), world.program("eth1"), world.program("eth2")],
        [Some("generic"), None, None]
    );
    let log = world.appliance().log();
    let warning =
        log.lines().find(|line| line.contains("attaching generically")).unwrap_or_else(|| panic!("{log}"));
    assert!(warning.contains("WARN") && warning.contains("every packet first costs"), "{warning}");
    let boot_file = world.boot_file();
    world.appliance().down(&boot_file).unwrap();
    assert_eq!([show(&world.host, "address"), show(&world.host, "link")], before);
    assert_eq!(world.answered(TARGET, 80), "target", "the bridge still joins the two");
}

/// An HTTP server that answers each request with its peer's address.
fn answer_peers(machine: &Netns, address: &str) {
    let at: SocketAddr = address.parse().unwrap();
    let listener = namespace::within(machine.name(), || TcpListener::bind(at)).unwrap().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let peer = stream.peer_addr().unwrap().ip().to_string();
                let (mut held, mut byte) = (Vec::new(), [0]);
                while stream.read_exact(&mut byte).is_ok() {
                    held.extend(byte);
                    if held.ends_with(b"\r\n\r\n") {
                        held.clear();
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{peer}", peer.len());
                        let _ = stream.write_all(head.as_bytes());
                    }
                }
            });
        }
    });
}
