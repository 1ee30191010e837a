//! The appliance: every role of `gatehouse` in one library, its composition in `app`.
//!
//! Modules stand in rank order: each imports only from those above it.

/// The nouns: resources, their identifiers, and the state that holds them.
pub mod model;
/// Metrics: names, counters, exposition.
pub mod telemetry;
/// AWS Signature Version 4, verified and made.
pub mod sigv4;
/// State compiled to what each role needs: slices, and the differences between two of them.
pub mod snapshot;
/// Certificates: the two CAs, the leaves of roles, and the TLS made from them.
pub mod identity;
/// Addresses, namespaces and security groups on a Linux host.
pub mod network;
/// HTTP on both sides of a proxy: workers, accept, framing, hygiene, and the one forwarder.
pub mod http;
/// Health checks: when a target is healthy, and who asks it.
pub mod health;
/// The application load balancer: listen, match rules, choose a target, forward.
pub mod proxy;
/// The VPC link: framed reusable lanes between link agents and gateways.
pub mod tunnel;
/// Cloud Map's DNS: the resolver of a VPC.
pub mod registry;
/// ECS: where tasks go, when they start, register, drain and stop, and the driver that runs them.
pub mod tasks;
/// Network load balancers' listeners that end in userspace: TLS, and PROXY protocol headers in front.
pub mod stream;
/// Network load balancers in the kernel: XDP programs, their maps, and what keeps them in step with a slice.
pub mod packet;
/// The control plane: AWS's APIs over a durable state.
pub mod control;
/// Public HTTP APIs behind VPC links.
pub mod gateway;
/// The boot configuration: one small TOML file.
pub mod config;
/// The composition: the command line, the supervisor, and one file a role.
pub mod app;
