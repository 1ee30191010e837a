//! The control plane: AWS's APIs over a durable state, compiled to slices and published to every role.

/// The operations: pure functions over a draft of the state.
pub mod ops;
