//! Typed maps, and the writes of `reconcile`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array, HashMap, IterableMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues,
};
use aya::util::nr_cpus;
use aya::{Ebpf, Pod};
use ipnet::IpNet;
use lb_common::abi::{
    self, CookieCounters, FIRST_NAT_PORT, Flow, FlowKey, Ipv4Be, Ipv6Be, LAST_NAT_PORT, Listener,
    ListenerCounters, ListenerKey, MAX_LISTENERS, NO_RING, PATH_MTU_TICKS, PathMtu, PortBe, PortCursor,
    Pulse, Ring, ServerIdKey, SlotWords, SourceKey, SynBudget, TableShape, Target, TargetCounters,
    target_state,
};

use lb_common::packet::Budget;
use lb_common::table::{self, Crossing, Packed, Shelf, Walked};

use super::ledger::{Ledger, RingContent, TargetIdentity, TargetSlot};
use super::load::LoadError;
use super::maglev;
use super::mapped::Mapped;
use super::plan::{ListenerName, Protocol};
use super::reconcile::Write;

/// The maps of the loaded program.
pub struct Maps {
    /// Those of IPv4.
    pub(super) v4: FamilyMaps<Ipv4Be>,
    /// Those of IPv6.
    pub(super) v6: FamilyMaps<Ipv6Be>,
    pub(super) states: Array<MapData, Listener>,
    pub(super) rings: Array<MapData, Ring>,
    pub(super) targets: Array<MapData, Target>,
    pub(super) server_ids: HashMap<MapData, ServerIdKey, u32>,
    pulse: Array<MapData, Pulse>,
    syn_budget: PerCpuArray<MapData, SynBudget>,
    ports: PerCpuArray<MapData, PortCursor>,
    listener_counters: PerCpuArray<MapData, ListenerCounters>,
    target_counters: PerCpuArray<MapData, TargetCounters>,
    cookie_counters: PerCpuArray<MapData, CookieCounters>,
    cookie_ticks: Array<MapData, u32>,
    drops: PerCpuArray<MapData, u64>,
}

/// The maps that each family has of its own.
pub(super) struct FamilyMaps<A: Address> {
    flows: Mapped,
    crossings: Mapped,
    shape: TableShape,
    pub(super) addresses: HashMap<MapData, A, u32>,
    pub(super) listeners: HashMap<MapData, ListenerKey<A>, u32>,
    pub(super) sources: LpmTrie<MapData, SourceKey<A>, u32>,
    budgets: PerCpuHashMap<MapData, A, SynBudget>,
    path_mtus: HashMap<MapData, A, PathMtu>,
}

/// An address of maps.
pub(super) trait Address: Pod + Packed + Into<Self::Ip> {
    /// The same for people.
    type Ip: Into<IpAddr>;

    /// Bits of an address.
    const BITS: u8;

    /// As an address of either family.
    fn ip(self) -> IpAddr {
        let ip: Self::Ip = self.into();
        ip.into()
    }
}

impl Address for Ipv4Be {
    type Ip = Ipv4Addr;
    const BITS: u8 = 32;
}

impl Address for Ipv6Be {
    type Ip = Ipv6Addr;
    const BITS: u8 = 128;
}

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// A system call of aya's.
    #[error("reading or writing a map of the kernel program")]
    Map(#[from] MapError),
    /// A system call of ours.
    #[error("reaching the flow table")]
    Table(#[source] std::io::Error),
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Missing { name })?;
    Ok(T::try_from(map)?)
}

fn mapped<T: Pod>(map: &Array<MapData, T>) -> Result<Mapped, LoadError> {
    let words = size_of::<T>() / size_of::<u64>() * usize::try_from(map.len()).unwrap_or(0);
    Mapped::new(map.map().fd().as_fd(), words).map_err(LoadError::Mapping)
}

