//! Verifying a request of theirs: header form (`Authorization`) and presigned query form.
//!
//! Before: the endpoint read the whole request within its limits. After: the scope's region and service and the access
//! key say who calls, and the operation is decoded.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use http::{header::AUTHORIZATION, request::Parts};

use super::{ALGORITHM, Scope, SecretKey, canonical, scope, sha256_hex, signing_key, string_to_sign, unhex};

/// Proof that a request was signed with a known key, lately, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The access key that signed.
    pub access_key_id: String,
    /// For which day, region and service.
    pub scope: Scope,
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// Neither header nor query string carries one.
    #[error("Missing Authentication Token")]
    Missing,
    /// A part of it is missing or malformed.
    #[error("{0}")]
    Incomplete(String),
    /// No such access key.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// It was made with another secret, or for another request.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
    /// Too old.
    #[error("Signature expired: {signed} is now earlier than {limit} ({now} - 5 min.)")]
    Expired {
        /// When the client says that it signed.
        signed: String,
        /// The earliest time that is accepted.
        limit: String,
        /// Our time.
        now: String,
    },
    /// From the future.
    #[error("Signature not yet current: {signed} is still later than {limit} ({now} + 5 min.)")]
    NotYetCurrent {
        /// When the client says that it signed.
        signed: String,
        /// The latest time that is accepted.
        limit: String,
        /// Our time.
        now: String,
    },
}

/// Verifies the signature of a request. `secret_of` finds the secret of an access key; `now_s` is seconds since the
/// Unix epoch.
///
/// # Errors
/// When there is no signature, it is malformed, by an unknown key, out of time, or does not match.
pub fn verify<'k>(
    parts: &Parts,
    body: &[u8],
    secret_of: impl FnOnce(&str) -> Option<&'k SecretKey>,
    now_s: u64,
) -> Result<Verified, VerifyError> {
    let signature = Signature::of(parts)?;
    let (access_key_id, scope) = Scope::parse_credential(&signature.credential).ok_or_else(|| {
        VerifyError::Incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term"
                .to_owned(),
        )
    })?;
    let signed_s = scope::parse_time(&signature.date_time)
        .filter(|_| signature.date_time.starts_with(&scope.date))
        .ok_or_else(|| {
            VerifyError::Incomplete(format!(
                "Date must be in ISO-8601 'basic format' and fall on the date of the Credential. Got '{}'.",
                signature.date_time
            ))
        })?;
    check_time(&signature, signed_s, now_s)?;
    let signed: Vec<_> = signature.signed_headers.split(';').collect();
    check_headers(parts, &signed)?;

    let secret = secret_of(access_key_id).ok_or(VerifyError::UnknownKey)?;
    let canonical = canonical::canonical_request(parts, &signed, &payload(parts, body)?);
    let text = string_to_sign(&signature.date_time, &scope, &canonical);
    let claimed = unhex(&signature.signature).ok_or(VerifyError::Mismatch)?;
    // Compares in constant time.
    hmac::verify(&signing_key(secret, &scope), text.as_bytes(), &claimed)
        .map_err(|_| VerifyError::Mismatch)?;
    Ok(Verified { access_key_id: access_key_id.to_owned(), scope })
}

/// The signature's fields, wherever they stood.
struct Signature {
    credential: String,
    signed_headers: String,
    signature: String,
    date_time: String,
    /// Of a presigned query string.
    expires_s: Option<u64>,
}

impl Signature {
    fn of(parts: &Parts) -> Result<Self, VerifyError> {
        if let Some(value) = parts.headers.get(AUTHORIZATION) {
            let text = value.to_str().map_err(|_| incomplete("Authorization header is not text."))?;
            return Self::of_header(parts, text);
        }
        let query = canonical::query_parameters(parts.uri.query().unwrap_or(""));
        if query.contains_key("X-Amz-Algorithm") || query.contains_key("X-Amz-Signature") {
            return Self::of_query(&query);
        }
        Err(VerifyError::Missing)
    }

    fn of_header(parts: &Parts, text: &str) -> Result<Self, VerifyError> {
        let fields = text
            .strip_prefix(ALGORITHM)
            .filter(|rest| rest.starts_with(' '))
            .ok_or_else(|| incomplete("Authorization header must use the algorithm AWS4-HMAC-SHA256."))?;
        let fields: BTreeMap<_, _> =
            fields.split(',').filter_map(|field| field.trim().split_once('=')).collect();
        let field = |name: &str| {
            fields.get(name).map(|value| (*value).to_owned()).ok_or_else(|| {
                VerifyError::Incomplete(format!("Authorization header requires '{name}' parameter."))
            })
        };
        let date_time = canonical::header(parts, "x-amz-date");
        if date_time.is_empty() {
            return Err(incomplete("Authorization header requires existence of an 'X-Amz-Date' header."));
        }
        Ok(Self {
            credential: field("Credential")?,
            signed_headers: field("SignedHeaders")?,
            signature: field("Signature")?,
            date_time,
            expires_s: None,
        })
    }

