//! A proxy under measure: one process on one core, and its CPU time.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use gatehouse_tests::lab::wait::Wait;

use super::PROXY_CORE;
use crate::process::{Process, own, pinned};

/// A proxy under measure.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    process: Process,
    /// Kept as long as it runs.
    _folder: Option<tempfile::TempDir>,
}

impl Proxy {
    /// A proxy that `command` starts, which must stay one process.
    pub(super) fn start(
        name: &'static str,
        address: SocketAddr,
        command: &Command,
        folder: Option<tempfile::TempDir>,
    ) -> Result<Self> {
        let process = Process::start(&mut pinned(command, PROXY_CORE))?;
        Ok(Self { name, address, process, _folder: folder })
    }

    /// A proxy that is part of this binary.
    pub(super) fn start_own(
        name: &'static str,
        part: &str,
        address: SocketAddr,
        target: SocketAddr,
    ) -> Result<Self> {
        let mut command = own(part)?;
        Self::start(name, address, command.args([address.to_string(), target.to_string()]), None)
    }

    /// Waits until it accepts.
    pub(super) fn wait(&self, wait: &Wait) -> Result<()> {
        let accepts = || Ok(TcpStream::connect(self.address).is_ok().then_some(()));
        wait.until(&format!("{} that accepts at {}", self.name, self.address), START, accepts)
    }

    /// CPU time so far, over all threads, in user and kernel.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let tasks = PathBuf::from(format!("/proc/{}/task", self.process.id()));
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

/// On a machine that is busy with something else.
const START: Duration = Duration::from_secs(10);
