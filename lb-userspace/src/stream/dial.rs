//! From a choice to a connection: a target, the header in front, TLS.
//!
//! No byte of the client's has left yet, so a target that does not answer costs only time: another is tried.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{error::Elapsed, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    choices::Choice,
    end::End,
    flow::Flow,
    group::Group,
    run::Limits,
    view::{Listener, ListenerEnd},
    worker::Shared,
};
use crate::{
    http::listen::connect_from,
    identity::{listener_tls, tls::TlsError},
    network::proxy_protocol::ProxyHeader,
};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// No target may get anything.
    #[error("there is no target")]
    NoTarget,
    /// None of those that were tried answered.
    #[error("no target answered")]
    Unanswered(#[source] TryError),
}

/// Why one target did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TryError {
    /// TCP.
    #[error("connecting to target {0}")]
    Connect(SocketAddr, #[source] io::Error),
    /// TLS.
    #[error("the TLS handshake with target {0}")]
    Handshake(SocketAddr, #[source] io::Error),
}

/// A client's connection, as its target is told of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends<'a> {
    /// The client.
    pub(super) client: SocketAddr,
    /// What it connected to.
    pub(super) listener: SocketAddr,
    /// What was agreed with it.
    pub(super) alpn: Option<&'a [u8]>,
}

/// Connects to a target of the listener's groups.
pub(super) async fn dial(
    shared: &Shared,
    listener: &Listener,
    end: &ListenerEnd,
    flow: &Flow,
    ends: Ends<'_>,
) -> Result<End, DialError> {
    let mut tried = Vec::new();
    let mut last = DialError::NoTarget;
    while tried.len() < TRIES {
        let choice = shared.choices.choose(listener, &end.zone, ends.client.ip(), &tried);
        let Some(Choice { group, target, fails_open }) = choice else { break };
        flow.to(target.clone());
        match attempt(shared, listener, &group, target.address, ends).await {
            Ok(made) => {
                target.new.inc();
                if fails_open {
                    group.failed_open.inc();
                }
                return Ok(made);
            }
            Err(error) => {
                match &error {
                    TryError::Handshake(..) => drop(end.counters.target_tls_errors.inc()),
                    // Every port from every address to the target is taken.
                    TryError::Connect(_, error) if is_out_of_ports(error) => {
                        end.counters.port_errors.inc();
                    }
                    TryError::Connect(..) => {}
                }
                tracing::debug!(error = &error as &dyn std::error::Error, "a target did not answer");
                last = DialError::Unanswered(error);
                tried.push(target);
            }
        }
    }
    Err(last)
}

async fn attempt(
    shared: &Shared,
    listener: &Listener,
    group: &Group,
    target: SocketAddr,
    ends: Ends<'_>,
) -> Result<End, TryError> {
    let Limits { connect, handshake, .. } = shared.limits;
    let refused = |error| TryError::Connect(target, error);
    let connected = timeout(connect, reach(listener, ends.listener.ip(), target));
    let mut stream = connected.await.map_err(timed_out).flatten().map_err(refused)?;
    if group.wants_header() {
        let endpoint = match ends.client.ip() {
            IpAddr::V4(address) => shared.link_of(address),
            IpAddr::V6(_) => None,
        };
        let endpoint = endpoint.as_ref().map(|link| link.as_str());
        let header = ProxyHeader::Proxied { client: ends.client, listener: ends.listener, endpoint };
        // A hundred bytes into an empty socket: this does not wait.
        stream.write_all(&header.encode()).await.map_err(refused)?;
    }
    if !group.speaks_tls() {
        return Ok(End::Plain(stream));
    }
    let failed = |error| TryError::Handshake(target, error);
    let config = shared.to_targets.config(ends.alpn).map_err(|error| failed(io::Error::other(error)))?;
    let shaken = TlsConnector::from(config).connect(ServerName::IpAddress(target.ip().into()), stream);
    let stream = timeout(handshake, shaken).await.map_err(timed_out).flatten().map_err(failed)?;
    Ok(End::Tls(Box::new(stream.into())))
}

/// Connects to a target from the first of our addresses that has a port left.
async fn reach(listener: &Listener, accepted: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for source in listener.sources(accepted, target.ip()) {
        outcome = connect_from(source, target).await;
        if !outcome.as_ref().is_err_and(is_out_of_ports) {
            break;
        }
    }
    outcome
}

fn is_out_of_ports(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}

fn timed_out(_: Elapsed) -> io::Error {
    io::ErrorKind::TimedOut.into()
}

/// TLS to targets, by what ALPN offers: made once for each of the few protocols that a policy has.
#[derive(Default)]
pub(super) struct ToTargets {
    configs: RefCell<HashMap<Option<Vec<u8>>, Arc<ClientConfig>>>,
}

impl ToTargets {
    fn config(&self, alpn: Option<&[u8]>) -> Result<Arc<ClientConfig>, TlsError> {
        let key = alpn.map(<[u8]>::to_vec);
        if let Some(config) = self.configs.borrow().get(&key) {
            return Ok(config.clone());
        }
        let config = listener_tls::to_targets(alpn)?;
        self.configs.borrow_mut().insert(key, config.clone());
        Ok(config)
    }
}

/// Targets that are tried for one connection.
const TRIES: usize = 3;
