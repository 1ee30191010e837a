//! Typed maps, and the writes of `reconcile`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, IterableMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use ipnet::Ipv4Net;
use lb_common::abi::{
    self, FIRST_NAT_PORT, Flow, FlowKey, Ipv4Be, LAST_NAT_PORT, Listener, ListenerCounters, ListenerKey,
    NO_RING, PortBe, PortCursor, Pulse, Ring, SourceKey, Target, TargetCounters, target_state,
};

use super::batch::{self, Cursor};
use super::flows::{self, Census};
use super::ledger::{Ledger, RingContent, TargetIdentity, TargetSlot};
use super::load::LoadError;
use super::maglev;
use super::reconcile::Write;

/// The maps of the loaded program.
pub struct Maps {
    flows: HashMap<MapData, FlowKey, Flow>,
    addresses: HashMap<MapData, Ipv4Be, u32>,
    listeners: HashMap<MapData, ListenerKey, u32>,
    states: Array<MapData, Listener>,
    sources: LpmTrie<MapData, SourceKey, u32>,
    rings: Array<MapData, Ring>,
    targets: Array<MapData, Target>,
    pulse: Array<MapData, Pulse>,
    ports: PerCpuArray<MapData, PortCursor>,
    listener_counters: PerCpuArray<MapData, ListenerCounters>,
    target_counters: PerCpuArray<MapData, TargetCounters>,
    drops: PerCpuArray<MapData, u64>,
}

