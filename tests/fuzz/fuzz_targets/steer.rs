//! Any bytes as packets through `steer`, by the harness of the test suite.
//!
//! ```text
//! cargo test -p gatehouse-tests fuzz                      writes the fixtures as a corpus
//! cargo +nightly fuzz run --fuzz-dir tests/fuzz steer target/tmp/steer-corpus
//! ```
//!
//! Without cargo-fuzz, `cargo run --release` in this folder with the flags that it gives the compiler does the same.
#![no_main]
#![allow(dead_code, reason = "the suite uses more of these files than this target")]

/// The suite's own files: they say what they are.
#[path = "../../it/packets"]
mod packets {
    pub(crate) mod given;
    pub(crate) mod harness;
    pub(crate) mod host;
    pub(crate) mod reading;
    pub(crate) mod segment;

    pub(crate) fn play(bytes: &[u8]) {
        harness::play(bytes, &mut harness::Reached::default());
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| packets::play(bytes));
