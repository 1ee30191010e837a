//! ECS's other half: where tasks go, when they start, register, drain and stop, and the driver that runs them.
//!
//! `scheduler` edits a draft of the state and is run by control's writer; `driver` runs on the host and only does what
//! its slice says. They meet in values: a task's row on its way down, a report on its way up.

/// Which container instance a task goes to.
pub mod placement;
/// What must change so that services have their tasks, and each task its registrations, in ECS's order.
pub mod scheduler;
/// Runs the tasks that the host's slice names, as processes.
pub mod driver;

pub use driver::{Driver, DriverConfig, DriverError};
