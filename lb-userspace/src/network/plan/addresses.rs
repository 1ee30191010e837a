//! Static addresses on the host's own interfaces: what must stand there, what stands, and the difference.
//!
//! What is ours on an interface is known by a mark that the kernel keeps with each address, and by a record on disk of
//! which interfaces we were ever allowed to use. Everything else there is the host's, and is never changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{
    model::{
        id::InterfaceId,
        network::InterfaceOwner,
        underlay::{Place, Underlay},
    },
    snapshot::{
        host::{HostSlice, SubnetNetwork},
        node::{NodeInterface, NodeInterface6, NodeSlice},
    },
};

/// The host's interfaces by name.
pub type Devices = BTreeMap<String, Device>;

/// An interface of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its hardware address, if it is Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Whether an XDP program is on it.
    pub has_program: bool,
    /// Its addresses.
    pub addresses: Vec<Held>,
    /// The next hop of the default route by this interface, if there is one.
    pub router: Option<Ipv4Addr>,
    /// That of IPv6: a link-local address, where the router told it.
    pub router6: Option<Ipv6Addr>,
}

/// An address that an interface has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The address with its range.
    pub net: IpNet,
    /// Whether it bears our mark.
    pub marked: bool,
}

/// An address of ours, by interface.
pub type Ours = BTreeSet<(String, IpAddr)>;

/// An interface's address, and where it must stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Static {
    /// Whose it is.
    pub interface: InterfaceId,
    /// Where.
    pub device: String,
    /// The address.
    pub address: IpAddr,
    /// Its subnet's range.
    pub subnet: IpNet,
}

impl Static {
    /// What a report of it is about.
    pub fn subject(&self) -> (InterfaceId, IpAddr) {
        (self.interface.clone(), self.address)
    }
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPlan {
    /// Ours, and no longer wanted.
    pub remove: Vec<(String, IpAddr)>,
    /// Wanted, and there.
    pub stand: Vec<Static>,
    /// Wanted, and not there.
    pub add: Vec<Static>,
    /// Wanted, and the host's own: of which interface.
    pub hosts: Vec<(Static, String)>,
    /// Wanted, and nowhere to put.
    pub refused: Vec<(InterfaceId, IpAddr, String)>,
}

/// The host's own addresses, and what may be used.
pub fn underlay(listed: &[String], devices: &Devices) -> Underlay {
    let own =
        |device: &Device| device.addresses.iter().filter(|held| !held.marked).map(|held| held.net).collect();
    Underlay {
        listed: listed.to_vec(),
        interfaces: devices.iter().map(|(name, device)| (name.clone(), own(device))).collect(),
    }
}

/// Where the addresses of the slice's load balancers must stand, beside what stands.
pub fn addresses(slice: &HostSlice, listed: &[String], devices: &Devices, recorded: &Ours) -> AddressPlan {
    let underlay = underlay(listed, devices);
    let mut plan = AddressPlan::default();
    let mut wanted = Ours::new();
    let each = slice.interfaces.iter().flat_map(|(id, own)| own.addresses().map(move |at| (id, own, at)));
    for (id, interface, address) in each {
        let mut refuse = |why: String| plan.refused.push((id.clone(), address, why));
        if !matches!(interface.owner, InterfaceOwner::LoadBalancer(_)) {
            refuse("only load balancers are on the host's own interfaces".to_owned());
            continue;
        }
        let Some(subnet) = slice.subnets.get(&interface.subnet_id) else {
            refuse(format!("its subnet {} is not in the slice", interface.subnet_id));
            continue;
        };
        let (device, range) = match place_in(subnet, &underlay, address) {
            Ok((place, range)) => (place.interface.to_owned(), range),
            Err(why) => {
                refuse(why);
                continue;
            }
        };
        let wants = Static { interface: id.clone(), device: device.clone(), address, subnet: range };
        match holder(devices, address) {
            Some((name, held)) if !held.marked => plan.hosts.push((wants, name.clone())),
            Some((name, _)) if *name == device => {
                wanted.insert((device, address));
                plan.stand.push(wants);
            }
            _ => {
                wanted.insert((device, address));
                plan.add.push(wants);
            }
        }
    }
    plan.remove = ours(listed, devices, recorded).difference(&wanted).cloned().collect();
    plan
}

/// Where an address of a subnet has to be, and which of the subnet's ranges it is of.
fn place_in<'a>(
    subnet: &SubnetNetwork,
    underlay: &'a Underlay,
    address: IpAddr,
) -> Result<(Place<'a>, IpNet), String> {
    let (place, range) = match address {
        IpAddr::V4(_) => (underlay.place(subnet.cidr), IpNet::from(subnet.cidr)),
        IpAddr::V6(_) => {
            let range = subnet.ipv6.ok_or("its subnet has no IPv6 range in the slice")?;
            (underlay.place_beside(range, subnet.cidr), IpNet::from(range))
        }
    };
    place.map(|place| (place, range)).map_err(|misplaced| misplaced.to_string())
}

