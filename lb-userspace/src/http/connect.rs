//! How a byte stream to a target comes to be: a TCP connection for the load balancer, a pipe over a link for the gateway.

use std::{fmt, future::Future, hash::Hash, io, mem::MaybeUninit};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Opens streams to targets.
pub trait Connect: 'static {
    /// What tells targets apart whose streams must not be mixed up: idle connections are kept by it.
    type Key: Clone + Eq + Hash + fmt::Debug + 'static;
    /// The stream.
    type Stream: TargetStream;

    /// Opens a stream. The forwarder bounds how long it may take.
    fn connect(&self, key: &Self::Key) -> impl Future<Output = Result<Self::Stream, ConnectError>>;
}

/// A byte stream to a target.
pub trait TargetStream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Whether the other end has closed it, looked up now and not when the runtime last heard of it. Asked of an idle
    /// stream before a request that could not be repeated.
    fn is_closed(&self) -> bool {
        false
    }
}

impl TargetStream for TcpStream {
    fn is_closed(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        // Bytes without a request are as bad as an end.
        !matches!(SockRef::from(self).peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// No stream: and so no byte of a request can have reached the target.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The target, or the way to it, refused.
    #[error("the connection was refused or is not possible")]
    Io(#[from] io::Error),
    /// It took longer than allowed.
    #[error("connecting took too long")]
    TimedOut,
    /// What opens streams may not, or has no means to: another target would fare no better.
    #[error("not possible: {0}")]
    Unavailable(&'static str),
}

/// Inside an [`io::Error`] of a stream: it failed before it reached the target, so no byte of the request can have.
///
/// For streams that are usable before they are open: the first bytes travel with the request to open.
#[derive(Debug, thiserror::Error)]
#[error("the stream did not reach the target")]
pub struct NotDelivered(#[source] pub ConnectError);

impl NotDelivered {
    /// Whether `error` says so.
    pub fn is_in(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}
