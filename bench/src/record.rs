//! Results: the table and the JSON lines.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// One measured thing.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// Which bench.
    pub(crate) bench: &'static str,
    /// What was done.
    pub(crate) case: String,
    /// What was measured.
    pub(crate) metric: &'static str,
    /// In what.
    pub(crate) unit: &'static str,
    /// `lower` or `higher`.
    pub(crate) better: &'static str,
    /// Our median.
    pub(crate) ours: f64,
    /// The peers' medians.
    pub(crate) peers: BTreeMap<String, f64>,
    /// What SPECIFICATION.md promises.
    pub(crate) goal: f64,
    /// Processor and number of cores.
    pub(crate) machine: String,
    /// What was measured, in git's words.
    pub(crate) commit: String,
}

/// Appends lines to bench/results/`name`.jsonl and prints them as a table.
pub(crate) fn record(name: &str, lines: &[Line]) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    fs::create_dir_all(&folder)?;
    let file = folder.join(format!("{name}.jsonl"));
    let mut out = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&file)
        .with_context(|| format!("opening {}", file.display()))?;
    for line in lines {
        writeln!(out, "{}", serde_json::to_string(line)?)?;
        let peers: Vec<String> =
            line.peers.iter().map(|(peer, value)| format!("{peer} {value:.2}")).collect();
        show(&format!(
            "{:<28} {:<22} ours {:>10.2}   {}   goal {} ({}, {} is better)",
            line.case,
            line.metric,
            line.ours,
            peers.join("   "),
            line.goal,
            line.unit,
            line.better
        ));
    }
    Ok(())
}

/// Shows a line to whoever waits.
#[expect(clippy::print_stdout, reason = "the one printing function of the benches")]
pub(crate) fn show(text: &str) {
    println!("{text}");
}

/// The middle of the values; of an even number, the upper one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Processor and number of cores.
pub(crate) fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim()))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{model}, {cores} cores")
}

/// The commit, with a mark if the tree has changed since.
pub(crate) fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude", "*"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
