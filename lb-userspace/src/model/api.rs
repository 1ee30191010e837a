//! HTTP APIs: API, route, integration, stage, deployment, and VPC link (apigatewayv2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::{ApiId, InterfaceId, SecurityGroupId, SubnetId, TimestampMs, VpcLinkId};

/// apigatewayv2 tags are a map.
pub type TagMap = BTreeMap<String, String>;

/// An HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Api {
    /// Its id, the first label of its default host name.
    pub id: ApiId,
    /// Name.
    pub name: String,
    /// Description.
    pub description: Option<String>,
    /// Region of the default host name.
    pub region: String,
    /// DisableExecuteApiEndpoint.
    pub disable_execute_api_endpoint: bool,
    /// `$request.method $request.path` for HTTP APIs.
    pub route_selection_expression: String,
    /// Version.
    pub version: Option<String>,
    /// When it was created.
    pub created_at: TimestampMs,
    /// Its tags.
    pub tags: TagMap,
}

/// A route of an API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its id.
    pub id: String,
    /// Its API.
    pub api_id: ApiId,
    /// `$default`, or `<METHOD|ANY> <path>`.
    pub route_key: String,
    /// `integrations/<id>`.
    pub target: Option<String>,
    /// AuthorizationType; `NONE`.
    pub authorization_type: String,
    /// OperationName.
    pub operation_name: Option<String>,
}

/// An integration of an API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Integration {
    /// Its id.
    pub id: String,
    /// Its API.
    pub api_id: ApiId,
    /// `HTTP_PROXY`.
    pub integration_type: String,
    /// Method sent to the integration; `ANY` keeps the client's.
    pub integration_method: Option<String>,
    /// Listener ARN, or Cloud Map service ARN with `?attribute=value&…`.
    pub integration_uri: String,
    /// `VPC_LINK` or `INTERNET`.
    pub connection_type: String,
    /// The VPC link.
    pub connection_id: Option<VpcLinkId>,
    /// `1.0` for private integrations.
    pub payload_format_version: String,
    /// 50–30,000 ms.
    pub timeout_ms: u32,
    /// Description.
    pub description: Option<String>,
}

/// A stage of an API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its API.
    pub api_id: ApiId,
    /// `$default`, or the first path segment.
    pub name: String,
    /// Description.
    pub description: Option<String>,
    /// AutoDeploy: each change of the API makes and selects a deployment.
    pub auto_deploy: bool,
    /// What it serves; none serves nothing.
    pub deployment_id: Option<String>,
    /// Stage variables.
    pub variables: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: TimestampMs,
    /// When it was last changed.
    pub updated_at: TimestampMs,
    /// Its tags.
    pub tags: TagMap,
}

/// A deployment: an immutable copy of an API's routes and integrations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: String,
    /// Its API.
    pub api_id: ApiId,
    /// Description.
    pub description: Option<String>,
    /// Whether a stage with AutoDeploy made it.
    pub auto_deployed: bool,
    /// When it was created.
    pub created_at: TimestampMs,
    /// The routes as they were.
    pub routes: Vec<Route>,
    /// The integrations as they were.
    pub integrations: Vec<Integration>,
}

/// A VPC link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcLink {
    /// Its id.
    pub id: VpcLinkId,
    /// Name.
    pub name: String,
    /// Its subnets, all of one VPC.
    pub subnet_ids: Vec<SubnetId>,
    /// Its security groups.
    pub security_group_ids: Vec<SecurityGroupId>,
    /// Its interfaces, one per subnet in the same order.
    pub interface_ids: Vec<InterfaceId>,
    /// Where it is in its life.
    pub status: VpcLinkStatus,
    /// What AWS says beside the status.
    pub status_message: String,
    /// When it was created.
    pub created_at: TimestampMs,
    /// When its deletion began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleting_since: Option<TimestampMs>,
    /// Its tags.
    pub tags: TagMap,
}

/// VpcLinkStatus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VpcLinkStatus {
    /// No lane has come up yet.
    Pending,
    /// Lanes are up.
    Available,
    /// Being taken down.
    Deleting,
    /// Could not be made.
    Failed,
}

impl VpcLinkStatus {
    /// AWS's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Available => "AVAILABLE",
            Self::Deleting => "DELETING",
            Self::Failed => "FAILED",
        }
    }
}
