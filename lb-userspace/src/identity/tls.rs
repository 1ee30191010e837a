//! rustls configurations: what clients meet at the front door, and what a gateway and a link agent show each other.
//!
//! Between gateway and link: TLS 1.3 only, AES-GCM only, certificates both ways, no tickets and no early data, so
//! that nothing can be replayed. Host names mean nothing there; the one URI in the leaf does.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, InconsistentKeys, RootCertStore, ServerConfig,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs as crypto},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::name::{RoleKind, RoleName};
use crate::{model::id::VpcLinkId, snapshot::gateway::RoleCertificate};

/// ALPN of the one control connection between an agent and a gateway.
pub const ALPN_CONTROL: &[u8] = b"gatehouse-control/1";
/// ALPN of a lane.
pub const ALPN_LANE: &[u8] = b"gatehouse-lane/1";

/// Why certificates do not make a TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or no certificate in it.
    #[error("certificate is not readable")]
    Certificate,
    /// Not PEM, or not a private key that fits.
    #[error("private key is not readable")]
    Key,
    /// The leaf does not name a role where one is needed.
    #[error("the certificate does not name a role")]
    NotARole,
    /// rustls does not take it.
    #[error("TLS configuration")]
    Config(#[from] rustls::Error),
    /// The root is not usable to verify clients with.
    #[error("identity root is not usable")]
    Root,
}

/// The front door for clients: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
///
/// # Errors
/// When the certificate or its key cannot be used.
pub fn front_door(certificate: &RoleCertificate) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(role(certificate)?)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A gateway's side of lanes and control connections: accepts links of its own appliance.
///
/// # Errors
/// When the certificate is not a gateway's, or cannot be used.
pub fn lane_server(certificate: &RoleCertificate, root_pem: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let own = role_of(certificate)?;
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(root_pem)?), provider())
        .build()
        .map_err(|_| TlsError::Root)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(LinkVerifier { inner, appliance: own.appliance }))
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(role(certificate)?)));
    config.alpn_protocols = vec![ALPN_CONTROL.to_vec(), ALPN_LANE.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// A link agent's side of lanes or control connections to the gateway of that name.
///
/// # Errors
/// When the certificate is not a role's, or cannot be used.
pub fn lane_client(
    certificate: &RoleCertificate,
    root_pem: &str,
    gateway: &str,
    alpn: &[u8],
) -> Result<Arc<ClientConfig>, TlsError> {
    let own = role_of(certificate)?;
    let verifier = GatewayVerifier {
        roots: roots(root_pem)?,
        expected: RoleName::gateway(&own.appliance, gateway),
        provider: provider(),
    };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(role(certificate)?)));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// The link that a verified peer of a lane is.
pub fn link_of(peer: Option<&[CertificateDer<'_>]>) -> Option<VpcLinkId> {
    match RoleName::of_certificate(peer?.first()?)?.role {
        RoleKind::VpcLink(link) => Some(link),
        RoleKind::Gateway(_) => None,
    }
}

/// The certificates of a PEM text, at least one, leaf first.
///
/// # Errors
/// When it is not PEM or holds none.
pub fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| TlsError::Certificate)?;
    if chain.is_empty() { Err(TlsError::Certificate) } else { Ok(chain) }
}

/// A store that trusts the certificates of a PEM text.
///
/// # Errors
/// When it is not PEM, or one cannot be a root.
pub fn roots(pem: &str) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for root in chain(pem)? {
        store.add(root)?;
    }
    Ok(store)
}

/// Cryptography between roles: AES-GCM only, which the CPUs we run on have in hardware.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            crypto::cipher_suite::TLS13_AES_128_GCM_SHA256,
            crypto::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        ..crypto::default_provider()
    })
}

fn role_of(certificate: &RoleCertificate) -> Result<RoleName, TlsError> {
    let chain = chain(&certificate.chain_pem)?;
    chain.first().and_then(|leaf| RoleName::of_certificate(leaf)).ok_or(TlsError::NotARole)
}

/// Leaf and key. Our CAs sign leaves directly, so what follows the leaf is the root, which the peer has or does not
/// trust: it is not sent.
fn role(certificate: &RoleCertificate) -> Result<CertifiedKey, TlsError> {
    let mut own = certified(certificate)?;
    own.cert.truncate(1);
    Ok(own)
}

/// A chain and its key, which fit each other.
pub(super) fn certified(certificate: &RoleCertificate) -> Result<CertifiedKey, TlsError> {
    let chain = chain(&certificate.chain_pem)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).map_err(|_| TlsError::Key)?;
    let key = crypto::sign::any_supported_type(&key).map_err(|_| TlsError::Key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Err(error @ rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(error.into()),
        // Certificates of other forms than webpki reads are the client's to judge.
        _ => Ok(certified),
    }
}

/// Accepts what chains to the identity CA and names a link of this appliance.
#[derive(Debug)]
struct LinkVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    appliance: String,
}

