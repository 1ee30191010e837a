//! The virtual driver: looks at what stands, plans, and carries the plan out.
//!
//! The host role calls `apply` with each slice. One step's failure stops only what needs it, and every failure is named:
//! the next slice, or the next try, plans again from what then stands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Write as _,
    os::fd::AsFd as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use thiserror::Error;

use super::{
    device::{DeviceError, End, Netlink, OWN_ROUTES_PRIORITY},
    namespace::{self, NamespaceError, within, within_or_here},
    offload,
    plan::{
        Bridge, Conflict, Interface, Ipv6, Kind, Network, Present, Return, Step, Uplink, UplinkLeg, mac,
        steps,
    },
    remnant,
};
use crate::snapshot::{host::HostSlice, names::UPLINK};

/// Keeps the namespaces, bridges and interfaces of one appliance on this host.
pub struct Virtual {
    appliance: String,
    uplink: Option<Uplink>,
    /// Filters put in force by this process; those of an earlier one are replaced by equal ones.
    filters: BTreeMap<String, String>,
    /// Ways of answers put in force by this process; those of an earlier one are replaced by equal ones.
    returns: BTreeMap<String, BTreeSet<Return>>,
    /// What was seen to stand as a whole, and when.
    seen: Option<(Network, Instant)>,
}

/// What came of applying a slice.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many steps were carried out.
    pub done: usize,
    /// What failed, or was not tried because something it needs failed; empty when all stands.
    pub failures: Vec<Failure>,
    /// What the slice asks for and cannot be had.
    pub conflicts: Vec<Conflict>,
    wanted: BTreeSet<String>,
    broken: BTreeSet<String>,
}

/// One step that did not happen.
#[derive(Debug)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// Why.
    pub error: StepError,
}

