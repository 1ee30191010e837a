//! The table through both, and what must hold for all packets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::abi::{CookieCounters, DropReason, Flow, Ipv4Be};
use lb_common::packet::Verdict;
use proptest::prelude::*;

use super::given::{Given, HTTP, Outcome, Runner, Seen};
use super::host::{HEADROOM, Host};
use super::kernel::Kernel;
use super::segment::{ACK, SYN, Segment, client, normalize, target};
use super::{errors, floods, flows, frames, modes, strays};

/// What comes in and what must become of it.
enum Step {
    Packet(Vec<u8>, Expect),
    /// A segment that acknowledges the last cookie that was sent.
    Acknowledge(Box<Segment>, Expect),
    Change(fn(&mut Given)),
}

#[derive(Debug, Clone)]
enum Expect {
    /// This leaves; so many bytes are counted, if any.
    Forward(Vec<u8>, u64),
    Reset(Vec<u8>),
    /// Answered by a SYN-ACK; the cookie and the time in it are the kernel's secrets.
    Cookie(Vec<u8>),
    Pass,
    Drop(DropReason),
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    Pass,
    Drop(DropReason),
    Transmit,
}

impl Expect {
    fn came(&self) -> Came {
        match self {
            Self::Forward(..) | Self::Reset(_) | Self::Cookie(_) => Came::Transmit,
            Self::Pass => Came::Pass,
            Self::Drop(reason) => Came::Drop(*reason),
        }
    }
}

/// A story: tables, packets, and what was counted at its end.
pub(super) struct Fixture {
    name: &'static str,
    given: Given,
    steps: Vec<Step>,
    listener: u32,
    new_flows: BTreeMap<u32, u64>,
    rejected: BTreeMap<u32, u64>,
    blocked: BTreeMap<u32, u64>,
    resets: BTreeMap<u32, u64>,
    target_resets: BTreeMap<u32, u64>,
    client_resets: BTreeMap<u32, u64>,
    port_errors: BTreeMap<u32, u64>,
    cookies: BTreeMap<u32, CookieCounters>,
    path_mtus: BTreeMap<IpAddr, u32>,
    entries: Option<usize>,
}

/// A story that has not begun.
pub(super) fn story(name: &'static str) -> Fixture {
    Fixture {
        name,
        given: Given::default(),
        steps: Vec::new(),
        listener: 0,
        new_flows: BTreeMap::new(),
        rejected: BTreeMap::new(),
        blocked: BTreeMap::new(),
        resets: BTreeMap::new(),
        target_resets: BTreeMap::new(),
        client_resets: BTreeMap::new(),
        port_errors: BTreeMap::new(),
        cookies: BTreeMap::new(),
        path_mtus: BTreeMap::new(),
        entries: None,
    }
}

impl Fixture {
    pub(super) fn given(mut self, change: impl FnOnce(&mut Given)) -> Self {
        change(&mut self.given);
        self
    }

    pub(super) fn change(mut self, change: fn(&mut Given)) -> Self {
        self.steps.push(Step::Change(change));
        self
    }

    /// Plays the story so far on the host, and begins again with the flows that are there then.
    pub(super) fn rewrite_flows(mut self, change: fn(&mut Flow<Ipv4Be>)) -> Self {
        let mut host = Host::default();
        host.begin(&self.given);
        let played = std::mem::take(&mut self.steps);
        for step in played {
            if let Step::Packet(packet, _) = step {
                host.run(&packet);
            }
        }
        self.given.flows = host.flow_entries();
        for (_, flow) in &mut self.given.flows {
            change(flow);
        }
        self.new_flows.clear();
        self
    }

    pub(super) fn forwards(self, packet: &Segment, out: &Segment) -> Self {
        self.forwards_bytes(packet.bytes(), out.bytes())
    }

