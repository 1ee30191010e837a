//! Times in answers: seconds since the Unix epoch, which `api` writes as each protocol does.

use crate::model::id::TimestampMs;

/// A time as an answer's value.
pub fn seconds(at: TimestampMs) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "milliseconds since 1970 stay below 2^53 for 285,000 years"
    )]
    let milliseconds = at as f64;
    milliseconds / 1_000.0
}
