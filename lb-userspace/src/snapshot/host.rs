//! What the host role needs: networks, interfaces and tasks; and which roles to run.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::permit::SecurityGroupView;
use crate::model::{
    id::{Arn, InstanceId, InterfaceId, SecurityGroupId, SubnetId, VpcId, VpcLinkId},
    network::InterfaceOwner,
    task::{ContainerDefinition, PortBinding},
};

/// Everything that must exist on this host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSlice {
    /// VPCs by id.
    pub vpcs: BTreeMap<VpcId, VpcNetwork>,
    /// Subnets by id.
    pub subnets: BTreeMap<SubnetId, SubnetNetwork>,
    /// Network interfaces by id.
    pub interfaces: BTreeMap<InterfaceId, HostInterface>,
    /// Machines by id.
    pub instances: BTreeMap<InstanceId, HostInstance>,
    /// The ways of answers that must come back by a load balancer.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub returns: BTreeSet<ReturnPath>,
    /// Security groups by id, resolved.
    pub security_groups: BTreeMap<SecurityGroupId, SecurityGroupView>,
    /// Tasks by ARN; one that is absent is stopped at once and forgotten.
    pub tasks: BTreeMap<Arn, HostTask>,
}

/// A VPC: a namespace with one bridge per subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcNetwork {
    /// Its range.
    pub cidr: Ipv4Net,
    /// Its place among the uplink's addresses, from 0.
    pub index: u32,
    /// Where its node answers DNS queries, if it has a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<Ipv4Addr>,
}

/// A subnet: a bridge in its VPC's namespace, with the router's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetNetwork {
    /// Its VPC.
    pub vpc_id: VpcId,
    /// Its range.
    pub cidr: Ipv4Net,
    /// The router's address.
    pub router: Ipv4Addr,
    /// Its IPv6 range, whose first address is the router's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Net>,
}

impl SubnetNetwork {
    /// The router's IPv6 address.
    pub fn router6(&self) -> Option<Ipv6Addr> {
        Some(Ipv6Addr::from(u128::from(self.ipv6?.network()) + 1))
    }
}

/// A network interface: a veth from its subnet's bridge into its owner's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInterface {
    /// Its VPC.
    pub vpc_id: VpcId,
    /// Its subnet.
    pub subnet_id: SubnetId,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Whose it is, which says in which namespace it lives.
    pub owner: InterfaceOwner,
    /// Its security groups, enforced here for instances and tasks.
    pub groups: Vec<SecurityGroupId>,
}

impl HostInterface {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(IpAddr::V4(self.address)), self.ipv6.map(IpAddr::V6)].into_iter().flatten()
    }

    /// Whether `address` is one of its.
    pub fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.address == address,
            IpAddr::V6(address) => self.ipv6 == Some(address),
        }
    }
}

/// A target that sees its clients' own addresses: it answers them, and yet its answers must come by the load balancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReturnPath {
    /// The VPC.
    pub vpc_id: VpcId,
    /// The target's address.
    pub address: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// The target's port.
    pub port: u16,
    /// The load balancer.
    pub load_balancer: Arn,
}

/// A machine: a namespace in which tasks run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInstance {
    /// Its network namespace.
    pub namespace: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A task on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTask {
    /// The machine.
    pub instance_id: InstanceId,
    /// The cluster's name, for the task's environment.
    pub cluster: String,
    /// `<family>:<revision>`, for the task's environment.
    pub family: String,
    /// Its containers.
    pub containers: Vec<ContainerDefinition>,
    /// False once it is to be stopped: SIGTERM, the stop timeout, SIGKILL.
    pub run: bool,
    /// Whether it ran already: if no process of it is left, it has stopped and is not started again.
    pub started: bool,
    /// Ports already picked, so that a re-adopted task keeps them.
    pub bindings: Vec<PortBinding>,
}

/// Which roles the supervisor must keep running on this host beside control, gateway and host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorSlice {
    /// One node per VPC that has a load balancer or a private DNS namespace; the value is its network namespace, empty if
    /// that is the host's own.
    pub nodes: BTreeMap<VpcId, String>,
    /// One link process per VPC link; the value is its network namespace.
    pub links: BTreeMap<VpcLinkId, String>,
}
