//! Connections to targets, from the load balancer's own address.
//!
//! A target sees the address of the interface that the request came in by, or on a host's own networks that of the one on
//! its network: its security groups depend on it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpStream;

use crate::http::{
    connect::{Connect, ConnectError},
    listen::connect_from,
};

/// Opens TCP connections.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

/// Where a connection goes, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The load balancer's address.
    pub source: Ipv4Addr,
    /// The target.
    pub target: SocketAddr,
}

impl Connect for Tcp {
    type Key = Path;
    type Stream = TcpStream;

    async fn connect(&self, path: &Path) -> Result<TcpStream, ConnectError> {
        Ok(connect_from(Some(path.source.into()), path.target).await?)
    }
}
