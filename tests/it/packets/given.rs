//! What the tables hold before a packet, and what was counted after it.

use std::collections::BTreeMap;

use lb_common::abi::{
    DropReason, Flow, FlowKey, Ipv4Be, Listener, ListenerCounters, ListenerKey, NO_RING, NO_TARGET, PortBe,
    PortCursor, Pulse, SourceKey, Target, TargetCounters, listener_flags, target_state,
};

use super::segment::{BALANCER, TARGET, TARGET_MAC, TARGET_PORT};

/// Where packets come in: loopback's index, which is what the kernel's test runs say.
pub(super) const INGRESS: u32 = 1;
/// Flow entries that fit.
pub(super) const CAPACITY: usize = 8;

/// A plain listener, index 0.
pub(super) const HTTP: u16 = 80;
/// Another, index 1.
pub(super) const HTTPS: u16 = 443;
/// A listener without targets, index 2.
pub(super) const EMPTY: u16 = 81;
/// A listener that security groups guard: 10.0.1.0/24 may use it, index 3.
pub(super) const GUARDED: u16 = 8443;
/// A listener whose target is not resolved, index 4.
pub(super) const UNRESOLVED: u16 = 82;
/// A listener whose ring has no target in its slots, index 5.
pub(super) const HOLLOW: u16 = 83;

/// The tables' content.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) ifindex: u32,
    pub(super) listeners: Vec<(u16, Listener)>,
    pub(super) sources: Vec<(u32, SourceKey)>,
    /// What all slots of a ring have.
    pub(super) rings: Vec<u16>,
    pub(super) targets: Vec<Target>,
    pub(super) flows: Vec<(FlowKey, Flow)>,
    pub(super) pulse: Pulse,
    pub(super) ports: PortCursor,
}

impl Default for Given {
    fn default() -> Self {
        let listener = |ring, flags| Listener { ring, flags };
        let second = Target { address: Ipv4Be::from(std::net::Ipv4Addr::new(10, 0, 1, 21)), ..ready(1) };
        Self {
            ifindex: INGRESS,
            listeners: vec![
                (HTTP, listener(0, 0)),
                (HTTPS, listener(0, 0)),
                (EMPTY, listener(NO_RING, 0)),
                (GUARDED, listener(0, listener_flags::GUARDED)),
                (UNRESOLVED, listener(1, 0)),
                (HOLLOW, listener(2, 0)),
            ],
            sources: vec![(
                24,
                SourceKey { listener: 3, source: std::net::Ipv4Addr::new(10, 0, 1, 0).into() },
            )],
            rings: vec![0, 1, NO_TARGET],
            targets: vec![ready(7), Target { state: target_state::UNRESOLVED, ..second }, Target::GONE],
            flows: Vec::new(),
            pulse: Pulse { tick: 100, syn_limit: 1_000 },
            ports: PortCursor { first: 2_000, span: 100, next: 0, pad: 0 },
        }
    }
}

fn ready(generation: u32) -> Target {
    let [a, b, c, d, e, f] = TARGET_MAC;
    Target {
        address: TARGET.into(),
        port: PortBe::new(TARGET_PORT),
        state: target_state::READY,
        mac_head: u32::from_ne_bytes([a, b, c, d]),
        mac_tail: u16::from_ne_bytes([e, f]),
        pad: 0,
        generation,
        via: BALANCER.into(),
        group: 0,
    }
}

pub(super) fn listener_key(port: u16) -> ListenerKey {
    ListenerKey { address: BALANCER.into(), port: PortBe::new(port), protocol: 6, pad: 0 }
}

/// What was counted, and the flows that are there.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) listeners: BTreeMap<u32, ListenerCounters>,
    pub(super) targets: BTreeMap<u32, TargetCounters>,
    pub(super) drops: BTreeMap<&'static str, u64>,
    /// Text of keys and values, for an order and for reading.
    pub(super) flows: BTreeMap<String, String>,
}

impl Outcome {
    pub(super) fn flow(&mut self, key: &FlowKey, flow: &Flow) {
        self.flows.insert(format!("{key:?}"), format!("{flow:?}"));
    }

    pub(super) fn drop_count(&mut self, reason: DropReason, packets: u64) {
        if packets > 0 {
            self.drops.insert(reason.name(), packets);
        }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    Pass,
    Drop,
    Transmit(Vec<u8>),
}

/// Tables and a program over them.
pub(super) trait Runner {
    /// Begins anew with this content.
    fn begin(&mut self, given: &Given);
    /// Changes targets and clock between two packets.
    fn change(&mut self, given: &Given);
    /// One packet.
    fn run(&mut self, packet: &[u8]) -> Seen;
    /// What there is now.
    fn outcome(&mut self) -> Outcome;
}
