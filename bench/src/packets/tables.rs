//! Our program, loaded as a node loads it, and its tables as if a slice had been applied and flows had begun.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::Xdp;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use lb_common::abi::{
    self, Flow, FlowKey, Ipv4Be, Ipv6Be, Listener, ListenerKey, MAX_FLOW_ENTRIES, NO_RING, PortBe,
    PortCursor, Pulse, RING_SIZE, Ring, SlotWords, TableShape, Target, direction, state, target_mode,
    target_state,
};
use lb_common::packet::Stage;
use lb_common::table::{self, Packed, Shelf};
use lb_common::wire::checksum::{delta16, delta32, fold};

use super::cases::{Case, Family, Packet};
use super::driver::{map, object, program, program_of};

/// The loaded program.
pub(super) struct Tables {
    ebpf: Ebpf,
    shape: TableShape,
    /// The kernel forgets its programs when nobody holds the map.
    _stages: ProgramArray<MapData>,
}

/// The numbers of a flow, as the driver writes them.
pub(super) struct Connection {
    number: u32,
    pub(super) client: Ipv4Addr,
    pub(super) client_port: u16,
    pub(super) target: Ipv4Addr,
    pub(super) target_index: u16,
    pub(super) nat_port: u16,
}

impl Connection {
    /// The driver counts through 2^16 clients and then through their ports, or through the targets and then through
    /// the ports that they answer to.
    pub(super) fn of(number: u32) -> Result<Self> {
        let [low, high, more, _] = number.to_le_bytes();
        let target_index = u16::try_from(number & (TARGETS - 1))?;
        Ok(Self {
            number,
            client: Ipv4Addr::new(10, 100, low, high),
            client_port: FIRST_CLIENT.1 + u16::from(more),
            target: target(target_index.into()),
            target_index,
            nat_port: FIRST_NAT_PORT + u16::try_from(number / TARGETS)?,
        })
    }
}

impl Tables {
    /// Loads the program with this many entries for flows, and tells it of targets.
    pub(super) fn load(entries: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        // Twice as many slots, as a node has them.
        let slots = entries * 2;
        for table in [abi::FLOWS, abi::FLOWS6, abi::CROSSINGS] {
            loader.map_max_entries(table, slots);
        }
        let mut ebpf = loader.load(&object("gatehouse.o")?)?;
        program(&mut ebpf, PROGRAM)?.load()?;
        let mut stages = ProgramArray::try_from(ebpf.take_map(abi::PROGRAMS).context("no map of stages")?)?;
        for (stage, name) in Stage::PROGRAMS {
            let program = program(&mut ebpf, name)?;
            program.load()?;
            stages.set(stage as u32, program.fd()?, 0)?;
        }
        fill(&mut ebpf)?;
        let shape = TableShape { seed: SEED, mask: slots - 1, pad: 0 };
        let mut shapes: Array<&mut MapData, TableShape> = map(&mut ebpf, abi::TABLE_SHAPE)?;
        shapes.set(0, shape, 0)?;
        Ok(Self { ebpf, shape, _stages: stages })
    }

    pub(super) fn program(&self) -> Result<&Xdp> {
        program_of(&self.ebpf, PROGRAM)
    }

    /// The flows that the driver's packets belong to, and no others of their family.
    pub(super) fn establish(&mut self, case: &Case) -> Result<()> {
        match case.family {
            Family::V4 => {
                let words = free(self.shape, 8);
                insert(&Shelf::new(&words, &[], self.shape), case, Ipv4Be::from(BALANCER), |connection| {
                    (connection.client.into(), connection.target.into())
                })?;
                let mut table: Slots<'_, 8> = map(&mut self.ebpf, abi::FLOWS)?;
                write(&mut table, &words)
            }
            Family::V6 => {
                let words = free(self.shape, 16);
                insert(&Shelf::new(&words, &[], self.shape), case, balancer6(), |connection| {
                    (client6(connection.number), target6(connection))
                })?;
                let mut table: Slots<'_, 16> = map(&mut self.ebpf, abi::FLOWS6)?;
                write(&mut table, &words)
            }
        }
    }

