//! Processes under measure: starting them on a core, their CPU time, their end.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::PROXY_CORE;

/// A running process; killed on drop.
pub(super) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A proxy under measure.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    process: Process,
    /// Kept as long as it runs.
    _folder: Option<tempfile::TempDir>,
}

impl Proxy {
    /// A proxy that was started with `command`, which must stay one process.
    pub(super) fn start(
        name: &'static str,
        address: SocketAddr,
        command: &mut Command,
        folder: Option<tempfile::TempDir>,
    ) -> Result<Self> {
        let process = start(command).with_context(|| format!("starting {name}"))?;
        Ok(Self { name, address, process, _folder: folder })
    }

    /// Waits until it accepts.
    pub(super) fn wait(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(self.address).is_err() {
            if Instant::now() > end {
                bail!("{} does not accept at {}", self.name, self.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// CPU time so far, over all threads, in user and kernel.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.process.0.id()));
        let mut total = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("{} has ended", self.name))? {
            // On CPU, in nanoseconds; then waiting, then slices. A thread may end in between.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            let field = text.split(' ').next().unwrap_or_default();
            total += field.parse::<u64>().context("schedstat")?;
        }
        Ok(Duration::from_nanos(total))
    }
}

/// A part of this binary, on a core.
pub(super) fn own(part: &str, arguments: &[&str], core: &str) -> Result<Process> {
    start(own_command(part, core)?.args(arguments))
}

/// A proxy that is part of this binary.
pub(super) fn own_proxy(
    name: &'static str,
    part: &str,
    address: SocketAddr,
    target: SocketAddr,
) -> Result<Proxy> {
    let mut command = own_command(part, PROXY_CORE)?;
    Proxy::start(name, address, command.arg(address.to_string()).arg(target.to_string()), None)
}

/// A program on the proxies' core.
pub(super) fn pinned(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", PROXY_CORE, program]);
    command
}

fn own_command(part: &str, core: &str) -> Result<Command> {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(std::env::current_exe()?).args(["serve", part]);
    Ok(command)
}

fn start(command: &mut Command) -> Result<Process> {
    // taskset becomes the program it names, so this is its process.
    Ok(Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}
