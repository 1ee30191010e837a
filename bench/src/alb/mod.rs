//! The application load balancer beside nginx, HAProxy and a bare hyper proxy, all doing the same.
//!
//! Each proxy is one process on one core; the load generator and the target share another. A small GET on 64 kept
//! connections: the work is the proxy's own, not the body's. All add X-Forwarded-For, -Proto, -Port and a trace id, keep
//! connections to the target, and write no log.

/// A process under measure.
mod proxy;
/// nginx and HAProxy.
mod peers;
/// A bare hyper proxy: the floor.
mod floor;
/// Ours.
mod ours;

use std::{collections::BTreeMap, net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use gatehouse_tests::lab::{load, wait::Wait};

use crate::{
    interrupt,
    process::{Process, own, pinned},
    record::{Better, Metric, Report, median, show},
};
use proxy::Proxy;

/// Rounds, interleaved over the proxies.
const ROUNDS: usize = 7;
/// Seconds of one measurement.
const SECONDS: u64 = 2;
/// Connections of clients.
const CONNECTIONS: u32 = 64;
const OURS: &str = "gatehouse";
const FLOOR: &str = "hyper";

/// What one measurement gave.
#[derive(Debug, Clone, Copy)]
struct Sample {
    cpu_us: f64,
    requests_per_s: f64,
    p99_ms: f64,
}

/// Measures and records.
pub(crate) fn bench() -> Result<()> {
    let (_, wait) = interrupt::watch()?;
    let target = Process::start(&mut pinned(own("target")?.arg(TARGET), LOAD_CORE))?;
    let address: SocketAddr = TARGET.parse()?;
    let mut proxies: Vec<Proxy> = Vec::new();
    proxies.push(Proxy::start_own(OURS, "alb", "127.0.0.1:18081".parse()?, address)?);
    proxies.push(Proxy::start_own(FLOOR, "floor", "127.0.0.1:18082".parse()?, address)?);
    for peer in [
        peers::nginx("127.0.0.1:18083".parse()?, address),
        peers::haproxy("127.0.0.1:18084".parse()?, address),
    ] {
        match peer {
            Ok(proxy) => proxies.push(proxy),
            Err(error) => show(&format!("left out: {error:#}")),
        }
    }
    for proxy in &proxies {
        proxy.wait(&wait)?;
        // Fills pools and caches.
        measure(proxy, 1, &wait)?;
    }
    let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for proxy in &proxies {
            samples.entry(proxy.name).or_default().push(measure(proxy, SECONDS, &wait)?);
        }
    }
    drop(target);
    report(&samples).record()
}

fn report(samples: &BTreeMap<&str, Vec<Sample>>) -> Report {
    let mut report = Report::new("alb");
    let mut add = |name: &str, unit, better, value: fn(&Sample) -> f64, goal: fn(&Peers) -> f64| {
        let medians = samples.iter().map(|(name, all)| ((*name).to_owned(), median(all.iter().map(value))));
        let mut peers: Peers = medians.collect();
        let ours = peers.remove(OURS).unwrap_or(f64::NAN);
        let case = format!("GET 48 B, {CONNECTIONS} connections");
        let goal = goal(&peers);
        report.add(Metric { case, name: name.to_owned(), unit, better }, ours, peers, Some(goal));
    };
    add("cpu_per_request", "us", Better::Lower, |sample| sample.cpu_us, cpu_goal);
    add("requests_per_second", "1/s", Better::Higher, |sample| sample.requests_per_s, requests_goal);
    add("p99", "ms", Better::Lower, |sample| sample.p99_ms, p99_goal);
    report
}

/// Medians by name.
type Peers = BTreeMap<String, f64>;

/// SPECIFICATION.md: within a tenth of the floor.
fn cpu_goal(peers: &Peers) -> f64 {
    1.1 * peers.get(FLOOR).copied().unwrap_or(f64::NAN)
}

/// SPECIFICATION.md: as many as either product.
fn requests_goal(peers: &Peers) -> f64 {
    products(peers).fold(0.0, f64::max)
}

/// SPECIFICATION.md: as soon as either product.
fn p99_goal(peers: &Peers) -> f64 {
    products(peers).fold(f64::INFINITY, f64::min)
}

/// What people run, not what bounds it.
fn products(peers: &Peers) -> impl Iterator<Item = f64> {
    peers.iter().filter(|(name, _)| *name != FLOOR).map(|(_, value)| *value)
}

/// Runs one of the processes that `bench` starts.
pub(crate) fn serve(part: &str, arguments: &[&str]) -> Result<()> {
    let address = |index: usize| -> Result<SocketAddr> {
        arguments.get(index).context("an address is missing")?.parse().context("an address")
    };
    match part {
        "alb" => ours::serve(address(0)?, address(1)?),
        "floor" => floor::serve(address(0)?, address(1)?),
        _ => bail!("no such part: {part}"),
    }
}

/// Drives one proxy for `seconds`.
fn measure(proxy: &Proxy, seconds: u64, wait: &Wait) -> Result<Sample> {
    let before = proxy.cpu()?;
    let mut wrk = pinned(&Command::new("wrk"), LOAD_CORE);
    let load = load::run(&mut wrk, &format!("http://{}/", proxy.address), CONNECTIONS, seconds, wait)?;
    let cpu = proxy.cpu()? - before;
    ensure!(load.errors == 0, "{} failed {} requests", proxy.name, load.errors);
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let requests = load.requests as f64;
    Ok(Sample {
        cpu_us: cpu.as_secs_f64() * 1e6 / requests,
        requests_per_s: load.requests_per_second,
        p99_ms: load.p99_ms,
    })
}

/// The core of the proxies.
const PROXY_CORE: &str = "0";
/// The core of the load generator and the target.
const LOAD_CORE: &str = "1";
const TARGET: &str = "127.0.0.1:18080";
