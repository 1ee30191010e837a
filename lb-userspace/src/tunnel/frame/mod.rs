//! What travels between an agent and a gateway: pure values, no sockets.
//!
//! A frame is an 8-byte header and a payload of stated length, so nothing inside a body can become a frame. Anything
//! that does not follow the rules closes the connection it came on: the peer is authenticated, but not trusted.

/// The 8 bytes in front of every payload.
pub mod header;
/// The payloads, other than DATA.
pub mod message;
/// Which frame may come when: the rules of a lane, for each end.
pub mod lane;

/// The peer broke a rule of the protocol; the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerMisbehaved {
    /// No such type of frame, or bits set that must be zero.
    #[error("unknown kind of frame")]
    Header,
    /// A payload longer or shorter than its type allows.
    #[error("frame of unlawful length")]
    Length,
    /// A payload that does not have its type's form.
    #[error("malformed payload")]
    Payload,
    /// A frame that may not come now.
    #[error("frame out of place")]
    OutOfPlace,
    /// An id that was not asked for, or used before.
    #[error("wrong open id")]
    OpenId,
}
