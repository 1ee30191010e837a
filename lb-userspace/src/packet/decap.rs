//! At a target that answers past its load balancers: the program that takes packets out of tunnels, on interfaces that
//! somebody named. Nothing else of the appliance need run there.
//!
//! Each interface has a directory of pins: the link, who may send, and what was counted. They outlive the process, and a
//! later one exchanges the program in place. Devices' names mean nothing without their network namespace, so there is a
//! directory for each of those.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData, MapError, PerCpuArray};
use aya::programs::ProgramError;
use aya::{EbpfError, EbpfLoader};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::abi::{
    DECAP_COUNTERS, DECAP_SENDERS, DecapCounters, Ipv4Be, Ipv6Be, MAP_NAMES, MAX_SENDERS, SenderKey,
};
use nix::net::if_::if_nametoindex;
use serde::Serialize;

use super::attach::{self, AttachError, Put};
use super::interfaces;
use super::load::{self, LoadError};

/// Why packets are not taken out of tunnels.
#[derive(Debug, thiserror::Error)]
pub enum DecapError {
    /// There is no such interface here.
    #[error("there is no interface {0} in this network namespace")]
    NoInterface(String),
    /// It is not a way to other machines.
    #[error("{0} is the loopback interface: no load balancer sends to it")]
    Loopback(String),
    /// More ranges than the program's table holds.
    #[error("{0} ranges may send at most, and {MAX_SENDERS} fit")]
    TooManySenders(usize),
    /// The program is not on the interface.
    #[error("{0} has no program of ours")]
    Absent(String),
    /// The directory of pins cannot be used.
    #[error("using {path} for pins; it must be on a BPF file system")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the object.
    #[error("loading the kernel program")]
    Object(#[from] EbpfError),
    /// The kernel refused the program.
    #[error("loading the kernel program")]
    Program(#[from] ProgramError),
    /// The object is not what this build expects.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map cannot be read or written.
    #[error("using a map of the program")]
    Map(#[from] MapError),
    /// The interface.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Interfaces cannot be listed.
    #[error("asking how the program is attached")]
    Interfaces(#[source] io::Error),
}

/// The interfaces of this thread's network namespace that have the program.
#[derive(Debug)]
pub struct Decap {
    directory: PathBuf,
}

/// One interface that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decapsulated {
    /// The interface.
    pub interface: String,
    /// `native` or `generic`; `gone` if the interface is, or lost the program.
    pub mode: &'static str,
    /// Who may send; empty is everybody.
    pub from: Vec<IpNet>,
    /// What came.
    #[serde(flatten)]
    pub progress: Progress,
}

/// What came to an interface in tunnels since the program was first put on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Packets taken out of IP.
    pub ipip_packets: u64,
    /// Packets taken out of GUE.
    pub gue_packets: u64,
    /// Bytes of both, as they came.
    pub bytes: u64,
    /// Packets that were left as they are, because their sender may not send any.
    pub refused_packets: u64,
}

impl Decap {
    /// Over the pins below `pins`, which must be on a BPF file system.
    pub fn new(pins: &Path) -> Result<Self, DecapError> {
        let namespace = fs::metadata(NAMESPACE).map_err(directory(Path::new(NAMESPACE)))?.ino();
        Ok(Self { directory: pins.join(namespace.to_string()) })
    }

    /// Puts the program on an interface, or the program and senders of this call in the place of an earlier one's.
    /// Nobody's packets pass in between. `from` says who may send; if it is empty, everybody may.
    pub fn attach(&self, device: &str, from: &[IpNet]) -> Result<Put, DecapError> {
        let ifindex = if_nametoindex(device).map_err(|_| DecapError::NoInterface(device.to_owned()))?;
        if device == "lo" {
            return Err(DecapError::Loopback(device.to_owned()));
        }
        if from.len() > MAX_SENDERS {
            return Err(DecapError::TooManySenders(from.len()));
        }
        let pins = self.pins(device);
        fs::create_dir_all(&pins).map_err(directory(&pins))?;
        let put = put(&pins, device, ifindex, from);
        if put.is_err() && !pins.join(LINK).exists() {
            // What of it is there is of no use to anybody.
            let _ = fs::remove_dir_all(&pins);
        }
        put
    }

    /// Takes the program off an interface, which may be gone already. It is off a moment later.
    pub fn detach(&self, device: &str) -> Result<(), DecapError> {
        let pins = self.pins(device);
        match fs::remove_dir_all(&pins) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(DecapError::Absent(device.to_owned()))
            }
            removed => removed.map_err(directory(&pins)),
        }
    }

    /// Every interface that has it, by name.
    pub fn list(&self) -> Result<Vec<Decapsulated>, DecapError> {
        let mut devices = BTreeSet::new();
        match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(directory(&self.directory)(source)),
            Ok(entries) => {
                let names = entries.flatten().map(|entry| entry.file_name());
                devices.extend(names.map(|name| attach::device_of(&name.to_string_lossy())));
            }
        }
        let modes = interfaces::programs().map_err(DecapError::Interfaces)?;
        devices.into_iter().map(|device| self.look(device, &modes)).collect()
    }

    fn look(
        &self,
        interface: String,
        modes: &BTreeMap<String, &'static str>,
    ) -> Result<Decapsulated, DecapError> {
        let pins = self.pins(&interface);
        let counters: PerCpuArray<_, DecapCounters> = opened(&pins, DECAP_COUNTERS)?;
        let mut progress = Progress::default();
        for cpu in counters.get(&0, 0)?.iter() {
            progress.ipip_packets += cpu.ipip;
            progress.gue_packets += cpu.gue;
            progress.bytes += cpu.bytes;
            progress.refused_packets += cpu.refused;
        }
        let senders: LpmTrie<_, SenderKey, u32> = opened(&pins, DECAP_SENDERS)?;
        let mut from = Vec::new();
        for key in senders.keys() {
            from.extend(range(&key?));
        }
        from.sort_unstable();
        if everybody().iter().all(|all| from.contains(all)) {
            from.clear();
        }
        let mode = modes.get(&interface).copied().unwrap_or("gone");
        Ok(Decapsulated { interface, mode, from, progress })
    }

    fn pins(&self, device: &str) -> PathBuf {
        self.directory.join(attach::pin_name(device))
    }
}

