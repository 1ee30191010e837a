//! Which headers may pass a proxy, and which requests have a lawful head.
//!
//! RFC 9110 7.6.1: hop-by-hop headers, and those that Connection names, belong to one connection and end there.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
    request,
    uri::{Authority, PathAndQuery},
};

use super::refusal::Refusal;

/// Checks what hyper's parser leaves open, and gives the request's authority: the target's if it is absolute
/// (RFC 9112 3.2.2: a server ignores Host then), else Host's. HTTP/1.0 may have none.
///
/// Makes the target origin-form and writes the authority to Host, so that all later steps see one form.
pub fn admit(parts: &mut request::Parts) -> Result<Option<HeaderValue>, Refusal> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    if let Some(expected) = parts.headers.get(EXPECT)
        && !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(Refusal::Expectation);
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::Host);
    }
    if let Some(host) = host
        && !is_authority(host.as_bytes())
    {
        return Err(Refusal::Host);
    }
    if let Some(authority) = parts.uri.authority() {
        // User information in a target is a way to disagree about the host.
        if authority.as_str().contains('@') {
            return Err(Refusal::Host);
        }
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Host)?;
        if parts.version != Version::HTTP_2 && !matches!(parts.uri.scheme_str(), Some("http" | "https")) {
            return Err(Refusal::RequestLine);
        }
        // HTTP/2 may repeat :authority in Host, and then they must agree (RFC 9113 8.3.1).
        if parts.version == Version::HTTP_2 && host.is_some_and(|host| host != value) {
            return Err(Refusal::Host);
        }
        parts.headers.insert(HOST, value.clone());
        parts.uri = origin_form(&parts.uri);
        return Ok(Some(value));
    }
    let path = parts.uri.path();
    let lawful = path.starts_with('/') || (path == "*" && parts.method == Method::OPTIONS);
    if !lawful {
        return Err(Refusal::RequestLine);
    }
    match host {
        // RFC 9112 3.2: a request of HTTP/1.1 without Host is answered 400.
        None if parts.version != Version::HTTP_10 => Err(Refusal::Host),
        host => Ok(host.cloned()),
    }
}

fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// Host's grammar: no user information, no path, no white space; empty is lawful (RFC 9110 7.2).
fn is_authority(host: &[u8]) -> bool {
    host.is_empty() || (!host.contains(&b'@') && Authority::try_from(host).is_ok())
}

/// The host without its port, if it has one.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

/// Takes what must not pass from a request. Gives the protocol it asks to upgrade to, if it may: WebSocket alone, for
/// a cleartext upgrade to HTTP/2 would carry requests past every rule.
pub fn strip_request(headers: &mut HeaderMap, version: Version) -> Option<HeaderValue> {
    let upgrade = headers.remove(UPGRADE);
    let asked = strip_connection(headers);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(EXPECT);
    if let Some(te) = headers.remove(TE)
        && te.as_bytes().split(|byte| *byte == b',').any(|word| word.trim_ascii() == b"trailers")
    {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    upgrade.filter(|protocol| {
        asked && version == Version::HTTP_11 && protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
    })
}

/// Takes what must not pass from a response. True when its length was said in two ways, after which the connection
/// it came on is not to be trusted with another request.
pub fn strip_response(headers: &mut HeaderMap) -> bool {
    headers.remove(UPGRADE);
    strip_connection(headers);
    let coded = headers.remove(TRANSFER_ENCODING).is_some();
    let lengths = headers.get_all(CONTENT_LENGTH).iter().count();
    if coded && lengths > 0 {
        headers.remove(CONTENT_LENGTH);
    } else if lengths > 1
        && let Some(first) = headers.remove(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, first);
    }
    (coded && lengths > 0) || lengths > 1
}

