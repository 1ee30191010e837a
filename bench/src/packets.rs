//! What a packet costs in the kernel, by the driver method: a program that writes each packet anew calls ours through a
//! table of programs, a million times in one test run. The same driver calling a program that only transmits is the
//! baseline: gross is with it, net without.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{
    self, Flow, FlowKey, Ipv4Be, Listener, ListenerKey, PortBe, PortCursor, Pulse, RING_SIZE, Ring, Target,
    direction, state, target_state,
};
use lb_common::wire::checksum::{delta16, delta32, fold};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::record::{Line, commit, machine, median, record};

const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 4);
/// Targets; a power of two, as the driver counts through them.
const TARGETS: u32 = 128;
const TARGET_PORT: u16 = 8080;
const CLIENT_PORT: u16 = 40_000;
const FIRST_NAT_PORT: u16 = 1_024;
/// Interleaved rounds.
const ROUNDS: usize = 9;
const REPEAT: u32 = 1_000_000;
/// New flows a run: they must fit into the table.
const NEW_FLOWS: u32 = 60_000;
const TICK: u32 = 100;

/// Runs the bench.
pub(crate) fn bench() -> Result<()> {
    let cpu = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))? - 1;
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;

    let mut bench = Bench::load()?;
    let cases = [
        ("full NAT, established, request, 1 flow", Kind::Request, 1, 50.0),
        ("full NAT, established, request, 1k flows", Kind::Request, 1_000, 58.0),
        ("full NAT, established, request, 60k flows", Kind::Request, 60_000, 140.0),
        ("full NAT, established, reply, 1 flow", Kind::Reply, 1, 50.0),
        ("full NAT, established, reply, 1k flows", Kind::Reply, 1_000, 58.0),
        ("full NAT, established, reply, 60k flows", Kind::Reply, 60_000, 140.0),
        ("full NAT, SYN that begins a flow", Kind::Syn, NEW_FLOWS, 746.0),
    ];
    let mut gross: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    let mut floor: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for _ in 0..ROUNDS {
        for (number, (_, kind, flows, _)) in cases.iter().enumerate() {
            let ours = bench.measure(*kind, *flows, true)?;
            let baseline = bench.measure(*kind, *flows, false)?;
            if let (Some(gross), Some(floor)) = (gross.get_mut(number), floor.get_mut(number)) {
                gross.push(ours);
                floor.push(baseline);
            }
        }
    }
    let mut lines = Vec::new();
    for (((case, _, _, goal), gross), floor) in cases.iter().zip(&mut gross).zip(&mut floor) {
        let best = gross.iter().copied().fold(f64::INFINITY, f64::min);
        let (gross, floor) = (median(gross), median(floor));
        let line = |metric, ours, peers, goal| Line {
            bench: "packets",
            case: (*case).to_owned(),
            metric,
            unit: "ns",
            better: "lower",
            ours,
            peers,
            goal,
            machine: format!("{}, Linux {}", machine(), kernel()),
            commit: commit(),
        };
        let only = |name: &str, value| BTreeMap::from([(name.to_owned(), value)]);
        lines.push(line("packet, gross", gross, only("driver alone", floor), *goal));
        lines.push(line("packet, gross, best", best, BTreeMap::new(), *goal));
        // The goals' driver costs ten nanoseconds where they were set.
        lines.push(line("packet, net", gross - floor, BTreeMap::new(), *goal - GOALS_DRIVER));
    }
    record("packets", &lines)
}

fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// What the driver alone costs on the machine that the goals were set on, in nanoseconds.
const GOALS_DRIVER: f64 = 10.0;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Request,
    Reply,
    Syn,
}

/// The driver's template, two of its small fields a word.
type Template = [u64; 9];

/// Both objects, ours filled with targets.
struct Bench {
    ours: Ebpf,
    driver: Ebpf,
}

impl Bench {
    fn load() -> Result<Self> {
        let read = |name: &str| {
            fs::read(format!("{}/../target/ebpf/{name}", env!("CARGO_MANIFEST_DIR")))
                .with_context(|| format!("reading {name}; run `cargo xtask build`"))
        };
        let mut ours = EbpfLoader::new().load(&read("gatehouse.o")?)?;
        let mut driver = EbpfLoader::new().load(&read("driver.o")?)?;
        program(&mut ours, "gatehouse")?.load()?;
        for name in ["transmit", "drive"] {
            program(&mut driver, name)?.load()?;
        }
        let mut bench = Self { ours, driver };
        bench.fill()?;
        Ok(bench)
    }

