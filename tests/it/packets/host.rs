//! The tables as hash maps.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

use lb_common::abi::{
    CookieCounters, DropReason, Flow, FlowKey, FragmentKey, FragmentPorts, Ipv4Be, Ipv6Be, Listener,
    ListenerCounters, ListenerKey, PortBe, PortCursor, Pulse, ServerIdKey, SourceKey, Target, TargetCounters,
};
use lb_common::packet::{
    Acknowledged, Budget, Draft, FamilyTables, Handshake, InsertError, Note, Tables, V4, V6, Verdict, steer,
};
use lb_common::table::{self, Packed as _, Shelf};
use lb_common::wire::Window;

use super::given::{CAPACITY, Given, INGRESS, LOCAL, Outcome, Runner, SHAPE, Seen, listener_key};
use super::segment::{BALANCER, BALANCER6, COOKIE, STAMP};

/// Everything in memory.
pub(super) struct Host {
    given: Given,
    flows: [AtomicU64; CAPACITY * Ipv4Be::WORDS],
    flows6: [AtomicU64; CAPACITY * Ipv6Be::WORDS],
    crossings: [AtomicU64; CAPACITY * 2],
    draft: Draft<Ipv4Be>,
    draft6: Draft<Ipv6Be>,
    note: Cell<Note>,
    fragments: RefCell<HashMap<FragmentKey<Ipv4Be>, FragmentPorts>>,
    fragments6: RefCell<HashMap<FragmentKey<Ipv6Be>, FragmentPorts>>,
    ports: Cell<PortCursor>,
    budgets: RefCell<HashMap<Option<u32>, (u32, u32)>>,
    source_budgets: RefCell<HashMap<IpAddr, (u32, u32)>>,
    listeners: RefCell<BTreeMap<u32, ListenerCounters>>,
    targets: RefCell<BTreeMap<u32, TargetCounters>>,
    cookies: RefCell<BTreeMap<u32, CookieCounters>>,
    cookie_ticks: RefCell<HashMap<u32, u32>>,
    path_mtus: RefCell<BTreeMap<IpAddr, u32>>,
    drops: RefCell<HashMap<DropReason, u64>>,
    /// How much the packet has grown at its start.
    grown: Cell<i32>,
}

impl Host {
    /// Decides about a packet that begins behind [`HEADROOM`] bytes of a buffer; where it begins after that.
    pub(super) fn steer(&self, buffer: &mut [u8]) -> (Verdict, usize) {
        self.grown.set(0);
        let verdict = steer(&Window::with_headroom(buffer, HEADROOM), INGRESS, self);
        let grown = isize::try_from(self.grown.get()).unwrap();
        (verdict, HEADROOM.checked_add_signed(-grown).unwrap())
    }

    /// The IPv4 flows that are there.
    pub(super) fn flow_entries(&self) -> Vec<(FlowKey<Ipv4Be>, Flow<Ipv4Be>)> {
        self.table(&self.flows).walk(0, SHAPE.mask + 1).0
    }

    fn table<'words>(&'words self, words: &'words [AtomicU64]) -> Shelf<'words> {
        Shelf::new(words, &self.crossings, SHAPE)
    }

    /// Packets that were dropped, for a reason or for any.
    pub(super) fn dropped(&self, reason: Option<DropReason>) -> u64 {
        let drops = self.drops.borrow();
        drops
            .iter()
            .filter(|(own, _)| reason.is_none_or(|reason| reason == **own))
            .map(|(_, count)| count)
            .sum()
    }

    fn at_listener(&self, index: u32, add: impl FnOnce(&mut ListenerCounters)) {
        add(self.listeners.borrow_mut().entry(index).or_default());
    }

    fn at_target(&self, index: u16, add: impl FnOnce(&mut TargetCounters)) {
        add(self.targets.borrow_mut().entry(u32::from(index)).or_default());
    }
}

impl Default for Host {
    fn default() -> Self {
        Self {
            given: Given::default(),
            flows: std::array::from_fn(|_| AtomicU64::default()),
            flows6: std::array::from_fn(|_| AtomicU64::default()),
            crossings: std::array::from_fn(|_| AtomicU64::default()),
            draft: Draft::default(),
            draft6: Draft::default(),
            note: Cell::default(),
            fragments: RefCell::default(),
            fragments6: RefCell::default(),
            ports: Cell::default(),
            cookies: Default::default(),
            cookie_ticks: Default::default(),
            path_mtus: RefCell::default(),
            budgets: RefCell::default(),
            source_budgets: RefCell::default(),
            listeners: RefCell::default(),
            targets: RefCell::default(),
            drops: RefCell::default(),
            grown: Cell::default(),
        }
    }
}

/// Room for whatever is put in front of a packet.
pub(super) const HEADROOM: usize = 128;

impl Runner for Host {
    fn begin(&mut self, given: &Given) {
        *self = Self { given: given.clone(), ..Self::default() };
        for (key, flow) in &given.flows {
            table::insert(&self.table(&self.flows), key, flow).unwrap();
        }
        for (key, flow) in &given.flows6 {
            table::insert(&self.table(&self.flows6), key, flow).unwrap();
        }
        self.ports.set(given.ports);
    }

