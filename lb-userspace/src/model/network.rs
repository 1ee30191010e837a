//! VPCs, subnets, security groups, network interfaces and instances (ec2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::id::{Arn, InstanceId, InterfaceId, SecurityGroupId, SubnetId, TimestampMs, VpcId, VpcLinkId};

/// Tags in the order they were given; keys are unique.
pub type Tags = Vec<Tag>;

/// One tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// 1–128 characters.
    pub key: String,
    /// 0–256 characters.
    pub value: String,
}

/// A VPC: an address space of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    /// Its id.
    pub id: VpcId,
    /// Its address range, /16 to /28.
    pub cidr: Ipv4Net,
    /// Its IPv6 range, if it was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Block>,
    /// Its place among the VPCs of this appliance: the lowest number that no other VPC has, for its life.
    pub index: u32,
    /// EnableDnsSupport.
    pub dns_support: bool,
    /// EnableDnsHostnames.
    pub dns_hostnames: bool,
    /// Its tags.
    pub tags: Tags,
}

impl Vpc {
    /// Where the VPC's resolver answers DNS queries, as in AWS: the range's first address plus two. `None` if
    /// EnableDnsSupport is off.
    pub fn resolver(&self) -> Option<Ipv4Addr> {
        // No interface can have it: in the subnet that holds it, if one does, it is reserved.
        self.dns_support.then(|| Ipv4Addr::from(u32::from(self.cidr.network()) + RESOLVER_HOST))
    }
}

/// The resolver's number in its VPC's range.
const RESOLVER_HOST: u32 = 2;

/// An IPv6 range that a VPC or a subnet was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Block {
    /// `vpc-cidr-assoc-` or `subnet-cidr-assoc-` and 17 hex digits.
    pub association_id: String,
    /// The range: a VPC's is /44 to /60, a subnet's inside it and at most /64.
    pub cidr: Ipv6Net,
}

/// A subnet of a VPC, in one zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its id.
    pub id: SubnetId,
    /// The VPC it is part of.
    pub vpc_id: VpcId,
    /// Its range, inside the VPC's. The first address is the router's; AWS reserves the first four and the last.
    pub cidr: Ipv4Net,
    /// Its IPv6 range, if it was given one. The same addresses are reserved as in IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Block>,
    /// AssignIpv6AddressOnCreation: whether instances get an IPv6 address unasked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assign_ipv6: bool,
    /// Availability zone, such as `eu-central-1a`.
    pub zone: String,
    /// Its tags.
    pub tags: Tags,
}

impl Subnet {
    /// The router's address: the first usable one, as in AWS.
    pub fn router(&self) -> Ipv4Addr {
        self.cidr.hosts().next().unwrap_or_else(|| self.cidr.network())
    }

    /// Whether `address` may be given to an interface: in the range and not reserved by AWS (first four, last).
    pub fn is_assignable(&self, address: Ipv4Addr) -> bool {
        let offset = u32::from(address).wrapping_sub(u32::from(self.cidr.network()));
        self.cidr.contains(&address) && offset >= 4 && address != self.cidr.broadcast()
    }

    /// Its IPv6 range.
    pub fn ipv6_cidr(&self) -> Option<Ipv6Net> {
        self.ipv6.as_ref().map(|block| block.cidr)
    }

    /// The router's IPv6 address: the first after the subnet's own.
    pub fn router6(&self) -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(u128::from(self.ipv6_cidr()?.network()) + 1))
    }

    /// Whether the IPv6 `address` may be given to an interface: in the range and not reserved by AWS (first four, last).
    pub fn is_assignable6(&self, address: Ipv6Addr) -> bool {
        self.ipv6_cidr().is_some_and(|cidr| {
            let offset = u128::from(address).wrapping_sub(u128::from(cidr.network()));
            cidr.contains(&address) && offset >= 4 && address != cidr.broadcast()
        })
    }

    /// Whether `address` is in one of its ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.cidr.contains(&address),
            IpAddr::V6(address) => self.ipv6_cidr().is_some_and(|cidr| cidr.contains(&address)),
        }
    }
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// Its id.
    pub id: SecurityGroupId,
    /// The VPC it is part of.
    pub vpc_id: VpcId,
    /// Unique in the VPC.
    pub name: String,
    /// GroupDescription.
    pub description: String,
    /// What may come in.
    pub ingress: Vec<SecurityGroupRule>,
    /// What may go out; a new group has one rule that permits all.
    pub egress: Vec<SecurityGroupRule>,
    /// Its tags.
    pub tags: Tags,
}

