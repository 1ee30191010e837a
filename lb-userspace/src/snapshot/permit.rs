//! Security groups resolved to address ranges, and the question whether they admit a connection.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// IANA protocol numbers that have ports.
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;

/// IANA protocol numbers that have none.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;

/// One resolved permission: a protocol, ports, and the addresses of the other side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// IANA number; `None` is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// The other side's ranges, references to groups resolved to the single addresses of their members.
    pub peers: Vec<IpNet>,
}

/// A security group, resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupView {
    /// What may come in.
    pub ingress: Vec<Permit>,
    /// What may go out.
    pub egress: Vec<Permit>,
}

impl Permit {
    /// Whether it covers `port` of `protocol` (IANA number) with `peer`.
    pub fn admits(&self, protocol: u8, port: u16, peer: IpAddr) -> bool {
        self.protocol.is_none_or(|own| own == protocol)
            && (self.first_port..=self.last_port).contains(&port)
            && self.peers.iter().any(|range| range.contains(&peer))
    }
}

/// Whether any of the permits covers `port` of `protocol` with `peer`: a security group denies by silence.
pub fn is_admitted<'a>(
    permits: impl IntoIterator<Item = &'a Permit>,
    protocol: u8,
    port: u16,
    peer: IpAddr,
) -> bool {
    permits.into_iter().any(|permit| permit.admits(protocol, port, peer))
}
