//! What a link role needs: the targets it may open, and for whom.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::gateway::RoleCertificate;
use crate::model::id::VpcLinkId;

/// One VPC link's view of its VPC.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkSlice {
    /// The link.
    pub link_id: VpcLinkId,
    /// The network namespace that the link works in.
    pub namespace: String,
    /// Its own addresses, one per subnet.
    pub addresses: Vec<Ipv4Addr>,
    /// Gateways to dial, by name.
    pub gateways: BTreeMap<String, SocketAddr>,
    /// What it may open, by lane target in hex.
    pub targets: BTreeMap<LaneTarget, LinkTargetView>,
    /// Being deleted: finish what runs, dial no more.
    pub deleting: bool,
    /// Its certificate, and the identity CA that gateways must chain to; absent until issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<LinkCredentials>,
}

/// A link's certificate and what it trusts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkCredentials {
    /// Leaf of the identity CA, `spiffe://<trust domain>/vpc-link/<id>`.
    pub identity: RoleCertificate,
    /// The identity CA, PEM.
    pub identity_root_pem: String,
}

/// Something a link may open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTargetView {
    /// Where it is.
    pub address: SocketAddr,
    /// What it is, for logs: listener ARN and zone, or service and instance.
    pub name: String,
    /// Deregistered: running pipes may finish, new ones are refused.
    #[serde(default)]
    pub draining: bool,
    /// Why security groups refuse it, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What an OPEN names instead of an address: 16 bytes that control derives from what the target is.
/// Text form is 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneTarget(pub [u8; 16]);

impl LaneTarget {
    /// Of a load balancer's listener in one zone.
    pub fn of_listener(listener_arn: &str, zone: &str) -> Self {
        Self::of(&["listener", listener_arn, zone])
    }

    /// Of an instance of a Cloud Map service.
    pub fn of_instance(service_arn: &str, instance_id: &str) -> Self {
        Self::of(&["instance", service_arn, instance_id])
    }

    fn of(parts: &[&str]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        let mut id = [0; 16];
        id.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(id)
    }
}

impl fmt::Display for LaneTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for LaneTarget {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LaneTarget {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(deserializer)?;
        let mut id = [0; 16];
        if text.len() != 32 || !text.is_ascii() {
            return Err(D::Error::custom("a lane target is 32 hex digits"));
        }
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(D::Error::custom)?;
            *byte = u8::from_str_radix(pair, 16).map_err(D::Error::custom)?;
        }
        Ok(Self(id))
    }
}
