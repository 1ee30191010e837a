//! The node role: one VPC's load balancers and its resolver. It enters the node's namespace, or stays in the host's, keeps
//! the capabilities that XDP needs, and joins the prober, the packet path, the listeners of userspace and the proxy
//! over one table of verdicts.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caps::Capability;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::admin;
use super::subscription::{Subscription, subscribe};
use super::{notify, privilege};
use crate::config::Config;
use crate::health::{Prober, Zones};
use crate::http::listen;
use crate::model::{
    id::{Arn, VpcId},
    target_group::TargetKey,
};
use crate::network::{self, places, plan::Devices};
use crate::packet::{self, Balancer, Exporter, Limits, Options};
use crate::proxy::Proxy;
use crate::registry::Resolver;
use crate::snapshot::{
    envelope::{Received, RoleId},
    node::NodeSlice,
    report::Report,
    verdict::Verdicts,
};
use crate::stream::{self, Streams};
use crate::telemetry::{Metrics, expose::expose};

/// What loading, attaching and feeding XDP programs needs; nothing else is kept.
const KEPT: &[Capability] =
    &[Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_PERFMON];
/// On the host, low ports are not everybody's.
const KEPT_ON_HOST: &[Capability] = &[
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_NET_RAW,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_BIND_SERVICE,
];
/// How long the host role may take to make the namespace; the supervisor starts the role again after that.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a part of the flow tables is swept.
const HOUSEKEEPING: Duration = Duration::from_millis(125);
/// How often counters are read.
const EXPORT: Duration = Duration::from_secs(1);
/// How often the host's interfaces are looked at, where the node works on those.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Requests in hand when the role stops may take this long.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Runs the role until SIGTERM. The packet path stays in the kernel, and the next start adopts it.
///
/// # Errors
/// When the namespace does not appear, privileges cannot be given up, the kernel program cannot be loaded, or the host
/// lacks what working in its own namespace takes.
pub fn run(config: Config, vpc: VpcId, namespace: Option<&str>) -> Result<(), Box<dyn Error>> {
    if let Some(namespace) = namespace {
        network::enter(namespace, NAMESPACE_TIMEOUT)?;
    }
    let role = RoleId::Node(vpc.clone());
    privilege::raise_open_files();
    // Root's, so that it is bound before the role is not root any more. Without it the role works all the same.
    let socket = config.admin_socket(&role);
    let admin = admin::bind(&socket)
        .inspect_err(|error| tracing::warn!(path = %socket.display(), %error, "there is no admin socket"));
    if config.network.interfaces().is_some() {
        privilege::become_user(config.uid_of(&role), KEPT_ON_HOST)?;
        listen::check_port_ranges()?;
    } else {
        privilege::become_user(config.uid_of(&role), KEPT)?;
        packet::attach::reserve_ports();
        packet::syn_ack::set_up();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(&config, &vpc, role, admin.ok()))
}

