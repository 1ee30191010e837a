//! What a packet costs in the kernel, by the driver method: a program that writes each packet anew calls the one under
//! test through a table of programs, a million times in one test run.
//!
//! The same driver calling a program that only transmits is the baseline: gross is with it, net without. Machines differ,
//! so a reference is measured beside ours: a program that finds a 16-byte key in a hash table of the same size and load,
//! which took [`REFERENCE_NS`] where the goals were set. `scale` is what it takes here in terms of that, and a net goal
//! times `scale` is the goal in this machine's nanoseconds.

/// The programs and maps of the driver.
mod driver;
/// Our program, and tables that are as if flows had begun.
mod tables;
/// What the verifier says of our programs.
mod programs;

use std::collections::BTreeMap;

use anyhow::Result;
use aya::util::nr_cpus;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::record::{Better, Metric, Report, median, show};
use driver::Driver;
use tables::Tables;

/// A kind of packet, over so many flows.
struct Case {
    name: &'static str,
    packet: Packet,
    flows: u32,
    goal: Goal,
}

/// What the driver writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packet {
    /// From a client, of a flow that is there.
    Request,
    /// From a target, of a flow that is there.
    Reply,
    /// From a client, each of a flow that is not there yet.
    Syn,
}

/// What SPECIFICATION.md promises.
enum Goal {
    /// Nanoseconds, with a driver of [`GOALS_DRIVER_NS`].
    Gross(f64),
    /// In terms of what two updates of a hash table take, net.
    Updates(f64),
    /// Only reported.
    None,
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Ours,
    /// The driver with a program that only transmits.
    Floor,
    /// One lookup, or for new flows two updates, in a table like ours.
    Reference,
}

const CASES: [Case; 7] = [
    established("full NAT, established, request, 1 flow", Packet::Request, 1, 50.0),
    established("full NAT, established, request, 1k flows", Packet::Request, 1_000, 58.0),
    established("full NAT, established, request, 60k flows", Packet::Request, 60_000, 140.0),
    established("full NAT, established, reply, 1 flow", Packet::Reply, 1, 50.0),
    established("full NAT, established, reply, 1k flows", Packet::Reply, 1_000, 58.0),
    established("full NAT, established, reply, 60k flows", Packet::Reply, 60_000, 140.0),
    Case {
        name: "full NAT, SYN that begins a flow",
        packet: Packet::Syn,
        flows: 60_000,
        goal: Goal::Updates(1.1),
    },
];

/// A table of its own size, as there is none of this size otherwise.
const MANY: [Case; 2] = [
    Case {
        name: "full NAT, established, request, 1M flows",
        packet: Packet::Request,
        flows: 1_000_000,
        goal: Goal::None,
    },
    Case {
        name: "full NAT, established, reply, 1M flows",
        packet: Packet::Reply,
        flows: 1_000_000,
        goal: Goal::None,
    },
];

const fn established(name: &'static str, packet: Packet, flows: u32, gross: f64) -> Case {
    Case { name, packet, flows, goal: Goal::Gross(gross) }
}

/// Interleaved rounds.
const ROUNDS: usize = 9;
/// Interleaved rounds over a million flows: it takes seconds to begin them.
const MANY_ROUNDS: usize = 3;
/// Entries for a million flows, two a flow.
const MANY_ENTRIES: u32 = 1 << 21;

/// Runs the bench.
pub(crate) fn bench() -> Result<()> {
    let cpu = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))? - 1;
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;

    let mut report = Report::new("packets");
    programs::measure(&mut report)?;
    let scale = measure(&mut report, &CASES, tables::ENTRIES, ROUNDS, None)?;
    measure(&mut report, &MANY, MANY_ENTRIES, MANY_ROUNDS, Some(scale))?;
    report.record()
}

