//! Clients on the node itself: programs on a cgroup choose a target when a process there connects, or sends without being
//! connected, by the same tables as XDP's. Its packets go to the target as they are.
//!
//! Like those on interfaces the programs are kept by pinned links, and outlive the process.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{Array, MapError};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError};
use lb_common::abi::{DIAL_NAMESPACE, DIAL_PROGRAMS};

use super::load::{self, LoadError};
use crate::network::namespace;

/// Why clients on the node are not led to targets.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// The object.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel refused a program, or to attach it.
    #[error("attaching {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: ProgramError,
    },
    /// A link could not be kept.
    #[error("pinning the link of {program}")]
    Pin {
        /// Of which program.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cgroup, or the directory of links.
    #[error("using {path}")]
    Path {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The network namespace is not known.
    #[error("telling this network namespace from others")]
    Namespace(#[source] io::Error),
    /// A map could not be written.
    #[error("writing a map of the kernel program")]
    Map(#[from] MapError),
}

/// Puts the programs on a cgroup in the place of an earlier process's, over the maps that are pinned in `directory`. They
/// leave sockets of other network namespaces than the caller's alone.
pub(super) fn attach(directory: &Path, object: &[u8], cgroup: &Path) -> Result<(), DialError> {
    let attached = attach_all(directory, object, cgroup);
    if attached.is_err() {
        // Some without the others would name targets to those who asked for load balancers.
        detach(directory);
    }
    attached
}

/// Takes the programs away, whoever attached them.
pub(super) fn detach(directory: &Path) {
    let links = links(directory);
    match fs::remove_dir_all(&links) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(path = %links.display(), %error, "programs of local clients stay attached");
        }
        _ => load::forget_dials(directory),
    }
}

fn attach_all(directory: &Path, object: &[u8], cgroup: &Path) -> Result<(), DialError> {
    let unusable = |path: &Path, source| DialError::Path { path: path.to_owned(), source };
    let links = links(directory);
    fs::create_dir_all(&links).map_err(|source| unusable(&links, source))?;
    let group = File::open(cgroup).map_err(|source| unusable(cgroup, source))?;
    let mut ebpf = load::load_dial(directory, object)?;
    let own = ebpf.map_mut(DIAL_NAMESPACE).ok_or(LoadError::Missing { name: DIAL_NAMESPACE })?;
    let cookie = namespace::cookie().map_err(DialError::Namespace)?;
    Array::<_, u64>::try_from(own)?.set(0, cookie, 0)?;
    // Those that name peers come first: nobody reaches a target without them.
    for name in DIAL_PROGRAMS {
        attach_one(&mut ebpf, name, &group, &links)?;
    }
    tracing::info!(cgroup = %cgroup.display(), "clients there are led to targets as they connect");
    Ok(())
}

fn attach_one(ebpf: &mut Ebpf, name: &'static str, group: &File, links: &Path) -> Result<(), DialError> {
    let refused = |source| DialError::Program { program: name, source };
    let unpinned =
        |source: Box<dyn std::error::Error + Send + Sync>| DialError::Pin { program: name, source };
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing { name })?;
    let program: &mut CgroupSockAddr = program.try_into().map_err(refused)?;
    program.load().map_err(refused)?;
    let id = program.attach(group, CgroupAttachMode::Single).map_err(refused)?;
    let link = program.take_link(id).map_err(refused)?;
    let link = FdLink::try_from(link).map_err(|error: LinkError| unpinned(error.into()))?;
    // The new one is at work before the old one goes: what either changed, the other does not know and leaves alone.
    let (pin, fresh) = (links.join(name), links.join(format!("{name}{FRESH}")));
    let _ = fs::remove_file(&fresh);
    link.pin(&fresh).map_err(|error| unpinned(error.into()))?;
    fs::rename(&fresh, &pin).map_err(|error| unpinned(error.into()))
}

fn links(directory: &Path) -> PathBuf {
    directory.join("dial")
}

/// What pins of links that are not in force yet end in; dots are the file system's own.
const FRESH: &str = "-fresh";
