//! What a node role needs: load balancers, rules, target groups, security groups and DNS zones of one VPC.
//!
//! Maps are keyed by text so that a difference between two slices names what changed and nothing else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use super::{
    gateway::RoleCertificate,
    permit::{self, SecurityGroupView},
    zone::ResolverView,
};
use crate::model::{
    id::{Arn, InterfaceId, SecurityGroupId, TimestampMs, VpcId, VpcLinkId},
    load_balancer::{Action, Attributes, Condition, LoadBalancerKind},
    target_group::{HealthCheck, TargetKey},
};

/// One VPC's data plane.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeSlice {
    /// The VPC.
    pub vpc_id: VpcId,
    /// The network namespace that the node works in; empty if that is the host's own.
    pub namespace: String,
    /// Load balancers by ARN.
    pub load_balancers: BTreeMap<Arn, LoadBalancerView>,
    /// Listeners by ARN.
    pub listeners: BTreeMap<Arn, ListenerView>,
    /// Target groups by ARN: those that a listener or rule of this VPC names, and those that none does.
    pub target_groups: BTreeMap<Arn, TargetGroupView>,
    /// Security groups of the VPC by id, resolved.
    pub security_groups: BTreeMap<SecurityGroupId, SecurityGroupView>,
    /// The VPC's resolver, unless EnableDnsSupport is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolver: Option<ResolverView>,
    /// Certificates with their keys by ARN: those that a listener of this VPC names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<Arn, RoleCertificate>,
    /// The addresses of the VPC's links by id: a client with one of them came through that link.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<VpcLinkId, Vec<Ipv4Addr>>,
}

impl NodeSlice {
    /// Whether the node works on the host's own interfaces. A router joins the subnets of a VPC that we made; networks of
    /// a host may have nothing in common but the host.
    pub fn is_on_host(&self) -> bool {
        self.namespace.is_empty()
    }

    /// Whether the security groups of a load balancer let it send to a port; without groups, it sends anywhere.
    pub fn may_send(&self, load_balancer: &LoadBalancerView, protocol: u8, to: SocketAddr) -> bool {
        let groups = &load_balancer.security_groups;
        let mut views = groups.iter().filter_map(|id| self.security_groups.get(id));
        groups.is_empty()
            || views.any(|group| permit::is_admitted(&group.egress, protocol, to.port(), to.ip()))
    }

    /// Whether a listener of a network load balancer ends in userspace, so that the packet path passes what it admits:
    /// it speaks TLS, or a group that it forwards to wants a header in front of the client's bytes.
    pub fn ends_in_userspace(&self, listener: &ListenerView) -> bool {
        let wants_header = |arn: &Arn| {
            self.target_groups.get(arn).is_some_and(|group| group.is_on("proxy_protocol_v2.enabled"))
        };
        match listener.protocol.as_str() {
            "TLS" => true,
            "TCP" => listener.default_actions.iter().flat_map(Action::groups).any(wants_header),
            _ => false,
        }
    }

    /// The application load balancer that a network load balancer's listener forwards to, and the port of the
    /// listener there. It is of this VPC, so it is this node's too, and takes the connections itself.
    pub fn application_behind(&self, listener: &ListenerView) -> Option<(&Arn, u16)> {
        let groups = listener.default_actions.iter().flat_map(Action::groups);
        let groups = groups.filter_map(|arn| self.target_groups.get(arn));
        let targets = groups.flat_map(|group| group.targets.values());
        targets.filter(|target| target.draining_until.is_none()).find_map(|target| {
            let (arn, view) = self.load_balancers.get_key_value(&Arn::from(target.key.id.as_str()))?;
            (view.kind == LoadBalancerKind::Application).then_some((arn, target.key.port))
        })
    }
}

/// A load balancer, as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerView {
    /// Application or network.
    pub kind: LoadBalancerKind,
    /// Name, for logs and metrics.
    pub name: String,
    /// Where it is: one interface per subnet.
    pub interfaces: BTreeMap<InterfaceId, NodeInterface>,
    /// Its security groups; none on a network load balancer admits all.
    pub security_groups: Vec<SecurityGroupId>,
    /// Attributes that were set.
    pub attributes: Attributes,
}

impl LoadBalancerView {
    /// Its address on the network that `target` is on, if it is on one of its own.
    pub fn address_beside(&self, target: IpAddr) -> Option<IpAddr> {
        self.interfaces.values().find_map(|interface| interface.address_beside(target))
    }
}

impl NodeInterface {
    /// Its address with its network.
    pub fn network(&self) -> Option<Ipv4Net> {
        Ipv4Net::new(self.address, self.prefix_len).ok()
    }

    /// Its address on the network that `target` is on, if that is one of its own.
    pub fn address_beside(&self, target: IpAddr) -> Option<IpAddr> {
        let network = match target {
            IpAddr::V4(_) => self.network()?.into(),
            IpAddr::V6(_) => self.ipv6.and_then(|own| IpNet::new(own.address.into(), own.prefix_len).ok())?,
        };
        network.contains(&target).then_some(network.addr())
    }
}

/// An interface of a load balancer in the node's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInterface {
    /// Name of the device in the node's namespace.
    pub device: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix_len: u8,
    /// The subnet's router, next hop to everything outside the subnet.
    pub router: Ipv4Addr,
    /// Availability zone.
    pub zone: String,
    /// What it has of IPv6, on a dual-stack load balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<NodeInterface6>,
    /// Further addresses of the load balancer in the subnet: nobody connects to these, and what goes to targets may come
    /// from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secondary: Vec<NodeSecondary>,
}

/// A further address of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSecondary {
    /// Name of the device in the node's namespace.
    pub device: String,
    /// The address.
    pub address: Ipv4Addr,
}

