//! TLS in front of a worker: a handshake with a time limit, and what it agreed on.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{connection::Secure, serve::Protocol};

/// A connection behind TLS.
pub struct Accepted {
    /// The stream.
    pub stream: TlsStream<TcpStream>,
    /// What ALPN agreed on; HTTP/1.1 without ALPN.
    pub protocol: Protocol,
    /// What the client said.
    pub secure: Secure,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[from] std::io::Error),
    /// It took too long.
    #[error("the TLS handshake took too long")]
    TimedOut,
}

/// Shakes hands over `stream` as `config` says; its ALPN protocols should be `h2` and `http/1.1`.
pub async fn accept(stream: TcpStream, config: &Arc<ServerConfig>) -> Result<Accepted, AcceptError> {
    let handshake = TlsAcceptor::from(config.clone()).accept(stream);
    let stream = timeout(HANDSHAKE, handshake).await.map_err(|_| AcceptError::TimedOut)??;
    let (_, tls) = stream.get_ref();
    let protocol = if tls.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
    let secure = Secure { server_name: tls.server_name().map(Arc::from) };
    Ok(Accepted { stream, protocol, secure })
}

/// A client that has not finished by then is not going to.
const HANDSHAKE: Duration = Duration::from_secs(10);
