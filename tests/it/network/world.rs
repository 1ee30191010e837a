//! What the tests ask for: slices of small networks, an internet to dial out to, and connections as the judges.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    time::Duration,
};

use gatehouse_tests::lab::{name::Name, netns::Netns};
use lb_userspace::{
    model::{
        id::{Arn, InstanceId, InterfaceId, SecurityGroupId, SubnetId, VpcId, VpcLinkId},
        network::InterfaceOwner,
    },
    network::{Applied, Uplink, Virtual, namespace, remove_everything},
    snapshot::{
        host::{HostInstance, HostInterface, HostSlice, SubnetNetwork, VpcNetwork},
        names,
        permit::{Permit, SecurityGroupView, TCP},
    },
};

/// An internet, and the slice of an appliance beside it.
pub(super) struct World {
    pub(super) name: Name,
    pub(super) internet: Netns,
    pub(super) slice: HostSlice,
}

impl World {
    /// The internet is `192.0.2.0/24`, its router `192.0.2.1`; the slice is empty.
    pub(super) fn new() -> Self {
        let name = Name::fresh();
        let internet = Netns::new(&name, "internet").unwrap();
        internet.ip("link add wan type bridge").unwrap();
        internet.ip("address add 192.0.2.1/24 dev wan").unwrap();
        internet.ip("link set wan up").unwrap();
        Self { name, internet, slice: HostSlice::default() }
    }

    /// A driver that knows nothing yet, as after a restart.
    pub(super) fn driver(&self) -> Virtual {
        Virtual::new(self.name.as_str(), Some(self.uplink()))
    }

    pub(super) fn uplink(&self) -> Uplink {
        Uplink {
            namespace: Some(self.internet.name().to_owned()),
            bridge: "wan".to_owned(),
            cidr: "192.0.2.0/24".parse().unwrap(),
            first_host: 10,
            router: "192.0.2.1".parse().unwrap(),
            dns_servers: vec![DNS_SERVER],
        }
    }

    /// Applies the slice with a new driver; everything must stand afterwards.
    pub(super) fn apply(&self) -> Applied {
        let applied = self.driver().apply(&self.slice).unwrap();
        assert!(applied.is_whole(), "{applied:#?}");
        applied
    }

    /// A VPC `10.0.0.0/16` with subnets `10.0.1.0/24` and `10.0.2.0/24`: a load balancer in both (`.4`), a link in the
    /// first (`.5`) and a machine in the second (`.6`) that admits the link on port 80.
    pub(super) fn add_vpc(&mut self, vpc: &Vpc) {
        let id = VpcId::from(vpc.id("vpc"));
        let network = VpcNetwork { cidr: "10.0.0.0/16".parse().unwrap(), index: vpc.0, resolver: None };
        self.slice.vpcs.insert(id.clone(), network);
        for subnet in 1..=2 {
            let network = SubnetNetwork {
                vpc_id: id.clone(),
                cidr: format!("10.0.{subnet}.0/24").parse().unwrap(),
                router: format!("10.0.{subnet}.1").parse().unwrap(),
                ipv6: None,
            };
            self.slice.subnets.insert(vpc.subnet(subnet), network);
        }
        let balancer = Arn::from(format!("arn:aws:elasticloadbalancing:r:1:loadbalancer/net/a/{}", vpc.0));
        self.add_interface(vpc, 1, 4, InterfaceOwner::LoadBalancer(balancer.clone()));
        self.add_interface(vpc, 2, 4, InterfaceOwner::LoadBalancer(balancer));
        self.add_interface(vpc, 1, 5, InterfaceOwner::VpcLink(vpc.link()));
        let instance = HostInstance { namespace: self.machine(vpc), address: "10.0.2.6".parse().unwrap() };
        self.slice.instances.insert(vpc.instance(), instance);
        self.add_interface(vpc, 2, 6, InterfaceOwner::Instance(vpc.instance()));
        let everybody = Permit {
            protocol: None,
            first_port: 0,
            last_port: u16::MAX,
            peers: vec!["0.0.0.0/0".parse().unwrap()],
        };
        let group =
            SecurityGroupView { ingress: vec![permit_tcp(80, "10.0.1.5/32")], egress: vec![everybody] };
        self.slice.security_groups.insert(vpc.group(), group);
    }

