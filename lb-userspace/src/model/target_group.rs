//! Target groups, their health checks, and the targets registered with them (elbv2).

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    id::{Arn, TimestampMs, VpcId},
    load_balancer::Attributes,
    network::Tags,
};

/// A target group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetGroup {
    /// `…:targetgroup/<name>/<16 hex>`.
    pub arn: Arn,
    /// 1–32 characters, unique per account and region.
    pub name: String,
    /// HTTP, HTTPS, TCP, TLS, UDP, TCP_UDP, QUIC or TCP_QUIC.
    pub protocol: String,
    /// HTTP1, HTTP2 or GRPC, for HTTP and HTTPS.
    pub protocol_version: Option<String>,
    /// Port of targets registered without one.
    pub port: u16,
    /// Its VPC.
    pub vpc_id: VpcId,
    /// How targets are named.
    pub target_type: TargetType,
    /// Which addresses targets have.
    #[serde(default)]
    pub ip_address_type: TargetAddressType,
    /// How targets are checked.
    pub health_check: HealthCheck,
    /// Attributes that were set.
    pub attributes: Attributes,
    /// When it was created.
    pub created_at: TimestampMs,
    /// Its tags.
    pub tags: Tags,
}

impl TargetGroup {
    /// `deregistration_delay.timeout_seconds` in milliseconds; AWS's default is 300 s.
    pub fn deregistration_delay_ms(&self) -> u64 {
        const DEFAULT_S: u64 = 300;
        let set = self.attributes.get("deregistration_delay.timeout_seconds");
        set.and_then(|seconds| seconds.parse().ok()).unwrap_or(DEFAULT_S).saturating_mul(1_000)
    }
}

impl TargetGroup {
    /// Whether targets see clients' own addresses and answer through the load balancer: AWS's attribute, unless ours
    /// says how packets come to targets.
    pub fn preserves_clients(&self) -> bool {
        let value = |key: &str| self.attributes.get(key).map(String::as_str);
        match value("gatehouse.forwarding") {
            None | Some("auto") => value("preserve_client_ip.enabled") == Some("true"),
            Some(mode) => mode == "preserve",
        }
    }
}

/// Which addresses the targets of a group have: all the same family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetAddressType {
    /// `ipv4`.
    #[default]
    Ipv4,
    /// `ipv6`.
    Ipv6,
}

impl TargetAddressType {
    /// AWS's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// How targets are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetType {
    /// By instance id.
    Instance,
    /// By address.
    Ip,
    /// A load balancer, by ARN.
    Alb,
}

/// How targets are checked, every value resolved to AWS's default at creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// HealthCheckEnabled.
    pub enabled: bool,
    /// HTTP, HTTPS or TCP.
    pub protocol: String,
    /// `traffic-port` or a number.
    pub port: String,
    /// HTTP only.
    pub path: String,
    /// Seconds between checks of one target, 5–300.
    pub interval_s: u32,
    /// Seconds to wait for an answer, 2–120.
    pub timeout_s: u32,
    /// Consecutive passes that make an unhealthy target healthy, 2–10.
    pub healthy_threshold: u32,
    /// Consecutive failures that make a healthy target unhealthy, 2–10.
    pub unhealthy_threshold: u32,
    /// Status codes that pass, such as `200` or `200-299,302`. HTTP only.
    pub matcher: String,
}

/// A target's name in its group: the registered id and the port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TargetKey {
    /// Instance id or address, as registered.
    pub id: String,
    /// 1–65535.
    pub port: u16,
}

impl fmt::Display for TargetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, self.port)
    }
}

/// A target registered with a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The group.
    pub target_group_arn: Arn,
    /// Its name in the group.
    pub key: TargetKey,
    /// Where it is, resolved at registration.
    pub address: IpAddr,
    /// The zone of the subnet its address is in.
    pub zone: Option<String>,
    /// QuicServerId: what connection ids name it by, of QUIC and TCP_QUIC groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<u64>,
    /// When it was registered.
    pub registered_at: TimestampMs,
    /// Since when it is draining, and until when at most; `None` while registered.
    pub draining: Option<Draining>,
    /// The node's last verdict, if it is the current registration's.
    pub health: TargetHealth,
}

/// A deregistered target that still finishes what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// When it was deregistered.
    pub since: TimestampMs,
    /// When it is removed at the latest: since + deregistration_delay.timeout_seconds.
    pub until: TimestampMs,
}

/// A target's health in the words of DescribeTargetHealth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHealth {
    /// The state.
    pub state: TargetHealthState,
    /// Reason code such as `Target.ResponseCodeMismatch`; none when healthy.
    pub reason: Option<String>,
    /// Description; none when healthy.
    pub description: Option<String>,
}

impl TargetHealth {
    /// A target that was just registered.
    pub fn registering() -> Self {
        Self {
            state: TargetHealthState::Initial,
            reason: Some("Elb.RegistrationInProgress".to_owned()),
            description: Some("Target registration is in progress".to_owned()),
        }
    }
}

/// TargetHealthStateEnum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetHealthState {
    /// Registered, first check not done.
    Initial,
    /// Passing.
    Healthy,
    /// Failing.
    Unhealthy,
    /// Its group serves no listener.
    Unused,
    /// Deregistered, finishing.
    Draining,
    /// Not checked.
    Unavailable,
}

impl TargetHealthState {
    /// AWS's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unused => "unused",
            Self::Draining => "draining",
            Self::Unavailable => "unavailable",
        }
    }
}
