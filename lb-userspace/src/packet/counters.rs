//! What was counted, under the names of the plan.

use std::net::IpAddr;

use lb_common::abi::{CookieCounters, DropReason, ListenerCounters, TargetCounters};

use super::maglev::Moves;
use super::plan::{ListenerName, Service, TargetName};
use crate::model::id::Arn;

/// Everything that the kernel programs count. Values only grow while a listener or target stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters {
    /// By listener and address.
    pub listeners: Vec<ListenerCount>,
    /// By target and address that reaches it.
    pub targets: Vec<TargetCount>,
    /// By reason, those that never happened included.
    pub drops: Vec<DropCount>,
    /// Flows that were removed because they were over, since the process began.
    pub expired_flows: u64,
    /// Entries of both flow tables at the last pass, two a flow at most.
    pub flow_entries: u64,
    /// Slots that changes of targets moved in rings, and as many as they had to, since the process began.
    pub reshuffled: Moves,
}

/// A listener's.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenerCount {
    /// The listener.
    pub arn: Arn,
    /// Its address, port and protocol.
    pub name: ListenerName,
    /// What is done with its packets.
    pub service: Service,
    /// What was counted.
    pub counters: ListenerCounters,
    /// What was counted of its SYN cookies.
    pub cookies: CookieCounters,
    /// Flows at the last pass over the flow tables.
    pub active_flows: u64,
}

/// A target's.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetCount {
    /// The target.
    pub name: TargetName,
    /// The address that reaches it.
    pub via: IpAddr,
    /// What was counted.
    pub counters: TargetCounters,
    /// Flows at the last pass over the flow tables.
    pub active_flows: u64,
    /// Whether its next hop is known.
    pub resolved: bool,
    /// Whether its group is used whole, because too few are healthy.
    pub fails_open: bool,
}

/// A drop reason's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropCount {
    /// The reason.
    pub reason: DropReason,
    /// Packets.
    pub packets: u64,
}
