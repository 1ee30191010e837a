//! Benches with peers beside ours in one run.
#![forbid(unsafe_code)]

fn main() {}
