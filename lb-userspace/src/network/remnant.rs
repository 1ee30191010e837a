//! What a host still holds of an appliance, found by name and removed: for `down`, and for a start after a kill.
//!
//! One function per kind, so that who makes a kind can also say what is left of it.

use std::collections::BTreeMap;

use super::{
    device::Netlink,
    driver::StepError,
    namespace::{self, NamespaceError, within},
};
use crate::snapshot::names;

/// What was removed, and what would not go.
#[derive(Debug, Default)]
pub struct Removed {
    /// By name.
    pub namespaces: Vec<String>,
    /// By name, with the reason.
    pub failures: BTreeMap<String, String>,
}

/// Removes every namespace that the virtual driver made for this appliance, with all devices in them.
pub fn remove_everything(appliance: &str) -> Removed {
    let mut removed = Removed::default();
    let names = match namespaces(appliance) {
        Ok(names) => names,
        Err(error) => {
            removed.failures.insert(names::prefix(appliance), spelled(&error));
            return removed;
        }
    };
    for name in names {
        match remove_namespace(&name) {
            Ok(()) => removed.namespaces.push(name),
            Err(error) => {
                removed.failures.insert(name, spelled(&error));
            }
        }
    }
    removed
}

/// The namespaces of an appliance that the driver made or began to make. Others may share the prefix: a lab names the
/// hosts around its appliance so.
pub(super) fn namespaces(appliance: &str) -> Result<Vec<String>, NamespaceError> {
    let prefix = names::prefix(appliance);
    let mut found = namespace::list(&prefix).map_err(|source| NamespaceError::Refused {
        what: "listing",
        name: prefix.clone(),
        source,
    })?;
    found.retain(|name| {
        name.strip_prefix(&prefix).is_some_and(|kind| KINDS.iter().any(|own| kind.starts_with(own)))
    });
    Ok(found)
}

/// Removes a namespace and its devices. Devices go first and at once: the kernel would take its time over those of a
/// nameless namespace, and a process in it would keep them.
pub(super) fn remove_namespace(name: &str) -> Result<(), StepError> {
    if namespace::exists(name) {
        within(name, || -> Result<(), StepError> {
            let netlink = Netlink::open()?;
            for device in
                netlink.devices()?.into_keys().filter(|device| !KERNEL_DEVICES.contains(&device.as_str()))
            {
                netlink.remove(&device)?;
            }
            Ok(())
        })??;
    }
    Ok(namespace::remove(name)?)
}

fn spelled(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What follows the appliance's prefix in the names of `snapshot::names`.
const KINDS: &[&str] = &["vpc-", "node-", "link-", "i-", "task-"];
/// Made by the kernel in every namespace where its configuration says so, and not removable.
const KERNEL_DEVICES: &[&str] =
    &["tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0"];
