//! All of it together: one value that a node's loop drives.
//!
//! ```text
//! slice ──▶ plan() ──▶ apply ─┐
//! neighbour events ──▶ react ─┼─▶ attach, reconcile, write
//! once a second ──▶ housekeep ┘   clock, sweep, free indices
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::Ebpf;
use lb_common::abi::{DropReason, EMBRYONIC_TICKS, MAX_FLOW_ENTRIES, Pulse, Target, target_state};

use super::attach::{self, AttachError, Links};
use super::counters::{Counters, DropCount, ListenerCount, TargetCount};
use super::flows::Census;
use super::ledger::Ledger;
use super::load::{self, LoadError, Loaded};
use super::maps::{self, Maps, MapsError};
use super::neighbours::Neighbours;
use super::plan::{Plan, next_hop};
use super::reconcile::{Exceeded, Surroundings, Write, identify, reconcile};
use crate::model::{id::Arn, target_group::TargetKey};

/// What may be different from one node to another.
#[derive(Debug, Clone)]
pub struct Options {
    /// Entries of the flow table, two a flow.
    pub flow_entries: u32,
    /// The kernel program; the one that was built in unless a trace build takes its place.
    pub object: std::borrow::Cow<'static, [u8]>,
}

impl Default for Options {
    fn default() -> Self {
        let flow_entries = u32::try_from(MAX_FLOW_ENTRIES).unwrap_or(u32::MAX);
        Self { flow_entries, object: load::OBJECT.into() }
    }
}

