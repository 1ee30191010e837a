//! Hosts made of network namespaces, an appliance between them, clients outside.
//!
//! Everything a lab makes carries the lab's name, which carries the process id: labs never meet, a guard removes what
//! one made, and what a killed one left is removed when the next lab of any process starts.

/// The name that everything of one lab carries, and what is left of labs that were killed.
pub mod name;
/// A network namespace that the lab makes itself, and programs started inside it.
pub mod netns;
/// boto3, driven line by line.
pub mod aws;
