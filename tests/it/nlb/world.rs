//! A VPC of both families with two zones: a client, a target in each zone, and load balancers in both.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use gatehouse_tests::lab::{Lab, Options, aws::Aws, wait::Wait};
use lb_userspace::network::namespace::within;
use lb_userspace::snapshot::names;
use serde_json::{Value, json};
use socket2::SockRef;

/// An appliance, and machines that nobody but the tests uses.
pub(super) struct World {
    // Before the lab: boto3 talks to it.
    aws: Aws,
    pub(super) lab: Lab,
    pub(super) vpc: String,
    subnets: [String; 2],
    pub(super) client: Machine,
    /// One in each zone.
    pub(super) targets: [Machine; 2],
    /// Health checks' listeners by target.
    health: RefCell<BTreeMap<usize, TcpListener>>,
}

/// A namespace with an address of each family.
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) address: Ipv4Addr,
    pub(super) ipv6: Ipv6Addr,
}

/// A load balancer, and what it answers to in each zone.
pub(super) struct Balancer {
    pub(super) arn: String,
    pub(super) addresses: [Ipv4Addr; 2],
    pub(super) ipv6: Vec<Ipv6Addr>,
}

impl World {
    pub(super) fn start() -> Self {
        let lab = Lab::start(&Options::default()).unwrap();
        let aws = lab.aws().unwrap();
        let must = |service: &str, operation: &str, input: Value| must(&aws, service, operation, input);
        let vpc = json!({"CidrBlock": "10.0.0.0/16", "Ipv6CidrBlock": "fd00:10::/56"});
        let vpc = text(&must("ec2", "CreateVpc", vpc)["Vpc"]["VpcId"]);
        let subnets = [(1, "a"), (2, "b")].map(|(number, zone)| {
            let input = json!({"VpcId": vpc, "CidrBlock": format!("10.0.{number}.0/24"),
                "Ipv6CidrBlock": format!("fd00:10:0:{number}::/64"),
                "AvailabilityZone": format!("eu-central-1{zone}")});
            text(&must("ec2", "CreateSubnet", input)["Subnet"]["SubnetId"])
        });
        let group = json!({"GroupName": "machines", "Description": "machines", "VpcId": vpc});
        let group = must("ec2", "CreateSecurityGroup", group)["GroupId"].clone();
        let all = json!([{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
            "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}]);
        must("ec2", "AuthorizeSecurityGroupIngress", json!({"GroupId": group, "IpPermissions": all}));
        let machine = |subnet: &String| {
            let input = json!({"ImageId": "ami-1", "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1,
                "SubnetId": subnet, "SecurityGroupIds": [group], "Ipv6AddressCount": 1});
            let made = must("ec2", "RunInstances", input)["Instances"][0].clone();
            let id = text(&made["InstanceId"]);
            Machine {
                namespace: names::instance_namespace(lab.name().as_str(), &id.as_str().into()),
                id,
                address: text(&made["PrivateIpAddress"]).parse().unwrap(),
                ipv6: text(&made["Ipv6Address"]).parse().unwrap(),
            }
        };
        let client = machine(&subnets[0]);
        let targets = [machine(&subnets[0]), machine(&subnets[1])];
        for machine in targets.iter().chain([&client]) {
            until("machine", || machine.listen(SocketAddr::new(machine.ipv6.into(), 0)).is_ok());
        }
        let world = Self { vpc, subnets, client, targets, aws, lab, health: RefCell::default() };
        (0..2).for_each(|target| world.is_well(target, true));
        world
    }

    #[track_caller]
    pub(super) fn must(&self, service: &str, operation: &str, input: Value) -> Value {
        must(&self.aws, service, operation, input)
    }

    /// Whether a target's health checks succeed.
    pub(super) fn is_well(&self, target: usize, is_well: bool) {
        let mut health = self.health.borrow_mut();
        if is_well {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), HEALTH_PORT);
            health.insert(target, self.targets[target].listen(any).unwrap());
        } else {
            health.remove(&target);
        }
    }

    /// A load balancer in both zones.
    pub(super) fn balancer(&self, name: &str, more: Value) -> Balancer {
        let mut input =
            json!({"Name": name, "Type": "network", "Scheme": "internal", "Subnets": self.subnets});
        merge(&mut input, more);
        let made = self.must("elbv2", "CreateLoadBalancer", input)["LoadBalancers"][0].clone();
        let interfaces = self.interfaces(name);
        let address = |at: usize| text(&interfaces[at]["PrivateIpAddress"]).parse().unwrap();
        Balancer {
            arn: text(&made["LoadBalancerArn"]),
            addresses: [address(0), address(1)],
            ipv6: self.addresses6(name),
        }
    }

    /// A load balancer's interfaces in order of their zones.
    fn interfaces(&self, name: &str) -> Vec<Value> {
        let filters = json!([{"Name": "description", "Values": [format!("ELB net/{name}/*")]}]);
        let found = self.must("ec2", "DescribeNetworkInterfaces", json!({"Filters": filters}));
        let mut interfaces = found["NetworkInterfaces"].as_array().unwrap().clone();
        interfaces.sort_by_key(|one| text(&one["AvailabilityZone"]));
        interfaces
    }

    /// Its IPv6 addresses now.
    pub(super) fn addresses6(&self, name: &str) -> Vec<Ipv6Addr> {
        let all = self.interfaces(name);
        let own = all.iter().filter_map(|one| one["Ipv6Addresses"][0]["Ipv6Address"].as_str());
        own.map(|address| address.parse().unwrap()).collect()
    }

    /// A target group without targets.
    pub(super) fn group(&self, name: &str, attributes: &[(&str, &str)], more: Value) -> String {
        let mut input = json!({"Name": name, "Protocol": "TCP", "Port": TRAFFIC_PORT, "VpcId": self.vpc,
            "HealthCheckProtocol": "TCP", "HealthCheckPort": HEALTH_PORT.to_string(),
            "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2,
            "HealthyThresholdCount": 2, "UnhealthyThresholdCount": 2});
        merge(&mut input, more);
        let made = self.must("elbv2", "CreateTargetGroup", input);
        let arn = text(&made["TargetGroups"][0]["TargetGroupArn"]);
        self.attributes(&arn, attributes);
        arn
    }

    pub(super) fn attributes(&self, group: &str, attributes: &[(&str, &str)]) {
        let pair = |(key, value): &(&str, &str)| json!({"Key": key, "Value": value});
        let attributes: Vec<Value> = attributes.iter().map(pair).collect();
        if !attributes.is_empty() {
            let input = json!({"TargetGroupArn": group, "Attributes": attributes});
            self.must("elbv2", "ModifyTargetGroupAttributes", input);
        }
    }

    /// Registers both targets.
    pub(super) fn register(&self, group: &str) {
        let targets: Vec<Value> = self.targets.iter().map(|one| json!({"Id": one.id})).collect();
        self.must("elbv2", "RegisterTargets", json!({"TargetGroupArn": group, "Targets": targets}));
    }

    pub(super) fn deregister(&self, group: &str, target: usize) {
        let targets = json!([{"Id": self.targets[target].id}]);
        self.must("elbv2", "DeregisterTargets", json!({"TargetGroupArn": group, "Targets": targets}));
    }

    pub(super) fn listener(&self, balancer: &Balancer, protocol: &str, port: u16, group: &str) {
        let input = json!({"LoadBalancerArn": balancer.arn, "Protocol": protocol, "Port": port,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}]});
        self.must("elbv2", "CreateListener", input);
    }

    /// The state of a target; none if it is not registered.
    pub(super) fn state(&self, group: &str, target: usize) -> Option<String> {
        let health = self.must("elbv2", "DescribeTargetHealth", json!({"TargetGroupArn": group}));
        let all = health["TargetHealthDescriptions"].as_array().unwrap();
        let own = all.iter().find(|one| one["Target"]["Id"] == self.targets[target].id.as_str());
        own.map(|one| text(&one["TargetHealth"]["State"]))
    }

    pub(super) fn until_state(&self, group: &str, target: usize, state: &str) {
        until(&format!("{state} target {target}"), || self.state(group, target).as_deref() == Some(state));
    }

    /// Connects from the client.
    pub(super) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = within(&self.client.namespace, || TcpStream::connect_timeout(&to, SOON)).unwrap()?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Which target a new connection finds.
    pub(super) fn who(&self, to: SocketAddr) -> io::Result<usize> {
        ask(&mut self.connect(to)?)
    }

    /// A connection that is at this target.
    #[track_caller]
    pub(super) fn connection_to(&self, target: usize, at: SocketAddr) -> TcpStream {
        let mut found = None;
        until(&format!("connection to target {target}"), || {
            let Ok(mut stream) = self.connect(at) else { return false };
            let is_there = ask(&mut stream).is_ok_and(|found| found == target);
            found = is_there.then_some(stream);
            is_there
        });
        found.unwrap()
    }

    /// Which targets so many new connections find.
    fn found(&self, to: SocketAddr) -> io::Result<Vec<usize>> {
        let mut counts = [0; 2];
        for _ in 0..CONNECTIONS {
            counts[self.who(to)?] += 1;
        }
        Ok((0..2).filter(|target| counts[*target] > 0).collect())
    }

    /// Waits until new connections find exactly these targets. Until then one may end with a target that may keep none.
    #[track_caller]
    pub(super) fn until_found(&self, to: SocketAddr, targets: &[usize]) {
        until(&format!("connections to targets {targets:?} by {to}"), || {
            self.found(to).is_ok_and(|found| found == targets)
        });
    }

    /// Servers on both targets that say which they are, on both families.
    pub(super) fn serve(&self) {
        for (number, target) in (0..).zip(&self.targets) {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), TRAFFIC_PORT);
            let listener = target.listen(any).unwrap();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(stream) = stream else { return };
                    thread::spawn(move || tell(stream, number));
                }
            });
        }
    }
}

