//! `gatehouse run`: one child process per role on this host, kept running.
//!
//! Control, host and gateway always run; which nodes and links run is the supervisor's own slice. A role that ends is
//! started again after a pause. On SIGTERM or SIGINT roles stop in the order that traffic reaches them.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::prepare::{self, PrepareError};
use super::privilege::SUPERVISOR_VARIABLE;
use super::subscription::{Subscription, subscribe};
use crate::config::Config;
use crate::model::id::{VpcId, VpcLinkId};
use crate::network;
use crate::snapshot::{envelope::RoleId, host::SupervisorSlice};

/// A role that ended is started again after this, doubled each time up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause before a role is started again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A role that ran this long starts again after [`FIRST_PAUSE`].
const SETTLED: Duration = Duration::from_secs(30);
/// How long a role may take to stop before it is killed: longer than what roles themselves allow requests to finish.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Why the appliance cannot run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// Namespaces, programs and tasks need root.
    #[error(
        "gatehouse run needs root: it makes network namespaces and addresses, attaches XDP programs and starts tasks"
    )]
    NotRoot,
    /// The appliance of this name already runs on this host.
    #[error("appliance {0:?} already runs on this host")]
    AlreadyRuns(String),
    /// A directory that a role works in.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A file or a signal.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// Runs every role until a signal; `config_file` is handed to each.
///
/// # Errors
/// When this is not root, the appliance already runs, or a directory cannot be made.
pub async fn run(config: &Config, config_file: &Path) -> Result<(), SupervisorError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(SupervisorError::NotRoot);
    }
    prepare::common(config)?;
    prepare::role(config, &RoleId::Supervisor)?;
    let _lock = lock(config)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(io("listening for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("listening for SIGINT"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(io("listening for SIGHUP"))?;
    let mut children = Children { config, config_file, running: BTreeMap::new() };
    children.start(Process::Control)?;
    children.start(Process::Host)?;
    children.start(Process::Gateway)?;
    let Subscription { mut slices, reports: _reports } =
        subscribe::<SupervisorSlice>(config, RoleId::Supervisor);
    let mut ready = Box::pin(write_ready_file(config));
    let mut is_ready = false;
    loop {
        tokio::select! {
            Ok(()) = slices.changed() => {
                let slice = slices.borrow_and_update().clone();
                if let Some(received) = slice {
                    children.follow(&received.slice).await?;
                }
            }
            written = &mut ready, if !is_ready => {
                written?;
                is_ready = true;
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {}
        }
    }
    tracing::info!("stopping");
    children.stop_all().await;
    let _ = std::fs::remove_file(config.ready_file());
    Ok(())
}

/// Ends the appliance of this configuration, if it runs, and waits until it has.
///
/// # Errors
/// When it does not end.
pub async fn stop_running(config: &Config) -> Result<(), SupervisorError> {
    let path = lock_file(config);
    let deadline = Instant::now() + STOP_TIMEOUT * 2;
    while let Ok(file) = File::open(&path) {
        if Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok() {
            return Ok(());
        }
        let running = std::fs::read_to_string(&path).ok().and_then(|pid| pid.trim().parse().ok());
        if let Some(pid) = running {
            let ending = if Instant::now() < deadline { Signal::SIGTERM } else { Signal::SIGKILL };
            tracing::info!(pid, "ending the running appliance");
            let _ = kill(Pid::from_raw(pid), ending);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        if Instant::now() > deadline + STOP_TIMEOUT {
            return Err(SupervisorError::AlreadyRuns(config.name.clone()));
        }
    }
    Ok(())
}

/// A child process of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Process {
    // In the order in which they stop.
    Gateway,
    Link {
        link: VpcLinkId,
        namespace: String,
    },
    /// An empty namespace is the host's own.
    Node {
        vpc: VpcId,
        namespace: String,
    },
    Host,
    Control,
}

impl Process {
    fn role(&self) -> Option<RoleId> {
        Some(match self {
            Self::Gateway => RoleId::Gateway,
            Self::Link { link, .. } => RoleId::Link(link.clone()),
            Self::Node { vpc, .. } => RoleId::Node(vpc.clone()),
            Self::Host => RoleId::Host,
            Self::Control => return None,
        })
    }

    fn name(&self) -> String {
        self.role().map_or_else(|| "control".to_owned(), |role| role.to_string())
    }

    fn arguments(&self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Gateway => &["gateway"],
            Self::Link { link, namespace } => &["link", "--link", link.as_str(), "--namespace", namespace],
            Self::Node { vpc, namespace } if namespace.is_empty() => &["node", "--vpc", vpc.as_str()],
            Self::Node { vpc, namespace } => &["node", "--vpc", vpc.as_str(), "--namespace", namespace],
            Self::Host => &["host"],
            Self::Control => &["control"],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

struct Running {
    stop: watch::Sender<bool>,
    keeper: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.keeper.await;
    }
}

struct Children<'a> {
    config: &'a Config,
    config_file: &'a Path,
    running: BTreeMap<Process, Running>,
}

impl Children<'_> {
    fn start(&mut self, process: Process) -> Result<(), SupervisorError> {
        if let Some(role) = process.role() {
            prepare::role(self.config, &role)?;
        }
        let (stop, stopped) = watch::channel(false);
        let keeper = tokio::spawn(keep_running(process.clone(), self.config_file.to_owned(), stopped));
        self.running.insert(process, Running { stop, keeper });
        Ok(())
    }

    async fn follow(&mut self, slice: &SupervisorSlice) -> Result<(), SupervisorError> {
        let nodes = slice
            .nodes
            .iter()
            .map(|(vpc, namespace)| Process::Node { vpc: vpc.clone(), namespace: namespace.clone() });
        let links = slice
            .links
            .iter()
            .map(|(link, namespace)| Process::Link { link: link.clone(), namespace: namespace.clone() });
        let wanted: Vec<_> = nodes.chain(links).collect();
        let is_fixed = |process: &Process| !matches!(process, Process::Node { .. } | Process::Link { .. });
        let surplus: Vec<_> = self
            .running
            .keys()
            .filter(|process| !is_fixed(process) && !wanted.contains(process))
            .cloned()
            .collect();
        for process in surplus {
            if let Some(running) = self.running.remove(&process) {
                running.stop().await;
            }
        }
        forget_nodes(self.config, slice);
        for process in wanted {
            if !self.running.contains_key(&process) {
                self.start(process)?;
            }
        }
        Ok(())
    }

    /// Gateway first, so that nothing new comes in; then links and nodes, then the host and its tasks, control last.
    async fn stop_all(&mut self) {
        while let Some((_, running)) = self.running.pop_first() {
            running.stop().await;
        }
    }
}

/// Unpins what nodes left that are no longer wanted: those that were just stopped, and those of a run that was killed.
pub(super) fn forget_nodes(config: &Config, slice: &SupervisorSlice) {
    let removed = network::keep_pins(&config.name, |vpc| slice.nodes.keys().any(|kept| kept.as_str() == vpc));
    for pins in removed.gone {
        tracing::info!(pins, "unpinned");
    }
    for (pins, error) in removed.failures {
        tracing::error!(pins, error, "cannot be unpinned");
    }
}

/// Starts the process again whenever it ends, until told to stop; then ends it.
async fn keep_running(process: Process, config_file: PathBuf, mut stopped: watch::Receiver<bool>) {
    let name = process.name();
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        match spawn(&process, &config_file) {
            Ok(mut child) => {
                tracing::info!(role = %name, pid = child.id(), "started");
                tokio::select! {
                    ended = child.wait() => tracing::warn!(role = %name, ?ended, "ended; starting it again"),
                    () = told(&mut stopped) => {
                        end(&name, child).await;
                        return;
                    }
                }
            }
            Err(error) => tracing::error!(role = %name, %error, "could not be started"),
        }
        if started.elapsed() >= SETTLED {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(MAX_PAUSE),
            () = told(&mut stopped) => return,
        }
    }
}

