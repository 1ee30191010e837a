//! The maps as `steer` sees them, without a write to them: what would be written is said instead, and every question is
//! noted with its answer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use aya::maps::lpm_trie::Key;
use lb_common::abi::{
    DropReason, Flow, FlowKey, FragmentKey, FragmentPorts, Ipv4Be, Ipv6Be, Listener, ListenerKey, NO_RING,
    NO_TARGET, PortBe, PortCursor, Pulse, RING_SIZE, ServerIdKey, SourceKey, Target, direction,
    listener_flags, state, target_state,
};
use lb_common::packet::{
    Acknowledged, Budget, Draft, FamilyTables, Handshake, InsertError, Note, Tables, V4, V6,
};
use lb_common::wire::Window;

use super::ledger::Ledger;
use super::listing::{address, mode_name};
use super::maps::{Address, LISTENER_BITS, Maps};
use super::plan::{ListenerName, Plan, Protocol};

/// Names of what maps know by index.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Listeners' ARNs.
    pub(super) listeners: BTreeMap<u32, String>,
    /// Devices.
    pub(super) devices: BTreeMap<u32, String>,
}

impl Names {
    /// By the plan that made them.
    pub(super) fn of(plan: &Plan, ledger: &Ledger, devices: impl Iterator<Item = (String, u32)>) -> Self {
        let listeners = plan
            .listeners()
            .filter_map(|(_, name, listener)| Some((*ledger.listeners.get(name)?, listener.arn.to_string())));
        Self {
            listeners: listeners.collect(),
            devices: devices.map(|(device, ifindex)| (ifindex, device)).collect(),
        }
    }

    /// The device with this index.
    pub(super) fn device(&self, ifindex: u32) -> String {
        self.devices.get(&ifindex).cloned().unwrap_or_else(|| format!("interface {ifindex}"))
    }
}

/// The maps, for one packet.
pub(super) struct View<'a> {
    maps: &'a Maps,
    names: &'a Names,
    states: &'a BTreeMap<u32, Listener>,
    targets: BTreeMap<u16, Target>,
    pulse: Pulse,
    ports: Cell<PortCursor>,
    draft: Draft<Ipv4Be>,
    draft6: Draft<Ipv6Be>,
    note: Cell<Note>,
    grown: Cell<i32>,
    steps: RefCell<Vec<String>>,
}

impl<'a> View<'a> {
    /// Of what the maps hold now.
    pub(super) fn new(maps: &'a Maps, ledger: &'a Ledger, names: &'a Names, pulse: Pulse) -> Self {
        Self {
            maps,
            names,
            states: &ledger.states,
            targets: ledger.targets.values().map(|slot| (slot.index, slot.entry)).collect(),
            pulse,
            ports: Cell::new(maps.first_ports()),
            draft: draft(Ipv4Be(0)),
            draft6: draft(Ipv6Be([0; 4])),
            note: Cell::new(Note { listener: 0, target: 0, is_stateless: 0 }),
            grown: Cell::new(0),
            steps: RefCell::default(),
        }
    }

    /// How many bytes the packet grew at its start.
    pub(super) fn grown(&self) -> i32 {
        self.grown.get()
    }

    /// What was asked, in order.
    pub(super) fn into_steps(self) -> Vec<String> {
        self.steps.into_inner()
    }

    fn note_step(&self, step: String) {
        let mut steps = self.steps.borrow_mut();
        // Stages look some things up again.
        if !steps.contains(&step) {
            steps.push(step);
        }
    }

    fn listener_name(&self, index: u32) -> String {
        self.names
            .listeners
            .get(&index)
            .cloned()
            .unwrap_or_else(|| format!("listener {index}, which is removed"))
    }

    fn target_name(&self, index: u16) -> String {
        self.targets.get(&index).map_or_else(
            || format!("target {index}, which is gone"),
            |entry| SocketAddr::new(address(entry, entry.address), entry.port.number()).to_string(),
        )
    }

    fn told_flow<A: Address>(&self, key: &FlowKey<A>, flow: &Flow<A>) {
        let way = if flow.direction == direction::TO_TARGET { "to" } else { "back from" };
        self.note_step(format!(
            "flow {}: {way} {}, {}{}, of {}, by {}",
            told_key(key),
            self.target_name(flow.target),
            mode_name(flow.mode),
            told_state(flow.state),
            self.listener_name(flow.listener),
            self.names.device(flow.ifindex),
        ));
    }
}

fn draft<A: Copy>(none: A) -> Draft<A> {
    let key = FlowKey {
        source: none,
        destination: none,
        source_port: PortBe(0),
        destination_port: PortBe(0),
        protocol: 0,
    };
    let flow = Flow {
        source: none,
        destination: none,
        source_port: PortBe(0),
        destination_port: PortBe(0),
        ip_delta: 0,
        l4_delta: 0,
        mac_head: 0,
        mac_tail: 0,
        direction: 0,
        state: 0,
        own_mac_head: 0,
        own_mac_tail: 0,
        mode: 0,
        listener: 0,
        target: 0,
        generation: 0,
        ifindex: 0,
        egress: 0,
        seen: 0,
        began: 0,
        beyond: 0,
    };
    Draft { key: Cell::new(key), flow: Cell::new(flow) }
}

