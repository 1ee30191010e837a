//! What must stand: the host slice as namespaces, bridges, uplinks and interfaces.
//!
//! A VPC is a namespace with one bridge per subnet; the bridge carries the router's address, so the namespace routes
//! between its subnets and two VPCs may use the same ranges. Each interface is a veth from its subnet's bridge into the
//! namespace of whoever owns it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4},
};

use ipnet::Ipv4Net;

use super::{filter, resolver::resolver};
use crate::{
    model::{
        id::{InterfaceId, VpcId},
        network::InterfaceOwner,
    },
    snapshot::{
        host::{HostInterface, HostSlice, ReturnPath, SubnetNetwork, VpcNetwork},
        names,
    },
};

/// Where every VPC's links dial out to: a bridge that the network outside made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The namespace that holds the bridge; none is the host's own.
    pub namespace: Option<String>,
    /// The bridge.
    pub bridge: String,
    /// The range on it. A VPC's address is the one with number `first_host` plus the VPC's index.
    pub cidr: Ipv4Net,
    /// The number of the first address that is a VPC's.
    pub first_host: u32,
    /// The way out, inside the range.
    pub router: Ipv4Addr,
    /// DNS servers that VPCs' resolvers may ask, wherever they are.
    pub dns_servers: Vec<SocketAddrV4>,
}

/// Everything the virtual driver keeps standing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// One bridge per subnet, and one per resolver that is in no subnet.
    pub bridges: Vec<Bridge>,
    /// One way out per VPC, if an uplink is configured.
    pub uplinks: Vec<UplinkLeg>,
    /// Interfaces: the resolvers', then the others in order of id.
    pub interfaces: Vec<Interface>,
    /// What the slice asks for and cannot be had; the rest stands without it.
    pub conflicts: Vec<Conflict>,
}

/// A namespace to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// What it is for.
    pub kind: Kind,
    /// Its packet filter, an nftables rule set; none where another place filters.
    pub filter: Option<String>,
    /// The ways of answers that do not go where their destination is.
    pub returns: BTreeSet<Return>,
}

/// The way of a target's answers to clients that it sees as they are: by the load balancer, which puts its own address
/// in front of them again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Return {
    /// The target's address.
    pub source: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// The target's port.
    pub port: u16,
    /// On a router, the bridge of the target's subnet: what the load balancer sends on does not come to it again.
    pub input: Option<String>,
    /// The load balancer's address in the same subnet as the device that leads there, or the router's on the way to it.
    pub gateway: IpAddr,
    /// The table of routes by this gateway: its IPv4 address as a number, which nobody else's table has.
    pub table: u32,
}

/// What a namespace is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Forwards between a VPC's subnets.
    Router,
    /// Holds interfaces of load balancers, and sends on what comes to them that is not theirs.
    Node,
    /// Holds interfaces and whoever uses them.
    Host,
}

/// A subnet: a bridge in its VPC's namespace, with the router's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The VPC's namespace.
    pub namespace: String,
    /// The bridge's device.
    pub device: String,
    /// The router's address.
    pub address: Ipv4Addr,
    /// The subnet's length.
    pub prefix_len: u8,
    /// What the subnet has of IPv6.
    pub ipv6: Option<Ipv6>,
}

/// What a device has of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6 {
    /// Its address.
    pub address: Ipv6Addr,
    /// The subnet's length.
    pub prefix_len: u8,
    /// The way to everything else; none on the router itself.
    pub router: Option<Ipv6Addr>,
}

/// A VPC's way out: a veth from its namespace to the uplink's bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkLeg {
    /// The VPC's namespace.
    pub namespace: String,
    /// The end on the uplink's bridge.
    pub port: String,
    /// The VPC's address outside.
    pub address: Ipv4Addr,
    /// Where it leads.
    pub uplink: Uplink,
}

