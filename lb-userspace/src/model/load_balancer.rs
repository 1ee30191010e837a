//! Load balancers, listeners, rules, conditions and actions (elbv2).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{
    id::{Arn, InterfaceId, SecurityGroupId, SubnetId, TimestampMs, VpcId},
    network::Tags,
};

/// Attributes by AWS's key, as text; absent keys have AWS's default.
pub type Attributes = BTreeMap<String, String>;

/// Which of AWS's load balancers it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadBalancerKind {
    /// `application`: HTTP in userspace.
    Application,
    /// `network`: XDP.
    Network,
}

impl LoadBalancerKind {
    /// The word in ARNs and DNS names: `app` or `net`.
    pub fn arn_word(self) -> &'static str {
        match self {
            Self::Application => "app",
            Self::Network => "net",
        }
    }

    /// AWS's word: `application` or `network`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Network => "network",
        }
    }
}

/// Which addresses clients reach a load balancer at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpAddressType {
    /// `ipv4`.
    #[default]
    Ipv4,
    /// `dualstack`: IPv4 and IPv6.
    Dualstack,
}

impl IpAddressType {
    /// AWS's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Dualstack => "dualstack",
        }
    }
}

/// A load balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// `…:loadbalancer/{app|net}/<name>/<16 hex>`.
    pub arn: Arn,
    /// 1–32 characters, unique per account and region.
    pub name: String,
    /// Application or network.
    pub kind: LoadBalancerKind,
    /// `internal` or `internet-facing`.
    pub scheme: String,
    /// Its VPC.
    pub vpc_id: VpcId,
    /// IPv4 alone, or both.
    #[serde(default)]
    pub ip_address_type: IpAddressType,
    /// One entry per subnet.
    pub zones: Vec<LoadBalancerZone>,
    /// Its security groups; a network load balancer may have none, and then all is admitted.
    pub security_groups: Vec<SecurityGroupId>,
    /// Attributes that were set.
    pub attributes: Attributes,
    /// `<name>-<id>.elb.<region>.amazonaws.com`, `internal-` in front when internal and application.
    pub dns_name: String,
    /// When it was created.
    pub created_at: TimestampMs,
    /// Its tags.
    pub tags: Tags,
}

/// A load balancer's presence in one subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancerZone {
    /// Availability zone.
    pub zone: String,
    /// Subnet.
    pub subnet_id: SubnetId,
    /// Its interface there.
    pub interface_id: InterfaceId,
    /// The interface's address: static for the load balancer's life.
    pub address: Ipv4Addr,
    /// The interface's IPv6 address, of a dual-stack load balancer: as static.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// The Elastic IP that was given for this subnet, by allocation id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_id: Option<String>,
    /// Interfaces with its further addresses there, of a network load balancer that was told to have some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secondary: Vec<InterfaceId>,
}

impl LoadBalancerZone {
    /// All its interfaces there.
    pub fn interfaces(&self) -> impl Iterator<Item = &InterfaceId> {
        std::iter::once(&self.interface_id).chain(&self.secondary)
    }
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// `…:listener/{app|net}/<name>/<lb id>/<16 hex>`.
    pub arn: Arn,
    /// The load balancer it is part of.
    pub load_balancer_arn: Arn,
    /// HTTP, HTTPS, TCP, TLS, UDP, TCP_UDP, QUIC or TCP_QUIC.
    pub protocol: String,
    /// 1–65535.
    pub port: u16,
    /// SslPolicy, for HTTPS and TLS.
    pub ssl_policy: Option<String>,
    /// Certificates by ARN, the default first.
    pub certificates: Vec<Arn>,
    /// AlpnPolicy, for TLS.
    pub alpn_policy: Vec<String>,
    /// What is done when no rule matches.
    pub default_actions: Vec<Action>,
    /// Attributes that were set.
    pub attributes: Attributes,
    /// Its tags.
    pub tags: Tags,
}

/// A rule of an application load balancer's listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `…:listener-rule/app/<name>/<lb>/<listener>/<16 hex>`.
    pub arn: Arn,
    /// The listener it is part of.
    pub listener_arn: Arn,
    /// 1–50,000, unique in the listener; lower is tried first.
    pub priority: u32,
    /// All must match.
    pub conditions: Vec<Condition>,
    /// What is done.
    pub actions: Vec<Action>,
    /// Its tags.
    pub tags: Tags,
}

/// A condition of a rule: any of its values may match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// host-header: case-insensitive, `*` and `?`.
    HostHeader(Vec<String>),
    /// path-pattern: case-sensitive, `*` and `?`, path only.
    PathPattern(Vec<String>),
}

/// An action of a rule or a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// forward to one of 1–5 weighted target groups.
    Forward(Vec<WeightedTargetGroup>),
    /// fixed-response.
    FixedResponse {
        /// 2XX, 4XX or 5XX.
        status: u16,
        /// One of ALB's five types, or none.
        content_type: Option<String>,
        /// At most 1,024 bytes.
        body: String,
    },
}

impl Action {
    /// The target groups that it forwards to.
    pub fn groups(&self) -> impl Iterator<Item = &Arn> {
        let groups = match self {
            Self::Forward(groups) => groups.as_slice(),
            Self::FixedResponse { .. } => &[],
        };
        groups.iter().map(|group| &group.target_group_arn)
    }
}

/// A target group with its share of a forward action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedTargetGroup {
    /// Its ARN.
    pub target_group_arn: Arn,
    /// 0–999.
    pub weight: u16,
}
