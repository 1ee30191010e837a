//! A node's verdicts on its targets, and which targets may get something new.
//!
//! The prober publishes one immutable table after each change; the load balancer's workers and the packet path read the
//! same table by the same function, so the two never disagree about who is healthy.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    node::{TargetGroupView, TargetView},
    spread::Health,
};
use crate::model::{
    id::{Arn, TimestampMs},
    target_group::{TargetHealth, TargetHealthState, TargetKey},
};

/// Verdicts by target group and target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// A group that did not change is the same `Arc` in the next table.
    pub groups: BTreeMap<Arn, Arc<BTreeMap<TargetKey, Verdict>>>,
}

/// A verdict on one registration of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which registration.
    pub registered_at: TimestampMs,
    /// The verdict.
    pub health: TargetHealth,
}

impl Verdicts {
    /// The state of a target's current registration; `None` when there is no verdict on it yet.
    pub fn state(&self, group: &Arn, target: &TargetView) -> Option<TargetHealthState> {
        let verdict = self.groups.get(group)?.get(&target.key)?;
        (verdict.registered_at == target.registered_at).then_some(verdict.health.state)
    }

    /// What is known of a registered target's health, as [`spread`](super::spread::spread) wants it.
    pub fn health(&self, group: &Arn, target: &TargetView) -> Health {
        if target.draining_until.is_some() {
            return Health::Draining;
        }
        match self.state(group, target) {
            Some(TargetHealthState::Healthy | TargetHealthState::Unavailable) => Health::Healthy,
            Some(TargetHealthState::Draining) => Health::Draining,
            Some(TargetHealthState::Unhealthy) => Health::Unhealthy,
            Some(TargetHealthState::Initial | TargetHealthState::Unused) => Health::Initial,
            None => Health::Unknown,
        }
    }

    /// The targets of `group` that may get new requests or connections, in the order of their keys: the healthy ones,
    /// or all registered ones if none is healthy (AWS: fails open). Draining ones never.
    ///
    /// `unavailable` is AWS's state of targets that nobody checks; they count as healthy.
    pub fn eligible<'a>(&self, arn: &Arn, group: &'a TargetGroupView) -> Vec<&'a TargetView> {
        let registered = || group.targets.values().filter(|target| target.draining_until.is_none());
        let passing = |target: &&TargetView| {
            matches!(
                self.state(arn, target),
                Some(TargetHealthState::Healthy | TargetHealthState::Unavailable)
            )
        };
        let healthy: Vec<_> = registered().filter(passing).collect();
        if healthy.is_empty() { registered().collect() } else { healthy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::target_group::HealthCheck;

    fn group(targets: &[(&str, Option<TimestampMs>)]) -> TargetGroupView {
        let targets = targets.iter().map(|(id, draining_until)| {
            let key = TargetKey { id: (*id).to_owned(), port: 80 };
            let address = "10.0.0.1".parse().unwrap();
            let view = TargetView {
                key,
                address,
                zone: None,
                server_id: None,
                registered_at: 7,
                draining_until: *draining_until,
            };
            (format!("{id}:80"), view)
        });
        TargetGroupView {
            name: "g".to_owned(),
            protocol: "HTTP".to_owned(),
            in_use: true,
            health_check: HealthCheck {
                enabled: true,
                protocol: "HTTP".to_owned(),
                port: "traffic-port".to_owned(),
                path: "/".to_owned(),
                interval_s: 30,
                timeout_s: 6,
                healthy_threshold: 5,
                unhealthy_threshold: 2,
                matcher: "200".to_owned(),
            },
            attributes: BTreeMap::new(),
            targets: targets.collect(),
        }
    }

    fn verdicts(states: &[(&str, TimestampMs, TargetHealthState)]) -> Verdicts {
        let group = states.iter().map(|(id, registered_at, state)| {
            let health = TargetHealth { state: *state, reason: None, description: None };
            let key = TargetKey { id: (*id).to_owned(), port: 80 };
            (key, Verdict { registered_at: *registered_at, health })
        });
        Verdicts { groups: BTreeMap::from([(Arn::from("g"), Arc::new(group.collect()))]) }
    }

    fn eligible(targets: &[(&str, Option<TimestampMs>)], verdicts: &Verdicts) -> Vec<String> {
        let group = group(targets);
        verdicts.eligible(&Arn::from("g"), &group).iter().map(|target| target.key.id.clone()).collect()
    }

    #[test]
    fn only_healthy_targets_are_eligible() {
        use TargetHealthState::{Healthy, Initial, Unhealthy};
        let table = verdicts(&[("a", 7, Healthy), ("b", 7, Unhealthy), ("c", 7, Initial)]);
        assert_eq!(eligible(&[("a", None), ("b", None), ("c", None), ("d", None)], &table), ["a"]);
    }

    #[test]
    fn a_group_without_a_healthy_target_fails_open_to_all_but_draining() {
        use TargetHealthState::Unhealthy;
        let table = verdicts(&[("a", 7, Unhealthy), ("b", 7, Unhealthy)]);
        assert_eq!(eligible(&[("a", None), ("b", Some(9)), ("c", None)], &table), ["a", "c"]);
        assert_eq!(eligible(&[("b", Some(9))], &table), [""; 0]);
    }

    #[test]
    fn a_verdict_on_an_earlier_registration_does_not_count() {
        use TargetHealthState::Healthy;
        let table = verdicts(&[("a", 6, Healthy), ("b", 7, Healthy)]);
        assert_eq!(eligible(&[("a", None), ("b", None)], &table), ["b"]);
    }
}
