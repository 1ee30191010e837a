//! HTTP on both sides of a proxy: one server side and one forwarder, shared by the load balancer and the gateway.
//!
//! The order is a request's: a worker accepts, the guard reads the raw framing, hyper parses, a handler decides,
//! the forwarder takes or opens a connection to a target and carries the exchange, bodies streaming both ways.
//! Everything here is one worker's own: nothing is shared between threads on a request's way.

/// A thread per core: pinned, one runtime each.
pub mod worker;
/// Listening sockets that several workers share a port on, and the accept loop.
pub mod listen;
/// TLS in front of a worker.
pub mod tls;
/// Why a request is refused before anybody decides about it.
pub mod refusal;
/// The raw framing of requests, checked before hyper would hide an ambiguity.
pub mod guard;
/// A client's stream behind the guard.
pub mod guarded;
/// One client connection's state, as its handler sees it.
pub mod connection;
/// One client connection from its first byte to its last.
pub mod serve;
/// Which headers may pass a proxy, and which requests have a lawful head.
pub mod headers;
/// Bodies on their way through.
pub mod body;
/// How a byte stream to a target comes to be.
pub mod connect;
/// A stream to a target that remembers what went over it.
pub mod wire;
/// One connection to a target and the exchange on it.
pub mod exchange;
/// Idle connections to targets.
pub mod pool;
/// From a request to a response: connections, attempts, retries.
pub mod forward;
/// After 101: bytes both ways.
pub mod upgrade;
