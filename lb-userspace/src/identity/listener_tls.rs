//! TLS that ends at a load balancer's listener, and TLS that begins at one, to targets.
//!
//! A listener's policy, certificates and ALPN policy become rustls configurations once; each hello then picks one.

use std::{sync::Arc, time::SystemTime};

use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs as crypto},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{ClientHello, NoServerSessionStorage, ProducesTickets},
};

use super::{certificate_choice::Certificates, tls::TlsError, tls_policy::TlsPolicy};
use crate::{model::id::TimestampMs, snapshot::gateway::RoleCertificate};

/// A listener's TLS, ready for handshakes.
pub struct ListenerTls {
    plain: Arc<ServerConfig>,
    /// For clients that name one of its protocols.
    negotiated: Option<Arc<ServerConfig>>,
}

/// What makes a session resumable: kept by who builds a listener's TLS, so that a new certificate ends no session.
pub type Tickets = Arc<dyn ProducesTickets>;

/// New keys for tickets. They change by themselves, and a ticket is good for twelve hours.
///
/// # Errors
/// When the system has no randomness.
pub fn tickets() -> Result<Tickets, TlsError> {
    Ok(crypto::Ticketer::new()?)
}

impl ListenerTls {
    /// Prepares a listener. The first certificate is the default; `alpn` are protocols by falling preference.
    ///
    /// # Errors
    /// When there is no certificate, or one cannot be used.
    pub fn new<'a>(
        policy: &TlsPolicy,
        certificates: impl IntoIterator<Item = &'a RoleCertificate>,
        alpn: &[&[u8]],
        tickets: Tickets,
    ) -> Result<Self, TlsError> {
        let certificates = Certificates::read(certificates, now)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(policy.provider()))
            .with_protocol_versions(&policy.versions())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificates));
        config.ignore_client_order = true;
        // Tickets hold all: any worker resumes what another began.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = tickets;
        config.max_early_data_size = 0;
        let negotiated = (!alpn.is_empty()).then(|| {
            let mut config = config.clone();
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        });
        Ok(Self { plain: Arc::new(config), negotiated })
    }

    /// The configuration for a client. "If the client supports a protocol from the ALPN policy, the load balancer
    /// establishes the connection based on the preference order of the ALPN policy. Otherwise, the load balancer does
    /// not use ALPN."
    pub fn config(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let shared = |config: &&Arc<ServerConfig>| {
            let is_ours = |offered: &[u8]| config.alpn_protocols.iter().any(|own| own == offered);
            hello.alpn().is_some_and(|mut offered| offered.any(is_ours))
        };
        self.negotiated.as_ref().filter(shared).unwrap_or(&self.plain).clone()
    }
}

/// The protocols of an ALPN policy by falling preference; `None` for a policy that AWS does not have.
pub fn alpn_protocols(policy: &str) -> Option<&'static [&'static [u8]]> {
    Some(match policy {
        "HTTP1Only" => &[b"http/1.1", b"http/1.0"],
        "HTTP2Only" => &[b"h2"],
        "HTTP2Optional" => &[b"http/1.1", b"http/1.0", b"h2"],
        "HTTP2Preferred" => &[b"h2", b"http/1.1", b"http/1.0"],
        "None" => &[],
        _ => return None,
    })
}

/// To targets. As AWS's load balancers, which verify no target's certificate: whoever may answer at the target's
/// address is the target. `alpn` is what the client agreed on, so that both ends speak the same.
///
/// # Errors
/// When rustls has no such versions.
pub fn to_targets(alpn: Option<&[u8]>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(crypto::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Arc::new(config))
}

/// Accepts whatever a target shows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // A signature by a key that nobody vouches for proves nothing; checking it would only refuse old certificates.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn now() -> TimestampMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Sessions with targets that may be resumed; a group has a thousand targets at most.
const SESSIONS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tls_policy;
    use rustls::{ClientConnection, ProtocolVersion, ServerConnection, server::Acceptor, version::TLS12};

    fn certificate() -> RoleCertificate {
        let issued = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        RoleCertificate { chain_pem: issued.cert.pem(), key_pem: issued.signing_key.serialize_pem() }
    }

    fn listener(policy: &str, alpn: &str) -> ListenerTls {
        let policy = tls_policy::find(policy).unwrap();
        ListenerTls::new(policy, [&certificate()], alpn_protocols(alpn).unwrap(), tickets().unwrap()).unwrap()
    }

    /// Shakes hands in memory; answers the client's and the server's end.
    fn shake(
        listener: &ListenerTls,
        client: Arc<ClientConfig>,
    ) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
        let mut client = ClientConnection::new(client, "a.test".try_into().unwrap()).unwrap();
        let mut acceptor = Acceptor::default();
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        acceptor.read_tls(&mut wire.as_slice()).unwrap();
        let accepted = acceptor.accept().map_err(|(error, _)| error)?.unwrap();
        let config = listener.config(&accepted.client_hello());
        let mut server = accepted.into_connection(config).map_err(|(error, _)| error)?;
        while client.is_handshaking() || server.is_handshaking() || server.wants_write() {
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while !wire.is_empty() {
                server.read_tls(&mut wire).unwrap();
                server.process_new_packets()?;
            }
        }
        Ok((client, server))
    }

    fn client(alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&to_targets(None).unwrap());
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    #[test]
    fn an_alpn_policy_prefers_and_without_a_common_protocol_there_is_none() {
        for (policy, offered, agreed) in [
            ("HTTP2Preferred", &["http/1.1", "h2"][..], Some("h2")),
            ("HTTP2Optional", &["h2", "http/1.1"], Some("http/1.1")),
            ("HTTP2Optional", &["h2"], Some("h2")),
            ("HTTP1Only", &["h2", "http/1.1"], Some("http/1.1")),
            ("HTTP1Only", &["h2"], None),
            ("HTTP2Only", &["http/1.1"], None),
            ("HTTP2Only", &[], None),
            ("None", &["h2"], None),
        ] {
            let (client, _) = shake(&listener(tls_policy::DEFAULT, policy), client(offered)).unwrap();
            assert_eq!(client.alpn_protocol(), agreed.map(str::as_bytes), "{policy} {offered:?}");
        }
        assert_eq!(alpn_protocols("HTTP3Only"), None);
    }

    #[test]
    fn a_policy_decides_which_versions_are_spoken() {
        let listener = listener("ELBSecurityPolicy-TLS13-1-3-2021-06", "None");
        let (client, _) = shake(&listener, client(&[])).unwrap();
        assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let mut old = ClientConfig::builder_with_provider(Arc::new(crypto::default_provider()))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        old.resumption = Resumption::disabled();
        assert!(shake(&listener, Arc::new(old)).is_err());
    }

    #[test]
    fn a_session_outlives_a_change_of_certificates() {
        let policy = tls_policy::find(tls_policy::DEFAULT).unwrap();
        let tickets = tickets().unwrap();
        let listener = || ListenerTls::new(policy, [&certificate()], &[], tickets.clone()).unwrap();
        let client = to_targets(None).unwrap();
        let kind = |shaken: (ClientConnection, ServerConnection)| shaken.0.handshake_kind();
        let first = shake(&listener(), client.clone()).unwrap();
        assert_eq!(kind(first), Some(rustls::HandshakeKind::Full));
        let second = shake(&listener(), client).unwrap();
        assert_eq!(kind(second), Some(rustls::HandshakeKind::Resumed));
    }
}