async fn serve(
    config: &Config,
    vpc: &VpcId,
    role: RoleId,
    admin: Option<UnixListener>,
) -> Result<(), Box<dyn Error>> {
    let metrics = Arc::new(Metrics::new());
    if let Some(port) = config.node.metrics_port {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => drop(tokio::spawn(expose(listener, Arc::clone(&metrics)))),
            // On the host, the node of another VPC may have it: traffic matters more.
            Err(error) if config.network.interfaces().is_some() => {
                tracing::warn!(port, %error, "metrics are not served");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let directory = config.role_dir(&role);
    let Subscription { mut slices, reports } = subscribe::<NodeSlice>(config, role);
    let prober = Prober::start(Some(&directory), reports.clone(), Arc::clone(&metrics))?;
    let mut verdicts = prober.verdicts();
    let proxy = Proxy::start(config.node.workers, verdicts.clone(), reports.clone(), Arc::clone(&metrics))?;
    let resolver = Resolver::start(config.node.dns_forward.clone(), &metrics)?;
    let streams = Streams::start(
        config.node.workers,
        verdicts.clone(),
        Arc::clone(&metrics),
        stream::Limits::default(),
    )?;
    let pins = config.bpffs_dir().join(vpc.as_str());
    let limits = Limits {
        new_flows_per_s: config.node.new_flows_per_second.map(NonZeroU32::get),
        new_flows_per_source: config.node.new_flows_per_source.map(NonZeroU32::get),
    };
    let clients = config.node.steer_local_clients.then(|| places::clients(&config.name)).flatten();
    let mut options = Options { limits, clients, ..Options::default() };
    if let Some(flows) = config.node.flows {
        // Two entries each.
        options.flow_entries = flows.saturating_mul(2);
    }
    let balancer = Balancer::open(&pins, &options, Instant::now())?;
    tracing::info!(%vpc, adopted = balancer.is_adopted(), "packet path is up");
    let mut node = Node {
        received: None,
        slice: None,
        listed: config.network.interfaces().map(<[String]>::to_vec),
        refused: Vec::new(),
        prober,
        proxy,
        resolver,
        streams,
        balancer,
        exporter: Exporter::new(Arc::clone(&metrics)),
        zones: Zones::new(metrics),
        verdicts: verdicts.clone(),
        drained: BTreeSet::new(),
        reports,
    };
    let (orders, mut ordered) = mpsc::channel(admin::ORDER_QUEUE);
    if let Some(admin) = admin {
        admin::serve(admin, orders)?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    notify::ready();
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut export = tokio::time::interval(EXPORT);
    export.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = tokio::time::interval(LOOK_AGAIN);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Ok(()) = slices.changed() => {
                let received = slices.borrow_and_update().clone();
                if let Some(received) = received {
                    node.receive(received).await;
                }
            }
            _ = look.tick(), if node.listed.is_some() => node.look_again().await,
            Ok(()) = verdicts.changed() => {
                verdicts.mark_unchanged();
                // What fails is logged there, and tried again with the next change.
                let _ = node.plan_packets();
            }
            Some(order) = ordered.recv() => order.carry_out(&mut node.balancer),
            reacted = node.balancer.react() => log(reacted, "following a change around the node"),
            _ = housekeeping.tick() => log(node.balancer.housekeep(Instant::now()), "keeping the flow tables"),
            _ = export.tick() => node.report().await,
            _ = terminate.recv() => break,
        }
    }
    tokio::join!(node.proxy.stop(STOP_GRACE), node.streams.stop(STOP_GRACE), node.resolver.stop());
    Ok(())
}

struct Node {
    /// As control sent it.
    received: Option<Arc<Received<NodeSlice>>>,
    /// As it is applied.
    slice: Option<Arc<NodeSlice>>,
    /// The host's interfaces that may be used, where the node works on those.
    listed: Option<Vec<String>>,
    /// What has no place on the host, to be said once.
    refused: Vec<String>,
    prober: Prober,
    proxy: Proxy,
    resolver: Resolver,
    streams: Streams,
    balancer: Balancer,
    exporter: Exporter,
    zones: Zones,
    verdicts: watch::Receiver<Arc<Verdicts>>,
    /// Draining targets that were already reported as having nothing left.
    drained: BTreeSet<(Arn, TargetKey)>,
    reports: mpsc::Sender<Report>,
}

impl Node {
    async fn receive(&mut self, received: Arc<Received<NodeSlice>>) {
        let slice = self.place(&received.slice);
        let generation = received.generation;
        self.received = Some(received);
        self.apply(Arc::new(slice), generation).await;
    }

    /// Follows what others changed on the host's interfaces.
    async fn look_again(&mut self) {
        let Some(received) = self.received.clone() else { return };
        let slice = self.place(&received.slice);
        if self.slice.as_deref() != Some(&slice) {
            tracing::info!("the host's interfaces changed");
            self.apply(Arc::new(slice), received.generation).await;
        } else {
            // Its routes may have changed.
            let _ = self.plan_packets();
        }
    }

    /// The slice as this host has it: unchanged in a namespace of the node's own.
    fn place(&mut self, slice: &NodeSlice) -> NodeSlice {
        let Some(listed) = &self.listed else { return slice.clone() };
        let devices = network::devices().unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn Error, "interfaces of this host cannot be seen");
            Devices::new()
        });
        let (placed, refused) = network::plan::place(slice, listed, &devices);
        if refused != self.refused {
            for refusal in &refused {
                tracing::error!(refusal, "a load balancer has no place on this host");
            }
            self.refused = refused;
        }
        placed
    }

    /// Applies a slice everywhere; it is acknowledged once nothing new goes where it no longer should.
    async fn apply(&mut self, slice: Arc<NodeSlice>, generation: u64) {
        self.prober.apply(&slice);
        self.slice = Some(Arc::clone(&slice));
        let applied = [
            // Sockets are open before packets are passed to them, and closed after.
            served(self.streams.apply(&slice).await),
            self.plan_packets(),
            served(self.streams.retire().await),
            served(self.proxy.apply(&slice).await),
            served(self.resolver.apply(slice.resolver.as_ref()).await),
        ];
        let report = match applied.into_iter().find_map(Result::err) {
            None => Report::Applied { generation },
            Some(reason) => Report::Refused { generation, reason },
        };
        let _ = self.reports.send(report).await;
    }

    /// Makes the packet path what slice and verdicts say.
    fn plan_packets(&mut self) -> Result<(), String> {
        let Some(slice) = &self.slice else { return Ok(()) };
        let verdicts = Arc::clone(&self.verdicts.borrow());
        let mut plan = packet::plan(slice, |group, target| health(slice, &verdicts, group, target));
        if let Some(listed) = &self.listed {
            plan.routes = ways(&plan, listed);
        }
        self.balancer.apply(plan).map_err(|error| {
            tracing::error!(error = &error as &dyn Error, "packet path does not follow");
            error.to_string()
        })
    }

    /// Tells what was counted, and who has drained.
    async fn report(&mut self) {
        let Some(slice) = self.slice.clone() else { return };
        self.streams.tell();
        self.zones.tell(&slice, &self.verdicts.borrow());
        match self.balancer.counters() {
            Ok(counters) => self.exporter.export(&counters, &slice, Instant::now()),
            Err(error) => tracing::warn!(error = &error as &dyn Error, "counters cannot be read"),
        }
        self.report_drained(&slice).await;
    }

    /// A draining target of a network load balancer that has no flow left, in the kernel or in userspace, is done before
    /// its delay is over. The proxy reports those of application load balancers.
    async fn report_drained(&mut self, slice: &NodeSlice) {
        let mut draining = BTreeSet::new();
        let groups = slice.target_groups.iter().filter(|(_, group)| !group.protocol.starts_with("HTTP"));
        for (arn, group) in groups {
            for target in group.targets.values().filter(|target| target.draining_until.is_some()) {
                let is_idle = self.balancer.flows_of_target(arn, &target.key) == Some(0)
                    && self.streams.connections_of(arn, &target.key) == 0;
                if is_idle {
                    draining.insert((arn.clone(), target.key.clone()));
                }
            }
        }
        for (target_group, target) in draining.difference(&self.drained) {
            let report = Report::TargetDrained { target_group: target_group.clone(), target: target.clone() };
            let _ = self.reports.send(report).await;
        }
        self.drained = draining;
    }
}

