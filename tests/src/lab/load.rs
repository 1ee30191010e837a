//! wrk, and what it measured.

use std::{
    io::Read as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::wait::Wait;

/// What one run of wrk measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Requests that were answered.
    pub requests: u64,
    /// Answered requests by second.
    pub requests_per_second: f64,
    /// Half of the answers came within this, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 answers came within this, in milliseconds.
    pub p99_ms: f64,
    /// Connections and requests that failed, and answers that were not 2xx or 3xx.
    pub errors: u64,
}

/// Drives a URL over this many connections for some seconds. `wrk` is the command that starts it, wherever that is; it
/// may hold options already.
///
/// # Errors
/// When wrk cannot be run, or says what cannot be understood.
pub fn run(wrk: &mut Command, url: &str, connections: u32, seconds: u64, wait: &Wait) -> Result<Load> {
    let mut wrk = wrk
        .args(["--threads", "1", "--timeout", "5s", "--latency"])
        .args(["--connections", &connections.to_string(), "--duration", &format!("{seconds}s"), url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting wrk")?;
    let limit = Duration::from_secs(seconds + GRACE_SECONDS);
    // Its output is a page: it never fills the pipe.
    let status = wait.end_of("wrk", limit, &mut wrk)?;
    let (mut said, mut complained) = (String::new(), String::new());
    wrk.stdout.take().context("reading wrk")?.read_to_string(&mut said).context("reading wrk")?;
    wrk.stderr.take().context("reading wrk")?.read_to_string(&mut complained).context("reading wrk")?;
    ensure!(status.success(), "wrk {url}: {status}: {said}{complained}");
    parse(&said).with_context(|| format!("wrk said what was not expected:\n{said}"))
}

fn parse(text: &str) -> Option<Load> {
    let after = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let requests =
        text.lines().find_map(|line| line.trim().split_once(" requests in "))?.0.trim().parse().ok()?;
    let socket_errors: u64 = after("Socket errors:")
        .map_or(0, |counts| counts.split([',', ' ']).filter_map(|word| word.parse::<u64>().ok()).sum());
    let refused: u64 = after("Non-2xx or 3xx responses:").map_or(Some(0), |count| count.parse().ok())?;
    Some(Load {
        requests,
        requests_per_second: after("Requests/sec:")?.parse().ok()?,
        p50_ms: milliseconds(after("50%")?)?,
        p99_ms: milliseconds(after("99%")?)?,
        errors: socket_errors + refused,
    })
}

/// `1.23ms`, `456.00us`, `1.05s` or `2.00m`.
fn milliseconds(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// Enough to keep two cores busy without a queue before every worker.
pub const CONNECTIONS: u32 = 32;
/// What wrk may take beside its duration.
const GRACE_SECONDS: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "Running 10s test @ https://x/\n  1 threads and 32 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.05ms  456.00us  20.00ms   90.00%\n    Req/Sec    30.00k     1.00k   32.00k    70.00%\n  Latency Distribution\n     50%  980.00us\n     75%    1.20ms\n     90%    1.50ms\n     99%    2.50ms\n  300000 requests in 10.00s, 40.00MB read\nRequests/sec:  30000.12\nTransfer/sec:      4.00MB\n";

    #[test]
    fn a_page_of_wrk_is_read() {
        let expected =
            Load { requests: 300_000, requests_per_second: 30_000.12, p50_ms: 0.98, p99_ms: 2.5, errors: 0 };
        assert_eq!(parse(PAGE), Some(expected));
    }

    #[test]
    fn every_kind_of_failure_counts() {
        let failed =
            "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 5\n";
        let page = PAGE.replace("Requests/sec:", &format!("{failed}Requests/sec:"));
        assert_eq!(parse(&page).unwrap().errors, 15);
    }

    #[test]
    fn another_page_is_not_understood() {
        assert_eq!(parse("unable to connect"), None);
    }
}
