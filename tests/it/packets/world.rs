//! A VPC with a network load balancer, made by the product's own driver, and a node that balances.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};
use gatehouse_tests::lab::{name::Name, netns::Netns, wait::Wait};
use lb_userspace::model::id::{Arn, InstanceId, InterfaceId, SecurityGroupId, SubnetId, VpcId};
use lb_userspace::model::network::InterfaceOwner;
use lb_userspace::model::target_group::TargetKey;
use lb_userspace::network::{Uplink, Virtual, namespace, places, remove_everything};
use lb_userspace::packet::{
    Balancer, Counters, ListenerPlan, Mode, Options, Plan, Protocol, TargetName, TargetPlan, Verdict, attach,
    syn_ack,
};
use lb_userspace::snapshot::host::{HostInstance, HostInterface, HostSlice, SubnetNetwork, VpcNetwork};
use lb_userspace::snapshot::names;
use lb_userspace::snapshot::permit::{Permit, SecurityGroupView};

use super::plans;

/// The load balancer's static address.
pub(super) const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 4);
/// A target in the load balancer's subnet.
pub(super) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);
/// A target behind the router.
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 20);
/// A client in the load balancer's subnet.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 30);
/// A client behind the router.
pub(super) const FAR_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 30);
/// The listener's port.
pub(super) const PORT: u16 = 80;
/// The targets' port.
pub(super) const TARGET_PORT: u16 = 8080;

/// Subnets, machines, a load balancer's interface, and a BPF file system.
pub(super) struct World {
    name: Name,
    internet: Netns,
    pub(super) slice: HostSlice,
    pub(super) bpffs: BpfFs,
}

impl World {
    pub(super) fn new() -> Self {
        let name = Name::fresh();
        let internet = Netns::new(&name, "internet").unwrap();
        internet.ip("link add wan type bridge").unwrap();
        internet.ip("link set wan up").unwrap();
        let bpffs = BpfFs::mount();
        let mut world = Self { name, internet, slice: HostSlice::default(), bpffs };
        world
            .slice
            .vpcs
            .insert(vpc(), VpcNetwork { cidr: "10.0.0.0/16".parse().unwrap(), index: 0, resolver: None });
        for number in 1..=2 {
            let network = SubnetNetwork {
                vpc_id: vpc(),
                cidr: format!("10.0.{number}.0/24").parse().unwrap(),
                router: format!("10.0.{number}.1").parse().unwrap(),
                ipv6: Some(format!("fd00:0:0:{number}::/64").parse().unwrap()),
            };
            world.slice.subnets.insert(subnet(number), network);
        }
        let everybody = Permit {
            protocol: None,
            first_port: 0,
            last_port: u16::MAX,
            peers: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        };
        let open = SecurityGroupView { ingress: vec![everybody.clone()], egress: vec![everybody] };
        world.slice.security_groups.insert(SecurityGroupId::from("sg-open".to_owned()), open);
        world.add_interface(BALANCER, InterfaceOwner::LoadBalancer(balancer_arn()));
        for address in [NEAR, FAR, CLIENT, FAR_CLIENT] {
            let namespace = world.machine(address);
            world.slice.instances.insert(instance(address), HostInstance { namespace, address });
            world.add_interface(address, InterfaceOwner::Instance(instance(address)));
        }
        world.apply();
        world
    }

    /// Makes the network what the slice says by now.
    pub(super) fn apply(&self) {
        let uplink = Uplink {
            namespace: Some(self.internet.name().to_owned()),
            bridge: "wan".to_owned(),
            cidr: "192.0.2.0/24".parse().unwrap(),
            first_host: 10,
            router: "192.0.2.1".parse().unwrap(),
            dns_servers: Vec::new(),
        };
        let applied = Virtual::new(self.name.as_str(), Some(uplink)).apply(&self.slice).unwrap();
        assert!(applied.is_whole(), "{applied:#?}");
    }

    /// An interface that stands after the next [`Self::apply`].
    pub(super) fn add_interface(&mut self, address: Ipv4Addr, owner: InterfaceOwner) {
        let interface = HostInterface {
            vpc_id: vpc(),
            subnet_id: subnet(address.octets()[2]),
            address,
            ipv6: Some(ipv6(address)),
            owner,
            groups: vec![SecurityGroupId::from("sg-open".to_owned())],
        };
        self.slice.interfaces.insert(interface_id(address), interface);
    }

    /// The cgroup for clients on the node, made if it is not there. It goes with the world.
    pub(super) fn clients(&self) -> PathBuf {
        let clients = places::clients(self.name.as_str()).expect("cgroups of version 2");
        std::fs::create_dir_all(&clients).unwrap();
        clients
    }

    pub(super) fn node(&self) -> String {
        names::node_namespace(self.name.as_str(), &vpc())
    }