/// Connection and what it names. True when it names `upgrade`.
fn strip_connection(headers: &mut HeaderMap) -> bool {
    let mut asked = false;
    if headers.contains_key(CONNECTION) {
        let mut named: Vec<HeaderName> = Vec::new();
        for value in headers.get_all(CONNECTION) {
            for word in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if word.eq_ignore_ascii_case(b"upgrade") {
                    asked = true;
                } else if let Ok(name) = HeaderName::from_bytes(word)
                    && !END_TO_END.contains(&name)
                {
                    named.push(name);
                }
            }
        }
        headers.remove(CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    asked
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// RFC 9110 7.6.1: what is intended for all recipients must not be named; taking these away would change what the
/// request means.
const END_TO_END: [HeaderName; 4] = [HOST, CONTENT_LENGTH, TRAILER, TE];

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_and_named_headers_end_here() {
        let mut parts = request(
            "/",
            &[
                ("host", "a"),
                ("connection", "close, X-Secret"),
                ("connection", "keep-alive, host, content-length"),
                ("x-secret", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("te", "gzip, trailers"),
                ("expect", "100-continue"),
                ("content-length", "3"),
                ("accept", "*/*"),
            ],
        );
        assert_eq!(strip_request(&mut parts.headers, Version::HTTP_11), None);
        assert_eq!(names(&parts.headers), ["accept", "content-length", "host", "te"]);
        assert_eq!(parts.headers[TE], "trailers");
    }

    #[test]
    fn only_a_websocket_upgrade_of_http_1_1_is_passed_on() {
        let asks = |protocol: &str, version| {
            let headers = [("connection", "Upgrade"), ("upgrade", protocol)];
            strip_request(&mut request("/", &headers).headers, version).is_some()
        };
        assert!(asks("WebSocket", Version::HTTP_11));
        assert!(!asks("h2c", Version::HTTP_11));
        assert!(!asks("websocket", Version::HTTP_10));
        let mut unnamed = request("/", &[("upgrade", "websocket")]).headers;
        assert!(strip_request(&mut unnamed, Version::HTTP_11).is_none(), "Connection does not name it");
    }

    #[test]
    fn a_response_with_two_lengths_is_passed_with_one_and_noticed() {
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_LENGTH, HeaderValue::from_static("3"));
        assert!(!strip_response(&mut headers));
        headers.append(CONTENT_LENGTH, HeaderValue::from_static("3"));
        assert!(strip_response(&mut headers));
        assert_eq!(headers.get_all(CONTENT_LENGTH).iter().count(), 1);
        headers.append(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        assert!(strip_response(&mut headers));
        assert!(headers.is_empty());
    }

    #[test]
    fn a_request_has_one_lawful_host() {
        let refused = |uri: &str, headers: &[(&str, &str)]| admit(&mut request(uri, headers)).unwrap_err();
        assert_eq!(refused("/", &[]), Refusal::Host);
        assert_eq!(refused("/", &[("host", "a"), ("host", "a")]), Refusal::Host);
        assert_eq!(refused("/", &[("host", "a@b")]), Refusal::Host);
        assert_eq!(refused("/", &[("host", "a/b")]), Refusal::Host);
        assert_eq!(refused("http://u@a/", &[("host", "a")]), Refusal::Host);
        assert_eq!(refused("ftp://a/", &[("host", "a")]), Refusal::RequestLine);
        assert_eq!(refused("/", &[("host", "a"), ("expect", "fire")]), Refusal::Expectation);
    }

    #[test]
    fn an_absolute_target_wins_over_host() {
        let mut parts = request("http://Example.com:80/a?b", &[("host", "other")]);
        assert_eq!(admit(&mut parts).unwrap().unwrap(), "Example.com:80");
        assert_eq!(parts.uri, "/a?b");
        assert_eq!(parts.headers[HOST], "Example.com:80");
    }

    #[test]
    fn ports_are_cut_from_hosts() {
        assert_eq!(without_port("a.example:8080"), "a.example");
        assert_eq!(without_port("a.example"), "a.example");
        assert_eq!(without_port("[::1]:80"), "[::1]");
    }
}
