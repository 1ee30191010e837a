//! The programs and maps of the driver: what it writes, what it calls, and the reference's table.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use super::tables::{self, Tables};
use super::{Member, Packet};

/// The loaded driver.
pub(super) struct Driver(Ebpf);

/// The driver's template, two of its small fields a word.
type Template = [u64; 9];

/// The reference's key: addresses, then ports and protocol, as they are in the packet.
type Key = [u64; 2];

/// As large as one of our flow entries: what is copied costs.
type Entry = [u64; size_of::<lb_common::abi::Flow<lb_common::abi::Ipv4Be>>() / 8];

impl Driver {
    /// Loads it, with this many entries in the reference's table.
    pub(super) fn load(entries: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(REFERENCE, entries);
        let mut ebpf = loader.load(&object("driver.o")?)?;
        for name in ["transmit", "find", "insert", "drive"] {
            program(&mut ebpf, name)?.load()?;
        }
        Ok(Self(ebpf))
    }

    /// Nanoseconds a packet, driver included.
    pub(super) fn run(&mut self, packet: Packet, flows: u32, member: Member, tables: &Tables) -> Result<f64> {
        let (under_test, verdict) = match member {
            Member::Ours => (tables.program()?.fd()?.try_clone()?, XDP_REDIRECT),
            Member::Floor => (program_of(&self.0, "transmit")?.fd()?.try_clone()?, XDP_TX),
            Member::Reference if packet == Packet::Syn => {
                (program_of(&self.0, "insert")?.fd()?.try_clone()?, XDP_TX)
            }
            Member::Reference => (program_of(&self.0, "find")?.fd()?.try_clone()?, XDP_TX),
        };
        let mut programs: ProgramArray<&mut MapData> = map(&mut self.0, "PROGRAMS")?;
        programs.set(0, &under_test, 0)?;
        let mut template: Array<&mut MapData, Template> = map(&mut self.0, "TEMPLATE")?;
        template.set(0, template_of(packet, flows), 0)?;
        let data = [0_u8; 60];
        // Each new flow is new once.
        let repeat = if packet == Packet::Syn { flows } else { REPEAT };
        let options = TestRunOptions { data_in: Some(&data), repeat, ..TestRunOptions::new() };
        let result = program(&mut self.0, "drive")?.test_run(options)?;
        let last = result.return_value;
        ensure!(last == verdict, "the last packet's verdict was {last}, and should be {verdict}");
        Ok(result.duration.as_secs_f64() * 1e9)
    }

    /// Empties the reference's table.
    pub(super) fn clear(&mut self) -> Result<()> {
        let mut table: HashMap<&mut MapData, Key, Entry> = map(&mut self.0, REFERENCE)?;
        empty(&mut table)
    }

    /// Fills the reference's table with the keys that these packets have.
    pub(super) fn establish(&mut self, packet: Packet, flows: u32) -> Result<()> {
        let mut table: HashMap<&mut MapData, Key, Entry> = map(&mut self.0, REFERENCE)?;
        for number in 0..flows {
            table.insert(key(packet, number)?, [0; _], 0)?;
        }
        Ok(())
    }
}

fn key(packet: Packet, number: u32) -> Result<Key> {
    let flow = tables::Connection::of(number)?;
    let (source, port, to) = match packet {
        Packet::Reply => (flow.target, tables::TARGET_PORT, flow.nat_port),
        Packet::Request | Packet::Syn => (flow.client, flow.client_port, tables::LISTENER_PORT),
    };
    let ports = u32::from(port.to_be()) | u32::from(to.to_be()) << 16;
    Ok([pair(word(source), word(tables::BALANCER)), pair(ports, TCP)])
}

fn template_of(packet: Packet, flows: u32) -> Template {
    let (flags, mode, (source, from), to) = match packet {
        Packet::Request => (ACK, 0, tables::FIRST_CLIENT, tables::LISTENER_PORT),
        Packet::Reply => (ACK, 1, (tables::target(0), tables::TARGET_PORT), tables::FIRST_NAT_PORT),
        Packet::Syn => (SYN, 2, (tables::FIRST_CLIENT.0, tables::FIRST_NAT_PORT), tables::LISTENER_PORT),
    };
    [
        u64::from_ne_bytes([2, 0, 0, 0, 0, 4, 2, 0]),
        u64::from_ne_bytes([0, 0, 0, 1, 8, 0, 0x45, 0]),
        u64::from_ne_bytes([0, 40, 0, 1, 0x40, 0, 64, 6]),
        0x0102_0304_0506_0708,
        u64::from_ne_bytes([0x50, flags, 0xfa, 0xf0, 0x12, 0x34, 0, 0]),
        pair(word(source), word(tables::BALANCER)),
        pair(u32::from(from) << 16 | u32::from(to), 0x1234),
        pair(flows, 0),
        pair(mode, 0),
    ]
}

fn word(address: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(address.octets())
}

fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// An object that was compiled for the kernel.
pub(super) fn object(name: &str) -> Result<Vec<u8>> {
    fs::read(format!("{}/../target/ebpf/{name}", env!("CARGO_MANIFEST_DIR")))
        .with_context(|| format!("reading {name}; run `cargo xtask build`"))
}

pub(super) fn program<'object>(ebpf: &'object mut Ebpf, name: &str) -> Result<&'object mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

pub(super) fn program_of<'object>(ebpf: &'object Ebpf, name: &str) -> Result<&'object Xdp> {
    Ok(ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

pub(super) fn map<'object, T>(ebpf: &'object mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<&'object mut aya::maps::Map, Error = aya::maps::MapError>,
{
    Ok(T::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
}

/// Removes everything from a table.
pub(super) fn empty<K: aya::Pod, V: aya::Pod>(table: &mut HashMap<&mut MapData, K, V>) -> Result<()> {
    let keys: Vec<K> = table.keys().collect::<Result<_, _>>()?;
    for key in keys {
        table.remove(&key)?;
    }
    Ok(())
}

const REPEAT: u32 = 1_000_000;
const REFERENCE: &str = "REFERENCE";
const TCP: u32 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// linux/bpf.h.
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
