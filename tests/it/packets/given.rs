//! What the tables hold before a packet, and what was counted after it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::abi::{
    CookieCounters, DropReason, Flow, FlowKey, Ipv4Be, Ipv6Be, Listener, ListenerCounters, ListenerKey,
    NO_RING, NO_TARGET, PortBe, PortCursor, Pulse, ServerIdKey, SourceKey, TableShape, Target,
    TargetCounters, listener_flags, target_mode, target_state,
};
use lb_common::wire::protocol::{TCP, UDP};

use super::segment::{BALANCER, BALANCER_MAC, BALANCER6, TARGET, TARGET_MAC, TARGET_PORT, TARGET6};

/// Where packets come in: loopback's index, which is what the kernel's test runs say.
pub(super) const INGRESS: u32 = 1;
/// Flow entries of a family that fit.
pub(super) const CAPACITY: usize = 8;
/// Of tables with so many slots.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
pub(super) const SHAPE: TableShape = TableShape { seed: 0x5eed, mask: CAPACITY as u32 - 1, pad: 0 };

/// A plain listener, index 0.
pub(super) const HTTP: u16 = 80;
/// Another, index 1.
pub(super) const HTTPS: u16 = 443;
/// A listener without targets, index 2.
pub(super) const EMPTY: u16 = 81;
/// A listener that security groups guard: 10.0.1.0/24 and fd00:1::/64 may use it, index 3, of IPv6 index 19.
pub(super) const GUARDED: u16 = 8443;
/// A listener whose target is not resolved, index 4.
pub(super) const UNRESOLVED: u16 = 82;
/// A listener whose ring has no target in its slots, index 5.
pub(super) const HOLLOW: u16 = 83;
/// Its target sees the client's address, index 6; of IPv6 20.
pub(super) const PRESERVE: u16 = 90;
/// Its target is of the other family, index 7; of IPv6 17.
pub(super) const CROSSING: u16 = 91;
/// Its target is sent frames as they are, index 8; of IPv6 21.
pub(super) const BRIDGED: u16 = 92;
/// Its target is sent IPv4 packets with packets inside, index 9; of IPv6 22.
pub(super) const IPIP: u16 = 93;
/// The same inside UDP, index 10; of IPv6 24.
pub(super) const GUE: u16 = 94;
/// Its target is sent IPv6 packets with packets inside, index 11; of IPv6 23.
pub(super) const IPIP6: u16 = 95;
/// The same inside UDP, index 12.
pub(super) const GUE6: u16 = 96;
/// It ends in userspace, and a socket listens there, index 13; of IPv6 28.
pub(super) const LOCAL: u16 = 97;
/// A UDP listener, index 14; of IPv6 18.
pub(super) const DNS: u16 = 53;
/// A QUIC listener, index 15.
pub(super) const QUIC: u16 = 4433;
/// Index of the IPv6 listener on [`HTTP`].
pub(super) const HTTP6: u32 = 16;
/// A UDP listener without targets, index 25.
pub(super) const DNS_EMPTY: u16 = 54;

/// The target that QUIC connection ids with [`SERVER_ID`] name.
pub(super) const NAMED: u16 = 11;
/// Its server id.
pub(super) const SERVER_ID: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// Its address.
pub(super) const NAMED_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 22);

/// The tables' content.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) ifindex: u32,
    /// Address, port, protocol and what it does; the place is the index.
    pub(super) listeners: Vec<(IpAddr, u16, u8, Listener)>,
    pub(super) sources: Vec<(u32, SourceKey<Ipv4Be>)>,
    pub(super) sources6: Vec<(u32, SourceKey<Ipv6Be>)>,
    /// What all slots of a ring have.
    pub(super) rings: Vec<u16>,
    pub(super) targets: Vec<Target>,
    pub(super) server_ids: Vec<(ServerIdKey, u16)>,
    pub(super) flows: Vec<(FlowKey<Ipv4Be>, Flow<Ipv4Be>)>,
    pub(super) flows6: Vec<(FlowKey<Ipv6Be>, Flow<Ipv6Be>)>,
    pub(super) pulse: Pulse,
    pub(super) ports: PortCursor,
}