    fn fill(&mut self) -> Result<()> {
        let mut addresses: HashMap<&mut MapData, Ipv4Be, u32> = map(&mut self.ours, abi::ADDRESSES)?;
        addresses.insert(Ipv4Be::from(BALANCER), INGRESS, 0)?;
        let mut listeners: HashMap<&mut MapData, ListenerKey, u32> = map(&mut self.ours, abi::LISTENERS)?;
        let key = ListenerKey { address: BALANCER.into(), port: PortBe::new(80), protocol: 6, pad: 0 };
        listeners.insert(key, 0, 0)?;
        let mut states: Array<&mut MapData, Listener> = map(&mut self.ours, abi::LISTENER_STATE)?;
        states.set(0, Listener { ring: 0, flags: 0 }, 0)?;
        let mut slots: Vec<u16> = (0..u16::try_from(TARGETS)?).cycle().take(RING_SIZE).collect();
        slots.rotate_left(7);
        let ring: Box<Ring> = slots.try_into().map_err(|_| anyhow::anyhow!("a ring has its size"))?;
        let mut rings: Array<&mut MapData, Ring> = map(&mut self.ours, abi::RINGS)?;
        rings.set(0, ring.as_ref(), 0)?;
        for index in 0..TARGETS {
            let mut targets: Array<&mut MapData, Target> = map(&mut self.ours, abi::TARGETS)?;
            let entry = Target {
                address: target(index).into(),
                port: PortBe::new(TARGET_PORT),
                state: target_state::READY,
                mac_head: 0x0000_0002,
                mac_tail: 0x0200,
                pad: 0,
                generation: 1,
                via: BALANCER.into(),
                group: 0,
            };
            targets.set(index, entry, 0)?;
        }
        let mut pulse: Array<&mut MapData, Pulse> = map(&mut self.ours, abi::PULSE)?;
        pulse.set(0, Pulse { tick: TICK, syn_limit: u32::MAX }, 0)?;
        let cpus = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
        let mut ports: PerCpuArray<&mut MapData, PortCursor> = map(&mut self.ours, abi::PORTS)?;
        let cursor = PortCursor { first: 40_000, span: 9_000, next: 0, pad: 0 };
        ports.set(0, PerCpuValues::try_from(vec![cursor; cpus])?, 0)?;
        Ok(())
    }

    /// Nanoseconds a packet, driver included.
    fn measure(&mut self, kind: Kind, flows: u32, is_ours: bool) -> Result<f64> {
        let under_test = if is_ours {
            program(&mut self.ours, "gatehouse")?.fd()?.try_clone()?
        } else {
            program(&mut self.driver, "transmit")?.fd()?.try_clone()?
        };
        let mut programs: ProgramArray<&mut MapData> = map(&mut self.driver, "PROGRAMS")?;
        programs.set(0, &under_test, 0)?;
        self.clear()?;
        if kind != Kind::Syn {
            self.establish(flows)?;
        }
        let mut template: Array<&mut MapData, Template> = map(&mut self.driver, "TEMPLATE")?;
        template.set(0, template_of(kind, flows), 0)?;
        let packet = [0_u8; 60];
        let repeat = if kind == Kind::Syn { flows } else { REPEAT };
        let options = TestRunOptions { data_in: Some(&packet), repeat, ..TestRunOptions::new() };
        let result = program(&mut self.driver, "drive")?.test_run(options)?;
        let transmitted = if is_ours { XDP_REDIRECT } else { XDP_TX };
        anyhow::ensure!(
            result.return_value == transmitted,
            "the last packet's verdict was {}",
            result.return_value
        );
        Ok(result.duration.as_secs_f64() * 1e9)
    }

    fn clear(&mut self) -> Result<()> {
        let mut table: HashMap<&mut MapData, FlowKey, Flow> = map(&mut self.ours, abi::FLOWS)?;
        let keys: Vec<FlowKey> = table.keys().collect::<Result<_, _>>()?;
        for key in keys {
            table.remove(&key)?;
        }
        Ok(())
    }

