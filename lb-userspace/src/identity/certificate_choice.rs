//! Which of a listener's certificates a client is shown.
//!
//! AWS's order among those that the server name matches and the client can verify: "Public key algorithm (prefer ECDSA
//! over RSA), Expiration (prefer not expired), Hashing algorithm (prefer SHA over MD5), Key length (prefer the largest),
//! Validity period". Without a server name, or without a match, it is the default certificate.

use std::sync::Arc;

use rustls::{
    CipherSuite, SignatureScheme,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::{
    extensions::GeneralName, prelude::FromDer, prelude::X509Certificate, public_key::PublicKey,
};

use super::tls::{self, TlsError};
use crate::{model::id::TimestampMs, snapshot::gateway::RoleCertificate};

/// A listener's certificates, ready to be chosen from.
#[derive(Debug)]
pub struct Certificates {
    default: Arc<CertifiedKey>,
    /// All, the default included, the preferred first.
    ranked: Vec<Candidate>,
    clock: fn() -> TimestampMs,
}

impl Certificates {
    /// Reads certificates with their keys; the first is the default.
    ///
    /// # Errors
    /// When there is none, or one cannot be used.
    pub fn read<'a>(
        certificates: impl IntoIterator<Item = &'a RoleCertificate>,
        clock: fn() -> TimestampMs,
    ) -> Result<Self, TlsError> {
        let mut ranked = certificates
            .into_iter()
            .map(|certificate| Candidate::of(tls::certified(certificate)?))
            .collect::<Result<Vec<_>, _>>()?;
        let default = ranked.first().ok_or(TlsError::Certificate)?.key.clone();
        ranked.sort_by_key(|candidate| std::cmp::Reverse(candidate.facts.rank()));
        Ok(Self { default, ranked, clock })
    }

    fn choose(&self, name: Option<&str>, client: &Abilities<'_>, now: TimestampMs) -> &Arc<CertifiedKey> {
        let Some(name) = name else { return &self.default };
        let fitting = || {
            let fits = |candidate: &&Candidate| candidate.matches(name) && client.verifies(candidate);
            self.ranked.iter().filter(fits)
        };
        let Some(first) = fitting().next() else { return &self.default };
        // An expired ECDSA certificate still goes before a valid RSA one.
        let mut alike = fitting().take_while(|other| other.facts.algorithm == first.facts.algorithm);
        let valid = alike.find(|candidate| candidate.facts.not_after > now);
        &valid.unwrap_or(first).key
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let client = Abilities { schemes: hello.signature_schemes(), suites: hello.cipher_suites() };
        Some(self.choose(hello.server_name(), &client, (self.clock)()).clone())
    }
}

/// What a client's hello says about the certificates that it can verify.
struct Abilities<'a> {
    schemes: &'a [SignatureScheme],
    suites: &'a [CipherSuite],
}

impl Abilities<'_> {
    fn verifies(&self, candidate: &Candidate) -> bool {
        // Suites of TLS 1.3 do not name the signature; those of TLS 1.2 do, and OpenSSL lists schemes that they leave out.
        let word = match candidate.facts.algorithm {
            Algorithm::Ecdsa => "_ECDSA_",
            Algorithm::Rsa => "_RSA_",
        };
        let fits = |suite: &CipherSuite| {
            suite.as_str().is_some_and(|name| name.starts_with("TLS13_") || name.contains(word))
        };
        candidate.key.key.choose_scheme(self.schemes).is_some() && self.suites.iter().any(fits)
    }
}

/// Of a public key, the preferred last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Rsa,
    /// And Ed25519.
    Ecdsa,
}

/// What the order is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    algorithm: Algorithm,
    /// Bits of the signature's hash.
    hash: u16,
    /// Of the key.
    bits: usize,
    not_before: TimestampMs,
    not_after: TimestampMs,
}

impl Facts {
    /// Greater is better; whether it has expired depends on the time and is looked at when choosing.
    fn rank(&self) -> impl Ord + use<> {
        (self.algorithm, self.hash, self.bits, self.not_after.saturating_sub(self.not_before))
    }
}

