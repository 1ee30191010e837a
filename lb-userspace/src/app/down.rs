//! `gatehouse down`: ends the appliance if it runs, then removes all that it made on this host but its files.

use std::error::Error;

use super::cli::say;
use super::supervisor;
use crate::config::Config;
use crate::network;

/// Something that would not go.
#[derive(Debug, thiserror::Error)]
#[error("not removed: {}", .0.join("; "))]
pub struct DownError(Vec<String>);

/// Removes everything that bears the appliance's name, whoever left it: safe after a crash, and when nothing is left.
///
/// # Errors
/// When the running appliance does not end, or something would not go; the rest is removed all the same.
pub async fn down(config: &Config) -> Result<(), Box<dyn Error>> {
    supervisor::stop_running(config).await?;
    let removed = network::remove_everything(&config.name);
    let sockets = config.node_admin_sockets(None);
    for path in [config.control_socket(), config.ready_file()].into_iter().chain(sockets) {
        let _ = std::fs::remove_file(path);
    }
    say(&format!("removed {} namespaces, pins and cgroups", removed.gone.len()));
    if removed.failures.is_empty() {
        return Ok(());
    }
    let left = removed.failures.iter().map(|(what, why)| format!("{what}: {why}")).collect();
    Err(DownError(left).into())
}
