//! A slice compiled for the workers: listeners with prepared rules, groups with their targets, resolved permissions.
//!
//! Compiled once per slice and shared by all workers. A target that stays registered is the same [`Target`] in the next
//! view, so what is in flight to it is counted across views and workers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use ipnet::Ipv4Net;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::sync::mpsc;

use super::{
    attributes::Settings,
    rules::{Rule, Rules},
};
use crate::{
    model::{
        id::{Arn, TimestampMs},
        load_balancer::{self, LoadBalancerKind},
        target_group::TargetKey,
    },
    snapshot::{
        node::{ListenerView, NodeInterface, NodeSlice, TargetGroupView, TargetView},
        permit::Permit,
        report::Report,
    },
    telemetry::{Metrics, name},
};

/// All that the workers need.
pub struct View {
    /// Listeners by ARN.
    pub listeners: BTreeMap<Arn, Arc<Listener>>,
    /// Target groups; actions name them by their place.
    pub groups: Vec<Arc<Group>>,
    targets: HashMap<TargetId, Arc<Target>>,
}

type TargetId = (Arn, TargetKey, TimestampMs);

/// A listener of an application load balancer.
pub struct Listener {
    /// Where it listens: its port on each interface; and where network load balancers that forward to it do.
    pub addresses: BTreeSet<SocketAddr>,
    /// Its rules.
    pub rules: Rules<Action>,
    /// Its load balancer.
    pub load_balancer: Arc<LoadBalancer>,
    /// Its port.
    pub port: u16,
}

/// A load balancer.
pub struct LoadBalancer {
    /// Name, for logs.
    pub name: String,
    /// Its attributes.
    pub settings: Settings,
    /// What its security groups admit.
    pub ingress: Vec<Permit>,
    /// Its addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Its addresses with their networks, where nothing but the host may join those.
    pub networks: Vec<Ipv4Net>,
    /// What it counts.
    pub counters: Counters,
}

impl LoadBalancer {
    /// Which of its addresses a connection came in at: by a network load balancer, at none, and then it is the first.
    pub fn accepted_at(&self, local: IpAddr) -> Ipv4Addr {
        let first = || self.addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
        match local {
            IpAddr::V4(local) if self.addresses.contains(&local) => local,
            _ => first(),
        }
    }

    /// From which of its addresses it speaks to a target, for a request that came in at `accepted`: from that one, unless
    /// the target is on the network of another and nothing may lead there from this one.
    pub fn source(&self, accepted: Ipv4Addr, target: IpAddr) -> Ipv4Addr {
        let IpAddr::V4(target) = target else { return accepted };
        let mut beside = self.networks.iter().filter(|network| network.contains(&target));
        match beside.clone().any(|network| network.addr() == accepted) {
            true => accepted,
            false => beside.next().map_or(accepted, |network| network.addr()),
        }
    }
}

/// What a rule leads to.
#[derive(Debug, Clone)]
pub enum Action {
    /// To one of these groups: places in [`View::groups`], and weights.
    Forward(Vec<(usize, u16)>),
    /// An answer made here.
    Fixed {
        /// 2XX, 4XX or 5XX.
        status: StatusCode,
        /// Its type.
        content_type: HeaderValue,
        /// Its body.
        body: Bytes,
    },
}

/// A target group.
pub struct Group {
    /// Its ARN.
    pub arn: Arn,
    /// As the slice has it.
    pub view: TargetGroupView,
    /// Its targets, draining ones included, in the order of their keys.
    pub targets: Vec<Arc<Target>>,
    /// Requests given to its targets.
    pub requests: Counter,
    /// Requests given while none was healthy.
    pub fail_open: Counter,
}

/// One registration of a target.
pub struct Target {
    /// Its group.
    pub group: Arn,
    /// Its name in the group.
    pub key: TargetKey,
    /// When it was registered.
    pub registered_at: TimestampMs,
    /// Where it is.
    pub address: SocketAddr,
    in_flight: AtomicUsize,
    draining: AtomicBool,
    reports: mpsc::Sender<Report>,
    reports_lost: Counter,
}

/// What a load balancer counts, looked up once.
pub struct Counters {
    /// Clients' connections now.
    pub active: Gauge,
    /// Accepted.
    pub accepted: Counter,
    /// Refused at accept.
    pub rejected: Counter,
    /// Bytes both ways.
    pub bytes: Counter,
    /// Requests for which a target was chosen.
    pub requests: Counter,
    /// Rules looked at.
    pub evaluations: Counter,
    /// fixed-response.
    pub fixed: Counter,
    /// Malformed requests.
    pub refused: Counter,
    /// No answer of a target.
    pub target_errors: Counter,
    own_4xx: Counter,
    own_5xx: Counter,
    own_502: Counter,
    own_503: Counter,
    own_504: Counter,
    target: [Counter; 4],
}

/// Where counters and reports go.
#[derive(Clone)]
pub struct Outlets {
    /// The role's metrics.
    pub metrics: Arc<Metrics>,
    /// To control.
    pub reports: mpsc::Sender<Report>,
}

