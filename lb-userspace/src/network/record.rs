//! Which addresses we put on which of the host's interfaces, on disk before they are put there.
//!
//! The mark in the kernel says that an address is some appliance's; this says that it is this one's, also when its
//! interface is no longer in the configuration.

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::plan::Ours;

/// The record.
#[derive(Debug)]
pub(super) struct Record {
    file: PathBuf,
    ours: Ours,
}

impl Record {
    /// Reads it. One that is not there, or not readable, is empty: the mark still tells on listed interfaces.
    pub(super) fn open(file: &Path) -> Self {
        let ours = match std::fs::read_to_string(file) {
            Ok(text) => text.lines().filter_map(parse).collect(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "the record of addresses cannot be read");
                }
                Ours::new()
            }
        };
        Self { file: file.to_owned(), ours }
    }

    /// What it says.
    pub(super) fn ours(&self) -> &Ours {
        &self.ours
    }

    /// Notes an address, before it is put on the interface.
    pub(super) fn insert(&mut self, device: &str, address: IpAddr) -> io::Result<()> {
        let mut ours = self.ours.clone();
        ours.insert((device.to_owned(), address));
        self.replace(ours)
    }

    /// Forgets an address, after it was taken from the interface.
    pub(super) fn remove(&mut self, device: &str, address: IpAddr) -> io::Result<()> {
        let mut ours = self.ours.clone();
        ours.remove(&(device.to_owned(), address));
        self.replace(ours)
    }

    fn replace(&mut self, ours: Ours) -> io::Result<()> {
        if ours != self.ours {
            let directory = self.file.parent().unwrap_or(Path::new("."));
            let mut draft = tempfile::NamedTempFile::new_in(directory)?;
            for (device, address) in &ours {
                writeln!(draft, "{device} {address}")?;
            }
            draft.as_file().sync_all()?;
            draft.persist(&self.file)?;
            self.ours = ours;
        }
        Ok(())
    }
}

fn parse(line: &str) -> Option<(String, IpAddr)> {
    let (device, address) = line.split_once(' ')?;
    Some((device.to_owned(), address.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_read_back_and_rubbish_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("addresses");
        let mut record = Record::open(&file);
        assert!(record.ours().is_empty());
        let [ipv4, ipv6]: [IpAddr; 2] = ["10.0.1.4", "fd00:0:0:1::4"].map(|text| text.parse().unwrap());
        record.insert("eth1", ipv4).unwrap();
        record.insert("eth1", ipv6).unwrap();
        let both = [ipv4, ipv6].map(|address| ("eth1".to_owned(), address));
        assert_eq!(*Record::open(&file).ours(), Ours::from(both));
        record.remove("eth1", ipv4).unwrap();
        assert_eq!(*Record::open(&file).ours(), Ours::from([("eth1".to_owned(), ipv6)]));
        std::fs::write(&file, "eth1\neth2 10.0.1\neth1 10.0.1.4\n").unwrap();
        assert_eq!(Record::open(&file).ours().len(), 1);
    }
}
