//! The kernel's counts as metrics under AWS's names.
//!
//! The kernel counts from when a listener or target got its index; a metric only grows. So each count is compared with
//! the one before, and a smaller one means that counting began anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use lb_common::abi::DropReason;

use super::counters::{Counters, ListenerCount, TargetCount};
use super::peak::Peak;
use super::plan::{ListenerName, Protocol, Service};
use crate::model::{id::Arn, load_balancer::LoadBalancerKind, target_group::TargetKey};
use crate::snapshot::node::NodeSlice;
use crate::telemetry::{Metrics, Name, metrics::Labels, name};

/// Carries counts over to metrics.
pub struct Exporter {
    metrics: Arc<Metrics>,
    before: BTreeMap<(Name, Labels), u64>,
    gauges: BTreeSet<(Name, Labels)>,
    // Of a load balancer in a zone: packets and bytes.
    peaks: BTreeMap<Labels, [Peak; 2]>,
    // Whatever counts, here or in userspace, of what the slice had.
    listeners: BTreeSet<Labels>,
    targets: BTreeSet<Labels>,
}

impl Exporter {
    /// Begins with counts at zero.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            before: BTreeMap::new(),
            gauges: BTreeSet::new(),
            peaks: BTreeMap::new(),
            listeners: BTreeSet::new(),
            targets: BTreeSet::new(),
        }
    }

    /// Carries over what was counted since the last time. `slice` gives the names.
    pub fn export(&mut self, counters: &Counters, slice: &NodeSlice, now: Instant) {
        let mut tally = Tally::default();
        for count in &counters.listeners {
            tally.add_listener(slice, count);
        }
        for count in &counters.targets {
            tally.add_target(slice, count);
        }
        for count in &counters.drops {
            let labels = vec![("Reason", count.reason.name().to_owned())];
            tally.count(name::NLB_DROPPED_PACKETS, &labels, count.packets);
            if count.reason == DropReason::UnknownServerId {
                tally.count(name::NLB_UNKNOWN_SERVER_IDS, &Vec::new(), count.packets);
            }
        }
        tally.count(name::NLB_EXPIRED_FLOWS, &Vec::new(), counters.expired_flows);
        let slots = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        tally.count(name::NLB_RING_SLOTS_MOVED, &Vec::new(), slots(counters.reshuffled.moved));
        tally.count(name::NLB_RING_SLOTS_IDEAL, &Vec::new(), slots(counters.reshuffled.ideal));
        tally.gauge(name::NLB_FLOW_ENTRIES, &Vec::new(), counters.flow_entries);
        self.carry(&tally);
        self.find_peaks(&mut tally, now);
        self.set_gauges(tally.gauges);
        self.before = tally.counts;
        self.forget_what_is_gone(slice);
    }

    /// Tasks come and go, each at an address of its own: series of targets and listeners that the slice has no more
    /// would only ever become more.
    fn forget_what_is_gone(&mut self, slice: &NodeSlice) {
        let now = (listeners(slice), targets(slice));
        let gone = [
            (self.listeners.difference(&now.0), LISTENER_COUNTERS),
            (self.targets.difference(&now.1), TARGET_COUNTERS),
        ];
        for (labels, names) in gone {
            for (labels, name) in labels.flat_map(|labels| names.iter().map(move |name| (labels, *name))) {
                self.metrics.remove(name, labels);
            }
        }
        (self.listeners, self.targets) = now;
    }

    /// Adds to each counter what it grew by.
    fn carry(&self, tally: &Tally) {
        for ((name, labels), value) in &tally.counts {
            let grown = self.growth(*name, labels, *value);
            self.metrics.counter(*name, labels).inc_by(grown);
        }
        // What was counted before this process began was not all routed this way.
        for ((name, labels), (of, value)) in tally.failing_open.iter().filter(|_| !self.before.is_empty()) {
            let grown = self.growth(*of, labels, *value);
            self.metrics.counter(*name, &group_labels(labels)).inc_by(grown);
        }
    }

    fn growth(&self, name: Name, labels: &Labels, value: u64) -> u64 {
        let before = self.before.get(&(name, labels.clone())).copied().unwrap_or(0);
        value.checked_sub(before).unwrap_or(value)
    }

    fn find_peaks(&mut self, tally: &mut Tally, now: Instant) {
        let mut grown: BTreeMap<Labels, [u64; 2]> = BTreeMap::new();
        for ((name, labels), value) in &tally.counts {
            let place = match *name {
                name::NLB_PROCESSED_PACKETS => 0,
                name::NLB_PROCESSED_BYTES => 1,
                _ => continue,
            };
            let zone = labels.iter().filter(|(key, _)| *key != "Listener").cloned().collect();
            if let Some(sum) = grown.entry(zone).or_default().get_mut(place) {
                *sum += self.growth(*name, labels, *value);
            }
        }
        self.peaks.retain(|labels, _| grown.contains_key(labels));
        for (labels, sums) in grown {
            let peaks =
                self.peaks.entry(labels.clone()).or_insert_with(|| [Peak::start(now), Peak::start(now)]);
            let names = [name::NLB_PEAK_PACKETS, name::NLB_PEAK_BYTES];
            for ((peak, grown), name) in peaks.iter_mut().zip(sums).zip(names) {
                tally.gauge(name, &labels, peak.add(grown, now));
            }
        }
    }

    fn set_gauges(&mut self, values: BTreeMap<(Name, Labels), u64>) {
        for ((name, labels), value) in &values {
            self.metrics.gauge(*name, labels).set(i64::try_from(*value).unwrap_or(i64::MAX));
        }
        let gauges: BTreeSet<_> = values.into_keys().collect();
        for (name, labels) in self.gauges.difference(&gauges) {
            self.metrics.remove(*name, labels);
        }
        self.gauges = gauges;
    }
}

