//! What a host still holds of an appliance, found by name and removed: for `down`, and for a start after a kill.
//!
//! One function per kind: namespaces, pinned BPF objects, cgroups. Each removes all it can and names what would not go.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    device::Netlink,
    driver::StepError,
    namespace::{self, NamespaceError, within},
    places,
};
use crate::snapshot::names;

/// What was removed, and what would not go.
#[derive(Debug, Default)]
pub struct Removed {
    /// Names of namespaces, addresses with their interfaces, and paths of directories.
    pub gone: Vec<String>,
    /// What is left, with the reason.
    pub failures: BTreeMap<String, String>,
}

impl Removed {
    pub(super) fn note(&mut self, what: String, outcome: Result<(), impl std::error::Error>) {
        match outcome {
            Ok(()) => self.gone.push(what),
            Err(error) => {
                self.failures.insert(what, spelled(&error));
            }
        }
    }
}

/// Removes all that an appliance made on this host: processes of its tasks, namespaces, pins, cgroups. Its files stay.
pub fn remove_everything(appliance: &str) -> Removed {
    let mut removed = Removed::default();
    // Tasks first: a process in a namespace would keep it.
    remove_cgroups(appliance, &mut removed);
    remove_namespaces(appliance, &mut removed);
    remove_pins(appliance, &mut removed);
    removed
}

/// Removes every namespace that the virtual driver made for this appliance, with all devices in them.
pub fn remove_namespaces(appliance: &str, removed: &mut Removed) {
    match namespaces(appliance) {
        Ok(names) => {
            for name in names {
                let outcome = remove_namespace(&name);
                removed.note(name, outcome);
            }
        }
        Err(error) => {
            removed.failures.insert(names::prefix(appliance), spelled(&error));
        }
    }
}

/// Unpins what the nodes of other VPCs than these left, and with the pins go their programs: on an interface of the host
/// nothing else would end them.
pub fn keep_pins(appliance: &str, is_kept: impl Fn(&str) -> bool) -> Removed {
    let mut removed = Removed::default();
    for entry in fs::read_dir(places::pins(appliance)).into_iter().flatten().flatten() {
        if !is_kept(&entry.file_name().to_string_lossy()) {
            let outcome = remove_tree(&entry.path(), Instant::now());
            removed.note(entry.path().display().to_string(), outcome);
        }
    }
    removed
}

/// Unpins every BPF object of this appliance; programs still attached go with their links.
pub fn remove_pins(appliance: &str, removed: &mut Removed) {
    let directory = places::pins(appliance);
    if directory.exists() {
        let outcome = remove_tree(&directory, Instant::now());
        removed.note(directory.display().to_string(), outcome);
    }
}

/// Kills every process in this appliance's cgroup and removes it with all below it. Clients that others started there
/// go on, outside of it.
pub fn remove_cgroups(appliance: &str, removed: &mut Removed) {
    if let Some(group) = places::cgroup(appliance).filter(|group| group.exists()) {
        if let Some((clients, root)) = places::clients(appliance).zip(places::cgroup_mount()) {
            release(&clients, &root);
        }
        let killed = fs::write(group.join("cgroup.kill"), "1");
        let outcome = killed.and_then(|()| remove_tree(&group, Instant::now() + LAST_BREATH));
        removed.note(group.display().to_string(), outcome);
    }
}

/// Moves the processes of a cgroup, and of those below it, to another.
fn release(group: &Path, to: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            release(&entry.path(), to);
        }
    }
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for process in processes.lines() {
        // One that has ended meanwhile is nowhere.
        let _ = fs::write(to.join("cgroup.procs"), process);
    }
}

/// The namespaces of an appliance that the driver made or began to make. Others may share the prefix: a lab names the
/// hosts around its appliance so.
pub(super) fn namespaces(appliance: &str) -> Result<Vec<String>, NamespaceError> {
    let prefix = names::prefix(appliance);
    let mut found = namespace::list(&prefix).map_err(|source| NamespaceError::Refused {
        what: "listing",
        name: prefix.clone(),
        source,
    })?;
    found.retain(|name| {
        name.strip_prefix(&prefix).is_some_and(|kind| KINDS.iter().any(|own| kind.starts_with(own)))
    });
    Ok(found)
}

/// Removes a namespace and its devices. Devices go first and at once: the kernel would take its time over those of a
/// nameless namespace, and a process in it would keep them.
pub(super) fn remove_namespace(name: &str) -> Result<(), StepError> {
    if namespace::exists(name) {
        within(name, || -> Result<(), StepError> {
            let netlink = Netlink::open()?;
            let devices = netlink.devices()?.into_keys();
            for device in devices.filter(|device| !KERNEL_DEVICES.contains(&device.as_str())) {
                netlink.remove(&device)?;
            }
            Ok(())
        })??;
    }
    Ok(namespace::remove(name)?)
}

/// Removes a directory of a kernel's file system, where files go one by one, or with their directory, or not at all.
fn remove_tree(directory: &Path, deadline: Instant) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path(), deadline)?;
        } else {
            // A cgroup's files cannot be removed, and need not be.
            let _ = fs::remove_file(entry.path());
        }
    }
    loop {
        match fs::remove_dir(directory) {
            // A killed process leaves its cgroup a moment later.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            outcome => return outcome,
        }
    }
}

fn spelled(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// How long the kernel may take to end what was killed.
const LAST_BREATH: Duration = Duration::from_secs(5);
/// What follows the appliance's prefix in the names of `snapshot::names`.
const KINDS: &[&str] = &["vpc-", "node-", "link-", "i-", "task-"];
/// Made by the kernel in every namespace where its configuration says so, and not removable.
const KERNEL_DEVICES: &[&str] =
    &["tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"];
