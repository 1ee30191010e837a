//! What a packet costs in the kernel, by the driver method: a program that writes each packet anew calls the one under
//! test through a table of programs, a million times in one test run.
//!
//! The same driver calling a program that only transmits is the baseline: gross is with it, net without. Machines differ,
//! so a reference is measured beside ours: a program that finds a 16-byte key in a hash table of the same size and load,
//! which took [`REFERENCE_NS`] where the goals were set. `scale` is what it takes here in terms of that, and a net goal
//! times `scale` is the goal in this machine's nanoseconds.

/// What is measured, and what is promised.
mod cases;
/// The programs and maps of the driver.
mod driver;
/// Our program, and tables that are as if flows had begun.
mod tables;
/// What the verifier says of our programs.
mod programs;
/// What a change of targets moves in a ring.
mod reshuffle;

use std::collections::BTreeMap;

use anyhow::Result;
use aya::util::nr_cpus;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::record::{Better, Metric, Report, median, show};
use cases::{CASES, Case, Goal, MANY};
use driver::Driver;
use tables::Tables;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Ours,
    /// The driver with a program that only transmits.
    Floor,
    /// One lookup, or for new flows two updates, in a table like ours.
    Reference,
}

/// Interleaved rounds.
const ROUNDS: usize = 9;
/// Interleaved rounds over a million flows: it takes seconds to begin them.
const MANY_ROUNDS: usize = 3;
/// Entries for a million flows, two a flow.
const MANY_ENTRIES: u32 = 1 << 21;

/// Runs the bench; with a part of a name, only the cases that have it, and without a record.
pub(crate) fn bench(part: Option<&str>) -> Result<()> {
    let cpu = nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))? - 1;
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;

    if let Some(part) = part {
        let has = |case: &&Case| case.name.contains(part);
        glance(&CASES.iter().filter(has).collect::<Vec<_>>(), tables::ENTRIES)?;
        return glance(&MANY.iter().filter(has).collect::<Vec<_>>(), MANY_ENTRIES);
    }
    let mut run = Run { report: Report::new("packets"), scale: None, nets: BTreeMap::new() };
    programs::measure(&mut run.report)?;
    reshuffle::measure(&mut run.report);
    run.measure(CASES, tables::ENTRIES, ROUNDS)?;
    let tables = run.measure(MANY, MANY_ENTRIES, MANY_ROUNDS)?;
    run.memory(&tables, MANY_ENTRIES)?;
    run.report.record()
}

/// Shows the best of some runs of each member: on a machine that does other things as well, the least disturbed.
fn glance(cases: &[&Case], entries: u32) -> Result<()> {
    if cases.is_empty() {
        return Ok(());
    }
    let (mut tables, mut driver) = (Tables::load(entries)?, Driver::load(entries)?);
    for case in cases {
        let mut best = [f64::INFINITY; 3];
        for _ in 0..if case.packet == cases::Packet::Syn { ROUNDS } else { 1 } {
            driver.clear()?;
            tables.establish(case)?;
            driver.establish(case)?;
            for _ in 0..if case.packet == cases::Packet::Syn { 1 } else { ROUNDS } {
                for (member, best) in
                    [Member::Ours, Member::Floor, Member::Reference].into_iter().zip(&mut best)
                {
                    *best = driver.run(case, member, &tables)?.map_or(*best, |ns| best.min(ns));
                }
            }
        }
        let [ours, floor, reference] = best;
        show(&format!(
            "{:<44} gross {ours:.0}, floor {floor:.0}, net {:.0}, reference net {:.0}: {:.2}x",
            case.name,
            ours - floor,
            reference - floor,
            (ours - floor) / (reference - floor)
        ));
    }
    Ok(())
}

/// What was found so far.
struct Run {
    report: Report,
    /// The first case's.
    scale: Option<f64>,
    /// Ours by case, net.
    nets: BTreeMap<&'static str, f64>,
}