/// One permission of a security group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupRule {
    /// `sgr-` and 17 hex digits.
    pub id: String,
    /// IpProtocol: `tcp`, `udp`, `icmp`, a number, or `-1` for all.
    pub protocol: String,
    /// First port, or ICMP type; `None` with protocol `-1`.
    pub from_port: Option<i32>,
    /// Last port, or ICMP code.
    pub to_port: Option<i32>,
    /// Who the other side is.
    pub peer: SecurityGroupPeer,
    /// Description.
    pub description: Option<String>,
}

/// The other side of a security-group rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecurityGroupPeer {
    /// A range of either family.
    Cidr(IpNet),
    /// Every interface that is in the named group.
    Group(SecurityGroupId),
}

/// A network interface (ENI): its private addresses in a subnet, and who it was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its id.
    pub id: InterfaceId,
    /// Its VPC.
    pub vpc_id: VpcId,
    /// Its subnet.
    pub subnet_id: SubnetId,
    /// Its primary private address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Its security groups.
    pub groups: Vec<SecurityGroupId>,
    /// Who it was made for.
    pub owner: InterfaceOwner,
    /// Description, in AWS's forms (`ELB app/name/id`, `VPC Link …`).
    pub description: String,
    /// Whether its address was asked for, and not chosen by us: then no other will do.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub requested: bool,
    /// Whether its address stands where it must.
    #[serde(default, skip_serializing_if = "Standing::stands")]
    pub standing: Standing,
    /// As `requested`, of its IPv6 address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6_requested: bool,
    /// As `standing`, of its IPv6 address; one that it does not have stands.
    #[serde(default, skip_serializing_if = "Standing::stands")]
    pub ipv6_standing: Standing,
}

/// Whether an address stands. Where we make the network ourselves, it always does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It does.
    #[default]
    Stands,
    /// The host has yet to say that nobody else has it.
    Awaited,
    /// It cannot, and why.
    Refused(String),
}

impl Standing {
    /// Whether it does.
    pub fn stands(&self) -> bool {
        *self == Self::Stands
    }
}

impl Interface {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(IpAddr::V4(self.address)), self.ipv6.map(IpAddr::V6)].into_iter().flatten()
    }

    /// Whether each of its addresses stands.
    pub fn standings(&self) -> [&Standing; 2] {
        [&self.standing, &self.ipv6_standing]
    }
}

/// What a network interface belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InterfaceOwner {
    /// A load balancer, by ARN: lives in the VPC's node namespace.
    LoadBalancer(Arn),
    /// A VPC link: lives in the link's namespace.
    VpcLink(VpcLinkId),
    /// An instance (machine): lives in the instance's namespace.
    Instance(InstanceId),
    /// A task in awsvpc mode, by ARN: lives in a namespace of its own.
    Task(Arn),
}

/// An Elastic IP address. It is recorded and shown: whoever routes it here translates it, for nothing here has public
/// addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElasticIp {
    /// `eipalloc-` and 17 hex digits.
    pub allocation_id: String,
    /// The public address.
    pub address: Ipv4Addr,
    /// Its tags.
    pub tags: Tags,
}

/// An instance: a machine with an address in a subnet, on which tasks run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its VPC.
    pub vpc_id: VpcId,
    /// Its subnet.
    pub subnet_id: SubnetId,
    /// Its interface.
    pub interface_id: InterfaceId,
    /// Its private address.
    pub address: Ipv4Addr,
    /// InstanceType, recorded as given.
    pub instance_type: String,
    /// ImageId, recorded as given.
    pub image_id: String,
    /// The ECS cluster named by its user data (`ECS_CLUSTER=…`), as the ECS agent reads it.
    pub ecs_cluster: Option<String>,
    /// Where it is in its life.
    pub state: InstanceState,
    /// When it was launched.
    pub launched_at: TimestampMs,
    /// Its tags.
    pub tags: Tags,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceState {
    /// Asked for; its namespace is being made.
    Pending,
    /// Its namespace stands.
    Running,
    /// Being taken down.
    ShuttingDown,
    /// Gone, with its address; shown for an hour.
    Terminated {
        /// When it ended.
        at: TimestampMs,
    },
}

impl InstanceState {
    /// Whether the machine is there or on its way, rather than going or gone.
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Pending | Self::Running)
    }
}