    pub(super) fn forwards_bytes(mut self, packet: Vec<u8>, out: Vec<u8>) -> Self {
        let bytes = ip_bytes(&packet);
        self.steps.push(Step::Packet(packet, Expect::Forward(out, bytes)));
        self
    }

    /// Answered by a packet of the load balancer's own.
    pub(super) fn answers_bytes(mut self, packet: Vec<u8>, out: Vec<u8>) -> Self {
        self.steps.push(Step::Packet(packet, Expect::Reset(out)));
        self
    }

    /// Answered by a SYN cookie.
    pub(super) fn cookies(mut self, packet: &Segment, out: &Segment) -> Self {
        self.steps.push(Step::Packet(packet.bytes(), Expect::Cookie(out.bytes())));
        self
    }

    /// Passed, with the last cookie acknowledged.
    pub(super) fn acknowledges(mut self, packet: &Segment) -> Self {
        self.steps.push(Step::Acknowledge(Box::new(packet.clone()), Expect::Pass));
        self
    }

    pub(super) fn resets(mut self, packet: &Segment, listener: u32) -> Self {
        *self.resets.entry(listener).or_default() += 1;
        self.steps.push(Step::Packet(packet.bytes(), Expect::Reset(packet.reset().bytes())));
        self
    }

    pub(super) fn passes(self, packet: &Segment) -> Self {
        self.passes_bytes(packet.bytes())
    }

    pub(super) fn passes_bytes(mut self, packet: Vec<u8>) -> Self {
        self.steps.push(Step::Packet(packet, Expect::Pass));
        self
    }

    pub(super) fn drops(self, packet: &Segment, reason: DropReason) -> Self {
        self.drops_bytes(packet.bytes(), reason)
    }

    pub(super) fn drops_bytes(mut self, packet: Vec<u8>, reason: DropReason) -> Self {
        self.steps.push(Step::Packet(packet, Expect::Drop(reason)));
        self
    }

    /// Whose packets are forwarded, if not those of listener 0.
    pub(super) fn on_listener(mut self, listener: u32) -> Self {
        self.listener = listener;
        self
    }

    pub(super) fn new_flows(mut self, listener: u32, count: u64) -> Self {
        self.new_flows.insert(listener, count);
        self
    }

    pub(super) fn rejected(mut self, listener: u32, count: u64) -> Self {
        self.rejected.insert(listener, count);
        self
    }

    pub(super) fn blocked(mut self, listener: u32, count: u64) -> Self {
        self.blocked.insert(listener, count);
        self
    }

    pub(super) fn target_resets(mut self, target: u32, count: u64) -> Self {
        self.target_resets.insert(target, count);
        self
    }

    pub(super) fn client_resets(mut self, listener: u32, count: u64) -> Self {
        self.client_resets.insert(listener, count);
        self
    }

    pub(super) fn port_errors(mut self, listener: u32, count: u64) -> Self {
        self.port_errors.insert(listener, count);
        self
    }

    pub(super) fn counts_cookies(mut self, listener: u32, sent: u64, valid: u64, invalid: u64) -> Self {
        self.cookies.insert(listener, CookieCounters { sent, valid, invalid });
        self
    }

    /// What the path to a target is said to take, at the end.
    pub(super) fn learns(mut self, target: impl Into<IpAddr>, mtu: u32) -> Self {
        self.path_mtus.insert(target.into(), mtu);
        self
    }

    /// Flows at the end, two entries each.
    pub(super) fn flows(self, count: usize) -> Self {
        self.entries(count * 2)
    }

