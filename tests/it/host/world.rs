//! A host of two interfaces, a client, a target: three namespaces.
//!
//! ```text
//!          client (10.0.1.50) ── lan ──┬── eth1 (10.0.1.10) host (10.0.2.10) eth2 ── eth1 (10.0.2.60) target
//!                                      └──────────────────────────────────────────── eth0 (10.0.1.60) target
//! ```
//!
//! The network that eth1 is on is a bridge in the client's namespace, so that both machines are on the host's wire. Only
//! eth1 is listed.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use gatehouse_tests::lab::{
    appliance::{self, Appliance},
    aws::{Aws, AwsOptions},
    name::Name,
    netns::Netns,
    ready::Control,
    wait::Wait,
};
use lb_userspace::network::namespace;
use serde_json::{Value, json};

pub(super) struct World {
    // In the order in which they go.
    appliance: Option<Appliance>,
    pub(super) host: Netns,
    pub(super) client: Netns,
    pub(super) target: Netns,
    pub(super) name: Named,
    /// More lines of the boot configuration's `[node]`.
    pub(super) node_lines: &'static str,
}

/// Removes everything that carries the name, last.
pub(super) struct Named(pub(super) Name);

impl Drop for Named {
    fn drop(&mut self) {
        self.0.remove_everything();
    }
}

impl World {
    /// The machines, and nothing running on them but a server on the target.
    pub(super) fn new() -> Self {
        let name = Named(Name::fresh());
        fs::create_dir_all(name.0.directory()).unwrap();
        let [host, client, target] =
            ["host", "client", "target"].map(|role| Netns::new(&name.0, role).unwrap());
        client.ip("link add lan type bridge").unwrap();
        client.ip("address add 10.0.1.50/24 dev lan").unwrap();
        let ends = [(&host, "eth1", "host"), (&target, "eth0", "target")];
        for (machine, device, port) in ends {
            client
                .ip(&format!("link add {port} type veth peer name {device} netns {}", machine.name()))
                .unwrap();
            client.ip(&format!("link set {port} master lan up")).unwrap();
            // What a wire does: checksums are finished on it, and its other end takes frames that XDP turned round.
            set_offloads(&client, port, "gro on tx off");
        }
        client.ip("link set lan up").unwrap();
        host.ip(&format!("link add eth2 type veth peer name eth1 netns {}", target.name())).unwrap();
        set_offloads(&target, "eth1", "gro on tx off");
        let addresses = [
            (&host, "eth1", "10.0.1.10/24"),
            (&host, "eth2", "10.0.2.10/24"),
            (&target, "eth0", "10.0.1.60/24"),
            (&target, "eth1", "10.0.2.60/24"),
        ];
        for (machine, device, address) in addresses {
            machine.ip(&format!("address add {address} dev {device}")).unwrap();
            machine.ip(&format!("link set {device} up")).unwrap();
        }
        let world = Self { appliance: None, host, client, target, name, node_lines: "" };
        serve(&world.target, TARGET, 80, "target");
        world
    }

    /// A world with an appliance that may use eth1.
    pub(super) fn started() -> Self {
        let mut world = Self::new();
        world.start(&["eth1"]);
        world
    }

    /// Starts an appliance on the host; returns once control serves.
    pub(super) fn start(&mut self, interfaces: &[&str]) {
        let directory = self.name.0.directory();
        let binary = self.set_up(interfaces);
        let _ = fs::remove_file(directory.join("run/ready.json"));
        let mut started =
            Appliance::start_on(Some(&self.host), &binary, &self.boot_file(), &directory).unwrap();
        started.wait_until_control_serves(&directory.join("run/ready.json"), &Wait::default()).unwrap();
        self.appliance = Some(started);
    }

    /// Puts the program and its boot configuration on the host; answers where the program is.
    pub(super) fn set_up(&self, interfaces: &[&str]) -> PathBuf {
        let directory = self.name.0.directory();
        let binary = directory.join("gatehouse");
        if !binary.exists() {
            appliance::install(&appliance::binary().unwrap(), &directory).unwrap();
        }
        fs::write(self.boot_file(), boot(&self.name.0, interfaces, self.node_lines)).unwrap();
        binary
    }

    pub(super) fn boot_file(&self) -> PathBuf {
        self.name.0.directory().join("gatehouse.toml")
    }

    pub(super) fn appliance(&mut self) -> &mut Appliance {
        self.appliance.as_mut().expect("the appliance was started")
    }

