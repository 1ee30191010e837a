//! The link role: enters the link's namespace, gives up everything else, and carries lanes into the VPC.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::subscription::{Subscription, subscribe};
use super::{notify, privilege};
use crate::config::Config;
use crate::model::id::VpcLinkId;
use crate::network;
use crate::snapshot::{envelope::RoleId, link::LinkSlice};
use crate::telemetry::{Metrics, expose::expose};
use crate::tunnel::agent;

/// How long the host role may take to make the namespace; the supervisor starts the role again after that.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the role until SIGTERM.
///
/// # Errors
/// When the namespace does not appear or privileges cannot be given up.
pub fn run(config: Config, link: VpcLinkId, namespace: &str) -> Result<(), Box<dyn Error>> {
    network::enter(namespace, NAMESPACE_TIMEOUT)?;
    let role = RoleId::Link(link);
    privilege::become_user(config.uid_of(&role), &[])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let metrics = Arc::new(Metrics::new());
        if let Some(port) = config.link.metrics_port {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
            tokio::spawn(expose(listener, Arc::clone(&metrics)));
        }
        let Subscription { slices, reports } = subscribe::<LinkSlice>(&config, role);
        let mut terminate = signal(SignalKind::terminate())?;
        notify::ready();
        agent::run(slices, reports, metrics, async move {
            terminate.recv().await;
        })
        .await;
        Ok(())
    })
}
