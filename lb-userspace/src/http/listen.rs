//! Listening sockets that several workers share a port on, and the accept loop.
//!
//! Each worker has its own socket on the same address; the kernel spreads connections over them.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Binds a listening socket that shares its address with the other workers' sockets.
///
/// The address may be missing from the interface still: a load balancer's interface can come after its listener.
/// Must be called on the worker's runtime.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever, handing each connection to `accepted`. Ends only by being dropped.
pub async fn accept<F>(listener: &TcpListener, mut accepted: F)
where
    F: FnMut(TcpStream, SocketAddr),
{
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small answers must not wait for the client's acknowledgement.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY was refused");
                }
                accepted(stream, peer);
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting failed; waiting before the next try");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Connects to `target` from `source`, as a load balancer does from its interface's address; from any of ours if that is
/// of the other family.
pub fn connect_from(
    source: Option<IpAddr>,
    target: SocketAddr,
) -> impl Future<Output = io::Result<TcpStream>> {
    let socket = bound(source, target);
    async move {
        let stream = socket?.connect(target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

fn bound(source: Option<IpAddr>, target: SocketAddr) -> io::Result<tokio::net::TcpSocket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source.filter(|source| source.is_ipv4() == target.is_ipv4()) {
        // The port is chosen at connect, by the pair of ends: a source address is not limited to 28,000 connections.
        set_bind_no_port(&socket);
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    // The type says stream; the socket is not connected yet.
    Ok(tokio::net::TcpSocket::from_std_stream(socket.into()))
}

fn set_bind_no_port(socket: &Socket) {
    use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
    if let Err(error) = setsockopt(socket, IpBindAddressNoPort, &true) {
        tracing::debug!(%error, "IP_BIND_ADDRESS_NO_PORT was refused");
    }
}

/// Errors of one connection, over before it was accepted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Connections waiting for accept; the kernel caps it at net.core.somaxconn (4,096).
const BACKLOG: i32 = 4096;
/// Out of file descriptors: others must close first, and trying at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
