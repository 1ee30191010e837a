//! Certificates: those imported through ACM's API, and the leaves that control issues.

use serde::{Deserialize, Serialize};

use super::{
    id::{Arn, TimestampMs},
    network::Tags,
};

/// A certificate imported through ACM's API.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// `arn:aws:acm:<region>:<account>:certificate/<uuid>`.
    pub arn: Arn,
    /// The leaf, PEM.
    pub certificate_pem: String,
    /// The chain, PEM, possibly empty.
    pub chain_pem: String,
    /// The private key, sealed with the control key file.
    pub sealed_key: Sealed,
    /// Subject common name, or the first DNS name.
    pub domain_name: String,
    /// DNS names.
    pub subject_alternative_names: Vec<String>,
    /// End of validity.
    pub not_after: TimestampMs,
    /// When it was imported.
    pub imported_at: TimestampMs,
    /// Its tags.
    pub tags: Tags,
}

/// A leaf certificate that control issued: to a role (identity CA), or for a public name (front-door CA).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedCertificate {
    /// What it is for: `front-door`, `gateway`, `link/<id>`.
    pub subject: String,
    /// Leaf and chain, PEM.
    pub chain_pem: String,
    /// Its private key, sealed with the control key file.
    pub sealed_key: Sealed,
    /// End of validity.
    pub not_after: TimestampMs,
}

/// A secret sealed with AES-256-GCM under the control key file: base64 of nonce, ciphertext and tag.
/// Has no `Debug`, so that it cannot reach a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);
