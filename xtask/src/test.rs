//! `cargo xtask test`: every test, those of the kernel and the network included.
//!
//! After `setup` and `build_ebpf`: the tests load the kernel programs and start the appliance just compiled. `ci` runs
//! this last, as the README spells it.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    build::build_ebpf,
    setup::{clients, setup},
    shell::{cargo, is_root, run, target},
};

/// Sets the machine up, compiles, and runs the tests whose names contain one of `filters`, or all of them.
///
/// # Errors
/// Without root, when something does not compile, and when a test fails.
pub(crate) fn test(filters: &[String]) -> Result<()> {
    ensure!(
        is_root(),
        "the tests make network namespaces, load kernel programs and install what is missing: run `cargo xtask test` \
         as root. Without root, `cargo test --workspace --exclude gatehouse-tests` runs the rest"
    );
    build_ebpf(&setup()?)?;
    run(cargo().args(["build", "--package", "lb-userspace", "--bin", "gatehouse"]))?;
    run(cargo().args(["test", "--workspace", "--exclude", LAB, "--"]).args(filters))?;
    run(with_lab(cargo().args(["test", "--package", LAB, "--", LAB_THREADS]).args(filters)))
}

/// What the lab asks its environment for.
fn with_lab(command: &mut Command) -> &mut Command {
    command.env("GATEHOUSE_BIN", target().join("debug/gatehouse")).env("GATEHOUSE_CLIENTS", clients())
}

/// The crate whose tests build labs of namespaces.
const LAB: &str = "gatehouse-tests";
/// Labs are whole appliances with deadlines: side by side on a small machine they would time each other out.
const LAB_THREADS: &str = "--test-threads=1";