/// What of us stands: marked addresses of interfaces that are listed, or were when we put them there.
pub fn ours(listed: &[String], devices: &Devices, recorded: &Ours) -> Ours {
    let mut ours = Ours::new();
    for (name, device) in devices {
        for held in device.addresses.iter().filter(|held| held.marked) {
            let address = (name.clone(), held.net.addr());
            if listed.contains(name) || recorded.contains(&address) {
                ours.insert(address);
            }
        }
    }
    ours
}

/// Addresses after `taken` that may be tried next: none of the host's, none of the slice's.
pub fn candidates(slice: &HostSlice, devices: &Devices, subnet: IpNet, taken: IpAddr) -> Vec<IpAddr> {
    let is_used = |address: IpAddr| {
        holder(devices, address).is_some()
            || slice.interfaces.values().any(|interface| interface.has(address))
    };
    let last = subnet.broadcast();
    std::iter::successors(next(taken), |address| next(*address))
        .take_while(|address| *address < last)
        .filter(|address| !is_used(*address))
        .take(CANDIDATES)
        .collect()
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => u32::from(address).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(address) => u128::from(address).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
    }
}

/// The node's slice as this host has it: each load balancer's interface on the host's own. What has no place is left out,
/// and named.
pub fn place(slice: &NodeSlice, listed: &[String], devices: &Devices) -> (NodeSlice, Vec<String>) {
    let underlay = underlay(listed, devices);
    let mut placed = slice.clone();
    let mut refused = Vec::new();
    for lb in placed.load_balancers.values_mut() {
        let name = lb.name.clone();
        lb.interfaces.retain(|_, interface| {
            if underlay.is_hosts(interface.address.into()) {
                refused.push(format!("{name}: {} is the host's own address", interface.address));
                return false;
            }
            let range = Ipv4Net::new(interface.address, interface.prefix_len).map(|net| net.trunc());
            let found = match range.map(|range| underlay.place(range)) {
                Ok(Ok(found)) => found,
                Ok(Err(misplaced)) => {
                    refused.push(format!("{name}: {misplaced}"));
                    return false;
                }
                Err(_) => {
                    refused.push(format!("{name}: no range has a prefix of {}", interface.prefix_len));
                    return false;
                }
            };
            interface.device = found.interface.to_owned();
            interface.secondary.retain_mut(|own| {
                own.device = found.interface.to_owned();
                !underlay.is_hosts(own.address.into())
            });
            if let Some(own) = interface.ipv6 {
                let router = devices.get(found.interface).and_then(|device| device.router6);
                interface.ipv6 = match place6(interface, own, &underlay) {
                    Ok(placed) => Some(NodeInterface6 { router: router.unwrap_or(own.router), ..placed }),
                    Err(why) => {
                        refused.push(format!("{name}: {why}"));
                        None
                    }
                };
            }
            // The host's range says who is on the wire, and its routes who is not.
            interface.prefix_len = found.own.prefix_len();
            if let Some(router) = devices.get(found.interface).and_then(|device| device.router) {
                interface.router = router;
            }
            true
        });
    }
    (placed, refused)
}

/// What an interface has of IPv6, with the host's range. Where the host was given an address alone (`/128`, by DHCPv6),
/// the subnet's says who is on the wire.
fn place6(
    interface: &NodeInterface,
    own: NodeInterface6,
    underlay: &Underlay,
) -> Result<NodeInterface6, String> {
    if underlay.is_hosts(own.address.into()) {
        return Err(format!("{} is the host's own address", own.address));
    }
    let ipv4 = Ipv4Net::new(interface.address, interface.prefix_len).map_err(|error| error.to_string())?;
    let ipv6 = Ipv6Net::new(own.address, own.prefix_len).map_err(|error| error.to_string())?;
    let found =
        underlay.place_beside(ipv6.trunc(), ipv4.trunc()).map_err(|misplaced| misplaced.to_string())?;
    let prefix_len = match found.own.prefix_len() {
        ALONE => own.prefix_len,
        wire => wire,
    };
    Ok(NodeInterface6 { prefix_len, ..own })
}

