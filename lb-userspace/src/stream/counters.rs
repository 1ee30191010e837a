//! What a listener's end counts, looked up once.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::telemetry::{Metrics, metrics::Labels, name};

/// Counts of one listener on one address.
pub struct Counters {
    /// As all flows of network load balancers are counted. How many there are now is told to who counts XDP's.
    all: Flows,
    /// As those of TLS listeners are counted besides.
    tls: Option<Flows>,
    /// Refused: too many, or nobody to send them to.
    pub rejected: Counter,
    /// Refused by security groups.
    pub blocked: Counter,
    /// Reset by us.
    pub resets: Counter,
    /// Handshakes that clients did not bring to an end.
    pub client_tls_errors: Counter,
    /// Handshakes that targets did not bring to an end.
    pub target_tls_errors: Counter,
    /// Closed because too many handshakes were under way.
    pub handshakes_rejected: Counter,
}

struct Flows {
    active: Gauge,
    new: Counter,
    bytes: Counter,
}

/// A flow that is counted as active until this is dropped.
pub struct Active<'a>(&'a Counters);

impl Counters {
    /// Of the series with these labels.
    pub fn of(metrics: &Metrics, labels: &Labels, is_tls: bool) -> Self {
        let counter = |name| metrics.counter(name, labels);
        let flows = |active, new, bytes| Flows { active, new: counter(new), bytes: counter(bytes) };
        Self {
            all: flows(Gauge::default(), name::NLB_NEW_FLOWS, name::NLB_PROCESSED_BYTES),
            tls: is_tls.then(|| {
                let active = metrics.gauge(name::NLB_TLS_ACTIVE_FLOWS, labels);
                flows(active, name::NLB_TLS_NEW_FLOWS, name::NLB_TLS_PROCESSED_BYTES)
            }),
            rejected: counter(name::NLB_REJECTED_FLOWS),
            blocked: counter(name::NLB_BLOCKED_FLOWS),
            resets: counter(name::NLB_ELB_RESETS),
            client_tls_errors: counter(name::NLB_CLIENT_TLS_ERRORS),
            target_tls_errors: counter(name::NLB_TARGET_TLS_ERRORS),
            handshakes_rejected: counter(name::NLB_HANDSHAKES_REJECTED),
        }
    }

    /// One more flow.
    pub fn begin(&self) -> Active<'_> {
        for flows in self.flows() {
            flows.new.inc();
            flows.active.inc();
        }
        Active(self)
    }

    /// Flows now.
    pub fn active(&self) -> u64 {
        u64::try_from(self.all.active.get()).unwrap_or(0)
    }

    /// Whether they are a TLS listener's.
    pub fn are_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Bytes that a client or a target sent.
    pub fn moved(&self, count: usize) {
        for flows in self.flows() {
            flows.bytes.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
        }
    }

    fn flows(&self) -> impl Iterator<Item = &Flows> {
        std::iter::once(&self.all).chain(&self.tls)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        for flows in self.0.flows() {
            flows.active.dec();
        }
    }
}
