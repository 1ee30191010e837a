//! DNS of private namespaces: the resolver on real sockets of loopback, and in a lab's private networks by dig.

/// dig, and what it said.
mod dig;
/// A resolver on loopback, and DNS servers that it may ask.
mod bed;
/// Queries answered, refused and dropped on real sockets.
mod sockets;
/// Names that other servers are asked for.
mod elsewhere;
/// The whole appliance: instances appear and disappear where their names are asked for.
mod lab;
