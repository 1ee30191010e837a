//! Embeds the kernel programs when `cargo xtask build` has compiled them, else an empty stub, so that
//! `cargo check` and `clippy` work on a machine without the BPF toolchain.
//!
//! Sets `GATEHOUSE_OBJECT` to the file that `packet::load` includes.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let built = manifest.join("../target/ebpf/gatehouse.o");
    if !built.exists() {
        // The stub stands where the object will: cargo reruns this when it is replaced, and only then.
        fs::create_dir_all(manifest.join("../target/ebpf"))?;
        fs::write(&built, [])?;
    }
    let embedded = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("gatehouse.o");
    fs::copy(&built, &embedded)?;
    emit(&format!("rerun-if-changed={}", built.display()));
    emit("rerun-if-changed=build.rs");
    emit(&format!("rustc-env=GATEHOUSE_OBJECT={}", embedded.display()));
    Ok(())
}

fn emit(instruction: &str) {
    println!("cargo::{instruction}");
}
