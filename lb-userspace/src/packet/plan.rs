//! What the packet path should be: listeners on addresses, who may use them, and where their flows go.
//!
//! `read` makes it of a slice; `reconcile` makes the maps what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use lb_common::abi::target_mode;
use lb_common::wire::protocol;
use serde::{Deserialize, Serialize};

use crate::model::{id::Arn, target_group::TargetKey};
use crate::network::Route;
pub use crate::snapshot::spread::Health as Verdict;

/// What the packet path should be. Values only: whatever is not in it is removed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Load balancers' interfaces by their IPv4 addresses: on a host's own network some share a device.
    pub nodes: BTreeMap<IpAddr, NodePlan>,
    /// The host's own ways to targets that are in none of the load balancers' subnets.
    pub routes: BTreeMap<IpAddr, Route>,
}

/// One interface of a network load balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct NodePlan {
    /// Name of the device in the node's namespace.
    pub device: String,
    /// Whose interface it is.
    pub balancer: Arn,
    /// The Availability zone that it is in.
    pub zone: String,
    /// What it has of IPv4.
    pub ipv4: Side,
    /// What it has of IPv6, on a dual-stack load balancer.
    pub ipv6: Option<Side>,
    /// Further addresses in its IPv4 subnet, and their devices: full NAT sends from them too, so that one target takes as
    /// many times more flows.
    pub secondary: BTreeMap<IpAddr, String>,
    /// Listeners by address, port and protocol.
    pub listeners: BTreeMap<ListenerName, ListenerPlan>,
}

/// What an interface has of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Its address.
    pub address: IpAddr,
    /// The subnet.
    pub subnet: IpNet,
    /// Next hop to everything outside the subnet.
    pub router: IpAddr,
}

/// What a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerName {
    /// The load balancer's static address.
    pub address: IpAddr,
    /// 1–65535.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What packets carry. QUIC is UDP, TLS is TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One listener on one address of an interface. A listener of two protocols is two of these.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerPlan {
    /// The listener.
    pub arn: Arn,
    /// Who may use it; `None` is everyone.
    pub sources: Option<BTreeSet<IpNet>>,
    /// Seconds of silence after which a flow makes room.
    pub idle_timeout_s: u32,
    /// What is special about it.
    pub service: Service,
    /// Whether a client's flows all go to one target.
    pub is_sticky: bool,
    /// Flows that may begin in a second; `None` is half of what the node may begin.
    pub new_flows_per_s: Option<u32>,
    /// All that flows may be at.
    pub targets: BTreeMap<TargetName, TargetPlan>,
}

/// What is done with a listener's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// They are forwarded.
    Forward,
    /// They are forwarded; connection ids name targets.
    Quic {
        /// Bytes of a server id, 1 to 8.
        server_id_length: u8,
    },
    /// What is admitted is the kernel's, and ends in a socket: TLS, or a PROXY header in front.
    Local,
}

/// A target of a listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetName {
    /// Its group.
    pub group: Arn,
    /// Its name in the group.
    pub key: TargetKey,
}

/// Where a target is and what it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPlan {
    /// Its address; the port is the name's.
    pub address: IpAddr,
    /// What its group gets of new flows, 0–999, and all that take part share; 0 takes no part.
    pub weight: u32,
    /// What health checks say.
    pub health: Verdict,
    /// How packets come to it.
    pub mode: Mode,
    /// What QUIC connection ids name it by, first byte lowest.
    pub server_id: Option<u64>,
    /// Whether its flows end when it is gone (`deregistration_delay.connection_termination.enabled`).
    pub terminates: bool,
    /// Seconds of bad health after which the flows that it has end; `None` is never.
    pub ends_after_s: Option<u32>,
    /// Whether its group is used whole, because too few are healthy.
    pub fails_open: bool,
}

/// How packets come to a target, and its answers back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Both addresses are rewritten.
    #[default]
    Nat,
    /// The target sees the client's address, and answers by this node.
    Preserve,
    /// As they are, to the target's MAC.
    L2,
    /// Inside another IP packet.
    Ipip,
    /// Inside another IP packet and UDP.
    Gue,
}

/// How an interface reaches an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach<'plan> {
    /// The device that leads there.
    pub device: &'plan str,
    /// Our address on it.
    pub via: IpAddr,
    /// Whose MAC is asked for.
    pub next_hop: IpAddr,
}

