//! Static addresses on the host's own interfaces: what must stand there, what stands, and the difference.
//!
//! What is ours on an interface is known by a mark that the kernel keeps with each address, and by a record on disk of
//! which interfaces we were ever allowed to use. Everything else there is the host's, and is never changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;

use crate::{
    model::{id::InterfaceId, network::InterfaceOwner, underlay::Underlay},
    snapshot::{host::HostSlice, node::NodeSlice},
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
}

/// An address that an interface has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The address with its range.
    pub net: Ipv4Net,
    /// Whether it bears our mark.
    pub marked: bool,
}

/// An address of ours, by interface.
pub type Ours = BTreeSet<(String, Ipv4Addr)>;

/// An interface's address, and where it must stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Static {
    /// Whose it is.
    pub interface: InterfaceId,
    /// Where.
    pub device: String,
    /// The address.
    pub address: Ipv4Addr,
    /// Its subnet's range.
    pub subnet: Ipv4Net,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPlan {
    /// Ours, and no longer wanted.
    pub remove: Vec<(String, Ipv4Addr)>,
    /// Wanted, and there.
    pub stand: Vec<Static>,
    /// Wanted, and not there.
    pub add: Vec<Static>,
    /// Wanted, and the host's own: of which interface.
    pub hosts: Vec<(Static, String)>,
    /// Wanted, and nowhere to put.
    pub refused: Vec<(InterfaceId, Ipv4Addr, String)>,
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
    for (id, interface) in &slice.interfaces {
        let refused = |why: String| (id.clone(), interface.address, why);
        if !matches!(interface.owner, InterfaceOwner::LoadBalancer(_)) {
            plan.refused.push(refused("only load balancers are on the host's own interfaces".to_owned()));
            continue;
        }
        let Some(subnet) = slice.subnets.get(&interface.subnet_id) else {
            plan.refused.push(refused(format!("its subnet {} is not in the slice", interface.subnet_id)));
            continue;
        };
        let device = match underlay.place(subnet.cidr) {
            Ok(place) => place.interface.to_owned(),
            Err(misplaced) => {
                plan.refused.push(refused(misplaced.to_string()));
                continue;
            }
        };
        let wants = Static {
            interface: id.clone(),
            device: device.clone(),
            address: interface.address,
            subnet: subnet.cidr,
        };
        match holder(devices, interface.address) {
            Some((name, held)) if !held.marked => plan.hosts.push((wants, name.clone())),
            Some((name, _)) if *name == device => {
                wanted.insert((device, interface.address));
                plan.stand.push(wants);
            }
            _ => {
                wanted.insert((device, interface.address));
                plan.add.push(wants);
            }
        }
    }
    plan.remove = ours(listed, devices, recorded).difference(&wanted).cloned().collect();
    plan
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
pub fn candidates(slice: &HostSlice, devices: &Devices, subnet: Ipv4Net, taken: Ipv4Addr) -> Vec<Ipv4Addr> {
    let is_used = |address: Ipv4Addr| {
        holder(devices, address).is_some()
            || slice.interfaces.values().any(|interface| interface.address == address)
    };
    let after = u32::from(taken).saturating_add(1)..u32::from(subnet.broadcast());
    after.map(Ipv4Addr::from).filter(|address| !is_used(*address)).take(CANDIDATES).collect()
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
            if underlay.is_hosts(interface.address) {
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
                !underlay.is_hosts(own.address)
            });
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

fn holder(devices: &Devices, address: Ipv4Addr) -> Option<(&String, &Held)> {
    devices.iter().find_map(|(name, device)| {
        device.addresses.iter().find(|held| held.net.addr() == address).map(|held| (name, held))
    })
}

/// Asked for at once when one is taken: a network with more machines in a row costs another second.
const CANDIDATES: usize = 32;

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
        let eth1 = Device { router: Some("10.0.0.254".parse().unwrap()), ..device(&eth1) };
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
