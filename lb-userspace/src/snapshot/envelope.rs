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

/// What control sends, signed: the text is kept as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedUpdate {
    /// [`Update`] as JSON.
    pub update: String,
    /// Ed25519 over the text, base64.
    pub signature: String,
}

/// A slice or what changed in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// Who it is for: a role refuses another's.
    pub role: RoleId,
    /// The version that the role has after applying it.
    pub version: Version,
    /// The slice or the patch.
    pub body: Body,
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
    /// Not of our form.
    #[error("update is not readable")]
    Malformed(#[from] serde_json::Error),
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

    /// Signs an update.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn sign(&self, update: &Update) -> Result<SignedUpdate, serde_json::Error> {
        let update = serde_json::to_string(update)?;
        let signature = BASE64_STANDARD.encode(self.0.sign(update.as_bytes()).as_ref());
        Ok(SignedUpdate { update, signature })
    }
}

/// The slice that a role has, always a whole one, with its version.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Its version.
    pub version: Version,
    /// The slice.
    pub value: Value,
}

impl Held {
    /// The slice in its type.
    ///
    /// # Errors
    /// When it does not have the type's shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_value(self.value.clone())
    }
}

/// Verifies an update for `role` and applies it to what the role has.
///
/// # Errors
/// When it is not to be believed, or does not fit; what the role has is left as it was.
pub fn accept(
    public_key: &[u8],
    role: &RoleId,
    has: Option<&Held>,
    signed: &SignedUpdate,
) -> Result<Held, VerifyError> {
    let signature = BASE64_STANDARD.decode(&signed.signature).map_err(|_| VerifyError::Signature)?;
    UnparsedPublicKey::new(&signature::ED25519, public_key)
        .verify(signed.update.as_bytes(), &signature)
        .map_err(|_| VerifyError::Signature)?;
    let update: Update = serde_json::from_str(&signed.update)?;
    if update.role != *role {
        return Err(VerifyError::OtherRole(update.role));
    }
    if let Some(has) = has
        && update.version.generation < has.version.generation
    {
        return Err(VerifyError::Stale { has: has.version.generation, offered: update.version.generation });
    }
    let value = match update.body {
        Body::Whole(value) => value,
        Body::Patch { base, patch } => {
            let has = has.filter(|has| has.version == base).ok_or(VerifyError::DoesNotFit)?;
            let mut value = has.value.clone();
            delta::apply(&mut value, &patch);
            value
        }
    };
    if delta::fingerprint(&value) != update.version.fingerprint {
        return Err(VerifyError::DoesNotFit);
    }
    Ok(Held { version: update.version, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn whole(role: RoleId, generation: u64, value: Value) -> Update {
        let version = Version { generation, fingerprint: delta::fingerprint(&value) };
        Update { role, version, body: Body::Whole(value) }
    }

    #[test]
    fn an_update_is_believed_only_with_the_signature_and_the_role_it_was_made_for() {
        let (signer, _) = Signer::generate().unwrap();
        let signed = signer.sign(&whole(RoleId::Host, 1, json!({"a": 1}))).unwrap();
        let key = signer.public_key();
        assert_eq!(accept(&key, &RoleId::Host, None, &signed).unwrap().value, json!({"a": 1}));
        assert!(matches!(accept(&key, &RoleId::Gateway, None, &signed), Err(VerifyError::OtherRole(_))));
        let forged = SignedUpdate { update: signed.update.replace(":1}", ":2}"), ..signed };
        assert!(matches!(accept(&key, &RoleId::Host, None, &forged), Err(VerifyError::Signature)));
    }

    #[test]
    fn a_patch_fits_only_the_version_it_was_made_from() {
        let (signer, _) = Signer::generate().unwrap();
        let key = signer.public_key();
        let (old, new) = (json!({"a": 1}), json!({"a": 1, "b": 2}));
        let has =
            accept(&key, &RoleId::Host, None, &signer.sign(&whole(RoleId::Host, 1, old.clone())).unwrap())
                .unwrap();
        let update = Update {
            role: RoleId::Host,
            version: Version { generation: 2, fingerprint: delta::fingerprint(&new) },
            body: Body::Patch { base: has.version.clone(), patch: delta::diff(&old, &new).unwrap() },
        };
        let signed = signer.sign(&update).unwrap();
        assert_eq!(accept(&key, &RoleId::Host, Some(&has), &signed).unwrap().value, new);
        assert!(matches!(accept(&key, &RoleId::Host, None, &signed), Err(VerifyError::DoesNotFit)));
        let later = Held { version: Version { generation: 3, ..has.version.clone() }, ..has };
        assert!(matches!(accept(&key, &RoleId::Host, Some(&later), &signed), Err(VerifyError::Stale { .. })));
    }
}