/// An interface: a veth from its subnet's bridge into its owner's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The VPC's namespace, which holds the bridge and the port.
    pub vpc_namespace: String,
    /// The subnet's bridge.
    pub bridge: String,
    /// The end on the bridge.
    pub port: String,
    /// The owner's namespace.
    pub namespace: String,
    /// The end in the owner's namespace.
    pub device: String,
    /// The address there.
    pub address: Ipv4Addr,
    /// The subnet's length.
    pub prefix_len: u8,
    /// The subnet's router, the way to everything else.
    pub router: Ipv4Addr,
    /// What it has of IPv6.
    pub ipv6: Option<Ipv6>,
    /// Whether the kernel there must finish checksums itself, because XDP may turn its packets around before any
    /// device would have.
    pub finish_checksums: bool,
    /// Whether only what has its address already leaves by it: then it has no part in the namespace's other routes.
    pub answers_only: bool,
}

/// Something the slice asks for that cannot stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// What it was to be.
    pub what: String,
    /// Why it cannot stand.
    pub why: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

impl Network {
    /// What `slice` asks of this host.
    pub fn of(slice: &HostSlice, appliance: &str, uplink: Option<&Uplink>) -> Self {
        let mut network = Self::default();
        for (id, vpc) in &slice.vpcs {
            let leg = uplink.and_then(|uplink| network.uplink_leg(appliance, id, vpc, uplink));
            let filter = leg.as_ref().map(|leg| {
                let asks = vpc.resolver.map(|resolver| (resolver, leg.uplink.dns_servers.as_slice()));
                filter::vpc_edge(vpc.cidr, &link_addresses(slice, id), asks)
            });
            let name = names::vpc_namespace(appliance, id);
            network.namespaces.insert(name, Namespace::new(Kind::Router, filter));
            network.uplinks.extend(leg);
        }
        for (id, subnet) in &slice.subnets {
            if !slice.vpcs.contains_key(&subnet.vpc_id) {
                network.conflict(id, format!("its VPC {} is not in the slice", subnet.vpc_id));
                continue;
            }
            network.bridges.push(Bridge {
                namespace: names::vpc_namespace(appliance, &subnet.vpc_id),
                device: names::bridge(id),
                address: subnet.router,
                prefix_len: subnet.cidr.prefix_len(),
                ipv6: subnet.ipv6.zip(subnet.router6()).map(|(cidr, address)| Ipv6 {
                    address,
                    prefix_len: cidr.prefix_len(),
                    router: None,
                }),
            });
        }
        for (id, vpc) in &slice.vpcs {
            let Some(address) = vpc.resolver else { continue };
            let (interface, bridge) = resolver(slice, appliance, id, address);
            network.namespace(&interface.namespace, Kind::Node, None);
            network.bridges.extend(bridge);
            network.interfaces.push(interface);
        }
        for instance in slice.instances.values() {
            network.namespace(&instance.namespace, Kind::Host, None);
        }
        for (id, interface) in &slice.interfaces {
            network.interface(slice, appliance, id, interface);
        }
        network.returns(slice, appliance);
        network.refuse_twins();
        network
    }

    fn interface(&mut self, slice: &HostSlice, appliance: &str, id: &InterfaceId, interface: &HostInterface) {
        // A machine that is going down takes its interface with it.
        if let InterfaceOwner::Instance(instance) = &interface.owner
            && !slice.instances.contains_key(instance)
        {
            return;
        }
        let Some(subnet) =
            slice.subnets.get(&interface.subnet_id).filter(|s| slice.vpcs.contains_key(&s.vpc_id))
        else {
            self.conflict(id, format!("its subnet {} is not in the slice", interface.subnet_id));
            return;
        };
        let namespace = names::owner_namespace(appliance, &interface.vpc_id, &interface.owner);
        let device = names::device(id);
        // Load balancers and links judge their own peers, where they can also say why.
        let guarded = matches!(interface.owner, InterfaceOwner::Instance(_) | InterfaceOwner::Task(_));
        let groups = interface.groups.iter().filter_map(|group| slice.security_groups.get(group));
        let resolver = slice.vpcs.get(&interface.vpc_id).and_then(|vpc| vpc.resolver);
        let is_balancer = matches!(interface.owner, InterfaceOwner::LoadBalancer(_));
        let kind = if is_balancer { Kind::Node } else { Kind::Host };
        self.namespace(&namespace, kind, guarded.then(|| filter::security_groups(groups, resolver)));
        self.interfaces.push(Interface {
            vpc_namespace: names::vpc_namespace(appliance, &subnet.vpc_id),
            bridge: names::bridge(&interface.subnet_id),
            port: names::bridge_port(id),
            namespace,
            device,
            address: interface.address,
            prefix_len: subnet.cidr.prefix_len(),
            router: subnet.router,
            ipv6: ipv6_of(interface, subnet),
            finish_checksums: !is_balancer,
            answers_only: false,
        });
    }

