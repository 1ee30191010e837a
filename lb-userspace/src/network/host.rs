//! The host driver: puts load balancers' addresses on the host's own interfaces, and keeps them there.
//!
//! Whoever calls `apply` says how the host's network is to be; the answer says what became of each address. An address
//! that is new here is asked for on the wire first (ARP, NDP), then put on its interface, then announced, twice.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use thiserror::Error;

use super::{
    claim,
    device::{DeviceError, Netlink},
    plan::{AddressPlan, Devices, Ours, Static, addresses, candidates, ours, underlay},
    record::Record,
    remnant::Removed,
};
use crate::{
    model::id::InterfaceId,
    snapshot::{host::HostSlice, report::AddressOutcome},
};

/// Keeps the addresses of one appliance on the interfaces that its boot configuration lists.
#[derive(Debug)]
pub struct OnHost {
    listed: Vec<String>,
    record: Record,
    /// Addresses that were announced by this process.
    announced: Ours,
    /// What is to be announced once more, and when.
    again: Vec<(Instant, String, IpAddr)>,
    /// Addresses that somebody else had, and when to ask again.
    wary: BTreeMap<IpAddr, Instant>,
}

/// What became of a slice.
#[derive(Debug, Default)]
pub struct Placed {
    /// The host's own addresses by interface.
    pub interfaces: BTreeMap<String, Vec<IpNet>>,
    /// What became of each address. One that was taken a moment ago is not asked for again, and not in here.
    pub outcomes: BTreeMap<(InterfaceId, IpAddr), AddressOutcome>,
    /// What is to be tried again soon.
    pub failures: Vec<HostError>,
}

