//! After 101: bytes both ways, until one side has closed both or nothing moves.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes};

use super::connection::{ClientConnection, Duplex};

/// A target's stream after 101, with what was read of it already.
pub struct Upgraded<S> {
    stream: S,
    read: Bytes,
}

impl<S> Upgraded<S> {
    pub(super) fn new(stream: S, read: Bytes) -> Self {
        Self { stream, read }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Upgraded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = this.read.len().min(buf.remaining());
        buf.put_slice(this.read.get(..count).unwrap_or_default());
        this.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Upgraded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Joins the client's stream to the target's. `early` is what the client had sent behind its request.
pub(super) async fn tunnel<C: AsyncRead + AsyncWrite + Unpin>(
    mut client: C,
    early: BytesMut,
    mut target: Box<dyn Duplex>,
    connection: &Rc<ClientConnection>,
    idle: Duration,
) {
    let copied = async {
        target.write_all(&early).await?;
        target.flush().await?;
        copy_bidirectional_with_sizes(&mut client, &mut target, COPY, COPY).await
    };
    let quiet = async {
        loop {
            let due = connection.last_moved() + idle;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    };
    tokio::select! {
        result = copied => {
            if let Err(error) = result {
                tracing::debug!(%error, "a joined connection ended");
            }
        }
        () = quiet => tracing::debug!("a joined connection was idle for too long"),
    }
}

/// Per direction; a WebSocket frame is usually far smaller.
const COPY: usize = 16 << 10;
