//! The control plane: AWS's APIs over a durable state, compiled to slices and published to every role.

/// AWS's wire: requests to operations and back.
pub mod api;
/// The operations: pure functions over a draft of the state.
pub mod ops;
