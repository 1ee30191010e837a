//! The nouns of the control plane, named as AWS names them, and the state that holds them all.
//!
//! Resources are what the API stores; what a data plane needs of them is compiled by `snapshot`.

/// Identifiers and Amazon Resource Names.
pub mod id;
/// VPCs, subnets, security groups, network interfaces and instances (machines).
pub mod network;
/// The host's own interfaces below the subnets, and addresses that others have there.
pub mod underlay;
/// Certificates: imported ones, and the leaves that control issues to roles.
pub mod certificate;
/// Load balancers, listeners, rules, conditions and actions.
pub mod load_balancer;
/// Target groups, their health checks and registered targets.
pub mod target_group;
/// HTTP APIs: API, route, integration, stage, deployment, and VPC link.
pub mod api;
/// Cloud Map: namespace, service, instance and operation.
pub mod discovery;
/// ECS: cluster, task definition, service, task and container instance.
pub mod task;
/// CloudFormation: stack, its resources and events.
pub mod stack;
/// The state: one persistent table per kind of resource, and a draft of its next version.
pub mod state;

pub use state::{Draft, Resource, State, Table};
