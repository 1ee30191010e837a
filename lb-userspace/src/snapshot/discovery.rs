//! Which instances of a Cloud Map service a query finds: the one filter of DiscoverInstances and of the gateway; and
//! how long one that was deregistered may still be in use.
//!
//! Before it: the instances that are registered (draining ones are left out by who lists them). After it: the caller
//! puts them in an order of its own, at random in DiscoverInstances.

use std::collections::BTreeMap;

use super::{
    compile::{live_integrations, service_of},
    gateway::ServiceInstanceView,
};
use crate::model::{State, discovery::DiscoveryInstance};

/// An instance that a query can find.
pub trait Discoverable {
    /// Its attributes.
    fn attributes(&self) -> &BTreeMap<String, String>;
    /// Its custom health; true without a health check.
    fn is_healthy(&self) -> bool;
}

impl Discoverable for DiscoveryInstance {
    fn attributes(&self) -> &BTreeMap<String, String> {
        &self.attributes
    }

    fn is_healthy(&self) -> bool {
        self.healthy
    }
}

impl Discoverable for ServiceInstanceView {
    fn attributes(&self) -> &BTreeMap<String, String> {
        &self.attributes
    }

    fn is_healthy(&self) -> bool {
        self.healthy
    }
}

/// DiscoverInstances' HealthStatus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatusFilter {
    /// `HEALTHY`: healthy ones only.
    Healthy,
    /// `UNHEALTHY`: unhealthy ones only.
    Unhealthy,
    /// `ALL`: health is not asked. Also what a service without a health check must be asked with.
    All,
    /// `HEALTHY_OR_ELSE_ALL`: healthy ones, or all when none is: fails open. The gateway's.
    HealthyOrElseAll,
}

impl HealthStatusFilter {
    /// Reads AWS's word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "HEALTHY" => Some(Self::Healthy),
            "UNHEALTHY" => Some(Self::Unhealthy),
            "ALL" => Some(Self::All),
            "HEALTHY_OR_ELSE_ALL" => Some(Self::HealthyOrElseAll),
            _ => None,
        }
    }
}

/// The instances that have every attribute of `query` and the health asked for, in the order given; of these, those
/// that also have every attribute of `optional`, unless no instance has.
///
/// Health comes before `optional`: a preference must not hide the healthy instances behind unhealthy preferred ones.
/// AWS does not state this order.
pub fn discover<'a, I: Discoverable + 'a>(
    instances: impl IntoIterator<Item = &'a I>,
    query: &BTreeMap<String, String>,
    optional: &BTreeMap<String, String>,
    health_status: HealthStatusFilter,
) -> Vec<&'a I> {
    let mut found: Vec<&I> = instances.into_iter().filter(|instance| has_all(*instance, query)).collect();
    match health_status {
        HealthStatusFilter::All => {}
        HealthStatusFilter::Healthy => found.retain(|instance| instance.is_healthy()),
        HealthStatusFilter::Unhealthy => found.retain(|instance| !instance.is_healthy()),
        HealthStatusFilter::HealthyOrElseAll => {
            if found.iter().any(|instance| instance.is_healthy()) {
                found.retain(|instance| instance.is_healthy());
            }
        }
    }
    if !optional.is_empty() && found.iter().any(|instance| has_all(*instance, optional)) {
        found.retain(|instance| has_all(*instance, optional));
    }
    found
}

/// How long a request that goes through a VPC link may still be running on an instance of this service after it was
/// deregistered: the longest timeout of the integrations that name the service, and the time in which a gateway applies
/// the change. 0 when no integration names it: nobody but the caller of DiscoverInstances knows its instances, and AWS
/// does not wait for those either.
pub fn drain_ms(state: &State, service_id: &str) -> u64 {
    live_integrations(state)
        .filter(|integration| {
            service_of(state, &integration.integration_uri)
                .is_some_and(|(service, _)| service.id == service_id)
        })
        .map(|integration| u64::from(integration.timeout_ms) + APPLY_MARGIN_MS)
        .max()
        .unwrap_or(0)
}

fn has_all<I: Discoverable>(instance: &I, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| instance.attributes().get(key) == Some(value))
}

/// A gateway applies a generation within milliseconds; a slow machine is given a second.
const APPLY_MARGIN_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn instance(id: &str, healthy: bool, pairs: &[(&str, &str)]) -> DiscoveryInstance {
        DiscoveryInstance {
            service_id: "srv-1".to_owned(),
            id: id.to_owned(),
            attributes: attributes(pairs),
            creator_request_id: None,
            healthy,
            draining_until: None,
        }
    }

    fn three() -> Vec<DiscoveryInstance> {
        vec![
            instance("a", true, &[("stage", "prod"), ("zone", "1")]),
            instance("b", false, &[("stage", "prod"), ("zone", "2")]),
            instance("c", true, &[("stage", "test"), ("zone", "1")]),
        ]
    }

    fn ids(
        instances: &[DiscoveryInstance],
        query: &[(&str, &str)],
        optional: &[(&str, &str)],
        health_status: HealthStatusFilter,
    ) -> String {
        discover(instances, &attributes(query), &attributes(optional), health_status)
            .iter()
            .map(|instance| instance.id.as_str())
            .collect()
    }

    #[test]
    fn every_query_parameter_must_match_exactly() {
        use HealthStatusFilter::All;
        assert_eq!(ids(&three(), &[], &[], All), "abc");
        assert_eq!(ids(&three(), &[("stage", "prod")], &[], All), "ab");
        assert_eq!(ids(&three(), &[("stage", "prod"), ("zone", "2")], &[], All), "b");
        assert_eq!(ids(&three(), &[("stage", "Prod")], &[], All), "");
        assert_eq!(ids(&three(), &[("missing", "")], &[], All), "");
    }

    #[test]
    fn optional_parameters_narrow_all_or_nothing() {
        use HealthStatusFilter::All;
        assert_eq!(ids(&three(), &[("stage", "prod")], &[("zone", "2")], All), "b");
        assert_eq!(ids(&three(), &[("stage", "prod")], &[("zone", "3")], All), "ab");
        assert_eq!(ids(&three(), &[], &[("stage", "test"), ("zone", "2")], All), "abc");
    }

    #[test]
    fn health_filters_and_fails_open() {
        use HealthStatusFilter::{Healthy, HealthyOrElseAll, Unhealthy};
        assert_eq!(ids(&three(), &[], &[], Healthy), "ac");
        assert_eq!(ids(&three(), &[], &[], Unhealthy), "b");
        assert_eq!(ids(&three(), &[], &[], HealthyOrElseAll), "ac");
        assert_eq!(ids(&three(), &[("zone", "2")], &[], HealthyOrElseAll), "b");
        assert_eq!(ids(&three(), &[("zone", "2")], &[], Healthy), "");
    }

    #[test]
    fn a_preference_does_not_hide_healthy_instances_behind_unhealthy_ones() {
        use HealthStatusFilter::HealthyOrElseAll;
        assert_eq!(ids(&three(), &[], &[("zone", "2")], HealthyOrElseAll), "ac");
    }
}