macro_rules! family_tables {
    ($family:ty, $address:ty, $maps:ident, $draft:ident) => {
        impl FamilyTables<$family> for View<'_> {
            type Slot = ();

            fn flow(&self, key: &FlowKey<$address>) -> Option<(Flow<$address>, ())> {
                match self.maps.$maps.flow(key) {
                    Some(flow) => {
                        self.told_flow(key, &flow);
                        Some((flow, ()))
                    }
                    None => {
                        self.note_step(format!("flow {}: none", told_key(key)));
                        None
                    }
                }
            }

            fn touch(&self, (): (), _: u32, _: u8) {}

            fn draft(&self) -> Option<&Draft<$address>> {
                Some(&self.$draft)
            }

            fn find_draft(&self) -> Option<()> {
                let (flow, ()) = FamilyTables::<$family>::flow(self, &self.$draft.key.get())?;
                self.$draft.flow.set(flow);
                Some(())
            }

            fn insert_draft(&self) -> Result<(), InsertError> {
                let key = self.$draft.key.get();
                let exists = self.maps.$maps.flow(&key).is_some();
                let what = if exists { "is taken" } else { "would be added" };
                self.note_step(format!("flow {}: {what}", told_key(&key)));
                if exists { Err(InsertError::Exists) } else { Ok(()) }
            }

            fn remove_flow(&self, key: &FlowKey<$address>) {
                self.note_step(format!("flow {}: would be removed", told_key(key)));
            }

            fn address(&self, address: $address) -> Option<u32> {
                let found = self.maps.$maps.addresses.get(&address, 0).ok();
                let told = found.map_or_else(
                    || "not one of ours".to_owned(),
                    |ifindex| format!("ours, on {}", self.names.device(ifindex)),
                );
                self.note_step(format!("address {}: {told}", address.ip()));
                found
            }

            fn listener(&self, key: &ListenerKey<$address>) -> Option<u32> {
                let found = self.maps.$maps.listeners.get(key, 0).ok();
                let name = Protocol::from_number(key.protocol).map_or_else(
                    || format!("protocol {}", key.protocol),
                    |protocol| {
                        let (address, port) = (key.address.ip(), key.port.number());
                        ListenerName { address, port, protocol }.to_string()
                    },
                );
                let told = found.map_or_else(|| "none".to_owned(), |index| self.listener_name(index));
                self.note_step(format!("listener {name}: {told}"));
                found
            }

            fn admits(&self, source: &SourceKey<$address>) -> bool {
                let bits = LISTENER_BITS + u32::from(<$address as Address>::BITS);
                let is_admitted = self.maps.$maps.sources.get(&Key::new(bits, *source), 0).is_ok();
                let word = if is_admitted { "admit" } else { "do not admit" };
                self.note_step(format!("security groups: {word} {}", source.source.ip()));
                is_admitted
            }

            fn fragment(&self, _: &FragmentKey<$address>) -> Option<FragmentPorts> {
                None
            }

            fn remember_fragment(&self, _: &FragmentKey<$address>, _: &FragmentPorts) {}

            fn learn_mtu(&self, _: $address, _: u32, _: u32) {}

            // Nobody but the kernel can ask its TCP: what is told is what it would say in a flood.
            fn cookie(&self, _: &FlowKey<$address>, _: &Handshake<'_, $family>) -> Option<u32> {
                self.note_step(
                    "over its limit: while half-open connections fill the queue of the node's own socket, a SYN cookie \
                     answers, else the packet is passed to the socket"
                        .to_owned(),
                );
                Some(0)
            }

            fn acknowledged(&self, _: &FlowKey<$address>, _: &Handshake<'_, $family>) -> Acknowledged {
                self.note_step(
                    "SYN cookies were sent: what belongs to no connection must acknowledge one, or is reset".to_owned(),
                );
                Acknowledged::Other
            }

            fn spend_source(&self, source: $address, tick: u32) -> u32 {
                let spent = self.maps.$maps.source_spent(source, tick);
                self.note_step(format!("new flows of {} in this second: {spent} before", source.ip()));
                spent + 1
            }
        }
    };
}

family_tables!(V4, Ipv4Be, v4, draft);
family_tables!(V6, Ipv6Be, v6, draft6);