impl View {
    /// Nothing to serve.
    pub fn empty() -> Self {
        Self { listeners: BTreeMap::new(), groups: Vec::new(), targets: HashMap::new() }
    }

    /// Compiles a slice. Groups and targets that did not change are `before`'s.
    pub fn compile(slice: &NodeSlice, before: &Self, outlets: &Outlets) -> Self {
        let mut targets = HashMap::new();
        let mut places = BTreeMap::new();
        let mut groups = Vec::new();
        for (arn, view) in &slice.target_groups {
            if !view.in_use || view.protocol != "HTTP" {
                continue;
            }
            places.insert(arn.clone(), groups.len());
            let known = before.groups.iter().find(|group| group.arn == *arn && group.view == *view);
            let group = known.cloned().unwrap_or_else(|| {
                Arc::new(Group {
                    arn: arn.clone(),
                    view: view.clone(),
                    targets: view
                        .targets
                        .values()
                        .map(|target| before.target(arn, target, outlets))
                        .collect(),
                    requests: outlets.metrics.counter(name::ALB_TARGET_REQUESTS, &group_labels(view)),
                    fail_open: outlets.metrics.counter(name::ALB_FAIL_OPEN, &group_labels(view)),
                })
            });
            targets.extend(group.targets.iter().map(|target| (target.id(), target.clone())));
            groups.push(group);
        }
        let mut load_balancers = BTreeMap::new();
        for (arn, view) in &slice.load_balancers {
            if view.kind != LoadBalancerKind::Application {
                continue;
            }
            let admitted = view.security_groups.iter().filter_map(|id| slice.security_groups.get(id));
            let load_balancer = LoadBalancer {
                name: view.name.clone(),
                settings: Settings::of(&view.attributes),
                ingress: admitted.flat_map(|group| group.ingress.iter().cloned()).collect(),
                addresses: view.interfaces.values().map(|interface| interface.address).collect(),
                networks: match slice.is_on_host() {
                    true => view.interfaces.values().filter_map(NodeInterface::network).collect(),
                    false => Vec::new(),
                },
                counters: Counters::of(&view.name, &outlets.metrics),
            };
            load_balancers.insert(arn.clone(), Arc::new(load_balancer));
        }
        let fronts = fronts(slice);
        let mut listeners = BTreeMap::new();
        for (arn, view) in &slice.listeners {
            let Some(load_balancer) = load_balancers.get(&view.load_balancer) else { continue };
            if view.protocol != "HTTP" {
                tracing::warn!(listener = %arn, protocol = view.protocol, "the listener's protocol is not served");
                continue;
            }
            let own = load_balancer.addresses.iter().map(|ip| SocketAddr::from((*ip, view.port)));
            let front = fronts.get(&(&view.load_balancer, view.port)).into_iter().flatten().copied();
            let listener = Listener {
                addresses: own.chain(front).collect(),
                rules: compile_rules(view, &places),
                load_balancer: load_balancer.clone(),
                port: view.port,
            };
            listeners.insert(arn.clone(), Arc::new(listener));
        }
        Self { listeners, groups, targets }
    }

    fn target(&self, group: &Arn, view: &TargetView, outlets: &Outlets) -> Arc<Target> {
        let id = (group.clone(), view.key.clone(), view.registered_at);
        let address = SocketAddr::from((view.address, view.key.port));
        match self.targets.get(&id) {
            Some(target) if target.address == address => target.clone(),
            _ => Arc::new(Target {
                group: group.clone(),
                key: view.key.clone(),
                registered_at: view.registered_at,
                address,
                in_flight: AtomicUsize::new(0),
                draining: AtomicBool::new(false),
                reports: outlets.reports.clone(),
                reports_lost: outlets
                    .metrics
                    .counter(name::REPORTS_LOST, &vec![("From", "proxy".to_owned())]),
            }),
        }
    }

    /// All workers have this view, so no draining target gets anything new: from now on the last request to end on one
    /// reports it, and those without any are reported here.
    pub fn settle(&self) {
        for group in &self.groups {
            for (view, target) in group.members() {
                let draining = view.draining_until.is_some();
                // A target that is registered again before it was drained goes on as if nothing had been.
                let was = target.draining.swap(draining, Ordering::SeqCst);
                if draining && !was && target.in_flight.load(Ordering::SeqCst) == 0 {
                    target.report_drained();
                }
            }
        }
    }

    /// Addresses of targets that may get something new now or later: worth keeping connections to.
    pub fn kept_addresses(&self) -> BTreeSet<SocketAddr> {
        let members = self.groups.iter().flat_map(|group| group.members());
        let kept =
            members.filter(|(view, _)| view.draining_until.is_none()).map(|(_, target)| target.address);
        kept.collect()
    }
}

impl Group {
    /// Its targets, as the slice has them and as they are.
    pub fn members(&self) -> impl Iterator<Item = (&TargetView, &Arc<Target>)> {
        self.view.targets.values().zip(&self.targets)
    }
}

