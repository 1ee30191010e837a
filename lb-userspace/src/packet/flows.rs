//! Which flows are over: the kernel only notes what it sees, and this judges it.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::{EMBRYONIC_TICKS, Flow, FlowKey, direction, state};

/// What a sweep over the whole flow table found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Flows by index of the target, embryonic ones included.
    pub by_target: BTreeMap<u32, u64>,
    /// Flows by index of the listener.
    pub by_listener: BTreeMap<u32, u64>,
    /// Flows that made room.
    pub expired: u64,
}

impl Census {
    /// Counts one entry; a flow is its client's.
    pub fn count(&mut self, flow: &Flow) {
        if flow.direction == direction::TO_TARGET {
            *self.by_target.entry(flow.target).or_default() += 1;
            *self.by_listener.entry(flow.listener).or_default() += 1;
        } else {
            // Named all the same: the index is not free.
            self.by_target.entry(flow.target).or_default();
            self.by_listener.entry(flow.listener).or_default();
        }
    }

    /// Indices of targets that flows name.
    pub fn targets(&self) -> BTreeSet<u32> {
        self.by_target.keys().copied().collect()
    }

    /// Indices of listeners that flows name.
    pub fn listeners(&self) -> BTreeSet<u32> {
        self.by_listener.keys().copied().collect()
    }
}

/// Whether an entry alone is reason to look at the whole flow. Cheap, and true for few.
pub fn is_suspect(flow: &Flow, tick: u32, idle_timeout_s: u32) -> bool {
    let silent = tick.wrapping_sub(flow.seen);
    flow.state & (state::FINISHED | state::RESET) != 0
        || flow.state & state::CONFIRMED == 0 && silent > EMBRYONIC_TICKS
        || silent > idle_timeout_s
}

/// Whether a flow is over. A missing half is over once the other cannot be about to be inserted.
pub fn is_over(flow: &Flow, other: Option<&Flow>, tick: u32, idle_timeout_s: u32) -> bool {
    let silent = |flow: &Flow| tick.wrapping_sub(flow.seen);
    let Some(other) = other else { return silent(flow) > RESET_LINGER_TICKS };
    let request = if flow.direction == direction::TO_TARGET { flow } else { other };
    let recent = silent(flow).min(silent(other));
    if (flow.state | other.state) & state::RESET != 0 {
        return recent > RESET_LINGER_TICKS;
    }
    if flow.state & other.state & state::FINISHED != 0 {
        return recent > FINISHED_LINGER_TICKS;
    }
    if request.state & state::CONFIRMED == 0 {
        return silent(request) > EMBRYONIC_TICKS;
    }
    recent > idle_timeout_s
}

/// The key of the flow's other half.
pub fn other_key(key: &FlowKey, flow: &Flow) -> FlowKey {
    flow.reverse_key(key.protocol)
}

/// A RST may overtake data on its way; after this nothing is on its way any more.
const RESET_LINGER_TICKS: u32 = 3;

/// The last ACK may have to be repeated. Shorter than the 60 s that a Linux client keeps the ports for itself.
const FINISHED_LINGER_TICKS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::{Ipv4Be, PortBe};

    const IDLE: u32 = 350;

    fn flow(way: u8, bits: u8, seen: u32) -> Flow {
        Flow {
            source: Ipv4Be(1),
            destination: Ipv4Be(2),
            source_port: PortBe::new(3),
            destination_port: PortBe::new(4),
            ip_delta: 0,
            tcp_delta: 0,
            mac_head: 0,
            mac_tail: 0,
            direction: way,
            state: bits,
            listener: 0,
            target: 0,
            generation: 1,
            ifindex: 1,
            seen,
            began: 0,
        }
    }

    fn over(request: u8, reply: u8, seen: u32, tick: u32) -> bool {
        let request = flow(direction::TO_TARGET, request, seen);
        let reply = flow(direction::TO_CLIENT, reply, seen);
        let told = [is_over(&request, Some(&reply), tick, IDLE), is_over(&reply, Some(&request), tick, IDLE)];
        assert_eq!(told[0], told[1], "both halves must agree");
        told[0]
    }

    #[test]
    fn an_embryonic_flow_is_over_after_ten_seconds() {
        assert!(!over(0, 0, 100, 110));
        assert!(over(0, 0, 100, 111));
    }

    #[test]
    fn an_established_flow_is_over_when_idle() {
        assert!(!over(state::CONFIRMED, state::CONFIRMED, 100, 450));
        assert!(over(state::CONFIRMED, state::CONFIRMED, 100, 451));
    }

    #[test]
    fn one_fin_keeps_a_flow_and_two_end_it() {
        let finished = state::CONFIRMED | state::FINISHED;
        assert!(!over(finished, state::CONFIRMED, 100, 200));
        assert!(!over(finished, finished, 100, 110));
        assert!(over(finished, finished, 100, 111));
    }

    #[test]
    fn a_reset_from_either_side_ends_a_flow() {
        assert!(over(state::CONFIRMED, state::RESET, 100, 104));
        assert!(over(state::RESET, state::CONFIRMED, 100, 104));
        assert!(!over(state::RESET, state::CONFIRMED, 100, 103));
    }

    #[test]
    fn half_a_flow_is_over() {
        let half = flow(direction::TO_CLIENT, state::CONFIRMED, 100);
        assert!(!is_over(&half, None, 101, IDLE));
        assert!(is_over(&half, None, 104, IDLE));
    }

    #[test]
    fn whatever_is_over_is_suspect() {
        for bits in [0, state::CONFIRMED, state::RESET, state::FINISHED | state::CONFIRMED] {
            for other in [0, state::CONFIRMED, state::RESET, state::FINISHED | state::CONFIRMED] {
                if over(bits, other, 100, 500) {
                    let any = [bits, other]
                        .iter()
                        .any(|b| is_suspect(&flow(direction::TO_TARGET, *b, 100), 500, IDLE));
                    assert!(any);
                }
            }
        }
    }
}