impl Plan {
    /// The ways that the node with this IPv4 address has to a target, the first of which is [`Self::reach`]'s. Full NAT of
    /// IPv4 has one by each further address of the interface that leads there.
    pub fn ways<'plan>(
        &'plan self,
        from: IpAddr,
        target: &TargetPlan,
    ) -> impl Iterator<Item = Reach<'plan>> + use<'plan> {
        let nearest = self.nearest(from, target.address);
        let has_more = target.mode == Mode::Nat && target.address.is_ipv4();
        let more = nearest.filter(|_| has_more).into_iter().flat_map(|(node, first)| {
            node.secondary.iter().map(move |(via, own)| {
                // Beyond another interface of the host's, all are sent by that one.
                let device = if first.device == node.device { own.as_str() } else { first.device };
                Reach { device, via: *via, ..first }
            })
        });
        nearest.map(|(_, first)| first).into_iter().chain(more)
    }

    /// How the node with this IPv4 address reaches another: directly, or by another interface of its load balancer that is
    /// in the address's subnet, or as the host does, or by its own router. `None` if it has nothing of the address's family.
    pub fn reach(&self, from: IpAddr, address: IpAddr) -> Option<Reach<'_>> {
        self.nearest(from, address).map(|(_, reach)| reach)
    }

    fn nearest(&self, from: IpAddr, address: IpAddr) -> Option<(&NodePlan, Reach<'_>)> {
        let node = self.nodes.get(&from)?;
        let direct = |node: &'_ NodePlan| {
            let side = node.side(address).filter(|side| side.subnet.contains(&address))?;
            Some((side.address, address))
        };
        let siblings = self.nodes.values().filter(|other| other.balancer == node.balancer);
        let beside = [node].into_iter().chain(siblings).find_map(|one| Some((one, direct(one)?)));
        let (by, (via, next_hop)) = match beside {
            Some(found) => found,
            None => {
                let side = node.side(address)?;
                let Some(Route { device, next_hop }) = self.routes.get(&address) else {
                    let (device, via, next_hop) = (&node.device, side.address, side.router);
                    return Some((node, Reach { device, via, next_hop }));
                };
                return Some((node, Reach { device, via: side.address, next_hop: *next_hop }));
            }
        };
        Some((by, Reach { device: &by.device, via, next_hop }))
    }

    /// Every listener with the IPv4 address of the interface it is on.
    pub fn listeners(&self) -> impl Iterator<Item = (IpAddr, &ListenerName, &ListenerPlan)> {
        self.nodes
            .iter()
            .flat_map(|(own, node)| node.listeners.iter().map(move |(name, listener)| (*own, name, listener)))
    }

    /// Addresses of targets that are in none of the load balancers' subnets.
    pub fn strangers(&self) -> BTreeSet<IpAddr> {
        let is_inside = |address: &IpAddr| {
            let mut sides = self.nodes.values().filter_map(|node| node.side(*address));
            sides.any(|side| side.subnet.contains(address))
        };
        let targets = self.listeners().flat_map(|(_, _, listener)| listener.targets.values());
        targets.map(|target| target.address).filter(|address| !is_inside(address)).collect()
    }

    /// The devices that only the host's own ways to targets lead by.
    pub fn beyond(&self) -> BTreeSet<&String> {
        let own: BTreeSet<&String> = self.devices().collect();
        self.routes.values().map(|route| &route.device).filter(|device| !own.contains(device)).collect()
    }

    /// The devices of all interfaces.
    pub fn devices(&self) -> impl Iterator<Item = &String> {
        self.nodes.values().flat_map(|node| std::iter::once(&node.device).chain(node.secondary.values()))
    }
}

impl NodePlan {
    /// What it has of the same family as `peer`.
    pub fn side(&self, peer: IpAddr) -> Option<&Side> {
        if peer.is_ipv4() { Some(&self.ipv4) } else { self.ipv6.as_ref() }
    }

    /// All its addresses with the devices that they are on, further ones included.
    pub fn all_addresses(&self) -> impl Iterator<Item = (IpAddr, &String)> {
        let more = self.secondary.iter().map(|(address, device)| (*address, device));
        self.addresses().map(|address| (address, &self.device)).chain(more)
    }

    /// The addresses that clients connect to.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(self.ipv4), self.ipv6].into_iter().flatten().map(|side| side.address)
    }
}

impl ListenerPlan {
    /// Whether targets of it answer past us.
    pub fn is_direct(&self) -> bool {
        self.targets.values().any(|target| target_mode::is_direct(target.mode.number()))
    }
}

impl Protocol {
    /// IANA number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    /// By its IANA number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            protocol::TCP => Some(Self::Tcp),
            protocol::UDP => Some(Self::Udp),
            _ => None,
        }
    }
}

