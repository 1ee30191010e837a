//! One task: its containers started, waited for until they listen, watched, and stopped.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep, timeout};

use super::{
    Order, Place, Shared, output,
    ports::{is_free, is_listening},
    process::{Launch, LaunchError, Process},
    record::Record,
    resolv_conf::ResolvConf,
    shared_ports,
};
use crate::model::{
    id::Arn,
    task::{ContainerDefinition, PortBinding, TaskStatus},
};
use crate::network::namespace;
use crate::snapshot::{host::HostTask, report::Report};

/// Starts a task and keeps it until it has ended.
pub(super) async fn start(
    shared: Arc<Shared>,
    arn: Arn,
    task: HostTask,
    place: Place,
    mut orders: watch::Receiver<Order>,
) {
    shared.report(&arn, TaskStatus::Pending, None).await;
    if !appears(&place.namespace, &mut orders).await {
        let reason = format!("The network of instance {} did not appear.", task.instance_id);
        shared.report(&arn, TaskStatus::Stopped, Some(reason)).await;
        return;
    }
    let record = Record {
        task: arn,
        namespace: place.namespace,
        containers: task.containers,
        bindings: Vec::new(),
        processes: BTreeMap::new(),
    };
    let setting = Setting { cluster: task.cluster, family: task.family, resolver: place.resolver };
    let work = Arc::clone(&shared);
    let launched = tokio::task::spawn_blocking(move || launch(&work, record, &setting)).await;
    let Ok((record, outcome)) = launched else { return };
    let mut keeper = Keeper { shared, record, processes: Vec::new(), exit_codes: BTreeMap::new() };
    match outcome {
        Ok(processes) => {
            keeper.processes = processes;
            keeper.run(&mut orders).await;
        }
        Err(reason) => {
            tracing::warn!(task = %keeper.record.task, reason, "a task could not be started");
            let order = *orders.borrow();
            keeper.end(order, Some(reason)).await;
        }
    }
}

/// Keeps a task that an earlier driver started.
pub(super) async fn adopt(shared: Arc<Shared>, record: Record, mut orders: watch::Receiver<Order>) {
    let processes: Vec<(String, Process)> =
        record.processes.iter().filter_map(|(name, id)| Some((name.clone(), Process::adopt(id)?))).collect();
    let is_whole = processes.len() == record.containers.len();
    let keeper = Keeper { shared, record, processes, exit_codes: BTreeMap::new() };
    if is_whole {
        tracing::info!(task = %keeper.record.task, "watching a task that was running");
        keeper.run(&mut orders).await;
    } else {
        keeper
            .end(Order::Run, Some("The task's processes ended while nobody watched them.".to_owned()))
            .await;
    }
}

/// Waits until the namespace stands; false when it does not in time, or is not wanted any more.
async fn appears(name: &str, orders: &mut watch::Receiver<Order>) -> bool {
    let deadline = Instant::now() + NAMESPACE_WAIT;
    while !namespace::exists(name) {
        if Instant::now() > deadline || *orders.borrow() != Order::Run {
            return false;
        }
        let _ = timeout(NAMESPACE_POLL, orders.wait_for(|order| *order != Order::Run)).await;
    }
    true
}

/// What a container is told of its task.
struct Setting {
    cluster: String,
    family: String,
    resolver: Option<Ipv4Addr>,
}

type Launched = Result<Vec<(String, Process)>, String>;

/// Picks ports and starts every container; blocks for as long as that takes.
fn launch(shared: &Shared, mut record: Record, setting: &Setting) -> (Record, Launched) {
    match pick_ports(shared, &record) {
        Ok(bindings) => record.bindings = bindings,
        Err(reason) => return (record, Err(reason)),
    }
    let mut processes = Vec::new();
    for container in record.containers.clone() {
        // Before the first process, so that its ports are known; then with each.
        let kept =
            record.write(&shared.config.directory).map_err(|error| format!("Keeping its record: {error}"));
        let started = kept.and_then(|()| {
            start_container(shared, &record, setting, &container)
                .map_err(|error| format!("CannotStartContainerError: {}", spelled(&error)))
        });
        match started {
            Ok(process) => {
                record.processes.insert(container.name.clone(), process.id.clone());
                processes.push((container.name, process));
            }
            Err(reason) => return (record, Err(reason)),
        }
    }
    let kept = record.write(&shared.config.directory);
    let outcome = kept.map(|()| processes).map_err(|error| format!("Keeping its record: {error}"));
    (record, outcome)
}

