//! A slice compiled for the workers: listeners with their TLS, groups with their targets, who came through which link.
//!
//! Compiled once per slice and shared by all workers. A target that stays registered is the same [`Target`] in the next
//! view, so its connections are counted across views and workers; a listener whose TLS did not change keeps it, and its
//! tickets even when it did.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;

use super::{counters::Counters, run::Limits};
use crate::{
    identity::{
        listener_tls::{self, ListenerTls, Tickets, alpn_protocols},
        tls::TlsError,
        tls_policy,
    },
    model::{
        id::{Arn, VpcLinkId},
        load_balancer::{Action, LoadBalancerKind},
        target_group::{TargetHealthState, TargetKey},
    },
    snapshot::{
        gateway::RoleCertificate,
        node::{
            ListenerView, LoadBalancerView, NodeInterface, NodeSlice, TargetGroupView, TargetView, TlsView,
        },
        permit::{self, Permit},
        verdict::Verdicts,
    },
    telemetry::{Metrics, name},
};

/// All that the workers need.
#[derive(Default)]
pub struct View {
    /// Listeners by ARN.
    pub listeners: BTreeMap<Arn, Arc<Listener>>,
    /// Target groups of network load balancers by ARN.
    pub groups: BTreeMap<Arn, Arc<Group>>,
    /// Links by the addresses that they connect from.
    pub links: HashMap<Ipv4Addr, VpcLinkId>,
    /// Targets that are gone since the view before, whose connections end with them.
    pub ended: Vec<Arc<Target>>,
    targets: HashMap<TargetId, Arc<Target>>,
    terminators: BTreeMap<Arn, Terminator>,
}

type TargetId = (Arn, TargetKey);

/// A listener that ends in userspace.
pub struct Listener {
    /// Where it listens: its port on each interface, with what is counted there.
    pub ends: BTreeMap<SocketAddr, Arc<Counters>>,
    /// Its port.
    pub port: u16,
    /// TLS with clients; none on a TCP listener.
    pub tls: Option<Arc<ListenerTls>>,
    /// The groups that it forwards to, and their weights.
    pub groups: Vec<(Arn, u16)>,
    /// Nothing moved for so long: ended.
    pub idle_timeout: Duration,
    /// The load balancer's name, for logs.
    pub load_balancer: String,
    /// What its security groups admit; without any, everyone.
    ingress: Option<Vec<Permit>>,
}

/// A target group.
pub struct Group {
    /// Its ARN.
    pub arn: Arn,
    /// As the slice has it.
    pub view: TargetGroupView,
    /// Its targets, draining ones included, in the order of their keys.
    pub targets: Vec<Arc<Target>>,
}

/// A target.
pub struct Target {
    /// Its name in the group.
    pub key: TargetKey,
    /// Where it is.
    pub address: SocketAddr,
    /// RST segments that it sent.
    pub resets: Counter,
    connections: AtomicUsize,
}

