//! The tree as a value: read once from git's list of files, or written down by a test.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

/// The files of the repository, in order of path.
pub(super) struct Tree {
    files: Vec<File>,
}

/// One file that holds text.
pub(super) struct File {
    /// Relative to the top, with `/` between its parts.
    pub(super) path: String,
    pub(super) text: String,
}

impl Tree {
    /// Reads every text file that git tracks, or would track if it were added now.
    pub(super) fn of_repository() -> Result<Self> {
        let top = PathBuf::from(git(&["rev-parse", "--show-toplevel"])?.trim_end());
        let top_text = top.to_string_lossy().into_owned();
        let listed = git(&["-C", &top_text, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
        let mut files = Vec::new();
        for path in listed.split('\0').filter(|path| !path.is_empty()) {
            let whole = top.join(path);
            // Deleted and not yet staged, a submodule, or a link: not text of this tree.
            if !whole.symlink_metadata().is_ok_and(|data| data.is_file()) {
                continue;
            }
            let bytes = fs::read(&whole).with_context(|| format!("reading {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File { path: path.to_owned(), text });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Self { files })
    }

    /// A tree for a test.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let file = |&(path, text): &(&str, &str)| File { path: path.to_owned(), text: text.to_owned() };
        Self { files: files.iter().map(file).collect() }
    }

    pub(super) fn files(&self) -> &[File] {
        &self.files
    }
}

impl File {
    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The last part of the path.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Everything before the last part, without the `/` between.
    pub(super) fn folder(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    /// Whether the file holds nothing but tests of the module beside it.
    pub(super) fn is_tests(&self) -> bool {
        self.name() == "tests.rs" || self.path.contains("/tests/")
    }

    /// The module path of a file below `lb-userspace/src`, empty for its roots; `None` for other crates.
    pub(super) fn module(&self) -> Option<Vec<String>> {
        let inside = self.path.strip_prefix("lb-userspace/src/")?.strip_suffix(".rs")?;
        let mut parts: Vec<String> = inside.split('/').map(str::to_owned).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            parts.pop();
        }
        Some(parts)
    }
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").args(arguments).output().context("starting git")?;
    ensure!(
        output.status.success(),
        "git {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    String::from_utf8(output.stdout).context("git printed a path that is not UTF-8")
}