/// Why a step did not happen.
#[derive(Debug, Error)]
pub enum StepError {
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A device in it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A kernel setting.
    #[error("setting {setting}")]
    Setting {
        /// Its name.
        setting: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An offload.
    #[error("setting offloads of {device}")]
    Offload {
        /// The device.
        device: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// `nft` could not be run.
    #[error("running nft")]
    Filter(#[source] io::Error),
    /// `nft` refused the rules.
    #[error("nft refused the rules: {0}")]
    Rules(String),
    /// Something it needs did not happen.
    #[error("{0} is not as it must be")]
    Needs(String),
}

impl Applied {
    /// Whether this namespace and everything in it stands as the slice asks.
    pub fn stands(&self, namespace: &str) -> bool {
        let about = |subject: &String| {
            subject.strip_prefix(namespace).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.wanted.contains(namespace) && !self.broken.iter().any(about)
    }

    /// Whether all of the slice stands.
    pub fn is_whole(&self) -> bool {
        self.failures.is_empty() && self.conflicts.is_empty()
    }
}

impl Virtual {
    /// The driver of the appliance of this name; without `uplink`, nothing leaves a VPC.
    pub fn new(appliance: impl Into<String>, uplink: Option<Uplink>) -> Self {
        Self {
            appliance: appliance.into(),
            uplink,
            filters: BTreeMap::new(),
            returns: BTreeMap::new(),
            seen: None,
        }
    }

    /// Makes the host's networks what `slice` asks for. Blocks for some milliseconds per new interface.
    ///
    /// # Errors
    /// When what stands cannot be seen. What then fails to change is in the answer.
    pub fn apply(&mut self, slice: &HostSlice) -> Result<Applied, StepError> {
        let network = Network::of(slice, &self.appliance, self.uplink.as_ref());
        let mut applied = Applied {
            conflicts: network.conflicts.clone(),
            wanted: network.namespaces.keys().cloned().collect(),
            ..Applied::default()
        };
        // Most slices change what runs, not where: those cost nothing here.
        let seen = self.seen.take();
        if let Some((standing, when)) = seen
            && standing == network
            && when.elapsed() < LOOK_AGAIN
        {
            self.seen = Some((standing, when));
            return Ok(applied);
        }
        for step in self.plan(&network)? {
            let blocked = step.needs().into_iter().find(|need| applied.broken.contains(need));
            let outcome = match blocked {
                Some(need) => Err(StepError::Needs(need)),
                None => self.carry_out(&step),
            };
            match outcome {
                Ok(()) => {
                    tracing::debug!(%step, "network step done");
                    applied.done += 1;
                }
                Err(error) => {
                    tracing::warn!(%step, error = &error as &dyn std::error::Error, "network step failed");
                    applied.broken.insert(step.subject());
                    applied.failures.push(Failure { step, error });
                }
            }
        }
        if applied.failures.is_empty() {
            self.seen = Some((network, Instant::now()));
        }
        Ok(applied)
    }

    /// The steps that would make the host's networks what `network` says.
    ///
    /// # Errors
    /// When what stands cannot be seen.
    pub fn plan(&self, network: &Network) -> Result<Vec<Step>, StepError> {
        Ok(steps(network, &self.present()?))
    }

    /// What stands of this appliance.
    fn present(&self) -> Result<Present, StepError> {
        let mut present = Present::default();
        for name in remnant::namespaces(&self.appliance)? {
            // Half-made: not there, as far as a plan goes.
            if !namespace::exists(&name) {
                continue;
            }
            let devices = within(&name, || Netlink::open()?.devices())??;
            if let Some(rules) = self.filters.get(&name) {
                present.filters.insert(name.clone(), rules.clone());
            }
            if let Some(returns) = self.returns.get(&name) {
                present.returns.insert(name.clone(), returns.clone());
            }
            present.namespaces.insert(name, devices);
        }
        Ok(present)
    }

    /// Carries one step out.
    ///
    /// # Errors
    /// When the kernel or nft refuses. The step can be planned and tried again.
    pub fn carry_out(&mut self, step: &Step) -> Result<(), StepError> {
        match step {
            Step::RemoveDevice { namespace, device } => {
                Ok(within(namespace, || Netlink::open()?.remove(device))??)
            }
            Step::RemoveNamespace { namespace } => {
                self.filters.remove(namespace);
                self.returns.remove(namespace);
                remnant::remove_namespace(namespace)
            }
            Step::MakeNamespace { namespace, kind } => {
                self.filters.remove(namespace);
                namespace::make(namespace, || set_up(*kind))?;
                self.returns.insert(namespace.clone(), BTreeSet::new());
                Ok(())
            }
            Step::Filter { namespace, rules } => {
                within(namespace, || filter(rules))??;
                self.filters.insert(namespace.clone(), rules.clone());
                Ok(())
            }
            Step::MakeBridge(bridge) => within(&bridge.namespace, || make_bridge(bridge))?,
            Step::MakeUplink(leg) => make_uplink(leg),
            Step::MakeInterface(interface) => make_interface(interface),
            Step::ChangeBridge(bridge) => within(&bridge.namespace, || change_bridge(bridge))?,
            Step::ChangeInterface(interface) => change_interface(interface),
            Step::Return { namespace, kind, returns } => {
                // Until it is done, nothing is known of what is in force.
                self.returns.remove(namespace);
                within(namespace, || put_returns(*kind, returns))??;
                self.returns.insert(namespace.clone(), returns.clone());
                Ok(())
            }
        }
    }
}

/// Prepares a new namespace, on a thread inside it.
fn set_up(kind: Kind) -> Result<(), StepError> {
    settings(kind)?;
    Ok(Netlink::open()?.up("lo")?)
}

fn settings(kind: Kind) -> Result<(), StepError> {
    let of_kind: &[_] = match kind {
        Kind::Router => &[ROUTER_SETTINGS],
        Kind::Node => &[HOST_SETTINGS, NODE_SETTINGS],
        Kind::Host => &[HOST_SETTINGS],
    };
    let mut all = SETTINGS.iter().chain(of_kind.iter().copied().flatten());
    all.try_for_each(|(setting, value)| set_if_there(setting, value))
}

/// A setting of the thread's namespace, by its path below `/proc/sys`.
fn set(setting: &str, value: &str) -> Result<(), StepError> {
    fs::write(format!("/proc/sys/{setting}"), value)
        .map_err(|source| StepError::Setting { setting: setting.to_owned(), source })
}

/// Not every kernel has IPv6 or filters bridges, and then there is nothing to set.
fn set_if_there(setting: &str, value: &str) -> Result<(), StepError> {
    match set(setting, value) {
        Err(StepError::Setting { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Makes a node that an older version made forward as one does now.
fn forward() -> Result<(), StepError> {
    NODE_SETTINGS.iter().try_for_each(|(setting, value)| set_if_there(setting, value))?;
    // Redirects are sent if either the device's own setting says so or that of all, and a device keeps its own.
    for device in Netlink::open()?.devices()?.keys() {
        set_if_there(&format!("net/ipv4/conf/{device}/send_redirects"), "0")?;
    }
    Ok(())
}

/// Gives a device of the thread's namespace its IPv6 address, or takes it away; whatever it had goes.
fn settle_ipv6(netlink: &Netlink, device: &str, ipv6: Option<Ipv6>) -> Result<(), StepError> {
    let of = |name: &str| format!("net/ipv6/conf/{device}/{name}");
    set_if_there(&of("disable_ipv6"), "1")?;
    let Some(Ipv6 { address, prefix_len, .. }) = ipv6 else { return Ok(()) };
    // What a namespace sends to its own addresses passes by loopback.
    set("net/ipv6/conf/lo/disable_ipv6", "0")?;
    // Addresses are given out once, so nobody needs to be asked whether one is free; and ways are known.
    for (name, value) in [
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("accept_redirects", "0"),
        ("autoconf", "0"),
        ("disable_ipv6", "0"),
    ] {
        set(&of(name), value)?;
    }
    Ok(netlink.address6(device, address, prefix_len)?)
}

fn change_bridge(bridge: &Bridge) -> Result<(), StepError> {
    let netlink = Netlink::open()?;
    settle_bridge6(&netlink, bridge)?;
    Ok(netlink.mark(&bridge.device, &bridge.mark())?)
}

fn settle_bridge6(netlink: &Netlink, bridge: &Bridge) -> Result<(), StepError> {
    settle_ipv6(netlink, &bridge.device, bridge.ipv6)?;
    if bridge.ipv6.is_some() {
        set("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn change_interface(interface: &Interface) -> Result<(), StepError> {
    within(&interface.namespace, || settle_interface6(&Netlink::open()?, interface))??;
    Ok(within(&interface.vpc_namespace, || Netlink::open()?.mark(&interface.port, &interface.mark()))??)
}

fn settle_interface6(netlink: &Netlink, interface: &Interface) -> Result<(), StepError> {
    let table = u32::from(interface.address);
    netlink.forget_rules6(OWN_ROUTES_PRIORITY, table)?;
    settle_ipv6(netlink, &interface.device, interface.ipv6)?;
    if let Some(Ipv6 { address, prefix_len, router: Some(router) }) = interface.ipv6 {
        netlink.routes6(&interface.device, address, prefix_len, router, table)?;
    }
    Ok(())
}

/// Makes the ways of answers in the thread's namespace these, and no others. An older version may have made it.
fn put_returns(kind: Kind, returns: &BTreeSet<Return>) -> Result<(), StepError> {
    if kind == Kind::Node {
        forward()?;
    }
    let netlink = Netlink::open()?;
    for way in returns {
        netlink.return_route(way)?;
    }
    Ok(netlink.replace_rules(RETURN_PRIORITY, returns)?)
}

fn make_bridge(bridge: &Bridge) -> Result<(), StepError> {
    let netlink = Netlink::open()?;
    netlink.make_bridge(&bridge.device, bridge.address)?;
    netlink.address(&bridge.device, bridge.address, bridge.prefix_len)?;
    settle_bridge6(&netlink, bridge)?;
    Ok(netlink.mark(&bridge.device, &bridge.mark())?)
}

fn make_uplink(leg: &UplinkLeg) -> Result<(), StepError> {
    let outside = &leg.uplink;
    let place = outside.namespace.as_deref();
    let there = namespace::open_or_own(place)?;
    // The port of a namespace that was removed by hand goes only when the kernel gets to it.
    within_or_here(place, || Netlink::open()?.remove(&leg.port))??;
    within(&leg.namespace, || {
        let here = End { device: UPLINK, mac: Some(mac(leg.address)) };
        Netlink::open()?.make_pair(&here, &End { device: &leg.port, mac: None }, there.as_fd())
    })??;
    within_or_here(place, || {
        let netlink = Netlink::open()?;
        netlink.join(&leg.port, &outside.bridge)?;
        netlink.up(&leg.port)
    })??;
    within(&leg.namespace, || {
        let netlink = Netlink::open()?;
        netlink.address(UPLINK, leg.address, outside.cidr.prefix_len())?;
        netlink.up(UPLINK)?;
        netlink.default_route(UPLINK, outside.router, 0)?;
        netlink.mark(UPLINK, &leg.mark())
    })??;
    Ok(())
}

fn make_interface(interface: &Interface) -> Result<(), StepError> {
    let Interface { device, port, address, prefix_len, router, .. } = interface;
    let there = namespace::open_named(&interface.namespace)?;
    within(&interface.namespace, || Netlink::open()?.remove(device))??;
    within(&interface.vpc_namespace, || -> Result<(), StepError> {
        let netlink = Netlink::open()?;
        let end = End { device, mac: Some(mac(*address)) };
        netlink.make_pair(&End { device: port, mac: None }, &end, there.as_fd())?;
        netlink.join(port, &interface.bridge)?;
        offload_of(port, offload::receive_by_polling(port))?;
        // What was merged on the way in must not leave here with its checksum open.
        offload_of(port, offload::finish_checksums(port))?;
        Ok(netlink.up(port)?)
    })??;
    within(&interface.namespace, || -> Result<(), StepError> {
        let netlink = Netlink::open()?;
        if interface.finish_checksums {
            offload_of(device, offload::finish_checksums(device))?;
        }
        // A single address brings no route to its subnet along.
        netlink.address(device, *address, if interface.answers_only { 32 } else { *prefix_len })?;
        netlink.up(device)?;
        if !interface.answers_only {
            // Any order will do, as long as no two interfaces of a namespace share one.
            netlink.default_route(device, *router, u32::from(*address) & 0xffff)?;
        }
        netlink.own_routes(device, *address, *prefix_len, *router)?;
        settle_interface6(&netlink, interface)
    })??;
    Ok(within(&interface.vpc_namespace, || Netlink::open()?.mark(port, &interface.mark()))??)
}

fn offload_of(device: &str, outcome: io::Result<()>) -> Result<(), StepError> {
    outcome.map_err(|source| StepError::Offload { device: device.to_owned(), source })
}

/// Puts rules in force in the thread's namespace, all or none. nft alone knows how its language becomes netlink.
fn filter(rules: &str) -> Result<(), StepError> {
    let mut nft = Command::new("nft")
        .args(["--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(StepError::Filter)?;
    // Dropped at once, so that nft sees the end.
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(rules.as_bytes()).map_err(StepError::Filter)?;
    }
    let output = nft.wait_with_output().map_err(StepError::Filter)?;
    if output.status.success() {
        return Ok(());
    }
    Err(StepError::Rules(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Before the rules of addresses: an answer goes by the load balancer although its own address has routes.
const RETURN_PRIORITY: u32 = OWN_ROUTES_PRIORITY - 100;
/// How long what was seen to stand is believed to stand: somebody may remove it by hand.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Of every namespace.
const SETTINGS: &[(&str, &str)] = &[
    // Load balancers answer with addresses that the kernel did not route by.
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    // Roles and tasks are not root, and their ports are nobody else's here.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    // Where a subnet has no IPv6, half of one would only answer slowly.
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
];
/// Of a VPC's own namespace.
const ROUTER_SETTINGS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    // Two subnets behind one router are not on one wire.
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    // What stays on a bridge is no business of the router's filter.
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
];
/// Of a node's namespace, besides those of a namespace that holds interfaces.
const NODE_SETTINGS: &[(&str, &str)] = &[
    // What targets answer to somebody else than a load balancer's client comes here too, and goes on.
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
];
/// Of a namespace that holds interfaces.
const HOST_SETTINGS: &[(&str, &str)] = &[
    // One address per interface: each answers for its own only.
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
    // Nobody tells a target a shorter way past its load balancer.
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
];
