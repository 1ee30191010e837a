//! A slice compiled for the workers: listeners with their TLS, groups with their targets, who came through which link.
//!
//! Compiled once per slice and shared by all workers. A target that stays is the same [`Target`] in the next view, so its
//! connections are counted across views and workers; a listener whose TLS did not change keeps it, and its tickets even
//! when it did.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    counters::Counters,
    group::{Group, Target},
    run::Limits,
};
use crate::{
    identity::{
        listener_tls::{self, ListenerTls, Tickets, alpn_protocols},
        tls::TlsError,
        tls_policy,
    },
    model::{
        id::{Arn, VpcLinkId},
        load_balancer::{Action, LoadBalancerKind},
        target_group::TargetKey,
    },
    snapshot::{
        gateway::RoleCertificate,
        node::{ListenerView, LoadBalancerView, NodeInterface, NodeSlice, TargetView, TlsView},
        permit::{self, Permit},
        spread::crosses_zones,
    },
    telemetry::Metrics,
};

/// All that the workers need.
#[derive(Default)]
pub struct View {
    /// Listeners by ARN.
    pub listeners: BTreeMap<Arn, Arc<Listener>>,
    /// Listeners whose new connections are the packet path's, by their port on each address: one that ended here before
    /// keeps the connections that it has.
    pub forwarded: HashSet<SocketAddr>,
    /// Target groups of network load balancers by ARN.
    pub groups: BTreeMap<Arn, Arc<Group>>,
    /// Links by the addresses that they connect from.
    pub links: HashMap<Ipv4Addr, VpcLinkId>,
    /// Targets that are gone since the view before, whose connections end with them.
    pub ended: Vec<Arc<Target>>,
    terminators: BTreeMap<Arn, Terminator>,
}

/// A listener that ends in userspace.
pub struct Listener {
    /// Where it listens: its port on each address of each interface.
    pub ends: BTreeMap<SocketAddr, ListenerEnd>,
    /// Its port.
    pub port: u16,
    /// TLS with clients; none on a TCP listener.
    pub tls: Option<Arc<ListenerTls>>,
    /// The groups that it forwards to, and their weights.
    pub groups: Vec<(Arn, u16)>,
    /// Nothing moved for so long: ended.
    pub idle_timeout: Duration,
    /// Connections that may begin in a second (`gatehouse.new_flows_per_second`).
    pub new_flows_per_s: Option<u32>,
    /// The load balancer's name, for logs.
    pub load_balancer: String,
    /// What its security groups admit; without any, everyone.
    ingress: Option<Vec<Permit>>,
    interfaces: Vec<NodeInterface>,
    /// Whether the interfaces are the host's own, whose networks nothing may join.
    is_on_host: bool,
}

/// One address of a listener.
#[derive(Clone)]
pub struct ListenerEnd {
    /// The zone of its interface.
    pub zone: Arc<str>,
    /// What is counted there.
    pub counters: Arc<Counters>,
}

/// A listener's TLS with what it was made of.
#[derive(Clone)]
struct Terminator {
    view: TlsView,
    certificates: Vec<RoleCertificate>,
    tickets: Tickets,
    tls: Arc<ListenerTls>,
}

/// A listener whose TLS cannot be made.
pub struct Broken {
    /// The listener.
    pub listener: Arn,
    /// Why.
    pub error: TlsError,
}

impl View {
    /// Compiles a slice. What did not change is `before`'s; a listener whose new TLS cannot be made goes on with the one
    /// that it had.
    pub fn compile(
        slice: &NodeSlice,
        before: &Self,
        limits: &Limits,
        metrics: &Metrics,
    ) -> (Self, Vec<Broken>) {
        let mut view = Self { groups: groups(slice, before, metrics), ..Self::default() };
        let mut broken = Vec::new();
        for (arn, listener) in &slice.listeners {
            let Some(load_balancer) = slice.load_balancers.get(&listener.load_balancer) else { continue };
            if load_balancer.kind != LoadBalancerKind::Network {
                continue;
            }
            if !slice.ends_in_userspace(listener) {
                let addresses = load_balancer.interfaces.values().flat_map(addresses);
                view.forwarded.extend(addresses.map(|address| SocketAddr::new(address, listener.port)));
                continue;
            }
            let mut terminator = before.terminators.get(arn).cloned();
            if let Some(tls) = &listener.tls {
                match Terminator::make(tls, slice, terminator.as_ref()) {
                    Ok(made) => terminator = Some(made),
                    Err(error) => {
                        broken.push(Broken { listener: arn.clone(), error });
                        if terminator.is_none() {
                            continue;
                        }
                    }
                }
            }
            let terminator = terminator.filter(|_| listener.tls.is_some());
            let tls = terminator.as_ref().map(|own| own.tls.clone());
            let known = before.listeners.get(arn);
            let listener = Listener::new(slice, listener, load_balancer, tls, known, limits, metrics);
            view.listeners.insert(arn.clone(), Arc::new(listener));
            view.terminators.extend(terminator.map(|own| (arn.clone(), own)));
        }
        for (link, addresses) in &slice.links {
            view.links.extend(addresses.iter().map(|address| (*address, link.clone())));
        }
        view.ended = view.ended_since(before);
        (view, broken)
    }

