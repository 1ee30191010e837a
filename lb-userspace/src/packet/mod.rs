//! Network load balancers: the slice becomes writes to maps, and XDP programs on their interfaces do the rest.
//!
//! `Balancer` is the entry: open it on a directory of a BPF file system, give it plans, let it react and keep house.
//! Programs, maps and with them flows live in that directory, and outlive the process.

/// What the packet path should be.
pub mod plan;
/// What a node's slice means for packets.
pub mod read;
/// Weighted Maglev tables.
pub mod maglev;
/// What the maps hold, by the names that a plan uses.
pub mod ledger;
/// The difference between a plan and what the maps hold.
pub mod reconcile;
/// What a change of targets moves in the rings.
pub mod reshuffle;
/// Which flows are over.
pub mod flows;
/// The kernel's clock and flood limits.
pub mod clock;
/// The kernel program and its maps, loaded or adopted from their pins.
pub mod load;
/// Typed maps, and the writes of `reconcile`.
pub mod maps;
/// The flow tables' memory, shared with the kernel.
mod mapped;
/// Passes over the flow tables, a bounded part at a time.
pub mod sweep;
/// The program on interfaces, by pinned links.
pub mod attach;
/// Clients on the node itself.
mod dial;
/// The program of targets, which takes packets out of tunnels, on their interfaces.
pub mod decap;
/// What the node's own TCP says in SYN-ACKs that are sent for it.
pub mod syn_ack;
/// Interfaces' own MACs and MTUs.
pub mod interfaces;
/// Next hops by the kernel's neighbour table.
pub mod neighbours;
/// What was counted.
pub mod counters;
/// The highest rate of the last minute.
pub mod peak;
/// The counts as metrics.
pub mod export;
/// Flows for people.
pub mod listing;
/// The maps as `steer` sees them, without a write to them.
mod view;
/// What would happen to a packet, and why.
pub mod explain;
/// Packets as they came, for whoever asks.
pub mod capture;
/// Captured packets as a file.
pub mod pcapng;
/// All of it together.
pub mod balancer;

pub use balancer::{Balancer, BalancerError, Options};
pub use capture::{Became, CaptureError, CaptureQuestion, CapturedPacket, Tally, Tap, WhichListener};
pub use clock::Limits;
pub use counters::{Counters, DropCount};
pub use decap::{Decap, DecapError, Decapsulated, Progress};
pub use explain::{ExplainError, Explanation, PacketQuestion};
pub use export::Exporter;
pub use listing::{End, FlowFilter, FlowLine, FlowListener, FlowState};
pub use plan::{
    ListenerName, ListenerPlan, Mode, NodePlan, Plan, Protocol, Service, Side, TargetName, TargetPlan,
    Verdict,
};
pub use read::{is_forwarded, plan};
pub use sweep::Place;