    fn of_query(query: &BTreeMap<String, String>) -> Result<Self, VerifyError> {
        let field = |name: &str| {
            query.get(name).cloned().ok_or_else(|| {
                VerifyError::Incomplete(format!("AWS query-string parameters must include '{name}'."))
            })
        };
        if field("X-Amz-Algorithm")? != ALGORITHM {
            return Err(incomplete("X-Amz-Algorithm must be AWS4-HMAC-SHA256."));
        }
        let expires_s = field("X-Amz-Expires")?
            .parse()
            .ok()
            .filter(|seconds| (1..=EXPIRES_MAX_S).contains(seconds))
            .ok_or_else(|| incomplete("X-Amz-Expires must be between 1 and 604800 seconds."))?;
        Ok(Self {
            credential: field("X-Amz-Credential")?,
            signed_headers: field("X-Amz-SignedHeaders")?,
            signature: field("X-Amz-Signature")?,
            date_time: field("X-Amz-Date")?,
            expires_s: Some(expires_s),
        })
    }
}

fn check_time(signature: &Signature, signed_s: u64, now_s: u64) -> Result<(), VerifyError> {
    let (signed, now) = (signature.date_time.clone(), scope::format_time(now_s));
    let (earliest, latest) = (now_s.saturating_sub(SKEW_S), now_s.saturating_add(SKEW_S));
    if signed_s > latest {
        return Err(VerifyError::NotYetCurrent { signed, limit: scope::format_time(latest), now });
    }
    let is_expired = match signature.expires_s {
        Some(expires_s) => signed_s.saturating_add(expires_s) < now_s,
        None => signed_s < earliest,
    };
    if is_expired {
        return Err(VerifyError::Expired { signed, limit: scope::format_time(earliest), now });
    }
    Ok(())
}

/// `host` and every `x-amz-*` header that is sent must be signed.
fn check_headers(parts: &Parts, signed: &[&str]) -> Result<(), VerifyError> {
    let missing =
        ["host"].into_iter().chain(canonical::must_be_signed(&parts.headers)).find(|n| !signed.contains(n));
    match missing {
        Some(name) => Err(VerifyError::Incomplete(format!(
            "'{name}' must be a 'SignedHeader' in the AWS Authorization."
        ))),
        None => Ok(()),
    }
}

/// The payload's digest as the canonical request has it. `UNSIGNED-PAYLOAD` counts, as it does at AWS over TLS.
fn payload(parts: &Parts, body: &[u8]) -> Result<String, VerifyError> {
    let digest = sha256_hex(body);
    match parts.headers.get("x-amz-content-sha256").map(http::HeaderValue::as_bytes) {
        None => Ok(digest),
        Some(b"UNSIGNED-PAYLOAD") => Ok("UNSIGNED-PAYLOAD".to_owned()),
        Some(claimed) if claimed == digest.as_bytes() => Ok(digest),
        Some(claimed) if claimed.starts_with(b"STREAMING-") => {
            Err(incomplete("Chunked payload signatures are not accepted; sign the whole payload."))
        }
        Some(_) => Err(VerifyError::Mismatch),
    }
}

fn incomplete(message: &str) -> VerifyError {
    VerifyError::Incomplete(message.to_owned())
}

