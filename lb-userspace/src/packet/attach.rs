//! The program on interfaces, by pinned links: a link outlives the process, and the next one exchanges its program in
//! place, so that no packet misses it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};
use nix::net::if_::if_nametoindex;

/// Why the program is not on an interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The directory of links cannot be used.
    #[error("keeping links in {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another's program is on it, and it stays there.
    #[error("another XDP program is on {device}")]
    Occupied {
        /// The device.
        device: String,
        /// What the kernel said.
        #[source]
        source: ProgramError,
    },
    /// Neither natively nor generically.
    #[error("attaching to {device}")]
    Attach {
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: ProgramError,
    },
    /// The link could not be kept.
    #[error("pinning the link of {device}")]
    Pin {
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Interfaces that have the program.
#[derive(Debug)]
pub struct Links {
    directory: PathBuf,
    attached: BTreeMap<String, u32>,
}

impl Links {
    /// Over the links that are pinned in `directory`.
    pub fn new(directory: &Path) -> Result<Self, AttachError> {
        let directory = directory.join("links");
        fs::create_dir_all(&directory)
            .map_err(|source| AttachError::Directory { path: directory.clone(), source })?;
        Ok(Self { directory, attached: BTreeMap::new() })
    }

    /// Interface indices of devices that have the program.
    pub fn attached(&self) -> &BTreeMap<String, u32> {
        &self.attached
    }

    /// Puts the program on a device. `None` if there is no such device now.
    pub fn attach(&mut self, program: &mut Xdp, device: &str) -> Result<Option<u32>, AttachError> {
        let Ok(ifindex) = if_nametoindex(device) else {
            self.attached.remove(device);
            return Ok(None);
        };
        if self.attached.get(device) == Some(&ifindex) {
            return Ok(Some(ifindex));
        }
        match put(program, device, ifindex, &self.pin_path(device))? {
            Put::Exchanged => {}
            Put::Native => tracing::info!(device, "attached"),
            Put::Generic(why) => {
                tracing::warn!(device, error = &why as &dyn std::error::Error, "{GENERIC}");
            }
        }
        self.attached.insert(device.to_owned(), ifindex);
        Ok(Some(ifindex))
    }

    /// Puts another program on every device that has one, in place. Devices on which that fails are attached anew by the
    /// next [`Self::attach`].
    pub fn exchange_all(&mut self, program: &mut Xdp) {
        let pins: BTreeMap<String, PathBuf> =
            self.attached.keys().map(|device| (device.clone(), self.pin_path(device))).collect();
        self.attached.retain(|device, _| pins.get(device).is_some_and(|pin| exchange(program, pin)));
    }

    /// Takes the program off devices that are not wanted, those of earlier processes included.
    pub fn keep_only(&mut self, wanted: impl Fn(&str) -> bool) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let device = device_of(&entry.file_name().to_string_lossy());
            if !wanted(&device) {
                // Removing the last reference detaches.
                if let Err(error) = fs::remove_file(entry.path()) {
                    tracing::warn!(device, %error, "cannot remove a link");
                }
                self.attached.remove(&device);
            }
        }
    }

    fn pin_path(&self, device: &str) -> PathBuf {
        self.directory.join(pin_name(device))
    }
}

/// How a program came to be on a device.
#[derive(Debug)]
pub enum Put {
    /// It took the place of the one that an earlier process put there.
    Exchanged,
    /// Natively.
    Native,
    /// Generically: natively it could not be.
    Generic(ProgramError),
}

/// Puts a program on a device by the link that is pinned at `pin`, or by a new one that is pinned there.
pub(super) fn put(program: &mut Xdp, device: &str, ifindex: u32, pin: &Path) -> Result<Put, AttachError> {
    if exchange(program, pin) {
        return Ok(Put::Exchanged);
    }
    let failed = |source| AttachError::Attach { device: device.to_owned(), source };
    let (id, put) = match program.attach_to_if_index(ifindex, XdpMode::Driver) {
        Ok(id) => (id, Put::Native),
        Err(source) if is_occupied(&source) => {
            return Err(AttachError::Occupied { device: device.to_owned(), source });
        }
        Err(why) => (program.attach_to_if_index(ifindex, XdpMode::Skb).map_err(failed)?, Put::Generic(why)),
    };
    let link = program.take_link(id).map_err(failed)?;
    let unpinned = |source: Box<dyn std::error::Error + Send + Sync>| AttachError::Pin {
        device: device.to_owned(),
        source,
    };
    let link = FdLink::try_from(link).map_err(|error: LinkError| unpinned(error.into()))?;
    link.pin(pin).map_err(|error| unpinned(error.into()))?;
    Ok(put)
}

/// A BPF file system keeps dots in names to itself, and VLAN interfaces have them; a colon is in no interface's name.
pub(super) fn pin_name(device: &str) -> String {
    device.replace('.', ":")
}

pub(super) fn device_of(pin_name: &str) -> String {
    pin_name.replace(':', ".")
}

/// Whether the kernel refused because a program is there already, in this mode (EBUSY) or another (EEXIST).
fn is_occupied(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(nix::libc::EBUSY | nix::libc::EEXIST))
}

/// What an operator must know of generic mode.
const GENERIC: &str = "no native XDP on this interface; attaching generically: every packet first costs a socket buffer \
     and a copy, and packets that GRO merged are longer than the MTU and lost: turn GRO off on this interface (and on those \
     below it), and lower its MTU to what its driver takes, or use another, to have native XDP";

/// Exchanges the program of a pinned link. Removes a pin whose device is gone.
fn exchange(program: &mut Xdp, pin: &Path) -> bool {
    if !pin.exists() {
        return false;
    }
    let exchanged = PinnedLink::from_pin(pin)
        .and_then(|link| XdpLink::try_from(FdLink::from(link)))
        .map_err(|error| error.to_string())
        .and_then(|link| program.attach_to_link(link).map_err(|error| error.to_string()));
    match exchanged {
        Ok(id) => {
            // Our reference goes, the pin's stays.
            drop(program.take_link(id));
            true
        }
        Err(error) => {
            tracing::info!(pin = %pin.display(), error, "a pinned link is dead; attaching anew");
            let _ = fs::remove_file(pin);
            false
        }
    }
}

/// Keeps all sockets of a namespace off the ports of NAT, so that answers to them can be told from flows. For a namespace
/// of the node's own: on a host's, only the node's own sockets keep off (`http::listen`).
pub fn reserve_ports() {
    let range = format!("{} 65535", u32::from(lb_common::abi::LAST_NAT_PORT) + 1);
    if let Err(error) = fs::write("/proc/sys/net/ipv4/ip_local_port_range", range) {
        tracing::warn!(%error, "cannot reserve ports; health checks from load balancers' addresses may not be answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_of_vlan_interfaces_have_no_dots_and_are_read_back() {
        assert_eq!(pin_name("bond0.12"), "bond0:12");
        assert_eq!(device_of("bond0:12"), "bond0.12");
        assert_eq!(pin_name("eni0123"), "eni0123");
    }
}