    /// Bytes that the kernel holds for the flow table.
    pub(super) fn memory(&self) -> Result<f64> {
        let Some(Map::Array(table)) = self.ebpf.map(abi::FLOWS) else { anyhow::bail!("no flow table") };
        let number = table.fd().as_fd().as_raw_fd();
        let said = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
        let bytes = said.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
        Ok(bytes.trim().parse()?)
    }
}

/// Inserts the entries of flows; `ends` are the client's address and the target's.
fn insert<A: Address>(
    table: &Shelf<'_>,
    case: &Case,
    balancer: A,
    ends: impl Fn(&Connection) -> (A, A),
) -> Result<()> {
    if case.packet == Packet::Syn {
        return Ok(());
    }
    let full = |error| anyhow::anyhow!("a flow of the bench: {error:?}");
    for number in 0..case.flows {
        let connection = Connection::of(number)?;
        let (client, target) = ends(&connection);
        let request = FlowKey {
            source: client,
            destination: balancer,
            source_port: PortBe::new(connection.client_port),
            destination_port: PortBe::new(LISTENER_PORT),
            protocol: 6,
        };
        // With full NAT the target knows us, else the client.
        let (source, source_port) = match case.mode {
            target_mode::NAT => (balancer, PortBe::new(connection.nat_port)),
            _ => (client, request.source_port),
        };
        let reply = FlowKey {
            source: target,
            destination: source,
            source_port: PortBe::new(TARGET_PORT),
            destination_port: source_port,
            protocol: 6,
        };
        let there = flow(&request, &reply, direction::TO_TARGET, connection.target_index, case.mode);
        table::insert(table, &request, &there).map_err(full)?;
        if !target_mode::is_direct(case.mode) {
            let back = flow(&reply, &request, direction::TO_CLIENT, connection.target_index, case.mode);
            table::insert(table, &reply, &back).map_err(full)?;
        }
    }
    Ok(())
}

/// The words of a table without entries.
fn free(shape: TableShape, words: u32) -> Vec<AtomicU64> {
    (0..u64::from(words) * (u64::from(shape.mask) + 1)).map(|_| AtomicU64::new(0)).collect()
}