    /// The namespace of the machine that has this address, in either family.
    pub(super) fn machine(&self, address: impl Into<IpAddr>) -> String {
        names::instance_namespace(self.name.as_str(), &instance(ipv4(address.into())))
    }

    /// The VPC's namespace, where its router is.
    pub(super) fn router(&self) -> String {
        names::vpc_namespace(self.name.as_str(), &vpc())
    }

    /// The load balancer's device in the node's namespace.
    pub(super) fn device() -> String {
        names::device(&interface_id(BALANCER))
    }

    /// A subnet's bridge in the router's namespace.
    pub(super) fn bridge(number: u8) -> String {
        names::bridge(&subnet(number))
    }

    /// A node that balances; what an earlier one pinned is adopted.
    pub(super) fn start_node(&self) -> Node {
        self.start_node_with(Options::default())
    }

    /// The same with other limits.
    pub(super) fn start_node_with(&self, options: Options) -> Node {
        Node::start(&self.node(), &self.bpffs.path, options)
    }

    /// A server on a target that answers every request with its address.
    pub(super) fn serve(&self, address: impl Into<IpAddr>) {
        let address = address.into();
        let at = SocketAddr::new(address, TARGET_PORT);
        let listener = namespace::within(&self.machine(address), || TcpListener::bind(at)).unwrap().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                std::thread::spawn(move || answer(stream, address));
            }
        });
    }

    /// Connects from a machine.
    pub(super) fn connect(
        &self,
        from: Ipv4Addr,
        to: impl Into<IpAddr>,
        port: u16,
    ) -> std::io::Result<Connection> {
        let to = SocketAddr::new(to.into(), port);
        let stream =
            namespace::within(&self.machine(from), || TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection(stream))
    }

    /// curl on a machine: what it printed, if it succeeded.
    pub(super) fn curl(&self, from: Ipv4Addr, url: &str) -> Result<String, String> {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.machine(from)))
            .args(["--", "curl", "--silent", "--show-error", "--max-time", "3", url])
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        remove_everything(self.name.as_str());
        self.name.remove_everything();
    }
}

/// Answers requests on one connection until it ends.
fn answer(mut stream: TcpStream, address: IpAddr) {
    let mut held = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 {
            return;
        }
        held.extend_from_slice(&buffer[..read]);
        while let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") {
            held.drain(..end + 4);
            let body = address.to_string();
            let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(response.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// A connection to a target, whichever it is.
#[derive(Debug)]
pub(super) struct Connection(TcpStream);

impl Connection {
    /// Asks who is there.
    pub(super) fn ask(&mut self) -> std::io::Result<IpAddr> {
        self.0.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut held = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            let read = self.0.read(&mut buffer)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            held.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&held);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length: usize = head.rsplit(": ").next().unwrap().parse().unwrap();
            if body.len() >= length {
                return Ok(body.parse().unwrap());
            }
        }
    }
}

/// A BPF file system of its own.
pub(super) struct BpfFs {
    pub(super) path: PathBuf,
}

impl BpfFs {
    pub(super) fn mount() -> Self {
        let path = tempfile::Builder::new().prefix("gh-bpffs-").tempdir().unwrap().keep();
        let status = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&path).status().unwrap();
        assert!(status.success(), "mounting a BPF file system");
        Self { path }
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // Pins keep programs on interfaces: they go before the mount does.
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
        let _ = Command::new("umount").arg(&self.path).status();
        let _ = std::fs::remove_dir(&self.path);
    }
}

type Order = Box<dyn FnOnce(&mut Balancer) + Send>;

/// A balancer on a thread of its own in the node's namespace. Dropping it is as good as `kill -9`: it cleans up nothing.
pub(super) struct Node {
    orders: Option<tokio::sync::mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
    /// Seconds that its clock was moved on.
    pub(super) ahead: Cell<u64>,
}

