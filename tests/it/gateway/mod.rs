//! HTTP APIs on real sockets, from the client's TLS to real targets behind a link.

/// Where requests arrive, and as what.
mod reach;
/// What clients are answered when something is wrong, byte for byte.
mod errors;
/// Targets that die under load.
mod load;
