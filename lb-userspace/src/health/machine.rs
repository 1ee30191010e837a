//! From outcomes to a state: thresholds, reasons.
//!
//! One machine per registration of a target. A new target is healthy after one pass; an unhealthy one after
//! HealthyThresholdCount passes in a row; a healthy or new one is unhealthy after UnhealthyThresholdCount failures in a row.

use crate::model::target_group::{HealthCheck, TargetHealth, TargetHealthState};

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered as it should.
    Passed,
    /// It answered with a status that the matcher does not list.
    Code(u16),
    /// It did not answer in time.
    TimedOut,
    /// It refused, closed, or did not speak the protocol.
    Failed,
}

/// A target's state and how far it is from the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    health: TargetHealth,
    passes: u32,
    failures: u32,
}

impl Machine {
    /// A target that was just registered.
    pub fn new() -> Self {
        Self::restored(initial())
    }

    /// Goes on from a verdict that was reached before a restart.
    pub fn restored(health: TargetHealth) -> Self {
        Self { health, passes: 0, failures: 0 }
    }

    /// The verdict.
    pub fn health(&self) -> &TargetHealth {
        &self.health
    }

    /// Takes one outcome. True if the verdict changed, even if only its reason.
    pub fn observe(&mut self, outcome: Outcome, check: &HealthCheck) -> bool {
        let next = if outcome == Outcome::Passed {
            self.failures = 0;
            self.passes = self.passes.saturating_add(1);
            let needed = match self.health.state {
                TargetHealthState::Unhealthy => check.healthy_threshold,
                _ => 1,
            };
            (self.passes >= needed).then_some(HEALTHY)
        } else {
            self.passes = 0;
            self.failures = self.failures.saturating_add(1);
            let already = self.health.state == TargetHealthState::Unhealthy;
            (already || self.failures >= check.unhealthy_threshold).then(|| unhealthy(outcome))
        };
        match next {
            Some(next) if next != self.health => {
                self.health = next;
                true
            }
            _ => false,
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// A target of a group that no listener forwards to.
pub fn unused() -> TargetHealth {
    said(
        TargetHealthState::Unused,
        "Target.NotInUse",
        "Target group is not configured to receive traffic from the load balancer",
    )
}

/// A target that nobody checks.
pub fn unchecked() -> TargetHealth {
    said(
        TargetHealthState::Unavailable,
        "Target.HealthCheckDisabled",
        "Health checks are disabled for this target group",
    )
}

fn initial() -> TargetHealth {
    said(TargetHealthState::Initial, "Elb.InitialHealthChecking", "Initial health checks in progress")
}

fn unhealthy(outcome: Outcome) -> TargetHealth {
    let state = TargetHealthState::Unhealthy;
    match outcome {
        Outcome::Code(code) => said(
            state,
            "Target.ResponseCodeMismatch",
            &format!("Health checks failed with these codes: [{code}]"),
        ),
        Outcome::TimedOut => said(state, "Target.Timeout", "Request timed out"),
        Outcome::Failed | Outcome::Passed => said(state, "Target.FailedHealthChecks", "Health checks failed"),
    }
}

fn said(state: TargetHealthState, reason: &str, description: &str) -> TargetHealth {
    TargetHealth { state, reason: Some(reason.to_owned()), description: Some(description.to_owned()) }
}

const HEALTHY: TargetHealth =
    TargetHealth { state: TargetHealthState::Healthy, reason: None, description: None };

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> HealthCheck {
        HealthCheck {
            enabled: true,
            protocol: "HTTP".to_owned(),
            port: "traffic-port".to_owned(),
            path: "/".to_owned(),
            interval_s: 30,
            timeout_s: 6,
            healthy_threshold: 5,
            unhealthy_threshold: 2,
            matcher: "200".to_owned(),
        }
    }

    fn after(outcomes: &[Outcome]) -> Machine {
        let mut machine = Machine::new();
        for outcome in outcomes {
            machine.observe(*outcome, &check());
        }
        machine
    }

    #[test]
    fn one_pass_makes_a_new_target_healthy() {
        let mut machine = Machine::new();
        assert_eq!(machine.health().reason.as_deref(), Some("Elb.InitialHealthChecking"));
        assert!(machine.observe(Outcome::Passed, &check()));
        assert_eq!(machine.health(), &HEALTHY);
        assert!(!machine.observe(Outcome::Passed, &check()), "nothing changed");
    }

    #[test]
    fn a_pass_after_a_failure_still_makes_a_new_target_healthy() {
        assert_eq!(after(&[Outcome::Failed, Outcome::Passed]).health(), &HEALTHY);
    }

    #[test]
    fn failures_count_in_a_row() {
        use Outcome::{Failed, Passed};
        assert_eq!(after(&[Passed, Failed, Passed, Failed]).health(), &HEALTHY);
        let machine = after(&[Passed, Failed, Failed]);
        assert_eq!(machine.health().state, TargetHealthState::Unhealthy);
    }

    #[test]
    fn an_unhealthy_target_needs_the_whole_threshold_in_a_row() {
        use Outcome::{Failed, Passed};
        let down = [Failed, Failed];
        let up = |passes: &[Outcome]| after(&[&down, passes].concat()).health().state;
        assert_eq!(up(&[Passed; 4]), TargetHealthState::Unhealthy);
        assert_eq!(up(&[Passed; 5]), TargetHealthState::Healthy);
        assert_eq!(
            up(&[Passed, Passed, Failed, Passed, Passed, Passed]),
            TargetHealthState::Unhealthy,
            "a failure starts the count again"
        );
    }

    #[test]
    fn reasons_are_awss_and_follow_the_newest_failure() {
        let mut machine = after(&[Outcome::Code(500), Outcome::Code(500)]);
        assert_eq!(machine.health().reason.as_deref(), Some("Target.ResponseCodeMismatch"));
        assert_eq!(
            machine.health().description.as_deref(),
            Some("Health checks failed with these codes: [500]")
        );
        assert!(machine.observe(Outcome::TimedOut, &check()));
        assert_eq!(machine.health().reason.as_deref(), Some("Target.Timeout"));
        assert_eq!(machine.health().description.as_deref(), Some("Request timed out"));
        assert!(machine.observe(Outcome::Failed, &check()));
        assert_eq!(machine.health().reason.as_deref(), Some("Target.FailedHealthChecks"));
    }

    #[test]
    fn a_restored_verdict_holds_until_checks_say_otherwise() {
        let mut machine = Machine::restored(HEALTHY);
        assert!(!machine.observe(Outcome::Failed, &check()));
        assert_eq!(machine.health(), &HEALTHY);
        assert!(machine.observe(Outcome::Failed, &check()));
    }
}
