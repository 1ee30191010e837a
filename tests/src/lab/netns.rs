//! A network namespace that the lab makes itself, and programs started inside it.
//!
//! These are the hosts around an appliance: the internet's router, a client, a gateway's machine. The appliance makes
//! its own.

use std::{
    ffi::OsStr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::name::Name;

/// A namespace, removed with everything in it when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace `gh-<lab>-<role>` with loopback up.
    ///
    /// # Errors
    /// When it cannot be made: not root, for example.
    pub fn new(lab: &Name, role: &str) -> Result<Self> {
        let name = format!("{}{role}", lab.prefix());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        // Names resolve by /etc/hosts and addresses are IPv4: nothing needs to wait for IPv6.
        namespace.set("net/ipv6/conf/all/disable_ipv6", "1")?;
        namespace.set("net/ipv6/conf/default/disable_ipv6", "1")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is kept.
    pub fn path(&self) -> PathBuf {
        path_of(&self.name)
    }

    /// A command that will run inside. The file system stays as it is, so pinned BPF objects remain in sight.
    pub fn command(&self, program: &str) -> Command {
        command_in(&self.name, program)
    }

    /// Sets a kernel setting of this namespace, named by its path below `/proc/sys`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        run(self.command("sh").args(["-c", &format!("echo {value} > /proc/sys/{setting}")]))
    }

    /// `ip` with these words, inside.
    ///
    /// # Errors
    /// With what `ip` said.
    pub fn ip(&self, words: &str) -> Result<()> {
        run(self.command("ip").args(words.split_whitespace()))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}

/// A command that will run inside a namespace that somebody made.
pub fn command_in(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", path_of(namespace).display())).arg("--").arg(program);
    command
}

/// Runs a command to its end; an error says what it said.
pub(super) fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, said.trim());
    Ok(())
}

fn path_of(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}
