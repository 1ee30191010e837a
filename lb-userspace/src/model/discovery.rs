//! Cloud Map: namespace, service, instance and operation (servicediscovery).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    id::{Arn, TimestampMs, VpcId},
    network::Tags,
};

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `ns-` and 16 lower-case alphanumerics.
    pub id: String,
    /// Its ARN.
    pub arn: Arn,
    /// Its name; a DNS name for a private DNS namespace.
    pub name: String,
    /// HTTP or private DNS.
    pub kind: NamespaceKind,
    /// Description.
    pub description: Option<String>,
    /// When it was created.
    pub created_at: TimestampMs,
    /// CreatorRequestId.
    pub creator_request_id: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

/// What a namespace offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// DiscoverInstances only.
    Http,
    /// DiscoverInstances, and DNS inside the VPC.
    DnsPrivate {
        /// Where its names resolve.
        vpc_id: VpcId,
        /// How long resolvers may remember that a name does not exist, in seconds: the SOA record's TTL.
        soa_ttl_s: u32,
    },
}

/// A service of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryService {
    /// `srv-` and 16 lower-case alphanumerics.
    pub id: String,
    /// `…:service/<id>`.
    pub arn: Arn,
    /// Unique in the namespace.
    pub name: String,
    /// Its namespace.
    pub namespace_id: String,
    /// Description.
    pub description: Option<String>,
    /// DnsConfig, in a DNS namespace.
    pub dns: Option<DnsConfig>,
    /// Whether HealthCheckCustomConfig was given.
    pub custom_health: bool,
    /// Rises on register and deregister only, as AWS's InstancesRevision.
    pub instances_revision: u64,
    /// When it was created.
    pub created_at: TimestampMs,
    /// CreatorRequestId.
    pub creator_request_id: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

/// How a service's instances appear in DNS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `MULTIVALUE` or `WEIGHTED`.
    pub routing_policy: String,
    /// Record types with their TTL in seconds: A, AAAA, SRV or CNAME.
    pub records: Vec<(String, u32)>,
}

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryInstance {
    /// The service's id.
    pub service_id: String,
    /// Unique in the service.
    pub id: String,
    /// AWS_INSTANCE_IPV4, AWS_INSTANCE_PORT and the user's own.
    pub attributes: BTreeMap<String, String>,
    /// CreatorRequestId.
    pub creator_request_id: Option<String>,
    /// Custom health; healthy unless said otherwise.
    pub healthy: bool,
    /// Deregistered: no longer discovered, but links let open connections finish until `until`.
    pub draining_until: Option<TimestampMs>,
}

/// An operation: what an asynchronous call is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// CREATE_NAMESPACE, REGISTER_INSTANCE, DEREGISTER_INSTANCE, …
    pub kind: String,
    /// SUBMITTED, PENDING, SUCCESS or FAIL.
    pub status: String,
    /// NAMESPACE, SERVICE and INSTANCE with their ids.
    pub targets: BTreeMap<String, String>,
    /// ErrorMessage.
    pub error_message: Option<String>,
    /// ErrorCode.
    pub error_code: Option<String>,
    /// When it was submitted.
    pub created_at: TimestampMs,
    /// When it last changed.
    pub updated_at: TimestampMs,
    /// The snapshot generation that must be applied by the data planes before it is done, if it waits for one.
    pub waits_for_generation: Option<u64>,
}
