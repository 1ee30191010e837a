//! The registry, and handles that are looked up once.
//!
//! A handle is taken when a view is compiled; counting with it is one relaxed addition, with no map and no lock on the way.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::name::{ALL, Kind, Name};

/// Label names and values.
pub type Labels = Vec<(&'static str, String)>;

/// All metrics of one role.
pub struct Metrics {
    registry: Mutex<Registry>,
    counters: BTreeMap<Name, Family<Labels, Counter>>,
    gauges: BTreeMap<Name, Family<Labels, Gauge>>,
}

impl Metrics {
    /// Every metric of the table, without series yet.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let (mut counters, mut gauges) = (BTreeMap::new(), BTreeMap::new());
        for name in ALL {
            match name.kind {
                Kind::Counter => {
                    let family = Family::<Labels, Counter>::default();
                    registry.register(name.prometheus, name.help, family.clone());
                    counters.insert(*name, family);
                }
                Kind::Gauge => {
                    let family = Family::<Labels, Gauge>::default();
                    registry.register(name.prometheus, name.help, family.clone());
                    gauges.insert(*name, family);
                }
            }
        }
        Self { registry: Mutex::new(registry), counters, gauges }
    }

    /// The counter of one series; of a name that is not a counter's, one that nobody reads.
    pub fn counter(&self, name: Name, labels: &Labels) -> Counter {
        self.counters.get(&name).map_or_else(Counter::default, |family| family.get_or_create(labels).clone())
    }

    /// The gauge of one series; of a name that is not a gauge's, one that nobody reads.
    pub fn gauge(&self, name: Name, labels: &Labels) -> Gauge {
        self.gauges.get(&name).map_or_else(Gauge::default, |family| family.get_or_create(labels).clone())
    }

    /// Adds metrics that a module keeps itself.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Forgets one series: what it was about is gone.
    pub fn remove(&self, name: Name, labels: &Labels) {
        if let Some(family) = self.counters.get(&name) {
            family.remove(labels);
        }
        if let Some(family) = self.gauges.get(&name) {
            family.remove(labels);
        }
    }

    /// OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a string does not fail.
        if encode(&mut text, &registry).is_err() {
            tracing::error!("metrics could not be written as text");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::name, *};

    #[test]
    fn what_is_counted_is_exposed() {
        let metrics = Metrics::new();
        let labels = vec![("LoadBalancer", "demo".to_owned())];
        let handle = metrics.counter(name::ALB_REQUESTS, &labels);
        handle.inc_by(2);
        metrics.gauge(name::ALB_HEALTHY_HOSTS, &vec![("TargetGroup", "g".to_owned())]).set(3);
        let text = metrics.text();
        assert!(text.contains("gatehouse_alb_RequestCount_total{LoadBalancer=\"demo\"} 2"), "{text}");
        assert!(text.contains("gatehouse_alb_HealthyHostCount{TargetGroup=\"g\"} 3"), "{text}");
        assert!(text.ends_with("# EOF\n"));
        metrics.remove(name::ALB_REQUESTS, &labels);
        assert!(!metrics.text().contains("RequestCount_total{"));
    }
}