impl Run {
    /// Measures cases over tables of this size.
    fn measure(&mut self, cases: &[Case], entries: u32, rounds: usize) -> Result<Tables> {
        let mut tables = Tables::load(entries)?;
        let mut driver = Driver::load(entries)?;
        let mut samples: Vec<[Vec<f64>; 3]> = cases.iter().map(|_| Default::default()).collect();
        for _ in 0..rounds {
            for (case, samples) in cases.iter().zip(&mut samples) {
                driver.clear()?;
                tables.establish(case)?;
                driver.establish(case)?;
                let members = [Member::Ours, Member::Floor, Member::Reference];
                for (member, samples) in members.into_iter().zip(samples) {
                    samples.extend(driver.run(case, member, &tables)?);
                }
            }
        }
        for (case, [ours, floor, reference]) in cases.iter().zip(samples) {
            let best = ours.iter().copied().fold(f64::INFINITY, f64::min);
            let reference = (!reference.is_empty()).then(|| median(reference));
            self.add(case, best, median(ours), median(floor), reference);
        }
        Ok(tables)
    }

    fn add(&mut self, case: &Case, best: f64, ours: f64, floor: f64, reference: Option<f64>) {
        let net = ours - floor;
        let reference_net = reference.map(|reference| reference - floor);
        let scale = *self.scale.get_or_insert(reference_net.unwrap_or(REFERENCE_NS) / REFERENCE_NS);
        self.nets.insert(case.name, net);
        let peers = |values: &[(&str, Option<f64>)]| -> BTreeMap<String, f64> {
            values.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?))).collect()
        };
        let mut line = |name: &str, ours, peers, goal| {
            let metric = Metric {
                case: case.name.to_owned(),
                name: name.to_owned(),
                unit: "ns",
                better: Better::Lower,
            };
            self.report.add(metric, ours, peers, goal);
        };
        let gross = match case.goal {
            Goal::Gross(gross) => Some(gross),
            _ => None,
        };
        line("packet, gross", ours, peers(&[("driver alone", Some(floor)), ("reference", reference)]), gross);
        line("packet, gross, best", best, BTreeMap::new(), gross);
        let own_net = match case.goal {
            Goal::Gross(gross) => Some(gross - GOALS_DRIVER_NS),
            Goal::Net(net) => Some(net),
            Goal::Updates(times) => reference_net.map(|net| times * net),
            Goal::Like(other, times) => self.nets.get(other).map(|net| times * net),
            Goal::None => None,
        };
        line("packet, net", net, peers(&[("reference", reference_net)]), own_net);
        if let (Goal::Gross(_) | Goal::Net(_), Some(goal)) = (&case.goal, own_net) {
            // What it would be where the reference takes what it took there.
            line("packet, net, by scale", net / scale, BTreeMap::new(), own_net);
            let here = goal * scale;
            show(&format!("{:<44} net {net:.0} ns; scale {scale:.2}: goal {here:.0} ns here", case.name));
        }
    }

    /// What the flow table takes.
    fn memory(&mut self, tables: &Tables, entries: u32) -> Result<()> {
        let bytes = tables.memory()?;
        let metric = |name: &str, unit| Metric {
            case: "full NAT, 1M flows".to_owned(),
            name: name.to_owned(),
            unit,
            better: Better::Lower,
        };
        let mebibytes = bytes / f64::from(1 << 20);
        self.report.add(metric("memory of the flow table", "MiB"), mebibytes, BTreeMap::new(), None);
        let of_flow = bytes / f64::from(entries) * 2.0;
        self.report.add(metric("memory of a flow", "B"), of_flow, BTreeMap::new(), None);
        Ok(())
    }
}

/// What the driver alone costs on the machine that the goals were set on, in nanoseconds.
const GOALS_DRIVER_NS: f64 = 10.0;
/// What the reference costs there with one flow, net, in nanoseconds.
const REFERENCE_NS: f64 = 20.0;