impl Node {
    /// In a namespace, with pins on a BPF file system.
    pub(super) fn start(namespace: &str, bpffs: &Path, options: Options) -> Self {
        let (orders, mut received) = tokio::sync::mpsc::unbounded_channel::<Order>();
        let (namespace, bpffs) = (namespace.to_owned(), bpffs.to_owned());
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            namespace::within(&namespace, || {
                // What the role has, and no more.
                let kept = [
                    Capability::CAP_BPF,
                    Capability::CAP_NET_ADMIN,
                    Capability::CAP_NET_RAW,
                    Capability::CAP_PERFMON,
                ]
                .into();
                caps::set(None, CapSet::Effective, &kept).unwrap();
                caps::set(None, CapSet::Permitted, &kept).unwrap();
                attach::reserve_ports();
                syn_ack::set_up();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async move {
                    let opened = Balancer::open(&bpffs, &options, Instant::now());
                    let mut balancer = opened.unwrap_or_else(|error| panic!("{error:?}"));
                    ready.send(()).unwrap();
                    let mut house = tokio::time::interval(Duration::from_millis(250));
                    loop {
                        tokio::select! {
                            order = received.recv() => match order {
                                Some(order) => order(&mut balancer),
                                None => return,
                            },
                            reacted = balancer.react() => reacted.unwrap(),
                            _ = house.tick() => balancer.housekeep(Instant::now()).unwrap(),
                        }
                    }
                });
            })
            .unwrap();
        });
        is_ready.recv().unwrap();
        Self { orders: Some(orders), thread: Some(thread), ahead: Cell::new(0) }
    }

    /// Does something with the balancer, in its namespace.
    pub(super) fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Balancer) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let order: Order = Box::new(move |balancer| answer.send(work(balancer)).unwrap());
        self.orders.as_ref().unwrap().send(order).unwrap_or_else(|_| panic!("the node is gone"));
        answered.recv().unwrap()
    }

    /// Applies a plan, and waits until each of its targets is resolved.
    pub(super) fn apply(&self, plan: Plan) {
        self.with(move |balancer| balancer.apply(plan)).unwrap();
        let resolved = || {
            let counters = self.counters();
            Ok(counters.targets.iter().all(|target| target.resolved).then_some(()))
        };
        Wait::default().until("next hop of every target", Duration::from_secs(5), resolved).unwrap();
    }

    pub(super) fn counters(&self) -> Counters {
        self.with(|balancer| balancer.counters()).unwrap()
    }

    /// Waits until something is true of the balancer.
    pub(super) fn until(
        &self,
        what: &str,
        mut question: impl FnMut(&Balancer) -> bool + Send + Clone + 'static,
    ) {
        let asked = || {
            let mut question = question.clone();
            Ok(self.with(move |balancer| question(balancer)).then_some(()))
        };
        Wait::default().until(what, Duration::from_secs(30), asked).unwrap();
        let _ = &mut question;
    }

    /// Ends it as a crash would.
    pub(super) fn kill(self) {
        drop(self);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A plan with one listener and these targets.
pub(super) fn plan(targets: &[Ipv4Addr]) -> Plan {
    plan_of(plans::healthy(targets), None)
}

/// A plan with one listener.
pub(super) fn plan_of(targets: BTreeMap<TargetName, TargetPlan>, sources: Option<&str>) -> Plan {
    let sources = sources.map(|range| [range.parse().unwrap()].into());
    let listener = ListenerPlan { sources, ..plans::listener(targets) };
    plans::node([(plans::at(BALANCER, PORT, Protocol::Tcp), listener)])
}

pub(super) fn target(address: impl Into<IpAddr>, health: Verdict) -> TargetPlan {
    TargetPlan {
        address: address.into(),
        weight: 1,
        health,
        mode: Mode::Nat,
        server_id: None,
        terminates: false,
        ends_after_s: None,
        fails_open: false,
    }
}

pub(super) fn target_name(address: impl Into<IpAddr>) -> TargetName {
    TargetName {
        group: Arn::from("arn:aws:elasticloadbalancing:r:1:targetgroup/a/1".to_owned()),
        key: TargetKey { id: address.into().to_string(), port: TARGET_PORT },
    }
}

/// The load balancer.
pub(super) fn balancer_arn() -> Arn {
    Arn::from("arn:aws:elasticloadbalancing:r:1:loadbalancer/net/a/1".to_owned())
}

/// The IPv6 address that a machine has beside an IPv4 address.
pub(super) fn ipv6(address: Ipv4Addr) -> Ipv6Addr {
    let [.., subnet, host] = address.octets().map(u16::from);
    // As they are read: 10.0.1.20 is fd00:0:0:1::20.
    let host = host / 100 * 0x100 + host / 10 % 10 * 0x10 + host % 10;
    Ipv6Addr::new(0xfd00, 0, 0, subnet, 0, 0, 0, host)
}

/// The IPv4 address of a machine, whichever of its addresses is known.
fn ipv4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(known) => {
            let mut all = [BALANCER, NEAR, FAR, CLIENT, FAR_CLIENT].into_iter();
            all.find(|one| ipv6(*one) == known).unwrap_or_else(|| panic!("{known} is nobody's"))
        }
    }
}

pub(super) fn vpc() -> VpcId {
    VpcId::from("vpc-1".to_owned())
}

fn subnet(number: u8) -> SubnetId {
    SubnetId::from(format!("subnet-{number}"))
}

fn instance(address: Ipv4Addr) -> InstanceId {
    let [.., subnet, host] = address.octets();
    InstanceId::from(format!("i-{subnet}-{host}"))
}

/// The interface with an address.
pub(super) fn interface_id(address: Ipv4Addr) -> InterfaceId {
    let [.., subnet, host] = address.octets();
    InterfaceId::from(format!("eni-{subnet}-{host}"))
}

/// Longer than one lost SYN takes to be repeated.
const PATIENCE: Duration = Duration::from_millis(2_500);
