//! What roles tell control. Reports are facts about the present: the newest of a kind wins, and repeating one is harmless.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{
    id::{Arn, InstanceId, InterfaceId, TimestampMs, VpcLinkId},
    target_group::{TargetHealth, TargetKey},
    task::{PortBinding, TaskStatus},
};

/// A fact that a role tells control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// The role has applied this generation entirely.
    Applied {
        /// The slice's generation.
        generation: u64,
    },
    /// A generation could not be applied; the role goes on with the one before.
    Refused {
        /// The slice's generation.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// A node's verdict on a target changed.
    TargetHealth {
        /// The group.
        target_group: Arn,
        /// The target.
        target: TargetKey,
        /// Which registration was checked.
        registered_at: TimestampMs,
        /// The verdict.
        health: TargetHealth,
    },
    /// A draining target has nothing left in flight: deregistration is complete before its delay is over.
    TargetDrained {
        /// The group.
        target_group: Arn,
        /// The target.
        target: TargetKey,
    },
    /// A machine's namespace stands.
    InstanceRunning {
        /// The machine.
        instance: InstanceId,
    },
    /// A task moved on.
    Task {
        /// The task.
        task: Arn,
        /// Where it is now: Pending, Running or Stopped.
        status: TaskStatus,
        /// The ports that were picked.
        bindings: Vec<PortBinding>,
        /// Why it stopped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Exit codes by container.
        exit_codes: BTreeMap<String, i32>,
    },
    /// How many of its gateways a link has ready lanes to.
    LinkAttached {
        /// The link.
        link: VpcLinkId,
        /// Gateways with at least one ready lane.
        gateways: u32,
    },
    /// The host's own interfaces, those that are not listed included, with the host's own addresses.
    HostInterfaces {
        /// Addresses with their ranges, by interface.
        interfaces: BTreeMap<String, Vec<IpNet>>,
    },
    /// What came of putting an interface's address on the host.
    Address {
        /// The interface.
        interface: InterfaceId,
        /// The address.
        address: IpAddr,
        /// What came of it.
        outcome: AddressOutcome,
    },
}

/// What came of putting an address on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressOutcome {
    /// It is there, and nobody else answers for it.
    Stands,
    /// Somebody else answers for it.
    Taken {
        /// Who answers for which address: this one, and those tried after it.
        holders: BTreeMap<IpAddr, String>,
    },
    /// The host has no place for it.
    Refused {
        /// Why.
        reason: String,
    },
}

impl Report {
    /// What the fact is about: of two reports with the same subject only the newer counts. `None` for what needs no
    /// repeating on a new connection.
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::Applied { .. } => Some("applied".to_owned()),
            // A drain that was not heard of ends with its delay; one repeated could end a later drain.
            Self::Refused { .. } | Self::TargetDrained { .. } => None,
            Self::TargetHealth { target_group, target, .. } => {
                Some(format!("health {target_group} {target}"))
            }
            Self::InstanceRunning { instance } => Some(format!("instance {instance}")),
            Self::Task { task, .. } => Some(format!("task {task}")),
            Self::LinkAttached { link, .. } => Some(format!("link {link}")),
            Self::HostInterfaces { .. } => Some("host interfaces".to_owned()),
            // One of each family.
            Self::Address { interface, address, .. } => {
                Some(format!("address {interface} {}", if address.is_ipv4() { 4 } else { 6 }))
            }
        }
    }
}
