//! Where the tree is, how commands are run, and the one function that prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// The workspace's root directory.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The workspace's target directory. Tools and kernel objects live in it whatever `CARGO_TARGET_DIR` says,
/// because build scripts look for them there.
pub(crate) fn target() -> PathBuf {
    root().join("target")
}

/// Tells the user one thing, on standard error: standard output belongs to results.
#[expect(clippy::print_stderr, reason = "the one printing function for progress")]
pub(crate) fn say(message: &str) {
    eprintln!("xtask: {message}");
}

/// Shows a result, on standard output.
#[expect(clippy::print_stdout, reason = "the one printing function for results")]
pub(crate) fn show(text: &str) {
    println!("{text}");
}

/// Runs a command with its output on the terminal; fails with the command line when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = spell(command);
    say(&line);
    let status = command.status().with_context(|| format!("starting {line}"))?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// Runs a command silently; its standard output when it succeeded.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if done.status.success() { String::from_utf8(done.stdout).ok() } else { None }
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_some_and(|uid| uid.trim() == "0")
}

/// `cargo` of the toolchain that runs this xtask.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

fn spell(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
