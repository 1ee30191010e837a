//! The kernel's counts as metrics under AWS's names.
//!
//! The kernel counts from when a listener or target got its index; a metric only grows. So each count is compared with
//! the one before, and a smaller one means that counting began anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::counters::Counters;
use crate::model::{id::Arn, load_balancer::LoadBalancerKind};
use crate::snapshot::node::NodeSlice;
use crate::telemetry::{Metrics, Name, metrics::Labels, name};

/// Carries counts over to metrics.
pub struct Exporter {
    metrics: Arc<Metrics>,
    before: BTreeMap<(Name, Labels), u64>,
    gauges: BTreeSet<(Name, Labels)>,
}

impl Exporter {
    /// Begins with counts at zero.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, before: BTreeMap::new(), gauges: BTreeSet::new() }
    }

    /// Carries over what was counted since the last time. `slice` gives the names.
    pub fn export(&mut self, counters: &Counters, slice: &NodeSlice) {
        let mut counts: BTreeMap<(Name, Labels), u64> = BTreeMap::new();
        let mut add = |name: Name, labels: &Labels, value: u64| {
            *counts.entry((name, labels.clone())).or_default() += value;
        };
        let mut active: BTreeMap<Labels, u64> = BTreeMap::new();
        for count in &counters.listeners {
            let labels = listener_labels(slice, &count.arn, &count.address.to_string(), count.port);
            *active.entry(labels.clone()).or_default() += count.active_flows;
            add(name::NLB_NEW_FLOWS, &labels, count.counters.new_flows);
            add(name::NLB_PROCESSED_BYTES, &labels, count.counters.bytes);
            add(name::NLB_PROCESSED_PACKETS, &labels, count.counters.packets);
            add(name::NLB_REJECTED_FLOWS, &labels, count.counters.rejected);
            add(name::NLB_BLOCKED_FLOWS, &labels, count.counters.blocked);
            add(name::NLB_ELB_RESETS, &labels, count.counters.resets);
        }
        for count in &counters.targets {
            let group = slice.target_groups.get(&count.name.group).map_or("", |group| group.name.as_str());
            let labels = vec![("TargetGroup", group.to_owned()), ("Target", count.name.key.to_string())];
            add(name::NLB_TARGET_RESETS, &labels, count.counters.resets);
        }
        for count in counters.drops.iter().filter(|count| count.packets > 0) {
            add(name::NLB_DROPPED_PACKETS, &vec![("Reason", count.reason.name().to_owned())], count.packets);
        }
        add(name::NLB_EXPIRED_FLOWS, &Vec::new(), counters.expired_flows);
        for ((name, labels), value) in &counts {
            let before = self.before.get(&(*name, labels.clone())).copied().unwrap_or(0);
            let grown = if *value >= before { value - before } else { *value };
            self.metrics.counter(*name, labels).inc_by(grown);
        }
        self.before = counts;
        let mut gauges = BTreeSet::new();
        for (labels, flows) in active {
            let gauge = self.metrics.gauge(name::NLB_ACTIVE_FLOWS, &labels);
            gauge.set(i64::try_from(flows).unwrap_or(i64::MAX));
            gauges.insert((name::NLB_ACTIVE_FLOWS, labels));
        }
        for (name, labels) in self.gauges.difference(&gauges) {
            self.metrics.remove(*name, labels);
        }
        self.gauges = gauges;
    }
}

fn listener_labels(slice: &NodeSlice, arn: &Arn, address: &str, port: u16) -> Labels {
    let listener = slice.listeners.get(arn);
    let balancer = listener.and_then(|listener| slice.load_balancers.get(&listener.load_balancer));
    let zone = balancer
        .filter(|balancer| balancer.kind == LoadBalancerKind::Network)
        .and_then(|balancer| balancer.interfaces.values().find(|i| i.address.to_string() == address))
        .map_or("", |interface| interface.zone.as_str());
    vec![
        ("LoadBalancer", balancer.map_or("", |balancer| balancer.name.as_str()).to_owned()),
        ("AvailabilityZone", zone.to_owned()),
        ("Listener", format!("{address}:{port}")),
    ]
}