/// Writes what is not there yet.
fn write<const WORDS: usize>(table: &mut Slots<'_, WORDS>, words: &[AtomicU64]) -> Result<()>
where
    SlotWords<WORDS>: Pod,
{
    for (index, words) in (0_u32..).zip(words.chunks_exact(WORDS)) {
        let wanted = SlotWords(std::array::from_fn(|at| words[at].load(Ordering::Relaxed)));
        if table.get(&index, 0)? != wanted {
            table.set(index, wanted, 0)?;
        }
    }
    Ok(())
}

fn fill(ebpf: &mut Ebpf) -> Result<()> {
    let mut addresses: HashMap<&mut MapData, Ipv4Be, u32> = map(ebpf, abi::ADDRESSES)?;
    addresses.insert(Ipv4Be::from(BALANCER), INGRESS, 0)?;
    let mut listeners: HashMap<&mut MapData, ListenerKey<Ipv4Be>, u32> = map(ebpf, abi::LISTENERS)?;
    let key = ListenerKey { address: BALANCER.into(), port: PortBe::new(LISTENER_PORT), protocol: 6, pad: 0 };
    listeners.insert(key, 0, 0)?;
    let mut states: Array<&mut MapData, Listener> = map(ebpf, abi::LISTENER_STATE)?;
    let listener = Listener {
        ring: 0,
        flags: 0,
        previous_ring: NO_RING,
        previous_until: 0,
        syn_limit: u32::MAX,
        server_id_length: 8,
        address: Ipv6Be::of_v4(BALANCER.into()),
    };
    states.set(0, listener, 0)?;
    let mut slots: Vec<u16> = (0..u16::try_from(TARGETS)?).cycle().take(RING_SIZE).collect();
    slots.rotate_left(7);
    let ring: Box<Ring> = slots.try_into().map_err(|_| anyhow::anyhow!("a ring has its size"))?;
    let mut rings: Array<&mut MapData, Ring> = map(ebpf, abi::RINGS)?;
    rings.set(0, ring.as_ref(), 0)?;
    let mut targets: Array<&mut MapData, Target> = map(ebpf, abi::TARGETS)?;
    for index in 0..TARGETS {
        let entry = Target {
            generation: 1,
            state: target_state::READY,
            mode: target_mode::NAT,
            port: PortBe::new(TARGET_PORT),
            mac_head: 0x0000_0002,
            mac_tail: 0x0200,
            own_mac_head: 0x0000_0002,
            own_mac_tail: 0x0400,
            egress: INGRESS,
            mtu: 1_500,
            family: 4,
            group: 0,
            address: Ipv6Be::of_v4(target(index).into()),
            via: Ipv6Be::of_v4(BALANCER.into()),
        };
        targets.set(index, entry, 0)?;
    }
    let mut pulse: Array<&mut MapData, Pulse> = map(ebpf, abi::PULSE)?;
    pulse.set(0, Pulse { tick: TICK, syn_limit: u32::MAX, source_limit: 0, cookie_scale: 0 }, 0)?;
    let cpus = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
    let mut ports: PerCpuArray<&mut MapData, PortCursor> = map(ebpf, abi::PORTS)?;
    let cursor = PortCursor { first: 40_000, span: 9_000, next: 0, pad: 0 };
    ports.set(0, PerCpuValues::try_from(vec![cursor; cpus])?, 0)?;
    Ok(())
}

/// The entry that turns packets with `key` into packets that `other`'s answer.
fn flow<A: Address>(key: &FlowKey<A>, other: &FlowKey<A>, way: u8, target: u16, mode: u16) -> Flow<A> {
    let (source, destination) = (other.destination, other.source);
    let (source_port, destination_port) = (other.destination_port, other.source_port);
    let addresses = key.source.delta(source) + key.destination.delta(destination);
    let ports =
        delta16(key.source_port.0, source_port.0) + delta16(key.destination_port.0, destination_port.0);
    Flow {
        source,
        destination,
        source_port,
        destination_port,
        ip_delta: fold(addresses),
        l4_delta: fold(addresses + ports),
        mac_head: 0x0000_0002,
        mac_tail: 0x0100,
        direction: way,
        state: state::CONFIRMED,
        own_mac_head: 0x0000_0002,
        own_mac_tail: 0x0400,
        mode,
        listener: 0,
        target,
        generation: 1,
        ifindex: INGRESS,
        egress: INGRESS,
        seen: TICK,
        began: TICK,
        beyond: 0,
    }
}

/// An address that checksums are about.
trait Address: Packed {
    /// What a checksum changes by when `self` becomes `new`.
    fn delta(self, new: Self) -> u32;
}

impl Address for Ipv4Be {
    fn delta(self, new: Self) -> u32 {
        delta32(self.0, new.0)
    }
}

impl Address for Ipv6Be {
    fn delta(self, new: Self) -> u32 {
        self.0.into_iter().zip(new.0).map(|(old, new)| delta32(old, new)).sum()
    }
}

type Slots<'map, const WORDS: usize> = Array<&'map mut MapData, SlotWords<WORDS>>;

pub(super) fn balancer6() -> Ipv6Be {
    Ipv6Be::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 4))
}

/// The driver counts in the last word, in this machine's byte order.
pub(super) fn client6(number: u32) -> Ipv6Be {
    let Ipv6Be([a, b, c, _]) = Ipv6Be::from(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0));
    Ipv6Be([a, b, c, number])
}

fn target6(connection: &Connection) -> Ipv6Be {
    Ipv6Be::from(Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, connection.target_index))
}

pub(super) fn target(index: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, index.to_le_bytes()[0])
}

/// Entries for flows as a node has them.
#[expect(clippy::cast_possible_truncation, reason = "a map's size is a u32")]
pub(super) const ENTRIES: u32 = MAX_FLOW_ENTRIES as u32;
pub(super) const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
pub(super) const LISTENER_PORT: u16 = 80;
pub(super) const TARGET_PORT: u16 = 8080;
/// The first client's address and port.
pub(super) const FIRST_CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 100, 0, 0), 40_000);
pub(super) const FIRST_NAT_PORT: u16 = 1_024;
/// A power of two, as the driver counts through them.
const TARGETS: u32 = 128;
const TICK: u32 = 100;
const SEED: u64 = 0x1234_5678_9abc_def1;
/// Loopback: where test runs say that packets come from.
const INGRESS: u32 = 1;
/// Of the program in the object.
pub(super) const PROGRAM: &str = "gatehouse";