/// Counts under the names of metrics.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<(Name, Labels), u64>,
    gauges: BTreeMap<(Name, Labels), u64>,
    /// What grows by what another count grows, of targets whose group fails open.
    failing_open: BTreeMap<(Name, Labels), (Name, u64)>,
}

impl Tally {
    fn count(&mut self, name: Name, labels: &Labels, value: u64) {
        *self.counts.entry((name, labels.clone())).or_default() += value;
    }

    fn gauge(&mut self, name: Name, labels: &Labels, value: u64) {
        *self.gauges.entry((name, labels.clone())).or_default() += value;
    }

    fn add_listener(&mut self, slice: &NodeSlice, count: &ListenerCount) {
        let labels = listener_labels(slice, &count.arn, &count.name);
        let counters = &count.counters;
        let names = Names::of(count.name.protocol, count.service);
        self.count(names.blocked, &labels, counters.blocked);
        if count.service == Service::Local {
            self.count(name::NLB_COOKIES_SENT, &labels, count.cookies.sent);
            self.count(name::NLB_COOKIES_VALID, &labels, count.cookies.valid);
            self.count(name::NLB_COOKIES_INVALID, &labels, count.cookies.invalid);
        }
        // What ends in a socket is counted there.
        if count.service == Service::Local {
            return;
        }
        for name in [name::NLB_ACTIVE_FLOWS, names.active] {
            self.gauge(name, &labels, count.active_flows);
        }
        for (names, value) in [
            ([name::NLB_NEW_FLOWS, names.new], counters.new_flows),
            ([name::NLB_PROCESSED_BYTES, names.bytes], counters.bytes),
        ] {
            for name in names {
                self.count(name, &labels, value);
            }
        }
        self.count(name::NLB_PROCESSED_PACKETS, &labels, counters.packets);
        self.count(name::NLB_REJECTED_FLOWS, &labels, counters.rejected);
        self.count(name::NLB_PORT_ALLOCATION_ERRORS, &labels, counters.port_errors);
        if count.name.protocol == Protocol::Tcp {
            self.count(name::NLB_REJECTED_FLOWS_TCP, &labels, counters.rejected);
            self.count(name::NLB_ELB_RESETS, &labels, counters.resets);
            self.count(name::NLB_CLIENT_RESETS, &labels, counters.client_resets);
        }
    }

