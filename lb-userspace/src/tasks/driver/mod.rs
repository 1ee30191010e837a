//! The process driver: runs the tasks that the host's slice names, as processes in their instance's network namespace.
//!
//! Before it: the scheduler placed a task, and `network` made the instance's namespace. After it: the host's reports
//! tell the scheduler the ports that were picked, and when a task has ended.
//!
//! Each task has a keeper, an async task that starts its containers, waits until they listen, watches them, and stops
//! them: SIGTERM, the container's stop timeout, SIGKILL to the whole cgroup. Tasks outlive the driver: the next one
//! finds them by their records and goes on watching. Nothing here decides what should run.
//!
//! Differences from ECS's agent: an image is a program that the boot configuration names, not a download; entryPoint
//! and command follow its arguments. A task is RUNNING once its ports accept connections, or after 10 s if they do not:
//! ECS says so as soon as the process exists, and sends traffic to ports on which nobody listens yet.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::model::{
    id::{Arn, InstanceId},
    network::InterfaceOwner,
    task::TaskStatus,
};
use crate::snapshot::{
    host::{HostInterface, HostSlice, HostTask},
    report::Report,
};

/// One task: start, watch, stop.
mod keeper;
/// Unused ports of an instance.
mod ports;
/// A container's process: started in its place, watched and signalled by descriptor.
mod process;
/// A task's cgroup and its limits.
mod cgroup;
/// What a task resolves names by.
mod resolv_conf;
/// What containers print, kept in files of a bounded size.
mod output;
/// What the next driver must know to find a task again.
mod record;

/// What the driver is told at start.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The appliance, whose cgroup holds all tasks.
    pub appliance: String,
    /// A directory of its own for records and output; made if it is not there.
    pub directory: PathBuf,
    /// Programs by image name: the arguments that come before a container's own.
    pub images: BTreeMap<String, Vec<String>>,
    /// The user and group id that containers run under.
    pub uid: u32,
}

/// Why the driver cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Without cgroups of version 2, a task's processes could not be told from others.
    #[error("no cgroup file system of version 2 is mounted")]
    NoCgroups,
    /// Its directory cannot be used.
    #[error("using {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Runs tasks. Needs a tokio runtime with I/O and time; dropping it leaves the tasks running.
pub struct Driver {
    shared: Arc<Shared>,
    tasks: HashMap<Arn, Known>,
}

/// What every keeper uses.
struct Shared {
    config: DriverConfig,
    cgroups: cgroup::Cgroups,
    ports: Mutex<ports::Ports>,
    reports: mpsc::Sender<Report>,
}

/// A task that the driver has seen.
struct Known {
    order: watch::Sender<Order>,
    keeper: JoinHandle<()>,
}

/// Where a task runs.
struct Place {
    /// Its instance's namespace.
    namespace: String,
    /// Its VPC's resolver, if that has one.
    resolver: Option<Ipv4Addr>,
}

/// What a keeper is to do with its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// Keep it running.
    Run,
    /// SIGTERM, the stop timeout, SIGKILL.
    Stop,
    /// SIGKILL at once, and no report: nobody knows the task any more.
    Forget,
}

impl Driver {
    /// Starts from what is left of an earlier driver: running tasks are watched again and reported, ended ones
    /// reported, and processes without a record killed. Reports go to `reports`.
    ///
    /// # Errors
    /// When there are no cgroups, or the directory cannot be used.
    pub fn new(config: DriverConfig, reports: mpsc::Sender<Report>) -> Result<Self, DriverError> {
        let refused = |source| DriverError::Directory { path: config.directory.clone(), source };
        record::make_directories(&config.directory).map_err(refused)?;
        let cgroups = cgroup::Cgroups::open(&config.appliance).ok_or(DriverError::NoCgroups)?;
        let records = record::read_all(&config.directory).map_err(refused)?;
        cgroups.remove_unknown(records.iter().map(|record| record.id()));
        let shared = Arc::new(Shared { config, cgroups, ports: Mutex::default(), reports });
        let mut driver = Self { shared, tasks: HashMap::new() };
        for record in records {
            shared_ports(&driver.shared).hold(&record.namespace, &record.bindings);
            let arn = record.task.clone();
            driver.keep(arn, Order::Run, |shared, order| keeper::adopt(shared, record, order));
        }
        Ok(driver)
    }

