//! Cloud Map's DNS: the resolver of a VPC, which knows the VPC's private namespaces and asks elsewhere for other names.
//!
//! A query's way: `serve` receives it, `consider` decides what becomes of it (`question` reads it, `zone` answers it,
//! `reply` writes the answer), `forward` asks another server if no zone holds the name. Up to there nothing but values:
//! bytes, zones and a seed in, bytes out. `resolver` puts a slice's zones in place, at once and without a pause.

/// A message read: a question, or what it gets instead of an answer.
pub mod question;
/// The zones of a VPC: an index of names, and the answer to a question.
pub mod zone;
/// An answer written, no longer than its way carries.
pub mod reply;
/// What becomes of a message: the whole decision.
pub mod consider;
/// Other DNS servers, asked for what no zone holds.
mod forward;
/// What is counted.
mod counters;
/// Messages received and answered over UDP and TCP.
mod serve;
/// A node's resolver: started, given a slice's zones, stopped.
mod resolver;

pub use resolver::{ApplyError, Resolver};
