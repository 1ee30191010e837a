//! Checked views of packet headers, and checksums.
//!
//! A view is a reference into the packet whose bounds were checked once; fields are cells of bytes, so a header can be
//! read and rewritten through shared references on any alignment, in the kernel and on the host alike.

/// The packet's bounds, and the only way to a view.
mod window;
/// Fields of headers.
mod field;
/// Ethernet.
mod eth;
/// IPv4.
mod ipv4;
/// TCP.
mod tcp;
/// UDP.
mod udp;
/// ICMP.
mod icmp;
/// The Internet checksum, whole and incremental.
pub mod checksum;

pub use eth::{ETHERTYPE_IPV4, Eth};
pub use field::{Raw8, Raw16, Raw32};
pub use icmp::Icmp;
pub use ipv4::{Ipv4, protocol};
pub use tcp::{Tcp, flags};
pub use udp::Udp;
pub use window::{Window, Wire};
