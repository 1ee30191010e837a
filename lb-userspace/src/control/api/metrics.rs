//! What the endpoint counts. Every limit of the endpoint has a counter that says when it was hit.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counters of one endpoint; clones count together.
#[derive(Clone, Default)]
pub struct EndpointMetrics {
    /// Requests answered.
    pub requests: Counter,
    /// Of these, refused through the client's fault (4xx).
    pub client_errors: Counter,
    /// Of these, failed through ours (5xx).
    pub server_errors: Counter,
    /// Of these, with a signature that does not count.
    pub unsigned: Counter,
    /// Of these, with a body beyond the limit.
    pub too_large: Counter,
    /// Of these, whose body did not come in time.
    pub timeouts: Counter,
    /// Open connections.
    pub connections: Gauge,
    /// Connections closed at once because too many were open.
    pub connections_refused: Counter,
    /// Connections whose TLS handshake failed or did not end in time.
    pub handshakes_failed: Counter,
}

impl EndpointMetrics {
    /// Names the counters in a registry.
    pub fn register(&self, registry: &mut Registry) {
        let endpoint = registry.sub_registry_with_prefix("gatehouse_control_api");
        endpoint.register("requests", "Requests answered", self.requests.clone());
        endpoint.register(
            "client_errors",
            "Requests refused through the client's fault",
            self.client_errors.clone(),
        );
        endpoint.register("server_errors", "Requests failed through ours", self.server_errors.clone());
        endpoint.register("unsigned", "Requests whose signature does not count", self.unsigned.clone());
        endpoint.register("too_large", "Requests with a body beyond the limit", self.too_large.clone());
        endpoint.register("timeouts", "Requests whose body did not come in time", self.timeouts.clone());
        endpoint.register("connections", "Open connections", self.connections.clone());
        endpoint.register(
            "connections_refused",
            "Connections closed because too many were open",
            self.connections_refused.clone(),
        );
        endpoint.register(
            "handshakes_failed",
            "Connections whose TLS handshake failed or did not end in time",
            self.handshakes_failed.clone(),
        );
    }
}
