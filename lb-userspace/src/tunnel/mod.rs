//! The VPC link: framed reusable lanes between a link agent and the gateways.
//!
//! The agent dials out to each gateway: one control connection, over which the gateway says how many lanes it wants,
//! and those lanes. A lane is a TLS connection that carries one connection to a target at a time and belongs to one
//! worker of the gateway. The gateway opens a target by its id; the agent knows the address, or refuses. Back-pressure
//! is each lane's own TCP, so a slow reader slows nobody else.

/// What travels: frames, messages, and the rules of a lane.
pub mod frame;
/// A worker's lanes: watermarks, nonces, limits, and which lane is used next.
pub mod pool;
/// Which ids an agent opens, and which never.
pub mod admit;
/// Messages over a stream.
pub mod message_io;
/// The agent's end of the connections: sockets and TLS towards a gateway.
pub mod dial;
/// What an agent counts.
pub mod counters;
/// One lane at the agent: opens targets and carries bytes.
pub mod carry;
/// The link role: keeps every gateway of its slice supplied with lanes.
pub mod agent;
/// The gateway's end: accepts agents, and hands lanes to the workers they name.
pub mod accept;
/// One lane at the gateway, and the pipe that it is while open.
pub mod pipe;
/// A worker's lanes in use: opening, waiting, watching, giving back.
pub mod lanes;
