//! The operations of the AWS APIs, one file a resource: each a pure function over a draft of the state.
//!
//! Before: `api` verified the signature and decoded the request against the operation's input shape, so members have
//! the model's names, types and limits. After: the executor commits what the draft recorded (fsync) or drops it, and
//! `api` encodes the output against the output shape. An operation reads no clock and does no I/O: `draft.now()` is the
//! time, `draft.hex()` and its kin draw identifiers.
//!
//! A resource file exports one const slice per service:
//!
//! ```ignore
//! pub const OPERATIONS: &[Entry] = &[operation!("CreateCluster", create_cluster)];
//!
//! fn create_cluster(draft: &mut Draft, caller: &Caller, input: CreateClusterInput) -> Result<CreateClusterOutput, ApiError>
//! ```

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{identity::seal::Seal, model::state::Draft};

/// Refusals: codes, messages, who is at fault.
pub mod error;
/// Addresses: network interfaces made on someone's behalf.
pub mod interfaces;
/// The host's own interfaces below the subnets.
pub mod underlay;
/// Lists in pages.
pub mod paging;
/// Times in answers.
pub mod timestamp;
/// A state to call operations on, for tests.
#[cfg(test)]
pub(crate) mod world;
/// ecs: what its resources share.
pub mod ecs;
/// ecs: clusters.
pub mod clusters;
/// ecs: container instances.
pub mod container_instances;
/// ecs: task definitions.
pub mod task_definitions;
/// ecs: services.
pub mod ecs_services;
/// ecs: tasks.
pub mod tasks;
/// ecs: tags.
pub mod ecs_tags;
/// ecs: stories of its operations.
#[cfg(test)]
mod ecs_tests;
/// servicediscovery: what its resources share.
pub mod cloud_map;
/// servicediscovery: namespaces.
pub mod namespaces;
/// servicediscovery: services.
pub mod discovery_services;
/// servicediscovery: instances.
pub mod discovery_instances;
/// servicediscovery: operations and tags.
pub mod discovery_operations;
/// servicediscovery: stories of its operations.
#[cfg(test)]
mod cloud_map_tests;
/// elbv2: what its resources share.
pub mod elbv2;
/// elbv2: keys, defaults and lawful values of attributes.
pub mod attributes;
/// elbv2: actions and conditions, between the wire and the model.
pub mod actions;
/// elbv2: the subnets of load balancers, and their addresses there.
pub mod load_balancer_zones;
/// elbv2: load balancers.
pub mod load_balancers;
/// elbv2: listeners.
pub mod listeners;
/// elbv2: certificates and policies of listeners.
pub mod listener_tls;
/// elbv2: rules.
pub mod rules;
/// elbv2: target groups.
pub mod target_groups;
/// elbv2: what connection ids name targets by.
pub mod server_ids;
/// elbv2: targets and their health.
pub mod targets;
/// elbv2: tags.
pub mod tags;
/// elbv2: stories of network load balancers.
#[cfg(test)]
mod network_load_balancer_tests;
/// ec2: what its resources share.
pub mod ec2;
/// ec2: VPCs.
pub mod vpcs;
/// ec2: subnets and zones.
pub mod subnets;
/// ec2: IPv6 ranges of VPCs and subnets.
pub mod ipv6_blocks;
/// ec2: Elastic IP addresses.
pub mod elastic_ips;
/// ec2: security groups.
pub mod security_groups;
/// ec2: the rules of security groups.
pub mod security_group_rules;
/// ec2: network interfaces.
pub mod network_interfaces;
/// ec2: instances.
pub mod instances;
/// ec2: tags.
pub mod ec2_tags;
/// acm: what a client imports, read.
pub mod imported;
/// acm: certificates.
pub mod certificates;
/// apigatewayv2: what its resources share.
pub mod apigatewayv2;
/// apigatewayv2: HTTP APIs, and tags.
pub mod apis;
/// apigatewayv2: integrations.
pub mod integrations;
/// apigatewayv2: routes.
pub mod routes;
/// apigatewayv2: deployments.
pub mod deployments;
/// apigatewayv2: stages.
pub mod stages;
/// apigatewayv2: VPC links.
pub mod vpc_links;
/// cloudformation: stacks.
pub mod stacks;
/// sts: who am I.
pub mod sts;

pub use error::{ApiError, Code, Fault};

/// An operation as the endpoint and the executor see it: input and output by the model's member names.
pub type Handler = fn(&mut Draft, &Caller, Value) -> Result<Value, ApiError>;

/// An operation's name in its service, and its function.
pub type Entry = (&'static str, Handler);

/// Who calls: the identity behind a verified signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The 12-digit account that owns the access key.
    pub account: String,
    /// The region of the signature's credential scope.
    pub region: String,
    /// The access key that signed.
    pub access_key_id: String,
    /// The caller's ARN, such as `arn:aws:iam::000000000000:root`.
    pub principal: String,
}