    fn add_target(&mut self, slice: &NodeSlice, count: &TargetCount) {
        let group = slice.target_groups.get(&count.name.group).map_or("", |group| group.name.as_str());
        let labels = target_labels(group, &count.name.key);
        self.count(name::NLB_TARGET_RESETS, &labels, count.counters.resets);
        self.count(name::NLB_TARGET_NEW_FLOWS, &labels, count.counters.new_flows);
        self.count(name::NLB_TARGET_PROCESSED_BYTES, &labels, count.counters.bytes);
        self.gauge(name::NLB_TARGET_ACTIVE_FLOWS, &labels, count.active_flows);
        if count.fails_open {
            let key = (name::NLB_UNHEALTHY_ROUTING_FLOWS, labels);
            let (_, sum) = self.failing_open.entry(key).or_insert((name::NLB_TARGET_NEW_FLOWS, 0));
            *sum += count.counters.new_flows;
        }
    }
}

/// Metrics that AWS has for each protocol.
struct Names {
    active: Name,
    new: Name,
    bytes: Name,
    blocked: Name,
}

impl Names {
    fn of(protocol: Protocol, service: Service) -> Self {
        let (active, new, bytes) = match (protocol, service) {
            (Protocol::Udp, Service::Quic { .. }) => {
                (name::NLB_ACTIVE_FLOWS_QUIC, name::NLB_NEW_FLOWS_QUIC, name::NLB_PROCESSED_BYTES_QUIC)
            }
            (Protocol::Udp, _) => {
                (name::NLB_ACTIVE_FLOWS_UDP, name::NLB_NEW_FLOWS_UDP, name::NLB_PROCESSED_BYTES_UDP)
            }
            (Protocol::Tcp, _) => {
                (name::NLB_ACTIVE_FLOWS_TCP, name::NLB_NEW_FLOWS_TCP, name::NLB_PROCESSED_BYTES_TCP)
            }
        };
        let blocked = match protocol {
            Protocol::Tcp => name::NLB_BLOCKED_FLOWS_TCP,
            Protocol::Udp => name::NLB_BLOCKED_FLOWS_UDP,
        };
        Self { active, new, bytes, blocked }
    }
}

fn listener_labels(slice: &NodeSlice, arn: &Arn, name: &ListenerName) -> Labels {
    let listener = slice.listeners.get(arn);
    let balancer = listener
        .and_then(|listener| slice.load_balancers.get(&listener.load_balancer))
        .filter(|balancer| balancer.kind == LoadBalancerKind::Network);
    let zone = balancer
        .and_then(|balancer| {
            let mut interfaces = balancer.interfaces.values();
            interfaces.find(|interface| match name.address {
                IpAddr::V4(address) => interface.address == address,
                IpAddr::V6(address) => interface.ipv6.is_some_and(|own| own.address == address),
            })
        })
        .map_or("", |interface| interface.zone.as_str());
    vec![
        ("LoadBalancer", balancer.map_or("", |balancer| balancer.name.as_str()).to_owned()),
        ("AvailabilityZone", zone.to_owned()),
        ("Listener", SocketAddr::new(name.address, name.port).to_string()),
    ]
}

/// The labels of each address of each listener.
fn listeners(slice: &NodeSlice) -> BTreeSet<Labels> {
    let mut all = BTreeSet::new();
    for listener in slice.listeners.values() {
        let Some(balancer) = slice.load_balancers.get(&listener.load_balancer) else { continue };
        for interface in balancer.interfaces.values() {
            all.extend(interface.addresses().map(|address| {
                vec![
                    ("LoadBalancer", balancer.name.clone()),
                    ("AvailabilityZone", interface.zone.clone()),
                    ("Listener", SocketAddr::new(address, listener.port).to_string()),
                ]
            }));
        }
    }
    all
}

/// The labels of each target.
fn targets(slice: &NodeSlice) -> BTreeSet<Labels> {
    let groups = slice.target_groups.values();
    groups
        .flat_map(|group| group.targets.values().map(|target| target_labels(&group.name, &target.key)))
        .collect()
}

fn target_labels(group: &str, target: &TargetKey) -> Labels {
    vec![("TargetGroup", group.to_owned()), ("Target", target.to_string())]
}

fn group_labels(labels: &Labels) -> Labels {
    labels.iter().filter(|(key, _)| *key == "TargetGroup").cloned().collect()
}

