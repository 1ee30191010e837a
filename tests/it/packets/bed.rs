//! One wire with a client, a node and a target on it, in both families; the target has the load balancer's addresses
//! itself, as targets that answer past it must.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::thread;
use std::time::Duration;

use gatehouse_tests::lab::{appliance, name::Name, netns::Netns};
use ipnet::IpNet;
use lb_userspace::model::{id::Arn, target_group::TargetKey};
use lb_userspace::network::namespace;
use lb_userspace::packet::{
    ListenerName, ListenerPlan, Mode, NodePlan, Options, Plan, Protocol, Service, Side, TargetName,
    TargetPlan, Verdict,
};

use super::world::{BpfFs, Node};

/// The load balancer's addresses, and the node's own: there is no other.
pub(super) const BALANCER4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 4));
pub(super) const BALANCER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 4));
pub(super) const TARGET4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 20));
pub(super) const TARGET6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x20));
pub(super) const CLIENT4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 30));
pub(super) const CLIENT6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x30));
/// Of listener and target: who gets packets as they are gets the port as it is.
pub(super) const PORT: u16 = 80;
/// Each machine's device.
pub(super) const DEVICE: &str = "nic0";

/// The machines.
pub(super) struct Bed {
    pub(super) bpffs: BpfFs,
    pub(super) client: Netns,
    pub(super) node: Netns,
    pub(super) target: Netns,
    _wire: Netns,
}

impl Bed {
    /// Machines that reach each other, and a server on the target at the load balancer's addresses.
    pub(super) fn new() -> Self {
        let name = Name::fresh();
        let wire = Netns::new(&name, "wire").unwrap();
        wire.ip("link add wire type bridge").unwrap();
        wire.ip("link set wire up").unwrap();
        let machine = |role: &str, host: u16| {
            let machine = Netns::new(&name, role).unwrap();
            machine.set("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
            machine.set("net/ipv6/conf/default/disable_ipv6", "0").unwrap();
            wire.ip(&format!("link add {role} type veth peer name {DEVICE} netns {}", machine.name()))
                .unwrap();
            wire.ip(&format!("link set {role} master wire up")).unwrap();
            // What a wire does: checksums are finished on it, and its other end takes frames that XDP sends.
            offloads(&wire, role, &["gro", "on", "tx", "off"]);
            offloads(&machine, DEVICE, &["tx", "off"]);
            machine.ip(&format!("address add 10.9.0.{host}/24 dev {DEVICE}")).unwrap();
            machine.ip(&format!("address add fd00:9::{host}/64 dev {DEVICE} nodad")).unwrap();
            machine.ip(&format!("link set {DEVICE} up")).unwrap();
            machine
        };
        let [client, node, target] =
            [("client", 30), ("node", 4), ("target", 20)].map(|(role, host)| machine(role, host));
        target.set("net/ipv4/conf/all/arp_ignore", "1").unwrap();
        target.set("net/ipv4/conf/all/arp_announce", "2").unwrap();
        target.ip("address add 10.9.0.4/32 dev lo").unwrap();
        target.ip("address add fd00:9::4/128 dev lo nodad").unwrap();
        let bed = Self { bpffs: BpfFs::mount(), client, node, target, _wire: wire };
        for address in [BALANCER4, BALANCER6] {
            bed.serve(address);
        }
        bed
    }

    pub(super) fn start_node(&self) -> Node {
        Node::start(self.node.name(), &self.bpffs.path, Options::default())
    }

    /// `gatehouse decap` on the target, with its pins beside the node's.
    pub(super) fn decap(&self, words: &[&str]) -> Output {
        let binary = appliance::binary().unwrap();
        let pins = self.bpffs.path.join("decap");
        let mut command = self.target.command(&binary.display().to_string());
        command.arg("decap").args(words).arg("--pins").arg(pins).output().unwrap()
    }

    /// The same, which must succeed; what it said.
    pub(super) fn decap_says(&self, words: &[&str]) -> String {
        let output = self.decap(words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends this many bytes to the load balancer, and gets as many back; answers as whom the target saw the client.
    pub(super) fn exchange(&self, to: IpAddr, bytes: usize) -> io::Result<IpAddr> {
        self.connect(to)?.exchange(bytes)
    }

    pub(super) fn connect(&self, to: IpAddr) -> io::Result<Connection> {
        let to = SocketAddr::new(to, PORT);
        let connected =
            namespace::within(self.client.name(), || TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
        let stream = connected?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection(stream))
    }

    fn serve(&self, address: IpAddr) {
        let at = SocketAddr::new(address, PORT);
        let listener = namespace::within(self.target.name(), || TcpListener::bind(at)).unwrap().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || answer(stream));
            }
        });
    }
}

