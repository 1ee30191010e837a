//! Which headers may pass a proxy, and which requests have a lawful head.
//!
//! RFC 9110 7.6.1: hop-by-hop headers, and those that Connection names, belong to one connection and end there.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
    uri::PathAndQuery,
};

use super::refusal::Refusal;

/// Checks what hyper's parser leaves open. A target that names its authority (RFC 9112 3.2.2: a server ignores Host then)
/// is made origin-form and its authority written to Host, so that all later steps see one form. HTTP/1.0 may have none.
pub fn admit<B>(request: &mut Request<B>) -> Result<(), Refusal> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    // One pass: looking names up one by one would hash each.
    let mut host = None;
    for (name, value) in request.headers() {
        match *name {
            EXPECT if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                return Err(Refusal::Expectation);
            }
            HOST if host.is_some() || !is_authority(value.as_bytes()) => return Err(Refusal::Host),
            HOST => host = Some(value),
            _ => {}
        }
    }
    let uri = request.uri();
    if let Some(authority) = uri.authority() {
        let version = request.version();
        // User information in a target is a way to disagree about the host.
        if !is_authority(authority.as_str().as_bytes()) {
            return Err(Refusal::Host);
        }
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::Host)?;
        if version != Version::HTTP_2 && !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(Refusal::RequestLine);
        }
        // HTTP/2 may repeat :authority in Host, and then they must agree (RFC 9113 8.3.1).
        if version == Version::HTTP_2 && host.is_some_and(|host| *host != value) {
            return Err(Refusal::Host);
        }
        let origin = origin_form(uri);
        request.headers_mut().insert(HOST, value);
        *request.uri_mut() = origin;
        return Ok(());
    }
    let path = uri.path();
    let lawful = path.starts_with('/') || (path == "*" && request.method() == Method::OPTIONS);
    if !lawful {
        return Err(Refusal::RequestLine);
    }
    // RFC 9112 3.2: a request of HTTP/1.1 without Host is answered 400.
    if host.is_none() && request.version() != Version::HTTP_10 {
        return Err(Refusal::Host);
    }
    Ok(())
}

fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Uri::from(path)
}

/// Host's grammar (RFC 3986 3.2.2 with a port): no user information, no path, no white space; empty is lawful
/// (RFC 9110 7.2).
fn is_authority(host: &[u8]) -> bool {
    let (name, port) = if host.first() == Some(&b'[') {
        let Some((name, rest)) =
            host.iter().position(|byte| *byte == b']').and_then(|end| host.split_at_checked(end + 1))
        else {
            return false;
        };
        (name.get(1..name.len() - 1).unwrap_or_default(), rest)
    } else {
        host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len()))
    };
    let is_literal = port.len() + name.len() != host.len();
    let lawful = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || (is_literal && *byte == b':')
            || (!is_literal && b"-._~!$&'()*+,;=%".contains(byte))
    };
    name.iter().all(lawful)
        && match port {
            [] => true,
            [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
            _ => false,
        }
}

/// The host without its port, if it has one.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

/// Which of the headers that a proxy must act on are there; found in one pass.
#[derive(Debug, Default)]
struct Found {
    connection: bool,
    upgrade: bool,
    te: bool,
    transfer_encoding: bool,
    expect: bool,
    /// Keep-Alive and Proxy-Connection.
    old: bool,
    lengths: usize,
}

impl Found {
    fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.iter().map(|(name, _)| name) {
            match *name {
                CONNECTION => found.connection = true,
                UPGRADE => found.upgrade = true,
                TE => found.te = true,
                TRANSFER_ENCODING => found.transfer_encoding = true,
                EXPECT => found.expect = true,
                CONTENT_LENGTH => found.lengths += 1,
                _ => found.old |= matches!(name.as_str(), "keep-alive" | "proxy-connection"),
            }
        }
        found
    }

    /// Takes away Connection and what it names, and its older relatives. True when it names `upgrade`.
    fn strip_connection(&self, headers: &mut HeaderMap) -> bool {
        let mut asked = false;
        if self.connection {
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
        if self.old {
            headers.remove(KEEP_ALIVE);
            headers.remove(PROXY_CONNECTION);
        }
        asked
    }
}

/// Takes what must not pass from a request. Gives the protocol it asks to upgrade to, if it may: WebSocket alone, for
/// a cleartext upgrade to HTTP/2 would carry requests past every rule.
pub fn strip_request(headers: &mut HeaderMap, version: Version) -> Option<HeaderValue> {
    let found = Found::of(headers);
    let upgrade = if found.upgrade { headers.remove(UPGRADE) } else { None };
    let asked = found.strip_connection(headers);
    if found.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
    }
    if found.expect {
        headers.remove(EXPECT);
    }
    if found.te
        && let Some(te) = headers.remove(TE)
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
    let found = Found::of(headers);
    if found.upgrade {
        headers.remove(UPGRADE);
    }
    found.strip_connection(headers);
    if found.transfer_encoding {
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONTENT_LENGTH);
    } else if found.lengths > 1
        && let Some(first) = headers.remove(CONTENT_LENGTH)
    {
        headers.insert(CONTENT_LENGTH, first);
    }
    found.lengths > 1 || (found.transfer_encoding && found.lengths > 0)
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// RFC 9110 7.6.1: what is intended for all recipients must not be named; taking these away would change what the
/// request means.
const END_TO_END: [HeaderName; 4] = [HOST, CONTENT_LENGTH, TRAILER, TE];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
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
        assert_eq!(strip_request(parts.headers_mut(), Version::HTTP_11), None);
        assert_eq!(names(parts.headers()), ["accept", "content-length", "host", "te"]);
        assert_eq!(parts.headers()[TE], "trailers");
    }

    #[test]
    fn only_a_websocket_upgrade_of_http_1_1_is_passed_on() {
        let asks = |protocol: &str, version| {
            let headers = [("connection", "Upgrade"), ("upgrade", protocol)];
            strip_request(request("/", &headers).headers_mut(), version).is_some()
        };
        assert!(asks("WebSocket", Version::HTTP_11));
        assert!(!asks("h2c", Version::HTTP_11));
        assert!(!asks("websocket", Version::HTTP_10));
        let mut unnamed = request("/", &[("upgrade", "websocket")]);
        assert!(
            strip_request(unnamed.headers_mut(), Version::HTTP_11).is_none(),
            "Connection does not name it"
        );
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
        admit(&mut parts).unwrap();
        assert_eq!(*parts.uri(), "/a?b");
        assert_eq!(parts.headers()[HOST], "Example.com:80");
    }

    #[test]
    fn hosts_have_a_grammar() {
        for lawful in
            ["", "a", "a.example:8080", "127.0.0.1:80", "[::1]", "[2001:db8::1]:443", "a_b-c.example", "a:"]
        {
            assert!(is_authority(lawful.as_bytes()), "{lawful}");
        }
        for unlawful in
            ["a b", "a/b", "a@b", "a:b", "a:1:2", "[::1", "[::1]a", "a[", "a:123456", "\u{e9}", "a?b", "a#b"]
        {
            assert!(!is_authority(unlawful.as_bytes()), "{unlawful}");
        }
    }

    #[test]
    fn ports_are_cut_from_hosts() {
        assert_eq!(without_port("a.example:8080"), "a.example");
        assert_eq!(without_port("a.example"), "a.example");
        assert_eq!(without_port("[::1]:80"), "[::1]");
    }
}
