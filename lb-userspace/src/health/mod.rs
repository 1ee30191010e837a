//! Health checks: when a target is healthy, and who asks it.
//!
//! One prober per node asks every target of every group in use, for the application and the network load balancers alike,
//! and publishes one table of verdicts. What a check's outcome means is decided by `machine`, which does no I/O.

/// From outcomes to a state: thresholds, reasons.
pub mod machine;
/// Which status codes pass.
pub mod matcher;
/// One check: a connection, a request, an outcome.
pub mod check;
/// Verdicts kept over a restart.
pub mod memory;
/// Asks every target, and publishes.
pub mod prober;
/// Which zones are healthy.
pub mod zones;

pub use prober::Prober;
pub use zones::Zones;