    /// Makes what runs follow the slice: starts what is new, stops what is to stop, kills what is no longer named.
    /// Returns at once; reports tell what came of it. Naming a task again changes nothing.
    pub fn apply(&mut self, slice: &HostSlice) {
        for (arn, known) in &self.tasks {
            if !slice.tasks.contains_key(arn) {
                raise(&known.order, Order::Forget);
            }
        }
        self.tasks.retain(|arn, known| slice.tasks.contains_key(arn) || !known.keeper.is_finished());
        for (arn, task) in &slice.tasks {
            match self.tasks.get(arn) {
                Some(known) if !task.run => raise(&known.order, Order::Stop),
                Some(_) => {}
                None => self.begin(arn, task, slice),
            }
        }
    }

    fn begin(&mut self, arn: &Arn, task: &HostTask, slice: &HostSlice) {
        let namespace = slice.instances.get(&task.instance_id).map(|instance| instance.namespace.clone());
        let resolver = resolver_of(slice, &task.instance_id);
        let refusal = match (&namespace, task.run, task.started) {
            (_, false, _) => Some("The task was stopped before it was started."),
            (_, _, true) => Some("The task's processes are gone."),
            // The next slice may have it.
            (None, ..) => return,
            _ if self.tasks.len() >= TASKS_MAX => Some("The host runs as many tasks as it may."),
            _ => None,
        };
        let (task, namespace) = (task.clone(), namespace.unwrap_or_default());
        let name = arn.clone();
        match refusal {
            Some(reason) => self.keep(arn.clone(), Order::Run, move |shared, _| async move {
                shared.report(&name, TaskStatus::Stopped, Some(reason.to_owned())).await;
            }),
            None => self.keep(arn.clone(), Order::Run, move |shared, order| {
                keeper::start(shared, name, task, Place { namespace, resolver }, order)
            }),
        }
    }

    fn keep<F>(&mut self, arn: Arn, order: Order, work: impl FnOnce(Arc<Shared>, watch::Receiver<Order>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (order, orders) = watch::channel(order);
        let keeper = tokio::spawn(work(Arc::clone(&self.shared), orders));
        self.tasks.insert(arn, Known { order, keeper });
    }
}

impl Shared {
    async fn report(&self, task: &Arn, status: TaskStatus, reason: Option<String>) {
        let report = Report::Task {
            task: task.clone(),
            status,
            bindings: Vec::new(),
            reason,
            exit_codes: BTreeMap::new(),
        };
        self.send(report).await;
    }

    async fn send(&self, report: Report) {
        // Nobody listens any more only when the role ends.
        let _ = self.reports.send(report).await;
    }
}

fn resolver_of(slice: &HostSlice, instance: &InstanceId) -> Option<Ipv4Addr> {
    let is_its = |interface: &&HostInterface| matches!(&interface.owner, InterfaceOwner::Instance(owner) if owner == instance);
    let interface = slice.interfaces.values().find(is_its)?;
    slice.vpcs.get(&interface.vpc_id)?.resolver
}

fn shared_ports(shared: &Shared) -> std::sync::MutexGuard<'_, ports::Ports> {
    shared.ports.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Orders only become stronger.
fn raise(order: &watch::Sender<Order>, to: Order) {
    order.send_if_modified(|now| {
        let raised = to > *now;
        *now = to.max(*now);
        raised
    });
}

/// Tasks that one host keeps: each has a few descriptors and a keeper. One more is answered with STOPPED.
const TASKS_MAX: usize = 1_000;
