//! A flood of SYNs to a listener that ends in userspace, and clients who connect all the same: two namespaces, one wire.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gatehouse_tests::lab::{name::Name, netns::Netns, wait::Wait};
use lb_common::abi::CookieCounters;
use lb_userspace::model::id::Arn;
use lb_userspace::network::namespace;
use lb_userspace::packet::{
    ListenerName, ListenerPlan, NodePlan, Options, PacketQuestion, Plan, Protocol, Service, Side,
};
use socket2::{Domain, Socket, Type};

use super::segment::{SYN, client};
use super::world::{BpfFs, Node};

const PORT: u16 = 443;
const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
/// Longer than a SYN that is lost takes to be repeated.
const PATIENCE: Duration = Duration::from_secs(5);
/// SYNs of the flood, of each family.
const FLOOD: u16 = 4_000;
/// Bytes that a client sends: more than a window that is not scaled.
const UPLOAD: usize = 1 << 20;

/// A node with sockets that listen, whose listeners may begin one flow a second, and a client.
struct Wire {
    name: Name,
    node: Netns,
    client: Netns,
    bpffs: BpfFs,
}

impl Wire {
    fn new() -> Self {
        let name = Name::fresh();
        let (node, client) = (Netns::new(&name, "node").unwrap(), Netns::new(&name, "client").unwrap());
        for namespace in [&node, &client] {
            namespace.set("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
            namespace.set("net/ipv6/conf/default/disable_ipv6", "0").unwrap();
            namespace.set("net/ipv6/conf/default/accept_dad", "0").unwrap();
        }
        node.ip(&format!("link add nlb type veth peer name client netns {}", client.name())).unwrap();
        for (namespace, device, host) in [(&node, "nlb", 2), (&client, "client", 1)] {
            namespace.ip(&format!("address add 10.9.0.{host}/24 dev {device}")).unwrap();
            namespace.ip(&format!("address add fd09::{host}/64 dev {device} nodad")).unwrap();
            namespace.ip(&format!("link set {device} up")).unwrap();
            // What the product's driver sets: a checksum that is left to a device is lost in XDP, and an interface without
            // XDP takes redirected frames only if it polls.
            let set = namespace.command("ethtool").args(["-K", device, "tx", "off", "gro", "on"]).output();
            assert!(set.unwrap().status.success());
        }
        // Without a way back to who they say they are, SYNs are not answered and fill no queue.
        node.ip("route add default via 10.9.0.1").unwrap();
        Self { name, node, client, bpffs: BpfFs::mount() }
    }

    /// A socket with a short queue that tells each client who connects how much it sent.
    fn serve(&self, address: IpAddr) {
        let listener = namespace::within(self.node.name(), || {
            let address = SocketAddr::new(address, PORT);
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&address.into()).unwrap();
            socket.listen(64).unwrap();
            TcpListener::from(socket)
        });
        let listener = listener.unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut all = vec![0; UPLOAD];
                    if stream.read_exact(&mut all).is_ok() {
                        let _ = stream.write_all(b"all of it");
                    }
                });
            }
        });
    }

    fn connect(&self, address: IpAddr) -> std::io::Result<TcpStream> {
        let to = SocketAddr::new(address, PORT);
        let stream =
            namespace::within(self.client.name(), || TcpStream::connect_timeout(&to, PATIENCE)).unwrap()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Sends SYNs of hosts that do not exist, until they are enough and it may end.
    fn flood(&self, may_end: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        let (name, may_end) = (self.client.name().to_owned(), Arc::clone(may_end));
        std::thread::spawn(move || {
            namespace::within(&name, || {
                let raw = |domain| Socket::new(domain, Type::RAW, Some(255.into())).unwrap();
                let (v4, v6) = (raw(Domain::IPV4), raw(Domain::IPV6));
                let mut sent = 0_u32;
                while sent < u32::from(FLOOD) || !may_end.load(Ordering::Relaxed) {
                    sent += 1;
                    let number = u16::try_from(sent % u32::from(FLOOD)).unwrap();
                    let [high, low] = number.to_be_bytes();
                    let spoof = client(PORT, SYN).with(|s| {
                        s.from = (Ipv4Addr::new(10, 9, 1 + high, low).into(), 1_024 + number);
                        s.to.0 = OWN.into();
                    });
                    let spoof6 = client(PORT, SYN).with(|s| {
                        s.from = (Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 1, number).into(), 1_024 + number);
                        s.to.0 = OWN6.into();
                    });
                    // A full queue of the device is no reason to stop.
                    let _ = v4.send_to(&spoof.bytes()[14..], &SocketAddr::new(OWN.into(), 0).into());
                    let _ = v6.send_to(&spoof6.bytes()[14..], &SocketAddr::new(OWN6.into(), 0).into());
                }
            })
            .unwrap();
        })
    }

    /// What `ss` says of the node's connections.
    fn connections(&self) -> String {
        let output = self.node.command("ss").args(["-tinH", "sport", &format!(":{PORT}")]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.name.remove_everything();
    }
}