/// What the packet path is told of a target's health.
fn health(slice: &NodeSlice, verdicts: &Verdicts, group: &Arn, target: &TargetKey) -> packet::Verdict {
    let view = slice.target_groups.get(group).and_then(|view| view.targets.get(&target.to_string()));
    view.map_or(packet::Verdict::Unknown, |view| verdicts.health(group, view))
}

/// The host's ways to targets that are not on the load balancers' networks, by interfaces that may be used.
fn ways(plan: &packet::Plan, listed: &[String]) -> BTreeMap<IpAddr, network::Route> {
    let strangers = plan.strangers();
    if strangers.is_empty() {
        return BTreeMap::new();
    }
    let found = network::devices().and_then(|mut devices| {
        devices.retain(|device, _| listed.contains(device));
        network::routes(strangers, &devices)
    });
    found.unwrap_or_else(|error| {
        tracing::error!(error = &error as &dyn Error, "the host's routes cannot be seen");
        BTreeMap::new()
    })
}

fn served(result: Result<(), impl Error + 'static>) -> Result<(), String> {
    result.map_err(|error| {
        tracing::error!(error = &error as &dyn Error, "slice is not served entirely");
        error.to_string()
    })
}

fn log(result: Result<(), packet::BalancerError>, doing: &str) {
    if let Err(error) = result {
        tracing::error!(error = &error as &dyn Error, "{doing} failed");
    }
}