    /// Ends every process without a word. Addresses, programs and pins stay.
    pub(super) fn kill(&mut self) {
        let roles: Vec<u32> = ["control", "gateway", "host", "node"]
            .iter()
            .flat_map(|role| self.appliance().role(role))
            .collect();
        self.appliance().kill().unwrap();
        for role in roles {
            let gone = || Ok((!PathBuf::from(format!("/proc/{role}/exe")).exists()).then_some(()));
            Wait::default().until("end of a role", PATIENCE, gone).unwrap();
        }
    }

    /// boto3 on the host.
    pub(super) fn aws(&self) -> Aws {
        let text = fs::read(self.name.0.directory().join("run/ready.json")).unwrap();
        let control: Control = serde_json::from_slice(&text).unwrap();
        let wrapper =
            vec!["nsenter".to_owned(), format!("--net={}", self.host.path().display()), "--".to_owned()];
        Aws::start(&AwsOptions { wrapper, ..control.aws().unwrap() }).unwrap()
    }

    /// Connects from the client.
    pub(super) fn connect(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<Connection> {
        Connection::open(&self.client, address, port)
    }

    /// Waits until a request of the client at this address is answered, and says by whom.
    pub(super) fn answered(&self, address: impl Into<IpAddr>, port: u16) -> String {
        let address = address.into();
        let ask = || Ok(self.connect(address, port).and_then(|mut connection| connection.ask()).ok());
        Wait::default().until(&format!("answer from {address}:{port}"), PATIENCE, ask).unwrap_or_else(
            |error| {
                let log = self.appliance.as_ref().map(Appliance::log_tail).unwrap_or_default();
                let links = show(&self.host, "address").to_string();
                panic!("{error}\n{links}\n{log}")
            },
        )
    }

    /// The hardware address of the host's eth1.
    pub(super) fn mac(&self) -> String {
        show(&self.host, "link show dev eth1")[0]["address"].as_str().unwrap().to_owned()
    }

    /// Addresses of an interface of the host.
    pub(super) fn addresses(&self, device: &str) -> Vec<String> {
        let shown = show(&self.host, &format!("-4 address show dev {device}"));
        let infos = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
        infos
            .iter()
            .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
            .collect()
    }

    /// How an XDP program is on an interface of the host: natively, generically, or not.
    pub(super) fn program(&self, device: &str) -> Option<&'static str> {
        match show(&self.host, &format!("link show dev {device}"))[0]["xdp"]["mode"].as_u64() {
            Some(1) => Some("native"),
            Some(2) => Some("generic"),
            None | Some(0) => None,
            Some(other) => panic!("XDP mode {other}"),
        }
    }

    pub(super) fn pins(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/gatehouse-{}", self.name.0))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Killed, it could not remove what it made: nothing here needs its goodbye.
        if let Some(mut appliance) = self.appliance.take() {
            let _ = appliance.stop();
        }
    }
}

/// A VPC of the host's networks, as boto3 makes it.
pub(super) struct Vpc {
    pub(super) aws: Aws,
    pub(super) id: String,
}

impl Vpc {
    /// `10.0.0.0/16`.
    pub(super) fn create(world: &World) -> Self {
        let aws = world.aws();
        let made = aws.call("ec2", "CreateVpc", json!({"CidrBlock": "10.0.0.0/16"})).unwrap();
        Self { id: text(&made["Vpc"]["VpcId"]), aws }
    }

    /// A group with one address.
    fn targets(&self, name: &str, target: Ipv4Addr) -> String {
        let group = json!({
            "Name": name, "Protocol": "TCP", "Port": 80, "VpcId": self.id, "TargetType": "ip",
            "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2, "HealthyThresholdCount": 2,
        });
        let made = self.aws.call("elbv2", "CreateTargetGroup", group).unwrap();
        let group = text(&made["TargetGroups"][0]["TargetGroupArn"]);
        let targets = json!({"TargetGroupArn": group, "Targets": [{"Id": target, "Port": 80}]});
        self.aws.call("elbv2", "RegisterTargets", targets).unwrap();
        group
    }

    pub(super) fn subnet(&self, cidr: &str, zone: char) -> String {
        let zone = format!("eu-central-1{zone}");
        let input = json!({"VpcId": self.id, "CidrBlock": cidr, "AvailabilityZone": zone});
        text(&self.aws.call("ec2", "CreateSubnet", input).unwrap()["Subnet"]["SubnetId"])
    }

    /// A network load balancer with one listener to the target on eth1's network, once it is no longer provisioning.
    pub(super) fn balancer(&self, name: &str, mapping: Value, port: u16) -> Balancer {
        self.balancer_to(name, mapping, port, TARGET.into())
    }

