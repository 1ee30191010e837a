//! Ours: the load balancer of the `gatehouse` binary, with one worker and one target.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Result, bail};
use lb_userspace::{
    model::load_balancer::LoadBalancerKind, proxy::Proxy, snapshot::verdict::Verdicts, telemetry::Metrics,
};
use tokio::sync::{mpsc, watch};

use crate::slice::{Shape, slice};

/// Serves for ever.
pub(super) fn serve(address: SocketAddr, target: SocketAddr) -> Result<()> {
    let (SocketAddr::V4(address), SocketAddr::V4(target)) = (address, target) else { bail!("IPv4 only") };
    let slice = slice(&Shape {
        kind: LoadBalancerKind::Application,
        protocol: "HTTP",
        device: "lo",
        prefix_len: 8,
        router: *address.ip(),
        address,
        targets: &[target],
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (_verdicts, table) = watch::channel(Arc::new(Verdicts::default()));
        let (reports, _reports) = mpsc::channel(16);
        let mut proxy = Proxy::start(1, table, reports, Arc::new(Metrics::new()))?;
        proxy.apply(&Arc::new(slice)).await?;
        std::future::pending::<Result<()>>().await
    })
}
