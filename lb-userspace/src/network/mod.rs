//! Addresses, namespaces and security groups on a Linux host.
//!
//! A host slice comes in; `plan` says what must stand and what to do, `driver` does it in namespaces of our own or `host`
//! on the host's interfaces, and every role enters the namespace it works in before it starts a thread. All of it persists: a role that crashed finds its interfaces again.

/// What must stand, what stands, and the steps between.
pub mod plan;
/// Network namespaces by name: made, entered, listed, removed.
pub mod namespace;
/// Devices of one namespace: read, made, removed.
mod device;
/// Offloads of a device, by the ethtool ioctl.
mod offload;
/// The virtual driver: carries a plan out.
mod driver;
/// The host's own interfaces: read, and our addresses on them.
mod interfaces;
/// Frames of one protocol on one interface.
mod packet_socket;
/// Who has an address, and who has it now: asked of everybody on the wire, and told.
mod claim;
/// IPv4's way to ask and tell.
mod arp;
/// IPv6's.
mod ndp;
/// Which addresses we put where, on disk.
mod record;
/// The host driver: load balancers' addresses on the host's own interfaces.
mod host;
/// Where the host's own routes lead.
mod routes;
/// Where the kernel keeps pins and cgroups.
pub mod places;
/// The PROXY protocol, version 2, as AWS's load balancers write it.
pub mod proxy_protocol;
/// What a host still holds of an appliance, found by name and removed.
mod remnant;

pub use arp::ask_as_nobody;
pub use driver::{Applied, Failure, Virtual};
pub use host::{HostError, OnHost, Placed, devices, remove_addresses, wait_until_free};
pub use namespace::{EnterError, enter};
pub use plan::Uplink;
pub use remnant::{Removed, keep_pins, remove_cgroups, remove_everything, remove_namespaces, remove_pins};
pub use routes::{Route, routes};
