//! What the gateway role needs: APIs and links, never a target's address.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::link::LaneTarget;
use crate::model::id::{ApiId, Arn, VpcLinkId};

/// Every HTTP API, and the links they go through.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewaySlice {
    /// Default host names are `<API>.execute-api.<region>.<suffix>`; the suffix, usually `amazonaws.com`.
    pub domain_suffix: String,
    /// APIs by id.
    pub apis: BTreeMap<ApiId, ApiView>,
    /// Cloud Map services by ARN, those that an integration names.
    pub services: BTreeMap<Arn, ServiceView>,
    /// VPC links by id.
    pub links: BTreeMap<VpcLinkId, LinkView>,
    /// What clients are shown, and what agents are shown; absent until issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<GatewayCredentials>,
}

/// The gateway's certificates.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayCredentials {
    /// For clients: leaf of the front-door CA.
    pub front_door: RoleCertificate,
    /// For link agents: leaf of the identity CA.
    pub identity: RoleCertificate,
    /// The identity CA that agents' certificates must chain to, PEM.
    pub identity_root_pem: String,
}

/// A certificate with its key. No `Debug`: a key must not reach a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleCertificate {
    /// Leaf and chain, PEM.
    pub chain_pem: String,
    /// PKCS #8, PEM.
    pub key_pem: String,
}

/// An HTTP API, as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiView {
    /// Name, for logs and metrics.
    pub name: String,
    /// Region of its default host name.
    pub region: String,
    /// DisableExecuteApiEndpoint.
    pub disable_execute_api_endpoint: bool,
    /// Stages by name; those without a deployment are left out.
    pub stages: BTreeMap<String, StageView>,
}

/// A stage with the deployment it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageView {
    /// The deployment, for logs.
    pub deployment_id: String,
    /// Stage variables.
    pub variables: BTreeMap<String, String>,
    /// Routes: route key to integration id; a route without a target is left out.
    pub routes: BTreeMap<String, RouteView>,
    /// Integrations by id.
    pub integrations: BTreeMap<String, IntegrationView>,
}

/// A route, as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// Its id.
    pub id: String,
    /// The integration it goes to.
    pub integration_id: String,
}

/// An integration, as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegrationView {
    /// Method sent; `None` keeps the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// 50–30,000 ms.
    pub timeout_ms: u32,
    /// Where it goes.
    pub destination: Destination,
}

/// Where a private integration goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// A listener of a load balancer, at one lane target per zone.
    Listener {
        /// Through which link.
        link: VpcLinkId,
        /// The listener's targets, one per zone.
        targets: Vec<LaneTarget>,
        /// Whether the listener speaks HTTP itself (an ALB) or passes bytes (an NLB).
        is_application: bool,
    },
    /// A Cloud Map service.
    Service {
        /// Through which link.
        link: VpcLinkId,
        /// The service's ARN in `GatewaySlice::services`.
        service: Arn,
        /// QueryParameters: all must equal the instance's attributes.
        query: BTreeMap<String, String>,
    },
    /// Its listener, service or link no longer exists; requests are answered 500 and counted.
    Broken {
        /// What is missing, for the log.
        reason: String,
    },
}

/// A Cloud Map service with its instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// `<service>.<namespace>`, for logs.
    pub name: String,
    /// Rises on register and deregister.
    pub revision: u64,
    /// Instances by id; draining ones are left out.
    pub instances: BTreeMap<String, ServiceInstanceView>,
}

/// An instance of a Cloud Map service, without its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInstanceView {
    /// What an OPEN names.
    pub target: LaneTarget,
    /// Its attributes but for addresses and port.
    pub attributes: BTreeMap<String, String>,
    /// Custom health.
    pub healthy: bool,
}

/// A VPC link, as the gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// Name, for logs and metrics.
    pub name: String,
    /// Whether it is being deleted: no new lanes, no new pipes.
    pub deleting: bool,
}