    fn namespace(&mut self, name: &str, kind: Kind, filter: Option<String>) {
        let entry = self.namespaces.entry(name.to_owned());
        let namespace = entry.or_insert(Namespace::new(kind, None));
        namespace.filter = filter.or(namespace.filter.take());
    }

    /// Sends answers of targets that see clients as they are by their load balancer: from the target's own namespace
    /// where the load balancer is in its subnet, else by the router, clients in the target's own subnet included.
    fn returns(&mut self, slice: &HostSlice, appliance: &str) {
        let mut ways: Vec<(String, Return)> = Vec::new();
        for path in &slice.returns {
            let Some(owner) =
                slice.interfaces.values().find(|own| own.vpc_id == path.vpc_id && own.has(path.address))
            else {
                continue;
            };
            let balancer = InterfaceOwner::LoadBalancer(path.load_balancer.clone());
            let all = || slice.interfaces.values().filter(|own| own.owner == balancer);
            let near = all().find(|own| own.subnet_id == owner.subnet_id);
            let Some(by) = near.or_else(|| all().next()) else { continue };
            let mut send = |namespace, input: Option<String>, ipv4: Ipv4Addr, ipv6: Option<Ipv6Addr>| {
                let gateway = match path.address {
                    IpAddr::V4(_) => Some(IpAddr::V4(ipv4)),
                    IpAddr::V6(_) => ipv6.map(IpAddr::V6),
                };
                ways.extend(gateway.map(|gateway| {
                    let ReturnPath { address: source, protocol, port, .. } = *path;
                    (namespace, Return { source, protocol, port, input, gateway, table: u32::from(ipv4) })
                }));
            };
            let machine = names::owner_namespace(appliance, &owner.vpc_id, &owner.owner);
            if near.is_some() {
                send(machine, None, by.address, by.ipv6);
            } else if let Some(subnet) = slice.subnets.get(&owner.subnet_id) {
                send(machine, None, subnet.router, subnet.router6());
                let router = names::vpc_namespace(appliance, &owner.vpc_id);
                send(router, Some(names::bridge(&owner.subnet_id)), by.address, by.ipv6);
            }
        }
        for (name, way) in ways {
            let Some(namespace) = self.namespaces.get_mut(&name) else { continue };
            // Two load balancers of one node may share a target: either knows the other's flows.
            let is_known = |other: &Return| {
                (other.source, other.protocol, other.port) == (way.source, way.protocol, way.port)
            };
            if !namespace.returns.iter().any(is_known) {
                namespace.returns.insert(way);
            }
        }
    }

    fn uplink_leg(
        &mut self,
        appliance: &str,
        id: &VpcId,
        vpc: &VpcNetwork,
        uplink: &Uplink,
    ) -> Option<UplinkLeg> {
        if vpc.cidr.contains(&uplink.cidr) || uplink.cidr.contains(&vpc.cidr) {
            self.conflict(
                &format!("uplink of {id}"),
                format!("{} overlaps the uplink's {}", vpc.cidr, uplink.cidr),
            );
            return None;
        }
        let Some(address) = nth(uplink.cidr, uplink.first_host.saturating_add(vpc.index)) else {
            self.conflict(&format!("uplink of {id}"), format!("{} has no address left", uplink.cidr));
            return None;
        };
        if address == uplink.router {
            self.conflict(&format!("uplink of {id}"), format!("its address {address} is the router's"));
            return None;
        }
        Some(UplinkLeg {
            namespace: names::vpc_namespace(appliance, id),
            port: names::uplink_port(id),
            address,
            uplink: uplink.clone(),
        })
    }

