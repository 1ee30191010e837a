//! `cargo xtask ci`: what every change passes before it lands, on any machine.
//!
//! Cheap checks first; last the very command the README gives a newcomer for the tests, so that it cannot rot.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    shell::{cargo, root, run},
    tidy,
};

/// Formats, lints, tidies and tests, stopping at the first that fails.
///
/// # Errors
/// When one of the steps fails, or the README no longer gives the command that runs the tests.
pub(crate) fn ci() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    tidy::tidy()?;
    let readme = fs::read_to_string(root().join("README.md")).context("reading README.md")?;
    let command =
        command_in(&readme).with_context(|| format!("README.md does not give the command `{TEST}`"))?;
    ensure!(!command.is_empty(), "README.md gives an empty command");
    run(Command::new("sh").args(["-c", command]).current_dir(root()))
}

/// The README's line that runs the tests, without what it says about it.
fn command_in(readme: &str) -> Option<&str> {
    let line = readme.lines().map(str::trim).find(|line| line.starts_with(TEST))?;
    Some(line.split('#').next().unwrap_or(line).trim())
}

/// How a newcomer runs every test.
const TEST: &str = "cargo xtask test";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_own_line_is_what_runs() {
        let readme =
            "# Gatehouse\n```\ncargo xtask run      # serves\ncargo xtask test     # every test\n```\n";
        assert_eq!(command_in(readme), Some("cargo xtask test"));
        assert_eq!(command_in("run `cargo xtask test`"), None);
    }
}
