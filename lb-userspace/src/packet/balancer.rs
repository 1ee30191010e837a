//! All of it together: one value that a node's loop drives.
//!
//! ```text
//! slice ──▶ plan() ──▶ apply ─┐
//! neighbour events ──▶ react ─┼─▶ attach, reconcile, write
//! now and then ────▶ housekeep ┘   clock, sweep, free indices
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Ebpf;
use lb_common::abi::{DropReason, MAX_FLOW_ENTRIES, Target, target_state};

use super::attach::{AttachError, Links};
use super::capture::{self, Capture, CaptureError, CaptureQuestion, Tap};
use super::clock::{Clock, Limits};
use super::counters::{Counters, DropCount, ListenerCount, TargetCount};
use super::dial;
use super::explain::{self, ExplainError, Explanation, PacketQuestion};
use super::flows::Census;
use super::interfaces;
use super::ledger::Ledger;
use super::listing::{self, Directory, FlowFilter, FlowLine};
use super::load::{self, LoadError, Loaded};
use super::maglev::Moves;
use super::maps::{self, Maps, MapsError};
use super::neighbours::Neighbours;
use super::plan::Plan;
use super::reconcile::{Exceeded, Interface, Surroundings, Write, identify, is_due, reconcile};
use super::reshuffle;
use super::sweep::{Judge, Place, Sweep};
use super::syn_ack;
use super::view::Names;
use crate::model::{id::Arn, target_group::TargetKey};