#[derive(Debug)]
struct Candidate {
    key: Arc<CertifiedKey>,
    facts: Facts,
    /// Lower case.
    names: Vec<String>,
}

impl Candidate {
    fn of(key: CertifiedKey) -> Result<Self, TlsError> {
        let leaf = key.end_entity_cert().map_err(|_| TlsError::Certificate)?;
        let (facts, names) = read(leaf).ok_or(TlsError::Certificate)?;
        Ok(Self { key: Arc::new(key), facts, names })
    }

    /// Whether a server name is one of its names, or falls under a wildcard, which stands for one whole label.
    fn matches(&self, server: &str) -> bool {
        let server = server.to_ascii_lowercase();
        self.names.iter().any(|own| match own.strip_prefix("*.") {
            None => *own == server,
            Some(parent) => {
                server.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent)
            }
        })
    }
}

fn read(leaf: &CertificateDer<'_>) -> Option<(Facts, Vec<String>)> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let key = leaf.public_key().parsed().ok();
    let (algorithm, bits) = match &key {
        Some(PublicKey::RSA(key)) => (Algorithm::Rsa, key.key_size()),
        Some(PublicKey::EC(key)) => (Algorithm::Ecdsa, key.key_size()),
        // Ed25519.
        _ => (Algorithm::Ecdsa, 256),
    };
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
    let facts = Facts {
        algorithm,
        hash: hash_bits(&leaf),
        bits,
        not_before: millis(leaf.validity().not_before.timestamp()),
        not_after: millis(leaf.validity().not_after.timestamp()),
    };
    let mut names: Vec<String> = match leaf.subject_alternative_name() {
        Ok(Some(extension)) => extension
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    if names.is_empty() {
        // As acm's DomainName: old certificates have their name in the subject alone.
        let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        names.extend(common.map(str::to_ascii_lowercase));
    }
    Some((facts, names))
}

fn hash_bits(leaf: &X509Certificate<'_>) -> u16 {
    use x509_parser::oid_registry as oid;
    let algorithm = &leaf.signature_algorithm.algorithm;
    let known = [
        (oid::OID_PKCS1_SHA1WITHRSA, 160),
        (oid::OID_PKCS1_SHA256WITHRSA, 256),
        (oid::OID_SIG_ECDSA_WITH_SHA256, 256),
        (oid::OID_PKCS1_SHA384WITHRSA, 384),
        (oid::OID_SIG_ECDSA_WITH_SHA384, 384),
        (oid::OID_PKCS1_SHA512WITHRSA, 512),
        (oid::OID_SIG_ECDSA_WITH_SHA512, 512),
        (oid::OID_SIG_ED25519, 512),
    ];
    known.iter().find(|(oid, _)| oid == algorithm).map_or(0, |(_, bits)| *bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
    };

    const NOW: TimestampMs = 1_800_000_000_000;
    const MODERN: &[CipherSuite] = &[CipherSuite::TLS13_AES_128_GCM_SHA256];
    const BOTH: Abilities<'_> = Abilities {
        schemes: &[
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
        ],
        suites: MODERN,
    };
    const RSA: Abilities<'_> = Abilities { schemes: &[SignatureScheme::RSA_PSS_SHA256], suites: MODERN };

    fn issue(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm, until: i32) -> RoleCertificate {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        RoleCertificate { chain_pem: params.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() }
    }

    fn of(certificates: &[&RoleCertificate]) -> Certificates {
        Certificates::read(certificates.iter().copied(), || NOW).unwrap()
    }

    /// Which of the certificates a client gets.
    fn chosen(certificates: &[&RoleCertificate], name: Option<&str>, client: Abilities<'_>) -> usize {
        let all = of(certificates);
        let chosen = all.choose(name, &client, NOW).end_entity_cert().unwrap().clone();
        certificates
            .iter()
            .position(|certificate| tls::chain(&certificate.chain_pem).unwrap()[0] == chosen)
            .unwrap()
    }

    #[test]
    fn a_name_finds_its_certificate_and_others_get_the_default() {
        let a = issue(&["a.test"], &PKCS_ECDSA_P256_SHA256, 2100);
        let wild = issue(&["*.b.test", "b.test"], &PKCS_ECDSA_P256_SHA256, 2100);
        let all = [&a, &wild];
        for (name, expected) in [
            (None, 0),
            (Some("a.test"), 0),
            (Some("A.Test"), 0),
            (Some("b.test"), 1),
            (Some("x.B.test"), 1),
            (Some("x.y.b.test"), 0),
            (Some("nobody.test"), 0),
        ] {
            assert_eq!(chosen(&all, name, BOTH), expected, "{name:?}");
        }
    }

    #[test]
    fn ecdsa_goes_before_rsa_for_clients_that_verify_it() {
        let rsa = issue(&["a.test"], &PKCS_RSA_SHA256, 2100);
        let ecdsa = issue(&["a.test"], &PKCS_ECDSA_P256_SHA256, 2090);
        let all = [&rsa, &ecdsa];
        assert_eq!(chosen(&all, Some("a.test"), BOTH), 1);
        assert_eq!(chosen(&all, Some("a.test"), RSA), 0);
        // Nothing fits: the default, and the handshake says the rest.
        assert_eq!(chosen(&[&ecdsa], Some("a.test"), RSA), 0);
    }

    #[test]
    fn among_equals_the_valid_then_the_longer_key_then_the_longer_life() {
        let short = issue(&["a.test"], &PKCS_ECDSA_P256_SHA256, 2090);
        let long = issue(&["a.test"], &PKCS_ECDSA_P256_SHA256, 2100);
        let strong = issue(&["a.test"], &PKCS_ECDSA_P384_SHA384, 2080);
        let expired = issue(&["a.test"], &PKCS_ECDSA_P384_SHA384, 2021);
        assert_eq!(chosen(&[&short, &long], Some("a.test"), BOTH), 1);
        assert_eq!(chosen(&[&short, &long, &strong], Some("a.test"), BOTH), 2);
        assert_eq!(chosen(&[&short, &expired], Some("a.test"), BOTH), 0);
        assert_eq!(chosen(&[&expired], Some("a.test"), BOTH), 0, "better than none");
    }

    #[test]
    fn a_client_whose_suites_leave_ecdsa_out_gets_rsa() {
        let rsa = issue(&["a.test"], &PKCS_RSA_SHA256, 2100);
        let ecdsa = issue(&["a.test"], &PKCS_ECDSA_P256_SHA256, 2100);
        let suites = &[CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        let client = Abilities { schemes: BOTH.schemes, suites };
        assert_eq!(chosen(&[&ecdsa, &rsa], Some("a.test"), client), 1);
    }

    #[test]
    fn a_curve_that_the_client_does_not_know_is_not_shown() {
        let strong = issue(&["a.test"], &PKCS_ECDSA_P384_SHA384, 2100);
        let usual = issue(&["a.test"], &PKCS_ECDSA_P256_SHA256, 2100);
        let client = Abilities { schemes: &[SignatureScheme::ECDSA_NISTP256_SHA256], suites: MODERN };
        assert_eq!(chosen(&[&strong, &usual], Some("a.test"), client), 1);
    }

    #[test]
    fn no_certificate_or_one_without_its_key_is_an_error() {
        assert!(matches!(Certificates::read([], || NOW), Err(TlsError::Certificate)));
        let (a, b) =
            (issue(&["a"], &PKCS_ECDSA_P256_SHA256, 2100), issue(&["b"], &PKCS_ECDSA_P256_SHA256, 2100));
        let mixed = RoleCertificate { chain_pem: a.chain_pem, key_pem: b.key_pem };
        assert!(Certificates::read([&mixed], || NOW).is_err());
    }
}
