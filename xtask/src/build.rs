//! Compiles the kernel programs with their own compiler, then the appliance that embeds them.
//!
//! After `setup`, before `run`, `test` and `bench`. The objects land in `target/ebpf/`, where the build script
//! of lb-userspace finds them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{Compiler, Toolchain, setup};
use crate::shell::{cargo, root, run, target};

/// Sets the machine up, compiles the kernel programs and the appliance in release mode.
pub(crate) fn build() -> Result<()> {
    build_ebpf(&setup()?)?;
    run(cargo().args(["build", "--release", "-p", "lb-userspace"]))
}

/// Compiles the kernel programs: the product's, the same with packet logs, and the driver of tests and benches.
pub(crate) fn build_ebpf(toolchain: &Toolchain) -> Result<()> {
    compile(toolchain, "plain", &["--bin", "gatehouse", "--bin", "driver"])?;
    compile(toolchain, "trace", &["--bin", "gatehouse", "--features", "trace"])?;
    publish("plain", "gatehouse", "gatehouse.o")?;
    publish("plain", "driver", "driver.o")?;
    publish("trace", "gatehouse", "gatehouse-trace.o")
}

fn compile(toolchain: &Toolchain, variant: &str, what: &[&str]) -> Result<()> {
    let mut command = match toolchain.compiler {
        Compiler::Nightly => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
            command
        }
        Compiler::Debian => {
            let mut command = Command::new("/usr/bin/cargo");
            command.arg("build").env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
            command
        }
    };
    // Unaligned header loads stay single instructions: without the feature each becomes byte loads.
    let flags = format!(
        "-C linker={} -C debuginfo=2 -C link-arg=--btf -C link-arg=--cpu-features=+allows-misaligned-mem-access",
        toolchain.linker.display()
    );
    command
        .args(["--release", "--target", TARGET])
        .args(what)
        .current_dir(root().join("lb-ebpf"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env("CARGO_TARGET_DIR", directory(variant))
        .env("RUSTFLAGS", flags);
    run(&mut command)
}

/// Copies an object to its published name, only when it changed: the appliance is rebuilt by its time stamp.
fn publish(variant: &str, binary: &str, name: &str) -> Result<()> {
    let built = directory(variant).join(TARGET).join("release").join(binary);
    let object = std::fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    let published = target().join("ebpf").join(name);
    if std::fs::read(&published).is_ok_and(|old| old == object) {
        return Ok(());
    }
    std::fs::write(&published, object).with_context(|| format!("writing {}", published.display()))
}

fn directory(variant: &str) -> PathBuf {
    target().join("ebpf").join(variant)
}

const TARGET: &str = "bpfel-unknown-none";
