//! Processes under measure: starting them, on a core or in a namespace, and their end.
//!
//! A bench may be killed at any moment: each process ends with it, and with each its own children.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// A running process; killed on drop, with its children if it has any.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a command that stays one process and becomes no other's parent.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        // Each program on the way becomes the one that it names, so that this is the last one's process.
        let mut bound = Command::new("setpriv");
        bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        let child = bound.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("starting {command:?}"))?))
    }

    /// Starts a command that has children: all end when it does. What they say goes to a file.
    pub(crate) fn start_tree(command: &mut Command, log: &Path) -> Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("writing {}", log.display()))?;
        let mut bound = Command::new("setpriv");
        bound
            .args(["--pdeathsig", "KILL", "--"])
            // The first process of a namespace of process ids takes all others with it.
            .args(["unshare", "--pid", "--fork", "--kill-child=KILL", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        let child = bound.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        Ok(Self(child.with_context(|| format!("starting {command:?}"))?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A part of this binary, as a command.
pub(crate) fn own(part: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", part]);
    Ok(command)
}

/// A command, on one core.
pub(crate) fn pinned(command: &Command, core: &str) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", core]).arg(command.get_program()).args(command.get_args());
    pinned
}

/// Runs a command to its end; an error says what it said.
pub(crate) fn finish(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    Ok(())
}