fn pick_ports(shared: &Shared, record: &Record) -> Result<Vec<PortBinding>, String> {
    let picked = namespace::within(&record.namespace, || {
        let mut ports = shared_ports(shared);
        let mut bindings = Vec::new();
        for container in &record.containers {
            for mapping in &container.port_mappings {
                let twin = bindings.iter().find(|binding: &&PortBinding| {
                    binding.container_name == container.name
                        && binding.container_port == mapping.container_port
                });
                let host_port = match (mapping.host_port, twin) {
                    // One number for both protocols, so that a target is one address and port.
                    (0, Some(twin)) => Some(twin.host_port),
                    (0, None) => {
                        ports.take(&record.namespace, |port| is_free(port, "tcp") && is_free(port, "udp"))
                    }
                    (fixed, _) => is_free(fixed, &mapping.protocol).then_some(fixed),
                };
                let Some(host_port) = host_port else {
                    ports.release(&record.namespace, &bindings);
                    return Err(format!(
                        "No host port is free for container port {}.",
                        mapping.container_port
                    ));
                };
                bindings.push(PortBinding {
                    container_name: container.name.clone(),
                    container_port: mapping.container_port,
                    host_port,
                    protocol: mapping.protocol.clone(),
                });
            }
        }
        ports.hold(&record.namespace, &bindings);
        Ok(bindings)
    });
    picked.map_err(|error| spelled(&error))?
}

fn start_container(
    shared: &Shared,
    record: &Record,
    setting: &Setting,
    container: &ContainerDefinition,
) -> Result<Process, LaunchError> {
    let image = shared.config.images.get(&container.image);
    let mut argv = image.cloned().ok_or_else(|| LaunchError::Image(container.image.clone()))?;
    argv.extend(container.entry_point.iter().chain(&container.command).cloned());
    let refused = |source| LaunchError::Start { program: container.image.clone(), source };
    let cgroup = shared.cgroups.make(record.id(), container).map_err(refused)?;
    let output = output::open(&shared.config.directory, record.id(), &container.name).map_err(refused)?;
    let resolv_conf = setting.resolver.map(|resolver| ResolvConf::of(&shared.config.directory, resolver));
    let child = Process::launch(Launch {
        namespace: &record.namespace,
        argv: &argv,
        environment: &environment(record, setting, container),
        uid: shared.config.uid,
        cgroup: &cgroup,
        output,
        resolv_conf: resolv_conf.transpose().map_err(refused)?,
    })?;
    Process::of_child(child).map_err(refused)
}

/// The container's own variables, and over them what only the driver knows.
fn environment(
    record: &Record,
    setting: &Setting,
    container: &ContainerDefinition,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    environment.extend(container.environment.clone());
    let mut set = |name: &str, value: &str| environment.insert(name.to_owned(), value.to_owned());
    set("ECS_TASK_ARN", record.task.as_str());
    set("ECS_CLUSTER", &setting.cluster);
    set("ECS_TASK_DEFINITION", &setting.family);
    set("ECS_CONTAINER_NAME", &container.name);
    if let Some(parts) = record.task.parts() {
        set("AWS_REGION", parts.region);
    }
    let own = record.bindings.iter().filter(|binding| binding.container_name == container.name);
    for (at, binding) in own.enumerate() {
        let port = binding.host_port.to_string();
        if at == 0 {
            set("PORT", &port);
        }
        set(&format!("PORT_{}", binding.container_port), &port);
    }
    environment
}

/// A task whose processes were started.
struct Keeper {
    shared: Arc<Shared>,
    record: Record,
    processes: Vec<(String, Process)>,
    exit_codes: BTreeMap<String, i32>,
}

impl Keeper {
    /// From started to ended.
    async fn run(mut self, orders: &mut watch::Receiver<Order>) {
        let record = self.record.clone();
        let early = tokio::select! {
            listens = all_listen(&record) => {
                if !listens {
                    tracing::warn!(task = %record.task, "a task does not listen yet; it counts as running all the same");
                }
                None
            }
            () = self.essential_ends() => Some(Order::Run),
            order = next_order(orders, Order::Run) => Some(order),
        };
        let order = match early {
            Some(order) => order,
            None => {
                self.report(TaskStatus::Running, None).await;
                self.watch(orders).await
            }
        };
        self.wind_up(order, orders).await;
    }

    /// Until the task ends by itself (`Run`), or is to be ended.
    async fn watch(&mut self, orders: &mut watch::Receiver<Order>) -> Order {
        let mut ticks = interval(OUTPUT_CHECK);
        loop {
            tokio::select! {
                () = self.essential_ends() => return Order::Run,
                order = next_order(orders, Order::Run) => return order,
                _ = ticks.tick() => {}
            }
            self.bound_output();
        }
    }

    /// Returns once a container has ended that the task cannot be without; notes the exit codes of others.
    async fn essential_ends(&mut self) {
        loop {
            let ended = {
                let mut waiting: FuturesUnordered<_> = self
                    .processes
                    .iter_mut()
                    .enumerate()
                    .map(|(at, (_, process))| async move { (at, process.ended().await) })
                    .collect();
                waiting.next().await
            };
            // Without a process left, the task has ended.
            let Some((at, code)) = ended else { return };
            let (name, _) = self.processes.swap_remove(at);
            self.exit_codes.extend(code.map(|code| (name.clone(), code)));
            let is_essential =
                self.record.containers.iter().any(|container| container.name == name && container.essential);
            if is_essential {
                return;
            }
        }
    }