/// Measures cases over tables of this size; returns the scale, which the first case gives if it is not given.
fn measure(
    report: &mut Report,
    cases: &[Case],
    entries: u32,
    rounds: usize,
    scale: Option<f64>,
) -> Result<f64> {
    let mut tables = Tables::load(entries)?;
    let mut driver = Driver::load(entries)?;
    let mut samples: Vec<[Vec<f64>; 3]> = cases.iter().map(|_| Default::default()).collect();
    for _ in 0..rounds {
        for (case, [ours, floor, reference]) in cases.iter().zip(&mut samples) {
            tables.clear()?;
            driver.clear()?;
            if case.packet != Packet::Syn {
                tables.establish(case.flows)?;
                driver.establish(case.packet, case.flows)?;
            }
            ours.push(driver.run(case.packet, case.flows, Member::Ours, &tables)?);
            floor.push(driver.run(case.packet, case.flows, Member::Floor, &tables)?);
            reference.push(driver.run(case.packet, case.flows, Member::Reference, &tables)?);
        }
    }
    if scale.is_some() {
        memory(report, &tables, entries)?;
    }
    let mut scale = scale;
    for (case, [ours, floor, reference]) in cases.iter().zip(samples) {
        let best = ours.iter().copied().fold(f64::INFINITY, f64::min);
        let [ours, floor, reference] = [ours, floor, reference].map(median);
        let scale = *scale.get_or_insert((reference - floor) / REFERENCE_NS);
        add(report, case, &Figures { ours, best, floor, reference, scale });
    }
    Ok(scale.unwrap_or(1.0))
}

/// Medians of a case.
struct Figures {
    ours: f64,
    best: f64,
    floor: f64,
    reference: f64,
    scale: f64,
}

fn add(report: &mut Report, case: &Case, figures: &Figures) {
    let Figures { ours, best, floor, reference, scale } = *figures;
    let (net, reference_net) = (ours - floor, reference - floor);
    let (gross_goal, net_goal) = match case.goal {
        Goal::Gross(goal) => (Some(goal), Some(goal - GOALS_DRIVER_NS)),
        Goal::Updates(times) => (None, Some(times * reference_net)),
        Goal::None => (None, None),
    };
    let mut line = |name: &str, ours, peers: &[(&str, f64)], goal| {
        let metric =
            Metric { case: case.name.to_owned(), name: name.to_owned(), unit: "ns", better: Better::Lower };
        let peers: BTreeMap<String, f64> =
            peers.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        report.add(metric, ours, peers, goal);
    };
    line("packet, gross", ours, &[("driver alone", floor), ("reference", reference)], gross_goal);
    line("packet, gross, best", best, &[], gross_goal);
    line("packet, net", net, &[("reference", reference_net)], net_goal);
    if let Goal::Gross(_) = case.goal {
        // What it would be where the reference takes what it took there.
        line("packet, net, by scale", net / scale, &[], net_goal);
        show(&format!(
            "{:<42} net {net:.0} ns, reference {reference_net:.0} ns; scale {scale:.2}: goal {:.0} ns here",
            case.name,
            net_goal.unwrap_or(f64::NAN) * scale
        ));
    }
}

/// What the flow table takes.
fn memory(report: &mut Report, tables: &Tables, entries: u32) -> Result<()> {
    let bytes = tables.memory()?;
    let line = |name: &str, unit| Metric {
        case: "full NAT, 1M flows".to_owned(),
        name: name.to_owned(),
        unit,
        better: Better::Lower,
    };
    report.add(line("memory of the flow table", "MiB"), bytes / f64::from(1 << 20), BTreeMap::new(), None);
    report.add(line("memory of a flow", "B"), bytes / f64::from(entries) * 2.0, BTreeMap::new(), None);
    Ok(())
}

/// What the driver alone costs on the machine that the goals were set on, in nanoseconds.
const GOALS_DRIVER_NS: f64 = 10.0;
/// What the reference costs there with one flow, net, in nanoseconds.
const REFERENCE_NS: f64 = 20.0;
