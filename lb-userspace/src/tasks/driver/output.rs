//! What containers print, kept in files of a bounded size.
//!
//! Containers write into the file themselves, so that they keep printing while no driver runs. A file that has grown
//! beyond its limit is copied aside and emptied; what was printed in between is lost.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The file that a container's standard output and error go to.
pub(super) fn open(directory: &Path, task: &str, container: &str) -> io::Result<File> {
    let path = path_of(directory, task, container);
    File::options().create(true).append(true).open(path)
}

/// Empties the file if it has grown beyond the limit.
pub(super) fn bound(directory: &Path, task: &str, container: &str) -> io::Result<()> {
    let path = path_of(directory, task, container);
    if fs::metadata(&path)?.len() > SIZE_MAX {
        fs::copy(&path, path.with_extension("log.1"))?;
        File::options().write(true).open(&path)?.set_len(0)?;
    }
    Ok(())
}

/// Removes what a task printed.
pub(super) fn remove<'a>(directory: &Path, task: &str, containers: impl Iterator<Item = &'a str>) {
    for container in containers {
        let path = path_of(directory, task, container);
        // It is not there when the task never started.
        let _ = fs::remove_file(path.with_extension("log.1"));
        let _ = fs::remove_file(path);
    }
}

fn path_of(directory: &Path, task: &str, container: &str) -> PathBuf {
    directory.join("output").join(format!("{task}.{container}.log"))
}

/// 8 MiB: days of a quiet server, minutes of a loud one.
const SIZE_MAX: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_file_beyond_its_limit_is_set_aside_and_its_writer_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("output")).unwrap();
        let mut file = open(directory.path(), "t", "app").unwrap();
        file.write_all(b"small").unwrap();
        bound(directory.path(), "t", "app").unwrap();
        assert_eq!(file.metadata().unwrap().len(), 5);
        file.write_all(&vec![b'x'; usize::try_from(SIZE_MAX).unwrap()]).unwrap();
        bound(directory.path(), "t", "app").unwrap();
        file.write_all(b"after").unwrap();
        let path = path_of(directory.path(), "t", "app");
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(fs::metadata(path.with_extension("log.1")).unwrap().len(), SIZE_MAX + 5);
        remove(directory.path(), "t", ["app"].into_iter());
        assert_eq!(fs::read_dir(directory.path().join("output")).unwrap().count(), 0);
    }
}
