//! Clients and targets, over TCP and TLS: blocking sockets, nothing hidden.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use lb_userspace::{
    identity::{listener_tls, tls},
    snapshot::gateway::RoleCertificate,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use socket2::SockRef;

use super::stage::SOON;

/// A client behind TLS.
pub(super) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A self-signed certificate for these names.
pub(super) fn certificate(names: &[&str]) -> RoleCertificate {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let issued = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    RoleCertificate { chain_pem: issued.pem(), key_pem: key.serialize_pem() }
}

/// The leaf of a certificate.
pub(super) fn leaf(certificate: &RoleCertificate) -> CertificateDer<'static> {
    tls::chain(&certificate.chain_pem).unwrap().remove(0)
}

/// Connects over TCP.
pub(super) fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects over TLS by a name, offering these protocols; any certificate will do.
pub(super) fn connect_tls(address: SocketAddr, name: &str, alpn: &[&str]) -> io::Result<Tls> {
    let mut config = ClientConfig::clone(&listener_tls::to_targets(None).unwrap());
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = connect(address)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// The certificate that a client was shown.
pub(super) fn shown(client: &Tls) -> CertificateDer<'static> {
    client.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

/// Sends bytes and reads as many back.
pub(super) fn echo(stream: &mut (impl Read + Write), bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    stream.flush()?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// Whether a connection has ended, gently or not; waits for it.
pub(super) fn ends(stream: &mut impl Read) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
    }
}

/// Makes closing a socket a RST.
pub(super) fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

/// A listening target.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    listener: TcpListener,
}

impl Target {
    /// Sends back what it gets.
    pub(super) fn echo(ip: Ipv4Addr) -> Self {
        Self::start(ip, copy)
    }

    /// Sends its name, then back what it gets.
    pub(super) fn named(ip: Ipv4Addr, name: &'static str) -> Self {
        Self::start(ip, move |mut stream| {
            let _ = stream.write_all(name.as_bytes());
            copy(stream);
        })
    }

    /// Shakes hands as a server that prefers these protocols, and does with each connection what `behave` says.
    pub(super) fn tls(
        ip: Ipv4Addr,
        alpn: &[&str],
        behave: impl Fn(StreamOwned<ServerConnection, TcpStream>) + Send + Sync + 'static,
    ) -> Self {
        Self::tls_on(TcpListener::bind((ip, 0)).unwrap(), alpn, behave)
    }

    /// As [`Self::tls`], on a socket that listens already.
    pub(super) fn tls_on(
        listener: TcpListener,
        alpn: &[&str],
        behave: impl Fn(StreamOwned<ServerConnection, TcpStream>) + Send + Sync + 'static,
    ) -> Self {
        let own = certificate(&["target.test"]);
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![leaf(&own)], key)
                .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let config = Arc::new(config);
        Self::on(listener, move |mut stream| {
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            while connection.is_handshaking() {
                if connection.complete_io(&mut stream).is_err() {
                    return;
                }
            }
            behave(StreamOwned::new(connection, stream));
        })
    }

    /// Does with each connection what `behave` says, in a thread for each.
    pub(super) fn start(ip: Ipv4Addr, behave: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind((ip, 0)).unwrap(), behave)
    }

    /// As [`Self::start`], on a socket that listens already, in whatever namespace.
    pub(super) fn on(listener: TcpListener, behave: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let target = Self { address, accepted: Arc::default(), listener: listener.try_clone().unwrap() };
        let (accepted, behave) = (target.accepted.clone(), Arc::new(behave));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                stream.set_nodelay(true).unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                let behave = behave.clone();
                thread::spawn(move || behave(stream));
            }
        });
        target
    }

    /// How many connections it got.
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Wakes the thread in accept, whatever namespace the socket is in.
        let _ = SockRef::from(&self.listener).shutdown(std::net::Shutdown::Both);
    }
}

/// Sends back what comes, until it ends.
pub(super) fn copy(mut stream: impl Read + Write) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        if stream.write_all(&chunk[..count]).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}
