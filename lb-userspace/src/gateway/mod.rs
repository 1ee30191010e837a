//! Public HTTP APIs: from a client's request to a private target behind a VPC link.
//!
//! The order is a request's: a worker accepts and shakes hands, the host names an API, the first segment of the path may
//! name a stage, the stage's routes name an integration, the integration's targets are reached over lanes. Every worker
//! has its own sockets, lanes and pool of connections; what is compiled from a slice is shared and never changed.

/// Starting and stopping: workers, the door for link agents, and how slices reach both.
pub mod run;
/// One form of a path for routing and forwarding.
pub mod path;
/// From a host name to an API.
pub mod domain;
/// From an API and a path to a stage.
pub mod stage;
/// From a stage, a method and a path to a route.
pub mod route;
/// A slice compiled to what a request needs.
pub mod compile;
/// Which headers an integration and a client see.
pub mod headers;
/// Answers that the gateway makes itself.
pub mod answer;
/// Which target is next, and which are left out for a while.
pub mod choice;
/// Pipes over a link for the forwarder.
pub mod connector;
/// One request from its head to its answer.
pub mod handler;
/// What is counted of a stage's requests.
pub mod counters;

pub use run::{Gateway, GatewayConfig, GatewayError};
