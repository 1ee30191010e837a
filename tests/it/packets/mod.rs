//! The packet path: fixtures through the core and the kernel, and real TCP through namespaces.

/// Segments as bytes, with checksums computed whole.
mod segment;
/// What the tables hold before a packet, and what was counted after it.
mod given;
/// The tables as hash maps.
mod host;
/// The tables as the maps of the loaded program.
mod kernel;
/// The one table of fixtures: packets of flows.
mod flows;
/// The same table: packets of no flow, and packets that are no segments.
mod strays;
/// The same table: IPv6, UDP, QUIC, and the other ways to a target.
mod modes;
/// The same table: VLAN tags, options, jumbo frames.
mod frames;
/// The same table: errors about packets that changed their family, or went inside others.
mod errors;
/// The same table: SYN floods of listeners that end in userspace.
mod floods;
/// The table through both, and what must hold for all packets.
mod fixtures;
/// Frames read whole, by code that shares nothing with the core.
mod reading;
/// What must hold for every packet and every way to a target.
mod properties;
/// What must hold whatever comes in.
mod harness;
/// That on fixtures and what changes make of them.
mod fuzz;
/// A VPC with a network load balancer, made by the product's own driver, and a node that balances.
mod world;
/// Plans of a load balancer that has both families.
mod plans;
/// What machines say to each other.
pub(crate) mod sockets;
/// Packets that no kernel made.
mod raw;
/// What tests see of a node.
mod watch;
/// UDP.
mod datagrams;
/// A load balancer of both families, and flows from one to the other.
mod dual_stack;
/// Both ends of QUIC.
pub(crate) mod quic_peer;
/// QUIC.
mod quic;
/// Hops that carry less.
mod path_mtu;
/// Security groups.
mod guard;
/// Floods.
mod flood;
/// Connections that carry data all the time.
pub(crate) mod traffic;
/// Nodes that are killed, and programs that are exchanged.
mod upgrade;
/// A flood of SYNs, and clients who connect all the same.
mod cookies;
/// Connections through the load balancer.
mod connections;
/// One wire with a target that has the load balancer's addresses.
mod bed;
/// Connections to targets that answer past the load balancer.
mod direct;
/// The program that takes packets out of tunnels, on such a target.
mod decap;
/// More flows to one target than one address has ports for.
mod ports;
/// IPv6, datagrams, and targets that see their clients.
mod families;
/// Clients on the node itself, led to targets as they connect.
mod dial;
/// Packets captured as they came.
mod capture;
