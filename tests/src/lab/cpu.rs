//! Processor time by role, from what the kernel counts for each process.
//!
//! A role is known by the namespace it works in, or by its command line if it stays in the host's. Packets that XDP
//! moves are nobody's process: their time shows in no role.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use super::Lab;

/// Microseconds of processor time since their start, by role and process: a role that was started again keeps what the
/// one before had used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuByRole {
    by_process: BTreeMap<(String, u32), u64>,
}

impl CpuByRole {
    /// What every process of the lab has used until now.
    pub fn now(lab: &Lab) -> Self {
        let roles = roles_by_namespace(lab);
        let directory = lab.directory().display().to_string();
        let mut by_process = BTreeMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let process = format!("/proc/{id}");
            let Some(role) = role_of(&process, &roles, &directory) else { continue };
            if let Some(used) =
                fs::read_to_string(format!("{process}/stat")).ok().as_deref().and_then(used_us)
            {
                by_process.insert((role, id), used);
            }
        }
        Self { by_process }
    }

    /// What was used after `before`.
    pub fn since(&self, before: &Self) -> Self {
        let used = self.by_process.iter().map(|(process, now)| {
            (process.clone(), now.saturating_sub(before.by_process.get(process).copied().unwrap_or(0)))
        });
        Self { by_process: used.collect() }
    }

    /// Microseconds by role.
    pub fn by_role(&self) -> BTreeMap<&str, u64> {
        let mut roles = BTreeMap::new();
        for ((role, _), used) in &self.by_process {
            *roles.entry(role.as_str()).or_insert(0) += used;
        }
        roles
    }
}

fn roles_by_namespace(lab: &Lab) -> BTreeMap<u64, String> {
    let prefix = lab.name().prefix();
    let mut roles = BTreeMap::new();
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&prefix) else { continue };
        let kind = rest.split('-').next().unwrap_or(rest);
        let role = if kind == "i" { "task" } else { kind };
        if let Ok(data) = fs::metadata(entry.path()) {
            roles.insert(data.ino(), role.to_owned());
        }
    }
    roles
}

fn role_of(process: &str, roles: &BTreeMap<u64, String>, directory: &str) -> Option<String> {
    let namespace = fs::metadata(format!("{process}/ns/net")).ok()?.ino();
    if let Some(role) = roles.get(&namespace) {
        return Some(role.clone());
    }
    let line = String::from_utf8_lossy(&fs::read(format!("{process}/cmdline")).ok()?).into_owned();
    let mut words = line.split('\0');
    let ours = line.contains(directory) && words.next().is_some_and(|program| program.ends_with("gatehouse"));
    let role = words.next().filter(|_| ours)?;
    Some(if role == "run" { "supervisor".to_owned() } else { role.to_owned() })
}

/// utime and stime: fields 14 and 15, counted from after the name, which may hold anything but ends in the last `)`.
fn used_us(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * TICK_US)
}

/// The kernel counts for userspace in hundredths of a second on every architecture (USER_HZ).
const TICK_US: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_past_a_name_with_brackets() {
        assert_eq!(used_us("7 (a) b) S 1 1 1 0 -1 4194560 0 0 0 0 12 3 0 0 20 0"), Some(150_000));
        assert_eq!(used_us("nothing"), None);
    }

    #[test]
    fn only_what_came_after_counts_and_new_processes_count_whole() {
        let of = |used: &[(&str, u32, u64)]| CpuByRole {
            by_process: used.iter().map(|(role, id, used)| ((role.to_string(), *id), *used)).collect(),
        };
        let spent = of(&[("node", 1, 70), ("node", 2, 5), ("gateway", 3, 4)])
            .since(&of(&[("node", 1, 50), ("gateway", 3, 4)]));
        assert_eq!(spent.by_role(), BTreeMap::from([("gateway", 0), ("node", 25)]));
    }
}
