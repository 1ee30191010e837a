//! The zones of a VPC: an index of names, and the answer to a question, as one pure decision.
//!
//! Before it: `question` read a name and a type of record. After it: `reply` writes the answer, or `forward` asks
//! elsewhere. Which of a service's instances an answer names depends on their health and a seed, and on nothing else.

/// A name in the form in which names are compared, and names made of Cloud Map's.
mod key;
/// A slice's zones as an index of names.
mod index;
/// Which instances an answer names.
mod choose;
/// The answer to a question.
mod answer;

pub use answer::{Answer, Decision};
pub use index::Zones;

#[cfg(test)]
mod tests;
