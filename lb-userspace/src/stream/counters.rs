//! What a listener's end counts, looked up once; and what is told as it is now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::telemetry::{Metrics, Name, metrics::Labels, name};

/// Counts of one listener on one address.
pub struct Counters {
    labels: Labels,
    is_tls: bool,
    active: Gauge,
    new: [Counter; 2],
    bytes: [Counter; 2],
    rejected: [Counter; 2],
    /// Refused by security groups.
    pub blocked: Counter,
    /// Reset by us.
    pub resets: Counter,
    /// Reset by their clients.
    pub client_resets: Counter,
    /// No source port was free.
    pub port_errors: Counter,
    /// Handshakes that clients did not bring to an end.
    pub client_tls_errors: Counter,
    /// Handshakes that targets did not bring to an end.
    pub target_tls_errors: Counter,
    /// Closed because too many handshakes were under way.
    pub handshakes_rejected: Counter,
}

/// A flow that is counted as active until this is dropped.
pub struct Active<'a>(&'a Counters);

impl Counters {
    /// Of the series with these labels: AWS counts each protocol's flows, and all together.
    pub fn of(metrics: &Metrics, labels: Labels, is_tls: bool) -> Self {
        let counter = |name| metrics.counter(name, &labels);
        let pick = |tls: Name, tcp: Name| counter(if is_tls { tls } else { tcp });
        Self {
            active: Gauge::default(),
            new: [counter(name::NLB_NEW_FLOWS), pick(name::NLB_NEW_FLOWS_TLS, name::NLB_NEW_FLOWS_TCP)],
            bytes: [
                counter(name::NLB_PROCESSED_BYTES),
                pick(name::NLB_PROCESSED_BYTES_TLS, name::NLB_PROCESSED_BYTES_TCP),
            ],
            rejected: [counter(name::NLB_REJECTED_FLOWS), counter(name::NLB_REJECTED_FLOWS_TCP)],
            blocked: counter(name::NLB_BLOCKED_FLOWS_TCP),
            resets: counter(name::NLB_ELB_RESETS),
            client_resets: counter(name::NLB_CLIENT_RESETS),
            port_errors: counter(name::NLB_PORT_ALLOCATION_ERRORS),
            client_tls_errors: counter(name::NLB_CLIENT_TLS_ERRORS),
            target_tls_errors: counter(name::NLB_TARGET_TLS_ERRORS),
            handshakes_rejected: counter(name::NLB_HANDSHAKES_REJECTED),
            labels,
            is_tls,
        }
    }

    /// Whether they are a TLS listener's.
    pub fn are_tls(&self) -> bool {
        self.is_tls
    }

    /// Flows now.
    pub fn active(&self) -> u64 {
        u64::try_from(self.active.get()).unwrap_or(0)
    }

    /// One more flow.
    pub fn begin(&self) -> Active<'_> {
        for counter in &self.new {
            counter.inc();
        }
        self.active.inc();
        Active(self)
    }

    /// Bytes that a client or a target sent.
    pub fn moved(&self, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        for counter in &self.bytes {
            counter.inc_by(count);
        }
    }

    /// One that was refused: too many, or nobody to send it to.
    pub fn reject(&self) {
        for counter in &self.rejected {
            counter.inc();
        }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

/// Gauges as they are told once a second. The packet path tells those of its own listeners and takes back what it no
/// longer has: a listener that has just come from there is told of anew each time.
pub(super) struct Gauges {
    metrics: Arc<Metrics>,
    told: BTreeSet<(Name, Labels)>,
}

impl Gauges {
    /// Nothing told yet.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, told: BTreeSet::new() }
    }

    /// Tells how many flows there are at these ends, and forgets ends that are gone.
    pub(super) fn tell<'a>(&mut self, ends: impl Iterator<Item = &'a Counters>) {
        let mut values: BTreeMap<(Name, Labels), u64> = BTreeMap::new();
        for end in ends {
            let own = if end.is_tls { name::NLB_ACTIVE_FLOWS_TLS } else { name::NLB_ACTIVE_FLOWS_TCP };
            for name in [name::NLB_ACTIVE_FLOWS, own] {
                *values.entry((name, end.labels.clone())).or_default() += end.active();
            }
        }
        let now: BTreeSet<_> = values.keys().cloned().collect();
        for (name, labels) in self.told.difference(&now) {
            self.metrics.remove(*name, labels);
        }
        for ((name, labels), value) in values {
            self.metrics.gauge(name, &labels).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.told = now;
    }
}