fn plan() -> Plan {
    let listener = |address: IpAddr| {
        let name = ListenerName { address, port: PORT, protocol: Protocol::Tcp };
        let plan = ListenerPlan {
            arn: Arn::from(format!(
                "arn:aws:elasticloadbalancing:r:1:listener/net/a/1/{}",
                address.is_ipv4()
            )),
            sources: None,
            idle_timeout_s: 350,
            service: Service::Local,
            is_sticky: false,
            new_flows_per_s: Some(1),
            targets: [].into(),
        };
        (name, plan)
    };
    let side = |address: IpAddr, subnet: &str, router: &str| Side {
        address,
        subnet: subnet.parse().unwrap(),
        router: router.parse().unwrap(),
    };
    let node = NodePlan {
        device: "nlb".to_owned(),
        balancer: Arn::from("arn:aws:elasticloadbalancing:r:1:loadbalancer/net/a/1".to_owned()),
        ipv4: side(OWN.into(), "10.9.0.0/24", "10.9.0.1"),
        ipv6: Some(side(OWN6.into(), "fd09::/64", "fd09::1")),
        zone: "eu-central-1a".to_owned(),
        secondary: [].into(),
        listeners: [listener(OWN.into()), listener(OWN6.into())].into(),
    };
    Plan { nodes: [(OWN.into(), node)].into(), ..Plan::default() }
}

fn cookies(node: &Node) -> [CookieCounters; 2] {
    let counters = node.counters();
    let of = |is_v4: bool| {
        counters.listeners.iter().find(|own| own.name.address.is_ipv4() == is_v4).unwrap().cookies
    };
    [of(true), of(false)]
}

#[test]
fn a_flood_of_syns_leaves_clients_connecting() {
    let wire = Wire::new();
    wire.serve(OWN.into());
    wire.serve(OWN6.into());
    let node = Node::start(wire.node.name(), &wire.bpffs.path, Options::default());
    node.apply(plan());
    // In peace nobody needs a cookie.
    let mut peaceful = wire.connect(OWN.into()).unwrap();
    assert_eq!(cookies(&node), [CookieCounters::default(); 2]);

    let may_end = Arc::new(AtomicBool::new(false));
    let flood = wire.flood(&may_end);
    let is_on = || Ok(cookies(&node).iter().all(|own| own.sent > 500).then_some(()));
    Wait::default().until("cookies of both families", Duration::from_secs(20), is_on).unwrap();

    let mut streams = Vec::new();
    for number in 0..10 {
        for address in [OWN.into(), OWN6.into()] {
            let stream = wire.connect(address);
            let why = || format!("{address}, {number}: {:?}", cookies(&node));
            streams.push(stream.unwrap_or_else(|error| panic!("{error} {}", why())));
        }
    }
    let question = PacketQuestion {
        source: "10.9.0.1:50000".parse().unwrap(),
        destination: SocketAddr::new(OWN.into(), PORT),
        protocol: Protocol::Tcp,
        flags: "syn".to_owned(),
        device: None,
    };
    let is_told = || {
        let question = question.clone();
        let told = node.with(move |balancer| balancer.explain(&question)).unwrap();
        Ok(told.steps.iter().any(|step| step.contains("a SYN cookie answers")).then_some(()))
    };
    Wait::default().until("the step to be told", Duration::from_secs(5), is_told).unwrap();
    may_end.store(true, Ordering::Relaxed);
    flood.join().unwrap();

    // What both said of windows is what both believe: more goes through than fits one that is not scaled.
    streams.push(wire.connect(OWN.into()).unwrap());
    let told = wire.connections();
    for stream in streams.iter_mut().chain([&mut peaceful]) {
        stream.write_all(&vec![7; UPLOAD]).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "all of it");
    }
    // Whether by a cookie or not: windows are shifted, and segments have room for timestamps.
    let told: Vec<&str> = told.lines().filter(|line| line.contains("rto:")).collect();
    let word = |line: &str, key: &str| line.split(' ').find(|word| word.starts_with(key)).map(str::to_owned);
    let scales: BTreeSet<_> = told.iter().map(|line| word(line, "wscale:")).collect();
    let sizes: BTreeSet<_> = told.iter().map(|line| word(line, "mss:")).collect();
    assert!(told.len() > streams.len() && scales.len() == 1 && !scales.contains(&None), "{told:#?}");
    assert_eq!(sizes, [Some("mss:1428".to_owned()), Some("mss:1448".to_owned())].into(), "{told:#?}");
    for own in cookies(&node) {
        assert!(own.sent >= u64::from(FLOOD) / 2 && own.valid >= 8, "{own:?}");
    }
}