    fn change(&mut self, given: &Given) {
        self.given.targets.clone_from(&given.targets);
        self.given.listeners.clone_from(&given.listeners);
        self.given.pulse = given.pulse;
    }

    fn run(&mut self, packet: &[u8]) -> Seen {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend(packet);
        let (verdict, start) = self.steer(&mut buffer);
        let mut packet = buffer.split_off(start);
        match verdict {
            Verdict::Pass => Seen::Pass,
            Verdict::Drop(_) => Seen::Drop,
            Verdict::Transmit(egress) => {
                assert_eq!(egress, INGRESS);
                Seen::Transmit(packet)
            }
            Verdict::TransmitFirst { length, egress } => {
                assert_eq!(egress, INGRESS);
                packet.truncate(length.into());
                Seen::Transmit(packet)
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        let mut outcome = Outcome {
            listeners: self.listeners.borrow().clone(),
            targets: self.targets.borrow().clone(),
            cookies: self.cookies.borrow().clone(),
            path_mtus: self.path_mtus.borrow().clone(),
            ..Outcome::default()
        };
        for (reason, packets) in self.drops.borrow().iter() {
            outcome.drop_count(*reason, *packets);
        }
        for (key, flow) in self.table(&self.flows).walk::<Ipv4Be>(0, SHAPE.mask + 1).0 {
            outcome.flow(&key, &flow);
        }
        for (key, flow) in self.table(&self.flows6).walk::<Ipv6Be>(0, SHAPE.mask + 1).0 {
            outcome.flow(&key, &flow);
        }
        outcome
    }
}

macro_rules! family_tables {
    ($family:ty, $address:ty, $standard:ty, $own:expr, $flows:ident, $draft:ident, $fragments:ident, $sources:ident) => {
        impl FamilyTables<$family> for Host {
            type Slot = usize;

            fn flow(&self, key: &FlowKey<$address>) -> Option<(Flow<$address>, usize)> {
                let table = self.table(&self.$flows);
                let found = table::find(&table, key)?;
                Some((table::flow(&table, key, found), found.slot))
            }

            fn touch(&self, slot: usize, seen: u32, state: u8) {
                table::touch::<$address, _>(&self.table(&self.$flows), slot, seen, state);
            }

            fn draft(&self) -> Option<&Draft<$address>> {
                Some(&self.$draft)
            }

            fn find_draft(&self) -> Option<usize> {
                let (flow, slot) = FamilyTables::<$family>::flow(self, &self.$draft.key.get())?;
                self.$draft.flow.set(flow);
                Some(slot)
            }

            fn insert_draft(&self) -> Result<(), InsertError> {
                table::insert(&self.table(&self.$flows), &self.$draft.key.get(), &self.$draft.flow.get())
            }

            fn remove_flow(&self, key: &FlowKey<$address>) {
                table::remove(&self.table(&self.$flows), key);
            }

            fn address(&self, address: $address) -> Option<u32> {
                (address == <$address>::from($own)).then_some(self.given.ifindex)
            }

            fn listener(&self, key: &ListenerKey<$address>) -> Option<u32> {
                let found = self.given.listeners.iter().position(|(address, port, protocol, _)| {
                    let own: IpAddr = <$standard>::from(key.address).into();
                    *address == own && listener_key(key.address, *port, *protocol) == *key
                });
                u32::try_from(found?).ok()
            }

            fn admits(&self, source: &SourceKey<$address>) -> bool {
                self.given.$sources.iter().any(|(length, range)| {
                    let bits = |address: $address| -> Vec<bool> {
                        let octets = <$standard>::from(address).octets();
                        let bit = |n: usize| octets[n / 8] & (0x80 >> (n % 8)) != 0;
                        (0..usize::try_from(*length).unwrap()).map(bit).collect()
                    };
                    range.listener == source.listener && bits(range.source) == bits(source.source)
                })
            }

            fn fragment(&self, key: &FragmentKey<$address>) -> Option<FragmentPorts> {
                self.$fragments.borrow().get(key).copied()
            }

            fn remember_fragment(&self, key: &FragmentKey<$address>, ports: &FragmentPorts) {
                self.$fragments.borrow_mut().insert(*key, *ports);
            }

            fn learn_mtu(&self, address: $address, mtu: u32, _: u32) {
                self.path_mtus.borrow_mut().insert(<$standard>::from(address).into(), mtu);
            }

            fn cookie(&self, key: &FlowKey<$address>, _: &Handshake<'_, $family>) -> Option<u32> {
                (key.destination_port == PortBe::new(LOCAL)).then_some(COOKIE)
            }

            fn acknowledged(
                &self,
                key: &FlowKey<$address>,
                segment: &Handshake<'_, $family>,
            ) -> Acknowledged {
                if key.destination_port != PortBe::new(LOCAL) {
                    Acknowledged::Other
                } else if segment.tcp.acknowledgement.number() == COOKIE + 1 {
                    Acknowledged::Cookie
                } else {
                    Acknowledged::Nothing
                }
            }

            fn spend_source(&self, source: $address, tick: u32) -> u32 {
                let source: IpAddr = <$standard>::from(source).into();
                spend(self.source_budgets.borrow_mut().entry(source).or_default(), tick)
            }
        }
    };
}

family_tables!(V4, Ipv4Be, std::net::Ipv4Addr, BALANCER, flows, draft, fragments, sources);
family_tables!(V6, Ipv6Be, std::net::Ipv6Addr, BALANCER6, flows6, draft6, fragments6, sources6);

fn spend(budget: &mut (u32, u32), tick: u32) -> u32 {
    let used = if budget.0 == tick { budget.1 + 1 } else { 1 };
    *budget = (tick, used);
    used
}

fn whose(budget: Budget) -> Option<u32> {
    match budget {
        Budget::All => None,
        Budget::Listener(index) => Some(index),
    }
}

impl Tables for Host {
    fn packet_length(&self) -> Option<usize> {
        // All of it is in one buffer.
        None
    }

    fn regrow<'packet>(&self, window: &Window<'packet>, grow: i32) -> Option<Window<'packet>> {
        self.grown.set(self.grown.get() + grow);
        window.moved(grow)
    }

