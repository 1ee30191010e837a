//! The project's own commands, one file a subcommand.
#![forbid(unsafe_code)]

fn main() {}