/// Why a map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// A system call of aya's.
    #[error("reading or writing a map of the kernel program")]
    Map(#[from] MapError),
    /// A system call of ours.
    #[error("reading the flow table")]
    Batch(#[source] std::io::Error),
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        fn take<T: TryFrom<Map, Error = MapError>>(
            ebpf: &mut Ebpf,
            name: &'static str,
        ) -> Result<T, LoadError> {
            let map = ebpf.take_map(name).ok_or(LoadError::Missing { name })?;
            Ok(T::try_from(map)?)
        }
        Ok(Self {
            flows: take(ebpf, abi::FLOWS)?,
            addresses: take(ebpf, abi::ADDRESSES)?,
            listeners: take(ebpf, abi::LISTENERS)?,
            states: take(ebpf, abi::LISTENER_STATE)?,
            sources: take(ebpf, abi::SOURCES)?,
            rings: take(ebpf, abi::RINGS)?,
            targets: take(ebpf, abi::TARGETS)?,
            pulse: take(ebpf, abi::PULSE)?,
            ports: take(ebpf, abi::PORTS)?,
            listener_counters: take(ebpf, abi::LISTENER_COUNTERS)?,
            target_counters: take(ebpf, abi::TARGET_COUNTERS)?,
            drops: take(ebpf, abi::DROPS)?,
        })
    }

    /// What an earlier process left in the maps.
    pub fn ledger(&self) -> Result<Ledger, MapsError> {
        let mut ledger = Ledger::default();
        for entry in self.addresses.iter() {
            let (address, ifindex) = entry?;
            ledger.addresses.insert(Ipv4Addr::from(address), ifindex);
        }
        for entry in self.listeners.iter() {
            let (key, index) = entry?;
            ledger.listeners.insert((Ipv4Addr::from(key.address), key.port.number()), index);
            ledger.states.insert(index, self.states.get(&index, 0)?);
        }
        for entry in self.sources.keys() {
            let key = entry?;
            let (source, length) = (key.data(), key.prefix_len().saturating_sub(32));
            let length = u8::try_from(length).unwrap_or(32).min(32);
            if let Ok(range) = Ipv4Net::new(Ipv4Addr::from(source.source), length) {
                ledger.sources.insert((source.listener, range));
            }
        }
        for state in ledger.states.values().filter(|state| state.ring != NO_RING) {
            let ring = Box::new(self.rings.get(&state.ring, 0)?);
            ledger.rings.insert(state.ring, RingContent::Adopted(ring));
        }
        for (index, entry) in (0_u16..).zip(self.targets.iter()) {
            let entry = entry?;
            ledger.generations.insert(index, entry.generation);
            if entry.state != target_state::GONE {
                let identity = TargetIdentity {
                    via: Ipv4Addr::from(entry.via),
                    group: entry.group,
                    address: Ipv4Addr::from(entry.address),
                    port: entry.port.number(),
                };
                ledger
                    .targets
                    .insert(identity, TargetSlot { index, entry, retired: false, terminates: false });
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
            Write::AdmitSource { listener, range } => {
                self.sources.insert(&source_key(*listener, *range), 1, 0)?
            }
            Write::RefuseSource { listener, range } => {
                forgive(self.sources.remove(&source_key(*listener, *range)))?
            }
            Write::ListenerState { index, state } => self.states.set(*index, state, 0)?,
            Write::ClearListenerCounters { index } => clear(&mut self.listener_counters, *index)?,
            Write::AddListener { name: (address, port), index } => {
                self.listeners.insert(listener_key(*address, *port), index, 0)?;
            }
            Write::RemoveListener { name: (address, port) } => {
                forgive(self.listeners.remove(&listener_key(*address, *port)))?;
            }
            Write::SetAddress { address, ifindex } => {
                self.addresses.insert(Ipv4Be::from(*address), ifindex, 0)?
            }
            Write::RemoveAddress { address } => forgive(self.addresses.remove(&Ipv4Be::from(*address)))?,
        }
        Ok(())
    }

    /// The kernel's clock and flood limit.
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

    /// Walks over all flows: counts them, and removes those that are over.
    pub fn sweep(&mut self, tick: u32, idle_timeout_s: impl Fn(u32) -> u32) -> Result<Census, MapsError> {
        let mut census = Census::default();
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            let (entries, next) =
                batch::lookup::<FlowKey, Flow>(self.flows.map().fd().as_fd(), at, SWEEP_ENTRIES)
                    .map_err(MapsError::Batch)?;
            for (key, flow) in entries {
                let idle = idle_timeout_s(flow.listener);
                if flows::is_suspect(&flow, tick, idle) {
                    let other_key = flows::other_key(&key, &flow);
                    let other = self.flows.get(&other_key, 0).ok();
                    if flows::is_over(&flow, other.as_ref(), tick, idle) {
                        census.expired += u64::from(other.is_some());
                        forgive(self.flows.remove(&key))?;
                        forgive(self.flows.remove(&other_key))?;
                        continue;
                    }
                }
                census.count(&flow);
            }
            cursor = next;
        }
        Ok(census)
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
        }))
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

/// CPUs that the kernel may ever have: the length of per-CPU values.
pub fn cpus() -> Result<usize, MapsError> {
    nr_cpus().map_err(|(_, error)| MapsError::Batch(error))
}

fn clear<T: aya::Pod + Default>(map: &mut PerCpuArray<MapData, T>, index: u32) -> Result<(), MapsError> {
    let zeros = PerCpuValues::try_from(vec![T::default(); cpus()?]).map_err(MapError::from)?;
    Ok(map.set(index, zeros, 0)?)
}

/// What is gone already is as good as removed.
fn forgive(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn listener_key(address: Ipv4Addr, port: u16) -> ListenerKey {
    ListenerKey { address: address.into(), port: PortBe::new(port), protocol: TCP, pad: 0 }
}

fn source_key(listener: u32, range: Ipv4Net) -> Key<SourceKey> {
    let source = SourceKey { listener, source: range.network().into() };
    Key::new(LISTENER_BITS + u32::from(range.prefix_len()), source)
}

/// The listener's index is always matched whole.
const LISTENER_BITS: u32 = 32;

/// IANA number.
const TCP: u8 = lb_common::wire::protocol::TCP;

/// Entries a system call: 256 KiB of buffers.
const SWEEP_ENTRIES: usize = 4_096;
