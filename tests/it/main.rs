//! The one test binary: every test of a real interface is a module of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy.toml lets tests panic, but does not see that the functions beside them are tests too"
)]

/// The application load balancer over real sockets on loopback.
mod alb;
/// The lab itself.
mod lab;
/// The virtual network, in real namespaces.
mod network;
/// Real AWS clients against the control endpoint.
mod wire;
/// Listeners of network load balancers that end in userspace.
mod stream;
/// The packet path: fixtures through the core and the kernel, and real TCP through namespaces.
mod packets;
/// Network load balancers as users have them.
mod nlb;
/// HTTP APIs on real sockets.
mod gateway;
/// The VPC link on real sockets.
mod tunnel;
/// DNS of private namespaces.
mod registry;
/// A host's own interfaces under the appliance, and units for its service manager.
mod host;
/// ECS: the process driver with real processes.
mod ecs;
/// The whole path: clients outside, the appliance, tasks inside.
mod whole;