impl Maps {
    /// Takes the maps out of a loaded object. Tables that no earlier process filled get their shape.
    pub fn take(ebpf: &mut Ebpf, adopted: bool) -> Result<Self, LoadError> {
        let mut shapes: Array<MapData, TableShape> = take(ebpf, abi::TABLE_SHAPE)?;
        let flows: Array<MapData, SlotWords<{ Ipv4Be::WORDS }>> = take(ebpf, abi::FLOWS)?;
        let flows6: Array<MapData, SlotWords<{ Ipv6Be::WORDS }>> = take(ebpf, abi::FLOWS6)?;
        let crossings: Array<MapData, Crossing> = take(ebpf, abi::CROSSINGS)?;
        if !adopted {
            let seed = RandomState::new().hash_one(std::process::id());
            shapes.set(0, TableShape { seed, mask: flows.len().saturating_sub(1), pad: 0 }, 0)?;
        }
        let shape = shapes.get(&0, 0)?;
        Ok(Self {
            v4: FamilyMaps::take(
                ebpf,
                [abi::ADDRESSES, abi::LISTENERS, abi::SOURCES, abi::SOURCE_BUDGET, abi::PATH_MTUS],
                shape,
                mapped(&flows)?,
                mapped(&crossings)?,
            )?,
            v6: FamilyMaps::take(
                ebpf,
                [abi::ADDRESSES6, abi::LISTENERS6, abi::SOURCES6, abi::SOURCE_BUDGET6, abi::PATH_MTUS6],
                shape,
                mapped(&flows6)?,
                mapped(&crossings)?,
            )?,
            states: take(ebpf, abi::LISTENER_STATE)?,
            rings: take(ebpf, abi::RINGS)?,
            targets: take(ebpf, abi::TARGETS)?,
            server_ids: take(ebpf, abi::SERVER_IDS)?,
            pulse: take(ebpf, abi::PULSE)?,
            syn_budget: take(ebpf, abi::SYN_BUDGET)?,
            ports: take(ebpf, abi::PORTS)?,
            listener_counters: take(ebpf, abi::LISTENER_COUNTERS)?,
            target_counters: take(ebpf, abi::TARGET_COUNTERS)?,
            cookie_counters: take(ebpf, abi::COOKIE_COUNTERS)?,
            cookie_ticks: take(ebpf, abi::COOKIE_TICKS)?,
            drops: take(ebpf, abi::DROPS)?,
        })
    }

    /// What an earlier process left in the maps.
    pub fn ledger(&self) -> Result<Ledger, MapsError> {
        let mut ledger = Ledger::default();
        self.v4.read(&mut ledger)?;
        self.v6.read(&mut ledger)?;
        for index in ledger.listeners.values() {
            ledger.states.insert(*index, self.states.get(index, 0)?);
        }
        for entry in self.server_ids.iter() {
            let (key, target) = entry?;
            let target = u16::try_from(target).unwrap_or(abi::NO_TARGET);
            ledger.server_ids.insert((key.listener, key.id), target);
        }
        let rings = ledger.states.values().flat_map(|state| [state.ring, state.previous_ring]);
        for index in rings.filter(|index| *index != NO_RING).collect::<Vec<_>>() {
            let ring = Box::new(self.rings.get(&index, 0)?);
            ledger.rings.insert(index, RingContent::Adopted(ring));
        }
        for (index, entry) in (0_u16..).zip(self.targets.iter()) {
            let entry = entry?;
            ledger.generations.insert(index, entry.generation);
            if entry.state != target_state::GONE {
                let address = |wide: Ipv6Be| match entry.family {
                    4 => wide.as_v4().ip(),
                    _ => wide.ip(),
                };
                let identity = TargetIdentity {
                    via: address(entry.via),
                    group: entry.group,
                    address: address(entry.address),
                    port: entry.port.number(),
                };
                ledger.targets.insert(identity, TargetSlot::adopted(index, entry));
            }
        }
        Ok(ledger)
    }

    /// Executes writes in their order.
    pub fn write(&mut self, writes: &[Write]) -> Result<(), MapsError> {
        for write in writes {
            self.write_one(write)?;
        }
        Ok(())
    }