    pub(super) fn entries(mut self, count: usize) -> Self {
        self.entries = Some(count);
        self
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// What comes in, and what becomes of it.
    pub(super) fn packets(&self) -> Vec<(Vec<u8>, Came)> {
        let packet = |step: &Step| match step {
            Step::Packet(packet, expect) => Some((packet.clone(), expect.came())),
            Step::Acknowledge(..) | Step::Change(_) => None,
        };
        self.steps.iter().filter_map(packet).collect()
    }

    /// Whether what leaves is not known before.
    pub(super) fn is_secret(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Packet(_, Expect::Cookie(_))))
    }

    pub(super) fn play(&self, runner: &mut dyn Runner) -> (Vec<Seen>, Outcome) {
        let mut given = self.given.clone();
        runner.begin(&given);
        let mut seen = Vec::new();
        let mut cookie = 0_u32;
        for step in &self.steps {
            match step {
                Step::Packet(packet, expect) => {
                    let mut one = runner.run(packet);
                    if let (Expect::Cookie(_), Seen::Transmit(frame)) = (expect, &mut one) {
                        cookie = normalize(frame);
                    }
                    seen.push(one);
                }
                Step::Acknowledge(segment, _) => {
                    let segment = Segment { acknowledgement: cookie.wrapping_add(1), ..*segment.clone() };
                    seen.push(runner.run(&segment.bytes()));
                }
                Step::Change(change) => {
                    change(&mut given);
                    runner.change(&given);
                }
            }
        }
        (seen, runner.outcome())
    }

    /// Compares what happened with what is promised.
    pub(super) fn check(&self, seen: &[Seen], outcome: &Outcome) {
        let name = self.name;
        let expected: Vec<&Expect> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Packet(_, expect) | Step::Acknowledge(_, expect) => Some(expect),
                Step::Change(_) => None,
            })
            .collect();
        let mut drops = BTreeMap::new();
        let mut forwarded = 0;
        let mut bytes = 0;
        for (number, (expect, seen)) in expected.iter().zip(seen).enumerate() {
            let wanted = match expect {
                Expect::Forward(out, counted) => {
                    forwarded += 1;
                    bytes += counted;
                    Seen::Transmit(out.clone())
                }
                Expect::Reset(out) | Expect::Cookie(out) => Seen::Transmit(out.clone()),
                Expect::Pass => Seen::Pass,
                Expect::Drop(reason) => {
                    *drops.entry(reason.name()).or_default() += 1;
                    Seen::Drop
                }
            };
            assert_eq!(hex(seen), hex(&wanted), "{name}: packet {number}\n{outcome:#?}");
        }
        assert_eq!(outcome.drops, drops, "{name}: drops");
        let all = |pick: fn(&lb_common::abi::ListenerCounters) -> u64| -> BTreeMap<u32, u64> {
            outcome.listeners.iter().map(|(index, c)| (*index, pick(c))).filter(|(_, n)| *n > 0).collect()
        };
        let packets: BTreeMap<u32, u64> =
            [(self.listener, forwarded)].into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(all(|c| c.packets), packets, "{name}: packets");
        assert_eq!(
            outcome.targets.values().map(|c| c.packets).sum::<u64>(),
            forwarded,
            "{name}: target packets"
        );
        assert_eq!(outcome.targets.values().map(|c| c.bytes).sum::<u64>(), bytes, "{name}: target bytes");
        assert_eq!(all(|c| c.client_resets), self.client_resets, "{name}: client resets");
        assert_eq!(outcome.cookies, self.cookies, "{name}: cookies");
        assert_eq!(outcome.path_mtus, self.path_mtus, "{name}: path MTUs");
        assert_eq!(all(|c| c.port_errors), self.port_errors, "{name}: port errors");
        assert_eq!(all(|c| c.new_flows), self.new_flows, "{name}: new flows");
        assert_eq!(all(|c| c.rejected), self.rejected, "{name}: rejected");
        assert_eq!(all(|c| c.blocked), self.blocked, "{name}: blocked");
        assert_eq!(all(|c| c.resets), self.resets, "{name}: resets");
        let target_resets: BTreeMap<u32, u64> =
            outcome.targets.iter().map(|(index, c)| (*index, c.resets)).filter(|(_, n)| *n > 0).collect();
        assert_eq!(target_resets, self.target_resets, "{name}: target resets");
        if let Some(entries) = self.entries {
            assert_eq!(outcome.flows.len(), entries, "{name}: flow entries\n{outcome:#?}");
        }
    }
}

