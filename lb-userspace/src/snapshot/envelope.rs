//! Signed messages between control and roles.
//!
//! Control signs every update with a key apart from both certificate authorities; a role verifies before it believes,
//! and again when it starts from the copy it keeps on disk.

use std::fmt;

use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{delta, report::Report};
use crate::model::id::{VpcId, VpcLinkId};

/// Longest message either way, in bytes: a whole slice of 100,000 targets is about 30 MB.
pub const MAX_FRAME: usize = 64 * 1024 * 1024;

/// Who a slice is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleId {
    /// The supervisor of this host.
    Supervisor,
    /// The host role.
    Host,
    /// The gateway.
    Gateway,
    /// The node of a VPC.
    Node(VpcId),
    /// A VPC link.
    Link(VpcLinkId),
}

impl fmt::Display for RoleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Supervisor => f.write_str("supervisor"),
            Self::Host => f.write_str("host"),
            Self::Gateway => f.write_str("gateway"),
            Self::Node(vpc) => write!(f, "node-{vpc}"),
            Self::Link(link) => write!(f, "link-{link}"),
        }
    }
}

/// What a role sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToControl {
    /// First message: who it is, and which version it has.
    Hello {
        /// Who.
        role: RoleId,
        /// Generation and fingerprint of the slice it has.
        #[serde(default)]
        has: Option<Version>,
    },
    /// A fact.
    Report(Report),
    /// A patch did not fit: send the whole slice.
    Whole,
}

/// A version of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Rises with every published change of the state.
    pub generation: u64,
    /// [`delta::fingerprint`] of the whole slice.
    pub fingerprint: String,
}

/// A slice or what changed in it, as control sends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// What the role has after applying it, signed.
    pub statement: Statement,
    /// The slice or the patch. It needs no signature of its own: the statement's fingerprint covers the result.
    pub body: Body,
}

/// Control's word that this version of a role's slice is what it meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Who it is for: a role refuses another's.
    pub role: RoleId,
    /// The version.
    pub version: Version,
    /// Ed25519 over role, generation and fingerprint, base64.
    pub signature: String,
}

/// The content of an update.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The whole slice.
    Whole(Value),
    /// What changed since the version with this generation.
    Patch {
        /// The version it applies to.
        base: Version,
        /// A patch of [`delta::diff`].
        patch: Value,
    },
}

/// Why an update was not believed or did not fit.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Not signed by this appliance's control.
    #[error("signature does not verify")]
    Signature,
    /// Signed, but for another role.
    #[error("update is for {0}")]
    OtherRole(RoleId),
    /// Older than what the role has.
    #[error("generation {offered} is not newer than {has}")]
    Stale {
        /// The role's.
        has: u64,
        /// The update's.
        offered: u64,
    },
    /// A patch for a version that the role does not have, or whose result is not what control meant.
    #[error("patch does not fit the slice at hand")]
    DoesNotFit,
}

/// Control's signing key.
pub struct Signer(Ed25519KeyPair);

/// The key is not one: it cannot be read, or could not be made.
#[derive(Debug, thiserror::Error)]
#[error("slice signing key is not usable")]
pub struct SigningKeyError;

impl Signer {
    /// Makes a new key; answers it with its PKCS #8 form for the key file.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<(Self, Vec<u8>), SigningKeyError> {
        let key = Ed25519KeyPair::generate().map_err(|_| SigningKeyError)?;
        let document = key.to_pkcs8().map_err(|_| SigningKeyError)?.as_ref().to_vec();
        Ok((Self(key), document))
    }

    /// Reads a key from its PKCS #8 form.
    ///
    /// # Errors
    /// When it is not an Ed25519 key.
    pub fn from_pkcs8(document: &[u8]) -> Result<Self, SigningKeyError> {
        Ed25519KeyPair::from_pkcs8(document).map(Self).map_err(|_| SigningKeyError)
    }

    /// The public key, 32 bytes.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }

    /// States that `version` of `role`'s slice is meant.
    pub fn state(&self, role: &RoleId, version: Version) -> Statement {
        let signature = BASE64_STANDARD.encode(self.0.sign(&signed_text(role, &version)).as_ref());
        Statement { role: role.clone(), version, signature }
    }
}

impl Statement {
    /// Verifies that control signed this for `role`.
    ///
    /// # Errors
    /// When the signature is not control's, or it was made for another role.
    pub fn verify(&self, public_key: &[u8], role: &RoleId) -> Result<(), VerifyError> {
        let signature = BASE64_STANDARD.decode(&self.signature).map_err(|_| VerifyError::Signature)?;
        UnparsedPublicKey::new(&signature::ED25519, public_key)
            .verify(&signed_text(&self.role, &self.version), &signature)
            .map_err(|_| VerifyError::Signature)?;
        if self.role == *role { Ok(()) } else { Err(VerifyError::OtherRole(self.role.clone())) }
    }
}