    fn write_one(&mut self, write: &Write) -> Result<(), MapsError> {
        match write {
            Write::Target { index, entry } => self.targets.set(u32::from(*index), entry, 0)?,
            Write::ClearTargetCounters { index } => clear(&mut self.target_counters, u32::from(*index))?,
            Write::Ring { index, members } => {
                let ring = maglev::ring(members);
                self.rings.set(*index, ring.as_ref(), 0)?;
            }
            Write::AdmitSource { listener, range } => match range {
                IpNet::V4(range) => self.v4.admit(*listener, range.network().into(), range.prefix_len())?,
                IpNet::V6(range) => self.v6.admit(*listener, range.network().into(), range.prefix_len())?,
            },
            Write::RefuseSource { listener, range } => match range {
                IpNet::V4(range) => self.v4.refuse(*listener, range.network().into(), range.prefix_len())?,
                IpNet::V6(range) => self.v6.refuse(*listener, range.network().into(), range.prefix_len())?,
            },
            Write::SetServerId { listener, id, target } => {
                let key = ServerIdKey { id: *id, listener: *listener, pad: 0 };
                self.server_ids.insert(key, u32::from(*target), 0)?;
            }
            Write::RemoveServerId { listener, id } => {
                let key = ServerIdKey { id: *id, listener: *listener, pad: 0 };
                forgive(self.server_ids.remove(&key))?;
            }
            Write::ListenerState { index, state } => self.states.set(*index, state, 0)?,
            Write::ClearListenerCounters { index } => {
                clear(&mut self.listener_counters, *index)?;
                clear(&mut self.cookie_counters, *index)?;
                self.cookie_ticks.set(*index, 0, 0)?;
            }
            Write::AddListener { name, index } => match name.address {
                IpAddr::V4(address) => self.v4.listeners.insert(key(address.into(), name), index, 0)?,
                IpAddr::V6(address) => self.v6.listeners.insert(key(address.into(), name), index, 0)?,
            },
            Write::RemoveListener { name } => forgive(match name.address {
                IpAddr::V4(address) => self.v4.listeners.remove(&key(address.into(), name)),
                IpAddr::V6(address) => self.v6.listeners.remove(&key(address.into(), name)),
            })?,
            Write::SetAddress { address, ifindex } => match address {
                IpAddr::V4(address) => self.v4.addresses.insert(Ipv4Be::from(*address), ifindex, 0)?,
                IpAddr::V6(address) => self.v6.addresses.insert(Ipv6Be::from(*address), ifindex, 0)?,
            },
            Write::RemoveAddress { address } => forgive(match address {
                IpAddr::V4(address) => self.v4.addresses.remove(&Ipv4Be::from(*address)),
                IpAddr::V6(address) => self.v6.addresses.remove(&Ipv6Be::from(*address)),
            })?,
        }
        Ok(())
    }

    /// The kernel's clock and flood limits.
    pub fn pulse(&self) -> Result<Pulse, MapsError> {
        Ok(self.pulse.get(&0, 0)?)
    }

    /// Moves the kernel's clock.
    pub fn set_pulse(&mut self, pulse: Pulse) -> Result<(), MapsError> {
        Ok(self.pulse.set(0, pulse, 0)?)
    }

    /// Gives each CPU its own source ports.
    pub fn share_ports(&mut self) -> Result<(), MapsError> {
        let cpus = cpus()?;
        let all = LAST_NAT_PORT - FIRST_NAT_PORT + 1;
        let span = all / u16::try_from(cpus).unwrap_or(all).max(1);
        let cursors = (0..cpus).map(|cpu| {
            let first = FIRST_NAT_PORT.saturating_add(span.saturating_mul(u16::try_from(cpu).unwrap_or(0)));
            PortCursor { first, span, next: 0, pad: 0 }
        });
        let cursors = PerCpuValues::try_from(cursors.collect::<Vec<_>>()).map_err(MapError::from)?;
        Ok(self.ports.set(0, cursors, 0)?)
    }

