//! Secrets at rest in the state: AES-256-GCM under a key file that never leaves control's directory.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, prelude::BASE64_STANDARD};

use super::file::{self, KeyFileError};
use crate::model::certificate::Sealed;

/// Seals secrets, and opens what it sealed.
pub struct Seal(RandomizedNonceKey);

/// Why a secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The key file does not hold 32 bytes.
    #[error("the seal's key file does not hold {KEY_LEN} bytes")]
    Key,
    /// The system has no randomness.
    #[error("no randomness to seal with")]
    Random,
    /// Sealed with another key, changed since, or not of our form.
    #[error("a sealed secret does not open")]
    Closed,
}

impl Seal {
    /// Opens the key file at `path`, making it at the first start.
    ///
    /// # Errors
    /// When the file cannot be used or made.
    pub fn open(path: &Path) -> Result<Self, SealError> {
        if let Some(key) = file::read_secret(path)? {
            return Self::of(&key);
        }
        let mut key = [0; KEY_LEN];
        SystemRandom::new().fill(&mut key).map_err(|_| SealError::Random)?;
        file::write_secret(path, &key)?;
        Self::of(&key)
    }

    fn of(key: &[u8]) -> Result<Self, SealError> {
        if key.len() != KEY_LEN {
            return Err(SealError::Key);
        }
        RandomizedNonceKey::new(&AES_256_GCM, key).map(Self).map_err(|_| SealError::Key)
    }

    /// Seals a secret.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn seal(&self, secret: &[u8]) -> Result<Sealed, SealError> {
        let mut content = secret.to_vec();
        let nonce =
            self.0.seal_in_place_append_tag(Aad::empty(), &mut content).map_err(|_| SealError::Random)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut content);
        Ok(Sealed(BASE64_STANDARD.encode(sealed)))
    }

    /// Opens a sealed secret.
    ///
    /// # Errors
    /// When it was sealed with another key or changed since.
    pub fn unseal(&self, sealed: &Sealed) -> Result<Vec<u8>, SealError> {
        let mut content = BASE64_STANDARD.decode(&sealed.0).map_err(|_| SealError::Closed)?;
        let nonce = content.get(..NONCE_LEN).ok_or(SealError::Closed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Closed)?;
        content.drain(..NONCE_LEN);
        let opened =
            self.0.open_in_place(nonce, Aad::empty(), &mut content).map_err(|_| SealError::Closed)?;
        Ok(opened.to_vec())
    }

    /// Opens sealed text, such as a private key in PEM; `None` when it does not open.
    pub fn unseal_text(&self, sealed: &Sealed) -> Option<String> {
        String::from_utf8(self.unseal(sealed).ok()?).ok()
    }
}

/// AES-256.
const KEY_LEN: usize = 32;
/// GCM's.
const NONCE_LEN: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_after_a_restart_and_only_with_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal.key");
        let sealed = Seal::open(&path).unwrap().seal(b"secret").unwrap();
        assert_eq!(Seal::open(&path).unwrap().unseal(&sealed).unwrap(), b"secret");
        let other = Seal::open(&directory.path().join("other.key")).unwrap();
        assert!(matches!(other.unseal(&sealed), Err(SealError::Closed)));
    }

    #[test]
    fn what_was_changed_or_cut_does_not_open() {
        let directory = tempfile::tempdir().unwrap();
        let seal = Seal::open(&directory.path().join("seal.key")).unwrap();
        let sealed = seal.seal(b"secret").unwrap();
        let bytes = BASE64_STANDARD.decode(&sealed.0).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(seal.unseal(&Sealed(BASE64_STANDARD.encode(&changed))).is_err());
            assert!(seal.unseal(&Sealed(BASE64_STANDARD.encode(&bytes[..at]))).is_err());
        }
        assert!(seal.unseal(&Sealed("not base64!".to_owned())).is_err());
    }
}