impl Tables for View<'_> {
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
        self.pulse
    }

    fn listener_state(&self, index: u32) -> Option<&Listener> {
        let found = self.states.get(&index)?;
        let told = [
            (listener_flags::GUARDED, "has security groups"),
            (listener_flags::LOCAL, "ends in userspace"),
            (listener_flags::DIRECT, "targets answer past us"),
            (listener_flags::STICKY, "sticky by source"),
            (listener_flags::QUIC, "QUIC"),
            (listener_flags::LINGERS, "ended in userspace before"),
        ];
        let flags = told.iter().filter(|(flag, _)| found.flags & flag != 0).map(|(_, word)| *word);
        let ring = if found.ring == NO_RING { "no ring".to_owned() } else { format!("ring {}", found.ring) };
        let words: Vec<&str> = std::iter::once(ring.as_str()).chain(flags).collect();
        self.note_step(format!("{}: {}", self.listener_name(index), words.join(", ")));
        Some(found)
    }

    fn ring_slot(&self, ring: u32, hash: u32) -> Option<u16> {
        // As the kernel scales it.
        let slot = usize::try_from((u64::from(hash) * RING_SIZE as u64) >> 32).ok()?;
        let found = *self.maps.rings.get(&ring, 0).ok()?.get(slot)?;
        let told = if found == NO_TARGET { "nobody".to_owned() } else { self.target_name(found) };
        self.note_step(format!("ring {ring}, slot {slot}: {told}"));
        Some(found)
    }

    fn target(&self, index: u16) -> Option<&Target> {
        let entry = self.targets.get(&index).unwrap_or(&Target::GONE);
        let told = match entry.state {
            target_state::READY => {
                let via = address(entry, entry.via);
                format!("{}, from {via} by {}", mode_name(entry.mode), self.names.device(entry.egress))
            }
            target_state::UNRESOLVED => "the MAC of its next hop is not known".to_owned(),
            _ => "gone".to_owned(),
        };
        self.note_step(format!("target {}: {told}", self.target_name(index)));
        Some(entry)
    }

    fn server_id(&self, key: &ServerIdKey) -> Option<u16> {
        let found = self.maps.server_ids.get(key, 0).ok().and_then(|index| u16::try_from(index).ok());
        let told = found.map_or_else(|| "nobody's".to_owned(), |index| self.target_name(index));
        self.note_step(format!("QUIC server id {:#x}: {told}", key.id.swap_bytes()));
        found
    }

    fn next_port(&self) -> Option<PortBe> {
        let mut ports = self.ports.get();
        let port = ports.take();
        self.ports.set(ports);
        let told = port.map_or_else(|| "none".to_owned(), |port| port.number().to_string());
        self.note_step(format!("source port {told} of the first CPU's is tried"));
        port
    }

    fn skip_ports(&self) {
        let mut ports = self.ports.get();
        ports.skip();
        self.ports.set(ports);
    }

    fn spend_syn(&self, whose: Budget, tick: u32) -> u32 {
        let spent = self.maps.syn_spent(whose, tick);
        let (who, limit) = match whose {
            Budget::All => ("of the node".to_owned(), self.pulse.syn_limit),
            Budget::Listener(index) => (
                format!("of {}", self.listener_name(index)),
                self.states.get(&index).map_or(0, |state| state.syn_limit),
            ),
        };
        self.note_step(format!("new flows {who} in this second: {spent} of {limit} on the busiest CPU"));
        spent + 1
    }

    fn stamp_ms(&self) -> u32 {
        0
    }

    fn cookie_tick(&self, listener: u32) -> u32 {
        self.maps.cookie_tick(listener)
    }

    fn refund_syn(&self, _: Budget, _: u32) {}
    fn count_cookie(&self, _: u32, _: u32) {}
    fn count_acknowledged(&self, _: u32, _: bool) {}
    fn count_forwarded(&self, _: u32, _: u16, _: u64) {}
    fn count_new_flow(&self, _: u32, _: u16) {}
    fn count_rejected(&self, _: u32) {}
    fn count_port_error(&self, _: u32) {}
    fn count_blocked(&self, _: u32) {}
    fn count_reset(&self, _: u32) {}
    fn count_client_reset(&self, _: u32) {}
    fn count_target_reset(&self, _: u16) {}
    fn count_drop(&self, _: DropReason) {}
}

fn told_key<A: Address>(key: &FlowKey<A>) -> String {
    let (source, destination): (IpAddr, IpAddr) = (key.source.ip(), key.destination.ip());
    let protocol = u8::try_from(key.protocol).ok().and_then(Protocol::from_number);
    let protocol = protocol.map_or_else(|| key.protocol.to_string(), |protocol| protocol.to_string());
    format!(
        "{protocol} {} > {}",
        SocketAddr::new(source, key.source_port.number()),
        SocketAddr::new(destination, key.destination_port.number())
    )
}

fn told_state(bits: u8) -> &'static str {
    if bits & state::RESET != 0 {
        ", reset"
    } else if bits & state::FINISHED != 0 {
        ", finished"
    } else if bits & state::CONFIRMED != 0 {
        ""
    } else {
        ", embryonic"
    }
}
