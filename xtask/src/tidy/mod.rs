//! `cargo xtask tidy`: the rules of the tree that no compiler checks.
//!
//! Reads every file git tracks or would track, applies the rules below, and prints each breach as `file:line: what`.
//! The rules take a tree as a value, so their tests are small trees and not this one. `ci` and every landing run it.

/// The tree as a value: which files there are and what they say.
mod tree;
/// The paths a Rust file mentions, by token and not by text.
mod mentions;
/// Who may import whom.
mod ranks;
/// What a pure module may not name.
mod purity;
/// Heads, sizes and module lists of Rust files.
mod shape;
/// What no tracked file may contain: machine paths, registries' hosts.
mod words;

use std::fmt;

use anyhow::{Result, bail};

use tree::Tree;

use crate::shell::say;

/// Checks the tree around the current directory and prints what breaks a rule.
///
/// # Errors
/// When any rule is broken, or the tree cannot be listed.
pub(crate) fn tidy() -> Result<()> {
    let tree = Tree::of_repository()?;
    let findings = check(&tree);
    for finding in &findings {
        say(&finding.to_string());
    }
    say(&format!("tidy: {}", shape::sizes(&tree)));
    if !findings.is_empty() {
        bail!("tidy: {} to fix", findings.len());
    }
    Ok(())
}

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// From 1.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Every breach in `tree`, in order of file and line.
fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files() {
        findings.extend(words::check(file));
        if file.is_rust() {
            findings.extend(shape::check(file, tree));
            match mentions::of(&file.text) {
                Ok(mentions) => {
                    findings.extend(ranks::check(file, &mentions));
                    findings.extend(purity::check(file, &mentions));
                }
                Err(why) => findings.push(Finding::new(&file.path, 1, why)),
            }
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lawful_tree_has_no_findings() {
        let tree = Tree::of(&[
            (
                "lb-userspace/src/lib.rs",
                "//! The appliance.\n\n/// Nouns.\npub mod model;\n/// Slices.\npub mod snapshot;\n",
            ),
            ("lb-userspace/src/model/mod.rs", "//! Nouns.\n\n/// Ids.\npub mod id;\n"),
            ("lb-userspace/src/model/id.rs", "//! Ids.\nuse std::net::IpAddr;\n"),
            ("lb-userspace/src/snapshot/mod.rs", "//! Slices.\nuse crate::model::id::Id;\n"),
            ("README.md", "# Gatehouse\n"),
        ]);
        assert_eq!(check(&tree), []);
    }

    #[test]
    fn a_file_that_is_not_rust_inside_is_a_finding() {
        let findings = check(&Tree::of(&[("xtask/src/main.rs", "//! Broken.\nfn main() { (\n")]));
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].what.contains("not Rust"), "{findings:?}");
    }

    #[test]
    fn findings_name_file_and_line() {
        assert_eq!(Finding::new("a/b.rs", 7, "too long").to_string(), "a/b.rs:7: too long");
    }

    #[test]
    fn this_repository_is_tidy() {
        let findings = check(&Tree::of_repository().unwrap());
        let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{}", lines.join("\n"));
    }
}
