//! The name that everything of one lab carries, and what is left of labs that were killed.
//!
//! A name is `t<pid>-<n>`: the process that made the lab, and which of its labs it is. Whatever carries the name of a
//! process that is gone belongs to nobody.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

/// A lab's name, unique on this host while the process lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// A new name; the first of a process also removes what killed processes left.
    pub fn fresh() -> Self {
        static LEFTOVERS: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        LEFTOVERS.call_once(remove_leftovers);
        Self(format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// As text: an appliance's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What every namespace of the lab begins with.
    pub fn prefix(&self) -> String {
        format!("gh-{self}-")
    }

    /// Where the lab keeps its files.
    pub fn directory(&self) -> PathBuf {
        std::env::temp_dir().join(format!("gh-{self}"))
    }

    /// Removes everything that carries the name: processes, namespaces, pins, cgroups, files.
    pub fn remove_everything(&self) {
        stop_recorded(&self.directory());
        for namespace in entries(NAMESPACES).into_iter().filter(|entry| entry.starts_with(&self.prefix())) {
            remove_namespace(&namespace);
        }
        for place in pins_and_cgroups(self.as_str()) {
            remove_tree(&place);
        }
        for hosts in entries(HOSTS).into_iter().filter(|entry| entry.starts_with(&self.prefix())) {
            let _ = fs::remove_dir_all(Path::new(HOSTS).join(hosts));
        }
        // Only when it is empty: others may have put something there.
        let _ = fs::remove_dir(HOSTS);
        let _ = fs::remove_dir_all(self.directory());
    }

    /// What still carries the name, for a test that nothing does.
    pub fn remains(&self) -> Vec<String> {
        let mut found: Vec<String> = entries(NAMESPACES);
        found.retain(|entry| entry.starts_with(&self.prefix()));
        found.extend(pins_and_cgroups(self.as_str()).iter().map(|path| path.display().to_string()));
        if self.directory().exists() {
            found.push(self.directory().display().to_string());
        }
        found
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The file in a lab's directory that names its processes, one id a line, for whoever has to stop them.
pub fn process_file(directory: &Path) -> PathBuf {
    directory.join("processes")
}

fn remove_leftovers() {
    let temporary = std::env::temp_dir().display().to_string();
    let mut names: Vec<String> = [NAMESPACES, HOSTS, temporary.as_str()]
        .iter()
        .flat_map(|place| entries(place))
        .filter_map(|entry| lab_in(entry.strip_prefix("gh-")?))
        .chain(entries(PINS).iter().filter_map(|entry| lab_in(entry.strip_prefix("gatehouse-")?)))
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        let process = name.trim_start_matches('t').split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(process).exists() {
            Name(name).remove_everything();
        }
    }
}

/// The lab's name at the start of `text`, if it starts with one: `t12-3` in `t12-3-client`.
fn lab_in(text: &str) -> Option<String> {
    let mut parts = text.strip_prefix('t')?.split('-');
    let (process, number) = (parts.next()?, parts.next()?);
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    (digits(process) && digits(number)).then(|| format!("t{process}-{number}"))
}

/// Stops what a lab recorded as its own, if it still runs what the lab started: an id may have moved on.
fn stop_recorded(directory: &Path) {
    let recorded = fs::read_to_string(process_file(directory)).unwrap_or_default();
    for id in recorded.lines().filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())) {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(&directory.display().to_string()) {
            quietly(Command::new("kill").args(["-KILL", "--", id]));
        }
    }
}

fn remove_namespace(namespace: &str) {
    // Devices go at once, where the kernel would take its time over those of a nameless namespace.
    let path = Path::new(NAMESPACES).join(namespace);
    let links = Command::new("nsenter")
        .arg(format!("--net={}", path.display()))
        .args(["ip", "-oneline", "link", "show"])
        .stderr(Stdio::null())
        .output();
    for line in String::from_utf8_lossy(&links.map(|links| links.stdout).unwrap_or_default()).lines() {
        let device = line.split(": ").nth(1).and_then(|name| name.split('@').next()).unwrap_or("lo");
        if device != "lo" {
            let net = format!("--net={}", path.display());
            quietly(Command::new("nsenter").arg(net).args(["ip", "link", "delete", device]));
        }
    }
    quietly(Command::new("ip").args(["netns", "delete", namespace]));
    let _ = fs::remove_file(path);
}

/// The appliance's directories outside its own: pinned BPF objects, and cgroups wherever version 2 is mounted.
fn pins_and_cgroups(appliance: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let cgroups = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    let own = format!("gatehouse-{appliance}");
    let mut found: Vec<PathBuf> =
        cgroups.chain([PathBuf::from(PINS)]).map(|place| place.join(&own)).collect();
    found.retain(|path| path.exists());
    found
}

/// Files and folders of bpffs, folders of a cgroup: each goes when what is in it has gone.
fn remove_tree(path: &Path) {
    if path.join("cgroup.kill").exists() {
        let _ = fs::write(path.join("cgroup.kill"), "1");
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        } else {
            let _ = fs::remove_file(entry.path());
        }
    }
    // A killed process leaves its cgroup a moment later.
    for _ in 0..100 {
        if fs::remove_dir(path).is_ok() || !path.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn entries(directory: &str) -> Vec<String> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn quietly(command: &mut Command) {
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

const NAMESPACES: &str = "/run/netns";
/// Files that `ip netns exec` lays over those in /etc, by namespace.
const HOSTS: &str = "/etc/netns";
const PINS: &str = "/sys/fs/bpf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labs_name_is_found_in_what_carries_it() {
        assert_eq!(lab_in("t12-3-client").as_deref(), Some("t12-3"));
        assert_eq!(lab_in("t12-3").as_deref(), Some("t12-3"));
        assert_eq!(lab_in("t12"), None);
        assert_eq!(lab_in("test-1"), None);
        assert_eq!(lab_in("demo-vpc-1"), None);
    }

    #[test]
    fn names_differ_and_none_is_another_ones_beginning() {
        let (one, two) = (Name("t1-1".to_owned()), Name("t1-12".to_owned()));
        assert!(!two.prefix().starts_with(&one.prefix()));
    }
}
