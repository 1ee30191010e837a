//! The packet path: fixtures through the core and the kernel, and real TCP through namespaces.

/// A VPC with a network load balancer, made by the product's own driver, and a node that balances.
mod world;
/// Connections through the load balancer.
mod connections;
