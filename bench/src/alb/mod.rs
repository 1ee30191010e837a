//! The application load balancer beside nginx, HAProxy and a bare hyper proxy, all doing the same.
//!
//! Each proxy is one process on one core; the load generator and the target share another. A small GET on 64 kept
//! connections: the work is the proxy's own, not the body's. All add X-Forwarded-For, -Proto, -Port and a trace id, keep
//! connections to the target, and write no log.

/// Processes under measure: starting them, their CPU time.
mod process;
/// nginx and HAProxy.
mod peers;
/// A bare hyper proxy: the floor.
mod floor;
/// Ours.
mod ours;
/// The target.
mod target;

use std::{collections::BTreeMap, net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::record::{self, Line};
use process::Proxy;

/// Rounds, interleaved over the proxies.
const ROUNDS: usize = 7;
/// Seconds of one measurement.
const SECONDS: u32 = 2;
/// Connections of clients.
const CONNECTIONS: u32 = 64;
const OURS: &str = "gatehouse";

/// What one measurement gave.
#[derive(Debug, Clone, Copy)]
struct Sample {
    cpu_us: f64,
    requests_per_s: f64,
    p99_ms: f64,
}

/// Measures and records.
pub(crate) fn bench() -> Result<()> {
    let target = process::own("target", &["127.0.0.1:18080"], LOAD_CORE)?;
    let address: SocketAddr = "127.0.0.1:18080".parse()?;
    let mut proxies: Vec<Proxy> = Vec::new();
    proxies.push(process::own_proxy(OURS, "alb", "127.0.0.1:18081".parse()?, address)?);
    proxies.push(process::own_proxy("hyper", "floor", "127.0.0.1:18082".parse()?, address)?);
    for peer in [
        peers::nginx("127.0.0.1:18083".parse()?, address),
        peers::haproxy("127.0.0.1:18084".parse()?, address),
    ] {
        match peer {
            Ok(proxy) => proxies.push(proxy),
            Err(error) => record::show(&format!("left out: {error:#}")),
        }
    }
    for proxy in &proxies {
        proxy.wait()?;
        // Fills pools and caches.
        measure(proxy, 1)?;
    }
    let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for proxy in &proxies {
            samples.entry(proxy.name).or_default().push(measure(proxy, SECONDS)?);
        }
    }
    drop(target);
    let medians = |value: fn(&Sample) -> f64| -> BTreeMap<String, f64> {
        samples
            .iter()
            .map(|(name, samples)| {
                ((*name).to_owned(), record::median(&mut samples.iter().map(value).collect::<Vec<_>>()))
            })
            .collect()
    };
    let line = |metric, unit, better, goal, value: fn(&Sample) -> f64| {
        let mut peers = medians(value);
        let ours = peers.remove(OURS).unwrap_or(f64::NAN);
        let case = format!("GET 48 B, {CONNECTIONS} connections");
        let (machine, commit) = (record::machine(), record::commit());
        Line { bench: "alb", case, metric, unit, better, ours, peers, goal, machine, commit }
    };
    record::record(
        "alb",
        &[
            line("cpu_per_request", "us", "lower", CPU_GOAL, |sample| sample.cpu_us),
            line("requests_per_second", "1/s", "higher", REQUESTS_GOAL, |sample| sample.requests_per_s),
            line("p99", "ms", "lower", P99_GOAL, |sample| sample.p99_ms),
        ],
    )
}

/// Runs one of the processes that `bench` starts.
pub(crate) fn serve(part: &str, arguments: &[&str]) -> Result<()> {
    let address = |index: usize| -> Result<SocketAddr> {
        arguments.get(index).context("an address is missing")?.parse().context("an address")
    };
    match part {
        "target" => target::serve(address(0)?),
        "alb" => ours::serve(address(0)?, address(1)?),
        "floor" => floor::serve(address(0)?, address(1)?),
        _ => bail!("no such part: {part}"),
    }
}

/// Drives one proxy for `seconds`.
fn measure(proxy: &Proxy, seconds: u32) -> Result<Sample> {
    let before = proxy.cpu()?;
    let output = Command::new("taskset")
        .args(["-c", LOAD_CORE, "wrk", "-t1", "--latency"])
        .arg(format!("-c{CONNECTIONS}"))
        .arg(format!("-d{seconds}s"))
        .arg(format!("http://{}/", proxy.address))
        .output()
        .context("starting wrk")?;
    let cpu = proxy.cpu()? - before;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {text}");
    ensure!(
        !text.contains("Non-2xx") && !text.contains("Socket errors"),
        "{} failed requests: {text}",
        proxy.name
    );
    let field =
        |start: &str| text.lines().map(str::trim).find_map(|line| line.strip_prefix(start)).map(str::trim);
    let requests: f64 = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .context("wrk said no number of requests")?;
    let requests_per_s = field("Requests/sec:").and_then(|text| text.parse().ok()).context("no rate")?;
    let p99_ms = field("99%").and_then(milliseconds).context("no 99th percentile")?;
    Ok(Sample { cpu_us: cpu.as_secs_f64() * 1e6 / requests, requests_per_s, p99_ms })
}

/// wrk's `1.23ms`, `456.00us` or `1.02s`.
fn milliseconds(text: &str) -> Option<f64> {
    let (number, factor) = if let Some(number) = text.strip_suffix("us") {
        (number, 0.001)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1.0)
    } else {
        (text.strip_suffix('s')?, 1000.0)
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// The core of the proxies.
const PROXY_CORE: &str = "0";
/// The core of the load generator and the target.
const LOAD_CORE: &str = "1";
/// As SPECIFICATION.md promises on the machine it names: not above nginx's.
const CPU_GOAL: f64 = 12.0;
const REQUESTS_GOAL: f64 = 65_000.0;
const P99_GOAL: f64 = 3.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_times_are_read_in_their_units() {
        assert_eq!(milliseconds("1.50ms"), Some(1.5));
        assert_eq!(milliseconds("250.00us"), Some(0.25));
        assert_eq!(milliseconds("1.02s"), Some(1020.0));
        assert_eq!(milliseconds("fast"), None);
    }
}
