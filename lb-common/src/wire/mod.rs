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
/// IPv6.
mod ipv6;
/// TCP.
mod tcp;
/// UDP.
mod udp;
/// ICMP and ICMPv6.
mod icmp;
/// The Internet checksum, whole and incremental.
pub mod checksum;

pub use eth::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Eth};
pub use field::{Raw8, Raw16, Raw32, Raw128};
pub use icmp::{Icmp, icmp4, icmp6};
pub use ipv4::{Ipv4, protocol};
pub use ipv6::{Ipv6, Ipv6Fragment};
pub use tcp::{Tcp, flags, option};
pub use udp::{Ports, Udp};
pub use window::{Window, Wire};