/// How far the client's clock may be off, as at AWS.
const SKEW_S: u64 = 5 * 60;
/// A presigned query string lives at most 7 days, as at AWS.
const EXPIRES_MAX_S: u64 = 7 * 24 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sigv4::{AccessKey, sign};
    use http::{HeaderValue, Request};

    const NOW_S: u64 = 1_440_938_160;

    fn key() -> AccessKey {
        AccessKey { id: "AKIDEXAMPLE".to_owned(), secret: SecretKey("wJalrXUtnFEMI/K7MDENG".to_owned()) }
    }

    fn signed(uri: &str, body: &[u8]) -> Parts {
        let request =
            Request::post(uri).header("content-type", "application/x-amz-json-1.1").body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        sign(&mut parts, body, &key(), "eu-central-1", "ecs", NOW_S).unwrap();
        parts
    }

    fn check(parts: &Parts, body: &[u8], now_s: u64) -> Result<Verified, VerifyError> {
        let key = key();
        let secret = key.secret.clone();
        verify(parts, body, |id| (id == key.id).then_some(&secret), now_s)
    }

    #[test]
    fn what_we_sign_verifies() {
        let parts = signed("https://gatehouse.test:8443/v2/apis/%24x?b=2&a=%20", b"{}");
        let verified = check(&parts, b"{}", NOW_S + 299).unwrap();
        assert_eq!(verified.access_key_id, "AKIDEXAMPLE");
        assert_eq!(
            (verified.scope.region.as_str(), verified.scope.service.as_str()),
            ("eu-central-1", "ecs")
        );
    }

    #[test]
    fn a_changed_request_does_not_verify() {
        let parts = signed("https://gatehouse.test/", b"{}");
        assert_eq!(check(&parts, b"{ }", NOW_S), Err(VerifyError::Mismatch));
        let mut other = parts.clone();
        other.headers.insert("host", HeaderValue::from_static("other.test"));
        assert_eq!(check(&other, b"{}", NOW_S), Err(VerifyError::Mismatch));
        let mut other = parts.clone();
        other.uri = "https://gatehouse.test/?a=1".parse().unwrap();
        assert_eq!(check(&other, b"{}", NOW_S), Err(VerifyError::Mismatch));
        let mut other = parts;
        other.method = http::Method::PUT;
        assert_eq!(check(&other, b"{}", NOW_S), Err(VerifyError::Mismatch));
    }

    #[test]
    fn a_header_added_on_the_way_must_be_signed_if_it_is_amazon_s() {
        let mut parts = signed("https://gatehouse.test/", b"{}");
        parts.headers.insert("via", HeaderValue::from_static("proxy"));
        assert!(check(&parts, b"{}", NOW_S).is_ok());
        parts.headers.insert("x-amz-target", HeaderValue::from_static("Other.Operation"));
        assert!(matches!(check(&parts, b"{}", NOW_S), Err(VerifyError::Incomplete(_))));
    }

    #[test]
    fn five_minutes_of_skew_are_accepted_and_no_more() {
        let parts = signed("https://gatehouse.test/", b"");
        assert!(check(&parts, b"", NOW_S + 300).is_ok());
        assert!(check(&parts, b"", NOW_S - 300).is_ok());
        assert!(matches!(check(&parts, b"", NOW_S + 301), Err(VerifyError::Expired { .. })));
        assert!(matches!(check(&parts, b"", NOW_S - 301), Err(VerifyError::NotYetCurrent { .. })));
    }

    #[test]
    fn each_missing_part_is_named() {
        let (parts, ()) = Request::post("https://gatehouse.test/").body(()).unwrap().into_parts();
        assert_eq!(check(&parts, b"", NOW_S), Err(VerifyError::Missing));
        for part in ["Credential", "SignedHeaders", "Signature"] {
            let mut parts = signed("https://gatehouse.test/", b"");
            let text = parts.headers[AUTHORIZATION].to_str().unwrap().replace(&format!("{part}="), "X=");
            parts.headers.insert(AUTHORIZATION, text.parse().unwrap());
            match check(&parts, b"", NOW_S) {
                Err(VerifyError::Incomplete(message)) => assert!(message.contains(part), "{message}"),
                other => panic!("{part}: {other:?}"),
            }
        }
    }

    #[test]
    fn another_key_is_unknown() {
        let parts = signed("https://gatehouse.test/", b"");
        assert_eq!(verify(&parts, b"", |_| None, NOW_S), Err(VerifyError::UnknownKey));
    }

    /// Signed by botocore 1.44.5 (`SigV4QueryAuth`) with the secret of `key()`.
    #[test]
    fn a_presigned_request_verifies_until_it_expires() {
        let uri = PRESIGNED;
        let (parts, ()) =
            Request::get(uri).header("host", "gatehouse.test:8443").body(()).unwrap().into_parts();
        assert!(check(&parts, b"", NOW_S + 900).is_ok());
        assert!(matches!(check(&parts, b"", NOW_S + 901), Err(VerifyError::Expired { .. })));
        let (parts, ()) = Request::get(uri.replace("Expires=900", "Expires=901"))
            .header("host", "gatehouse.test:8443")
            .body(())
            .unwrap()
            .into_parts();
        assert_eq!(check(&parts, b"", NOW_S), Err(VerifyError::Mismatch));
    }

    const PRESIGNED: &str = "https://gatehouse.test:8443/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Feu-central-1%2Fsts%2Faws4_request&X-Amz-Date=20150830T123600Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=7d95efa7b9b05a533e692ddc9bd85c5ab2c01e1a733e133e1065ca0ca2d95046";
}
