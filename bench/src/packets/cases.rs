//! What is measured, and what SPECIFICATION.md promises of it.

use lb_common::abi::target_mode;

/// A kind of packet, over so many flows.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) packet: Packet,
    /// One of [`target_mode`].
    pub(super) mode: u16,
    pub(super) family: Family,
    pub(super) flows: u32,
    pub(super) goal: Goal,
}

/// What the driver writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Packet {
    /// From a client, of a flow that is there.
    Request,
    /// From a target, of a flow that is there.
    Reply,
    /// From a client, each of a flow that is not there yet.
    Syn,
}

/// Of the packets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What is promised.
pub(super) enum Goal {
    /// Nanoseconds with the driver, as that costs where the goals were set.
    Gross(f64),
    /// Nanoseconds without the driver, where the reference costs what it cost there.
    Net(f64),
    /// In terms of what two updates of a hash table take, net.
    Updates(f64),
    /// In terms of another case before it, net.
    Like(&'static str, f64),
    /// Only reported.
    None,
}

const NAT_1: &str = "full NAT, established, request, 1 flow";
const NAT_1K: &str = "full NAT, established, request, 1k flows";
const NAT_60K: &str = "full NAT, established, request, 60k flows";

/// Over tables as a node has them.
pub(super) const CASES: &[Case] = &[
    nat(NAT_1, Packet::Request, 1, Goal::Gross(50.0)),
    nat(NAT_1K, Packet::Request, 1_000, Goal::Gross(58.0)),
    nat(NAT_60K, Packet::Request, 60_000, Goal::Gross(140.0)),
    nat("full NAT, established, reply, 1 flow", Packet::Reply, 1, Goal::Gross(50.0)),
    nat("full NAT, established, reply, 1k flows", Packet::Reply, 1_000, Goal::Gross(58.0)),
    nat("full NAT, established, reply, 60k flows", Packet::Reply, 60_000, Goal::Gross(140.0)),
    nat("full NAT, SYN that begins a flow", Packet::Syn, 60_000, Goal::Updates(1.1)),
    to_target("DNAT, established, request, 1 flow", target_mode::PRESERVE, 1, Goal::Gross(45.0)),
    to_target("DNAT, established, request, 1k flows", target_mode::PRESERVE, 1_000, Goal::Gross(52.0)),
    to_target("DNAT, established, request, 60k flows", target_mode::PRESERVE, 60_000, Goal::Gross(100.0)),
    // Half of what the public leader takes, whose driver took 15 as the packet grew: 96, 111 and 217.
    to_target("IPIP, established, request, 1 flow", target_mode::IPIP, 1, Goal::Net(40.5)),
    to_target("IPIP, established, request, 1k flows", target_mode::IPIP, 1_000, Goal::Net(48.0)),
    to_target("IPIP, established, request, 60k flows", target_mode::IPIP, 60_000, Goal::Net(101.0)),
    v6("IPv6 full NAT, established, request, 1 flow", 1, Goal::Like(NAT_1, 1.3)),
    v6("IPv6 full NAT, established, request, 1k flows", 1_000, Goal::Like(NAT_1K, 1.3)),
    v6("IPv6 full NAT, established, request, 60k flows", 60_000, Goal::Like(NAT_60K, 1.3)),
];

/// Over tables of a size that only these need.
pub(super) const MANY: &[Case] = &[
    nat("full NAT, established, request, 1M flows", Packet::Request, 1_000_000, Goal::None),
    nat("full NAT, established, reply, 1M flows", Packet::Reply, 1_000_000, Goal::None),
];

const fn nat(name: &'static str, packet: Packet, flows: u32, goal: Goal) -> Case {
    Case { name, packet, mode: target_mode::NAT, family: Family::V4, flows, goal }
}

const fn to_target(name: &'static str, mode: u16, flows: u32, goal: Goal) -> Case {
    Case { name, packet: Packet::Request, mode, family: Family::V4, flows, goal }
}

const fn v6(name: &'static str, flows: u32, goal: Goal) -> Case {
    Case { name, packet: Packet::Request, mode: target_mode::NAT, family: Family::V6, flows, goal }
}
