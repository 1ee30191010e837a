//! Which flows are over: the kernel only notes what it sees, and this judges it.

use std::collections::BTreeMap;

use lb_common::abi::{EMBRYONIC_TICKS, Flow, FlowKey, direction, state, target_mode};

use super::plan::Protocol;

/// What a whole pass over the flow tables found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Which pass: one more than the one before.
    pub pass: u64,
    /// Flows by index of the target, embryonic ones included.
    pub by_target: BTreeMap<u16, u64>,
    /// Flows by index of the listener.
    pub by_listener: BTreeMap<u32, u64>,
    /// Entries of both tables.
    pub entries: u64,
    /// Flows that made room.
    pub expired: u64,
}

impl Census {
    /// Counts one entry; a flow is its client's.
    pub fn count<A>(&mut self, flow: &Flow<A>) {
        // Answers name them all the same: the index is not free.
        let flows = u64::from(is_request(flow));
        *self.by_target.entry(flow.target).or_default() += flows;
        *self.by_listener.entry(flow.listener).or_default() += flows;
        self.entries += 1;
    }
}

/// How long flows of a listener are waited for, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Of silence, with an established flow.
    pub idle: u32,
    /// Of silence, with a flow of UDP that was never answered: shorter when room is short.
    pub unanswered: u32,
}

/// Whether an entry alone is reason to look at the whole flow. Cheap, and true for few.
pub fn is_suspect<A>(flow: &Flow<A>, tick: u32, patience: Patience) -> bool {
    let silent = silence(flow, tick);
    flow.state & (state::FINISHED | state::RESET) != 0
        || flow.state & state::CONFIRMED == 0 && silent > EMBRYONIC_TICKS
        || silent > patience.idle.min(patience.unanswered)
}

/// Whether the other half of a flow is in the same table.
pub fn has_other_half<A>(flow: &Flow<A>) -> bool {
    flow.mode != target_mode::CROSS && !target_mode::is_direct(flow.mode)
}

/// Whether a flow of two halves in one table is over. A missing half is over once the other cannot be about to be
/// inserted.
pub fn is_over<A>(
    key: &FlowKey<A>,
    flow: &Flow<A>,
    other: Option<&Flow<A>>,
    tick: u32,
    patience: Patience,
) -> bool {
    let Some(other) = other else { return silence(flow, tick) > RESET_LINGER_TICKS };
    let (request, answer) = if is_request(flow) { (flow, other) } else { (other, flow) };
    let recent = silence(flow, tick).min(silence(other, tick));
    let (either, both) = (flow.state | other.state, flow.state & other.state);
    if either & state::RESET != 0 {
        return recent > RESET_LINGER_TICKS;
    }
    if both & state::FINISHED != 0 {
        return recent > FINISHED_LINGER_TICKS;
    }
    if is_udp(key) {
        // One packet and no answer is as embryonic as a SYN.
        return match (either & state::CONFIRMED != 0, answer.state & state::CONFIRMED != 0) {
            (false, _) => recent > EMBRYONIC_TICKS,
            (true, false) => recent > patience.unanswered,
            (true, true) => recent > patience.idle,
        };
    }
    if request.state & state::CONFIRMED == 0 {
        return silence(request, tick) > EMBRYONIC_TICKS;
    }
    recent > patience.idle
}

/// Whether an entry whose other half is in another table, or nowhere, is over. Each half is judged by itself: that one
/// direction finished says little of the other, so it is waited for longer.
pub fn is_half_over<A>(flow: &Flow<A>, tick: u32, patience: Patience) -> bool {
    let silent = silence(flow, tick);
    if flow.state & state::RESET != 0 {
        silent > RESET_LINGER_TICKS
    } else if flow.state & state::FINISHED != 0 {
        silent > HALF_FINISHED_LINGER_TICKS.min(patience.idle)
    } else if flow.state & state::CONFIRMED == 0 {
        silent > EMBRYONIC_TICKS
    } else {
        silent > patience.idle
    }
}

/// Whether an entry is the client's half of its flow.
pub fn is_request<A>(flow: &Flow<A>) -> bool {
    flow.direction == direction::TO_TARGET
}

fn silence<A>(flow: &Flow<A>, tick: u32) -> u32 {
    tick.wrapping_sub(flow.seen)
}

fn is_udp<A>(key: &FlowKey<A>) -> bool {
    key.protocol == u32::from(Protocol::Udp.number())
}

/// A RST may overtake data on its way; after this nothing is on its way any more.
const RESET_LINGER_TICKS: u32 = 3;

/// The last ACK may have to be repeated. Shorter than the 60 s that a Linux client keeps the ports for itself.
const FINISHED_LINGER_TICKS: u32 = 10;

