//! The network load balancer beside nftables, HAProxy and nginx, all doing the same in the same place.
//!
//! ```text
//! client 10.0.1.30 ── bridge ── load balancer 10.0.1.4, one interface
//!                        └───── targets 10.0.1.20 and 10.0.1.21, one process
//! ```
//!
//! Namespaces joined by veth, the same offloads for all: checksums finished by whoever sends, as XDP on veth needs it,
//! and receive polling on. Each contender stands alone, in a namespace made for the measurement. Direct is the client
//! asking a target itself: what a request costs the whole machine more than that is the load balancer's. All share the
//! machine's cores as they like.

/// The hosts.
mod bed;
/// nftables, HAProxy and nginx.
mod peers;
/// Ours.
mod ours;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use gatehouse_tests::lab::{
    load::{self, Load},
    netns::Netns,
    wait::Wait,
};

use crate::{
    busy, interrupt,
    process::Process,
    record::{Better, Metric, Report, median, show},
    target::{BULK_BYTES, BULK_PATH},
};
use bed::Bed;

/// Rounds, interleaved over the contenders.
const ROUNDS: usize = 5;
/// Seconds of one measurement.
const SECONDS: u64 = 3;
/// Connections at a time.
const CONNECTIONS: u32 = 64;
/// Connections at a time that carry bulk.
const BULK_CONNECTIONS: u32 = 4;

/// Someone who balances, or nobody.
struct Contender {
    name: &'static str,
    /// Puts it into the namespace, which stands on the bridge at [`BALANCER`].
    start: fn(&Netns, &Path) -> Result<Option<Process>>,
}

const DIRECT: &str = "direct";
const OURS: &str = "gatehouse";
/// A figure less what direct takes.
const OVER_DIRECT: &str = "_over_direct";

const CONTENDERS: [Contender; 5] = [
    Contender { name: DIRECT, start: |_, _| Ok(None) },
    Contender { name: OURS, start: ours::start },
    Contender { name: "nftables", start: peers::nftables },
    Contender { name: "haproxy", start: peers::haproxy },
    Contender { name: "nginx", start: peers::nginx },
];

/// What one round gave.
struct Sample {
    connections: Measured,
    requests: Measured,
    bulk: Measured,
}

struct Measured {
    load: Load,
    /// Of the whole machine, a request.
    cpu_us: f64,
}

type Part = fn(&Sample) -> &Measured;

/// Measures and records.
pub(crate) fn bench() -> Result<()> {
    let (_, wait) = interrupt::watch()?;
    let bed = Bed::new()?;
    let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for round in 1..=ROUNDS {
        for contender in &CONTENDERS {
            show(&format!("round {round} of {ROUNDS}: {}", contender.name));
            let sample = measure(&bed, contender, &wait).with_context(|| contender.name)?;
            samples.entry(contender.name).or_default().push(sample);
        }
    }
    report(&samples)?.record()
}

/// Runs ours, as a process that `bench` starts.
pub(crate) fn serve(arguments: &[&str]) -> Result<()> {
    ours::serve(Path::new(arguments.first().context("a directory is missing")?))
}

fn measure(bed: &Bed, contender: &Contender, wait: &Wait) -> Result<Sample> {
    let host = bed.host("balancer", &[BALANCER])?;
    let _process = (contender.start)(&host, bed.directory())?;
    let at = if contender.name == DIRECT { TARGETS[0] } else { SocketAddrV4::new(BALANCER, PORT) };
    let answers = || Ok(bed.connects(at).then_some(()));
    wait.until("answer", START, answers).with_context(|| bed.said())?;

    let drive = |headers: &[&str], path: &str, connections: u32, seconds: u64| {
        let mut wrk = bed.client().command("wrk");
        for header in headers {
            wrk.args(["--header", header]);
        }
        let since = busy::Since::now()?;
        let load = load::run(&mut wrk, &format!("http://{at}{path}"), connections, seconds, wait)?;
        let spent = since.spent_us()?;
        ensure!(
            load.errors == 0 && load.requests > 0,
            "of {} requests {} failed",
            load.requests,
            load.errors
        );
        #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
        let cpu_us = spent / load.requests as f64;
        Ok(Measured { load, cpu_us })
    };
    // Fills caches, and lets neighbours be found.
    drive(&[], "/", CONNECTIONS, 1)?;
    Ok(Sample {
        connections: drive(&["Connection: close"], "/", CONNECTIONS, SECONDS)?,
        requests: drive(&[], "/", CONNECTIONS, SECONDS)?,
        bulk: drive(&[], BULK_PATH, BULK_CONNECTIONS, SECONDS)?,
    })
}

fn report(samples: &BTreeMap<&str, Vec<Sample>>) -> Result<Report> {
    let mut report = Report::new("nlb");
    let direct = samples.get(DIRECT).context("nothing was asked directly")?;
    let mut add = |case: &str, name: &str, unit, better, has_goal: bool, value: &dyn Fn(&Sample) -> f64| {
        let medians = samples.iter().map(|(name, all)| ((*name).to_owned(), median(all.iter().map(value))));
        let mut peers: BTreeMap<String, f64> = medians.collect();
        let ours = peers.remove(OURS).unwrap_or(f64::NAN);
        if name.ends_with(OVER_DIRECT) {
            peers.remove(DIRECT);
        }
        let balancers = peers.iter().filter(|(name, _)| *name != DIRECT).map(|(_, value)| *value);
        // Ahead of all of them.
        let goal = match better {
            Better::Lower => balancers.fold(f64::INFINITY, f64::min),
            Better::Higher => balancers.fold(0.0, f64::max),
        };
        let metric = Metric { case: case.to_owned(), name: name.to_owned(), unit, better };
        report.add(metric, ours, peers, has_goal.then_some(goal));
    };
    let parts: [(&str, Part); 2] = [
        ("one request a connection", |sample| &sample.connections),
        ("small GET, kept connections", |sample| &sample.requests),
    ];
    for (case, part) in parts {
        let unit = "1/s";
        add(case, "requests_per_second", unit, Better::Higher, true, &|sample| {
            part(sample).load.requests_per_second
        });
        add(case, "p99", "ms", Better::Lower, true, &|sample| part(sample).load.p99_ms);
        let floor = median(direct.iter().map(|sample| part(sample).cpu_us));
        add(case, "cpu_per_request", "us", Better::Lower, false, &|sample| part(sample).cpu_us);
        add(case, &format!("cpu_per_request{OVER_DIRECT}"), "us", Better::Lower, true, &|sample| {
            part(sample).cpu_us - floor
        });
    }
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    let gigabits = BULK_BYTES as f64 * 8.0 / 1e9;
    // XDP turns off the offloads that bulk lives by.
    add("bulk, 1 MiB answers", "throughput", "Gb/s", Better::Higher, false, &|sample| {
        sample.bulk.load.requests_per_second * gigabits
    });
    Ok(report)
}

/// The load balancer.
const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 4);
/// Its listener's port.
const PORT: u16 = 80;
/// Two addresses of one process: more would only compete for the cores.
const TARGETS: [SocketAddrV4; 2] = [
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 1, 20), 8080),
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 1, 21), 8080),
];
/// Until the first answer: programs to be verified, neighbours to be found.
const START: Duration = Duration::from_secs(15);
