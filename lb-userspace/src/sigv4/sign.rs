//! Signing a request of ours, in the header form.

use aws_lc_rs::hmac;
use http::{
    HeaderValue,
    header::{AUTHORIZATION, HOST, InvalidHeaderValue},
    request::Parts,
};

use super::{ALGORITHM, AccessKey, Scope, canonical, hex, scope, sha256_hex, signing_key, string_to_sign};

/// Signs a request: adds `host` if it is missing, `x-amz-date` and `authorization`. All headers that are there are
/// signed, so add none afterwards but those that a proxy may change. `now_s` is seconds since the Unix epoch.
///
/// # Errors
/// When the access key's id, the region or the service cannot stand in a header.
pub fn sign(
    parts: &mut Parts,
    body: &[u8],
    key: &AccessKey,
    region: &str,
    service: &str,
    now_s: u64,
) -> Result<(), InvalidHeaderValue> {
    if let (false, Some(authority)) = (parts.headers.contains_key(HOST), parts.uri.authority()) {
        let host = HeaderValue::from_str(authority.as_str())?;
        parts.headers.insert(HOST, host);
    }
    let date_time = scope::format_time(now_s);
    parts.headers.insert("x-amz-date", HeaderValue::from_str(&date_time)?);
    parts.headers.remove(AUTHORIZATION);

    let date = date_time.chars().take(8).collect();
    let scope = Scope { date, region: region.to_owned(), service: service.to_owned() };
    let mut names: Vec<_> = parts.headers.keys().map(|name| name.as_str().to_owned()).collect();
    names.sort();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let canonical = canonical::canonical_request(parts, &names, &sha256_hex(body));
    let text = string_to_sign(&date_time, &scope, &canonical);
    let signature = hmac::sign(&signing_key(&key.secret, &scope), text.as_bytes());
    let value = format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={}, Signature={}",
        key.id,
        names.join(";"),
        hex(signature.as_ref())
    );
    parts.headers.insert(AUTHORIZATION, HeaderValue::from_str(&value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sigv4::SecretKey;

    /// The example that AWS publishes: `GET https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08`.
    #[test]
    fn the_published_example_has_the_published_signature() {
        let request = http::Request::get("https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let secret = SecretKey("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned());
        let key = AccessKey { id: "AKIDEXAMPLE".to_owned(), secret };
        sign(&mut parts, b"", &key, "us-east-1", "iam", 1_440_938_160).unwrap();
        assert_eq!(
            parts.headers[AUTHORIZATION],
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    /// `get-vanilla` of the published test suite.
    #[test]
    fn get_vanilla_of_the_published_suite_has_its_signature() {
        let (mut parts, ()) =
            http::Request::get("https://example.amazonaws.com/").body(()).unwrap().into_parts();
        let secret = SecretKey("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned());
        let key = AccessKey { id: "AKIDEXAMPLE".to_owned(), secret };
        sign(&mut parts, b"", &key, "us-east-1", "service", 1_440_938_160).unwrap();
        let value = parts.headers[AUTHORIZATION].to_str().unwrap();
        assert!(
            value.ends_with("Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            "{value}"
        );
    }
}
