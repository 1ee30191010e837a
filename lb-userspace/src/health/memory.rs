//! Verdicts kept over a restart: a small file, written when they change.
//!
//! A node that starts anew would otherwise hold every target for unchecked, and send requests to the ones that are down.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        id::{Arn, TimestampMs},
        target_group::{TargetHealth, TargetKey},
    },
    snapshot::verdict::{Verdict, Verdicts},
};

/// The file's form: one entry a verdict.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    target_group: Arn,
    target: TargetKey,
    registered_at: TimestampMs,
    health: TargetHealth,
}

/// The file in a node's state directory.
pub fn file_in(state_dir: &Path) -> PathBuf {
    state_dir.join("verdicts.json")
}

/// Reads it; nothing if there is none or it is not readable: then every target is checked anew, as at first start.
pub fn read(file: &Path) -> Verdicts {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Verdicts::default(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the last verdicts cannot be read");
            return Verdicts::default();
        }
    };
    let entries: Vec<Entry> = match serde_json::from_slice(&text) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the last verdicts are not understood");
            return Verdicts::default();
        }
    };
    let mut groups: BTreeMap<Arn, BTreeMap<TargetKey, Verdict>> = BTreeMap::new();
    for entry in entries {
        let verdict = Verdict { registered_at: entry.registered_at, health: entry.health };
        groups.entry(entry.target_group).or_default().insert(entry.target, verdict);
    }
    Verdicts { groups: groups.into_iter().map(|(arn, group)| (arn, Arc::new(group))).collect() }
}

/// Writes it, whole or not at all.
pub fn write(file: &Path, verdicts: &Verdicts) -> io::Result<()> {
    let entries: Vec<Entry> = verdicts
        .groups
        .iter()
        .flat_map(|(arn, group)| {
            group.iter().map(|(target, verdict)| Entry {
                target_group: arn.clone(),
                target: target.clone(),
                registered_at: verdict.registered_at,
                health: verdict.health.clone(),
            })
        })
        .collect();
    let next = file.with_extension("next");
    fs::write(&next, serde_json::to_vec(&entries)?)?;
    fs::rename(&next, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::target_group::TargetHealthState;

    #[test]
    fn verdicts_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = file_in(dir.path());
        assert_eq!(read(&file), Verdicts::default(), "nothing yet");
        let health = TargetHealth { state: TargetHealthState::Healthy, reason: None, description: None };
        let key = TargetKey { id: "10.0.0.1".to_owned(), port: 80 };
        let group = BTreeMap::from([(key, Verdict { registered_at: 5, health })]);
        let verdicts = Verdicts { groups: BTreeMap::from([(Arn::from("g"), Arc::new(group))]) };
        write(&file, &verdicts).unwrap();
        assert_eq!(read(&file), verdicts);
        fs::write(&file, "not json").unwrap();
        assert_eq!(read(&file), Verdicts::default());
    }
}
