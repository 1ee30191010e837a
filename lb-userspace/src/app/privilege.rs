//! Giving up what a role does not need: after it has entered its namespace and bound its low ports, a role becomes its
//! own user and keeps only the capabilities it was given here.

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use nix::unistd::{Gid, Uid, getgroups, getppid, getresgid, getresuid, setgroups, setresgid, setresuid};

/// Set by the supervisor for its children: the process id that must still be their parent.
pub const SUPERVISOR_VARIABLE: &str = "GATEHOUSE_SUPERVISOR";

/// What could not be given up; the role must not go on.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The kernel refused a change of user, group or process attributes.
    #[error("becoming user {uid}")]
    User {
        /// The user.
        uid: u32,
        /// Why not.
        #[source]
        source: nix::Error,
    },
    /// The kernel refused a change of capabilities.
    #[error("keeping capabilities {kept:?}")]
    Capabilities {
        /// What was to be kept.
        kept: Vec<Capability>,
        /// Why not.
        #[source]
        source: caps::errors::CapsError,
    },
    /// The supervisor died before this process could ask to be told.
    #[error("the supervisor is gone")]
    Orphaned,
}

/// Lets this process have as many files open as its hard limit says: a soft limit is for programs that use `select`.
/// Each connection of a load balancer takes two.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Becomes user and group `uid` with only the capabilities `kept`. Must run before the process starts threads:
/// capabilities are a thread's own. A service manager may have made it that user already, and then only the rest is given
/// up.
///
/// # Errors
/// When the kernel refuses any part of it.
pub fn become_user(uid: u32, kept: &[Capability]) -> Result<(), PrivilegeError> {
    let refused = |source| PrivilegeError::User { uid, source };
    let capabilities = |source| PrivilegeError::Capabilities { kept: kept.to_vec(), source };
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    let ids = (getresuid().map_err(refused)?, getresgid().map_err(refused)?);
    let is_user = (ids.0.real, ids.0.effective, ids.0.saved) == (user, user, user)
        && (ids.1.real, ids.1.effective, ids.1.saved) == (group, group, group)
        && getgroups().map_err(refused)?.iter().all(|own| *own == group);
    if !is_user {
        prctl::set_keepcaps(true).map_err(refused)?;
        setgroups(&[]).map_err(refused)?;
        setresgid(group, group, group).map_err(refused)?;
        setresuid(user, user, user).map_err(refused)?;
    }
    let keep: CapsHashSet = kept.iter().copied().collect();
    caps::set(None, CapSet::Effective, &keep).map_err(capabilities)?;
    caps::set(None, CapSet::Permitted, &keep).map_err(capabilities)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new()).map_err(capabilities)?;
    prctl::set_keepcaps(false).map_err(refused)?;
    prctl::set_no_new_privs().map_err(refused)?;
    die_with_supervisor()
}

/// Asks the kernel to end this process when the supervisor that started it dies. A change of user clears this, so it
/// comes after.
///
/// # Errors
/// When the supervisor is already gone.
pub fn die_with_supervisor() -> Result<(), PrivilegeError> {
    let supervisor = std::env::var(SUPERVISOR_VARIABLE).ok().and_then(|pid| pid.parse::<i32>().ok());
    let Some(supervisor) = supervisor else {
        return Ok(());
    };
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|source| PrivilegeError::User { uid: 0, source })?;
    if getppid().as_raw() == supervisor { Ok(()) } else { Err(PrivilegeError::Orphaned) }
}