    /// Device names keep only part of an id: two that meet in one namespace would be taken for one another.
    fn refuse_twins(&mut self) {
        let mut seen = BTreeSet::new();
        let mut twins = Vec::new();
        self.bridges.retain(|bridge| {
            let new = seen.insert((bridge.namespace.clone(), bridge.device.clone()));
            if !new {
                twins.push(bridge.device.clone());
            }
            new
        });
        self.interfaces.retain(|interface| {
            let new = seen.insert((interface.vpc_namespace.clone(), interface.port.clone()));
            if !new {
                twins.push(interface.port.clone());
            }
            new
        });
        for device in twins {
            self.conflict(&device, "another device has the same name".to_owned());
        }
    }

    fn conflict(&mut self, what: &dyn fmt::Display, why: String) {
        self.conflicts.push(Conflict { what: what.to_string(), why });
    }
}

fn ipv6_of(interface: &HostInterface, subnet: &SubnetNetwork) -> Option<Ipv6> {
    Some(Ipv6 {
        address: interface.ipv6?,
        prefix_len: subnet.ipv6?.prefix_len(),
        router: Some(subnet.router6()?),
    })
}

impl Namespace {
    fn new(kind: Kind, filter: Option<String>) -> Self {
        Self { kind, filter, returns: BTreeSet::new() }
    }
}

impl Bridge {
    /// What a finished bridge says of itself.
    pub fn mark(&self) -> String {
        format!("{MARK} {}/{}{}", self.address, self.prefix_len, mark6(self.ipv6))
    }
}

/// The end of a mark, which may change while the device stays.
fn mark6(ipv6: Option<Ipv6>) -> String {
    let Some(Ipv6 { address, prefix_len, router }) = ipv6 else { return String::new() };
    let via = router.map(|router| format!(" via {router}")).unwrap_or_default();
    format!("{MARK6}{address}/{prefix_len}{via}")
}

/// A mark without what it says of IPv6.
pub(super) fn without_ipv6(mark: &str) -> &str {
    mark.split_once(MARK6).map_or(mark, |(rest, _)| rest)
}

impl UplinkLeg {
    /// What a finished way out says of itself.
    pub fn mark(&self) -> String {
        let Uplink { namespace, bridge, cidr, router, .. } = &self.uplink;
        let place = namespace.as_deref().unwrap_or("the host");
        format!("{MARK} {}/{} via {router} on {bridge} in {place}", self.address, cidr.prefix_len())
    }
}

impl Interface {
    /// What a finished interface says of itself.
    pub fn mark(&self) -> String {
        let Self { address, prefix_len, router, bridge, namespace, .. } = self;
        let ipv6 = mark6(self.ipv6);
        format!("{MARK} {address}/{prefix_len} via {router} on {bridge} for {namespace}{ipv6}")
    }
}

/// The hardware address that goes with an address: the same after every restart, so that neighbours stay right.
/// Locally administered, and unique wherever the address is.
pub fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x67, a, b, c, d]
}

/// The address with this number in a range, unless it is the range's own or its broadcast.
fn nth(range: Ipv4Net, number: u32) -> Option<Ipv4Addr> {
    let address = Ipv4Addr::from(u32::from(range.network()).checked_add(number)?);
    (range.contains(&address) && address != range.network() && address != range.broadcast())
        .then_some(address)
}

fn link_addresses(slice: &HostSlice, vpc: &VpcId) -> Vec<Ipv4Addr> {
    let links = slice.interfaces.values().filter(|interface| {
        interface.vpc_id == *vpc && matches!(interface.owner, InterfaceOwner::VpcLink(_))
    });
    links.map(|interface| interface.address).collect()
}

/// Begins every mark. The number changes when the same description comes to mean another device, so that an upgrade
/// makes it anew.
const MARK: &str = "gatehouse/1";
/// Begins what a mark says of IPv6.
const MARK6: &str = " + ";