impl NodeInterface {
    /// Its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(IpAddr::V4(self.address)), self.ipv6.map(|own| own.address.into())].into_iter().flatten()
    }

    /// Its address of the same family as `peer`, if it has one.
    pub fn address_towards(&self, peer: IpAddr) -> Option<IpAddr> {
        match peer {
            IpAddr::V4(_) => Some(self.address.into()),
            IpAddr::V6(_) => self.ipv6.map(|own| own.address.into()),
        }
    }
}

/// What an interface has of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInterface6 {
    /// Its address.
    pub address: Ipv6Addr,
    /// Length of the subnet's prefix.
    pub prefix_len: u8,
    /// The subnet's router, next hop to everything outside the subnet.
    pub router: Ipv6Addr,
}

/// A listener, as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerView {
    /// The load balancer it is part of.
    pub load_balancer: Arn,
    /// HTTP, HTTPS, TCP, ….
    pub protocol: String,
    /// 1–65535.
    pub port: u16,
    /// Rules by rising priority; the default is not among them.
    pub rules: Vec<RuleView>,
    /// What is done when no rule matches.
    pub default_actions: Vec<Action>,
    /// Attributes that were set.
    pub attributes: Attributes,
    /// How clients are met, for HTTPS and TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsView>,
}

/// A listener's TLS, as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsView {
    /// The security policy's name.
    pub policy: String,
    /// Certificates in `NodeSlice::certificates`, the default first.
    pub certificates: Vec<Arn>,
    /// AlpnPolicy; `None` is AWS's `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
}

/// A rule, as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Its ARN.
    pub arn: Arn,
    /// 1–50,000.
    pub priority: u32,
    /// All must match.
    pub conditions: Vec<Condition>,
    /// What is done.
    pub actions: Vec<Action>,
}

/// A target group, as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetGroupView {
    /// Name, for logs and metrics.
    pub name: String,
    /// HTTP, TCP, ….
    pub protocol: String,
    /// Whether any listener or rule forwards to it; if not, its targets are unused and not checked.
    pub in_use: bool,
    /// How targets are checked.
    pub health_check: HealthCheck,
    /// Attributes that were set.
    pub attributes: Attributes,
    /// Targets by `<id>:<port>`.
    pub targets: BTreeMap<String, TargetView>,
}

impl TargetGroupView {
    /// Whether an attribute that is off by default was set to `true`.
    pub fn is_on(&self, attribute: &str) -> bool {
        self.is(attribute, false)
    }

    /// Whether the flows of a target end when it was deregistered and is gone. "For new UDP/TCP_UDP target groups the
    /// default is true. Otherwise, the default is false."
    pub fn ends_deregistered(&self) -> bool {
        self.is("deregistration_delay.connection_termination.enabled", self.takes_datagrams())
    }

    /// Seconds of bad health after which the flows of a target end: at once, which is AWS's default where flows are
    /// connections, or after the draining interval; `None` is never.
    pub fn ends_unhealthy_after_s(&self) -> Option<u32> {
        let key = "target_health_state.unhealthy.connection_termination.enabled";
        // "This attribute can't be enabled for UDP and TCP_UDP target groups."
        if self.is(key, !self.takes_datagrams()) {
            return Some(0);
        }
        let interval = self.attributes.get("target_health_state.unhealthy.draining_interval_seconds")?;
        interval.parse().ok().filter(|seconds| *seconds > 0)
    }

    fn is(&self, attribute: &str, default: bool) -> bool {
        self.attributes.get(attribute).map_or(default, |value| value == "true")
    }

    fn takes_datagrams(&self) -> bool {
        matches!(self.protocol.as_str(), "UDP" | "TCP_UDP")
    }

    /// Whether its targets have the load balancer's addresses themselves, and answer clients past it.
    pub fn answers_itself(&self) -> bool {
        let mode = self.attributes.get("gatehouse.forwarding").map(String::as_str);
        matches!(mode, Some("l2" | "ipip" | "gue"))
    }
}

/// A target, as the node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetView {
    /// Its name in the group.
    pub key: TargetKey,
    /// Its address; the port is the key's.
    pub address: IpAddr,
    /// The Availability zone that it is in; `None` is every zone (AWS: `all`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What connection ids name it by (QuicServerId), of a QUIC or TCP_QUIC group's targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<u64>,
    /// When it was registered: a new registration starts from the initial state.
    pub registered_at: TimestampMs,
    /// Until when it finishes what it has, if it was deregistered: it gets nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining_until: Option<TimestampMs>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_beside_what_is_on_its_network_and_of_its_family() {
        let ipv6 = NodeInterface6 {
            address: "fd00:0:0:1::4".parse().unwrap(),
            prefix_len: 64,
            router: "fe80::1".parse().unwrap(),
        };
        let interface = NodeInterface {
            device: "eth1".to_owned(),
            address: "10.0.1.4".parse().unwrap(),
            prefix_len: 24,
            router: "10.0.1.1".parse().unwrap(),
            zone: "a".to_owned(),
            ipv6: Some(ipv6),
            secondary: Vec::new(),
        };
        let beside = |own: &NodeInterface, target: &str| {
            own.address_beside(target.parse().unwrap()).map(|address| address.to_string())
        };
        assert_eq!(beside(&interface, "10.0.1.60").as_deref(), Some("10.0.1.4"));
        assert_eq!(beside(&interface, "10.0.2.60"), None);
        assert_eq!(beside(&interface, "fd00:0:0:1::60").as_deref(), Some("fd00:0:0:1::4"));
        assert_eq!(beside(&interface, "fd00:0:0:2::60"), None);
        assert_eq!(beside(&NodeInterface { ipv6: None, ..interface }, "fd00:0:0:1::60"), None);
    }
}