    fn add_interface(&mut self, vpc: &Vpc, subnet: u8, host: u8, owner: InterfaceOwner) {
        let interface = HostInterface {
            vpc_id: VpcId::from(vpc.id("vpc")),
            subnet_id: vpc.subnet(subnet),
            address: format!("10.0.{subnet}.{host}").parse().unwrap(),
            ipv6: None,
            owner,
            groups: vec![vpc.group()],
        };
        self.slice.interfaces.insert(InterfaceId::from(vpc.id(&format!("eni-{subnet}{host}"))), interface);
    }

    /// Gives the VPC's node the resolver's address, `10.0.0.2`.
    pub(super) fn give_resolver(&mut self, vpc: &Vpc) {
        let network = self.slice.vpcs.get_mut(&VpcId::from(vpc.id("vpc"))).unwrap();
        network.resolver = Some("10.0.0.2".parse().unwrap());
    }

    /// Adds the subnet `10.0.0.0/24`, which holds the resolver's address, and a machine in it (`.7`); answers the machine's
    /// namespace.
    pub(super) fn add_subnet_of_resolver(&mut self, vpc: &Vpc) -> String {
        let network = SubnetNetwork {
            ipv6: None,
            vpc_id: VpcId::from(vpc.id("vpc")),
            cidr: "10.0.0.0/24".parse().unwrap(),
            router: "10.0.0.1".parse().unwrap(),
        };
        self.slice.subnets.insert(vpc.subnet(0), network);
        let id = InstanceId::from(vpc.id("i-0"));
        let namespace = names::instance_namespace(self.name.as_str(), &id);
        let instance = HostInstance { namespace: namespace.clone(), address: "10.0.0.7".parse().unwrap() };
        self.slice.instances.insert(id.clone(), instance);
        self.add_interface(vpc, 0, 7, InterfaceOwner::Instance(id));
        namespace
    }

    pub(super) fn vpc(&self, vpc: &Vpc) -> String {
        names::vpc_namespace(self.name.as_str(), &VpcId::from(vpc.id("vpc")))
    }

    pub(super) fn node(&self, vpc: &Vpc) -> String {
        names::node_namespace(self.name.as_str(), &VpcId::from(vpc.id("vpc")))
    }

    pub(super) fn link(&self, vpc: &Vpc) -> String {
        names::link_namespace(self.name.as_str(), &vpc.link())
    }

    pub(super) fn machine(&self, vpc: &Vpc) -> String {
        names::instance_namespace(self.name.as_str(), &vpc.instance())
    }

    /// Namespaces of the appliance that stand.
    pub(super) fn standing(&self) -> Vec<String> {
        let mut found = namespace::list(&self.name.prefix()).unwrap();
        found.retain(|name| name != self.internet.name());
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        remove_everything(self.name.as_str());
        self.name.remove_everything();
    }
}

/// One of several VPCs that are alike but for their ids.
pub(super) struct Vpc(pub(super) u32);

impl Vpc {
    fn id(&self, kind: &str) -> String {
        format!("{kind}-{:08x}", self.0 + 0xa0)
    }

    fn subnet(&self, number: u8) -> SubnetId {
        SubnetId::from(self.id(&format!("subnet-{number}")))
    }

    fn link(&self) -> VpcLinkId {
        VpcLinkId::from(format!("link{}", self.0))
    }

    pub(super) fn instance(&self) -> InstanceId {
        InstanceId::from(self.id("i"))
    }

    pub(super) fn group(&self) -> SecurityGroupId {
        SecurityGroupId::from(self.id("sg"))
    }
}

pub(super) fn permit_tcp(port: u16, peer: &str) -> Permit {
    Permit { protocol: Some(TCP), first_port: port, last_port: port, peers: vec![peer.parse().unwrap()] }
}

/// Listens inside a namespace until dropped.
pub(super) fn listen(namespace: &str, address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    namespace::within(namespace, || TcpListener::bind(address)).unwrap().unwrap()
}

/// Connects from inside a namespace.
pub(super) fn connect(namespace: &str, address: &str) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().unwrap();
    namespace::within(namespace, || TcpStream::connect_timeout(&address, PATIENCE)).unwrap()
}

/// Connects from inside one namespace to a listener, and says as whom the listener saw it.
pub(super) fn seen_as(namespace: &str, listener: &TcpListener) -> IpAddr {
    let address = listener.local_addr().unwrap().to_string();
    let _connection =
        connect(namespace, &address).unwrap_or_else(|error| panic!("{namespace} to {address}: {error}"));
    listener.accept().unwrap().1.ip()
}

/// The one DNS server outside that resolvers may ask.
const DNS_SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 53);
/// Longer than any handshake here, and than one lost SYN.
const PATIENCE: Duration = Duration::from_millis(1_500);
