//! The target: answers every request with as little work as can be.
//!
//! 48 bytes, or a mebibyte to `/bulk`. Who asks with `Connection: close` gets the end of the connection in the same
//! segment, so that ports wait for their time on this side and clients can use theirs again.

use std::{net::SocketAddr, os::fd::AsRawFd as _};

use anyhow::Result;
use nix::{
    libc,
    sys::socket::{MsgFlags, send},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{TcpListener, TcpStream},
};

/// Serves for ever.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        let bulk = bulk();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let bulk = bulk.clone();
            tokio::spawn(async move {
                // Whoever closes ends it.
                let _ = answer(stream, &bulk).await;
            });
        }
    })
}

/// Requests have no body and come one by one: each read that ends with an empty line is one.
async fn answer(mut stream: TcpStream, bulk: &[u8]) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        let Some(free) = buffer.get_mut(filled..) else { return Ok(()) };
        let count = stream.read(free).await?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let request = buffer.get(..filled).unwrap_or_default();
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        if request.starts_with(BULK_REQUEST) {
            stream.write_all(bulk).await?;
        } else if request.windows(CLOSE.len()).any(|window| window == CLOSE) {
            return finish(stream).await;
        } else {
            stream.write_all(ANSWER).await?;
        }
        filled = 0;
    }
}

/// Answers and closes, in one segment.
async fn finish(mut stream: TcpStream) -> std::io::Result<()> {
    let more = MsgFlags::from_bits_retain(libc::MSG_MORE);
    let held_back = || Ok(send(stream.as_raw_fd(), LAST_ANSWER, more)?);
    // An empty send buffer takes so little at once.
    stream.async_io(Interest::WRITABLE, held_back).await?;
    stream.shutdown().await
}

fn bulk() -> std::sync::Arc<[u8]> {
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {BULK_BYTES}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BULK_BYTES, b'x');
    answer.into()
}

/// What `/bulk` answers.
pub(crate) const BULK_BYTES: usize = 1 << 20;
/// Its path.
pub(crate) const BULK_PATH: &str = "/bulk";
const BULK_REQUEST: &[u8] = b"GET /bulk ";
const CLOSE: &[u8] = b"Connection: close\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 48\r\n\r\n\
    forty-eight bytes of text, and then a line end.\n";
const LAST_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 48\r\n\
    connection: close\r\n\r\nforty-eight bytes of text, and then a line end.\n";
