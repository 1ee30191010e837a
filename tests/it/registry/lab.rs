//! The whole appliance: instances appear and disappear where their names are asked for, and nowhere else.

use std::{net::SocketAddrV4, path::Path, time::Duration};

use gatehouse_tests::lab::{Lab, Options, aws::Aws, internet::WAN_ROUTER, netns::command_in, wait::Wait};
use lb_userspace::{
    model::id::{InstanceId, VpcId},
    network::namespace::within,
    snapshot::names,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    bed::{Says, serve},
    dig::{Said, dig},
};

/// A lab, and boto3 as control's client.
struct World {
    lab: Lab,
    aws: Aws,
}

/// A VPC `10.0.0.0/16` with a machine in it, a private namespace `demo.local`, and nothing else.
struct Vpc {
    id: String,
    namespace: String,
    machine: String,
}

impl World {
    fn new() -> Self {
        let boot = format!("[node]\nmetrics_port = {METRICS}\ndns_forward = [\"{WAN_ROUTER}:53\"]");
        let lab = Lab::start(&Options { more_boot: boot, ..Options::default() }).unwrap();
        let aws = lab.aws().unwrap();
        Self { lab, aws }
    }

    fn ok(&self, service: &str, operation: &str, params: Value) -> Value {
        let answer = self.aws.call(service, operation, params);
        answer.unwrap_or_else(|error| panic!("{operation}: {error}\n{}", self.lab.ready().control.endpoint))
    }

    fn map(&self, operation: &str, params: Value) -> Value {
        self.ok("servicediscovery", operation, params)
    }

    /// A VPC whose machine is in this subnet; its resolver answers when this returns.
    fn vpc(&self, subnet: &str) -> Vpc {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let made = self.ok("ec2", "CreateVpc", json!({"CidrBlock": "10.0.0.0/16"}));
        let id = text(&made["Vpc"]["VpcId"]);
        let subnet = self.ok("ec2", "CreateSubnet", json!({"VpcId": id, "CidrBlock": subnet}));
        let launch = json!({
            "ImageId": "ami-1", "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1,
            "SubnetId": subnet["Subnet"]["SubnetId"],
        });
        let launched = self.ok("ec2", "RunInstances", launch);
        let instance = InstanceId::from(text(&launched["Instances"][0]["InstanceId"]));
        let made = self.map("CreatePrivateDnsNamespace", json!({"Name": "demo.local", "Vpc": id}));
        let namespace = self.done(&made)["NAMESPACE"].as_str().unwrap().to_owned();
        let machine = names::instance_namespace(self.lab.name().as_str(), &instance);
        let vpc = Vpc { id, namespace, machine };
        let answers = || Ok((vpc.dig("demo.local SOA").status == "NOERROR").then_some(()));
        Wait::default().until("resolver", SOON, answers).unwrap();
        vpc
    }

    /// Waits until an operation has succeeded: until every data plane has applied it.
    fn done(&self, answer: &Value) -> Value {
        let finished = || {
            let shown = self.map("GetOperation", json!({"OperationId": answer["OperationId"]}));
            let operation = &shown["Operation"];
            assert_ne!(operation["Status"], "FAIL", "{operation}");
            Ok((operation["Status"] == "SUCCESS").then(|| operation["Targets"].clone()))
        };
        Wait::default().until("operation", SOON, finished).unwrap()
    }

    fn service(&self, vpc: &Vpc, name: &str, kind: &str) -> String {
        let dns = json!({"RoutingPolicy": "MULTIVALUE", "DnsRecords": [{"Type": kind, "TTL": 60}]});
        let input = json!({
            "Name": name, "NamespaceId": vpc.namespace, "DnsConfig": dns,
            "HealthCheckCustomConfig": {"FailureThreshold": 1},
        });
        self.map("CreateService", input)["Service"]["Id"].as_str().unwrap().to_owned()
    }

    fn register(&self, service: &str, id: &str, address: &str) {
        let attributes = json!({"AWS_INSTANCE_IPV4": address, "AWS_INSTANCE_PORT": "8080"});
        let input = json!({"ServiceId": service, "InstanceId": id, "Attributes": attributes});
        self.done(&self.map("RegisterInstance", input));
    }

    fn deregister(&self, service: &str, id: &str) {
        self.done(&self.map("DeregisterInstance", json!({"ServiceId": service, "InstanceId": id})));
    }

    fn set_health(&self, service: &str, id: &str, status: &str) {
        let input = json!({"ServiceId": service, "InstanceId": id, "Status": status});
        self.map("UpdateInstanceCustomHealthStatus", input);
    }

