//! Network namespaces by name, where iproute2 keeps them too: `ip netns list` shows what stands here.
//!
//! A namespace appears under its name only once it is set up, so one that stands is whole. Work inside another
//! namespace happens on a thread of its own, which ends there: the caller never moves. Only `enter` moves a process,
//! and only while it has a single thread.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, getsockopt, socket},
        stat::Mode,
        statfs::{NSFS_MAGIC, statfs},
    },
};
use thiserror::Error;

/// Why a namespace could not be made, entered or removed.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// The name cannot be a file's.
    #[error("{0:?} is no name for a namespace")]
    Name(String),
    /// No namespace has the name.
    #[error("there is no namespace {0}")]
    Absent(String),
    /// The kernel refused.
    #[error("{what} namespace {name}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Of which namespace.
        name: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The thread that worked in the namespace ended without an answer.
    #[error("the work in namespace {0} ended without an answer")]
    Lost(String),
}

/// Why a process could not move into a namespace.
#[derive(Debug, Error)]
pub enum EnterError {
    /// A namespace is a property of each thread, so a process moves only while it has one.
    #[error("the process has {0} threads already; enter a namespace before starting any")]
    Threads(usize),
    /// Nobody made it in time.
    #[error("namespace {name} did not appear within {}s", waited.as_secs_f64())]
    Deadline {
        /// The namespace.
        name: String,
        /// How long was waited.
        waited: Duration,
    },
    /// It is there and cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// Moves this process into a namespace, waiting up to `deadline` for the host role to make it.
///
/// The file system stays as it is: unlike with `ip netns exec`, pinned BPF objects remain in sight.
///
/// # Errors
/// When another thread runs, when the namespace does not appear in time, or when the kernel refuses.
pub fn enter(name: &str, deadline: Duration) -> Result<(), EnterError> {
    let threads = fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(1);
    if threads > 1 {
        return Err(EnterError::Threads(threads));
    }
    let started = Instant::now();
    loop {
        match open_named(name) {
            Ok(namespace) => return Ok(move_into(&namespace, name)?),
            Err(NamespaceError::Absent(_)) if started.elapsed() < deadline => thread::sleep(APPEARANCE_POLL),
            Err(NamespaceError::Absent(_)) => {
                return Err(EnterError::Deadline { name: name.to_owned(), waited: deadline });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Runs `work` inside a namespace and returns what it returned.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
    let namespace = open_named(name)?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            move_into(&namespace, name)?;
            Ok(work())
        });
        worker.join().unwrap_or_else(|_| Err(NamespaceError::Lost(name.to_owned())))
    })
}

/// Runs `work` inside a namespace, or where the caller is if none is named.
///
/// # Errors
/// When the namespace cannot be entered.
pub(super) fn within_or_here<T: Send>(
    name: Option<&str>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NamespaceError> {
    match name {
        Some(name) => within(name, work),
        None => Ok(work()),
    }
}

/// Opens a namespace, or the caller's own if none is named.
pub(super) fn open_or_own(name: Option<&str>) -> Result<OwnedFd, NamespaceError> {
    match name {
        Some(name) => open_named(name),
        None => open(OWN, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(refused("opening", "of its own")),
    }
}

/// Opens a namespace, for netlink to move a device there.
pub(super) fn open_named(name: &str) -> Result<OwnedFd, NamespaceError> {
    let path = path_of(name)?;
    if !is_namespace(&path) {
        return Err(NamespaceError::Absent(name.to_owned()));
    }
    open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(refused("opening", name))
}

/// The names of all namespaces that begin with `prefix`, those that a crash left without a namespace included.
pub fn list(prefix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(DIRECTORY) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.starts_with(prefix) {
                    names.push(name);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort();
    Ok(names)
}

/// Whether a namespace stands under this name.
pub fn exists(name: &str) -> bool {
    path_of(name).is_ok_and(|path| is_namespace(&path))
}

/// Makes a namespace and runs `set_up` inside it; it appears under its name only when that succeeded.
///
/// # Errors
/// When the kernel refuses, or with what `set_up` returned.
pub(super) fn make<E: From<NamespaceError> + Send>(
    name: &str,
    set_up: impl FnOnce() -> Result<(), E> + Send,
) -> Result<(), E> {
    let path = path_of(name)?;
    share_directory().map_err(|source| NamespaceError::Refused {
        what: "keeping",
        name: name.to_owned(),
        source,
    })?;
    // A file without a namespace is what a crash between the two leaves.
    fs::write(&path, "").map_err(|source| NamespaceError::Refused {
        what: "naming",
        name: name.to_owned(),
        source,
    })?;
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<(), E> {
            unshare(CloneFlags::CLONE_NEWNET).map_err(refused("making", name))?;
            set_up()?;
            mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .map_err(refused("keeping", name))?;
            Ok(())
        });
        worker.join().unwrap_or_else(|_| Err(NamespaceError::Lost(name.to_owned()).into()))
    })
}

/// Forgets a namespace. The kernel frees it when the last process in it ends.
///
/// # Errors
/// When the kernel refuses; a namespace that is not there is removed already.
pub fn remove(name: &str) -> Result<(), NamespaceError> {
    let path = path_of(name)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(refused("unmounting", name)(errno)),
    }
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NamespaceError::Refused { what: "removing", name: name.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn path_of(name: &str) -> Result<PathBuf, NamespaceError> {
    let lawful =
        !name.is_empty() && name != "." && name != ".." && !name.contains('/') && !name.contains('\0');
    if lawful { Ok(Path::new(DIRECTORY).join(name)) } else { Err(NamespaceError::Name(name.to_owned())) }
}

fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

fn move_into(namespace: &OwnedFd, name: &str) -> Result<(), NamespaceError> {
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(refused("entering", name))
}

fn refused(what: &'static str, name: &str) -> impl FnOnce(Errno) -> NamespaceError {
    let name = name.to_owned();
    move |errno| NamespaceError::Refused { what, name, source: errno.into() }
}

/// Makes the directory a mount that other mount namespaces follow, as iproute2 does: else a process with a mount
/// namespace of its own would keep every namespace it saw alive.
fn share_directory() -> io::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let share =
        || mount(None::<&str>, DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(Errno::EINVAL) => {
            mount(
                Some(DIRECTORY),
                DIRECTORY,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

/// The calling thread's own.
const OWN: &str = "/proc/thread-self/ns/net";
/// Where iproute2 looks for namespaces.
const DIRECTORY: &str = "/run/netns";
/// How often to look for a namespace that is to appear: mounting over a file tells no watcher.
const APPEARANCE_POLL: Duration = Duration::from_millis(5);
/// The kernel's number for the caller's namespace, which no other has until the machine starts anew.
pub(crate) fn cookie() -> io::Result<u64> {
    let any = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(getsockopt(&any, NetnsCookie)?)
}

mod netns_cookie {
    //! An option that nix does not have yet.
    use nix::{getsockopt_impl, libc, sockopt_impl};

    sockopt_impl!(
        /// Which network namespace a socket is in.
        NetnsCookie,
        GetOnly,
        libc::SOL_SOCKET,
        SO_NETNS_COOKIE,
        u64
    );

    /// asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
}
use netns_cookie::NetnsCookie;
