//! The host role: makes the networks that the slice asks for, or puts addresses on the host's own interfaces, then runs
//! the slice's tasks.
//!
//! What did not succeed is tried again; a slice is acknowledged once all of it stands.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::subscription::{Subscription, subscribe};
use super::{notify, privilege};
use crate::config::{Config, NetworkConfig};
use crate::model::id::{InstanceId, InterfaceId};
use crate::network::{OnHost, Uplink, Virtual};
use crate::snapshot::{
    envelope::{Received, RoleId},
    host::HostSlice,
    report::{AddressOutcome, Report},
};
use crate::tasks::{Driver, DriverConfig};

/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// The host's interfaces are looked at this often: others change them as they like.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Runs the role until SIGTERM. Namespaces, addresses and tasks outlive it; the next start adopts them.
///
/// # Errors
/// When its directories or signals cannot be had.
pub fn run(config: Config) -> Result<(), Box<dyn Error>> {
    privilege::die_with_supervisor()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(&config))
}

async fn serve(config: &Config) -> Result<(), Box<dyn Error>> {
    let Subscription { mut slices, reports } = subscribe::<HostSlice>(config, RoleId::Host);
    let driver = DriverConfig {
        appliance: config.name.clone(),
        directory: config.role_dir(&RoleId::Host).join("tasks"),
        images: config.tasks.images.clone(),
        uid: config.tasks_uid(),
    };
    // On the host's own interfaces there are no machines, and so no tasks.
    let tasks = match &config.network {
        NetworkConfig::Virtual { .. } => Some(Driver::new(driver, reports.clone())?),
        NetworkConfig::Host { .. } => None,
    };
    let mut host = Host { network: Network::of(config), tasks, reports };
    let mut terminate = signal(SignalKind::terminate())?;
    notify::ready();
    let mut next = None;
    loop {
        let mut is_due = true;
        tokio::select! {
            Ok(()) = slices.changed() => {}
            () = until(next) => {}
            () = until(host.network.announcement()) => is_due = false,
            _ = terminate.recv() => break,
        }
        if !is_due {
            host.network.announce();
            continue;
        }
        let received = slices.borrow_and_update().clone();
        if let Some(received) = received {
            next = host.apply(&received).await.map(|pause| Instant::now() + pause);
        }
    }
    Ok(())
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

struct Host {
    network: Network,
    tasks: Option<Driver>,
    reports: mpsc::Sender<Report>,
}

/// The driver, and what of its work control was told.
enum Network {
    Virtual { driver: Virtual, standing: BTreeSet<InstanceId> },
    Host { driver: OnHost, interfaces: Option<Report>, addresses: BTreeMap<(InterfaceId, IpAddr), Report> },
}

/// What became of a slice's network.
#[derive(Default)]
struct Outcome {
    reports: Vec<Report>,
    /// Whether all of it stands, or what does not was reported.
    is_whole: bool,
    /// When to look again although no slice came.
    again: Option<Duration>,
}

impl Host {
    /// Answers when it is to be called again, whatever comes.
    async fn apply(&mut self, received: &Received<HostSlice>) -> Option<Duration> {
        let slice = &received.slice;
        let outcome = tokio::task::block_in_place(|| self.network.apply(slice));
        for report in outcome.reports {
            self.report(report).await;
        }
        if let Some(tasks) = &mut self.tasks {
            tasks.apply(slice);
        }
        if outcome.is_whole {
            self.report(Report::Applied { generation: received.generation }).await;
        }
        outcome.again
    }

    async fn report(&self, report: Report) {
        // The subscription only ends with the role.
        let _ = self.reports.send(report).await;
    }
}

impl Network {
    fn of(config: &Config) -> Self {
        match &config.network {
            NetworkConfig::Virtual { uplink } => {
                let uplink = uplink.as_ref().map(|uplink| Uplink {
                    namespace: uplink.namespace.clone(),
                    bridge: uplink.bridge.clone(),
                    cidr: uplink.cidr,
                    first_host: uplink.first_host,
                    router: uplink.router,
                    dns_servers: config.node.dns_forward.clone(),
                });
                let driver = Virtual::new(config.name.clone(), uplink);
                Self::Virtual { driver, standing: BTreeSet::new() }
            }
            NetworkConfig::Host { interfaces } => {
                let driver = OnHost::new(interfaces, &config.addresses_file());
                Self::Host { driver, interfaces: None, addresses: BTreeMap::new() }
            }
        }
    }

    fn apply(&mut self, slice: &HostSlice) -> Outcome {
        match self {
            Self::Virtual { driver, standing } => make_networks(driver, standing, slice),
            Self::Host { driver, interfaces, addresses } => {
                place_addresses(driver, interfaces, addresses, slice)
            }
        }
    }

    /// When an address is to be announced once more.
    fn announcement(&self) -> Option<Instant> {
        match self {
            Self::Virtual { .. } => None,
            Self::Host { driver, .. } => driver.due(),
        }
    }

    fn announce(&mut self) {
        if let Self::Host { driver, .. } = self {
            tokio::task::block_in_place(|| driver.announce_due(Instant::now()));
        }
    }
}

fn make_networks(driver: &mut Virtual, standing: &mut BTreeSet<InstanceId>, slice: &HostSlice) -> Outcome {
    let applied = match driver.apply(slice) {
        Ok(applied) => applied,
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "networks of this host cannot be seen");
            return Outcome { again: Some(RETRY), ..Outcome::default() };
        }
    };
    for conflict in &applied.conflicts {
        tracing::error!(%conflict, "network cannot be made");
    }
    standing.retain(|instance| slice.instances.contains_key(instance));
    let mut outcome = Outcome { is_whole: applied.failures.is_empty(), ..Outcome::default() };
    for (id, instance) in &slice.instances {
        if applied.stands(&instance.namespace) && standing.insert(id.clone()) {
            outcome.reports.push(Report::InstanceRunning { instance: id.clone() });
        }
    }
    outcome.again = (!outcome.is_whole).then_some(RETRY);
    outcome
}

fn place_addresses(
    driver: &mut OnHost,
    interfaces: &mut Option<Report>,
    addresses: &mut BTreeMap<(InterfaceId, IpAddr), Report>,
    slice: &HostSlice,
) -> Outcome {
    let placed = match driver.apply(slice) {
        Ok(placed) => placed,
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "interfaces of this host cannot be seen");
            return Outcome { again: Some(RETRY), ..Outcome::default() };
        }
    };
    for error in &placed.failures {
        tracing::error!(error = error as &dyn Error, "an address is not as it must be");
    }
    let mut outcome = Outcome { is_whole: placed.failures.is_empty(), ..Outcome::default() };
    let found = Some(Report::HostInterfaces { interfaces: placed.interfaces });
    if *interfaces != found {
        interfaces.clone_from(&found);
        outcome.reports.extend(found);
    }
    addresses.retain(|(interface, address), _| {
        slice.interfaces.get(interface).is_some_and(|wanted| wanted.has(*address))
    });
    let is_refused = placed.outcomes.values().any(|came| matches!(came, AddressOutcome::Refused { .. }));
    for (subject, came) in placed.outcomes {
        let (interface, address) = subject.clone();
        let report = Report::Address { interface, address, outcome: came };
        if addresses.get(&subject) != Some(&report) {
            tracing::info!(interface = %subject.0, %address, ?report, "address");
            addresses.insert(subject, report.clone());
            outcome.reports.push(report);
        }
    }
    // An interface that is down may come up any moment.
    outcome.again = Some(if outcome.is_whole && !is_refused { LOOK_AGAIN } else { RETRY });
    outcome
}
