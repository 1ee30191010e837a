//! The VPC link on real sockets: a gateway, an agent and targets in a network of the test's own.

/// A gateway, an agent, targets and clients in one network namespace.
pub(crate) mod bed;
/// Real HTTP targets that say who they are and what they received, and can be killed.
pub(crate) mod target;
/// Clients of the front door.
pub(crate) mod client;
/// What an agent opens and what it refuses.
mod opening;
/// Either side stops and starts.
mod restart;
/// Strangers and liars at the gateway's door.
mod hostile;
