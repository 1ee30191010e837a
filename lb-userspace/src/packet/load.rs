//! The kernel program and its maps, loaded or adopted from their pins.
//!
//! A pin says nothing of its layout, so directories are named by the version of the contract, and sizes are compared
//! before a map is used again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError, ProgramArray};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::abi::{
    self, ABI_VERSION, CookieCounters, DropReason, FragmentKey, FragmentPorts, Ipv4Be, Ipv6Be, Listener,
    ListenerCounters, ListenerKey, MAP_NAMES, PathMtu, PortCursor, Pulse, Ring, ServerIdKey, SlotWords,
    SourceKey, SynBudget, TableShape, Target, TargetCounters,
};
use lb_common::packet::{Note, Stage};
use lb_common::table::{Crossing, Packed as _};

/// Why the kernel program is not there.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The appliance was built without its kernel program.
    #[error("this build has no kernel program; build it with `cargo xtask build`")]
    NoObject,
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
    /// A pinned map cannot be asked for its layout.
    #[error("reading the layout of a pinned map")]
    Map(#[from] MapError),
    /// The flow tables cannot be reached.
    #[error("mapping the flow tables")]
    Mapping(#[source] io::Error),
    /// The object lacks something that this build expects.
    #[error("the kernel program has no {name}")]
    Missing {
        /// Of the map or program.
        name: &'static str,
    },
}

/// The object with its maps pinned, and whether they were there before.
pub struct Loaded {
    /// The object.
    pub ebpf: Ebpf,
    /// Whether flows and rings of an earlier process are in the maps.
    pub adopted: bool,
}

/// Loads the program over the maps that are pinned in `directory`, and pins those that are not.
pub fn load(directory: &Path, object: &[u8], flow_entries: u32) -> Result<Loaded, LoadError> {
    if object.is_empty() {
        return Err(LoadError::NoObject);
    }
    let maps = maps_directory(directory);
    fs::create_dir_all(&maps).map_err(|source| LoadError::Directory { path: maps.clone(), source })?;
    let adopted = adoptable(&maps, flow_entries)?;
    if !adopted {
        for name in pinned() {
            // What is not there need not be removed.
            let _ = fs::remove_file(maps.join(name));
        }
    }
    // The loader takes bytes at any address, but reads words: `include_bytes` promises no alignment, a copy has it.
    let object = object.to_vec();
    let mut loader = EbpfLoader::new();
    for table in [abi::FLOWS, abi::FLOWS6, abi::CROSSINGS] {
        loader.map_max_entries(table, slots(flow_entries));
    }
    for name in pinned() {
        loader.map_pin_path(name, maps.join(name));
    }
    let mut ebpf = loader.load(&object)?;
    program(&mut ebpf)?.load()?;
    load_stages(&mut ebpf)?;
    Ok(Loaded { ebpf, adopted })
}

/// The object once more over the maps that are pinned in `directory`, for its program that captures, which is not loaded
/// yet; the map by which that calls the first program is pinned at `entrance`.
pub(super) fn load_capture(directory: &Path, object: &[u8], entrance: &Path) -> Result<Ebpf, LoadError> {
    let maps = maps_directory(directory);
    let object = object.to_vec();
    let mut loader = EbpfLoader::new();
    for name in pinned() {
        loader.map_pin_path(name, maps.join(name));
    }
    loader.map_pin_path(abi::ENTRANCE, entrance);
    loader.map_max_entries(abi::SAMPLES, u32::try_from(abi::SAMPLE_RING_BYTES).unwrap_or(u32::MAX));
    Ok(loader.load(&object)?)
}

/// The object once more over the maps that are pinned in `directory`, for its programs of local clients, which are not
/// loaded yet; what sockets dialled is pinned beside those maps.
pub(super) fn load_dial(directory: &Path, object: &[u8]) -> Result<Ebpf, LoadError> {
    let maps = maps_directory(directory);
    let object = object.to_vec();
    let mut loader = EbpfLoader::new();
    for name in pinned().chain(DIAL_MAPS) {
        loader.map_pin_path(name, maps.join(name));
    }
    for name in DIAL_MAPS {
        loader.map_max_entries(name, u32::try_from(abi::MAX_DIALS).unwrap_or(u32::MAX));
    }
    Ok(loader.load(&object)?)
}

/// Forgets what sockets dialled.
pub(super) fn forget_dials(directory: &Path) {
    for name in DIAL_MAPS {
        // What is not there need not be removed.
        let _ = fs::remove_file(maps_directory(directory).join(name));
    }
}

/// Loads the programs of the later stages, and puts them where the first finds them. Programs of an earlier process are
/// exchanged one by one while packets go through them: what one notes, any of another can read.
fn load_stages(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for (_, name) in Stage::PROGRAMS {
        named(ebpf, name)?.load()?;
    }
    // Programs are loaded with the map's descriptor, so it is taken after that.
    let map = ebpf.take_map(abi::PROGRAMS).ok_or(LoadError::Missing { name: abi::PROGRAMS })?;
    let mut programs = ProgramArray::try_from(map)?;
    for (stage, name) in Stage::PROGRAMS {
        programs.set(stage as u32, named(ebpf, name)?.fd()?, 0)?;
    }
    Ok(())
}

/// The program of a loaded object.
pub fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, LoadError> {
    named(ebpf, PROGRAM)
}

/// A program of a loaded object.
pub(super) fn named<'ebpf>(ebpf: &'ebpf mut Ebpf, name: &'static str) -> Result<&'ebpf mut Xdp, LoadError> {
    Ok(ebpf.program_mut(name).ok_or(LoadError::Missing { name })?.try_into()?)
}

/// Hands the packet logs of a trace build to the log. Other builds have none.
pub fn follow_trace(ebpf: &mut Ebpf) {
    let Ok(mut logger) = aya_log::EbpfLogger::init(ebpf) else { return };
    tokio::spawn(async move {
        let mut often = tokio::time::interval(TRACE_INTERVAL);
        loop {
            often.tick().await;
            logger.flush();
        }
    });
}

/// Every map that outlives the process.
fn pinned() -> impl Iterator<Item = &'static str> {
    MAP_NAMES.into_iter().chain([NOTE])
}

