//! Which targets of a network load balancer's group get new flows of a zone: by zone, by health, and what happens when too
//! few are healthy.
//!
//! The packet path and the listeners of userspace ask the same function, so the two never disagree.

use crate::model::load_balancer::Attributes;

/// What is known of a target's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It gets new flows.
    Healthy,
    /// It gets new flows only if too few targets of its group are healthy.
    Unhealthy,
    /// Registered, and not checked yet: the same, but whatever flows it has are not its fault.
    Initial,
    /// Not checked since this process began: it gets new flows if it got them before.
    Unknown,
    /// Deregistered: it gets no new flow.
    Draining,
}

/// What a decision needs to know of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Whether it is in the node's zone, or in all.
    pub is_near: bool,
    /// What health checks say.
    pub health: Health,
}

/// What is decided of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Whether it gets new flows.
    pub takes_part: bool,
    /// Whether its group is used whole, because too few are healthy.
    pub fails_open: bool,
}

/// What a group must have of healthy targets (`target_group_health.unhealthy_state_routing.minimum_healthy_targets.*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Minimum {
    /// At least so many.
    pub count: usize,
    /// And at least so many in a hundred; 0 is off.
    pub percentage: usize,
}

impl Minimum {
    /// As a group's attributes say: one target is AWS's default.
    pub fn of(attributes: &Attributes) -> Self {
        let number = |what: &str| {
            let key = format!("target_group_health.unhealthy_state_routing.minimum_healthy_targets.{what}");
            attributes.get(&key).and_then(|value| value.parse().ok())
        };
        Self { count: number("count").unwrap_or(1), percentage: number("percentage").unwrap_or(0) }
    }

    fn is_met(self, healthy: usize, registered: usize) -> bool {
        healthy >= self.count && healthy * 100 >= registered * self.percentage
    }
}

/// `load_balancing.cross_zone.enabled`, of the group if it says so, else of the load balancer.
pub fn crosses_zones(group: &Attributes, load_balancer: &Attributes) -> bool {
    const KEY: &str = "load_balancing.cross_zone.enabled";
    match group.get(KEY).map(String::as_str) {
        Some("true") => true,
        Some("false") => false,
        _ => load_balancer.get(KEY).is_some_and(|value| value == "true"),
    }
}

/// Decides who of a group gets new flows of a node.
///
/// With `crosses_zones` the node's zone does not matter. Without it, a node spreads to its own zone's targets alone:
/// to the healthy ones if they are enough, else to all of them. Where AWS takes the address of a zone without a healthy
/// target out of DNS, so that clients come by other zones, this node spreads to those zones' healthy targets itself:
/// addresses that clients hold on to stay good (docs/differences-from-aws.md).
pub fn spread(candidates: &[Candidate], crosses_zones: bool, minimum: Minimum) -> Vec<Share> {
    let is_near = |candidate: &Candidate| crosses_zones || candidate.is_near;
    let near = Tally::of(candidates.iter().filter(|candidate| is_near(candidate)));
    let all = Tally::of(candidates.iter());
    let zone_is_out = near.healthy == 0 && all.healthy > 0;
    let scope: &dyn Fn(&Candidate) -> bool =
        if zone_is_out || near.registered == 0 { &|_| true } else { &is_near };
    let tally = if zone_is_out || near.registered == 0 { all } else { near };
    let fails_open = !minimum.is_met(tally.healthy, tally.registered);
    let share = |candidate: &Candidate| match candidate.health {
        Health::Draining => Share::default(),
        _ if !scope(candidate) => Share::default(),
        Health::Healthy | Health::Unknown => Share { takes_part: true, fails_open },
        Health::Unhealthy | Health::Initial => Share { takes_part: fails_open, fails_open },
    };
    candidates.iter().map(share).collect()
}

/// How many there are.
#[derive(Clone, Copy)]
struct Tally {
    registered: usize,
    healthy: usize,
}

impl Tally {
    fn of<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Self {
        let mut tally = Self { registered: 0, healthy: 0 };
        for candidate in candidates.filter(|candidate| candidate.health != Health::Draining) {
            tally.registered += 1;
            // What was not checked yet counts as it was before, which is not known here: not against it.
            tally.healthy += usize::from(matches!(candidate.health, Health::Healthy | Health::Unknown));
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::Health::{Draining, Healthy, Initial, Unhealthy};
    use super::*;

    const ONE: Minimum = Minimum { count: 1, percentage: 0 };

    fn near(health: Health) -> Candidate {
        Candidate { is_near: true, health }
    }

    fn far(health: Health) -> Candidate {
        Candidate { is_near: false, health }
    }

    /// A letter for each: n(othing), t(akes part), o(pen).
    fn told(candidates: &[Candidate], crosses_zones: bool, minimum: Minimum) -> String {
        let shares = spread(candidates, crosses_zones, minimum);
        let letter = |share: &Share| match (share.takes_part, share.fails_open) {
            (false, _) => 'n',
            (true, false) => 't',
            (true, true) => 'o',
        };
        shares.iter().map(letter).collect()
    }

    #[test]
    fn unhealthy_targets_get_nothing_unless_all_are() {
        assert_eq!(told(&[near(Healthy), near(Unhealthy), near(Initial)], true, ONE), "tnn");
        assert_eq!(told(&[near(Unhealthy), near(Initial), near(Draining)], true, ONE), "oon");
    }

    #[test]
    fn too_few_healthy_targets_by_count_or_percentage_fail_open() {
        let three = [near(Healthy), near(Unhealthy), near(Unhealthy)];
        assert_eq!(told(&three, true, Minimum { count: 2, percentage: 0 }), "ooo");
        assert_eq!(told(&three, true, Minimum { count: 1, percentage: 33 }), "tnn");
        assert_eq!(told(&three, true, Minimum { count: 1, percentage: 34 }), "ooo");
    }

    #[test]
    fn a_node_keeps_to_its_own_zone_while_it_has_a_healthy_target() {
        assert_eq!(told(&[near(Healthy), far(Healthy)], false, ONE), "tn");
        assert_eq!(told(&[near(Healthy), far(Healthy)], true, ONE), "tt");
        assert_eq!(told(&[near(Unhealthy), near(Healthy), far(Healthy)], false, ONE), "ntn");
    }

    #[test]
    fn a_zone_without_healthy_targets_uses_those_of_others() {
        assert_eq!(told(&[near(Unhealthy), far(Healthy), far(Unhealthy)], false, ONE), "ntn");
        assert_eq!(told(&[far(Healthy), far(Unhealthy)], false, ONE), "tn");
    }

    #[test]
    fn a_zone_fails_open_within_itself_when_no_zone_has_a_healthy_target() {
        assert_eq!(told(&[near(Unhealthy), far(Unhealthy)], false, ONE), "on");
        assert_eq!(told(&[far(Unhealthy)], false, ONE), "o");
    }

    #[test]
    fn attributes_say_how_many_must_be_healthy() {
        let key = |what: &str| {
            format!("target_group_health.unhealthy_state_routing.minimum_healthy_targets.{what}")
        };
        assert_eq!(Minimum::of(&Attributes::new()), ONE);
        let set = [(key("count"), "3".to_owned()), (key("percentage"), "off".to_owned())];
        assert_eq!(Minimum::of(&set.into()), Minimum { count: 3, percentage: 0 });
        let set = [(key("percentage"), "50".to_owned())];
        assert_eq!(Minimum::of(&set.into()), Minimum { count: 1, percentage: 50 });
    }
}
