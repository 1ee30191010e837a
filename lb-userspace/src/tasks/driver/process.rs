//! A container's process: started in its network namespace and cgroup as an unprivileged user, watched and signalled by
//! descriptor, so that a number that is used again never names another process.

#![expect(
    unsafe_code,
    reason = "the child confines itself between fork and exec, where only system calls are safe"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::prctl::set_no_new_privs;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid, setsid};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

use super::resolv_conf::ResolvConf;
use crate::network::namespace::{NamespaceError, within};

/// Why a container's process could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    /// The image has no program.
    #[error("image {0} is not among the images of this host")]
    Image(String),
    /// The instance's namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refused.
    #[error("starting {program}")]
    Start {
        /// The program.
        program: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// What a container's process is started as.
pub(super) struct Launch<'a> {
    pub(super) namespace: &'a str,
    pub(super) argv: &'a [String],
    pub(super) environment: &'a BTreeMap<String, String>,
    pub(super) uid: u32,
    pub(super) cgroup: &'a Path,
    pub(super) output: File,
    pub(super) resolv_conf: Option<ResolvConf>,
}

/// What names one process for good: its number, and when it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: u32,
    /// In clock ticks since boot.
    started: u64,
    boot: String,
}

/// A running process.
pub(super) struct Process {
    pub(super) id: ProcessId,
    descriptor: AsyncFd<OwnedFd>,
    /// `None` when an earlier driver started it: then its exit status goes to whoever adopted it.
    child: Option<Child>,
}

impl Process {
    /// Starts a process. Blocks for as long as fork and exec take.
    pub(super) fn launch(launch: Launch<'_>) -> Result<Child, LaunchError> {
        let (program, arguments) =
            launch.argv.split_first().ok_or_else(|| LaunchError::Image("without a program".to_owned()))?;
        let refused = |source| LaunchError::Start { program: program.clone(), source };
        let procs = File::options().write(true).open(launch.cgroup.join("cgroup.procs")).map_err(refused)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(launch.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(launch.output.try_clone().map_err(refused)?)
            .stderr(launch.output);
        let (uid, resolv_conf) = (launch.uid, launch.resolv_conf);
        // SAFETY: between fork and exec the closure only makes system calls on values made before: it allocates
        // nothing, takes no lock, and what it captured is not used elsewhere.
        unsafe {
            command.pre_exec(move || confine(&procs, uid, resolv_conf.as_ref()));
        }
        // A child is born in the namespace of the thread that forks it.
        within(launch.namespace, || command.spawn())?.map_err(refused)
    }

    /// Watches a process that was started here.
    pub(super) fn of_child(child: Child) -> io::Result<Self> {
        let id = ProcessId::of(child.id())?;
        let descriptor = watch(open(child.id())?)?;
        Ok(Self { id, descriptor, child: Some(child) })
    }

    /// Watches a process that an earlier driver started; `None` when it is gone.
    pub(super) fn adopt(id: &ProcessId) -> Option<Self> {
        let descriptor = open(id.pid).ok()?;
        // Only now is it certain that the descriptor is the process that was recorded.
        let is_same = ProcessId::of(id.pid).is_ok_and(|found| found == *id) && !is_zombie(id.pid);
        let descriptor = watch(descriptor).ok().filter(|_| is_same)?;
        Some(Self { id: id.clone(), descriptor, child: None })
    }

    /// Waits for the end; answers the exit code as a shell would, or `None` if nobody here may know it.
    pub(super) async fn ended(&mut self) -> Option<i32> {
        // An error means that the descriptor cannot be watched; then the process is not either.
        let _ = self.descriptor.readable().await;
        let status = self.child.as_mut()?.wait().ok()?;
        Some(exit_code(status))
    }

    pub(super) fn terminate(&self) {
        // It may have ended by itself in the meantime.
        let _ = pidfd_send_signal(self.descriptor.get_ref(), Signal::TERM);
    }

    pub(super) fn kill(&self) {
        let _ = pidfd_send_signal(self.descriptor.get_ref(), Signal::KILL);
    }
}

impl ProcessId {
    fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let started = stat_fields(&stat)
            .and_then(|mut fields| fields.nth(STARTED_AFTER_NAME)?.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in /proc/<pid>/stat"))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { pid, started, boot })
    }
}

/// What the child does to itself before it becomes the program.
fn confine(procs: &File, uid: u32, resolv_conf: Option<&ResolvConf>) -> io::Result<()> {
    // `0` is whoever writes it.
    let mut procs = procs;
    procs.write_all(b"0")?;
    setsid()?;
    if let Some(resolv_conf) = resolv_conf {
        resolv_conf.lay()?;
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(user, user, user)?;
    set_no_new_privs()?;
    Ok(())
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps its descriptor open and the same until it is dropped, which `AsyncFd` does last.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat_fields(&stat).and_then(|mut fields| fields.next()) == Some("Z"))
}

/// The fields after the program's name, which stands in parentheses and may hold anything.
fn stat_fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or(0))
}

/// The 22nd field of `/proc/<pid>/stat` is the 20th after the name.
const STARTED_AFTER_NAME: usize = 19;

/// A process that a signal ended exits with 128 and the signal's number, as in every shell and in Docker.
const SIGNALLED: i32 = 128;