impl Machine {
    pub(super) fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        within(&self.namespace, || TcpListener::bind(at)).map_err(io::Error::other)?
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for listener in self.health.get_mut().values() {
            let _ = SockRef::from(listener).shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Which target a connection is at.
pub(super) fn ask(stream: &mut TcpStream) -> io::Result<usize> {
    stream.write_all(b"?")?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    Ok(usize::from(answer[0]))
}

/// Waits until a connection has ended, while it is asked.
#[track_caller]
pub(super) fn until_it_ends(what: &str, stream: &mut TcpStream) {
    until(&format!("end of {what}"), || ask(stream).is_err());
}

fn tell(mut stream: TcpStream, number: u8) {
    let mut question = [0; 1];
    while stream.read_exact(&mut question).and_then(|()| stream.write_all(&[number])).is_ok() {}
}

#[track_caller]
fn must(aws: &Aws, service: &str, operation: &str, input: Value) -> Value {
    aws.call(service, operation, input).unwrap_or_else(|error| panic!("{operation}: {error}"))
}

fn merge(input: &mut Value, more: Value) {
    for (key, value) in more.as_object().into_iter().flatten() {
        input[key] = value.clone();
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

pub(super) fn at(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

#[track_caller]
pub(super) fn until(what: &str, mut question: impl FnMut() -> bool) {
    let asked = || Ok(question().then_some(()));
    Wait::default().until(what, SETTLED, asked).unwrap_or_else(|error| panic!("{error:?}"));
}

/// Where targets serve.
pub(super) const TRAFFIC_PORT: u16 = 8080;
/// Where they are checked.
const HEALTH_PORT: u16 = 9000;
/// New connections that find every target of two: one in a million sets of these does not.
const CONNECTIONS: usize = 20;
/// Longer than a lost SYN takes to be repeated.
const SOON: Duration = Duration::from_millis(2_500);
/// A few health checks of five seconds, on a slow machine.
const SETTLED: Duration = Duration::from_secs(40);