fn maps_directory(directory: &Path) -> PathBuf {
    directory.join(format!("v{ABI_VERSION}"))
}

/// Removes maps of other versions, once no program uses them.
pub fn remove_other_versions(directory: &Path) {
    let own = maps_directory(directory);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_version =
            entry.file_name().to_string_lossy().strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
        if is_version && path != own {
            tracing::warn!(path = %path.display(), "removing maps of another version; their flows end");
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove maps of another version");
            }
        }
    }
}

/// Whether all maps are pinned with the layout that this build knows.
fn adoptable(maps: &Path, flow_entries: u32) -> Result<bool, LoadError> {
    for (name, key_size, value_size, entries) in layouts(flow_entries) {
        let path = maps.join(name);
        if !path.exists() {
            return Ok(false);
        }
        let info = MapData::from_pin(&path)?.info()?;
        if (info.key_size(), info.value_size(), info.max_entries()) != (key_size, value_size, entries) {
            tracing::warn!(map = name, "a pinned map has another layout; its flows end");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Slots of a table for so many entries: twice as many, and a power of two.
pub(super) fn slots(flow_entries: u32) -> u32 {
    flow_entries.saturating_mul(2).checked_next_power_of_two().unwrap_or(1 << 31)
}

/// Key size, value size and entries of every map.
fn layouts(flow_entries: u32) -> [(&'static str, u32, u32, u32); MAP_NAMES.len() + 1] {
    fn of<K, V>(name: &'static str, entries: usize) -> (&'static str, u32, u32, u32) {
        let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        (name, size(size_of::<K>()), size(size_of::<V>()), size(entries))
    }
    let slots = usize::try_from(slots(flow_entries)).unwrap_or(usize::MAX);
    [
        of::<u32, SlotWords<{ Ipv4Be::WORDS }>>(abi::FLOWS, slots),
        of::<u32, SlotWords<{ Ipv6Be::WORDS }>>(abi::FLOWS6, slots),
        of::<u32, Crossing>(abi::CROSSINGS, slots),
        of::<u32, TableShape>(abi::TABLE_SHAPE, 1),
        of::<Ipv4Be, u32>(abi::ADDRESSES, abi::MAX_ADDRESSES),
        of::<Ipv6Be, u32>(abi::ADDRESSES6, abi::MAX_ADDRESSES),
        of::<ListenerKey<Ipv4Be>, u32>(abi::LISTENERS, abi::MAX_LISTENERS),
        of::<ListenerKey<Ipv6Be>, u32>(abi::LISTENERS6, abi::MAX_LISTENERS),
        of::<u32, Listener>(abi::LISTENER_STATE, abi::MAX_LISTENERS),
        // In front of a trie's key is the length of its prefix.
        of::<(u32, SourceKey<Ipv4Be>), u32>(abi::SOURCES, abi::MAX_SOURCES),
        of::<(u32, SourceKey<Ipv6Be>), u32>(abi::SOURCES6, abi::MAX_SOURCES),
        of::<u32, Ring>(abi::RINGS, abi::MAX_RINGS),
        of::<u32, Target>(abi::TARGETS, abi::MAX_TARGETS),
        of::<ServerIdKey, u32>(abi::SERVER_IDS, abi::MAX_SERVER_IDS),
        of::<FragmentKey<Ipv4Be>, FragmentPorts>(abi::FRAGMENTS, abi::MAX_FRAGMENTS),
        of::<FragmentKey<Ipv6Be>, FragmentPorts>(abi::FRAGMENTS6, abi::MAX_FRAGMENTS),
        of::<u32, u32>(abi::PROGRAMS, Stage::PROGRAMS.len()),
        of::<u32, Note>(NOTE, 1),
        of::<u32, Pulse>(abi::PULSE, 1),
        of::<u32, SynBudget>(abi::SYN_BUDGET, abi::MAX_LISTENERS + 1),
        of::<Ipv4Be, SynBudget>(abi::SOURCE_BUDGET, abi::MAX_BUDGETED_SOURCES),
        of::<Ipv6Be, SynBudget>(abi::SOURCE_BUDGET6, abi::MAX_BUDGETED_SOURCES),
        of::<u32, PortCursor>(abi::PORTS, 1),
        of::<u32, ListenerCounters>(abi::LISTENER_COUNTERS, abi::MAX_LISTENERS),
        of::<u32, TargetCounters>(abi::TARGET_COUNTERS, abi::MAX_TARGETS),
        of::<u32, CookieCounters>(abi::COOKIE_COUNTERS, abi::MAX_LISTENERS),
        of::<u32, u32>(abi::COOKIE_TICKS, abi::MAX_LISTENERS),
        of::<Ipv4Be, PathMtu>(abi::PATH_MTUS, abi::MAX_PATH_MTUS),
        of::<Ipv6Be, PathMtu>(abi::PATH_MTUS6, abi::MAX_PATH_MTUS),
        of::<u32, u64>(abi::DROPS, DropReason::ALL.len()),
    ]
}

/// The kernel program that this appliance was built with; empty if there was none.
pub static OBJECT: &[u8] = include_bytes!(env!("GATEHOUSE_OBJECT"));

/// What one stage tells the next. Pinned, because stages of two processes may follow each other.
const NOTE: &str = "NOTE";

/// What sockets of local clients dialled: pinned where there are any.
const DIAL_MAPS: [&str; 2] = [abi::DIALS, abi::DIALLED];

/// Name of the program in the object.
const PROGRAM: &str = "gatehouse";

/// How late a packet's log may be; its ring holds more than is logged in that time by hand-made traffic.
const TRACE_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_layout() {
        let mut known: Vec<_> = layouts(1).iter().map(|(name, ..)| *name).collect();
        let mut all: Vec<_> = pinned().collect();
        known.sort_unstable();
        all.sort_unstable();
        assert_eq!(known, all);
    }
}
