//! Roles that end as in a crash, and whose place is taken.

use std::time::Duration;

use gatehouse_tests::lab::{Lab, wait::Wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Ends the process of a role as a crash would; returns once another runs in its place.
pub(crate) fn crash(lab: &mut Lab, role: &str) {
    let before = lab.appliance().role(role);
    assert_eq!(lab.appliance().signal(role, Signal::SIGKILL).unwrap(), 1, "{role}: {before:?}");
    let replaced = || {
        let now = lab.appliance().role(role);
        Ok((!now.is_empty() && now != before).then_some(()))
    };
    Wait::default().until(&format!("new process of role {role}"), Duration::from_secs(10), replaced).unwrap();
}

/// Ends a task's process.
pub(crate) fn kill_task(process: i32) {
    kill(Pid::from_raw(process), Signal::SIGKILL)
        .unwrap_or_else(|error| panic!("killing {process}: {error}"));
}
