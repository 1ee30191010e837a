//! Listening sockets that several workers share a port on, and the accept loop.
//!
//! Each worker has its own socket on the same address; the kernel spreads connections over them.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::abi::LAST_NAT_PORT;
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
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(true)?;
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

/// Connects to `target` from `source`, as a load balancer does from its interface's address, or from any of ours if that
/// is of the other family: by a port that no NAT of the same address uses, so that the answer can be told from a flow's.
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
        if let Err(error) = keep_off_nat(&socket) {
            tracing::debug!(%error, "IP_LOCAL_PORT_RANGE was refused");
        }
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

/// Whether the kernel can choose ports for `connect_from` that no NAT uses. To be asked where the namespace's range of
/// ports is not ours to set.
///
/// # Errors
/// When it cannot: it is older than `IP_LOCAL_PORT_RANGE` (Linux 6.3), or its own range has no such port.
pub fn check_port_ranges() -> io::Result<()> {
    keep_off_nat(&Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?).map_err(|error| {
        io::Error::new(error.kind(), "the kernel has no IP_LOCAL_PORT_RANGE; it came with Linux 6.3")
    })?;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let last: u16 = range.split_whitespace().nth(1).and_then(|last| last.parse().ok()).unwrap_or_default();
    // The kernel takes a socket's range only as far as it lies in its own.
    if last < LAST_NAT_PORT.saturating_add(LEAST_PORTS) {
        return Err(io::Error::other(format!(
            "net.ipv4.ip_local_port_range ends at {last}; ports above {LAST_NAT_PORT} are needed"
        )));
    }
    Ok(())
}

fn keep_off_nat(socket: &Socket) -> io::Result<()> {
    // The upper bound in the upper half.
    let range = u32::from(u16::MAX) << 16 | (u32::from(LAST_NAT_PORT) + 1);
    Ok(nix::sys::socket::setsockopt(socket, IpLocalPortRange, &range)?)
}

mod port_range {
    //! An option that nix does not have yet.
    use nix::{libc, setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// From which ports the kernel chooses.
        IpLocalPortRange,
        SetOnly,
        libc::IPPROTO_IP,
        IP_LOCAL_PORT_RANGE,
        u32
    );

    /// linux/in.h.
    const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
}
use port_range::IpLocalPortRange;

/// Errors of one connection, over before it was accepted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Connections waiting for accept; the kernel caps it at net.core.somaxconn (4,096).
const BACKLOG: i32 = 4096;
/// Ports that health checks and application load balancers need at least, for each target that they speak to.
const LEAST_PORTS: u16 = 4_096;
/// Out of file descriptors: others must close first, and trying at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
