//! What the verifier says of our programs: the instructions it had to follow, and how long loading takes.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, Result};
use aya::EbpfLoader;
use aya::programs::{Program, Xdp};

use super::driver::{object, program};
use crate::record::{Better, Metric, Report, last, median, show};

/// Loads each program of the object some times.
pub(super) fn measure(report: &mut Report) -> Result<()> {
    let mut ebpf = EbpfLoader::new().load(&object("gatehouse.o")?)?;
    let names: Vec<String> = ebpf
        .programs()
        .filter(|(_, program)| matches!(program, Program::Xdp(_)))
        .map(|(name, _)| name.to_owned())
        .collect();
    for name in names {
        let program = program(&mut ebpf, &name)?;
        let (mut times, mut instructions) = (Vec::new(), 0);
        for _ in 0..LOADS {
            let (took, followed) = load(program)?;
            times.push(took);
            instructions = followed;
        }
        add(report, &name, "verified instructions", "", f64::from(instructions));
        add(report, &name, "load time", "ms", median(times));
    }
    Ok(())
}

/// Milliseconds, and instructions that the verifier followed.
fn load(program: &mut Xdp) -> Result<(f64, u32)> {
    let started = Instant::now();
    program.load()?;
    let took = started.elapsed().as_secs_f64() * 1e3;
    let followed = program.info()?.verified_instruction_count().context("the kernel does not say")?;
    program.unload()?;
    Ok((took, followed))
}

fn add(report: &mut Report, program: &str, name: &str, unit: &'static str, value: f64) {
    let case = format!("program {program}");
    if let Some((before, commit)) = last("packets", &case, name) {
        let rise = (value / before - 1.0) * 100.0;
        if rise > NOTED_RISE {
            show(&format!("{case}: {name} rose by {rise:.0} %, from {before} at {commit} to {value}"));
        }
    }
    let metric = Metric { case, name: name.to_owned(), unit, better: Better::Lower };
    report.add(metric, value, BTreeMap::new(), None);
}

/// Loads of which the median counts.
const LOADS: usize = 5;
/// Percent.
const NOTED_RISE: f64 = 10.0;
