//! What a task resolves names by: its VPC's resolver, in a resolv.conf that nobody else sees.
//!
//! The host's own file names servers to which a VPC has no way.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A file that can be laid over `/etc/resolv.conf`.
pub(super) struct ResolvConf(CString);

impl ResolvConf {
    /// The file that names this resolver; one for all tasks that have it.
    pub(super) fn of(directory: &Path, resolver: Ipv4Addr) -> io::Result<Self> {
        let path = directory.join(format!("resolv-{resolver}.conf"));
        let text = format!("nameserver {resolver}\n");
        // Tasks have it in sight: it is not written again while it is right.
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            fs::write(&path, text)?;
        }
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        Ok(Self(CString::new(path.as_os_str().as_bytes())?))
    }

    /// Lays it over the host's, for the calling process and what it starts. Makes system calls and nothing else.
    pub(super) fn lay(&self) -> io::Result<()> {
        const NONE: Option<&CStr> = None;
        unshare(CloneFlags::CLONE_NEWNS)?;
        // What is mounted or unmounted outside is so here too, and nothing the other way.
        mount(NONE, c"/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)?;
        match mount(Some(self.0.as_c_str()), c"/etc/resolv.conf", NONE, MsFlags::MS_BIND, NONE) {
            // Where the host has none there is nothing to lay it over.
            Err(Errno::ENOENT) => Ok(()),
            laid => Ok(laid?),
        }
    }
}
