//! The host role: makes the namespaces and interfaces of the slice, then runs its tasks in them.
//!
//! What did not succeed is tried again; a slice is acknowledged once all of it stands.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::privilege;
use super::subscription::{Subscription, subscribe};
use crate::config::{Config, NetworkConfig};
use crate::model::id::InstanceId;
use crate::network::{Uplink, Virtual};
use crate::snapshot::{
    envelope::{Received, RoleId},
    host::HostSlice,
    report::Report,
};
use crate::tasks::{Driver, DriverConfig};

/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the role until SIGTERM. Namespaces and tasks outlive it; the next start adopts them.
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
    let tasks = Driver::new(driver, reports.clone())?;
    let mut host = Host { network: network(config), tasks, reports, standing: BTreeSet::new() };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut retry = false;
    loop {
        tokio::select! {
            Ok(()) = slices.changed() => {}
            () = tokio::time::sleep(RETRY), if retry => {}
            _ = terminate.recv() => break,
        }
        let received = slices.borrow_and_update().clone();
        if let Some(received) = received {
            retry = !host.apply(&received).await;
        }
    }
    Ok(())
}

struct Host {
    network: Virtual,
    tasks: Driver,
    reports: mpsc::Sender<Report>,
    standing: BTreeSet<InstanceId>,
}

impl Host {
    /// Answers whether all of it stands.
    async fn apply(&mut self, received: &Received<HostSlice>) -> bool {
        let slice = &received.slice;
        let applied = match tokio::task::block_in_place(|| self.network.apply(slice)) {
            Ok(applied) => applied,
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "networks of this host cannot be seen");
                return false;
            }
        };
        for conflict in &applied.conflicts {
            tracing::error!(%conflict, "network cannot be made");
        }
        self.standing.retain(|instance| slice.instances.contains_key(instance));
        for (id, instance) in &slice.instances {
            if applied.stands(&instance.namespace) && self.standing.insert(id.clone()) {
                self.report(Report::InstanceRunning { instance: id.clone() }).await;
            }
        }
        self.tasks.apply(slice);
        let whole = applied.failures.is_empty();
        if whole {
            self.report(Report::Applied { generation: received.generation }).await;
        }
        whole
    }

    async fn report(&self, report: Report) {
        // The subscription only ends with the role.
        let _ = self.reports.send(report).await;
    }
}

fn network(config: &Config) -> Virtual {
    let NetworkConfig::Virtual { uplink } = &config.network;
    let uplink = uplink.as_ref().map(|uplink| Uplink {
        namespace: uplink.namespace.clone(),
        bridge: uplink.bridge.clone(),
        cidr: uplink.cidr,
        first_host: uplink.first_host,
        router: uplink.router,
        dns_servers: config.node.dns_forward.clone(),
    });
    Virtual::new(config.name.clone(), uplink)
}
