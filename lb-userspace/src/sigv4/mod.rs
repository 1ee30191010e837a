//! AWS Signature Version 4: control verifies what clients sign, `gatehouse deploy` signs what it sends.
//!
//! Pure: the request, the keys and the time are passed in. Header signatures and presigned query strings are verified;
//! chunked payload signatures and SigV4A are refused.

use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};

/// The canonical form of a request: what is signed.
pub mod canonical;
/// What a client signs with and for: access key, date, region, service.
pub mod scope;
/// Signing a request of ours.
pub mod sign;
/// Verifying a request of theirs.
pub mod verify;

pub use scope::{AccessKey, Scope, SecretKey};
pub use sign::sign;
pub use verify::{Verified, VerifyError, verify};

/// The only algorithm that is spoken.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What is signed at last: algorithm, time, scope and the canonical request's digest.
fn string_to_sign(date_time: &str, scope: &Scope, canonical_request: &str) -> String {
    format!("{ALGORITHM}\n{date_time}\n{scope}\n{}", sha256_hex(canonical_request.as_bytes()))
}

/// The key that signs within one scope.
fn signing_key(secret: &SecretKey, scope: &Scope) -> hmac::Key {
    let first = format!("AWS4{}", secret.0);
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
    for part in [&scope.date, &scope.region, &scope.service, scope::TERMINATOR] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    key
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs
        .remainder()
        .is_empty()
        .then(|| pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}