/// What may be different from one node to another.
#[derive(Debug, Clone)]
pub struct Options {
    /// Entries of each family's flow table, two a flow.
    pub flow_entries: u32,
    /// How many flows may begin.
    pub limits: Limits,
    /// The kernel program; the one that was built in unless a trace build takes its place.
    pub object: std::borrow::Cow<'static, [u8]>,
    /// The cgroup whose processes are led to targets as they connect to load balancers; none leaves all alone.
    pub clients: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        let flow_entries = u32::try_from(MAX_FLOW_ENTRIES).unwrap_or(u32::MAX);
        Self { flow_entries, limits: Limits::default(), object: load::OBJECT.into(), clients: None }
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
    /// The node's interfaces.
    #[error("reading MACs and MTUs of interfaces")]
    Interfaces(#[source] io::Error),
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
    sweep: Sweep,
    // Of the last pass that is through.
    census: Option<Census>,
    // What routers said of paths to targets.
    path_mtus: BTreeMap<IpAddr, u16>,
    // The pass that was under way when targets last got or lost flows by something else than packets.
    changed_in_pass: u64,
    flow_entries: u32,
    expired: u64,
    reshuffled: Moves,
    adopted: bool,
    directory: PathBuf,
    object: std::borrow::Cow<'static, [u8]>,
    // Somebody looks; and what nobody looks at any more, until no packet is in its program.
    capture: Option<Capture>,
    captured: Option<Capture>,
    // Whether maps of other versions, and what a capture pinned, may still be there.
    is_outdated: bool,
    // Interfaces on the host's ways that could not have the program, which was said.
    barred: BTreeSet<String>,
}

impl Balancer {
    /// Loads the kernel program, or adopts what an earlier process left under `directory`, which must be on a BPF file
    /// system and belong to this process.
    ///
    /// Needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, a tokio runtime, and to run in the node's network namespace.
    pub fn open(directory: &Path, options: &Options, now: Instant) -> Result<Self, BalancerError> {
        let Loaded { mut ebpf, adopted } = load::load(directory, &options.object, options.flow_entries)?;
        load::follow_trace(&mut ebpf);
        let mut maps = Maps::take(&mut ebpf, adopted)?;
        if !adopted {
            maps.share_ports()?;
        }
        let links = Links::new(directory)?;
        let neighbours = Neighbours::start().map_err(BalancerError::Neighbours)?;
        let ledger = maps.ledger()?;
        let cpus = u32::try_from(maps::cpus()?).unwrap_or(u32::MAX);
        let (entries, scale) = (options.flow_entries, syn_ack::cookie_scale());
        let clock = Clock::start(maps.pulse()?.tick, entries, options.limits, cpus, scale, now);
        maps.set_pulse(clock.pulse())?;
        match &options.clients {
            None => dial::detach(directory),
            // Everybody else's packets matter more.
            Some(cgroup) => {
                if let Err(error) = dial::attach(directory, &options.object, cgroup) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "clients on this node are left alone"
                    );
                }
            }
        }
        Ok(Self {
            ebpf,
            maps,
            links,
            neighbours,
            ledger,
            plan: Plan::default(),
            is_planned: false,
            clock,
            sweep: Sweep::default(),
            census: None,
            path_mtus: BTreeMap::new(),
            changed_in_pass: 0,
            flow_entries: options.flow_entries,
            expired: 0,
            reshuffled: Moves::default(),
            adopted,
            directory: directory.to_owned(),
            object: options.object.clone(),
            capture: None,
            captured: None,
            is_outdated: true,
            barred: BTreeSet::new(),
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

    /// Moves the kernel's clock, removes flows that are over from a part of the tables, frees indices that no flow names.
    /// Some times a second.
    pub fn housekeep(&mut self, now: Instant) -> Result<(), BalancerError> {
        self.end_capture(now);
        let has_ticked = self.clock.advance(now);
        if has_ticked {
            self.maps.set_pulse(self.clock.pulse())?;
        }
        // What an earlier process left is judged once it is known what it is for.
        let judge = self.is_planned.then(|| self.judge());
        let census = judge.and_then(|judge| self.sweep.step(&self.maps, &judge));
        if let Some(census) = census {
            self.expired += census.expired;
            let freed = self.ledger.release(&census);
            self.census = Some(census);
            let gone = |slot: super::ledger::TargetSlot| Write::Target {
                index: slot.index,
                entry: Target { state: target_state::GONE, ..slot.entry },
            };
            self.maps.write(&freed.into_iter().map(gone).collect::<Vec<_>>())?;
        }
        let has_heard = has_ticked && self.has_heard_of_paths()?;
        if has_heard || has_ticked && (is_due(&self.ledger, self.clock.tick()) || self.has_device_changed()) {
            self.refresh()
        } else {
            Ok(())
        }
    }

    /// Flows that a target still has, by the last pass over the flow tables; `None` if it may have got some since.
    pub fn flows_of_target(&self, group: &Arn, key: &TargetKey) -> Option<u64> {
        let census = self.census.as_ref().filter(|census| census.pass > self.changed_in_pass)?;
        let mut indices = BTreeSet::new();
        for (own, _, listener) in self.plan.listeners() {
            for (name, target) in &listener.targets {
                if name.group != *group || name.key != *key {
                    continue;
                }
                let ways = identify(&self.plan, own, name, target);
                // Listeners share a target's entries: count them once.
                indices.extend(ways.filter_map(|way| Some(self.ledger.targets.get(&way)?.index)));
            }
        }
        Some(indices.iter().filter_map(|index| census.by_target.get(index)).sum())
    }

    /// What was counted.
    pub fn counters(&self) -> Result<Counters, BalancerError> {
        let none = Census::default();
        let census = self.census.as_ref().unwrap_or(&none);
        let mut counters = Counters {
            expired_flows: self.expired,
            flow_entries: census.entries,
            reshuffled: self.reshuffled,
            ..Counters::default()
        };
        let mut seen = BTreeSet::new();
        for (own, name, listener) in self.plan.listeners() {
            if let Some(index) = self.ledger.listeners.get(name) {
                counters.listeners.push(ListenerCount {
                    arn: listener.arn.clone(),
                    name: *name,
                    service: listener.service,
                    counters: self.maps.listener_counters(*index)?,
                    cookies: self.maps.cookie_counters(*index)?,
                    active_flows: census.by_listener.get(index).copied().unwrap_or(0),
                });
            }
            for (name, target) in &listener.targets {
                for identity in identify(&self.plan, own, name, target) {
                    let Some(slot) = self.ledger.targets.get(&identity) else { continue };
                    if !seen.insert(slot.index) {
                        continue;
                    }
                    counters.targets.push(TargetCount {
                        name: name.clone(),
                        via: identity.via,
                        counters: self.maps.target_counters(slot.index)?,
                        active_flows: census.by_target.get(&slot.index).copied().unwrap_or(0),
                        resolved: slot.entry.state == target_state::READY,
                        fails_open: target.fails_open,
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

    /// The flows of one batch of a walk over the flow tables that are asked for, and where the walk goes on; `None` when it
    /// is through.
    pub fn flows(
        &self,
        filter: &FlowFilter,
        place: Place,
    ) -> Result<(Vec<FlowLine>, Option<Place>), BalancerError> {
        let targets = self.ledger.targets.values().map(|slot| (slot.index, slot.entry)).collect();
        let listeners = self.plan.nodes.values().flat_map(|node| {
            node.listeners.iter().filter_map(|(name, listener)| {
                let index = self.ledger.listeners.get(name)?;
                Some((*index, (listener.arn.clone(), node.zone.clone())))
            })
        });
        let directory = Directory { targets, listeners: listeners.collect(), tick: self.clock.tick() };
        Ok(listing::page(&self.maps, place, filter, &directory))
    }

    /// What would happen to a packet, and why.
    pub fn explain(&self, question: &PacketQuestion) -> Result<Explanation, ExplainError> {
        let devices = self.links.attached().iter().map(|(device, ifindex)| (device.clone(), *ifindex));
        let names = Names::of(&self.plan, &self.ledger, devices);
        // Its own MAC is of no consequence: what came in by an interface was for it.
        explain::explain(question, &self.maps, &self.ledger, &names, self.clock.pulse(), [0; 6])
    }

    /// Gives packets as they come to whoever asks, until that is dropped or the time is over.
    ///
    /// # Errors
    /// When what is asked for is out of bounds or not there, somebody else looks, or the kernel refuses.
    pub fn capture(&mut self, question: &CaptureQuestion, now: Instant) -> Result<Tap, CaptureError> {
        self.end_capture(now);
        if self.capture.is_some() {
            return Err(CaptureError::Busy);
        }
        question.check()?;
        let listeners = self.plan.listeners().filter_map(|(_, name, listener)| {
            Some((*name, listener.arn.clone(), *self.ledger.listeners.get(name)?))
        });
        let filter = question.filter(listeners, self.clock.tick())?;
        let devices = self.links.attached().iter().map(|(device, index)| (*index, device.clone())).collect();
        let until = now + Duration::from_secs(question.seconds.into());
        let path = load::program(&mut self.ebpf)?;
        let (mut capture, tap) =
            Capture::begin(&self.directory, &self.object, path, &filter, devices, until)?;
        self.links.exchange_all(capture.program()?);
        self.capture = Some(capture);
        Ok(tap)
    }

    /// Puts the packet path back where a capture is over; what it had goes with the next call.
    fn end_capture(&mut self, now: Instant) {
        if let Some(captured) = self.captured.take() {
            captured.remove();
        }
        let Some(capture) = self.capture.take_if(|capture| capture.is_over(now)) else { return };
        match load::program(&mut self.ebpf) {
            Ok(program) => self.links.exchange_all(program),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "a capture does not end"),
        }
        self.captured = Some(capture);
    }

    /// Attaches, asks for neighbours, and brings the maps in step.
    fn refresh(&mut self) -> Result<(), BalancerError> {
        if !self.is_planned {
            return Ok(());
        }
        let program = match &mut self.capture {
            Some(capture) => capture.program()?,
            None => load::program(&mut self.ebpf)?,
        };
        for device in self.plan.devices() {
            self.links.attach(program, device)?;
        }
        let beyond = self.plan.beyond();
        for device in &beyond {
            // It may be another VPC's, and these targets are all that is lost.
            if let Err(error) = self.links.attach(program, device)
                && self.barred.insert((*device).clone())
            {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(device, error, "targets behind this interface are not reached");
            }
        }
        self.barred.retain(|device| beyond.contains(device) && !self.links.attached().contains_key(device));
        let wanted: BTreeSet<&str> = self.plan.devices().chain(beyond).map(String::as_str).collect();
        self.links.keep_only(|device| wanted.contains(device));
        // No link has a program of an earlier process any more.
        if std::mem::take(&mut self.is_outdated) {
            load::remove_other_versions(&self.directory);
            if self.capture.is_none() {
                capture::remove_remains(&self.directory);
            }
        }
        let devices = self.devices()?;
        self.neighbours.want(next_hops(&self.plan, &devices));
        let around = Surroundings {
            devices,
            neighbours: self.neighbours.known(),
            tick: self.clock.tick(),
            pass: self.sweep.pass(),
            cpus: self.clock.cpus(),
            new_flows_per_s: self.clock.new_flows_per_s(),
            path_mtus: self.path_mtus.clone(),
        };
        // On a copy: what does not fit changes nothing.
        let mut ledger = self.ledger.clone();
        let writes = reconcile(&mut ledger, &self.plan, &around)?;
        if writes.is_empty() {
            self.ledger = ledger;
            return Ok(());
        }
        self.changed_in_pass = self.sweep.pass();
        match self.maps.write(&writes) {
            Ok(()) => {
                for reshuffle in reshuffle::between(&self.ledger, &ledger) {
                    reshuffle.tell();
                    self.reshuffled.moved += reshuffle.moves.moved;
                    self.reshuffled.ideal += reshuffle.moves.ideal;
                }
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

    /// Devices that have the program, with what the kernel says of them now.
    fn devices(&self) -> Result<BTreeMap<String, Interface>, BalancerError> {
        let attached = self.links.attached();
        if attached.is_empty() {
            return Ok(BTreeMap::new());
        }
        let known = interfaces::read().map_err(BalancerError::Interfaces)?;
        let devices =
            attached.iter().filter_map(|(device, index)| Some((device.clone(), *known.get(index)?)));
        Ok(devices.collect())
    }

    fn is_waiting_for_device(&self) -> bool {
        self.plan.devices().any(|device| !self.links.attached().contains_key(device))
    }

    /// Whether routers said something new of paths to targets, or what they said is forgotten.
    fn has_heard_of_paths(&mut self) -> Result<bool, BalancerError> {
        let mut heard = self.maps.path_mtus(self.clock.tick())?;
        if !heard.is_empty() {
            // Anybody can say so of any address.
            let targets: BTreeSet<IpAddr> = self.ledger.targets.keys().map(|own| own.address).collect();
            heard.retain(|address, _| targets.contains(address));
        }
        let is_new = heard != self.path_mtus;
        self.path_mtus = heard;
        Ok(is_new)
    }

    fn has_device_changed(&self) -> bool {
        self.plan.devices().chain(self.plan.beyond()).any(|device| {
            let now = nix::net::if_::if_nametoindex(device.as_str()).ok();
            self.links.attached().get(device).copied() != now
        })
    }

    fn judge(&self) -> Judge {
        let indexed = self.plan.listeners().filter_map(|(_, name, listener)| {
            let index = self.ledger.listeners.get(name)?;
            Some((*index, (listener.idle_timeout_s, name.protocol)))
        });
        Judge {
            tick: self.clock.tick(),
            listeners: indexed.collect(),
            generations: self.ledger.live_generations(),
            capacity: u64::from(self.flow_entries),
        }
    }
}

fn next_hops(plan: &Plan, devices: &BTreeMap<String, Interface>) -> BTreeSet<(u32, IpAddr)> {
    let mut hops = BTreeSet::new();
    for (own, node) in plan.nodes.iter().filter(|(_, node)| devices.contains_key(&node.device)) {
        for target in node.listeners.values().flat_map(|listener| listener.targets.values()) {
            for reach in plan.ways(*own, target) {
                hops.extend(devices.get(reach.device).map(|interface| (interface.ifindex, reach.next_hop)));
            }
        }
    }
    hops
}

/// Between two looks for a device that the host has not made yet.
const DEVICE_RETRY: Duration = Duration::from_millis(50);