/// Lines, so that no two statements read the same: neither a role's name nor a fingerprint holds a line feed.
fn signed_text(role: &RoleId, version: &Version) -> Vec<u8> {
    format!("gatehouse slice\n{role}\n{}\n{}", version.generation, version.fingerprint).into_bytes()
}

/// The slice that a role has, always a whole one, with control's word for it. This is also its form on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Control's word.
    pub statement: Statement,
    /// The slice.
    pub value: Value,
}

impl Held {
    /// The slice in its type.
    ///
    /// # Errors
    /// When it does not have the type's shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.value)
    }

    /// Verifies a slice that was read back from disk.
    ///
    /// # Errors
    /// When it is not what control meant for `role`.
    pub fn verify(&self, public_key: &[u8], role: &RoleId) -> Result<(), VerifyError> {
        self.statement.verify(public_key, role)?;
        if delta::fingerprint(&self.value) == self.statement.version.fingerprint {
            Ok(())
        } else {
            Err(VerifyError::DoesNotFit)
        }
    }
}

/// A slice as its role sees it: typed, with its generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Received<T> {
    /// Its generation, to be acknowledged with [`Report::Applied`].
    pub generation: u64,
    /// The slice.
    pub slice: T,
}

/// Verifies an update for `role` and applies it to what the role has.
///
/// # Errors
/// When it is not to be believed, or does not fit; what the role has is left as it was.
pub fn accept(
    public_key: &[u8],
    role: &RoleId,
    has: Option<&Held>,
    update: Update,
) -> Result<Held, VerifyError> {
    update.statement.verify(public_key, role)?;
    let offered = update.statement.version.generation;
    if let Some(has) = has.map(|has| has.statement.version.generation).filter(|has| offered < *has) {
        return Err(VerifyError::Stale { has, offered });
    }
    let value = match update.body {
        Body::Whole(value) => value,
        Body::Patch { base, patch } => {
            let has = has.filter(|has| has.statement.version == base).ok_or(VerifyError::DoesNotFit)?;
            let mut value = has.value.clone();
            delta::apply(&mut value, &patch);
            value
        }
    };
    let held = Held { statement: update.statement, value };
    held.verify(public_key, role)?;
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn update(signer: &Signer, role: &RoleId, generation: u64, value: &Value, body: Body) -> Update {
        let version = Version { generation, fingerprint: delta::fingerprint(value) };
        Update { statement: signer.state(role, version), body }
    }

    #[test]
    fn an_update_is_believed_only_with_the_signature_and_the_role_it_was_made_for() {
        let (signer, _) = Signer::generate().unwrap();
        let (key, value) = (signer.public_key(), json!({"a": 1}));
        let good = update(&signer, &RoleId::Host, 1, &value, Body::Whole(value.clone()));
        assert_eq!(accept(&key, &RoleId::Host, None, good.clone()).unwrap().value, value);
        let refused = accept(&key, &RoleId::Gateway, None, good.clone());
        assert!(matches!(refused, Err(VerifyError::OtherRole(_))));
        let mut forged = good.clone();
        forged.body = Body::Whole(json!({"a": 2}));
        assert!(matches!(accept(&key, &RoleId::Host, None, forged), Err(VerifyError::DoesNotFit)));
        let mut forged = good;
        forged.statement.version.generation = 9;
        assert!(matches!(accept(&key, &RoleId::Host, None, forged), Err(VerifyError::Signature)));
    }

    #[test]
    fn a_patch_fits_only_the_version_it_was_made_from() {
        let (signer, _) = Signer::generate().unwrap();
        let (key, role) = (signer.public_key(), RoleId::Host);
        let (old, new) = (json!({"a": 1}), json!({"a": 1, "b": 2}));
        let has =
            accept(&key, &role, None, update(&signer, &role, 1, &old, Body::Whole(old.clone()))).unwrap();
        let patch =
            Body::Patch { base: has.statement.version.clone(), patch: delta::diff(&old, &new).unwrap() };
        let update = update(&signer, &role, 2, &new, patch);
        assert_eq!(accept(&key, &role, Some(&has), update.clone()).unwrap().value, new);
        assert!(matches!(accept(&key, &role, None, update.clone()), Err(VerifyError::DoesNotFit)));
        let newer = signer.state(&role, Version { generation: 3, ..has.statement.version.clone() });
        let later = Held { statement: newer, ..has };
        assert!(matches!(accept(&key, &role, Some(&later), update), Err(VerifyError::Stale { .. })));
    }
}
