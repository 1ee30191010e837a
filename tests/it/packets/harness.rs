//! What must hold whatever comes in: one harness for the fuzz target (`tests/fuzz`) and for the run of the suite.
//!
//! An input is a few bits about the tables and then steps: packets, and changes of clock and targets between them. Each
//! packet goes through the core over tables in memory, with bytes around it that nobody may touch; what comes out is read
//! anew and compared with what went in.

use lb_common::abi::{direction, target_mode, target_state};
use lb_common::packet::Verdict;

use super::given::{CAPACITY, Given, INGRESS, Runner};
use super::host::{HEADROOM, Host};
use super::reading::{Reading, read};

/// One step of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A packet comes in.
    Packet(Vec<u8>),
    /// Seconds go by.
    Wait(u8),
    /// A target's entry changes.
    Target(u8, Change),
}

/// What happens to a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Gone,
    Ready,
    Unresolved,
    /// Another has its index now.
    Another,
}

/// What an input says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// Bits about the tables.
    pub(super) tables: u8,
    pub(super) steps: Vec<Step>,
}

impl Input {
    /// Reads one; any bytes are one.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let (tables, mut left) = bytes.split_first().map_or((0, bytes), |(tables, left)| (*tables, left));
        let mut steps = Vec::new();
        while let Some((what, rest)) = left.split_first()
            && steps.len() < MOST_STEPS
        {
            left = rest;
            let (step, used) = match what {
                0..=15 => (Step::Wait(*what), 0),
                16..=31 => (Step::Target(rest.first().copied().unwrap_or(0), change(*what)), 1),
                _ => {
                    let said = rest.first_chunk().map_or(0, |length| u16::from_be_bytes(*length));
                    let length = usize::from(said).min(MOST_BYTES).min(rest.len().saturating_sub(2));
                    (Step::Packet(rest.get(2..2 + length).unwrap_or_default().to_vec()), 2 + length)
                }
            };
            steps.push(step);
            left = left.get(used..).unwrap_or_default();
        }
        Self { tables, steps }
    }

    /// The bytes that are read as this.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = vec![self.tables];
        for step in &self.steps {
            match step {
                Step::Packet(packet) => {
                    bytes.push(255);
                    bytes.extend(u16::try_from(packet.len()).unwrap().to_be_bytes());
                    bytes.extend(packet);
                }
                Step::Wait(seconds) => bytes.push(*seconds),
                Step::Target(which, change) => bytes.extend([16 + *change as u8, *which]),
            }
        }
        bytes
    }

    fn given(&self) -> Given {
        let mut given = Given::default();
        let has = |bit: u8| self.tables & 1 << bit != 0;
        if has(0) {
            given.pulse.syn_limit = 2;
        }
        if has(1) {
            given.pulse.source_limit = 2;
        }
        if has(2) {
            for (.., listener) in &mut given.listeners {
                (listener.previous_ring, listener.previous_until) = (3, given.pulse.tick + 3);
            }
        }
        if has(3) {
            given.ports.span = 2;
        }
        given
    }
}

/// How many packets became what.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reached {
    pub(super) passed: u64,
    pub(super) dropped: u64,
    pub(super) forwarded: u64,
    pub(super) answered: u64,
}

/// Plays an input, and panics where something does not hold.
pub(super) fn play(bytes: &[u8], reached: &mut Reached) {
    let input = Input::read(bytes);
    let mut given = input.given();
    let mut host = Host::default();
    host.begin(&given);
    for step in &input.steps {
        match step {
            Step::Packet(packet) => match one(&host, packet) {
                Verdict::Pass => reached.passed += 1,
                Verdict::Drop(_) => reached.dropped += 1,
                Verdict::Transmit(_) => reached.forwarded += 1,
                Verdict::TransmitFirst { .. } => reached.answered += 1,
            },
            Step::Wait(seconds) => given.pulse.tick = given.pulse.tick.wrapping_add(u32::from(*seconds)),
            Step::Target(which, change) => {
                let count = given.targets.len();
                let target = &mut given.targets[usize::from(*which) % count];
                match change {
                    Change::Gone => target.state = target_state::GONE,
                    Change::Ready => target.state = target_state::READY,
                    Change::Unresolved => target.state = target_state::UNRESOLVED,
                    Change::Another => target.generation = target.generation.wrapping_add(1),
                }
            }
        }
        host.change(&given);
    }
}

