//! `cargo xtask bench [NAME]`: measures beside the peers and appends to bench/results.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    build::build_ebpf,
    setup::setup,
    shell::{cargo, is_root, root, run},
};

/// Builds the benches in release mode and runs one, or all.
///
/// # Errors
/// Without root, when something does not build, or a bench cannot measure. Never for being slow.
pub(crate) fn bench(name: Option<&str>) -> Result<()> {
    ensure!(is_root(), "benches make network namespaces and load kernel programs: run as root");
    // The packets bench reads the objects; the appliance embeds one, and stands in the lab of the integrations.
    build_ebpf(&setup()?)?;
    run(cargo().args(["build", "--release", "--quiet", "-p", "gatehouse-bench", "-p", "lb-userspace"]))?;
    let metadata = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    let binary = metadata.join("release/gatehouse-bench");
    for one in name.map_or_else(|| ALL.to_vec(), |name| vec![name]) {
        run(Command::new(&binary).arg(one))?;
    }
    Ok(())
}

/// Every bench there is.
const ALL: &[&str] = &["packets", "nlb", "alb", "integrations"];
