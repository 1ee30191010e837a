//! Where the kernel keeps what an appliance makes outside its namespaces: pinned BPF objects and cgroups.
//!
//! Both live in file systems that a machine may mount elsewhere, or not at all. Each appliance has one directory of
//! its own name in each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where BPF objects are pinned.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Mounts the file system for pins where everybody looks for it, unless it is there. systemd does so at boot; a
/// container or a small machine may have no systemd.
///
/// # Errors
/// When the kernel refuses: not root, for example.
pub fn mount_bpffs() -> io::Result<()> {
    if statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    Ok(mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0755"))?)
}

/// Where cgroups of version 2 are mounted: on a hybrid machine below the directory where one expects them.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

/// The appliance's directory for pins.
pub fn pins(appliance: &str) -> PathBuf {
    Path::new(BPFFS).join(own(appliance))
}

/// The appliance's cgroup, if the machine has cgroups of version 2.
pub fn cgroup(appliance: &str) -> Option<PathBuf> {
    cgroup_mount().map(|mount| mount.join(own(appliance)))
}

/// The cgroup for clients on the node itself, below the appliance's.
pub fn clients(appliance: &str) -> Option<PathBuf> {
    cgroup(appliance).map(|own| own.join("clients"))
}

fn own(appliance: &str) -> String {
    format!("gatehouse-{appliance}")
}