impl Default for Given {
    fn default() -> Self {
        let (v4, v6): (IpAddr, IpAddr) = (BALANCER.into(), BALANCER6.into());
        let tcp = |address, port, ring, flags| (address, port, TCP, listener(address, ring, flags));
        let udp = |address, port, ring, flags| (address, port, UDP, listener(address, ring, flags));
        let direct = listener_flags::DIRECT;
        Self {
            ifindex: INGRESS,
            listeners: vec![
                tcp(v4, HTTP, 0, 0),
                tcp(v4, HTTPS, 0, 0),
                tcp(v4, EMPTY, NO_RING, 0),
                tcp(v4, GUARDED, 0, listener_flags::GUARDED),
                tcp(v4, UNRESOLVED, 1, 0),
                tcp(v4, HOLLOW, 2, 0),
                tcp(v4, PRESERVE, 3, 0),
                tcp(v4, CROSSING, 4, 0),
                tcp(v4, BRIDGED, 5, direct),
                tcp(v4, IPIP, 6, direct),
                tcp(v4, GUE, 7, direct),
                tcp(v4, IPIP6, 8, direct),
                tcp(v4, GUE6, 9, direct),
                tcp(v4, LOCAL, NO_RING, listener_flags::LOCAL),
                udp(v4, DNS, 0, 0),
                udp(v4, QUIC, 0, listener_flags::QUIC),
                tcp(v6, HTTP, 4, 0),
                tcp(v6, CROSSING, 0, 0),
                udp(v6, DNS, 4, 0),
                tcp(v6, GUARDED, 4, listener_flags::GUARDED),
                tcp(v6, PRESERVE, 10, 0),
                tcp(v6, BRIDGED, 5, direct),
                tcp(v6, IPIP, 6, direct),
                tcp(v6, IPIP6, 8, direct),
                tcp(v6, GUE, 7, direct),
                udp(v4, DNS_EMPTY, NO_RING, 0),
                udp(v4, CROSSING, 4, 0),
                udp(v6, CROSSING, 0, 0),
                tcp(v6, LOCAL, NO_RING, listener_flags::LOCAL),
            ],
            sources: vec![(24, SourceKey { listener: 3, source: Ipv4Addr::new(10, 0, 1, 0).into() })],
            sources6: vec![(
                64,
                SourceKey { listener: 19, source: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0).into() },
            )],
            rings: vec![0, 1, NO_TARGET, 3, 4, 5, 6, 7, 8, 9, 10],
            targets: vec![
                target(TARGET.into(), 7, target_mode::NAT),
                Target {
                    state: target_state::UNRESOLVED,
                    ..target([10, 0, 1, 21].into(), 1, target_mode::NAT)
                },
                Target::GONE,
                target(TARGET.into(), 1, target_mode::PRESERVE),
                target(TARGET6.into(), 1, target_mode::NAT),
                target(TARGET.into(), 1, target_mode::L2),
                target(TARGET.into(), 1, target_mode::IPIP),
                target(TARGET.into(), 1, target_mode::GUE),
                target(TARGET6.into(), 1, target_mode::IPIP),
                target(TARGET6.into(), 1, target_mode::GUE),
                target(TARGET6.into(), 1, target_mode::PRESERVE),
                target(NAMED_ADDRESS.into(), 1, target_mode::NAT),
            ],
            server_ids: vec![(
                ServerIdKey { id: u64::from_le_bytes(SERVER_ID), listener: 15, pad: 0 },
                NAMED,
            )],
            flows: Vec::new(),
            flows6: Vec::new(),
            pulse: Pulse { tick: 100, syn_limit: 1_000, source_limit: 0, cookie_scale: 0 },
            ports: PortCursor { first: 2_000, span: 100, next: 0, pad: 0 },
        }
    }
}

fn listener(address: IpAddr, ring: u32, flags: u32) -> Listener {
    Listener {
        ring,
        flags,
        previous_ring: NO_RING,
        previous_until: 0,
        syn_limit: 1_000,
        server_id_length: 8,
        address: wide(address),
    }
}

fn target(address: IpAddr, generation: u16, mode: u16) -> Target {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (TARGET_MAC, BALANCER_MAC);
    Target {
        generation,
        state: target_state::READY,
        mode,
        port: PortBe::new(TARGET_PORT),
        mac_head: u32::from_ne_bytes([a, b, c, d]),
        mac_tail: u16::from_ne_bytes([e, f]),
        own_mac_tail: u16::from_ne_bytes([k, l]),
        own_mac_head: u32::from_ne_bytes([g, h, i, j]),
        egress: INGRESS,
        mtu: 1_500,
        family: if address.is_ipv4() { 4 } else { 6 },
        group: 0,
        address: wide(address),
        via: if address.is_ipv4() { wide(BALANCER.into()) } else { wide(BALANCER6.into()) },
    }
}

fn wide(address: IpAddr) -> Ipv6Be {
    match address {
        IpAddr::V4(address) => Ipv6Be::of_v4(address.into()),
        IpAddr::V6(address) => address.into(),
    }
}

pub(super) fn listener_key<A>(address: A, port: u16, protocol: u8) -> ListenerKey<A> {
    ListenerKey { address, port: PortBe::new(port), protocol, pad: 0 }
}

/// What was counted, and the flows that are there.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) listeners: BTreeMap<u32, ListenerCounters>,
    pub(super) targets: BTreeMap<u32, TargetCounters>,
    pub(super) cookies: BTreeMap<u32, CookieCounters>,
    /// Of targets' addresses.
    pub(super) path_mtus: BTreeMap<IpAddr, u32>,
    pub(super) drops: BTreeMap<&'static str, u64>,
    /// Text of keys and values, for an order and for reading.
    pub(super) flows: BTreeMap<String, String>,
}

impl Outcome {
    pub(super) fn flow<A: std::fmt::Debug>(&mut self, key: &FlowKey<A>, flow: &Flow<A>) {
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
    /// Changes listeners, targets and clock between two packets.
    fn change(&mut self, given: &Given);
    /// One packet.
    fn run(&mut self, packet: &[u8]) -> Seen;
    /// What there is now.
    fn outcome(&mut self) -> Outcome;
}