async fn told(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

fn spawn(process: &Process, config_file: &Path) -> std::io::Result<Child> {
    // The running file itself, also after an upgrade replaced what its path names.
    Command::new("/proc/self/exe")
        .arg0("gatehouse")
        .args(process.arguments())
        .arg("--config")
        .arg(config_file)
        .env(SUPERVISOR_VARIABLE, std::process::id().to_string())
        .stdin(Stdio::null())
        // A Ctrl-C at the terminal is for the supervisor, which ends its children in order.
        .process_group(0)
        .spawn()
}

async fn end(name: &str, mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    match tokio::time::timeout(STOP_TIMEOUT, child.wait()).await {
        Ok(ended) => tracing::info!(role = %name, ?ended, "stopped"),
        Err(_) => {
            tracing::warn!(role = %name, timeout = ?STOP_TIMEOUT, "did not stop; killing it");
            let _ = child.kill().await;
        }
    }
}

fn lock_file(config: &Config) -> PathBuf {
    config.state_dir.join("supervisor.lock")
}

/// Held for the supervisor's life: the kernel lets go of it whatever ends the process.
fn lock(config: &Config) -> Result<Flock<File>, SupervisorError> {
    let path = lock_file(config);
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io("opening the lock file"))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| SupervisorError::AlreadyRuns(config.name.clone()))?;
    std::fs::write(&path, std::process::id().to_string()).map_err(io("writing the lock file"))?;
    Ok(lock)
}

/// Waits until control serves, then says so: endpoint, CA, credentials and region, as one JSON object.
pub(super) async fn write_ready_file(config: &Config) -> Result<(), SupervisorError> {
    let endpoint = config.control.listen;
    while !(config.ca_file().exists()
        && config.credentials_file().exists()
        && TcpStream::connect(endpoint).await.is_ok())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ready = serde_json::json!({
        "endpoint": format!("https://{endpoint}"),
        "ca_file": config.ca_file(),
        "credentials_file": config.credentials_file(),
        "region": config.region,
    });
    let path = config.ready_file();
    let draft = path.with_extension("draft");
    std::fs::write(&draft, ready.to_string())
        .and_then(|()| std::fs::rename(&draft, &path))
        .map_err(io("writing the ready file"))?;
    tracing::info!(%endpoint, "ready");
    Ok(())
}

fn io(doing: &'static str) -> impl Fn(std::io::Error) -> SupervisorError {
    move |source| SupervisorError::Io { doing: doing.to_owned(), source }
}