/// What a half-closed direction may be silent: as long as a Linux host waits for the other's FIN (tcp_fin_timeout).
const HALF_FINISHED_LINGER_TICKS: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::{Ipv4Be, PortBe};

    const PATIENCE: Patience = Patience { idle: 350, unanswered: 350 };
    const FINISHED: u8 = state::CONFIRMED | state::FINISHED;

    fn key(protocol: Protocol) -> FlowKey<Ipv4Be> {
        FlowKey {
            source: Ipv4Be(1),
            destination: Ipv4Be(2),
            source_port: PortBe::new(3),
            destination_port: PortBe::new(4),
            protocol: protocol.number().into(),
        }
    }

    fn flow(way: u8, bits: u8, seen: u32) -> Flow<Ipv4Be> {
        Flow {
            source: Ipv4Be(1),
            destination: Ipv4Be(2),
            source_port: PortBe::new(3),
            destination_port: PortBe::new(4),
            ip_delta: 0,
            l4_delta: 0,
            mac_head: 0,
            mac_tail: 0,
            direction: way,
            state: bits,
            own_mac_head: 0,
            own_mac_tail: 0,
            mode: target_mode::NAT,
            listener: 0,
            target: 0,
            generation: 1,
            ifindex: 1,
            egress: 1,
            seen,
            began: 0,
            beyond: 0,
        }
    }

    fn over_of(protocol: Protocol, request: u8, reply: u8, seen: u32, tick: u32, patience: Patience) -> bool {
        let request = flow(direction::TO_TARGET, request, seen);
        let reply = flow(direction::TO_CLIENT, reply, seen);
        let told = [
            is_over(&key(protocol), &request, Some(&reply), tick, patience),
            is_over(&key(protocol), &reply, Some(&request), tick, patience),
        ];
        assert_eq!(told[0], told[1], "both halves must agree");
        told[0]
    }

    fn over(request: u8, reply: u8, seen: u32, tick: u32) -> bool {
        over_of(Protocol::Tcp, request, reply, seen, tick, PATIENCE)
    }

    #[test]
    fn an_embryonic_flow_is_over_after_ten_seconds() {
        assert!(!over(0, 0, 100, 110));
        assert!(over(0, 0, 100, 111));
        // What a target answers to a SYN does not establish it.
        assert!(over(0, state::CONFIRMED, 100, 111));
    }

    #[test]
    fn an_established_flow_is_over_when_idle() {
        assert!(!over(state::CONFIRMED, state::CONFIRMED, 100, 450));
        assert!(over(state::CONFIRMED, state::CONFIRMED, 100, 451));
    }

    #[test]
    fn one_fin_keeps_a_flow_and_two_end_it() {
        assert!(!over(FINISHED, state::CONFIRMED, 100, 200));
        assert!(!over(FINISHED, FINISHED, 100, 110));
        assert!(over(FINISHED, FINISHED, 100, 111));
    }

    #[test]
    fn a_reset_from_either_side_ends_a_flow() {
        assert!(over(state::CONFIRMED, state::RESET, 100, 104));
        assert!(over(state::RESET, state::CONFIRMED, 100, 104));
        assert!(!over(state::RESET, state::CONFIRMED, 100, 103));
    }

    #[test]
    fn one_udp_packet_without_an_answer_is_over_soon_and_a_conversation_when_idle() {
        let udp = Patience { idle: 120, unanswered: 120 };
        let over = |request, reply, tick| over_of(Protocol::Udp, request, reply, 100, tick, udp);
        assert!(!over(0, 0, 110));
        assert!(over(0, 0, 111));
        // One question and a stream of answers, or packets that nobody answers.
        for (request, reply) in [(0, state::CONFIRMED), (state::CONFIRMED, 0)] {
            assert!(!over(request, reply, 220));
            assert!(over(request, reply, 221));
        }
    }

    #[test]
    fn unanswered_udp_makes_room_first_when_room_is_short() {
        let short = Patience { idle: 120, unanswered: 10 };
        let over = |request, reply| over_of(Protocol::Udp, request, reply, 100, 111, short);
        assert!(over(state::CONFIRMED, 0));
        assert!(!over(state::CONFIRMED, state::CONFIRMED));
        assert!(!over(0, state::CONFIRMED));
    }

    #[test]
    fn a_flow_without_its_other_half_is_over() {
        let half = flow(direction::TO_CLIENT, state::CONFIRMED, 100);
        assert!(!is_over(&key(Protocol::Tcp), &half, None, 101, PATIENCE));
        assert!(is_over(&key(Protocol::Tcp), &half, None, 104, PATIENCE));
    }

    #[test]
    fn halves_in_different_tables_are_judged_by_themselves() {
        let over = |bits, tick| is_half_over(&flow(direction::TO_TARGET, bits, 100), tick, PATIENCE);
        assert!(!over(state::RESET | state::CONFIRMED, 103) && over(state::RESET | state::CONFIRMED, 104));
        assert!(!over(FINISHED, 160) && over(FINISHED, 161));
        assert!(!over(0, 110) && over(0, 111));
        assert!(!over(state::CONFIRMED, 450) && over(state::CONFIRMED, 451));
    }

    #[test]
    fn only_flows_through_nat_in_one_family_have_both_halves_in_a_table() {
        let of = |mode| has_other_half(&Flow { mode, ..flow(direction::TO_TARGET, 0, 0) });
        assert!(of(target_mode::NAT) && of(target_mode::PRESERVE));
        for mode in [target_mode::CROSS, target_mode::L2, target_mode::IPIP, target_mode::GUE] {
            assert!(!of(mode), "{mode}");
        }
    }

    #[test]
    fn whatever_is_over_is_suspect() {
        let patience = Patience { idle: 120, unanswered: 10 };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for bits in [0, state::CONFIRMED, state::RESET, FINISHED] {
                for other in [0, state::CONFIRMED, state::RESET, FINISHED] {
                    for tick in [104, 111, 121, 161, 500] {
                        if !over_of(protocol, bits, other, 100, tick, patience) {
                            continue;
                        }
                        let is = |bits| is_suspect(&flow(direction::TO_TARGET, bits, 100), tick, patience);
                        assert!(is(bits) || is(other), "{protocol} {bits} {other} {tick}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_flow_is_counted_once_and_names_its_target_twice() {
        let mut census = Census::default();
        census.count(&flow(direction::TO_TARGET, 0, 0));
        census.count(&flow(direction::TO_CLIENT, 0, 0));
        assert_eq!(census.by_target, [(0, 1)].into());
        assert_eq!(census.entries, 2);
        let mut half = Census::default();
        half.count(&flow(direction::TO_CLIENT, 0, 0));
        assert_eq!(half.by_target, [(0, 0)].into());
    }
}