/// The function behind an operation of a service (`elbv2`, `apigatewayv2`, `servicediscovery`, `ecs`, `ec2`,
/// `cloudformation`, `sts`, `acm`); `None` if it is not built.
pub fn find(service: &str, operation: &str) -> Option<Handler> {
    tables(service)
        .iter()
        .copied()
        .flatten()
        .find(|(name, _)| *name == operation)
        .map(|(_, handler)| *handler)
}

/// What is done to an input before its operation, outside the writer, because it needs a key that the state may not hold.
pub type Preparation = fn(&Seal, Value) -> Result<Value, ApiError>;

/// The preparation of an operation, if it needs one.
pub fn preparation(service: &str, operation: &str) -> Option<Preparation> {
    match (service, operation) {
        ("acm", "ImportCertificate") => Some(certificates::prepare_import),
        _ => None,
    }
}

/// The names of all operations that are built in a service.
pub fn names(service: &str) -> impl Iterator<Item = &'static str> {
    tables(service).iter().copied().flatten().map(|(name, _)| *name)
}

fn tables(service: &str) -> &'static [&'static [Entry]] {
    match service {
        "ecs" => &[
            clusters::OPERATIONS,
            container_instances::OPERATIONS,
            task_definitions::OPERATIONS,
            ecs_services::OPERATIONS,
            tasks::OPERATIONS,
            ecs_tags::OPERATIONS,
        ],
        "servicediscovery" => &[
            namespaces::OPERATIONS,
            discovery_services::OPERATIONS,
            discovery_instances::OPERATIONS,
            discovery_operations::OPERATIONS,
        ],
        "elbv2" => &[
            load_balancers::OPERATIONS,
            listeners::OPERATIONS,
            listener_tls::OPERATIONS,
            rules::OPERATIONS,
            target_groups::OPERATIONS,
            targets::OPERATIONS,
            tags::OPERATIONS,
        ],
        "ec2" => &[
            vpcs::OPERATIONS,
            subnets::OPERATIONS,
            ipv6_blocks::OPERATIONS,
            elastic_ips::OPERATIONS,
            security_groups::OPERATIONS,
            security_group_rules::OPERATIONS,
            network_interfaces::OPERATIONS,
            instances::OPERATIONS,
            ec2_tags::OPERATIONS,
        ],
        "acm" => &[certificates::OPERATIONS],
        "apigatewayv2" => &[
            apis::OPERATIONS,
            integrations::OPERATIONS,
            routes::OPERATIONS,
            deployments::OPERATIONS,
            stages::OPERATIONS,
            vpc_links::OPERATIONS,
        ],
        "cloudformation" => &[stacks::OPERATIONS],
        "sts" => &[sts::OPERATIONS],
        _ => &[],
    }
}

/// Wraps a typed function as an [`Entry`]: `operation!("CreateCluster", create_cluster)`.
macro_rules! operation {
    ($name:literal, $function:path) => {{
        let handler: $crate::control::ops::Handler =
            |draft, caller, input| $crate::control::ops::run($function, draft, caller, input);
        ($name, handler)
    }};
}
pub(crate) use operation;

/// Runs a typed operation: reads its input from the decoded request, writes its output for the encoder.
///
/// # Errors
/// What the operation refuses; a validation error when a value fits the shape but not the operation's own type.
pub fn run<I, O>(
    operation: impl FnOnce(&mut Draft, &Caller, I) -> Result<O, ApiError>,
    draft: &mut Draft,
    caller: &Caller,
    input: Value,
) -> Result<Value, ApiError>
where
    I: DeserializeOwned,
    O: Serialize,
{
    let input = serde_json::from_value(input).map_err(|error| ApiError::validation(error.to_string()))?;
    let output = operation(draft, caller, input)?;
    serde_json::to_value(output).map_err(|error| {
        tracing::error!(%error, "an operation's output has no JSON form");
        ApiError::internal()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::state::State;
    use serde_json::json;

    #[test]
    fn an_operation_that_is_not_built_is_not_found() {
        assert!(find("sts", "GetCallerIdentity").is_some());
        assert!(find("sts", "AssumeRole").is_none());
        assert!(find("nothing", "GetCallerIdentity").is_none());
    }

    #[test]
    fn the_caller_identity_is_the_signer() {
        let caller = Caller {
            account: "000000000000".into(),
            region: "eu-central-1".into(),
            access_key_id: "AKIAGATEHOUSE".into(),
            principal: "arn:aws:iam::000000000000:root".into(),
        };
        let mut draft = Draft::new(State::default(), 0, [1; 32]);
        let handler = find("sts", "GetCallerIdentity").unwrap();
        let answer = handler(&mut draft, &caller, json!({})).unwrap();
        assert_eq!(answer["Account"], "000000000000");
        assert_eq!(answer["Arn"], caller.principal);
        assert!(!draft.is_changed());
    }
}