    /// The source ports that the first CPU tries; none if that cannot be read.
    pub(super) fn first_ports(&self) -> PortCursor {
        let cursors = self.ports.get(&0, 0).ok();
        cursors.as_ref().and_then(|cpus| cpus.iter().next().copied()).unwrap_or_default()
    }

    /// New flows in `tick`, on the CPU that had most.
    pub(super) fn syn_spent(&self, whose: Budget, tick: u32) -> u32 {
        let index = match whose {
            Budget::All => u32::try_from(MAX_LISTENERS).unwrap_or(u32::MAX),
            Budget::Listener(index) => index,
        };
        self.syn_budget.get(&index, 0).map_or(0, |cpus| most(&cpus, tick))
    }

    /// A listener's counters, all CPUs together.
    pub fn listener_counters(&self, index: u32) -> Result<ListenerCounters, MapsError> {
        let per_cpu = self.listener_counters.get(&index, 0)?;
        Ok(per_cpu.iter().fold(ListenerCounters::default(), |sum, cpu| ListenerCounters {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            new_flows: sum.new_flows + cpu.new_flows,
            rejected: sum.rejected + cpu.rejected,
            resets: sum.resets + cpu.resets,
            blocked: sum.blocked + cpu.blocked,
            client_resets: sum.client_resets + cpu.client_resets,
            port_errors: sum.port_errors + cpu.port_errors,
        }))
    }

    /// What was counted of a listener's SYN cookies, all CPUs together.
    pub fn cookie_counters(&self, index: u32) -> Result<CookieCounters, MapsError> {
        let per_cpu = self.cookie_counters.get(&index, 0)?;
        Ok(per_cpu.iter().fold(CookieCounters::default(), |sum, cpu| CookieCounters {
            sent: sum.sent + cpu.sent,
            valid: sum.valid + cpu.valid,
            invalid: sum.invalid + cpu.invalid,
        }))
    }

    /// Tick in which a listener last sent a SYN cookie; 0 is never.
    pub(super) fn cookie_tick(&self, index: u32) -> u32 {
        self.cookie_ticks.get(&index, 0).unwrap_or(0)
    }

    /// What paths to targets' addresses were said to take; what was said too long ago is forgotten.
    pub fn path_mtus(&mut self, tick: u32) -> Result<BTreeMap<IpAddr, u16>, MapsError> {
        let mut known = BTreeMap::new();
        self.v4.read_path_mtus(tick, &mut known)?;
        self.v6.read_path_mtus(tick, &mut known)?;
        Ok(known)
    }

    /// A target's counters, all CPUs together.
    pub fn target_counters(&self, index: u16) -> Result<TargetCounters, MapsError> {
        let per_cpu = self.target_counters.get(&u32::from(index), 0)?;
        Ok(per_cpu.iter().fold(TargetCounters::default(), |sum, cpu| TargetCounters {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            new_flows: sum.new_flows + cpu.new_flows,
            resets: sum.resets + cpu.resets,
        }))
    }

    /// Dropped packets by number of the reason, all CPUs together.
    pub fn drops(&self) -> Result<BTreeMap<u32, u64>, MapsError> {
        (0_u32..).zip(self.drops.iter()).map(|(index, cpus)| Ok((index, cpus?.iter().sum()))).collect()
    }
}

