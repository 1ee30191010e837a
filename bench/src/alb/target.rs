//! The target: answers 48 bytes to every request, with as little work as can be.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Serves for ever.
pub(super) fn serve(address: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                // Whoever closes ends it.
                let _ = answer(stream).await;
            });
        }
    })
}

/// Requests have no body and come one by one: each read that ends with an empty line is one.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    let mut filled = 0;
    loop {
        let Some(free) = buffer.get_mut(filled..) else { return Ok(()) };
        let count = stream.read(free).await?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        if buffer.get(..filled).is_some_and(|request| request.ends_with(b"\r\n\r\n")) {
            stream.write_all(ANSWER).await?;
            filled = 0;
        }
    }
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 48\r\n\r\n\
    forty-eight bytes of text, and then a line end.\n";
