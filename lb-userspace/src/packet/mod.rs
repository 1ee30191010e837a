//! Network load balancers: the slice becomes writes to maps, and XDP programs on their interfaces do the rest.
//!
//! `Balancer` is the entry: open it on a directory of a BPF file system, give it plans, let it react and keep house.
//! Programs, maps and with them flows live in that directory, and outlive the process.

/// What a node's slice means for packets.
pub mod plan;
/// Weighted Maglev tables.
pub mod maglev;
/// What the maps hold, by the names that a plan uses.
pub mod ledger;
/// The difference between a plan and what the maps hold.
pub mod reconcile;
/// Which flows are over.
pub mod flows;
/// The kernel program and its maps, loaded or adopted from their pins.
pub mod load;
/// Typed maps, and the writes of `reconcile`.
pub mod maps;
/// Many entries of a map in one system call.
mod batch;
/// The program on interfaces, by pinned links.
pub mod attach;
/// Next hops by the kernel's neighbour table.
pub mod neighbours;
/// What was counted.
pub mod counters;
/// The counts as metrics.
pub mod export;
/// All of it together.
pub mod balancer;

pub use balancer::{Balancer, BalancerError, Options};
pub use counters::{Counters, DropCount};
pub use export::Exporter;
pub use plan::{ListenerPlan, NodePlan, Plan, TargetName, TargetPlan, Verdict, plan};
