//! The application load balancer, in the order of a request's way through it.
//!
//! `Proxy` runs one worker per core. A slice is compiled once to a [`view::View`] that all workers share; each keeps what
//! changes per request for itself: turns, pools, connections.

/// A slice compiled for the workers.
pub mod view;
/// Load balancer attributes, parsed.
pub mod attributes;
/// Listening sockets, and which connections a security group admits.
pub mod listen;
/// One worker: its listeners, its turns, its pools.
pub mod worker;
/// Which rule a request matches.
pub mod rules;
/// Which target gets it.
pub mod balance;
/// Headers that an application load balancer adds, and the Host it passes on.
pub mod forwarded;
/// One request from its head to its answer.
pub mod request;
/// Connections to targets, from the load balancer's own address.
pub mod upstream;
/// Answers that the load balancer makes itself.
pub mod answer;
/// Starting, applying slices, stopping.
pub mod run;

pub use run::{ApplyError, Proxy};