    fn note(&self) -> Option<&Cell<Note>> {
        Some(&self.note)
    }

    fn pulse(&self) -> Pulse {
        self.given.pulse
    }

    fn listener_state(&self, index: u32) -> Option<&Listener> {
        self.given.listeners.get(usize::try_from(index).ok()?).map(|(_, _, _, state)| state)
    }

    fn ring_slot(&self, ring: u32, _: u32) -> Option<u16> {
        self.given.rings.get(usize::try_from(ring).ok()?).copied()
    }

    fn target(&self, index: u16) -> Option<&Target> {
        // The kernel's array is longer than the list.
        Some(self.given.targets.get(usize::from(index)).unwrap_or(&Target::GONE))
    }

    fn server_id(&self, key: &ServerIdKey) -> Option<u16> {
        self.given.server_ids.iter().find(|(own, _)| own == key).map(|(_, index)| *index)
    }

    fn next_port(&self) -> Option<PortBe> {
        let mut ports = self.ports.get();
        let port = ports.take();
        self.ports.set(ports);
        port
    }

    fn skip_ports(&self) {
        let mut ports = self.ports.get();
        ports.skip();
        self.ports.set(ports);
    }

    fn spend_syn(&self, budget: Budget, tick: u32) -> u32 {
        spend(self.budgets.borrow_mut().entry(whose(budget)).or_default(), tick)
    }

    fn refund_syn(&self, budget: Budget, tick: u32) {
        if let Some((last, used)) = self.budgets.borrow_mut().get_mut(&whose(budget))
            && *last == tick
        {
            *used = used.saturating_sub(1);
        }
    }

    fn count_forwarded(&self, listener: u32, target: u16, bytes: u64) {
        self.at_listener(listener, |counters| {
            counters.packets += 1;
            counters.bytes += bytes;
        });
        self.at_target(target, |counters| {
            counters.packets += 1;
            counters.bytes += bytes;
        });
    }

    fn count_new_flow(&self, listener: u32, target: u16) {
        self.at_listener(listener, |counters| counters.new_flows += 1);
        self.at_target(target, |counters| counters.new_flows += 1);
    }

    fn count_rejected(&self, listener: u32) {
        self.at_listener(listener, |counters| counters.rejected += 1);
    }

    fn count_port_error(&self, listener: u32) {
        self.at_listener(listener, |counters| counters.port_errors += 1);
    }

    fn count_blocked(&self, listener: u32) {
        self.at_listener(listener, |counters| counters.blocked += 1);
    }

    fn count_reset(&self, listener: u32) {
        self.at_listener(listener, |counters| counters.resets += 1);
    }

    fn count_client_reset(&self, listener: u32) {
        self.at_listener(listener, |counters| counters.client_resets += 1);
    }

    fn count_target_reset(&self, target: u16) {
        self.at_target(target, |counters| counters.resets += 1);
    }

    fn stamp_ms(&self) -> u32 {
        STAMP
    }

    fn cookie_tick(&self, listener: u32) -> u32 {
        self.cookie_ticks.borrow().get(&listener).copied().unwrap_or(0)
    }

    fn count_cookie(&self, listener: u32, tick: u32) {
        self.cookies.borrow_mut().entry(listener).or_default().sent += 1;
        self.cookie_ticks.borrow_mut().insert(listener, tick);
    }

    fn count_acknowledged(&self, listener: u32, is_cookie: bool) {
        let mut cookies = self.cookies.borrow_mut();
        let counters = cookies.entry(listener).or_default();
        if is_cookie {
            counters.valid += 1;
        } else {
            counters.invalid += 1;
        }
    }

    fn count_drop(&self, reason: DropReason) {
        *self.drops.borrow_mut().entry(reason).or_default() += 1;
    }
}