/// A listener's TLS with what it was made of.
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
        let mut view = Self::default();
        let mut broken = Vec::new();
        for (arn, group) in
            slice.target_groups.iter().filter(|(_, group)| !group.protocol.starts_with("HTTP"))
        {
            let group = view.group(arn, group, before, metrics);
            view.groups.insert(arn.clone(), group);
        }
        for (arn, listener) in &slice.listeners {
            let Some(load_balancer) = slice.load_balancers.get(&listener.load_balancer) else { continue };
            if load_balancer.kind != LoadBalancerKind::Network || !slice.ends_in_userspace(listener) {
                continue;
            }
            let tls = match &listener.tls {
                None => None,
                Some(tls) => {
                    let made = Terminator::make(tls, slice, before.terminators.get(arn));
                    let made = made.or_else(|error| {
                        broken.push(Broken { listener: arn.clone(), error });
                        before.terminators.get(arn).map(Terminator::keep).ok_or(())
                    });
                    let Ok(terminator) = made else { continue };
                    let tls = terminator.tls.clone();
                    view.terminators.insert(arn.clone(), terminator);
                    Some(tls)
                }
            };
            let known = before.listeners.get(arn);
            let listener = Listener::new(slice, listener, load_balancer, tls, known, limits, metrics);
            view.listeners.insert(arn.clone(), Arc::new(listener));
        }
        for (link, addresses) in &slice.links {
            view.links.extend(addresses.iter().map(|address| (*address, link.clone())));
        }
        let is_kept = |arn: &Arn, target: &Target| {
            view.groups.get(arn).is_some_and(|group| group.targets.iter().any(|own| own.as_ref() == target))
        };
        let groups = before.groups.values();
        let ended = groups
            .filter(|group| group.view.is_on("deregistration_delay.connection_termination.enabled"))
            .flat_map(|group| group.targets.iter().map(|target| (&group.arn, target)))
            .filter(|(arn, target)| !is_kept(arn, target))
            .map(|(_, target)| target.clone())
            .collect();
        view.ended = ended;
        (view, broken)
    }

    fn group(&mut self, arn: &Arn, group: &TargetGroupView, before: &Self, metrics: &Metrics) -> Arc<Group> {
        let mut targets = Vec::with_capacity(group.targets.len());
        for member in group.targets.values() {
            let id = (arn.clone(), member.key.clone());
            let address = SocketAddr::from((member.address, member.key.port));
            let known = before.targets.get(&id).filter(|target| target.address == address).cloned();
            let target = known.unwrap_or_else(|| {
                let labels = vec![("TargetGroup", group.name.clone()), ("Target", member.key.to_string())];
                Arc::new(Target {
                    key: member.key.clone(),
                    address,
                    resets: metrics.counter(name::NLB_TARGET_RESETS, &labels),
                    connections: AtomicUsize::new(0),
                })
            });
            self.targets.insert(id, target.clone());
            targets.push(target);
        }
        match before.groups.get(arn) {
            Some(same) if same.view == *group => same.clone(),
            _ => Arc::new(Group { arn: arn.clone(), view: group.clone(), targets }),
        }
    }

    /// Flows now of the listener at an address.
    pub fn active_flows(&self, address: SocketAddr) -> u64 {
        self.listeners
            .values()
            .filter_map(|listener| listener.ends.get(&address))
            .map(|end| end.active())
            .sum()
    }

    /// Connections that a target of a group still has here.
    pub fn connections_of(&self, group: &Arn, target: &TargetKey) -> usize {
        let targets = self.groups.get(group).into_iter().flat_map(|group| &group.targets);
        targets.filter(|own| own.key == *target).map(|own| own.connections.load(Ordering::SeqCst)).sum()
    }
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
            return Ok(same.keep());
        }
        let policy = tls_policy::find(&view.policy).ok_or_else(|| {
            TlsError::Config(rustls::Error::General(format!("there is no policy {:?}", view.policy)))
        })?;
        let alpn = view.alpn.as_deref().and_then(alpn_protocols).unwrap_or_default();
        let tickets = before.map_or_else(listener_tls::tickets, |before| Ok(before.tickets.clone()))?;
        let tls = Arc::new(ListenerTls::new(policy, &certificates, alpn, tickets.clone())?);
        Ok(Self { view: view.clone(), certificates, tickets, tls })
    }

    fn keep(&self) -> Self {
        Self {
            view: self.view.clone(),
            certificates: self.certificates.clone(),
            tickets: self.tickets.clone(),
            tls: self.tls.clone(),
        }
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
        let end = |interface: &NodeInterface| {
            let address = SocketAddr::from((interface.address, view.port));
            let labels = vec![
                ("LoadBalancer", load_balancer.name.clone()),
                ("AvailabilityZone", interface.zone.clone()),
                ("Listener", address.to_string()),
            ];
            let known = before.and_then(|before| before.ends.get(&address));
            let known = known.filter(|counters| counters.are_tls() == tls.is_some()).cloned();
            (address, known.unwrap_or_else(|| Arc::new(Counters::of(metrics, &labels, tls.is_some()))))
        };
        let seconds = view.attributes.get("tcp.idle_timeout.seconds").and_then(|text| text.parse().ok());
        let set = seconds.filter(|_| tls.is_none()).map(Duration::from_secs);
        let groups = match view.default_actions.last() {
            Some(Action::Forward(groups)) => {
                groups.iter().map(|group| (group.target_group_arn.clone(), group.weight)).collect()
            }
            _ => Vec::new(),
        };
        let admitted = load_balancer.security_groups.iter().filter_map(|id| slice.security_groups.get(id));
        let ingress: Vec<Permit> = admitted.flat_map(|group| group.ingress.iter().cloned()).collect();
        Self {
            ends: load_balancer.interfaces.values().map(end).collect(),
            port: view.port,
            groups,
            idle_timeout: set.unwrap_or(limits.idle_timeout),
            load_balancer: load_balancer.name.clone(),
            ingress: (!load_balancer.security_groups.is_empty()).then_some(ingress),
            tls,
        }
    }

    /// Whether security groups let `peer` in. The packet path has asked the same; before it is attached, only this does.
    pub fn admits(&self, peer: IpAddr) -> bool {
        match (&self.ingress, peer) {
            (None, _) => true,
            (Some(permits), IpAddr::V4(peer)) => permit::is_admitted(permits, permit::TCP, self.port, peer),
            (Some(_), IpAddr::V6(_)) => false,
        }
    }
}

