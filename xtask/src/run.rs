//! `cargo xtask run`: the whole path on this machine, from nothing to three URLs that answer.
//!
//! After `build`. Makes a lab, deploys the example, says what to try, and serves until told to stop; with `--load`,
//! drives each integration instead and prints what it measured. Dropping the lab removes everything.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use gatehouse_tests::lab::{Lab, Options, cpu::CpuByRole, load::Load, wait::Wait};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    build::build,
    setup::clients,
    shell::{is_root, root, say, show, target},
};

/// Builds unless a `binary` is given, makes the lab, deploys the example; then serves until a signal, or drives each
/// integration for `load` seconds.
///
/// # Errors
/// Without root, when something does not build, start, deploy or answer, and when a request under load failed.
pub(crate) fn run(load: Option<u64>, ready_file: Option<&Path>, binary: Option<PathBuf>) -> Result<()> {
    ensure!(
        is_root(),
        "the lab is made of network namespaces and kernel programs, and installs what is missing: run as root"
    );
    let binary = match binary {
        Some(binary) => binary,
        None => {
            build()?;
            target().join("release/gatehouse")
        }
    };
    let stop = stop_on_signals()?;
    let wait = Wait::new(Some(stop.clone()));
    let options =
        Options { binary: Some(binary), control_port: usual_port(), stop: Some(stop), ..Options::default() };
    match make_and_use(&options, load, ready_file, &wait) {
        // Whoever stopped it knows why it did not come to its end.
        Err(_) if wait.is_stopped() => anyhow::bail!("interrupted; nothing is left behind"),
        outcome => outcome,
    }
}

fn make_and_use(options: &Options, load: Option<u64>, ready_file: Option<&Path>, wait: &Wait) -> Result<()> {
    say("making the lab: a client, an internet, a gateway's machine, and the appliance");
    let mut lab = Lab::start(options)?;
    say(&format!("control serves at {}; deploying {EXAMPLE}", lab.control().endpoint));
    lab.deploy(&root().join(EXAMPLE), &|line| say(line))?;
    let _ready = ready_file.map(|path| ReadyFile::write(path, &lab)).transpose()?;
    match load {
        Some(seconds) => drive(&lab, seconds),
        None => {
            show(&what_to_try(&lab));
            serve(&mut lab, wait)
        }
    }
}

fn serve(lab: &mut Lab, wait: &Wait) -> Result<()> {
    // A year: until somebody stops it.
    let ended =
        wait.until("end of the appliance", Duration::from_secs(31_536_000), || lab.appliance().ended());
    match ended {
        Err(_) if wait.is_stopped() => {
            say("stopping; everything the lab made goes with it");
            Ok(())
        }
        Err(error) => Err(error),
        Ok(status) => {
            anyhow::bail!("the appliance ended by itself: {status}\n{}", lab.appliance().log_tail())
        }
    }
}

fn drive(lab: &Lab, seconds: u64) -> Result<()> {
    let mut rows = Vec::new();
    for (integration, url) in lab.urls() {
        say(&format!("driving {integration} for {seconds}s: {url}"));
        let (load, cpu) = lab.load(url, seconds)?;
        rows.push((integration.clone(), load, cpu));
    }
    show(&table(&rows));
    let failed: Vec<&str> = rows
        .iter()
        .filter(|(_, load, _)| load.errors > 0 || load.requests == 0)
        .map(|(integration, _, _)| integration.as_str())
        .collect();
    ensure!(failed.is_empty(), "requests failed: {}", failed.join(", "));
    Ok(())
}

