//! The application load balancer over real sockets on loopback: addresses 127.x.y.z stand for interfaces and targets.

/// A proxy with one load balancer, and a slice that can be changed.
mod stage;
/// Targets that behave, and targets that do not.
mod target;
/// A client that sends bytes as they are.
mod client;
/// What a request and a response look like on the other side.
mod passing;
/// Rules, turns, draining, failing open.
mod routing;
/// Unlawful bytes: each refused with 400 and closed.
mod smuggling;
/// When a request is tried again, and what the client sees when it is not.
mod retry;
/// Targets that are killed, added and drained under load.
mod load;
/// The prober against real targets.
mod health;
