//! The `gatehouse` binary: hands the command line to the composition.

fn main() {}
