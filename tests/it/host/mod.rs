//! A host's own interfaces under the appliance: addresses, XDP, reboots, endings; and units for its service manager.

/// A host of two interfaces, a client, a target.
mod world;
/// Addresses: chosen, answered for, announced, refused.
mod addresses;
/// Targets beyond another interface.
mod ways;
/// A host with IPv6, and load balancers of both families on it.
mod dual;
/// IPv6 addresses: chosen, asked for, announced, answered for; and what they serve.
mod ipv6;
/// Other interfaces than one good NIC: two networks that only the host joins, and one without native XDP.
mod interfaces;
/// Clients on the host itself.
mod dial;
/// What is not ours stays as it was.
mod neighbourly;
/// Crashes, reboots, and the end.
mod lifecycle;
/// Units for systemd: written, removed, understood, and each role started as its unit says.
mod units;
