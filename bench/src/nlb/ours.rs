//! Ours: the packet path of the node role, without a control plane.

use std::{
    net::SocketAddrV4,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use gatehouse_tests::lab::netns::Netns;
use lb_userspace::{
    model::load_balancer::LoadBalancerKind,
    packet::{Balancer, Options, Verdict, plan},
};

use super::{
    BALANCER, PORT, TARGETS,
    bed::{DEVICE, PREFIX, log},
};
use crate::{
    process::{Process, own},
    slice::{Shape, slice},
};

/// Starts `serve` in a namespace, with a BPF file system that goes with it, and with that the pinned program.
pub(super) fn start(host: &Netns, directory: &Path) -> Result<Option<Process>> {
    let own = own("nlb")?;
    let mut command = host.command("unshare");
    command
        .args(["--mount", "--", "sh", "-c", "mount -t bpf bpf \"$0\" && exec \"$@\" \"$0\""])
        .arg(directory)
        .arg(own.get_program())
        .args(own.get_args());
    Process::start_tree(&mut command, &log(directory)).map(Some)
}

/// Balances for ever.
pub(super) fn serve(directory: &Path) -> Result<()> {
    let slice = slice(&Shape {
        kind: LoadBalancerKind::Network,
        protocol: "TCP",
        device: DEVICE,
        prefix_len: PREFIX,
        router: BALANCER,
        address: SocketAddrV4::new(BALANCER, PORT),
        targets: &TARGETS,
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = Options { flow_entries: FLOW_ENTRIES, ..Options::default() };
        let mut balancer = Balancer::open(directory, &options, Instant::now())?;
        balancer.apply(plan(&slice, |_, _| Verdict::Healthy))?;
        let mut house = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                reacted = balancer.react() => reacted?,
                _ = house.tick() => balancer.housekeep(Instant::now())?,
            }
        }
    })
}

/// Room for a million flows: what is closed stays for some seconds, and a second brings tens of thousands.
const FLOW_ENTRIES: u32 = 1 << 21;