    fn ended_since(&self, before: &Self) -> Vec<Arc<Target>> {
        let is_kept = |arn: &Arn, target: &Arc<Target>| {
            self.groups.get(arn).is_some_and(|group| group.targets.contains(target))
        };
        let groups = before.groups.values().filter(|group| group.ends_with_targets());
        groups
            .flat_map(|group| group.targets.iter().filter(|target| !is_kept(&group.arn, target)))
            .cloned()
            .collect()
    }

    /// Flows now of the listener at an address.
    pub fn active_flows(&self, address: SocketAddr) -> u64 {
        let ends = self.listeners.values().filter_map(|listener| listener.ends.get(&address));
        ends.map(|end| end.counters.active()).sum()
    }

    /// Connections that a target of a group still has here.
    pub fn connections_of(&self, group: &Arn, target: &TargetKey) -> usize {
        let targets = self.groups.get(group).into_iter().flat_map(|group| &group.targets);
        targets.filter(|own| own.key == *target).map(|own| own.connections()).sum()
    }
}

/// The groups of network load balancers, those that no listener uses now included: connections to their targets go on.
fn groups(slice: &NodeSlice, before: &View, metrics: &Metrics) -> BTreeMap<Arn, Arc<Group>> {
    let mut users = BTreeMap::new();
    for listener in slice.listeners.values() {
        if let Some(load_balancer) = slice.load_balancers.get(&listener.load_balancer) {
            let groups = listener.default_actions.iter().flat_map(Action::groups);
            users.extend(groups.map(|arn| (arn, load_balancer)));
        }
    }
    let nobody = Default::default();
    let of_network = slice.target_groups.iter().filter(|(_, group)| !group.protocol.starts_with("HTTP"));
    of_network
        .map(|(arn, view)| {
            let user = users.get(arn);
            let crosses_zones =
                crosses_zones(&view.attributes, user.map_or(&nobody, |user| &user.attributes));
            let is_barred = |target: &&TargetView| {
                let to = SocketAddr::new(target.address, target.key.port);
                user.is_some_and(|user| !slice.may_send(user, permit::TCP, to))
            };
            let barred: BTreeSet<_> =
                view.targets.values().filter(is_barred).map(|target| target.key.clone()).collect();
            let known = before.groups.get(arn);
            let same = known.filter(|own| {
                own.view == *view && own.crosses_zones == crosses_zones && own.barred == barred
            });
            let group = same.cloned().unwrap_or_else(|| {
                let target = |key: &TargetKey| {
                    known.and_then(|group| group.targets.iter().find(|own| own.key == *key).cloned())
                };
                Arc::new(Group::new(arn, view, crosses_zones, barred, metrics, target))
            });
            (arn.clone(), group)
        })
        .collect()
}

fn addresses(interface: &NodeInterface) -> impl Iterator<Item = IpAddr> {
    let ipv6 = interface.ipv6.map(|own| IpAddr::from(own.address));
    [Some(IpAddr::from(interface.address)), ipv6].into_iter().flatten()
}

