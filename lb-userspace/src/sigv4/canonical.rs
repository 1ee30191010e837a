//! The canonical form of a request: method, path, query, the signed headers, the payload's digest.
//!
//! As every AWS service but S3 has it: the path is normalized and its segments, encoded as they were sent, are encoded
//! once more.

use std::collections::BTreeMap;

use http::{HeaderMap, request::Parts};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The canonical request, with `signed_headers` in the order given (lower case, sorted).
pub(super) fn canonical_request(parts: &Parts, signed_headers: &[&str], payload: &str) -> String {
    let mut text =
        format!("{}\n{}\n{}\n", parts.method, path(parts.uri.path()), query(parts.uri.query().unwrap_or("")));
    for name in signed_headers {
        text.push_str(name);
        text.push(':');
        text.push_str(&header(parts, name));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&signed_headers.join(";"));
    text.push('\n');
    text.push_str(payload);
    text
}

/// The signature fields of a presigned query string, decoded; of a name that comes twice, the last.
pub(super) fn query_parameters(query: &str) -> BTreeMap<String, String> {
    pairs(query).map(|(name, value)| (decode(name), decode(value))).collect()
}

/// A header's values, each trimmed with inner runs of spaces folded, joined by commas. In HTTP/2 `host` is the
/// authority.
pub(super) fn header(parts: &Parts, name: &str) -> String {
    if name == "host" && !parts.headers.contains_key("host") {
        return parts.uri.authority().map(ToString::to_string).unwrap_or_default();
    }
    let values = parts.headers.get_all(name).into_iter().map(|value| {
        let value = String::from_utf8_lossy(value.as_bytes());
        value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ").trim().to_owned()
    });
    values.collect::<Vec<_>>().join(",")
}

/// Names of headers that must be signed whenever they are sent.
pub(super) fn must_be_signed(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.keys().map(http::HeaderName::as_str).filter(|name| name.starts_with("x-amz-"))
}

fn path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(utf8_percent_encode(segment, RESERVED).to_string()),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

fn query(query: &str) -> String {
    let mut encoded: Vec<_> = pairs(query)
        .map(|(name, value)| (encode(&decode(name)), encode(&decode(value))))
        .filter(|(name, _)| name != "X-Amz-Signature")
        .collect();
    encoded.sort();
    encoded.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Everything but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_normalized_and_encoded_once_more() {
        assert_eq!(path("/"), "/");
        assert_eq!(path(""), "/");
        assert_eq!(path("/a/./b/../c//d/"), "/a/c/d/");
        assert_eq!(path("/v2/apis/x/stages/%24default"), "/v2/apis/x/stages/%2524default");
        assert_eq!(path("/../.."), "/");
    }

    #[test]
    fn a_query_is_sorted_and_loses_its_signature() {
        assert_eq!(query("b=2&a=x%20y&X-Amz-Signature=0&a=%7E&c"), "a=x%20y&a=~&b=2&c=");
    }
}
