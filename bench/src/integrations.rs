//! The three integrations beside a direct request, in the lab of `cargo xtask run`.
//!
//! wrk drives each integration from the client's machine: TLS to the gateway, over the link, to three tasks. Direct is the
//! same wrk from the link's side of the network straight to one of the tasks, in plain HTTP: what is left when everything
//! of Gatehouse's is gone. All share the machine, so that what a request costs the whole of it is the figure to compare;
//! the packets that XDP moves show nowhere else.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use gatehouse_tests::lab::{
    Lab, Options,
    cpu::CpuByRole,
    load::{self, CONNECTIONS, Load},
    netns::command_in,
    wait::Wait,
};
use serde_json::{Value, json};

use crate::{
    busy, interrupt,
    record::{Better, Metric, Report, median, show},
};

/// Rounds, interleaved over the cases.
const ROUNDS: usize = 5;
/// Seconds of one measurement.
const SECONDS: u64 = 4;
const DIRECT: &str = "direct";
/// In the order that a request meets them.
const ROLES: [&str; 4] = ["gateway", "link", "node", TASK];
const TASK: &str = "task";
/// Before the name of a role.
const BY_ROLE: &str = "cpu_per_request, ";

/// What one measurement gave.
struct Sample {
    load: Load,
    /// Of the whole machine, wrk included, a request.
    cpu_us: f64,
    /// Of each role's processes, a request.
    cpu_by_role: BTreeMap<String, f64>,
}

/// Measures and records.
pub(crate) fn bench() -> Result<()> {
    let (stop, wait) = interrupt::watch()?;
    let mut lab = Lab::start(&Options { stop: Some(stop), ..Options::default() })?;
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(EXAMPLE);
    lab.deploy(&template, &show)?;
    let task = task(&lab)?;
    let link = lab.ready().namespaces.link.context("the lab has no link")?;

    let mut cases: Vec<(&str, &str)> =
        lab.urls().iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();
    cases.push((DIRECT, &task));
    let measure = |name: &str, url: &str, seconds: u64| {
        let wrk = if name == DIRECT { command_in(&link, "wrk") } else { lab.client().command("wrk") };
        let sample = measure(&lab, wrk, url, seconds, &wait)?;
        ensure!(sample.load.errors == 0, "{name} failed {} requests", sample.load.errors);
        Ok(sample)
    };
    for (name, url) in &cases {
        // Fills pools and caches.
        measure(name, url, 1)?;
    }
    let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (name, url) in &cases {
            samples.entry(name).or_default().push(measure(name, url, SECONDS)?);
        }
    }
    report(&samples)?.record()
}

fn measure(lab: &Lab, mut wrk: Command, url: &str, seconds: u64, wait: &Wait) -> Result<Sample> {
    let (roles, machine) = (CpuByRole::now(lab), busy::Since::now()?);
    let load = load::run(&mut wrk, url, CONNECTIONS, seconds, wait)?;
    let (machine, roles) = (machine.spent_us()?, CpuByRole::now(lab).since(&roles));
    #[expect(clippy::cast_precision_loss, reason = "some million")]
    let of_each = |spent: u64| spent as f64 / load.requests.max(1) as f64;
    let by_role = roles.by_role();
    let cpu_by_role = by_role.iter().map(|(role, spent)| ((*role).to_owned(), of_each(*spent))).collect();
    #[expect(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let cpu_us = machine / load.requests.max(1) as f64;
    Ok(Sample { cpu_us, cpu_by_role, load })
}

/// The URL of one of the service's tasks, by the instance that it is in Cloud Map.
fn task(lab: &Lab) -> Result<String> {
    let asked = json!({"NamespaceName": "gatehouse.internal", "ServiceName": "whoami"});
    let found = lab.aws()?.call("servicediscovery", "DiscoverInstances", asked)?;
    let attribute = |name: &str| {
        let value = found.pointer(&format!("/Instances/0/Attributes/{name}")).and_then(Value::as_str);
        value.with_context(|| format!("no instance has {name}: {found}"))
    };
    Ok(format!("http://{}:{}/", attribute("AWS_INSTANCE_IPV4")?, attribute("AWS_INSTANCE_PORT")?))
}

fn report(samples: &BTreeMap<&str, Vec<Sample>>) -> Result<Report> {
    let mut report = Report::new("integrations");
    let direct = samples.get(DIRECT).context("nothing was asked directly")?;
    for (case, samples) in samples.iter().filter(|(case, _)| **case != DIRECT) {
        let mut add = |name: &str, unit, better, value: &dyn Fn(&Sample) -> f64| {
            let mut peers = BTreeMap::from([(DIRECT.to_owned(), median(direct.iter().map(value)))]);
            // Nothing passes the other roles.
            peers.retain(|_, _| !name.starts_with(BY_ROLE) || name.ends_with(TASK));
            let metric = Metric { case: (*case).to_owned(), name: name.to_owned(), unit, better };
            report.add(metric, median(samples.iter().map(value)), peers, None);
        };
        add("requests_per_second", "1/s", Better::Higher, &|sample| sample.load.requests_per_second);
        add("p50", "ms", Better::Lower, &|sample| sample.load.p50_ms);
        add("p99", "ms", Better::Lower, &|sample| sample.load.p99_ms);
        add("cpu_per_request", "us", Better::Lower, &|sample| sample.cpu_us);
        for role in ROLES {
            add(&format!("{BY_ROLE}{role}"), "us", Better::Lower, &|sample| {
                sample.cpu_by_role.get(role).copied().unwrap_or(0.0)
            });
        }
    }
    Ok(report)
}

const EXAMPLE: &str = "examples/private-integrations.yaml";
