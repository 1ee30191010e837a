//! The gateway role: enters its namespace if it has one, binds, gives up everything, and serves HTTP APIs.

use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::subscription::{Subscription, subscribe};
use super::{notify, privilege};
use crate::config::Config;
use crate::gateway::{self, GatewayConfig};
use crate::http::listen;
use crate::network;
use crate::snapshot::{envelope::RoleId, gateway::GatewaySlice};
use crate::telemetry::{Metrics, expose::expose};

/// The gateway's namespace is made by whoever configured it, before the appliance starts.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the role until SIGTERM.
///
/// # Errors
/// When an address cannot be listened on or privileges cannot be given up.
pub fn run(config: Config) -> Result<(), Box<dyn Error>> {
    if let Some(namespace) = &config.gateway.namespace {
        network::enter(namespace, NAMESPACE_TIMEOUT)?;
    }
    let workers = match config.gateway.workers {
        0 => std::thread::available_parallelism()?.get(),
        given => given,
    };
    // One thread: capabilities are a thread's own, and are given up below.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let mut public = Vec::new();
    for address in &config.gateway.listen {
        for _ in 0..workers {
            public.push(bound(*address)?);
        }
    }
    let lanes = bound(config.gateway.lanes)?;
    let metrics_listener = config.gateway.metrics.map(TcpListener::bind).transpose()?;
    drop(inside);
    privilege::become_user(config.uid_of(&RoleId::Gateway), &[])?;
    runtime.block_on(async {
        let metrics = Arc::new(Metrics::new());
        if let Some(listener) = metrics_listener {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(expose(listener, Arc::clone(&metrics)));
        }
        let Subscription { slices, reports } = subscribe::<GatewaySlice>(&config, RoleId::Gateway);
        let mut terminate = signal(SignalKind::terminate())?;
        notify::ready();
        let served = gateway::run::run(
            GatewayConfig { public, lanes, workers },
            slices,
            reports,
            metrics,
            async move {
                terminate.recv().await;
            },
        );
        Ok(served.await?)
    })
}

fn bound(address: std::net::SocketAddr) -> Result<TcpListener, Box<dyn Error>> {
    listen::bind(address)
        .and_then(tokio::net::TcpListener::into_std)
        .map_err(|error| format!("listening on {address}: {error}").into())
}