    /// The flows that the driver's packets belong to.
    fn establish(&mut self, flows: u32) -> Result<()> {
        let mut table: HashMap<&mut MapData, FlowKey, Flow> = map(&mut self.ours, abi::FLOWS)?;
        for number in 0..flows {
            let (low, high) = (number & 0xff, number >> 8);
            let client = Ipv4Addr::new(10, 100, u8::try_from(low)?, u8::try_from(high)?);
            let index = number & (TARGETS - 1);
            let port = PortBe::new(FIRST_NAT_PORT + u16::try_from(number / TARGETS)?);
            let (balancer, at) = (Ipv4Be::from(BALANCER), Ipv4Be::from(target(index)));
            let request = FlowKey {
                source: client.into(),
                destination: balancer,
                source_port: PortBe::new(CLIENT_PORT),
                destination_port: PortBe::new(80),
                protocol: 6,
            };
            let reply = FlowKey {
                source: at,
                destination: balancer,
                source_port: PortBe::new(TARGET_PORT),
                destination_port: port,
                protocol: 6,
            };
            let there = flow(&request, &reply, direction::TO_TARGET, index);
            let back = flow(&reply, &request, direction::TO_CLIENT, index);
            table.insert(request, there, 0)?;
            table.insert(reply, back, 0)?;
        }
        Ok(())
    }
}

/// The entry that turns packets with `key` into packets that `other`'s answer.
fn flow(key: &FlowKey, other: &FlowKey, way: u8, target: u32) -> Flow {
    let (source, destination) = (other.destination, other.source);
    let (source_port, destination_port) = (other.destination_port, other.source_port);
    let addresses = delta32(key.source.0, source.0) + delta32(key.destination.0, destination.0);
    let ports =
        delta16(key.source_port.0, source_port.0) + delta16(key.destination_port.0, destination_port.0);
    Flow {
        source,
        destination,
        source_port,
        destination_port,
        ip_delta: fold(addresses),
        tcp_delta: fold(addresses + ports),
        mac_head: 0x0000_0002,
        mac_tail: 0x0100,
        direction: way,
        state: state::CONFIRMED,
        listener: 0,
        target,
        generation: 1,
        ifindex: INGRESS,
        seen: TICK,
        began: TICK,
    }
}

fn target(index: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, index.to_le_bytes()[0])
}

fn template_of(kind: Kind, flows: u32) -> Template {
    let flags = if kind == Kind::Syn { 0x02 } else { 0x10 };
    let (source, ports) = match kind {
        Kind::Request => (Ipv4Addr::new(10, 100, 0, 0), (CLIENT_PORT, 80)),
        Kind::Reply => (target(0), (TARGET_PORT, FIRST_NAT_PORT)),
        Kind::Syn => (Ipv4Addr::new(10, 100, 0, 0), (FIRST_NAT_PORT, 80)),
    };
    let word = |octets: Ipv4Addr| u32::from_ne_bytes(octets.octets());
    let mode = match kind {
        Kind::Request => 0,
        Kind::Reply => 1,
        Kind::Syn => 2,
    };
    let pair = |first: u32, second: u32| u64::from(first) | u64::from(second) << 32;
    [
        u64::from_ne_bytes([2, 0, 0, 0, 0, 4, 2, 0]),
        u64::from_ne_bytes([0, 0, 0, 1, 8, 0, 0x45, 0]),
        u64::from_ne_bytes([0, 40, 0, 1, 0x40, 0, 64, 6]),
        0x0102_0304_0506_0708,
        u64::from_ne_bytes([0x50, flags, 0xfa, 0xf0, 0x12, 0x34, 0, 0]),
        pair(word(source), word(BALANCER)),
        pair(u32::from(ports.0) << 16 | u32::from(ports.1), 0x1234),
        pair(flows, 0),
        pair(mode, 0),
    ]
}

fn program<'object>(ebpf: &'object mut Ebpf, name: &str) -> Result<&'object mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn map<'object, T>(ebpf: &'object mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<&'object mut aya::maps::Map, Error = aya::maps::MapError>,
{
    Ok(T::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
}

/// Loopback: where test runs say that packets come from.
const INGRESS: u32 = 1;
/// linux/bpf.h.
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