    /// Ends what still runs and reports. A stop becomes a kill if the task is forgotten meanwhile.
    async fn wind_up(mut self, order: Order, orders: &mut watch::Receiver<Order>) {
        let reason = (order == Order::Run).then(|| "Essential container in task exited".to_owned());
        if order < Order::Forget && !self.processes.is_empty() {
            self.processes.iter().for_each(|(_, process)| process.terminate());
            let patience = self.stop_timeout();
            tokio::select! {
                () = self.all_end() => {}
                () = sleep(patience) => {}
                _ = next_order(orders, Order::Stop) => {}
            }
        }
        if !self.processes.is_empty() {
            self.shared.cgroups.kill(self.record.id());
            self.processes.iter().for_each(|(_, process)| process.kill());
            // The kernel ends them soon; what cannot be ended is left to it.
            let _ = timeout(KILL_WAIT, self.all_end()).await;
        }
        let newest = *orders.borrow();
        self.end(order.max(newest), reason).await;
    }

    /// The longest of the containers' stop timeouts that are still running.
    fn stop_timeout(&self) -> Duration {
        let is_running = |name: &str| self.processes.iter().any(|(running, _)| running == name);
        let containers = self.record.containers.iter().filter(|container| is_running(&container.name));
        Duration::from_secs(containers.map(|container| container.stop_timeout_s).max().unwrap_or(0).into())
    }

    async fn all_end(&mut self) {
        while let Some((name, process)) = self.processes.last_mut() {
            let code = process.ended().await;
            self.exit_codes.extend(code.map(|code| (name.clone(), code)));
            self.processes.pop();
        }
    }

    /// Reports the end unless the task is forgotten, and leaves nothing behind. The report comes first: until control
    /// knows, requests are sent to a port on which nobody listens.
    async fn end(self, order: Order, reason: Option<String>) {
        shared_ports(&self.shared).release(&self.record.namespace, &self.record.bindings);
        if order < Order::Forget {
            self.report(TaskStatus::Stopped, reason).await;
        }
        let id = self.record.id().to_owned();
        let shared = Arc::clone(&self.shared);
        let removed = tokio::task::spawn_blocking(move || shared.cgroups.remove(&id)).await;
        if removed.is_err() {
            tracing::error!(task = %self.record.task, "removing a task's cgroup ended without an answer");
        }
        let directory = &self.shared.config.directory;
        self.record.remove(directory);
        let names = self.record.containers.iter().map(|container| container.name.as_str());
        output::remove(directory, self.record.id(), names);
    }

    async fn report(&self, status: TaskStatus, reason: Option<String>) {
        self.shared
            .send(Report::Task {
                task: self.record.task.clone(),
                status,
                bindings: self.record.bindings.clone(),
                reason,
                exit_codes: self.exit_codes.clone(),
            })
            .await;
    }

    fn bound_output(&self) {
        for container in &self.record.containers {
            if let Err(error) =
                output::bound(&self.shared.config.directory, self.record.id(), &container.name)
            {
                tracing::warn!(task = %self.record.task, %error, "a task's output could not be bounded");
            }
        }
    }
}

/// Waits until every port is listened on; false if that takes too long.
async fn all_listen(record: &Record) -> bool {
    let deadline = Instant::now() + LISTEN_WAIT;
    let mut pause = LISTEN_POLL;
    loop {
        let listens = record.bindings.iter().all(|binding| {
            let process = record.processes.get(&binding.container_name);
            process.is_some_and(|process| {
                is_listening(process.pid, binding.host_port, &binding.protocol).unwrap_or(false)
            })
        });
        if listens || Instant::now() > deadline {
            return listens;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LISTEN_POLL_MAX);
    }
}

/// Waits for an order stronger than `than`; never returns when no more can come.
async fn next_order(orders: &mut watch::Receiver<Order>, than: Order) -> Order {
    let stronger = orders.wait_for(|order| *order > than).await.map(|order| *order);
    match stronger {
        Ok(order) => order,
        // The driver is gone, and its tasks go on.
        Err(_) => std::future::pending().await,
    }
}

fn spelled(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// An instance's namespace is made in milliseconds; a busy machine is given half a minute.
const NAMESPACE_WAIT: Duration = Duration::from_secs(30);
const NAMESPACE_POLL: Duration = Duration::from_millis(20);

/// A container that does not listen by then counts as running, as with ECS from the start.
const LISTEN_WAIT: Duration = Duration::from_secs(10);
const LISTEN_POLL: Duration = Duration::from_millis(2);
const LISTEN_POLL_MAX: Duration = Duration::from_millis(50);

/// How long the kernel may take to end what was killed.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How often output files are looked at.
const OUTPUT_CHECK: Duration = Duration::from_secs(5);

/// Where programs without a path are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
