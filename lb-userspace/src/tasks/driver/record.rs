//! What the next driver must know to find a task again: one small file per task, replaced whole.
//!
//! It is written before the first process starts (so that the ports stay the task's) and after each start. A process
//! that a crash left without a record is found by its cgroup, and killed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::ProcessId;
use crate::model::{
    id::Arn,
    task::{ContainerDefinition, PortBinding},
};

/// A task that was started here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The task.
    pub(super) task: Arn,
    /// The instance's namespace.
    pub(super) namespace: String,
    /// Its containers.
    pub(super) containers: Vec<ContainerDefinition>,
    /// The ports that were picked.
    pub(super) bindings: Vec<PortBinding>,
    /// The processes that were started, by container.
    pub(super) processes: BTreeMap<String, ProcessId>,
}

impl Record {
    /// The last part of the task's ARN, which names its files and its cgroup.
    pub(super) fn id(&self) -> &str {
        self.task.as_str().rsplit('/').next().unwrap_or_default()
    }

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let path = path_of(directory, self.id());
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(fresh, path)
    }

    pub(super) fn remove(&self, directory: &Path) {
        // A record that stays is of a task whose processes are gone, which the next driver reports.
        let _ = fs::remove_file(path_of(directory, self.id()));
    }
}

/// Makes the directories for records and output; only the driver may look into them.
pub(super) fn make_directories(directory: &Path) -> io::Result<()> {
    for name in ["tasks", "output"] {
        fs::create_dir_all(directory.join(name))?;
        fs::set_permissions(directory.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    }
    Ok(())
}

/// Every record that can be read; others are said and left out.
pub(super) fn read_all(directory: &Path) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(directory.join("tasks"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        match serde_json::from_slice::<Record>(&fs::read(&path)?) {
            Ok(record) => records.push(record),
            Err(error) => tracing::warn!(?path, %error, "a task's record is not readable"),
        }
    }
    Ok(records)
}

fn path_of(directory: &Path, id: &str) -> PathBuf {
    directory.join("tasks").join(format!("{id}.json"))
}