impl Mode {
    /// One of [`target_mode`].
    pub const fn number(self) -> u16 {
        match self {
            Self::Nat => target_mode::NAT,
            Self::Preserve => target_mode::PRESERVE,
            Self::L2 => target_mode::L2,
            Self::Ipip => target_mode::IPIP,
            Self::Gue => target_mode::GUE,
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("'{text}' is not tcp or udp")),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, std::net::SocketAddr::new(self.address, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(address: &str, length: u8, router: &str) -> Side {
        let address: IpAddr = address.parse().unwrap();
        let subnet = IpNet::new(address, length).unwrap().trunc();
        Side { address, subnet, router: router.parse().unwrap() }
    }

    const DEVICES: [&str; 4] = ["", "a", "b", "c"];

    fn node(balancer: &str, number: u8, is_dual: bool) -> NodePlan {
        let ipv6 = || side(&format!("fd00:0:0:{number}::4"), 64, &format!("fd00:0:0:{number}::1"));
        NodePlan {
            device: DEVICES[usize::from(number)].to_owned(),
            balancer: Arn::from(balancer.to_owned()),
            zone: "a".to_owned(),
            ipv4: side(&format!("10.0.{number}.4"), 24, &format!("10.0.{number}.1")),
            ipv6: is_dual.then(ipv6),
            secondary: BTreeMap::new(),
            listeners: BTreeMap::new(),
        }
    }

    fn reached(plan: &Plan, from: &str, to: &str) -> Option<(String, String, String)> {
        let own = plan.nodes.iter().find(|(_, node)| node.device == from).map(|(own, _)| *own)?;
        let reach = plan.reach(own, to.parse().unwrap())?;
        Some((reach.device.to_owned(), reach.via.to_string(), reach.next_hop.to_string()))
    }

    #[test]
    fn a_target_is_reached_by_the_interface_that_is_in_its_subnet() {
        let plan = Plan {
            nodes: [node("one", 1, true), node("one", 2, true), node("two", 3, false)]
                .into_iter()
                .map(|node| (node.ipv4.address, node))
                .collect(),
            ..Plan::default()
        };
        let is = |from, to, device: &str, via: &str, hop: &str| {
            let found = reached(&plan, from, to);
            assert_eq!(found, Some((device.to_owned(), via.to_owned(), hop.to_owned())), "{from} to {to}");
        };
        is("a", "10.0.1.20", "a", "10.0.1.4", "10.0.1.20");
        is("a", "10.0.2.20", "b", "10.0.2.4", "10.0.2.20");
        is("a", "fd00:0:0:2::20", "b", "fd00:0:0:2::4", "fd00:0:0:2::20");
        // Other load balancers' interfaces are not ours to send by.
        is("a", "10.0.3.20", "a", "10.0.1.4", "10.0.1.1");
        is("a", "fd00:0:0:9::20", "a", "fd00:0:0:1::4", "fd00:0:0:1::1");
        assert_eq!(reached(&plan, "c", "fd00:0:0:2::20"), None);
    }

    #[test]
    fn full_nat_has_a_way_by_each_address_of_the_interface_that_leads_there() {
        let mut plan = Plan {
            nodes: [node("one", 1, true), node("one", 2, true)]
                .into_iter()
                .map(|node| (node.ipv4.address, node))
                .collect(),
            ..Plan::default()
        };
        let own: IpAddr = "10.0.1.4".parse().unwrap();
        let more: IpAddr = "10.0.2.5".parse().unwrap();
        plan.nodes.values_mut().last().unwrap().secondary = [(more, "more".to_owned())].into();
        let ways = |address: &str, mode: Mode| -> Vec<(String, String)> {
            let target = TargetPlan {
                address: address.parse().unwrap(),
                weight: 1,
                health: Verdict::Healthy,
                mode,
                server_id: None,
                terminates: false,
                ends_after_s: None,
                fails_open: false,
            };
            let ways = plan.ways(own, &target);
            ways.map(|reach| (reach.device.to_owned(), reach.via.to_string())).collect()
        };
        let way = |device: &str, via: &str| (device.to_owned(), via.to_owned());
        assert_eq!(ways("10.0.2.20", Mode::Nat), [way("b", "10.0.2.4"), way("more", "10.0.2.5")]);
        // The target sees the client's address, or answers past us; an IPv6 target is reached from an IPv6 address.
        assert_eq!(ways("10.0.2.20", Mode::Preserve), [way("b", "10.0.2.4")]);
        assert_eq!(ways("10.0.2.20", Mode::Ipip), [way("b", "10.0.2.4")]);
        assert_eq!(ways("fd00:0:0:2::20", Mode::Nat), [way("b", "fd00:0:0:2::4")]);
        assert_eq!(ways("10.0.1.20", Mode::Nat), [way("a", "10.0.1.4")]);
    }

    #[test]
    fn a_target_in_no_subnet_of_ours_is_reached_as_the_host_reaches_it() {
        let mut plan = Plan {
            nodes: [node("one", 1, false)].into_iter().map(|node| (node.ipv4.address, node)).collect(),
            ..Plan::default()
        };
        let is = |plan: &Plan, to, device: &str, hop: &str| {
            let found = reached(plan, "a", to);
            assert_eq!(found, Some((device.to_owned(), "10.0.1.4".to_owned(), hop.to_owned())), "to {to}");
        };
        is(&plan, "10.0.7.20", "a", "10.0.1.1");
        let route =
            |device: &str, hop: &str| Route { device: device.to_owned(), next_hop: hop.parse().unwrap() };
        plan.routes.insert("10.0.7.20".parse().unwrap(), route("z", "10.0.7.20"));
        plan.routes.insert("10.0.8.20".parse().unwrap(), route("a", "10.0.1.9"));
        is(&plan, "10.0.7.20", "z", "10.0.7.20");
        is(&plan, "10.0.8.20", "a", "10.0.1.9");
        // What is on the wire is reached there, whatever the host would do.
        plan.routes.insert("10.0.1.20".parse().unwrap(), route("z", "10.0.7.1"));
        is(&plan, "10.0.1.20", "a", "10.0.1.20");
        assert_eq!(plan.beyond(), [&"z".to_owned()].into());
    }
}