impl Group {
    /// Its targets, as the slice has them and as they are.
    pub fn members(&self) -> impl Iterator<Item = (&TargetView, &Arc<Target>)> {
        self.view.targets.values().zip(&self.targets)
    }

    /// Whether its targets are spoken to in TLS.
    pub fn speaks_tls(&self) -> bool {
        self.view.protocol == "TLS"
    }

    /// Whether its targets want to be told of the client in front of its bytes.
    pub fn wants_header(&self) -> bool {
        self.view.is_on("proxy_protocol_v2.enabled")
    }

    /// Whether a client stays with its target. AWS has it for groups of TCP alone.
    pub fn is_sticky(&self) -> bool {
        self.view.is_on("stickiness.enabled") && !self.speaks_tls()
    }

    /// Targets that get new connections.
    pub fn eligible(&self, verdicts: &Verdicts) -> Vec<Arc<Target>> {
        let mut eligible = verdicts.eligible(&self.arn, &self.view).into_iter().peekable();
        // Both are in the order of the keys.
        self.members()
            .filter(|(view, _)| eligible.next_if(|next| next.key == view.key).is_some())
            .map(|(_, target)| target.clone())
            .collect()
    }

    /// Targets whose connections end because they are unhealthy: none while the group fails open, since these get the new
    /// connections as well.
    pub fn ended(&self, verdicts: &Verdicts) -> Vec<Arc<Target>> {
        const ATTRIBUTE: &str = "target_health_state.unhealthy.connection_termination.enabled";
        let is_on = self.view.attributes.get(ATTRIBUTE).map_or(self.speaks_tls(), |value| value == "true");
        let of_state = |state: TargetHealthState| {
            self.members().filter(move |(view, _)| verdicts.state(&self.arn, view) == Some(state))
        };
        if !is_on || of_state(TargetHealthState::Healthy).next().is_none() {
            return Vec::new();
        }
        of_state(TargetHealthState::Unhealthy).map(|(_, target)| target.clone()).collect()
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Hash for Target {
    /// By address: the same over restarts and workers.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

/// A connection to a target, counted from its choice to its end.
pub struct InUse(Arc<Target>);

impl InUse {
    /// One more.
    pub fn begin(target: Arc<Target>) -> Self {
        target.connections.fetch_add(1, Ordering::SeqCst);
        Self(target)
    }

    /// To whom.
    pub fn target(&self) -> &Arc<Target> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}
