//! A task's cgroup: what ends all of its processes at once, and their limits where the machine has the controllers.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::model::task::ContainerDefinition;
use crate::network::places;

/// The cgroup below which each task has its own.
pub(super) struct Cgroups {
    tasks: PathBuf,
    limited: bool,
}

impl Cgroups {
    /// The appliance's; `None` on a machine without cgroups of version 2.
    pub(super) fn open(appliance: &str) -> Option<Self> {
        let (mount, appliance) = (places::cgroup_mount()?, places::cgroup(appliance)?);
        let tasks = appliance.join("tasks");
        fs::create_dir_all(&tasks).ok()?;
        let mut limited = true;
        for level in [&mount, &appliance, &tasks] {
            limited &= enable(level);
        }
        if !limited {
            tracing::info!("the machine's cgroups have no memory and cpu controllers: tasks run unlimited");
        }
        Some(Self { tasks, limited })
    }

    /// Makes the cgroup of a task's container, with its limits.
    pub(super) fn make(&self, task: &str, container: &ContainerDefinition) -> io::Result<PathBuf> {
        let of_task = self.tasks.join(task);
        let path = of_task.join(&container.name);
        fs::create_dir_all(&path)?;
        if self.limited && enable(&of_task) {
            limit(&path, container)?;
        }
        Ok(path)
    }

    /// Kills every process of a task and removes its cgroup. Blocks until they are gone, for a second at most; what is
    /// left then goes with the next driver's start.
    pub(super) fn remove(&self, task: &str) {
        remove(&self.tasks.join(task));
    }

    /// Kills every process of a task.
    pub(super) fn kill(&self, task: &str) {
        // It is not there when the task never started.
        let _ = fs::write(self.tasks.join(task).join("cgroup.kill"), "1");
    }

    /// Kills and removes the cgroups of tasks that nobody recorded.
    pub(super) fn remove_unknown<'a>(&self, known: impl Iterator<Item = &'a str>) {
        let known: BTreeSet<&str> = known.collect();
        let Ok(entries) = fs::read_dir(&self.tasks) else { return };
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                tracing::warn!(cgroup = ?entry.path(), "removing a task that has no record");
                remove(&entry.path());
            }
        }
    }
}

/// Lets the cgroups below a directory have the controllers; answers whether they have.
fn enable(directory: &Path) -> bool {
    let file = directory.join("cgroup.subtree_control");
    let has_all = || {
        fs::read_to_string(&file).is_ok_and(|text| {
            CONTROLLERS.iter().all(|name| text.split_whitespace().any(|word| word == *name))
        })
    };
    if !has_all() {
        for name in CONTROLLERS {
            // What the machine does not have is found out below.
            let _ = fs::write(&file, format!("+{name}"));
        }
    }
    has_all()
}

fn limit(path: &Path, container: &ContainerDefinition) -> io::Result<()> {
    fs::write(path.join("pids.max"), PROCESSES_MAX)?;
    if let Some(mib) = container.memory_mib {
        fs::write(path.join("memory.max"), (u64::from(mib) << 20).to_string())?;
    }
    if container.cpu > 0 {
        fs::write(path.join("cpu.weight"), weight(container.cpu).to_string())?;
    }
    Ok(())
}

/// CPU units are shares, as in ECS on EC2: what a container gets when others want the CPU too, and no upper limit.
/// Shares 2–262,144 become weights 1–10,000 as in every container runtime.
fn weight(units: u32) -> u64 {
    1 + (u64::from(units.clamp(2, 262_144)) - 2) * 9_999 / 262_142
}

fn remove(of_task: &Path) {
    let _ = fs::write(of_task.join("cgroup.kill"), "1");
    let deadline = Instant::now() + LAST_BREATH;
    let containers = fs::read_dir(of_task).into_iter().flatten().flatten().map(|entry| entry.path());
    let directories: Vec<PathBuf> =
        containers.filter(|path| path.is_dir()).chain([of_task.to_owned()]).collect();
    for directory in directories {
        while let Err(error) = fs::remove_dir(&directory) {
            let busy = error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline;
            if !busy {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(cgroup = ?directory, %error, "a task's cgroup could not be removed");
                }
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Processes and threads of one container: far more than a server needs, far fewer than would hurt the machine.
const PROCESSES_MAX: &str = "4096";

/// How long the kernel may take to end what was killed.
const LAST_BREATH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_units_become_weights() {
        assert_eq!((weight(0), weight(2), weight(262_144)), (1, 1, 10_000));
        assert_eq!(weight(1_024), 39);
    }
}