/// One line an integration; the processor's time in microseconds a request.
fn table(rows: &[(String, Load, CpuByRole)]) -> String {
    let mut text =
        format!("{:<12}{:>12}{:>10}{:>10}{:>9}", "integration", "requests/s", "p50 ms", "p99 ms", "errors");
    for role in ROLES {
        text.push_str(&format!("{:>11}", format!("{role} µs")));
    }
    for (integration, load, cpu) in rows {
        let spent = cpu.by_role();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{integration:<12}{:>12.1}{:>10.2}{:>10.2}{:>9}",
            load.requests_per_second, load.p50_ms, load.p99_ms, load.errors
        );
        for role in ROLES {
            let _ = write!(text, "{:>11.1}", per_request(&spent, role, load.requests));
        }
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "a figure of three digits for people")]
fn per_request(spent: &BTreeMap<&str, u64>, role: &str, requests: u64) -> f64 {
    spent.get(role).copied().unwrap_or(0) as f64 / requests.max(1) as f64
}

fn what_to_try(lab: &Lab) -> String {
    let control = lab.control();
    let client = lab.internet().client().name();
    let ca = control.ca_file.display();
    let mut text = "\nGatehouse serves. The three integrations, from the client's machine:\n".to_owned();
    for (integration, url) in lab.urls() {
        let _ = writeln!(text, "  # {integration}\n  ip netns exec {client} curl --cacert {ca} {url}");
    }
    if let Some(machine) = lab.ready().namespaces.instances.first() {
        let _ = write!(
            text,
            "
Names of the private network, from one of its machines:
  ip netns exec {machine} dig @10.0.0.2 whoami.gatehouse.internal SRV
"
        );
    }
    let aws =
        Some(clients().join("bin/aws")).filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("aws"));
    let (aws, region) = (aws.display(), &control.region);
    let _ = write!(
        text,
        "
AWS's own client, from this machine:
  export AWS_ENDPOINT_URL={} AWS_CA_BUNDLE={ca} AWS_REGION={region} AWS_DEFAULT_REGION={region}
  export AWS_SHARED_CREDENTIALS_FILE={} AWS_DISABLE_HOST_PREFIX_INJECTION=true
  {aws} elbv2 describe-load-balancers
  {aws} apigatewayv2 get-apis
  {aws} servicediscovery list-services
  {aws} ecs list-services --cluster $({aws} ecs list-clusters --query 'clusterArns[0]' --output text)

What is made of what:
  ip netns list | grep {}
  less {}/gatehouse.log

Ctrl-C stops it and leaves nothing behind.",
        control.endpoint,
        control.credentials_file.display(),
        lab.name().prefix(),
        lab.directory().display(),
    );
    text
}

/// The ready file: there while everything serves.
struct ReadyFile(PathBuf);

impl ReadyFile {
    fn write(path: &Path, lab: &Lab) -> Result<Self> {
        let text = serde_json::to_string(&lab.ready()).context("spelling the ready file")?;
        // Whole or not at all, for whoever waits for it.
        let mut draft = path.as_os_str().to_owned();
        draft.push(".draft");
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, path))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Set by Ctrl-C, SIGTERM and a terminal that goes away. Before this, the usual happens: nothing was made yet.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).context("listening for signals")?;
    }
    Ok(stop)
}

/// The port that people know from other AWS endpoints on a machine, if nobody has it.
fn usual_port() -> Option<u16> {
    TcpListener::bind(("127.0.0.1", USUAL_PORT)).is_ok().then_some(USUAL_PORT)
}

const USUAL_PORT: u16 = 4566;
const EXAMPLE: &str = "examples/private-integrations.yaml";
/// In the order that a request meets them; `host` and `control` should show nothing.
const ROLES: [&str; 6] = ["gateway", "link", "node", "task", "host", "control"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_table_lines_up_with_its_head() {
        let load = Load { requests: 10, requests_per_second: 1.0, p50_ms: 0.5, p99_ms: 2.0, errors: 0 };
        let text = table(&[("alb".to_owned(), load, CpuByRole::default())]);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.len(), 2);
        assert_eq!(widths[0], widths[1], "{text}");
    }

    #[test]
    fn a_role_without_processes_costs_nothing() {
        assert!(per_request(&BTreeMap::new(), "link", 0).abs() < f64::EPSILON);
        assert!((per_request(&BTreeMap::from([("link", 50)]), "link", 10) - 5.0).abs() < f64::EPSILON);
    }
}