fn holder(devices: &Devices, address: IpAddr) -> Option<(&String, &Held)> {
    devices.iter().find_map(|(name, device)| {
        device.addresses.iter().find(|held| held.net.addr() == address).map(|held| (name, held))
    })
}

/// Asked for at once when one is taken: a network with more machines in a row costs another second.
const CANDIDATES: usize = 32;
/// The prefix of an IPv6 address that came without a range.
const ALONE: u8 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            id::{Arn, SubnetId, VpcId, VpcLinkId},
            load_balancer::LoadBalancerKind,
        },
        snapshot::{
            host::{HostInterface, SubnetNetwork},
            node::{LoadBalancerView, NodeInterface},
        },
    };

    fn listed() -> Vec<String> {
        vec!["eth1".to_owned()]
    }

    fn device(addresses: &[(&str, bool)]) -> Device {
        let held = |(net, marked): &(&str, bool)| Held { net: net.parse().unwrap(), marked: *marked };
        Device { addresses: addresses.iter().map(held).collect(), ..Device::default() }
    }

    fn devices(more: &[(&str, bool)]) -> Devices {
        let eth1 = [&[("10.0.1.10/16", false)], more].concat();
        let (router, router6) = ("10.0.0.254".parse().ok(), "fe80::1".parse().ok());
        let eth1 = Device { router, router6, ..device(&eth1) };
        [("eth0".to_owned(), device(&[("192.0.2.10/24", false)])), ("eth1".to_owned(), eth1)].into()
    }

    fn slice(addresses: &[(&str, &str)]) -> HostSlice {
        let mut slice = HostSlice::default();
        for (id, cidr) in [("subnet-a", "10.0.1.0/24"), ("subnet-b", "192.0.2.0/24")] {
            let cidr: Ipv4Net = cidr.parse().unwrap();
            let network =
                SubnetNetwork { vpc_id: VpcId::from("vpc-1"), cidr, router: cidr.network(), ipv6: None };
            slice.subnets.insert(SubnetId::from(id), network);
        }
        for (address, subnet) in addresses {
            let interface = HostInterface {
                vpc_id: VpcId::from("vpc-1"),
                subnet_id: SubnetId::from(*subnet),
                address: address.parse().unwrap(),
                owner: InterfaceOwner::LoadBalancer(Arn::from("lb")),
                groups: Vec::new(),
                ipv6: None,
            };
            slice.interfaces.insert(InterfaceId::from(format!("eni-{address}")), interface);
        }
        slice
    }

    /// The slice with IPv6: `10.0.1.4` is `fd00:0:0:1::4` too.
    fn dual(addresses: &[(&str, &str)]) -> HostSlice {
        let mut slice = slice(addresses);
        for subnet in slice.subnets.values_mut() {
            let [.., number, _] = subnet.cidr.network().octets();
            subnet.ipv6 = Some(format!("fd00:0:0:{number}::/64").parse().unwrap());
        }
        for interface in slice.interfaces.values_mut() {
            let [.., number, host] = interface.address.octets();
            interface.ipv6 = Some(format!("fd00:0:0:{number}::{host}").parse().unwrap());
        }
        slice
    }

    fn shown(list: &[Static]) -> Vec<String> {
        list.iter().map(|one| format!("{} on {}", one.address, one.device)).collect()
    }

    fn recorded(of: &[(&str, &str)]) -> Ours {
        of.iter().map(|(device, address)| ((*device).to_owned(), address.parse().unwrap())).collect()
    }

    #[test]
    fn an_address_is_added_once_and_then_stands() {
        let slice = slice(&[("10.0.1.4", "subnet-a")]);
        let plan = addresses(&slice, &listed(), &devices(&[]), &Ours::new());
        assert_eq!(shown(&plan.add), ["10.0.1.4 on eth1"]);
        let plan = addresses(&slice, &listed(), &devices(&[("10.0.1.4/32", true)]), &Ours::new());
        assert_eq!(
            (shown(&plan.stand), plan.add.len(), plan.remove.len()),
            (vec!["10.0.1.4 on eth1".to_owned()], 0, 0)
        );
    }

    #[test]
    fn only_what_bears_our_mark_is_removed() {
        let devices = devices(&[("10.0.1.4/32", true), ("10.0.1.5/32", false)]);
        let plan = addresses(&HostSlice::default(), &listed(), &devices, &Ours::new());
        assert_eq!(plan.remove, [("eth1".to_owned(), "10.0.1.4".parse().unwrap())]);
    }

    #[test]
    fn what_was_put_on_an_interface_that_is_no_longer_listed_goes_and_anothers_stays() {
        let devices = devices(&[("10.0.1.4/32", true), ("10.0.1.5/32", true)]);
        let plan = addresses(
            &slice(&[("10.0.1.4", "subnet-a")]),
            &["eth9".to_owned()],
            &devices,
            &recorded(&[("eth1", "10.0.1.4"), ("eth0", "10.0.1.5")]),
        );
        assert_eq!(plan.remove, [("eth1".to_owned(), "10.0.1.4".parse().unwrap())]);
        assert_eq!(
            plan.refused[0].2,
            "10.0.1.0/24 is on interface eth1, which [network] interfaces does not list"
        );
    }

    #[test]
    fn the_hosts_own_address_is_never_taken_for_ours() {
        let slice = slice(&[("10.0.1.10", "subnet-a"), ("192.0.2.4", "subnet-b")]);
        let plan = addresses(&slice, &listed(), &devices(&[]), &recorded(&[("eth1", "10.0.1.10")]));
        assert_eq!(plan.hosts.len(), 1);
        assert_eq!((plan.add.len(), plan.remove.len()), (0, 0));
        assert!(plan.refused[0].2.contains("eth0, which [network] interfaces does not list"), "{plan:?}");
    }

    #[test]
    fn ipv6_addresses_stand_where_those_of_ipv4_do() {
        let slice = dual(&[("10.0.1.4", "subnet-a")]);
        let held = devices(&[("fd00:0:0:1::a/64", false), ("10.0.1.4/32", true)]);
        let plan = addresses(&slice, &listed(), &held, &Ours::new());
        assert_eq!(shown(&plan.stand), ["10.0.1.4 on eth1"]);
        assert_eq!(shown(&plan.add), ["fd00:0:0:1::4 on eth1"]);
        assert_eq!(plan.add[0].subnet.to_string(), "fd00:0:0:1::/64");
        let gone = addresses(
            &HostSlice::default(),
            &listed(),
            &devices(&[("fd00:0:0:1::4/128", true)]),
            &Ours::new(),
        );
        assert_eq!(gone.remove, [("eth1".to_owned(), "fd00:0:0:1::4".parse().unwrap())]);
        // No IPv6 on the interface: IPv4 goes on alone.
        let plan = addresses(&slice, &listed(), &devices(&[]), &Ours::new());
        assert_eq!(shown(&plan.add), ["10.0.1.4 on eth1"]);
        assert_eq!(plan.refused.len(), 1);
        let (_, address, why) = &plan.refused[0];
        assert_eq!(address.to_string(), "fd00:0:0:1::4");
        assert_eq!(why, "no interface of the host has an address in fd00:0:0:1::/64");
    }

    #[test]
    fn candidates_of_ipv6_are_few_however_many_there_are() {
        let slice = dual(&[("10.0.1.4", "subnet-a"), ("10.0.1.6", "subnet-a")]);
        let subnet = "fd00:0:0:1::/64".parse().unwrap();
        let found = candidates(
            &slice,
            &devices(&[("fd00:0:0:1::7/64", false)]),
            subnet,
            "fd00:0:0:1::4".parse().unwrap(),
        );
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found[..3], ["fd00:0:0:1::5", "fd00:0:0:1::8", "fd00:0:0:1::9"]);
        assert_eq!(found.len(), CANDIDATES);
        let last = "fd00:0:0:1:ffff:ffff:ffff:fffe".parse().unwrap();
        assert_eq!(candidates(&slice, &devices(&[]), subnet, last), [] as [IpAddr; 0]);
    }

    #[test]
    fn what_is_no_load_balancers_is_refused() {
        let mut slice = slice(&[("10.0.1.4", "subnet-a")]);
        for interface in slice.interfaces.values_mut() {
            interface.owner = InterfaceOwner::VpcLink(VpcLinkId::from("abc"));
        }
        let plan = addresses(&slice, &listed(), &devices(&[]), &Ours::new());
        assert_eq!((plan.add.len(), plan.refused.len()), (0, 1));
    }

    #[test]
    fn candidates_come_after_the_taken_one_and_pass_over_what_is_known() {
        let slice = slice(&[("10.0.1.4", "subnet-a"), ("10.0.1.6", "subnet-a")]);
        let found = candidates(
            &slice,
            &devices(&[("10.0.1.7/32", true)]),
            "10.0.1.0/28".parse().unwrap(),
            "10.0.1.4".parse().unwrap(),
        );
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["10.0.1.5", "10.0.1.8", "10.0.1.9", "10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14"]
        );
    }

    fn node(addresses: &[&str]) -> NodeSlice {
        let interfaces = addresses.iter().map(|address| {
            let address: Ipv4Addr = address.parse().unwrap();
            let interface = NodeInterface {
                device: "eni".to_owned(),
                address,
                prefix_len: 24,
                router: "10.0.1.1".parse().unwrap(),
                zone: "a".to_owned(),
                ipv6: None,
                secondary: Vec::new(),
            };
            (InterfaceId::from(format!("eni-{address}")), interface)
        });
        let lb = LoadBalancerView {
            kind: LoadBalancerKind::Network,
            name: "lb".to_owned(),
            interfaces: interfaces.collect(),
            security_groups: Vec::new(),
            attributes: BTreeMap::new(),
        };
        NodeSlice {
            vpc_id: VpcId::from("vpc-1"),
            namespace: String::new(),
            load_balancers: [(Arn::from("lb"), lb)].into(),
            listeners: BTreeMap::new(),
            target_groups: BTreeMap::new(),
            security_groups: BTreeMap::new(),
            resolver: None,
            certificates: BTreeMap::new(),
            links: BTreeMap::new(),
        }
    }

    #[test]
    fn a_node_works_on_the_hosts_interface_with_its_range_and_router() {
        let (placed, refused) = place(&node(&["10.0.1.4"]), &listed(), &devices(&[]));
        assert_eq!(refused, [""; 0]);
        let interface = placed.load_balancers.values().next().unwrap().interfaces.values().next().unwrap();
        assert_eq!(
            (interface.device.as_str(), interface.prefix_len, interface.router.to_string().as_str()),
            ("eth1", 16, "10.0.0.254")
        );
    }

    #[test]
    fn a_node_has_of_ipv6_what_the_interface_has() {
        let mut slice = node(&["10.0.1.4"]);
        for lb in slice.load_balancers.values_mut() {
            for interface in lb.interfaces.values_mut() {
                interface.ipv6 = Some(NodeInterface6 {
                    address: "fd00:0:0:1::4".parse().unwrap(),
                    prefix_len: 64,
                    router: "fd00:0:0:1::1".parse().unwrap(),
                });
            }
        }
        let ipv6 = |held: &[(&str, bool)]| {
            let (placed, refused) = place(&slice, &listed(), &devices(held));
            let lb = placed.load_balancers.into_values().next().unwrap();
            let interface = lb.interfaces.into_values().next().unwrap();
            let shown = |own: NodeInterface6| format!("{}/{} by {}", own.address, own.prefix_len, own.router);
            (interface.ipv6.map(shown), refused)
        };
        let stands = |held: &str| (Some(format!("fd00:0:0:1::4/{held} by fe80::1")), Vec::new());
        assert_eq!(ipv6(&[("fd00:0:0:1::a/56", false)]), stands("56"));
        assert_eq!(ipv6(&[("fd00:0:0:1::a/128", false)]), stands("64"));
        let refused = |why: &str| (None, vec![format!("lb: {why}")]);
        assert_eq!(ipv6(&[("fd00:0:0:1::4/64", false)]), refused("fd00:0:0:1::4 is the host's own address"));
        let nowhere = "no interface of the host has an address in fd00:0:0:1::/64";
        assert_eq!(ipv6(&[("fd00:0:0:1::4/128", true)]), refused(nowhere));
    }

    #[test]
    fn a_node_never_works_on_an_interface_that_is_not_listed_nor_on_the_hosts_own_address() {
        let (placed, refused) = place(&node(&["192.0.2.4", "10.0.1.10"]), &listed(), &devices(&[]));
        assert_eq!(placed.load_balancers.values().next().unwrap().interfaces.len(), 0);
        assert_eq!(
            refused,
            [
                "lb: 10.0.1.10 is the host's own address",
                "lb: 192.0.2.0/24 is on interface eth0, which [network] interfaces does not list"
            ]
        );
    }
}
