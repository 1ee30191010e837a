//! Results: the table and the JSON lines.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// One measured thing: what one line of the results holds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    /// Which bench.
    bench: String,
    /// What was done.
    case: String,
    /// What was measured.
    metric: String,
    /// In what.
    unit: &'static str,
    /// `lower` or `higher`.
    better: Better,
    /// Our median.
    ours: f64,
    /// The peers' medians.
    peers: BTreeMap<String, f64>,
    /// What SPECIFICATION.md promises, if it promises anything.
    goal: Option<f64>,
    /// Processor, number of cores, kernel.
    machine: String,
    /// What was measured, in git's words.
    commit: String,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// Something to measure: what lines have in common before there is a figure.
#[derive(Debug, Clone)]
pub(crate) struct Metric {
    pub(crate) case: String,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

/// The lines of one run.
pub(crate) struct Report {
    bench: &'static str,
    machine: String,
    commit: String,
    lines: Vec<Line>,
}

impl Report {
    pub(crate) fn new(bench: &'static str) -> Self {
        Self { bench, machine: machine(), commit: commit(), lines: Vec::new() }
    }

    /// Adds a line.
    pub(crate) fn add(&mut self, metric: Metric, ours: f64, peers: BTreeMap<String, f64>, goal: Option<f64>) {
        let Metric { case, name, unit, better } = metric;
        self.lines.push(Line {
            bench: self.bench.to_owned(),
            case,
            metric: name,
            unit,
            better,
            ours: rounded(ours),
            peers: peers.into_iter().map(|(peer, value)| (peer, rounded(value))).collect(),
            goal: goal.map(rounded),
            machine: self.machine.clone(),
            commit: self.commit.clone(),
        });
    }

    /// Prints the lines as a table and appends them to bench/results.
    pub(crate) fn record(&self) -> Result<()> {
        let path = results(self.bench);
        let mut out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        for line in &self.lines {
            writeln!(out, "{}", serde_json::to_string(line)?)?;
            show(&row(line));
        }
        Ok(())
    }
}

/// The last recorded figure of ours, and the commit it was measured at.
pub(crate) fn last(bench: &str, case: &str, metric: &str) -> Option<(f64, String)> {
    #[derive(Deserialize)]
    struct Past {
        case: String,
        metric: String,
        ours: f64,
        commit: String,
    }
    let text = fs::read_to_string(results(bench)).ok()?;
    let past = text.lines().rev().filter_map(|line| serde_json::from_str::<Past>(line).ok());
    let found = past.into_iter().find(|past| past.case == case && past.metric == metric)?;
    Some((found.ours, found.commit))
}

/// Shows a line to whoever waits.
#[expect(clippy::print_stdout, reason = "the one printing function of the benches")]
pub(crate) fn show(text: &str) {
    println!("{text}");
}

/// The middle of the values; of an even number, the upper one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Ours, each peer with what ours is in its terms, the goal and whether it is met.
fn row(line: &Line) -> String {
    let mut text = format!("{:<42} {:<24} {:>11.2} {:<4}", line.case, line.metric, line.ours, line.unit);
    for (peer, value) in &line.peers {
        let ratio = if *value == 0.0 { String::new() } else { format!(" ({:.2}x)", line.ours / value) };
        text.push_str(&format!("  {peer} {value:.2}{ratio}"));
    }
    if let Some(goal) = line.goal {
        let met = match line.better {
            Better::Lower => line.ours <= goal,
            Better::Higher => line.ours >= goal,
        };
        text.push_str(&format!("  goal {goal:.2}: {}", if met { "met" } else { "missed" }));
    }
    text
}

/// No figure here is good for more than three places.
fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

fn results(bench: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results").join(format!("{bench}.jsonl"))
}

/// Processor, number of cores, kernel.
fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, model)| model.trim()))
        .unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// The commit, with a mark if the tree has changed since.
fn commit() -> String {
    let git = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude", "*"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match git {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_compares_with_each_peer_and_with_the_goal() {
        let mut report = Report::new("none");
        let metric = |better| Metric { case: "a".to_owned(), name: "b".to_owned(), unit: "us", better };
        let peers = || BTreeMap::from([("peer".to_owned(), 4.0)]);
        report.add(metric(Better::Lower), 2.0, peers(), Some(1.0));
        report.add(metric(Better::Higher), 2.0, peers(), Some(1.0));
        let rows: Vec<String> = report.lines.iter().map(row).collect();
        assert!(rows[0].ends_with("peer 4.00 (0.50x)  goal 1.00: missed"), "{rows:?}");
        assert!(rows[1].ends_with("goal 1.00: met"), "{rows:?}");
    }

    #[test]
    fn the_middle_of_an_odd_number_is_in_the_middle() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([3.0, 1.0]) - 3.0).abs() < f64::EPSILON);
    }
}
