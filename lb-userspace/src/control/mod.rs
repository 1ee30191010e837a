//! The control plane: AWS's APIs over a durable state, compiled to slices and published to every role.

/// AWS's wire: requests to operations and back.
pub mod api;
/// The operations: pure functions over a draft of the state.
pub mod ops;
/// CloudFormation: stacks of resources, each made by the operations.
pub mod stacks;
/// The one writer of the state.
pub mod writer;
/// Where the state lasts.
pub mod store;
/// Signed slices to every role.
pub mod publish;