impl Terminator {
    fn make(view: &TlsView, slice: &NodeSlice, before: Option<&Self>) -> Result<Self, TlsError> {
        // The default certificate must be there; of the others, those that are.
        let named = view.certificates.iter().enumerate();
        let certificates = named
            .filter_map(|(place, arn)| match (slice.certificates.get(arn), place) {
                (None, 0) => Some(Err(TlsError::Certificate)),
                (found, _) => found.cloned().map(Ok),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(same) = before.filter(|own| own.view == *view && own.certificates == certificates) {
            return Ok(same.clone());
        }
        let policy = tls_policy::find(&view.policy).ok_or_else(|| {
            TlsError::Config(rustls::Error::General(format!("there is no policy {:?}", view.policy)))
        })?;
        let alpn = view.alpn.as_deref().and_then(alpn_protocols).unwrap_or_default();
        let tickets = before.map_or_else(listener_tls::tickets, |before| Ok(before.tickets.clone()))?;
        let tls = Arc::new(ListenerTls::new(policy, &certificates, alpn, tickets.clone())?);
        Ok(Self { view: view.clone(), certificates, tickets, tls })
    }
}

impl Listener {
    fn new(
        slice: &NodeSlice,
        view: &ListenerView,
        load_balancer: &LoadBalancerView,
        tls: Option<Arc<ListenerTls>>,
        before: Option<&Arc<Self>>,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Self {
        let end = |address: IpAddr, zone: &str| {
            let address = SocketAddr::new(address, view.port);
            let known = before.and_then(|before| before.ends.get(&address));
            let known = known.map(|end| end.counters.clone()).filter(|own| own.are_tls() == tls.is_some());
            let counters = known.unwrap_or_else(|| {
                let labels = vec![
                    ("LoadBalancer", load_balancer.name.clone()),
                    ("AvailabilityZone", zone.to_owned()),
                    ("Listener", address.to_string()),
                ];
                Arc::new(Counters::of(metrics, labels, tls.is_some()))
            });
            (address, ListenerEnd { zone: Arc::from(zone), counters })
        };
        let ends = load_balancer
            .interfaces
            .values()
            .flat_map(|interface| addresses(interface).map(|address| end(address, &interface.zone)));
        let number = |key: &str| view.attributes.get(key).and_then(|text| text.parse().ok());
        let idle_timeout =
            number("tcp.idle_timeout.seconds").filter(|_| tls.is_none()).map(Duration::from_secs);
        let groups = match view.default_actions.last() {
            Some(Action::Forward(groups)) => {
                groups.iter().map(|group| (group.target_group_arn.clone(), group.weight)).collect()
            }
            _ => Vec::new(),
        };
        let admitted = load_balancer.security_groups.iter().filter_map(|id| slice.security_groups.get(id));
        let ingress: Vec<Permit> = admitted.flat_map(|group| group.ingress.iter().cloned()).collect();
        Self {
            ends: ends.collect(),
            port: view.port,
            groups,
            idle_timeout: idle_timeout.unwrap_or(limits.idle_timeout),
            new_flows_per_s: number("gatehouse.new_flows_per_second")
                .and_then(|number: u64| u32::try_from(number).ok()),
            load_balancer: load_balancer.name.clone(),
            ingress: (!load_balancer.security_groups.is_empty()).then_some(ingress),
            interfaces: load_balancer.interfaces.values().cloned().collect(),
            is_on_host: slice.is_on_host(),
            tls,
        }
    }

    /// Whether security groups let `peer` in. The packet path has asked the same; before it is attached, only this does.
    pub fn admits(&self, peer: IpAddr) -> bool {
        let admits = |permits| permit::is_admitted(permits, permit::TCP, self.port, peer);
        self.ingress.as_ref().is_none_or(admits)
    }

    /// From which of the load balancer's addresses a target is spoken to, for a connection that came in at `accepted`:
    /// from [`Self::source`], then from the further ones of its interface, if it has no port left.
    pub fn sources(&self, accepted: IpAddr, target: IpAddr) -> impl Iterator<Item = Option<IpAddr>> {
        let first = self.source(accepted, target);
        let is_first = |own: &&NodeInterface| Some(IpAddr::from(own.address)) == first;
        let secondary = self.interfaces.iter().find(is_first).into_iter().flat_map(|own| &own.secondary);
        std::iter::once(first).chain(secondary.map(|own| Some(own.address.into())))
    }

    /// From that address, or the same interface's of the target's family, unless the target is on the network of another
    /// and nothing may lead there from this one.
    pub fn source(&self, accepted: IpAddr, target: IpAddr) -> Option<IpAddr> {
        let is_own = |interface: &&NodeInterface| interface.address_towards(accepted) == Some(accepted);
        let own = self.interfaces.iter().find(is_own);
        let mut nearest = own.into_iter().chain(&self.interfaces);
        let beside = self.is_on_host.then(|| nearest.find_map(|interface| interface.address_beside(target)));
        beside.flatten().or_else(|| own?.address_towards(target))
    }
}