/// One packet, and all that must hold of it.
pub(super) fn one(host: &Host, packet: &[u8]) -> Verdict {
    let length = packet.len();
    let mut arena = vec![UNTOUCHED; HEADROOM + length + BEHIND];
    arena[HEADROOM..HEADROOM + length].copy_from_slice(packet);
    let dropped = host.dropped(None);
    let dropped_so = |verdict| match verdict {
        Verdict::Drop(reason) => host.dropped(Some(reason)),
        _ => 0,
    };
    let (verdict, start) = host.steer(&mut arena[..HEADROOM + length]);
    let say = || format!("{verdict:?} of {packet:02x?}");

    let outside = arena[..start.min(HEADROOM)].iter().chain(&arena[HEADROOM + length..]);
    assert!(outside.copied().all(|byte| byte == UNTOUCHED), "written outside: {}", say());
    let out = &arena[start..HEADROOM + length];
    let is_drop = matches!(verdict, Verdict::Drop(_));
    assert_eq!(host.dropped(None) - dropped, u64::from(is_drop), "counted: {}", say());
    assert!(!is_drop || dropped_so(verdict) > 0, "counted for its reason: {}", say());
    match verdict {
        Verdict::Pass => assert_eq!(out, packet, "changed: {}", say()),
        // What does not fit is found out after it was made room for.
        Verdict::Drop(_) if start == HEADROOM => assert_eq!(out, packet, "changed: {}", say()),
        Verdict::Drop(_) => {}
        Verdict::Transmit(egress) => {
            assert_eq!(egress, INGRESS, "{}", say());
            forwarded(packet, out, &say);
        }
        Verdict::TransmitFirst { length, egress } => {
            assert_eq!(egress, INGRESS, "{}", say());
            let answer = out.get(..usize::from(length)).unwrap_or_else(|| panic!("too long: {}", say()));
            answered(packet, answer, &say);
        }
    }
    pairs(host, &say);
    verdict
}

/// A packet that was sent on.
fn forwarded(came: &[u8], left: &[u8], say: &dyn Fn() -> String) {
    let (Some(before), Some(after)) = (read(came), read(left)) else {
        panic!("not read: {} as {left:02x?}", say())
    };
    // As it is, to another MAC or in a tunnel: whatever was wrong with it still is.
    let inner = &came[14..];
    if left.ends_with(inner) && left.len() - 14 >= inner.len() {
        assert!(after.is_header_right || left.len() == came.len(), "tunnel: {} as {left:02x?}", say());
        return;
    }
    assert_eq!(after.hops, before.hops - 1, "{} as {left:02x?}", say());
    assert_eq!(after.class, before.class, "{} as {left:02x?}", say());
    let stays = before.from.is_ipv4() == after.from.is_ipv4();
    if stays {
        assert_eq!(left.len(), came.len(), "{} as {left:02x?}", say());
        assert_eq!(after.options, before.options, "{} as {left:02x?}", say());
        assert_eq!(
            before.is_header_right,
            after.is_header_right,
            "what was wrong stays wrong: {} as {left:02x?}",
            say()
        );
    }
    // Errors of ICMP are judged by what they quote, and a wrong quote may make a right message.
    let is_message = before.ports().is_none() || matches!(before.protocol, 1 | 58);
    match (before.is_body_right, after.is_body_right) {
        (Some(true), right) => assert_eq!(right, Some(true), "{} as {left:02x?}", say()),
        (Some(false), right) if stays && !is_message => {
            assert_eq!(right, Some(false), "what was wrong stays wrong: {} as {left:02x?}", say());
        }
        _ => {}
    }
    let same = |reading: &Reading| reading.body.get(4..6).map(<[u8]>::to_vec);
    assert!(is_message || same(&before) == same(&after), "{} as {left:02x?}", say());
}

/// A packet that was answered.
fn answered(came: &[u8], answer: &[u8], say: &dyn Fn() -> String) {
    let (Some(before), Some(after)) = (read(came), read(answer)) else {
        panic!("not read: {} as {answer:02x?}", say())
    };
    // An error is told to who sent the packet that it is about.
    if !matches!(before.protocol, 1 | 58) {
        assert_eq!((after.from, after.to), (before.to, before.from), "{} as {answer:02x?}", say());
        assert_eq!((&answer[..6], &answer[6..12]), (&came[6..12], &came[..6]), "{} as {answer:02x?}", say());
    }
    assert!(
        after.is_header_right && after.is_body_right == Some(true),
        "of our own, and wrong: {} as {answer:02x?}",
        say()
    );
}

/// Flows that stay in their family have both of their halves, which say the same.
fn pairs(host: &Host, say: &dyn Fn() -> String) {
    let flows = host.flow_entries();
    assert!(flows.len() <= CAPACITY, "{}", say());
    for (key, flow) in &flows {
        if flow.direction == direction::TO_TARGET && flow.mode <= target_mode::PRESERVE {
            let other = flows.iter().find(|(other, _)| *other == flow.reverse_key(key.protocol));
            let (_, other) = other.unwrap_or_else(|| panic!("half a flow, {key:?}: {}", say()));
            assert_eq!(other.reverse_key(key.protocol), *key, "{}", say());
            assert_eq!(
                (other.listener, other.target, other.generation, other.direction),
                (flow.listener, flow.target, flow.generation, direction::TO_CLIENT),
                "{}",
                say()
            );
        }
    }
}

fn change(what: u8) -> Change {
    match what & 3 {
        0 => Change::Gone,
        1 => Change::Ready,
        2 => Change::Unresolved,
        _ => Change::Another,
    }
}

/// Steps that are read of an input.
const MOST_STEPS: usize = 32;
/// Bytes of a packet: a jumbo frame's.
const MOST_BYTES: usize = 9_216;
/// Bytes behind a packet that nobody may read into it or write to.
const BEHIND: usize = 64;
const UNTOUCHED: u8 = 0xa5;
