//! Metrics: their names in one table, counters that cost one relaxed addition, and their exposition as text.

/// The table of names: AWS's, and how Prometheus spells them.
pub mod name;
/// The registry, and handles that are looked up once.
pub mod metrics;
/// Answering a scraper.
pub mod expose;

pub use metrics::Metrics;
pub use name::Name;
