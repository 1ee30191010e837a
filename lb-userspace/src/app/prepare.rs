//! Directories that roles work in, made by root before a role starts and given to the role's user.
//!
//! The supervisor makes them for its children; under a service manager each unit runs `gatehouse prepare` first.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::Path;

use crate::config::Config;
use crate::network::places;
use crate::snapshot::envelope::RoleId;

/// A directory could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct PrepareError {
    doing: String,
    #[source]
    source: std::io::Error,
}

/// What every role needs: the state directory, what control shows everybody, where sockets live.
///
/// # Errors
/// When a directory cannot be made or given away.
pub fn common(config: &Config) -> Result<(), PrepareError> {
    make_directory(&config.state_dir, 0o755, 0)?;
    make_directory(&config.control_dir(), 0o700, config.control_uid())?;
    make_directory(&config.public_dir(), 0o755, config.control_uid())?;
    make_directory(&config.run_dir, 0o755, config.control_uid())
}

/// What one role needs of its own.
///
/// # Errors
/// When a directory cannot be made or given away, or there is no place for pins.
pub fn role(config: &Config, role: &RoleId) -> Result<(), PrepareError> {
    make_directory(&config.role_dir(role), 0o700, config.uid_of(role))?;
    if let RoleId::Node(vpc) = role {
        places::mount_bpffs().map_err(|source| PrepareError {
            doing: "mounting the file system for pins".to_owned(),
            source,
        })?;
        make_directory(&config.bpffs_dir(), 0o755, 0)?;
        make_directory(&config.bpffs_dir().join(vpc.as_str()), 0o700, config.uid_of(role))?;
        clients(config)?;
    }
    Ok(())
}

/// The cgroup for clients on this host, if there is to be one.
fn clients(config: &Config) -> Result<(), PrepareError> {
    match places::clients(&config.name) {
        Some(clients) if config.node.steer_local_clients => make_directory(&clients, 0o755, 0),
        Some(clients) => {
            // One that an earlier configuration wanted goes, unless somebody is in it: then nothing is attached to it.
            let _ = fs::remove_dir(clients);
            Ok(())
        }
        None if config.node.steer_local_clients => {
            tracing::error!("this machine has no cgroups of version 2: local clients are not steered");
            Ok(())
        }
        None => Ok(()),
    }
}

fn make_directory(path: &Path, mode: u32, uid: u32) -> Result<(), PrepareError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .and_then(|()| chown(path, Some(uid), Some(uid)))
        .map_err(|source| PrepareError { doing: format!("making directory {}", path.display()), source })
}
