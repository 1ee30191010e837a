//! What is counted of a stage's requests, by AWS's names.

use std::time::Duration;

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;

use crate::model::id::ApiId;
use crate::telemetry::{Metrics, name};

/// One stage's counters.
#[derive(Debug)]
pub struct StageCounters {
    count: Counter,
    client_errors: Counter,
    server_errors: Counter,
    latency_ms: Counter,
    integration_latency_ms: Counter,
}

impl StageCounters {
    /// Looks the series up; they live as long as the process.
    pub fn new(metrics: &Metrics, api: &ApiId, stage: &str) -> Self {
        let labels = vec![("ApiId", api.to_string()), ("Stage", stage.to_owned())];
        let counter = |name| metrics.counter(name, &labels);
        Self {
            count: counter(name::API_COUNT),
            client_errors: counter(name::API_4XX),
            server_errors: counter(name::API_5XX),
            latency_ms: counter(name::API_LATENCY),
            integration_latency_ms: counter(name::API_INTEGRATION_LATENCY),
        }
    }

    /// A request was answered, `took` after its head arrived.
    pub fn answered(&self, status: StatusCode, took: Duration) {
        self.count.inc();
        if status.is_client_error() {
            self.client_errors.inc();
        } else if status.is_server_error() {
            self.server_errors.inc();
        }
        self.latency_ms.inc_by(millis(took));
    }

    /// An integration answered.
    pub fn integrated(&self, took: Duration) {
        self.integration_latency_ms.inc_by(millis(took));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