    /// The same to a target of this address.
    pub(super) fn balancer_to(&self, name: &str, mapping: Value, port: u16, target: Ipv4Addr) -> Balancer {
        let input =
            json!({"Name": name, "Type": "network", "Scheme": "internal", "SubnetMappings": [mapping]});
        let made = self.aws.call("elbv2", "CreateLoadBalancer", input).unwrap();
        let arn = text(&made["LoadBalancers"][0]["LoadBalancerArn"]);
        let group = self.targets(name, target);
        let listener = json!({
            "LoadBalancerArn": arn, "Protocol": "TCP", "Port": port,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}],
        });
        self.aws.call("elbv2", "CreateListener", listener).unwrap();
        Balancer { arn, group }.settled(&self.aws)
    }
}

/// A load balancer, and the group behind it.
pub(super) struct Balancer {
    pub(super) arn: String,
    pub(super) group: String,
}

impl Balancer {
    pub(super) fn settled(self, aws: &Aws) -> Self {
        let settled = || Ok((self.state(aws)["Code"] != "provisioning").then_some(()));
        Wait::default().until("load balancer that is no longer provisioning", PATIENCE, settled).unwrap();
        self
    }

    pub(super) fn describe(&self, aws: &Aws) -> Value {
        let input = json!({"LoadBalancerArns": [self.arn]});
        aws.call("elbv2", "DescribeLoadBalancers", input).unwrap()["LoadBalancers"][0].clone()
    }

    pub(super) fn state(&self, aws: &Aws) -> Value {
        self.describe(aws)["State"].clone()
    }

    pub(super) fn address(&self, aws: &Aws) -> Ipv4Addr {
        let zone = &self.describe(aws)["AvailabilityZones"][0];
        text(&zone["LoadBalancerAddresses"][0]["PrivateIPv4Address"]).parse().unwrap()
    }
}

/// A connection, and questions on it.
pub(super) struct Connection(TcpStream);

impl Connection {
    pub(super) fn open(machine: &Netns, address: impl Into<IpAddr>, port: u16) -> io::Result<Self> {
        let to = SocketAddr::new(address.into(), port);
        let stream =
            namespace::within(machine.name(), || TcpStream::connect_timeout(&to, ANSWER)).unwrap()?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Who is there.
    pub(super) fn ask(&mut self) -> io::Result<String> {
        self.0.write_all(b"?")?;
        let mut length = [0];
        self.0.read_exact(&mut length)?;
        let mut name = vec![0; length[0].into()];
        self.0.read_exact(&mut name)?;
        String::from_utf8(name).map_err(io::Error::other)
    }
}

/// Serves on a machine for as long as this process lives: each byte is answered with a name.
pub(super) fn serve(machine: &Netns, address: impl Into<IpAddr>, port: u16, name: &'static str) {
    let at = SocketAddr::new(address.into(), port);
    let listener = namespace::within(machine.name(), || TcpListener::bind(at)).unwrap().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut byte = [0];
                let length = u8::try_from(name.len()).unwrap();
                let reply = [&[length], name.as_bytes()].concat();
                while (&stream).read_exact(&mut byte).is_ok() && (&stream).write_all(&reply).is_ok() {}
            });
        }
    });
}

/// `ip -json` with these words on a machine.
pub(super) fn show(machine: &Netns, words: &str) -> Value {
    let output = machine.command("ip").arg("-json").args(words.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {words}: {output:?}");
    if output.stdout.is_empty() { json!([]) } else { serde_json::from_slice(&output.stdout).unwrap() }
}

fn set_offloads(machine: &Netns, device: &str, words: &str) {
    let output = machine.command("ethtool").args(["-K", device]).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ethtool -K {device} {words}: {output:?}");
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn boot(name: &Name, interfaces: &[&str], node_lines: &str) -> String {
    let directory = name.directory();
    let directory = directory.display();
    format!(
        r#"name = "{name}"
state_dir = "{directory}/state"
run_dir = "{directory}/run"

[gateway]
listen = ["127.0.0.1:443"]
lanes = "127.0.0.1:8443"

[node]
workers = 1
{node_lines}

[network]
driver = "host"
interfaces = {interfaces:?}
"#
    )
}

/// The target, on the host's wire.
pub(super) const TARGET: [u8; 4] = [10, 0, 1, 60];
/// The host's own address there.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
/// From a change to its effect: a second of ARP, a start of a role, on a slow machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// A handshake with a lost SYN.
const ANSWER: Duration = Duration::from_millis(1_500);
