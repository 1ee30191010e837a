//! The virtual network, in real namespaces: what the driver made is judged by the connections it carries.

/// What the tests ask for: slices, and an internet to dial out to.
mod world;
/// Made once, adopted ever after, removed to the last device.
mod lifecycle;
/// Who may connect to whom.
mod reach;
/// Where a VPC's resolver is reached, and whom it reaches.
mod resolver;
/// IPv6, and the ways of answers that go by load balancers.
mod families;