impl Target {
    fn id(&self) -> TargetId {
        (self.group.clone(), self.key.clone(), self.registered_at)
    }

    fn report_drained(&self) {
        let report = Report::TargetDrained { target_group: self.group.clone(), target: self.key.clone() };
        if self.reports.try_send(report).is_err() {
            // Control takes the target away when its delay is over, as if this had never been said.
            self.reports_lost.inc();
        }
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// A request in flight to a target, counted from its choice to the end of its response.
pub struct InFlight(Arc<Target>);

impl InFlight {
    /// One more.
    pub fn begin(target: Arc<Target>) -> Self {
        target.in_flight.fetch_add(1, Ordering::SeqCst);
        Self(target)
    }

    /// To whom.
    pub fn target(&self) -> &Arc<Target> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let last = self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.draining.load(Ordering::SeqCst) {
            self.0.report_drained();
        }
    }
}

impl Counters {
    fn of(load_balancer: &str, metrics: &Metrics) -> Self {
        let labels = vec![("LoadBalancer", load_balancer.to_owned())];
        let counter = |name| metrics.counter(name, &labels);
        Self {
            active: metrics.gauge(name::ALB_ACTIVE_CONNECTIONS, &labels),
            accepted: counter(name::ALB_NEW_CONNECTIONS),
            rejected: counter(name::ALB_REJECTED_CONNECTIONS),
            bytes: counter(name::ALB_PROCESSED_BYTES),
            requests: counter(name::ALB_REQUESTS),
            evaluations: counter(name::ALB_RULE_EVALUATIONS),
            fixed: counter(name::ALB_FIXED_RESPONSES),
            refused: counter(name::REFUSED_REQUESTS),
            target_errors: counter(name::ALB_TARGET_CONNECTION_ERRORS),
            own_4xx: counter(name::ALB_ELB_4XX),
            own_5xx: counter(name::ALB_ELB_5XX),
            own_502: counter(name::ALB_ELB_502),
            own_503: counter(name::ALB_ELB_503),
            own_504: counter(name::ALB_ELB_504),
            target: [
                counter(name::ALB_TARGET_2XX),
                counter(name::ALB_TARGET_3XX),
                counter(name::ALB_TARGET_4XX),
                counter(name::ALB_TARGET_5XX),
            ],
        }
    }

    /// An answer made by the load balancer.
    pub fn own(&self, status: StatusCode) {
        match status.as_u16() {
            400..=499 => self.own_4xx.inc(),
            500..=599 => self.own_5xx.inc(),
            _ => 0,
        };
        match status.as_u16() {
            502 => self.own_502.inc(),
            503 => self.own_503.inc(),
            504 => self.own_504.inc(),
            _ => 0,
        };
    }

    /// A target's answer.
    pub fn target(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100);
        if let Some(counter) = class.checked_sub(2).and_then(|place| self.target.get(place)) {
            counter.inc();
        }
    }
}

/// Where network load balancers take connections for application load balancers, by load balancer and port.
fn fronts(slice: &NodeSlice) -> HashMap<(&Arn, u16), Vec<SocketAddr>> {
    let mut fronts: HashMap<_, Vec<_>> = HashMap::new();
    for listener in slice.listeners.values() {
        let Some(network) = slice.load_balancers.get(&listener.load_balancer) else { continue };
        let behind = slice.application_behind(listener);
        let Some(behind) = behind.filter(|_| network.kind == LoadBalancerKind::Network) else { continue };
        let addresses = network.interfaces.values().flat_map(NodeInterface::addresses);
        fronts.entry(behind).or_default().extend(addresses.map(|ip| SocketAddr::new(ip, listener.port)));
    }
    fronts
}

fn compile_rules(view: &ListenerView, places: &BTreeMap<Arn, usize>) -> Rules<Action> {
    let rules = view
        .rules
        .iter()
        .map(|rule| {
            let action = compile_action(&rule.actions, places);
            Rule::new(rule.arn.clone(), rule.priority, &rule.conditions, action)
        })
        .collect();
    Rules::new(rules, compile_action(&view.default_actions, places))
}

/// The last action decides; those before it would be authentication. None at all answers 503, as no target does.
fn compile_action(actions: &[load_balancer::Action], places: &BTreeMap<Arn, usize>) -> Action {
    match actions.last() {
        None => Action::Forward(Vec::new()),
        Some(load_balancer::Action::Forward(groups)) => Action::Forward(
            groups
                .iter()
                .filter_map(|group| Some((*places.get(&group.target_group_arn)?, group.weight)))
                .collect(),
        ),
        Some(load_balancer::Action::FixedResponse { status, content_type, body }) => Action::Fixed {
            status: StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            content_type: content_type
                .as_deref()
                .and_then(|text| HeaderValue::from_str(text).ok())
                .unwrap_or(HeaderValue::from_static("text/plain")),
            body: Bytes::copy_from_slice(body.as_bytes()),
        },
    }
}

fn group_labels(view: &TargetGroupView) -> Vec<(&'static str, String)> {
    vec![("TargetGroup", view.name.clone())]
}
