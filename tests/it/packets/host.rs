//! The tables as hash maps.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use lb_common::abi::{
    DropReason, Flow, FlowKey, Ipv4Be, Listener, ListenerCounters, ListenerKey, PortBe, Pulse, SourceKey,
    SynBudget, Target, TargetCounters,
};
use lb_common::packet::{InsertError, Tables, Verdict, steer};
use lb_common::wire::Window;

use super::given::{CAPACITY, Given, INGRESS, Outcome, Runner, Seen, listener_key};
use super::segment::BALANCER;

/// Everything in memory.
#[derive(Default)]
pub(super) struct Host {
    given: Given,
    flows: RefCell<HashMap<FlowKey, Flow>>,
    next_port: Cell<u16>,
    budget: Cell<(u32, u32)>,
    listeners: RefCell<BTreeMap<u32, ListenerCounters>>,
    targets: RefCell<BTreeMap<u32, TargetCounters>>,
    drops: RefCell<HashMap<DropReason, u64>>,
}

impl Host {
    /// Decides about a packet in place.
    pub(super) fn steer(&self, packet: &mut [u8]) -> Verdict {
        steer(&Window::new(packet), INGRESS, self)
    }

    /// The flows that are there.
    pub(super) fn flow_entries(&self) -> Vec<(FlowKey, Flow)> {
        self.flows.borrow().iter().map(|(key, flow)| (*key, *flow)).collect()
    }

    fn at_listener(&self, index: u32, add: impl FnOnce(&mut ListenerCounters)) {
        add(self.listeners.borrow_mut().entry(index).or_default());
    }

    fn at_target(&self, index: u32, add: impl FnOnce(&mut TargetCounters)) {
        add(self.targets.borrow_mut().entry(index).or_default());
    }
}

impl Runner for Host {
    fn begin(&mut self, given: &Given) {
        *self = Self { given: given.clone(), ..Self::default() };
        self.flows = RefCell::new(given.flows.iter().copied().collect());
        self.next_port.set(given.ports.next);
    }

    fn change(&mut self, given: &Given) {
        self.given.targets.clone_from(&given.targets);
        self.given.pulse = given.pulse;
    }

    fn run(&mut self, packet: &[u8]) -> Seen {
        let mut packet = packet.to_vec();
        match self.steer(&mut packet) {
            Verdict::Pass => Seen::Pass,
            Verdict::Drop(_) => Seen::Drop,
            Verdict::Transmit => Seen::Transmit(packet),
            Verdict::TransmitFirst(length) => {
                packet.truncate(length.into());
                Seen::Transmit(packet)
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome {
            listeners: self.listeners.borrow().clone(),
            targets: self.targets.borrow().clone(),
            ..Outcome::default()
        };
        for (reason, packets) in self.drops.borrow().iter() {
            outcome.drop_count(*reason, *packets);
        }
        for (key, flow) in self.flows.borrow().iter() {
            outcome.flow(key, flow);
        }
        outcome
    }
}

impl Tables for Host {
    type Slot = FlowKey;

    fn pulse(&self) -> Pulse {
        self.given.pulse
    }

    fn flow(&self, key: &FlowKey) -> Option<(Flow, FlowKey)> {
        self.flows.borrow().get(key).map(|flow| (*flow, *key))
    }

    fn touch(&self, slot: FlowKey, seen: u32, state: u8) {
        if let Some(flow) = self.flows.borrow_mut().get_mut(&slot) {
            flow.seen = seen;
            flow.state = state;
        }
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) -> Result<(), InsertError> {
        let mut flows = self.flows.borrow_mut();
        // As the kernel: the key is looked for before room is.
        if flows.contains_key(key) {
            return Err(InsertError::Exists);
        }
        if flows.len() >= CAPACITY {
            return Err(InsertError::Full);
        }
        flows.insert(*key, *flow);
        Ok(())
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn address(&self, address: Ipv4Be) -> Option<u32> {
        (address == BALANCER.into()).then_some(self.given.ifindex)
    }

    fn listener(&self, key: &ListenerKey) -> Option<u32> {
        let found = self.given.listeners.iter().position(|(port, _)| listener_key(*port) == *key)?;
        u32::try_from(found).ok()
    }

    fn listener_state(&self, index: u32) -> Option<Listener> {
        self.given.listeners.get(usize::try_from(index).ok()?).map(|(_, state)| *state)
    }

    fn admits(&self, source: &SourceKey) -> bool {
        self.given.sources.iter().any(|(length, range)| {
            let bits = |address: Ipv4Be| u32::from_be(address.0) >> (32 - length);
            range.listener == source.listener && bits(range.source) == bits(source.source)
        })
    }

    fn ring_slot(&self, ring: u32, _: u32) -> Option<u16> {
        self.given.rings.get(usize::try_from(ring).ok()?).copied()
    }

    fn target(&self, index: u32) -> Option<Target> {
        // The kernel's array is longer than the list.
        Some(self.given.targets.get(usize::try_from(index).ok()?).copied().unwrap_or(Target::GONE))
    }

    fn next_port(&self) -> Option<PortBe> {
        let offset = self.next_port.get();
        self.next_port.set((offset + 1) % self.given.ports.span);
        Some(PortBe::new(self.given.ports.first + offset))
    }

    fn spend_syn(&self, tick: u32) -> SynBudget {
        let (last, used) = self.budget.get();
        let used = if last == tick { used + 1 } else { 1 };
        self.budget.set((tick, used));
        SynBudget { tick, used }
    }

    fn refund_syn(&self, tick: u32) {
        let (last, used) = self.budget.get();
        if last == tick {
            self.budget.set((tick, used.saturating_sub(1)));
        }
    }

    fn count_forwarded(&self, listener: u32, target: u32, bytes: u64) {
        self.at_listener(listener, |counters| {
            counters.packets += 1;
            counters.bytes += bytes;
        });
        self.at_target(target, |counters| {
            counters.packets += 1;
            counters.bytes += bytes;
        });
    }

    fn count_new_flow(&self, listener: u32, target: u32) {
        self.at_listener(listener, |counters| counters.new_flows += 1);
        self.at_target(target, |counters| counters.new_flows += 1);
    }

    fn count_rejected(&self, listener: u32) {
        self.at_listener(listener, |counters| counters.rejected += 1);
    }

    fn count_blocked(&self, listener: u32) {
        self.at_listener(listener, |counters| counters.blocked += 1);
    }

    fn count_reset(&self, listener: u32) {
        self.at_listener(listener, |counters| counters.resets += 1);
    }

    fn count_target_reset(&self, target: u32) {
        self.at_target(target, |counters| counters.resets += 1);
    }

    fn count_drop(&self, reason: DropReason) {
        *self.drops.borrow_mut().entry(reason).or_default() += 1;
    }
}
