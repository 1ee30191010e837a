//! `gatehouse supervise`: under systemd, starts and stops the units of nodes and links that the state asks for.
//!
//! `gatehouse run` does the same with child processes. Here systemd keeps what was started running, and this role only
//! says what that is. Nodes and links go on when it ends.

use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::notify;
use super::subscription::{Subscription, subscribe};
use super::supervisor::{forget_nodes, write_ready_file};
use super::units::{link_unit, node_unit};
use crate::config::Config;
use crate::snapshot::{envelope::RoleId, host::SupervisorSlice};

/// What systemctl would not do is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Why a unit did not start or stop.
#[derive(Debug, thiserror::Error)]
enum UnitError {
    #[error("starting systemctl")]
    Start(#[source] io::Error),
    #[error("systemctl {words}: {said}")]
    Refused { words: String, said: String },
}

/// Runs the role until SIGTERM.
///
/// # Errors
/// When signals cannot be had.
pub async fn run(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let Subscription { mut slices, reports: _reports } =
        subscribe::<SupervisorSlice>(config, RoleId::Supervisor);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ready = Box::pin(write_ready_file(config));
    let (mut is_ready, mut retry) = (false, false);
    notify::ready();
    loop {
        tokio::select! {
            Ok(()) = slices.changed() => {}
            () = tokio::time::sleep(RETRY), if retry => {}
            written = &mut ready, if !is_ready => {
                written?;
                is_ready = true;
                continue;
            }
            _ = terminate.recv() => break,
        }
        let received = slices.borrow_and_update().clone();
        let Some(received) = received else { continue };
        retry = match follow(config, &received.slice).await {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "units do not follow the state");
                true
            }
        };
    }
    Ok(())
}

async fn follow(config: &Config, slice: &SupervisorSlice) -> Result<(), UnitError> {
    let nodes = slice.nodes.keys().map(|vpc| node_unit(vpc.as_str()));
    let links = slice.links.keys().map(|link| link_unit(link.as_str()));
    let wanted: BTreeSet<String> = nodes.chain(links).collect();
    let running = running().await?;
    for unit in running.difference(&wanted) {
        tracing::info!(unit, "stopping");
        systemctl(&["stop", unit]).await?;
    }
    forget_nodes(config, slice);
    for unit in wanted.difference(&running) {
        tracing::info!(unit, "starting");
        // What takes long to start must not keep the others waiting; systemd tries again for ever.
        systemctl(&["start", "--no-block", unit]).await?;
    }
    Ok(())
}

/// Units of nodes and links that run, or are about to.
async fn running() -> Result<BTreeSet<String>, UnitError> {
    let [nodes, links] = [node_unit("*"), link_unit("*")];
    let states = "--state=active,activating,reloading";
    let listed = systemctl(&["list-units", "--plain", "--no-legend", states, &nodes, &links]).await?;
    Ok(listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

async fn systemctl(words: &[&str]) -> Result<String, UnitError> {
    let output = Command::new("systemctl")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(UnitError::Start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(UnitError::Refused { words: words.join(" "), said })
}
