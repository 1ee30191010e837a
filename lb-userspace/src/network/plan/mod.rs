//! The network as a value: what must stand on this host, what stands, and the steps between.
//!
//! Before it, a host slice arrived; after it, the driver carries the steps out. Nothing here touches the kernel, so that
//! a plan can be shown, compared and tested. Names come from `snapshot::names`, and nothing else holds identity: what a
//! crash left behind is found by name and judged by its mark.

/// What must stand: namespaces, bridges, uplinks, interfaces.
mod desired;
/// Where a VPC's resolver is.
mod resolver;
/// Packet filters as nftables rule sets: the VPC's edge, and security groups around machines.
mod filter;
/// Static addresses on the host's own interfaces.
mod addresses;
/// What stands, and the steps from there to what must.
mod steps;

pub use addresses::{
    AddressPlan, Device, Devices, Held, Ours, Static, addresses, candidates, ours, place, underlay,
};
pub use desired::{
    Bridge, Conflict, Interface, Ipv6, Kind, Namespace, Network, Return, Uplink, UplinkLeg, mac,
};
pub use steps::{Present, Step, steps};

#[cfg(test)]
mod tests;
