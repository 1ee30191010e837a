//! The lab: namespaces, the appliance and its clients, for tests, benches and `cargo xtask run`.
#![forbid(unsafe_code)]

/// Hosts made of network namespaces, an appliance between them, clients outside.
pub mod lab;