fn offloads(machine: &Netns, device: &str, words: &[&str]) {
    let output = machine.command("ethtool").arg("-K").arg(device).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A connection to the target.
pub(super) struct Connection(TcpStream);

impl Connection {
    /// See [`Bed::exchange`].
    pub(super) fn exchange(&mut self, bytes: usize) -> io::Result<IpAddr> {
        let sent = pattern(bytes);
        self.0.write_all(&u64::try_from(bytes).unwrap().to_be_bytes())?;
        self.0.write_all(&sent)?;
        let mut length = [0];
        self.0.read_exact(&mut length)?;
        let mut seen_as = vec![0; length[0].into()];
        self.0.read_exact(&mut seen_as)?;
        let mut got = vec![0; bytes];
        self.0.read_exact(&mut got)?;
        assert!(got == sent, "{bytes} bytes came back as others");
        Ok(String::from_utf8(seen_as).unwrap().parse().unwrap())
    }
}

/// Takes what clients send and gives it back, with the address they have here in front.
fn answer(mut stream: TcpStream) -> Option<()> {
    let client = stream.peer_addr().ok()?.ip().to_string();
    loop {
        let mut length = [0; 8];
        stream.read_exact(&mut length).ok()?;
        let mut got = vec![0; usize::try_from(u64::from_be_bytes(length)).ok()?];
        stream.read_exact(&mut got).ok()?;
        stream.write_all(&[u8::try_from(client.len()).ok()?]).ok()?;
        stream.write_all(client.as_bytes()).ok()?;
        stream.write_all(&got).ok()?;
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

/// A listener on each address, each with one target in this mode.
pub(super) fn plan(mode: Mode, listeners: &[(IpAddr, IpAddr)]) -> Plan {
    let balancer = Arn::from("arn:aws:elasticloadbalancing:r:1:loadbalancer/net/a/1".to_owned());
    let side = |address: IpAddr, subnet: &str| Side {
        address,
        subnet: subnet.parse::<IpNet>().unwrap(),
        router: address,
    };
    let node = NodePlan {
        device: DEVICE.to_owned(),
        zone: String::new(),
        balancer,
        ipv4: side(BALANCER4, "10.9.0.0/24"),
        ipv6: Some(side(BALANCER6, "fd00:9::/64")),
        secondary: BTreeMap::new(),
        listeners: listeners.iter().map(|(address, target)| listener(mode, *address, *target)).collect(),
    };
    Plan { nodes: [(BALANCER4, node)].into(), ..Plan::default() }
}

fn listener(mode: Mode, address: IpAddr, target: IpAddr) -> (ListenerName, ListenerPlan) {
    let name = TargetName {
        group: Arn::from("arn:aws:elasticloadbalancing:r:1:targetgroup/a/1".to_owned()),
        key: TargetKey { id: target.to_string(), port: PORT },
    };
    let target = TargetPlan {
        address: target,
        weight: 1,
        health: Verdict::Healthy,
        mode,
        server_id: None,
        terminates: false,
        ends_after_s: None,
        fails_open: false,
    };
    let listener = ListenerPlan {
        arn: Arn::from(format!("arn:aws:elasticloadbalancing:r:1:listener/net/a/1/{address}")),
        sources: None,
        idle_timeout_s: 350,
        service: Service::Forward,
        is_sticky: false,
        new_flows_per_s: None,
        targets: BTreeMap::from([(name, target)]),
    };
    (ListenerName { address, port: PORT, protocol: Protocol::Tcp }, listener)
}

/// Longer than one lost SYN takes to be repeated.
const PATIENCE: Duration = Duration::from_millis(2_500);
