//! How long leaves live, and when they are renewed: at half their life, so that the other half is left to notice.

use std::time::Duration;

use crate::model::id::TimestampMs;

/// Whether a leaf that lives for `lifetime` and ends at `not_after` should be renewed.
pub fn should_renew(lifetime: Duration, not_after: TimestampMs, now: TimestampMs) -> bool {
    now >= renew_at(lifetime, not_after)
}

/// When a leaf that lives for `lifetime` and ends at `not_after` is to be renewed.
pub fn renew_at(lifetime: Duration, not_after: TimestampMs) -> TimestampMs {
    not_after.saturating_sub(millis(lifetime) / 2)
}

/// The end of a leaf's life that starts now.
pub fn not_after(lifetime: Duration, now: TimestampMs) -> TimestampMs {
    now.saturating_add(millis(lifetime))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Leaves that clients see. Well below the 398 days that browsers accept.
pub const FRONT_DOOR_LIFETIME: Duration = Duration::from_secs(30 * DAY);
/// Leaves of gateways and links. Renewed at half: data planes must come back from a restart while control is down,
/// and control may be down for a long weekend.
pub const IDENTITY_LIFETIME: Duration = Duration::from_secs(7 * DAY);
/// The CAs themselves: made once at first start.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(3_650 * DAY);
/// Clocks of two hosts differ: a leaf is already valid this long before it is made.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);

const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_renewed_at_half_its_life() {
        let lifetime = Duration::from_secs(10);
        let end = not_after(lifetime, 1_000);
        assert_eq!(end, 11_000);
        assert!(!should_renew(lifetime, end, 5_999));
        assert!(should_renew(lifetime, end, 6_000));
        assert!(should_renew(lifetime, end, 20_000), "an expired leaf is renewed as well");
    }
}