    /// The node's metrics.
    fn metrics(&self, vpc: &Vpc) -> String {
        let node = names::node_namespace(self.lab.name().as_str(), &VpcId::from(vpc.id.as_str()));
        let url = format!("http://127.0.0.1:{METRICS}/metrics");
        let output = command_in(&node, "curl").args(["--silent", "--max-time", "5", &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Vpc {
    /// Asks the resolver from the machine.
    fn dig(&self, words: &str) -> Said {
        dig(command_in(&self.machine, "dig"), &format!("@{RESOLVER} {words}"))
    }

    /// Waits until the answer has these data.
    fn says(&self, words: &str, data: &[&str]) {
        let mut last = Said::default();
        let waited = Wait::default().until(&format!("{data:?} from {words}"), SOON, || {
            last = self.dig(words);
            Ok((last.data() == data).then_some(()))
        });
        waited.unwrap_or_else(|error| panic!("{error}: {}", last.text));
    }
}

#[test]
fn instances_are_found_from_registration_to_deregistration() {
    let world = World::new();
    // The resolver's address is in no subnet here: it is routed to.
    let vpc = world.vpc("10.0.1.0/24");
    assert_eq!(vpc.dig("web.demo.local A").status, "NXDOMAIN");
    let web = world.service(&vpc, "web", "A");
    let api = world.service(&vpc, "api", "SRV");
    world.register(&web, "one", "10.0.1.21");
    assert_eq!(vpc.dig("web.demo.local A").answer, ["web.demo.local. 60 A 10.0.1.21"]);
    world.register(&web, "two", "10.0.1.22");
    let both = vpc.dig("+tcp web.demo.local A");
    assert_eq!(both.data(), ["10.0.1.21", "10.0.1.22"], "{}", both.text);
    world.deregister(&web, "one");
    assert_eq!(vpc.dig("web.demo.local A").data(), ["10.0.1.22"]);

    world.register(&api, "one", "10.0.1.31");
    let srv = vpc.dig("+bufsize=1232 api.demo.local SRV");
    assert_eq!(srv.answer, ["api.demo.local. 60 SRV 1 1 8080 one.api.demo.local."], "{}", srv.text);
    assert_eq!(srv.additional, ["one.api.demo.local. 60 A 10.0.1.31"], "{}", srv.text);
    assert!(srv.text.contains("EDNS: version: 0, flags:; udp: 1232"), "{}", srv.text);
    assert_eq!(vpc.dig("one.api.demo.local A").data(), ["10.0.1.31"]);
    world.deregister(&api, "one");
    assert_eq!(vpc.dig("api.demo.local SRV").status, "NXDOMAIN");

    world.register(&web, "one", "10.0.1.21");
    world.set_health(&web, "two", "UNHEALTHY");
    vpc.says("web.demo.local A", &["10.0.1.21"]);
    world.set_health(&web, "one", "UNHEALTHY");
    // None healthy is all healthy.
    vpc.says("web.demo.local A", &["10.0.1.21", "10.0.1.22"]);
    world.set_health(&web, "two", "HEALTHY");
    vpc.says("web.demo.local A", &["10.0.1.22"]);
    let metrics = world.metrics(&vpc);
    assert!(metrics.contains("gatehouse_dns_QueryCount_total{ResponseCode=\"NOERROR\"}"), "{metrics}");
}

#[test]
fn only_the_vpc_is_answered_and_only_from_its_own_namespaces() {
    let world = World::new();
    // The resolver's address is in the machine's own subnet: it is a neighbour.
    let (one, two) = (world.vpc("10.0.0.0/24"), world.vpc("10.0.1.0/24"));
    let service = world.service(&one, "web", "A");
    world.register(&service, "one", "10.0.0.21");
    assert_eq!(one.dig("web.demo.local A").data(), ["10.0.0.21"]);
    let other = two.dig("web.demo.local A");
    assert_eq!(other.status, "NXDOMAIN", "{}", other.text);

    let edge = names::vpc_namespace(world.lab.name().as_str(), &VpcId::from(one.id.as_str()));
    let shown =
        command_in(&edge, "ip").args(["-oneline", "-4", "address", "show", "uplink"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let outside = shown.split("inet ").nth(1).unwrap().split('/').next().unwrap();
    // Who knows the way is stopped at the edge.
    let internet = world.lab.internet();
    internet.router().ip(&format!("route add 10.0.0.0/16 via {outside}")).unwrap();
    for stranger in [internet.client(), internet.gateway(), internet.router()] {
        for transport in ["+notcp", "+tcp"] {
            let said = dig(stranger.command("dig"), &format!("@{RESOLVER} {transport} demo.local SOA"));
            assert_eq!(said.status, "", "{}: {}", stranger.name(), said.text);
        }
    }
    // And who were past it and had an address outside would be dropped.
    let dropped = |metrics: &str| {
        let line = metrics.lines().find(|line| line.contains("DroppedQueryCount_total{Reason=\"outside\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap()
    };
    let before = dropped(&world.metrics(&one));
    let said = dig(command_in(&edge, "dig"), &format!("-b {outside} @{RESOLVER} demo.local SOA"));
    assert_eq!(said.status, "", "{}", said.text);
    assert_eq!(dropped(&world.metrics(&one)), before + 1);
    // The edge's own addresses inside are the VPC's.
    let said = dig(command_in(&edge, "dig"), &format!("-b 10.0.0.1 @{RESOLVER} demo.local SOA"));
    assert_eq!(said.status, "NOERROR", "{}", said.text);
}

#[test]
fn other_names_are_asked_for_outside_through_the_uplink() {
    let world = World::new();
    let vpc = world.vpc("10.0.1.0/24");
    let server = SocketAddrV4::new(WAN_ROUTER, 53);
    assert_eq!(dig_patiently(&vpc, "www.example.com A").status, "SERVFAIL", "nobody serves there yet");
    let address = "192.0.2.80".parse().unwrap();
    within(world.lab.internet().router().name(), || serve(server, Says::Address(address))).unwrap();
    for transport in ["+notcp", "+tcp"] {
        let said = vpc.dig(&format!("{transport} www.example.com A"));
        assert_eq!(said.answer, ["www.example.com. 5 A 192.0.2.80"], "{}", said.text);
        assert!(said.flags.ends_with(" ra"), "{}", said.text);
    }
    // The machine itself has no way there.
    let said =
        dig(command_in(&vpc.machine, "dig"), &format!("@{server} www.example.com A").replace(":53", ""));
    assert_eq!(said.status, "", "{}", said.text);
}

#[test]
fn a_node_that_died_answers_again_while_control_is_away() {
    let mut world = World::new();
    let vpc = world.vpc("10.0.1.0/24");
    let service = world.service(&vpc, "web", "A");
    world.register(&service, "one", "10.0.1.21");
    assert_eq!(world.lab.appliance().signal("control", Signal::SIGSTOP).unwrap(), 1);
    assert_eq!(vpc.dig("web.demo.local A").data(), ["10.0.1.21"]);
    assert_eq!(world.lab.appliance().signal("node", Signal::SIGKILL).unwrap(), 1);
    vpc.says("web.demo.local A", &["10.0.1.21"]);
    assert_eq!(world.lab.appliance().signal("control", Signal::SIGCONT).unwrap(), 1);
    world.register(&service, "two", "10.0.1.22");
    vpc.says("web.demo.local A", &["10.0.1.21", "10.0.1.22"]);
}

#[test]
fn tasks_are_found_by_name_on_the_ports_they_picked_and_find_others_so() {
    let lab = crate::whole::deployed();
    let machine = lab.ready().namespaces.instances[0].clone();
    let said = dig(command_in(&machine, "dig"), &format!("@{RESOLVER} whoami.gatehouse.internal SRV"));
    let params = json!({"NamespaceName": "gatehouse.internal", "ServiceName": "whoami"});
    let found = lab.aws().unwrap().call("servicediscovery", "DiscoverInstances", params).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (mut targets, mut addresses) = (Vec::new(), Vec::new());
    for instance in found["Instances"].as_array().unwrap() {
        let own = format!("{}.whoami.gatehouse.internal.", text(&instance["InstanceId"]));
        let attributes = &instance["Attributes"];
        targets.push(format!("1 1 {} {own}", text(&attributes["AWS_INSTANCE_PORT"])));
        addresses.push(format!("{own} 10 A {}", text(&attributes["AWS_INSTANCE_IPV4"])));
    }
    targets.sort();
    addresses.sort();
    let mut named = said.data();
    named.sort_unstable();
    assert!(targets.len() >= 2, "{found}");
    assert_eq!(named, targets, "{}", said.text);
    assert_eq!(said.additional, addresses, "{}", said.text);

    let answer = lab.client().fetch(lab.urls().values().next().unwrap()).unwrap();
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    // As the task sees it.
    let files = Path::new("/proc").join(body["who"]["pid"].to_string()).join("root");
    let seen = std::fs::read_to_string(files.join("etc/resolv.conf")).unwrap();
    assert_eq!(seen, format!("nameserver {RESOLVER}\n"));
}

/// Asks for as long as a client would wait.
fn dig_patiently(vpc: &Vpc, words: &str) -> Said {
    dig(command_in(&vpc.machine, "dig"), &format!("@{RESOLVER} +time=5 {words}"))
}

const RESOLVER: &str = "10.0.0.2";
const METRICS: u16 = 9_153;
/// Longer than anything that should come takes to come, on a slow machine.
const SOON: Duration = Duration::from_secs(30);
