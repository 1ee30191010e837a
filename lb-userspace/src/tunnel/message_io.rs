//! Messages over a stream: the reading and writing that control connections and both ends of a lane share.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{
    PeerMisbehaved,
    header::{HEADER_LEN, Header, Kind},
    message::Message,
};

/// What comes next on a lane.
#[derive(Debug)]
pub enum Incoming {
    /// A message, whole.
    Message(Message),
    /// DATA of this many bytes follows.
    Data(usize),
}

/// Why nothing more is read from a connection.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It ended or broke.
    #[error("the connection ended")]
    Io(#[from] io::Error),
    /// The peer broke a rule.
    #[error("the peer misbehaved")]
    Peer(#[from] PeerMisbehaved),
}

/// Reads a message, or the header of DATA.
///
/// # Errors
/// When the connection ends or the peer misbehaves.
pub async fn read_incoming<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Incoming, ReadError> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await?;
    let header = Header::decode(header)?;
    if header.kind == Kind::Data {
        return Ok(Incoming::Data(header.length));
    }
    // At most MAX_MESSAGE bytes: the header was checked.
    let mut payload = vec![0; header.length];
    stream.read_exact(&mut payload).await?;
    Ok(Incoming::Message(Message::decode(header.kind, &payload)?))
}

/// Reads a message where DATA may not come.
///
/// # Errors
/// When the connection ends or the peer misbehaves.
pub async fn read_message<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Message, ReadError> {
    match read_incoming(stream).await? {
        Incoming::Message(message) => Ok(message),
        Incoming::Data(_) => Err(PeerMisbehaved::OutOfPlace.into()),
    }
}

/// Writes a message, and flushes: tokio-rustls keeps what it could not write at once.
///
/// # Errors
/// When the connection breaks.
pub async fn write_message<S: AsyncWrite + Unpin>(stream: &mut S, message: &Message) -> io::Result<()> {
    stream.write_all(&message.frame()).await?;
    stream.flush().await
}