/// Why the host's network is not as it should be.
#[derive(Debug, Error)]
pub enum HostError {
    /// The kernel.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The record.
    #[error("recording addresses")]
    Record(#[source] io::Error),
    /// ARP or NDP.
    #[error("asking for addresses on {device}")]
    Ask {
        /// The interface.
        device: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl OnHost {
    /// The driver of the appliance that may use these interfaces, and records in `file` what it puts on them.
    pub fn new(listed: &[String], file: &Path) -> Self {
        Self {
            listed: listed.to_vec(),
            record: Record::open(file),
            announced: Ours::new(),
            again: Vec::new(),
            wary: BTreeMap::new(),
        }
    }

    /// Makes the host's interfaces hold what `slice` asks for. Blocks for about a second per interface with new addresses.
    ///
    /// # Errors
    /// When what stands cannot be seen. What then fails to change is in the answer.
    pub fn apply(&mut self, slice: &HostSlice) -> Result<Placed, HostError> {
        let netlink = Netlink::open()?;
        let devices = netlink.hosts_devices()?;
        let plan = addresses(slice, &self.listed, &devices, self.record.ours());
        let mut placed =
            Placed { interfaces: underlay(&self.listed, &devices).interfaces, ..Placed::default() };
        self.remove(&netlink, &devices, &plan, &mut placed);
        let now = Instant::now();
        self.wary.retain(|_, until| *until > now);
        for (id, address, reason) in plan.refused {
            placed.outcomes.insert((id, address), AddressOutcome::Refused { reason });
        }
        for (wanted, device) in plan.hosts {
            let holders = [(wanted.address, format!("this host, on {device}"))].into();
            placed.outcomes.insert((wanted.interface, wanted.address), AddressOutcome::Taken { holders });
        }
        for standing in &plan.stand {
            self.stands(&devices, standing, &mut placed);
        }
        let mut new: BTreeMap<String, Vec<Static>> = BTreeMap::new();
        for wanted in plan.add.into_iter().filter(|wanted| !self.wary.contains_key(&wanted.address)) {
            new.entry(wanted.device.clone()).or_default().push(wanted);
        }
        for (device, wanted) in new {
            if let Err(error) = self.add(&netlink, &devices, slice, &device, &wanted, &mut placed) {
                placed.failures.push(error);
            }
        }
        Ok(placed)
    }

    /// When something is to be announced once more.
    pub fn due(&self) -> Option<Instant> {
        self.again.iter().map(|(at, ..)| *at).min()
    }

    /// Announces once more what is due.
    pub fn announce_due(&mut self, now: Instant) {
        let (due, later): (Vec<_>, Vec<_>) = self.again.drain(..).partition(|(at, ..)| *at <= now);
        self.again = later;
        let devices = match Netlink::open().and_then(|netlink| netlink.hosts_devices()) {
            Ok(devices) => devices,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "interfaces cannot be seen");
                return;
            }
        };
        for (_, device, address) in due {
            // It may be gone by now.
            let stands = devices.get(&device).is_some_and(|found| {
                found.addresses.iter().any(|held| held.marked && held.net.addr() == address)
            });
            if stands {
                announce(&devices, &device, address);
            }
        }
    }

    fn remove(&mut self, netlink: &Netlink, devices: &Devices, plan: &AddressPlan, placed: &mut Placed) {
        for (device, address) in &plan.remove {
            let Some(found) = devices.get(device) else { continue };
            match netlink.take_address(found.index, *address) {
                Ok(()) => tracing::info!(device, %address, "address removed"),
                Err(error) => {
                    placed.failures.push(error.into());
                    continue;
                }
            }
            self.announced.remove(&(device.clone(), *address));
            self.forget(device, *address, placed);
        }
    }

    fn forget(&mut self, device: &str, address: IpAddr, placed: &mut Placed) {
        if let Err(error) = self.record.remove(device, address) {
            placed.failures.push(HostError::Record(error));
        }
    }

    /// An address that is there already; announced if this process has not seen it before.
    fn stands(&mut self, devices: &Devices, standing: &Static, placed: &mut Placed) {
        let recorded = self.record.insert(&standing.device, standing.address).map_err(HostError::Record);
        placed.failures.extend(recorded.err());
        if !self.announced.contains(&(standing.device.clone(), standing.address)) {
            tracing::info!(device = standing.device, address = %standing.address, "address adopted");
            self.announce(devices, standing);
        }
        placed.outcomes.insert(standing.subject(), AddressOutcome::Stands);
    }

    /// Asks for new addresses of one interface, and puts there those that nobody has.
    fn add(
        &mut self,
        netlink: &Netlink,
        devices: &Devices,
        slice: &HostSlice,
        name: &str,
        wanted: &[Static],
        placed: &mut Placed,
    ) -> Result<(), HostError> {
        let Some((device, mac)) = devices.get(name).and_then(|device| Some((device, device.mac?))) else {
            refuse(wanted, &format!("{name} is no Ethernet interface"), placed);
            return Ok(());
        };
        if !device.up {
            // Nobody could answer there, whoever has the address.
            refuse(wanted, &format!("{name} is down"), placed);
            return Ok(());
        }
        let ask = |addresses: &[IpAddr]| {
            claim::probe(device.index, mac, addresses)
                .map_err(|source| HostError::Ask { device: name.to_owned(), source })
        };
        let asked: Vec<IpAddr> = wanted.iter().map(|wanted| wanted.address).collect();
        let held = ask(&asked)?;
        for wanted in wanted {
            let Some(holder) = held.get(&wanted.address) else {
                self.record.insert(name, wanted.address).map_err(HostError::Record)?;
                netlink.put_address(device.index, wanted.address)?;
                tracing::info!(device = name, address = %wanted.address, "address put on the interface");
                self.announce(devices, wanted);
                placed.outcomes.insert(wanted.subject(), AddressOutcome::Stands);
                continue;
            };
            tracing::warn!(device = name, address = %wanted.address, holder = spelled(holder), "address is in use");
            self.wary.insert(wanted.address, Instant::now() + WARY);
            let mut holders = BTreeMap::from([(wanted.address, spelled(holder))]);
            let next = candidates(slice, devices, wanted.subnet, wanted.address);
            holders.extend(ask(&next)?.iter().map(|(address, mac)| (*address, spelled(mac))));
            placed.outcomes.insert(wanted.subject(), AddressOutcome::Taken { holders });
        }
        Ok(())
    }

    fn announce(&mut self, devices: &Devices, address: &Static) {
        announce(devices, &address.device, address.address);
        self.announced.insert((address.device.clone(), address.address));
        let again = Instant::now() + claim::ANNOUNCE_INTERVAL;
        self.again.push((again, address.device.clone(), address.address));
    }
}

/// The host's interfaces, for a role that works on them.
///
/// # Errors
/// When the kernel does not say.
pub fn devices() -> Result<Devices, HostError> {
    // On a thread of its own: the caller may be a runtime's, and netlink brings its own.
    thread::scope(|scope| {
        let look = scope.spawn(|| Netlink::open()?.hosts_devices());
        look.join().unwrap_or(Err(DeviceError::Lost)).map_err(HostError::from)
    })
}

/// Takes every address of the appliance off the host's interfaces, and lets go what the kernel kept for it there.
pub fn remove_addresses(listed: &[String], file: &Path, removed: &mut Removed) {
    thread::scope(|scope| drop(scope.spawn(|| remove_here(listed, file, removed)).join()));
}

fn remove_here(listed: &[String], file: &Path, removed: &mut Removed) {
    let mut record = Record::open(file);
    let look = Netlink::open().and_then(|netlink| Ok((netlink.hosts_devices()?, netlink)));
    let (devices, netlink) = match look {
        Ok(found) => found,
        Err(error) => {
            removed.note("addresses".to_owned(), Err::<(), _>(error));
            return;
        }
    };
    for (name, address) in ours(listed, &devices, record.ours()) {
        let Some(device) = devices.get(&name) else { continue };
        let outcome = netlink.take_address(device.index, address);
        if outcome.is_ok()
            && let Err(error) = record.remove(&name, address)
        {
            tracing::warn!(%error, "the record of addresses cannot be written");
        }
        removed.note(format!("{address} on {name}"), outcome);
    }
    for (name, device) in devices.iter().filter(|(name, _)| listed.contains(name)) {
        match netlink.let_neighbours_go(device.index) {
            Ok(0) => {}
            Ok(count) => removed.note(format!("{count} neighbours of {name}"), Ok::<(), DeviceError>(())),
            Err(error) => removed.note(format!("neighbours of {name}"), Err::<(), _>(error)),
        }
    }
}

/// Waits until no program is on these interfaces: what was unpinned goes a moment later. Answers whether it went.
pub fn wait_until_free(listed: &[String]) -> bool {
    let deadline = Instant::now() + DETACHED;
    loop {
        let busy = devices().is_ok_and(|devices| {
            devices.iter().any(|(name, device)| device.has_program && listed.contains(name))
        });
        if !busy || Instant::now() > deadline {
            return !busy;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn refuse(wanted: &[Static], reason: &str, placed: &mut Placed) {
    for wanted in wanted {
        let outcome = AddressOutcome::Refused { reason: reason.to_owned() };
        placed.outcomes.insert(wanted.subject(), outcome);
    }
}

fn announce(devices: &Devices, device: &str, address: IpAddr) {
    let Some((found, mac)) = devices.get(device).and_then(|found| Some((found, found.mac?))) else { return };
    if let Err(error) = claim::announce(found.index, mac, address) {
        tracing::warn!(device, %address, %error, "address cannot be announced; caches that know another holder wait for their timeout");
    }
}

fn spelled(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// How long an address that somebody else has is left alone.
const WARY: Duration = Duration::from_secs(30);
/// How long the kernel may take to detach a program whose last pin is gone.
const DETACHED: Duration = Duration::from_secs(2);