/// What an IP packet says of its length, with its header.
fn ip_bytes(frame: &[u8]) -> u64 {
    if frame[12..14] == [0x86, 0xdd] {
        40 + u64::from(u16::from_be_bytes([frame[18], frame[19]]))
    } else {
        u64::from(u16::from_be_bytes([frame[16], frame[17]]))
    }
}

fn hex(seen: &Seen) -> String {
    match seen {
        Seen::Transmit(bytes) => {
            let words: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("transmit {}", words.join(" "))
        }
        other => format!("{other:?}"),
    }
}

/// The whole table.
pub(super) fn all() -> Vec<Fixture> {
    [
        flows::fixtures(),
        strays::fixtures(),
        modes::fixtures(),
        frames::fixtures(),
        floods::fixtures(),
        errors::fixtures(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn the_core_does_what_every_fixture_says() {
    let fixtures = all();
    assert!(fixtures.len() >= 160, "{}", fixtures.len());
    let mut host = Host::default();
    for fixture in fixtures {
        let (seen, outcome) = fixture.play(&mut host);
        fixture.check(&seen, &outcome);
    }
}

#[test]
fn the_kernel_does_what_every_fixture_says_and_what_the_core_does() {
    let mut kernel = Kernel::load("gatehouse.o");
    let mut host = Host::default();
    for fixture in all() {
        let (seen, outcome) = fixture.play(&mut kernel);
        fixture.check(&seen, &outcome);
        let (host_seen, host_outcome) = fixture.play(&mut host);
        assert_eq!(seen, host_seen, "{}", fixture.name);
        assert_eq!(outcome, host_outcome, "{}", fixture.name);
    }
}

#[test]
fn the_trace_build_decides_the_same() {
    let mut kernel = Kernel::load("gatehouse-trace.o");
    for fixture in all() {
        let (seen, outcome) = fixture.play(&mut kernel);
        fixture.check(&seen, &outcome);
    }
}

fn any_segment() -> impl Strategy<Value = Segment> {
    let payload = proptest::collection::vec(any::<u8>(), 0..200);
    let words = proptest::collection::vec(any::<[u8; 4]>(), 0..10);
    (
        any::<[u8; 4]>(),
        any::<u16>(),
        any::<u32>(),
        any::<u32>(),
        payload,
        words.clone(),
        words,
        2_u8..,
        any::<u16>(),
    )
        .prop_map(
            |(address, port, sequence, acknowledgement, payload, ip_options, tcp_options, ttl, id)| {
                client(HTTP, SYN).with(|s| {
                    s.from = (std::net::Ipv4Addr::from(address).into(), port);
                    s.sequence = sequence;
                    s.acknowledgement = acknowledgement;
                    s.payload = payload;
                    s.ip_options = ip_options.concat();
                    s.tcp_options = tcp_options.concat();
                    s.ttl = ttl;
                    s.id = id;
                })
            },
        )
}

/// The port that a segment left from.
fn source_port(frame: &[u8]) -> u16 {
    let header = 14 + usize::from(frame[14] & 0xf) * 4;
    u16::from_be_bytes([frame[header], frame[header + 1]])
}

proptest! {
    #[test]
    fn updated_checksums_equal_computed_ones(syn in any_segment()) {
        prop_assume!(syn.from.0 != super::segment::TARGET);
        let mut host = Host::default();
        host.begin(&Given::default());
        let Seen::Transmit(out) = host.run(&syn.bytes()) else { panic!("not forwarded") };
        let port = source_port(&out);
        prop_assert_eq!(out, syn.at_target(port).bytes());
    }

    #[test]
    fn out_and_back_is_identity(syn in any_segment(), reply in any_segment()) {
        prop_assume!(syn.from.0 != super::segment::TARGET);
        let mut host = Host::default();
        host.begin(&Given::default());
        let Seen::Transmit(out) = host.run(&syn.bytes()) else { panic!("not forwarded") };
        let port = source_port(&out);
        let reply = Segment { ..reply.clone() }.with(|s| {
            let wire = target(port, SYN | ACK);
            (s.from, s.to, s.from_mac, s.flags) = (wire.from, wire.to, wire.from_mac, wire.flags);
        });
        let Seen::Transmit(back) = host.run(&reply.bytes()) else { panic!("not returned") };
        // The client sees its own address and port, and everything else as the target wrote it.
        let expected = reply.at_client(HTTP).with(|s| s.to = syn.from);
        prop_assert_eq!(back, expected.bytes());
    }

    #[test]
    fn no_mutation_panics_or_leaves_the_packet(
        fixture in 0..all().len(),
        edits in proptest::collection::vec((0_usize..120, any::<u8>()), 0..6),
        cut in 0_usize..120,
    ) {
        let fixture = &all()[fixture];
        let mut host = Host::default();
        host.begin(&fixture.given);
        for step in &fixture.steps {
            let Step::Packet(packet, _) = step else { continue };
            let mut packet = packet.clone();
            for (at, byte) in &edits {
                if let Some(slot) = packet.get_mut(*at) {
                    *slot = *byte;
                }
            }
            packet.truncate(packet.len().max(cut) - cut.min(packet.len()) / 2);
            // What lies around the packet must neither be read into it nor written over: in front of it there is room
            // for a tunnel, and what is not used of it stays.
            let length = packet.len();
            let mut arena = vec![0xa5; HEADROOM + length + 64];
            arena[HEADROOM..HEADROOM + length].copy_from_slice(&packet);
            let (verdict, start) = host.steer(&mut arena[..HEADROOM + length]);
            let untouched = start.min(HEADROOM);
            prop_assert!(arena[..untouched].iter().chain(&arena[HEADROOM + length..]).all(|byte| *byte == 0xa5));
            match verdict {
                Verdict::TransmitFirst { length: first, .. } => {
                    prop_assert!(usize::from(first) <= HEADROOM + length - start);
                }
                Verdict::Transmit(_) => {}
                Verdict::Pass | Verdict::Drop(_) if start == HEADROOM => {
                    prop_assert_eq!(&arena[HEADROOM..HEADROOM + length], &packet[..]);
                }
                Verdict::Pass | Verdict::Drop(_) => {}
            }
        }
    }
}

#[test]
fn the_host_and_the_kernel_agree_on_mutated_packets() {
    // The same few thousand packets each time: a seed of its own and no shrinking, because the kernel keeps state.
    let mut seed = 0x9e37_79b9_u32;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        usize::try_from(seed).unwrap()
    };
    let mut kernel = Kernel::load("gatehouse.o");
    let mut host = Host::default();
    let fixtures: Vec<Fixture> = all().into_iter().filter(|fixture| !fixture.is_secret()).collect();
    for round in 0..500 {
        let fixture = &fixtures[random() % fixtures.len()];
        kernel.begin(&fixture.given);
        host.begin(&fixture.given);
        for step in &fixture.steps {
            let Step::Packet(packet, _) = step else { continue };
            let mut packet = packet.clone();
            for _ in 0..random() % 4 {
                let at = random() % packet.len();
                packet[at] = random().to_le_bytes()[0];
            }
            // The kernel's test runs take no packet shorter than an Ethernet header.
            packet.truncate((packet.len() - random() % 8).max(14));
            let (by_kernel, by_host) = (kernel.run(&packet), host.run(&packet));
            assert_eq!(hex(&by_kernel), hex(&by_host), "round {round}, {}: {packet:02x?}", fixture.name);
        }
        assert_eq!(kernel.outcome(), host.outcome(), "round {round}, {}", fixture.name);
    }
}