/// Why the packet path is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// The kernel program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its maps.
    #[error(transparent)]
    Maps(#[from] MapsError),
    /// Its interfaces.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A limit; the plan before stays in force.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// The kernel's neighbour table.
    #[error("listening to the neighbour table")]
    Neighbours(#[source] io::Error),
}

/// The network load balancers of one node.
pub struct Balancer {
    ebpf: Ebpf,
    maps: Maps,
    links: Links,
    neighbours: Neighbours,
    ledger: Ledger,
    plan: Plan,
    clock: Clock,
    // Until the first plan, everything stays as an earlier process left it.
    is_planned: bool,
    census: Census,
    // Whether targets got or lost flows for reasons that the census does not know yet.
    census_is_stale: bool,
    expired: u64,
    adopted: bool,
}

impl Balancer {
    /// Loads the kernel program, or adopts what an earlier process left under `directory`, which must be on a BPF file
    /// system and belong to this process.
    ///
    /// Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, a tokio runtime, and to run in the node's network namespace.
    pub fn open(directory: &Path, options: &Options, now: Instant) -> Result<Self, BalancerError> {
        let Loaded { mut ebpf, adopted } = load::load(directory, &options.object, options.flow_entries)?;
        load::follow_trace(&mut ebpf);
        let mut maps = Maps::take(&mut ebpf)?;
        if !adopted {
            maps.share_ports()?;
        }
        attach::reserve_ports();
        let links = Links::new(directory)?;
        let neighbours = Neighbours::start().map_err(BalancerError::Neighbours)?;
        let ledger = maps.ledger()?;
        let clock = Clock::start(maps.pulse()?.tick, options.flow_entries, maps::cpus()?, now);
        maps.set_pulse(clock.pulse())?;
        Ok(Self {
            ebpf,
            maps,
            links,
            neighbours,
            ledger,
            plan: Plan::default(),
            is_planned: false,
            clock,
            census: Census::default(),
            census_is_stale: true,
            expired: 0,
            adopted,
        })
    }

    /// Whether flows and rings of an earlier process were found.
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Makes the packet path what the plan says. Devices that do not exist yet are attached as soon as they do.
    pub fn apply(&mut self, plan: Plan) -> Result<(), BalancerError> {
        let before = std::mem::replace(&mut self.plan, plan);
        self.is_planned = true;
        let result = self.refresh();
        if matches!(result, Err(BalancerError::Exceeded(_))) {
            self.plan = before;
        }
        result
    }

    /// Waits for a change around the node (a neighbour that answered, a device that appeared) and follows it. Cancel
    /// safe: to be polled beside everything else the node waits for.
    pub async fn react(&mut self) -> Result<(), BalancerError> {
        if self.is_waiting_for_device() {
            tokio::select! {
                () = self.neighbours.changed() => {}
                () = tokio::time::sleep(DEVICE_RETRY) => {}
            }
        } else {
            self.neighbours.changed().await;
        }
        self.refresh()
    }

    /// Moves the kernel's clock, removes flows that are over, frees indices that no flow names. About once a second.
    pub fn housekeep(&mut self, now: Instant) -> Result<(), BalancerError> {
        if self.clock.advance(now) {
            self.maps.set_pulse(self.clock.pulse())?;
        }
        let idle = self.idle_timeouts();
        self.census = self.maps.sweep(self.clock.tick, |listener| {
            idle.get(&listener).copied().unwrap_or(DEFAULT_IDLE_TIMEOUT_S)
        })?;
        self.census_is_stale = false;
        self.expired += self.census.expired;
        let freed = self.ledger.release(&self.census.targets(), &self.census.listeners());
        let writes: Vec<Write> = freed
            .into_iter()
            .map(|slot| Write::Target {
                index: slot.index,
                entry: Target { state: target_state::GONE, ..slot.entry },
            })
            .collect();
        self.maps.write(&writes)?;
        if self.has_device_changed() { self.refresh() } else { Ok(()) }
    }

    /// Flows that a target still has, by the last sweep; `None` if it may have got some since.
    pub fn flows_of_target(&self, group: &Arn, key: &TargetKey) -> Option<u64> {
        if self.census_is_stale {
            return None;
        }
        let mut flows = 0;
        for (via, node) in &self.plan.nodes {
            for listener in node.listeners.values() {
                for (name, target) in &listener.targets {
                    if name.group != *group || name.key != *key {
                        continue;
                    }
                    let slot = self.ledger.targets.get(&identify(*via, name, target));
                    // Listeners of one address share a target's entry: count it once.
                    flows = flows.max(slot.map_or(0, |slot| {
                        self.census.by_target.get(&u32::from(slot.index)).copied().unwrap_or(0)
                    }));
                }
            }
        }
        Some(flows)
    }

    /// What was counted.
    pub fn counters(&self) -> Result<Counters, BalancerError> {
        let mut counters = Counters { expired_flows: self.expired, ..Counters::default() };
        let mut seen = BTreeSet::new();
        for (address, node) in &self.plan.nodes {
            for (port, listener) in &node.listeners {
                if let Some(index) = self.ledger.listeners.get(&(*address, *port)) {
                    counters.listeners.push(ListenerCount {
                        arn: listener.arn.clone(),
                        address: *address,
                        port: *port,
                        counters: self.maps.listener_counters(*index)?,
                        active_flows: self.census.by_listener.get(index).copied().unwrap_or(0),
                    });
                }
                for (name, target) in &listener.targets {
                    let Some(slot) = self.ledger.targets.get(&identify(*address, name, target)) else {
                        continue;
                    };
                    if !seen.insert(slot.index) {
                        continue;
                    }
                    counters.targets.push(TargetCount {
                        name: name.clone(),
                        via: *address,
                        counters: self.maps.target_counters(slot.index)?,
                        active_flows: self.census.by_target.get(&u32::from(slot.index)).copied().unwrap_or(0),
                        resolved: slot.entry.state == target_state::READY,
                    });
                }
            }
        }
        let drops = self.maps.drops()?;
        counters.drops = DropReason::ALL
            .into_iter()
            .map(|reason| DropCount { reason, packets: drops.get(&reason.index()).copied().unwrap_or(0) })
            .collect();
        Ok(counters)
    }

    /// Attaches, asks for neighbours, and brings the maps in step.
    fn refresh(&mut self) -> Result<(), BalancerError> {
        if !self.is_planned {
            return Ok(());
        }
        let program = load::program(&mut self.ebpf)?;
        for node in self.plan.nodes.values() {
            self.links.attach(program, &node.device)?;
        }
        let wanted: BTreeSet<&str> = self.plan.nodes.values().map(|node| node.device.as_str()).collect();
        self.links.keep_only(|device| wanted.contains(device));
        let devices = self.links.attached().clone();
        self.neighbours.want(next_hops(&self.plan, &devices));
        let around = Surroundings { devices, neighbours: self.neighbours.known() };
        // On a copy: what does not fit changes nothing.
        let mut ledger = self.ledger.clone();
        let writes = reconcile(&mut ledger, &self.plan, &around)?;
        if writes.is_empty() {
            self.ledger = ledger;
            return Ok(());
        }
        self.census_is_stale = true;
        match self.maps.write(&writes) {
            Ok(()) => {
                self.ledger = ledger;
                Ok(())
            }
            Err(error) => {
                // Half is written: begin again from what is there.
                self.ledger = self.maps.ledger()?;
                Err(error.into())
            }
        }
    }

    fn is_waiting_for_device(&self) -> bool {
        self.plan.nodes.values().any(|node| !self.links.attached().contains_key(&node.device))
    }

    fn has_device_changed(&self) -> bool {
        self.plan.nodes.values().any(|node| {
            let now = nix::net::if_::if_nametoindex(node.device.as_str()).ok();
            self.links.attached().get(&node.device).copied() != now
        })
    }

    fn idle_timeouts(&self) -> HashMap<u32, u32> {
        let mut timeouts = HashMap::new();
        for (address, node) in &self.plan.nodes {
            for (port, listener) in &node.listeners {
                if let Some(index) = self.ledger.listeners.get(&(*address, *port)) {
                    timeouts.insert(*index, listener.idle_timeout_s);
                }
            }
        }
        timeouts
    }
}

fn next_hops(plan: &Plan, devices: &BTreeMap<String, u32>) -> BTreeSet<(u32, std::net::Ipv4Addr)> {
    let mut hops = BTreeSet::new();
    for node in plan.nodes.values() {
        let Some(ifindex) = devices.get(&node.device) else { continue };
        for target in node.listeners.values().flat_map(|listener| listener.targets.values()) {
            hops.insert((*ifindex, next_hop(node, target.address)));
        }
    }
    hops
}

/// The kernel's clock. It goes on from where an earlier process left it, so the time that nobody kept house makes no
/// flow look idle.
struct Clock {
    tick: u32,
    counted: Instant,
    syn_limit: u32,
}

impl Clock {
    fn start(tick: u32, flow_entries: u32, cpus: usize, now: Instant) -> Self {
        // Embryonic flows may have half the table: entries are two a flow and last for EMBRYONIC_TICKS.
        let all = flow_entries / 4 / EMBRYONIC_TICKS;
        let syn_limit = (all / u32::try_from(cpus).unwrap_or(u32::MAX).max(1)).max(1);
        Self { tick: tick.max(FIRST_TICK), counted: now, syn_limit }
    }

    /// Whether a second has passed.
    fn advance(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted).as_secs();
        if passed == 0 {
            return false;
        }
        self.counted += Duration::from_secs(passed);
        // Packets of the time that was missed were stamped with the old tick.
        self.tick = self.tick.wrapping_add(u32::try_from(passed).unwrap_or(u32::MAX).min(LONGEST_STEP));
        true
    }

    fn pulse(&self) -> Pulse {
        Pulse { tick: self.tick, syn_limit: self.syn_limit }
    }
}

/// Zero is what an empty map has.
const FIRST_TICK: u32 = 1;

/// Seconds the clock may move at once: less than an embryonic flow lives.
const LONGEST_STEP: u32 = 5;

/// For flows of listeners that are gone. AWS's default.
const DEFAULT_IDLE_TIMEOUT_S: u32 = 350;

/// Between two looks for a device that the host has not made yet.
const DEVICE_RETRY: Duration = Duration::from_millis(50);
