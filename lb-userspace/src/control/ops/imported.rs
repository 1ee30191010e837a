//! acm: what a client imports, read: does the key fit the certificate, and what does the certificate say.

use rustls::{
    Error, InconsistentKeys,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{
    extensions::GeneralName, oid_registry, parse_x509_certificate, prelude::X509Certificate,
    public_key::PublicKey,
};

use super::ApiError;

/// What a certificate says, as acm's answers have it.
pub(super) struct Facts {
    /// The subject's common name, else the first DNS name.
    pub(super) domain_name: String,
    /// DNS names.
    pub(super) names: Vec<String>,
    /// Seconds since the Unix epoch.
    pub(super) not_before_s: i64,
    /// Seconds since the Unix epoch.
    pub(super) not_after_s: i64,
    /// `01:ab:…`.
    pub(super) serial: String,
    /// `CN=…, O=…`.
    pub(super) subject: String,
    /// The issuer's common name.
    pub(super) issuer: String,
    /// `RSA_2048`, `EC_prime256v1`, …
    pub(super) key_algorithm: String,
    /// `SHA256WITHRSA`, …
    pub(super) signature_algorithm: String,
}

/// Checks that a key is one, and the certificate's, and that the chain holds certificates.
///
/// # Errors
/// A validation error that says which of the three is wrong.
pub(super) fn check(certificate: &str, key: &str, chain: Option<&str>) -> Result<(), ApiError> {
    let leaf = leaf(certificate)?;
    if let Some(chain) = chain {
        let certificates = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let is_readable = |der: &CertificateDer<'_>| parse_x509_certificate(der).is_ok();
        if !certificates.is_ok_and(|chain| !chain.is_empty() && chain.iter().all(is_readable)) {
            return Err(ApiError::validation("The certificate chain is not in a valid PEM format"));
        }
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| {
        ApiError::validation("The private key is not in a valid PEM format, or it is encrypted")
    })?;
    let key = default_provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| ApiError::validation("The private key is of a kind or size that is not supported"))?;
    match CertifiedKey::new(vec![leaf], key).keys_match() {
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(ApiError::validation("The private key does not match the certificate's public key"))
        }
        _ => Ok(()),
    }
}

/// Reads a certificate.
///
/// # Errors
/// A validation error when it is not one.
pub(super) fn facts(certificate: &str) -> Result<Facts, ApiError> {
    let der = leaf(certificate)?;
    let (_, parsed) = parse_x509_certificate(&der).map_err(|_| unreadable())?;
    let names: Vec<String> = match parsed.subject_alternative_name() {
        Ok(Some(extension)) => extension
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let common_name = |name: &x509_parser::x509::X509Name<'_>| {
        name.iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned)
    };
    let domain_name = common_name(parsed.subject()).or_else(|| names.first().cloned()).unwrap_or_default();
    Ok(Facts {
        domain_name,
        names,
        not_before_s: parsed.validity().not_before.timestamp(),
        not_after_s: parsed.validity().not_after.timestamp(),
        serial: parsed.raw_serial_as_string(),
        subject: parsed.subject().to_string(),
        issuer: common_name(parsed.issuer()).unwrap_or_else(|| parsed.issuer().to_string()),
        key_algorithm: key_algorithm(&parsed),
        signature_algorithm: signature_algorithm(&parsed).to_owned(),
    })
}

fn leaf(certificate: &str) -> Result<CertificateDer<'static>, ApiError> {
    let mut certificates = CertificateDer::pem_slice_iter(certificate.as_bytes());
    let Some(Ok(leaf)) = certificates.next() else { return Err(unreadable()) };
    if certificates.next().is_some() {
        return Err(ApiError::validation(
            "The certificate field contains more than one certificate. You can specify only one certificate in this \
             field.",
        ));
    }
    Ok(leaf)
}

fn unreadable() -> ApiError {
    ApiError::validation("The certificate is not in a valid PEM format")
}

fn key_algorithm(certificate: &X509Certificate<'_>) -> String {
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA_{}", key.key_size()),
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            let name = match curve {
                Some(curve) if curve == oid_registry::OID_EC_P256 => "prime256v1",
                Some(curve) if curve == oid_registry::OID_NIST_EC_P384 => "secp384r1",
                Some(curve) if curve == oid_registry::OID_NIST_EC_P521 => "secp521r1",
                _ => "unknown",
            };
            format!("EC_{name}")
        }
        _ => "UNKNOWN".to_owned(),
    }
}

fn signature_algorithm(certificate: &X509Certificate<'_>) -> &'static str {
    let algorithm = &certificate.signature_algorithm.algorithm;
    let known = [
        (oid_registry::OID_PKCS1_SHA1WITHRSA, "SHA1WITHRSA"),
        (oid_registry::OID_PKCS1_SHA256WITHRSA, "SHA256WITHRSA"),
        (oid_registry::OID_PKCS1_SHA384WITHRSA, "SHA384WITHRSA"),
        (oid_registry::OID_PKCS1_SHA512WITHRSA, "SHA512WITHRSA"),
        (oid_registry::OID_SIG_ECDSA_WITH_SHA256, "SHA256WITHECDSA"),
        (oid_registry::OID_SIG_ECDSA_WITH_SHA384, "SHA384WITHECDSA"),
        (oid_registry::OID_SIG_ECDSA_WITH_SHA512, "SHA512WITHECDSA"),
    ];
    known.iter().find(|(oid, _)| oid == algorithm).map_or("UNKNOWN", |(_, name)| name)
}
