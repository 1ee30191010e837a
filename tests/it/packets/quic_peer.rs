//! Both ends of QUIC: a server whose connection ids say who it is, and a client that changes its socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use lb_userspace::network::namespace::within;
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Runtime;

/// Bytes of a server id, as AWS's QuicServerId has them.
pub(crate) const SERVER_ID_LENGTH: u8 = 8;

/// A server's id as connection ids have it.
pub(crate) type ServerId = [u8; SERVER_ID_LENGTH as usize];

/// A server that answers every stream with its address.
pub(crate) fn serve_quic(namespace: &str, at: SocketAddr, own_id: ServerId) {
    let socket = within(namespace, || UdpSocket::bind(at)).unwrap().unwrap();
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(Ids(own_id)));
    let (certificate, key) = certificate();
    thread::spawn(move || {
        runtime().block_on(async move {
            let server = quinn::ServerConfig::with_single_cert(vec![certificate], key).unwrap();
            let endpoint = Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).unwrap();
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    // A handshake that is given up is no concern of a server.
                    let Ok(connection) = incoming.await else { return };
                    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                        if receive.read_to_end(1 << 10).await.is_err() {
                            return;
                        }
                        let _ = send.write_all(at.ip().to_string().as_bytes()).await;
                        let _ = send.finish();
                    }
                });
            }
        });
    });
}

/// A client that trusts every server of these tests.
pub(crate) struct Client {
    runtime: Runtime,
    endpoint: Endpoint,
}

impl Client {
    pub(crate) fn new(namespace: &str, to: SocketAddr) -> Self {
        let runtime = runtime();
        let socket = socket(namespace, to.ip());
        let endpoint = runtime.block_on(async {
            let mut endpoint =
                Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).unwrap();
            endpoint.set_default_client_config(client_config());
            endpoint
        });
        Self { runtime, endpoint }
    }

    pub(crate) fn connect(&self, to: SocketAddr) -> anyhow::Result<quinn::Connection> {
        self.runtime.block_on(async { self.endpoint.connect(to, NAME)?.await.map_err(anyhow::Error::from) })
    }

    /// Who answers a stream of a connection.
    pub(crate) fn ask(&self, connection: &quinn::Connection) -> anyhow::Result<IpAddr> {
        self.runtime.block_on(async {
            let (mut send, mut receive) = connection.open_bi().await?;
            send.write_all(b"who?").await?;
            send.finish()?;
            let answer = tokio::time::timeout(PATIENCE, receive.read_to_end(1 << 10)).await??;
            Ok(std::str::from_utf8(&answer)?.parse()?)
        })
    }

    /// From here on its packets come from a new socket in a namespace.
    pub(crate) fn move_to(&self, namespace: &str) {
        let family = self.endpoint.local_addr().unwrap().ip();
        let socket = socket(namespace, family);
        self.runtime.block_on(async { self.endpoint.rebind(socket) }).unwrap();
    }
}

/// Ids as QUIC-LB has them in plain text: a byte of configuration, the server's id, and what makes each another.
struct Ids(ServerId);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = vec![0];
        id.extend(self.0);
        id.extend(NONCE.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        1 + self.0.len() + size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn client_config() -> quinn::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate().0).unwrap();
    let mut config = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(PATIENCE).unwrap()));
    config.transport_config(Arc::new(transport));
    config
}

fn socket(namespace: &str, family: IpAddr) -> UdpSocket {
    let any: IpAddr = if family.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0_u16; 8].into() };
    within(namespace, || UdpSocket::bind((any, 0))).unwrap().unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// All servers': made once, and trusted by all clients.
fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    static MADE: std::sync::OnceLock<(CertificateDer<'static>, Vec<u8>)> = std::sync::OnceLock::new();
    let (certificate, key) = MADE.get_or_init(|| {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        (made.der().clone(), key.serialize_der())
    });
    (certificate.clone(), PrivateKeyDer::try_from(key.clone()).unwrap())
}

static NONCE: AtomicU64 = AtomicU64::new(1);
const NAME: &str = "quic.test";
/// Longer than a lost packet or two take to be repeated.
const PATIENCE: Duration = Duration::from_secs(4);
