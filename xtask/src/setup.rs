//! Installs what the machine lacks: a compiler for the kernel programs, Debian packages, bpf-linker and the
//! Python clients that tests drive. Looks first, says what it does, and is instant when nothing is missing.
//!
//! Comes before every other subcommand that builds or runs anything.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell::{cargo, is_root, output, run, say, target};

/// What the kernel programs are compiled with.
pub(crate) struct Toolchain {
    /// Which compiler was found or installed.
    pub(crate) compiler: Compiler,
    /// The linker that turns LLVM bitcode into a BPF object.
    pub(crate) linker: PathBuf,
}

/// The two ways to compile for `bpfel-unknown-none`.
pub(crate) enum Compiler {
    /// A rustup nightly with `rust-src`, which builds `core` itself.
    Nightly,
    /// Debian's rustc-web with a ready `core` for BPF.
    Debian,
}

/// Makes the machine able to build, run, test and bench; returns what compiles the kernel programs.
pub(crate) fn setup() -> Result<Toolchain> {
    let nightly = nightly_has_source();
    let mut wanted: Vec<&str> = [RUN, TEST].concat();
    if !nightly {
        wanted.extend(DEBIAN_COMPILER);
    }
    install_packages(&missing_packages(&wanted))?;
    let linker = install_linker()?;
    install_clients()?;
    Ok(Toolchain { compiler: if nightly { Compiler::Nightly } else { Compiler::Debian }, linker })
}

/// Where the Python clients of tests live: `bin/python`, `bin/aws`.
pub(crate) fn clients() -> PathBuf {
    tools().join("venv")
}

fn tools() -> PathBuf {
    target().join("tools")
}

/// Case A: the usual set-up on a developer's machine.
fn nightly_has_source() -> bool {
    let sysroot = output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    sysroot.is_some_and(|s| Path::new(s.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists())
}

fn missing_packages<'a>(wanted: &[&'a str]) -> Vec<&'a str> {
    // dpkg-query exits 1 when any package is unknown but lists the others, so read what it printed.
    let listing = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .output()
        .map(|done| String::from_utf8_lossy(&done.stdout).into_owned())
        .unwrap_or_default();
    let installed: std::collections::HashSet<&str> =
        listing.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    wanted.iter().copied().filter(|package| !installed.contains(package)).collect()
}

fn install_packages(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_root() || output(Command::new("apt-get").arg("--version")).is_none() {
        bail!(
            "this machine lacks: {names}\n\
             On Debian 12, as root:\n  apt-get update && apt-get install --yes --no-install-recommends {names}\n\
             For the kernel programs alone, a rustup nightly does as well:\n  \
             rustup toolchain install nightly --component rust-src"
        );
    }
    say(&format!("installing Debian packages: {names}"));
    run(Command::new("apt-get").arg("update"))?;
    run(Command::new("apt-get")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(missing)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

fn install_linker() -> Result<PathBuf> {
    let linker = tools().join("bin/bpf-linker");
    let version = output(Command::new(&linker).arg("--version")).unwrap_or_default();
    if version.split_whitespace().nth(1) != Some(LINKER_VERSION) {
        say("building bpf-linker, about a minute");
        run(cargo()
            .args(["install", "bpf-linker", "--version", LINKER_VERSION])
            .args(["--no-default-features", "--features", "llvm-22", "--force", "--root"])
            .arg(tools())
            .env("LLVM_PREFIX", "/usr/lib/llvm-22"))?;
    }
    Ok(linker)
}

fn install_clients() -> Result<()> {
    let venv = clients();
    // Written last, so that an interrupted installation is done again.
    let complete = venv.join(".complete");
    if std::fs::read_to_string(&complete).is_ok_and(|done| done == CLIENTS.join(" ")) {
        return Ok(());
    }
    say("installing the Python clients of the tests (boto3, awscli)");
    run(Command::new("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet"]).args(CLIENTS))?;
    std::fs::write(complete, CLIENTS.join(" "))?;
    Ok(())
}

/// Its LLVM must be at least as new as the compiler's; both Debian's and the nightlies carry 22.
const LINKER_VERSION: &str = "0.13.0";

/// Case B: Debian's own compiler, for machines that cannot download `rust-src`.
const DEBIAN_COMPILER: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// What building and running needs.
const RUN: &[&str] = &["llvm-22-dev", "bpftool", "iproute2", "ethtool", "nftables"];

/// What load, tests and benches need.
const TEST: &[&str] = &[
    "wrk",
    "nghttp2-client",
    "nginx",
    "libnginx-mod-stream",
    "haproxy",
    "curl",
    "openssl",
    "python3-venv",
    "tshark",
    "bind9-dnsutils",
    "iputils-ping",
];

/// Real AWS clients, unpinned: the newest must work against the control endpoint.
const CLIENTS: &[&str] = &["boto3", "awscli"];
