//! The programs and maps of the driver: what it writes, what it calls, and the reference's table.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{Flow, Ipv4Be, target_mode};

use super::Member;
use super::cases::{Case, Family, Packet};
use super::tables::{self, Tables};

/// The loaded driver.
pub(super) struct Driver(Ebpf);

/// The driver's template, two of its small fields a word.
type Template = [u64; 9];
/// The same, IPv6.
type Template6 = [u64; 11];

/// The reference's key: addresses, then ports and protocol, as they are in the packet.
type Key = [u64; 2];

/// As large as one of our flow entries: what is copied costs.
type Entry = [u64; size_of::<Flow<Ipv4Be>>() / 8];

impl Driver {
    /// Loads it, with this many entries in the reference's table.
    pub(super) fn load(entries: u32) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(REFERENCE, entries);
        let mut ebpf = loader.load(&object("driver.o")?)?;
        for name in ["transmit", "grow", "find", "insert", "drive", "drive6"] {
            program(&mut ebpf, name)?.load()?;
        }
        Ok(Self(ebpf))
    }

    /// Nanoseconds a packet, driver included. The reference is not there for all.
    pub(super) fn run(&mut self, case: &Case, member: Member, tables: &Tables) -> Result<Option<f64>> {
        let own =
            |driver: &Self, name| Ok::<_, anyhow::Error>(program_of(&driver.0, name)?.fd()?.try_clone()?);
        match member {
            Member::Ours => {
                let ours = tables.program()?.fd()?.try_clone()?;
                self.drive(case, &ours, XDP_REDIRECT).map(Some)
            }
            Member::Floor => {
                let floor = self.drive(case, &own(self, "transmit")?, XDP_TX)?;
                if !is_tunnel(case) {
                    return Ok(Some(floor));
                }
                // The driver makes the packet as it was, and the program under test made it longer: half is the driver's.
                let grown = self.drive(case, &own(self, "grow")?, XDP_TX)?;
                Ok(Some(f64::midpoint(floor, grown)))
            }
            Member::Reference if case.family == Family::V6 || is_tunnel(case) => Ok(None),
            Member::Reference => {
                let name = if case.packet == Packet::Syn { "insert" } else { "find" };
                self.drive(case, &own(self, name)?, XDP_TX).map(Some)
            }
        }
    }

    fn drive(&mut self, case: &Case, under_test: &ProgramFd, verdict: u32) -> Result<f64> {
        let mut programs: ProgramArray<&mut MapData> = map(&mut self.0, "PROGRAMS")?;
        programs.set(0, under_test, 0)?;
        let name = match case.family {
            Family::V4 => {
                let mut template: Array<&mut MapData, Template> = map(&mut self.0, "TEMPLATE")?;
                template.set(0, template_of(case), 0)?;
                "drive"
            }
            Family::V6 => {
                let mut template: Array<&mut MapData, Template6> = map(&mut self.0, "TEMPLATE6")?;
                template.set(0, template6_of(case), 0)?;
                "drive6"
            }
        };
        let data = vec![0_u8; usize::try_from(length(case))?];
        // Each new flow is new once.
        let repeat = if case.packet == Packet::Syn { case.flows } else { REPEAT };
        let options = TestRunOptions { data_in: Some(&data), repeat, ..TestRunOptions::new() };
        let result = program(&mut self.0, name)?.test_run(options)?;
        let last = result.return_value;
        ensure!(last == verdict, "{}: the last packet's verdict was {last}, not {verdict}", case.name);
        Ok(result.duration.as_secs_f64() * 1e9)
    }

    /// Empties the reference's table.
    pub(super) fn clear(&mut self) -> Result<()> {
        let mut table: HashMap<&mut MapData, Key, Entry> = map(&mut self.0, REFERENCE)?;
        empty(&mut table)
    }

    /// Fills the reference's table with the keys that these packets have, if it is to find them.
    pub(super) fn establish(&mut self, case: &Case) -> Result<()> {
        if case.packet == Packet::Syn || case.family == Family::V6 || is_tunnel(case) {
            return Ok(());
        }
        let mut table: HashMap<&mut MapData, Key, Entry> = map(&mut self.0, REFERENCE)?;
        for number in 0..case.flows {
            table.insert(key(case.packet, number)?, [0; _], 0)?;
        }
        Ok(())
    }
}

fn is_tunnel(case: &Case) -> bool {
    matches!(case.mode, target_mode::IPIP | target_mode::GUE)
}

fn key(packet: Packet, number: u32) -> Result<Key> {
    let flow = tables::Connection::of(number)?;
    let (source, port, to) = match packet {
        Packet::Reply => (flow.target, tables::TARGET_PORT, flow.nat_port),
        Packet::Request | Packet::Syn => (flow.client, flow.client_port, tables::LISTENER_PORT),
    };
    Ok([pair(word(source), word(tables::BALANCER)), pair(ports(port, to), TCP)])
}

fn template_of(case: &Case) -> Template {
    let (flags, mode, (source, from), to) = match case.packet {
        Packet::Request => (ACK, 0, tables::FIRST_CLIENT, tables::LISTENER_PORT),
        Packet::Reply => (ACK, 1, (tables::target(0), tables::TARGET_PORT), tables::FIRST_NAT_PORT),
        Packet::Syn => (SYN, 2, (tables::FIRST_CLIENT.0, tables::FIRST_NAT_PORT), tables::LISTENER_PORT),
    };
    let restored = if is_tunnel(case) { length(case) } else { 0 };
    [
        u64::from_ne_bytes([2, 0, 0, 0, 0, 4, 2, 0]),
        u64::from_ne_bytes([0, 0, 0, 1, 8, 0, 0x45, 0]),
        u64::from_ne_bytes([0, 40, 0, 1, 0x40, 0, 64, 6]),
        NUMBERS,
        u64::from_ne_bytes([0x50, flags, 0xfa, 0xf0, 0x12, 0x34, 0, 0]),
        pair(word(source), word(tables::BALANCER)),
        pair(u32::from(from) << 16 | u32::from(to), 0x1234),
        pair(case.flows, 0),
        pair(mode, restored),
    ]
}

fn template6_of(case: &Case) -> Template6 {
    let two = |[a, b, c, d]: [u32; 4]| [pair(a, b), pair(c, d)];
    let [source, source_rest] = two(tables::client6(0).0);
    let [destination, destination_rest] = two(tables::balancer6().0);
    [
        u64::from_ne_bytes([2, 0, 0, 0, 0, 4, 2, 0]),
        u64::from_ne_bytes([2, 0, 0, 0, 0, 1, 0x86, 0xdd]),
        u64::from_ne_bytes([0x60, 0, 0, 0, 0, 20, 6, 64]),
        source,
        source_rest,
        destination,
        destination_rest,
        NUMBERS,
        u64::from_ne_bytes([0x50, ACK, 0xfa, 0xf0, 0x12, 0x34, 0, 0]),
        pair(ports(tables::FIRST_CLIENT.1, tables::LISTENER_PORT), case.flows),
        0,
    ]
}

/// A packet without payload, as long as Ethernet wants it.
fn length(case: &Case) -> u32 {
    match case.family {
        Family::V4 => 60,
        Family::V6 => 74,
    }
}

/// As on the wire.
fn ports(from: u16, to: u16) -> u32 {
    u32::from(from.to_be()) | u32::from(to.to_be()) << 16
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
/// Sequence and acknowledgement.
const NUMBERS: u64 = 0x0102_0304_0506_0708;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// linux/bpf.h.
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
