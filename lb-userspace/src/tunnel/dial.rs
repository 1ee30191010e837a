//! The agent's end of the connections: sockets and TLS towards a gateway.
//!
//! Before it: `agent` wants a control connection or a lane. After it: messages.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::identity::tls::{self, TlsError};
use crate::snapshot::link::LinkCredentials;

/// What a connection to a gateway is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The control connection.
    Control,
    /// A lane of this worker.
    Lane(u16),
}

/// TLS towards one gateway.
#[derive(Clone)]
pub struct GatewayTls {
    control: Arc<ClientConfig>,
    lane: Arc<ClientConfig>,
}

/// Why a gateway could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection.
    #[error("connecting to the gateway at {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not the gateway it should be, or does not take us for what we are.
    #[error("TLS with the gateway at {address}")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("the gateway at {address} did not answer in time")]
    Timeout {
        /// Where.
        address: SocketAddr,
    },
    /// No name for a worker of that number.
    #[error("no such worker")]
    Worker,
}

impl GatewayTls {
    /// For the gateway of that name.
    ///
    /// # Errors
    /// When the credentials are not usable.
    pub fn new(credentials: &LinkCredentials, gateway: &str) -> Result<Self, TlsError> {
        let config =
            |alpn| tls::lane_client(&credentials.identity, &credentials.identity_root_pem, gateway, alpn);
        Ok(Self { control: config(tls::ALPN_CONTROL)?, lane: config(tls::ALPN_LANE)? })
    }
}

/// Connects to a gateway and shakes hands.
///
/// # Errors
/// When it is not there, not in time, or not who it should be.
pub async fn dial(
    address: SocketAddr,
    tls: &GatewayTls,
    purpose: Purpose,
) -> Result<TlsStream<TcpStream>, DialError> {
    let late = |_| DialError::Timeout { address };
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(late)?
        .and_then(|stream| tune(&stream).map(|()| stream))
        .map_err(|source| DialError::Connect { address, source })?;
    let config = match purpose {
        Purpose::Control => &tls.control,
        Purpose::Lane(_) => &tls.lane,
    };
    let name = server_name(purpose).ok_or(DialError::Worker)?;
    timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(Arc::clone(config)).connect(name, stream))
        .await
        .map_err(late)?
        .map_err(|source| DialError::Handshake { address, source })
}

/// The name in the ClientHello: lets the gateway's accept thread hand a lane to its worker before anything else is
/// read, so that the handshake is the worker's too. Proves nothing; LANE_HELLO repeats it under TLS.
fn server_name(purpose: Purpose) -> Option<ServerName<'static>> {
    let name = match purpose {
        Purpose::Control => CONTROL_NAME.to_owned(),
        Purpose::Lane(worker) => format!("w{worker}{LANE_NAME}"),
    };
    ServerName::try_from(name).ok()
}

/// What a ClientHello's name says its connection is for.
pub fn purpose_of(server_name: &str) -> Option<Purpose> {
    if server_name == CONTROL_NAME {
        return Some(Purpose::Control);
    }
    let worker = server_name.strip_prefix('w')?.strip_suffix(LANE_NAME)?;
    worker.parse().ok().map(Purpose::Lane)
}

/// Small frames leave at once; a peer that vanished without a word is noticed.
///
/// # Errors
/// When the socket refuses.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(3),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

const CONTROL_NAME: &str = "control.gatehouse";
const LANE_NAME: &str = ".lanes.gatehouse";
/// A gateway on the same continent answers in a fraction of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A handshake costs milliseconds; a burst of lanes on a small machine queues.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle for this long, TCP asks whether the peer is there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// And again every so often, three times.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes unacknowledged for this long: the connection is dead.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_purpose_is_read_from_the_name_it_was_put_in() {
        for purpose in [Purpose::Control, Purpose::Lane(0), Purpose::Lane(u16::MAX)] {
            let ServerName::DnsName(name) = server_name(purpose).unwrap() else { panic!("not a name") };
            assert_eq!(purpose_of(name.as_ref()), Some(purpose));
        }
        for name in ["w.lanes.gatehouse", "w65536.lanes.gatehouse", "lanes.gatehouse", "", "w1.lanes.other"] {
            assert_eq!(purpose_of(name), None, "{name}");
        }
    }
}