/// What is counted of a listener at an address, in the kernel and in userspace.
const LISTENER_COUNTERS: &[Name] = &[
    name::NLB_NEW_FLOWS,
    name::NLB_NEW_FLOWS_TCP,
    name::NLB_NEW_FLOWS_UDP,
    name::NLB_NEW_FLOWS_TLS,
    name::NLB_NEW_FLOWS_QUIC,
    name::NLB_PROCESSED_BYTES,
    name::NLB_PROCESSED_BYTES_TCP,
    name::NLB_PROCESSED_BYTES_UDP,
    name::NLB_PROCESSED_BYTES_TLS,
    name::NLB_PROCESSED_BYTES_QUIC,
    name::NLB_PROCESSED_PACKETS,
    name::NLB_REJECTED_FLOWS,
    name::NLB_REJECTED_FLOWS_TCP,
    name::NLB_PORT_ALLOCATION_ERRORS,
    name::NLB_BLOCKED_FLOWS_TCP,
    name::NLB_BLOCKED_FLOWS_UDP,
    name::NLB_ELB_RESETS,
    name::NLB_CLIENT_RESETS,
    name::NLB_CLIENT_TLS_ERRORS,
    name::NLB_TARGET_TLS_ERRORS,
    name::NLB_HANDSHAKES_REJECTED,
];
/// What is counted of a target, in the kernel and in userspace.
const TARGET_COUNTERS: &[Name] =
    &[name::NLB_TARGET_RESETS, name::NLB_TARGET_NEW_FLOWS, name::NLB_TARGET_PROCESSED_BYTES];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_common::abi::{CookieCounters, ListenerCounters, TargetCounters};

    use super::*;
    use crate::model::{id::VpcId, target_group::HealthCheck};
    use crate::packet::plan::TargetName;
    use crate::snapshot::node::{TargetGroupView, TargetView};

    fn slice() -> NodeSlice {
        NodeSlice {
            resolver: None,
            certificates: BTreeMap::new(),
            links: BTreeMap::new(),
            vpc_id: VpcId::from("vpc-1".to_owned()),
            namespace: String::new(),
            load_balancers: BTreeMap::new(),
            listeners: BTreeMap::new(),
            target_groups: BTreeMap::new(),
            security_groups: BTreeMap::new(),
        }
    }

    fn listener(protocol: Protocol, service: Service, counters: ListenerCounters) -> ListenerCount {
        ListenerCount {
            arn: Arn::from("listener".to_owned()),
            name: ListenerName { address: IpAddr::from([10, 0, 1, 4]), port: 53, protocol },
            service,
            counters,
            cookies: CookieCounters::default(),
            active_flows: 5,
        }
    }

    fn target(new_flows: u64, fails_open: bool) -> TargetCount {
        let key = TargetKey { id: "10.0.1.20".to_owned(), port: 80 };
        TargetCount {
            name: TargetName { group: Arn::from("group".to_owned()), key },
            via: IpAddr::from([10, 0, 1, 4]),
            counters: TargetCounters { new_flows, ..TargetCounters::default() },
            active_flows: 0,
            resolved: true,
            fails_open,
        }
    }

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.text();
        assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
    }

    #[test]
    fn each_protocol_has_its_own_names_beside_the_common_ones() {
        let metrics = Arc::new(Metrics::new());
        let mut exporter = Exporter::new(Arc::clone(&metrics));
        let counted = |new_flows| ListenerCounters { new_flows, blocked: 1, ..ListenerCounters::default() };
        let counters = Counters {
            listeners: vec![
                listener(Protocol::Tcp, Service::Forward, counted(2)),
                listener(Protocol::Udp, Service::Forward, counted(3)),
            ],
            ..Counters::default()
        };
        exporter.export(&counters, &slice(), Instant::now());
        let labels = r#"{LoadBalancer="",AvailabilityZone="",Listener="10.0.1.4:53"}"#;
        has(&metrics, &format!("gatehouse_nlb_NewFlowCount_total{labels} 5"));
        has(&metrics, &format!("gatehouse_nlb_NewFlowCount_TCP_total{labels} 2"));
        has(&metrics, &format!("gatehouse_nlb_NewFlowCount_UDP_total{labels} 3"));
        has(&metrics, &format!("gatehouse_nlb_ActiveFlowCount{labels} 10"));
        has(&metrics, &format!("gatehouse_nlb_ActiveFlowCount_UDP{labels} 5"));
        has(&metrics, &format!("gatehouse_nlb_SecurityGroupBlockedFlowCount_Inbound_UDP_total{labels} 1"));
    }

    #[test]
    fn a_counter_grows_by_what_was_counted_since_even_when_counting_began_anew() {
        let metrics = Arc::new(Metrics::new());
        let mut exporter = Exporter::new(Arc::clone(&metrics));
        for new_flows in [4, 6, 1] {
            let counted = ListenerCounters { new_flows, ..ListenerCounters::default() };
            let quic = Service::Quic { server_id_length: 8 };
            let counters =
                Counters { listeners: vec![listener(Protocol::Udp, quic, counted)], ..Counters::default() };
            exporter.export(&counters, &slice(), Instant::now());
        }
        let labels = r#"{LoadBalancer="",AvailabilityZone="",Listener="10.0.1.4:53"}"#;
        has(&metrics, &format!("gatehouse_nlb_NewFlowCount_QUIC_total{labels} 7"));
    }

    #[test]
    fn only_flows_of_groups_that_fail_open_are_unhealthy_routing() {
        let metrics = Arc::new(Metrics::new());
        let mut exporter = Exporter::new(Arc::clone(&metrics));
        for (new_flows, fails_open) in [(10, false), (13, true), (20, false)] {
            let counters = Counters { targets: vec![target(new_flows, fails_open)], ..Counters::default() };
            exporter.export(&counters, &slice(), Instant::now());
        }
        has(&metrics, r#"gatehouse_nlb_UnhealthyRoutingFlowCount_total{TargetGroup=""} 3"#);
    }

    #[test]
    fn series_of_targets_that_are_gone_are_forgotten() {
        let metrics = Arc::new(Metrics::new());
        let mut exporter = Exporter::new(Arc::clone(&metrics));
        let key = TargetKey { id: "10.0.1.20".to_owned(), port: 80 };
        let view = TargetView {
            key: key.clone(),
            address: IpAddr::from([10, 0, 1, 20]),
            zone: None,
            server_id: None,
            registered_at: 1,
            draining_until: None,
        };
        let group = TargetGroupView {
            name: "g".to_owned(),
            protocol: "TCP".to_owned(),
            in_use: true,
            health_check: HealthCheck {
                enabled: true,
                protocol: "TCP".to_owned(),
                port: "traffic-port".to_owned(),
                path: String::new(),
                interval_s: 30,
                timeout_s: 10,
                healthy_threshold: 5,
                unhealthy_threshold: 2,
                matcher: String::new(),
            },
            attributes: BTreeMap::new(),
            targets: [(key.to_string(), view)].into(),
        };
        let with = NodeSlice { target_groups: [(Arn::from("group"), group)].into(), ..slice() };
        let counters = Counters { targets: vec![target(2, false)], ..Counters::default() };
        exporter.export(&counters, &with, Instant::now());
        has(&metrics, r#"gatehouse_nlb_TargetNewFlowCount_total{TargetGroup="g",Target="10.0.1.20:80"} 2"#);
        exporter.export(&Counters::default(), &slice(), Instant::now());
        assert!(!metrics.text().contains("10.0.1.20"), "{}", metrics.text());
    }

    #[test]
    fn peaks_are_of_a_load_balancer_in_a_zone() {
        let metrics = Arc::new(Metrics::new());
        let mut exporter = Exporter::new(Arc::clone(&metrics));
        let start = Instant::now();
        for second in 0..=10_u64 {
            let counted = ListenerCounters { packets: second * 100, ..ListenerCounters::default() };
            let both = [Protocol::Tcp, Protocol::Udp].map(|own| listener(own, Service::Forward, counted));
            let counters = Counters { listeners: both.into(), ..Counters::default() };
            exporter.export(&counters, &slice(), start + Duration::from_secs(second));
        }
        has(&metrics, r#"gatehouse_nlb_PeakPacketsPerSecond{LoadBalancer="",AvailabilityZone=""} 200"#);
    }
}
