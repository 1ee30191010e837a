//! Listeners of network load balancers that end in userspace.

/// Streams with one load balancer on loopback, and a slice that can be changed.
mod stage;
/// Clients and targets, over TCP and TLS.
mod peer;
/// Handshakes with clients: certificates, ALPN, and those that fail.
mod handshake;
/// Bytes both ways, and how connections end.
mod carry;
/// The header in front, and TLS to targets.
mod target_side;
/// Which target, for how long.
mod targets;
/// The whole path: boto3, openssl and curl against an appliance.
mod whole;
/// CloudWatch's metrics of an appliance with listeners of every protocol.
mod cloudwatch;