fn put(pins: &Path, device: &str, ifindex: u32, from: &[IpNet]) -> Result<Put, DecapError> {
    if load::OBJECT.is_empty() {
        return Err(LoadError::NoObject.into());
    }
    for (name, key, value, entries) in layouts() {
        let path = pins.join(name);
        if path.exists() {
            let info = MapData::from_pin(&path)?.info()?;
            if (info.key_size(), info.value_size(), info.max_entries()) != (key, value, entries) {
                fs::remove_file(&path).map_err(directory(&path))?;
            }
        }
    }
    // The loader takes bytes at any address, but reads words: `include_bytes` promises no alignment, a copy has it.
    let object = load::OBJECT.to_vec();
    let mut loader = EbpfLoader::new();
    // The load balancer's own are in the object as well, and of no use here.
    for name in MAP_NAMES {
        loader.map_max_entries(name, 1);
    }
    for (name, ..) in layouts() {
        loader.map_pin_path(name, pins.join(name));
    }
    let mut ebpf = loader.load(&object)?;
    let mut senders: LpmTrie<_, SenderKey, u32> =
        ebpf.map_mut(DECAP_SENDERS).ok_or(LoadError::Missing { name: DECAP_SENDERS })?.try_into()?;
    let wanted: Vec<Key<SenderKey>> =
        if from.is_empty() { everybody().map(key).into() } else { from.iter().copied().map(key).collect() };
    for key in &wanted {
        senders.insert(key, 1, 0)?;
    }
    let old = senders.keys().collect::<Result<Vec<_>, _>>()?;
    for key in old.iter().filter(|key| !wanted.iter().any(|own| range(own) == range(key))) {
        senders.remove(key)?;
    }
    let program = load::named(&mut ebpf, PROGRAM)?;
    program.load()?;
    Ok(attach::put(program, device, ifindex, &pins.join(LINK))?)
}

fn opened<T: TryFrom<Map, Error = MapError>>(pins: &Path, name: &str) -> Result<T, DecapError> {
    Ok(Map::from_map_data(MapData::from_pin(pins.join(name))?)?.try_into()?)
}

/// Name, key size, value size and entries of the maps that are pinned.
fn layouts() -> [(&'static str, u32, u32, u32); 2] {
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    // In front of a trie's key is the length of its prefix.
    let key = size(size_of::<(u32, SenderKey)>());
    [
        (DECAP_SENDERS, key, size(size_of::<u32>()), size(MAX_SENDERS)),
        (DECAP_COUNTERS, size(size_of::<u32>()), size(size_of::<DecapCounters>()), 1),
    ]
}

fn key(range: IpNet) -> Key<SenderKey> {
    let address = match range.network() {
        IpAddr::V4(own) => SenderKey::new(4, Ipv6Be::of_v4(Ipv4Be::from(own))),
        IpAddr::V6(own) => SenderKey::new(6, Ipv6Be::from(own)),
    };
    Key::new(VERSION_BITS + u32::from(range.prefix_len()), address)
}

/// `None` for a key that none of ours is.
fn range(key: &Key<SenderKey>) -> Option<IpNet> {
    let (sender, length) = (key.data(), u8::try_from(key.prefix_len().checked_sub(VERSION_BITS)?).ok()?);
    match sender.version {
        4 => Ipv4Net::new(Ipv4Addr::from(sender.address.as_v4()), length).ok().map(IpNet::from),
        _ => Ipv6Net::new(Ipv6Addr::from(sender.address), length).ok().map(IpNet::from),
    }
}

fn everybody() -> [IpNet; 2] {
    [Ipv4Net::default().into(), Ipv6Net::default().into()]
}

fn directory(path: &Path) -> impl FnOnce(io::Error) -> DecapError {
    let path = path.to_owned();
    move |source| DecapError::Directory { path, source }
}

/// The calling thread's network namespace; its inode number is its identity while it stands.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Name of the program in the object.
const PROGRAM: &str = "gatehouse_decap";
/// Name of the link's pin.
const LINK: &str = "link";
/// The family is always matched whole.
const VERSION_BITS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_back_from_its_key() {
        for text in ["10.0.1.0/24", "192.0.2.4/32", "0.0.0.0/0", "fd00:1::/64", "::/0", "a00::/8"] {
            let own: IpNet = text.parse().unwrap();
            assert_eq!(range(&key(own)), Some(own));
        }
    }

    #[test]
    fn ranges_of_two_families_are_never_one_key() {
        let (v4, v6) = (key("10.0.0.0/8".parse().unwrap()), key("a00::/8".parse().unwrap()));
        assert_ne!(v4.data(), v6.data());
    }
}