impl<A: Address> FamilyMaps<A>
where
    ListenerKey<A>: Pod,
    SourceKey<A>: Pod,
{
    fn take(
        ebpf: &mut Ebpf,
        [addresses, listeners, sources, budgets, path_mtus]: [&'static str; 5],
        shape: TableShape,
        flows: Mapped,
        crossings: Mapped,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            flows,
            crossings,
            shape,
            addresses: take(ebpf, addresses)?,
            listeners: take(ebpf, listeners)?,
            sources: take(ebpf, sources)?,
            budgets: take(ebpf, budgets)?,
            path_mtus: take(ebpf, path_mtus)?,
        })
    }

    fn read(&self, ledger: &mut Ledger) -> Result<(), MapsError> {
        for entry in self.addresses.iter() {
            let (address, ifindex) = entry?;
            ledger.addresses.insert(address.ip(), ifindex);
        }
        for entry in self.listeners.iter() {
            let (key, index) = entry?;
            let Some(protocol) = Protocol::from_number(key.protocol) else { continue };
            let name = ListenerName { address: key.address.ip(), port: key.port.number(), protocol };
            ledger.listeners.insert(name, index);
        }
        for entry in self.sources.keys() {
            let key = entry?;
            let (source, length) = (key.data(), key.prefix_len().saturating_sub(LISTENER_BITS));
            let length = u8::try_from(length).unwrap_or(A::BITS).min(A::BITS);
            let SourceKey { listener, source } = source;
            if let Ok(range) = IpNet::new(source.ip(), length) {
                ledger.sources.insert((listener, range));
            }
        }
        Ok(())
    }

    fn read_path_mtus(&mut self, tick: u32, known: &mut BTreeMap<IpAddr, u16>) -> Result<(), MapsError> {
        let mut old = Vec::new();
        for entry in self.path_mtus.iter() {
            let (address, said) = entry?;
            if tick.wrapping_sub(said.tick) > PATH_MTU_TICKS {
                old.push(address);
            } else {
                known.insert(address.ip(), u16::try_from(said.mtu).unwrap_or(u16::MAX));
            }
        }
        for address in old {
            forgive(self.path_mtus.remove(&address))?;
        }
        Ok(())
    }

    fn admit(&mut self, listener: u32, source: A, length: u8) -> Result<(), MapError> {
        self.sources.insert(&source_key(listener, source, length), 1, 0)
    }

    fn refuse(&mut self, listener: u32, source: A, length: u8) -> Result<(), MapError> {
        forgive(self.sources.remove(&source_key(listener, source, length)))
    }

    /// The entries of so many slots from this one on, and the slot where the walk goes on; none when the table is through.
    pub(super) fn some_flows(&self, from: u32, slots: u32) -> Walked<A> {
        self.table().walk(from, slots)
    }

    /// The flow with this key.
    pub(super) fn flow(&self, key: &FlowKey<A>) -> Option<Flow<A>> {
        let table = self.table();
        Some(table::flow(&table, key, table::find(&table, key)?))
    }

    /// New flows of a source in `tick`, on the CPU that had most.
    pub(super) fn source_spent(&self, source: A, tick: u32) -> u32 {
        self.budgets.get(&source, 0).map_or(0, |cpus| most(&cpus, tick))
    }

    /// Removes a flow entry.
    pub(super) fn remove_flow(&self, key: &FlowKey<A>) {
        table::remove(&self.table(), key);
    }

    fn table(&self) -> Shelf<'_> {
        Shelf::new(self.flows.words(), self.crossings.words(), self.shape)
    }
}

/// CPUs that the kernel may ever have: the length of per-CPU values.
pub fn cpus() -> Result<usize, MapsError> {
    nr_cpus().map_err(|(_, error)| MapsError::Table(error))
}

fn clear<T: Pod + Default>(map: &mut PerCpuArray<MapData, T>, index: u32) -> Result<(), MapsError> {
    let zeros = PerCpuValues::try_from(vec![T::default(); cpus()?]).map_err(MapError::from)?;
    Ok(map.set(index, zeros, 0)?)
}

fn most(cpus: &PerCpuValues<SynBudget>, tick: u32) -> u32 {
    cpus.iter().filter(|budget| budget.tick == tick).map(|budget| budget.used).max().unwrap_or(0)
}

/// What is gone already is as good as removed.
fn forgive(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn key<A>(address: A, name: &ListenerName) -> ListenerKey<A> {
    ListenerKey { address, port: PortBe::new(name.port), protocol: name.protocol.number(), pad: 0 }
}

fn source_key<A>(listener: u32, source: A, length: u8) -> Key<SourceKey<A>>
where
    SourceKey<A>: Pod,
{
    Key::new(LISTENER_BITS + u32::from(length), SourceKey { listener, source })
}

/// The listener's index is always matched whole.
pub(super) const LISTENER_BITS: u32 = 32;
