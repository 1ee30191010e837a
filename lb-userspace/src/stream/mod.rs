//! Network load balancers' listeners that end in userspace: TLS, and TCP to groups that want a PROXY protocol header.
//!
//! XDP admits their packets and passes them to the kernel's TCP; what is accepted here is shaken hands with, given a
//! target, and carried both ways until it ends. [`Streams`] runs one worker per core; the files are in the order of a
//! connection's way.

/// A slice compiled for the workers.
pub mod view;
/// Target groups as workers see them.
mod group;
/// What a listener's end counts.
mod counters;
/// Starting, applying slices, stopping.
pub mod run;
/// One worker: its listeners, its choices, its flows.
mod worker;
/// Listening sockets, and which connections are admitted.
mod listen;
/// A connection from its admission to its end.
mod connection;
/// Which target gets a connection: the decision.
pub mod choose;
/// And a worker's choices by it.
mod choices;
/// From a choice to a connection: the header in front, TLS.
mod dial;
/// One end of a connection, plain or in TLS.
mod end;
/// What a worker knows of a connection: its target, when it last moved, whether it is to end.
mod flow;
/// Bytes both ways.
mod relay;

pub use run::{ApplyError, Limits, Streams};