impl ClientCertVerifier for LinkVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        let name = RoleName::of_certificate(end_entity).ok_or_else(not_this_peer)?;
        if name.appliance != self.appliance || !matches!(name.role, RoleKind::VpcLink(_)) {
            return Err(not_this_peer());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts what chains to the identity CA and names exactly the gateway that was dialled.
#[derive(Debug)]
struct GatewayVerifier {
    roots: RootCertStore,
    expected: RoleName,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for GatewayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        // An agent dials an address; who answers is proven by the URI, not by a host name.
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        if RoleName::of_certificate(end_entity).as_ref() != Some(&self.expected) {
            return Err(not_this_peer());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn not_this_peer() -> rustls::Error {
    rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::authority::{Authorities, FrontDoorNames};
    use std::time::{SystemTime, UNIX_EPOCH};

    fn authorities() -> (Authorities, u64) {
        let directory = tempfile::tempdir().unwrap();
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let names = FrontDoorNames { domain_suffix: "amazonaws.com".to_owned(), ..Default::default() };
        (Authorities::open(directory.path(), &names, now).unwrap(), now)
    }

    /// Runs a handshake in memory; answers what the server learned of its peer.
    fn shake(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
    ) -> Result<Option<VpcLinkId>, rustls::Error> {
        let name = ServerName::try_from("lanes.gatehouse").unwrap();
        let mut client = rustls::ClientConnection::new(client, name).unwrap();
        let mut server = rustls::ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        Ok(link_of(server.peer_certificates()))
    }

    #[test]
    fn a_link_and_the_gateway_it_dialled_know_each_other() {
        let (ca, now) = authorities();
        let gateway = ca.identity.issue_role(&RoleName::gateway("lab", "gw"), now).unwrap();
        let link = VpcLinkId::from("abc123");
        let agent = ca.identity.issue_role(&RoleName::vpc_link("lab", &link), now).unwrap();
        let root = ca.identity.root_pem();
        let server = lane_server(&gateway, root).unwrap();
        let client = lane_client(&agent, root, "gw", ALPN_LANE).unwrap();
        assert_eq!(shake(client, server).unwrap(), Some(link));
    }

    #[test]
    fn another_gateway_another_appliance_and_another_ca_are_refused() {
        let (ca, now) = authorities();
        let (foreign, _) = authorities();
        let root = ca.identity.root_pem();
        let link = VpcLinkId::from("abc123");
        let gateway = ca.identity.issue_role(&RoleName::gateway("lab", "gw"), now).unwrap();
        let agent = ca.identity.issue_role(&RoleName::vpc_link("lab", &link), now).unwrap();
        let server = || lane_server(&gateway, root).unwrap();
        let wrong_gateway = lane_client(&agent, root, "gw-2", ALPN_LANE).unwrap();
        assert!(shake(wrong_gateway, server()).is_err());
        let other_appliance = ca.identity.issue_role(&RoleName::vpc_link("other", &link), now).unwrap();
        assert!(shake(lane_client(&other_appliance, root, "gw", ALPN_LANE).unwrap(), server()).is_err());
        let gateway_as_agent = lane_client(&gateway, root, "gw", ALPN_LANE).unwrap();
        assert!(shake(gateway_as_agent, server()).is_err());
        let stranger = foreign.identity.issue_role(&RoleName::vpc_link("lab", &link), now).unwrap();
        assert!(shake(lane_client(&stranger, root, "gw", ALPN_LANE).unwrap(), server()).is_err());
        let foreign_root = foreign.identity.root_pem();
        assert!(shake(lane_client(&agent, foreign_root, "gw", ALPN_LANE).unwrap(), server()).is_err());
    }

    #[test]
    fn an_expired_link_is_refused() {
        let (ca, now) = authorities();
        let root = ca.identity.root_pem();
        let gateway = ca.identity.issue_role(&RoleName::gateway("lab", "gw"), now).unwrap();
        let long_ago = now - 40 * 86_400_000;
        let name = RoleName::vpc_link("lab", &VpcLinkId::from("abc123"));
        let agent = ca.identity.issue_role(&name, long_ago).unwrap();
        let client = lane_client(&agent, root, "gw", ALPN_LANE).unwrap();
        assert!(shake(client, lane_server(&gateway, root).unwrap()).is_err());
    }

    #[test]
    fn the_front_door_offers_both_versions_of_http() {
        let (ca, now) = authorities();
        let hosts = ["localhost".to_owned()].into();
        let leaf = ca.front_door.issue_server(&hosts, &[], now).unwrap();
        assert_eq!(front_door(&leaf).unwrap().alpn_protocols, [&b"h2"[..], b"http/1.1"]);
        let (other, _) = authorities();
        let mismatch = RoleCertificate {
            key_pem: other.front_door.issue_server(&hosts, &[], now).unwrap().key_pem,
            ..leaf
        };
        assert!(front_door(&mismatch).is_err());
    }
}
