//! `gatehouse down`: ends the appliance if it runs, then removes all that it made on this host but its files.

use std::error::Error;
use std::time::{Duration, Instant};

use tokio::net::UnixStream;

use super::cli::say;
use super::supervisor;
use crate::config::Config;
use crate::network;

/// Something that would not go.
#[derive(Debug, thiserror::Error)]
#[error("not removed: {}", .0.join("; "))]
pub struct DownError(Vec<String>);

/// How long roles may take to end after their supervisor did.
const LAST_BREATH: Duration = Duration::from_secs(2);

/// Roles run that no supervisor of ours started.
#[derive(Debug, thiserror::Error)]
#[error("roles still run, under a service manager: stop them first (systemctl stop gatehouse.target)")]
pub struct StillRuns;

/// Removes everything that bears the appliance's name, whoever left it: safe after a crash, and when nothing is left.
///
/// # Errors
/// When the running appliance does not end, or something would not go; the rest is removed all the same.
pub async fn down(config: &Config) -> Result<(), Box<dyn Error>> {
    supervisor::stop_running(config).await?;
    // Those of a killed supervisor end a moment after it.
    let deadline = Instant::now() + LAST_BREATH;
    while UnixStream::connect(config.control_socket()).await.is_ok() {
        if Instant::now() > deadline {
            return Err(Box::new(StillRuns));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut removed = network::remove_everything(&config.name);
    if let Some(listed) = config.network.interfaces() {
        network::remove_addresses(listed, &config.addresses_file(), &mut removed);
        if !network::wait_until_free(listed) {
            tracing::warn!(
                "an XDP program is still on an interface; if it is not another's, it goes in a moment"
            );
        }
    }
    let sockets = config.node_admin_sockets(None);
    for path in [config.control_socket(), config.ready_file()].into_iter().chain(sockets) {
        let _ = std::fs::remove_file(path);
    }
    say(&format!("removed {} namespaces, addresses, pins and cgroups", removed.gone.len()));
    if removed.failures.is_empty() {
        return Ok(());
    }
    let left = removed.failures.iter().map(|(what, why)| format!("{what}: {why}")).collect();
    Err(DownError(left).into())
}
