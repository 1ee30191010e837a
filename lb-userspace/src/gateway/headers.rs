//! Which headers an integration and a client see.
//!
//! Before it: a request that has a route. After it: the forwarder, which takes hop-by-hop headers away itself. What a
//! client says about where it comes from is not believed: an integration reads Forwarded, which only the gateway writes.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{COOKIE, FORWARDED, HOST, VIA},
};

/// Makes a client's headers what an integration sees. Host stays the client's: rules of a load balancer match on it.
pub fn to_integration(headers: &mut HeaderMap, client: IpAddr) {
    let spoofed: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in spoofed {
        headers.remove(name);
    }
    join_cookies(headers);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if let Ok(forwarded) = HeaderValue::from_str(&forwarded(client, host)) {
        headers.insert(FORWARDED, forwarded);
    }
    headers.insert(VIA, HeaderValue::from_static("HTTP/1.1 AmazonAPIGateway"));
}

/// RFC 9113 8.2.3: HTTP/2 may split Cookie; HTTP/1.1 has it in one piece.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Makes an integration's headers what a client sees.
pub fn to_client(headers: &mut HeaderMap, request_id: &HeaderValue) {
    let reserved: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("apigw-")).cloned().collect();
    for name in reserved {
        headers.remove(name);
    }
    headers.insert(REQUEST_ID, request_id.clone());
}

/// RFC 7239 4 and 6: an IPv6 address stands in brackets and quotes, and so does a host with a port.
fn forwarded(client: IpAddr, host: &str) -> String {
    let client = match client.to_canonical() {
        IpAddr::V4(client) => client.to_string(),
        IpAddr::V6(client) => format!("\"[{client}]\""),
    };
    if host.contains([':', '[', ']', '"', '\\', ',', ';', '=']) {
        let host = host.replace(['"', '\\'], "");
        format!("for={client};host=\"{host}\";proto=https")
    } else {
        format!("for={client};host={host};proto=https")
    }
}

/// Names that only a gateway or a load balancer writes: an integration may believe them, so a client must not.
/// X-Amzn-Trace-Id is a client's to give, and X-Amz-* are its signature.
fn is_ours(name: &str) -> bool {
    matches!(
        name,
        "forwarded"
            | "via"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-real-ip"
    ) || name.starts_with("apigw-")
        || (name.starts_with("x-amzn-") && name != "x-amzn-trace-id")
}

/// On every response: the value of `$context.requestId`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("apigw-requestid");

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn seen(pairs: &[(&'static str, &str)], client: &str) -> HeaderMap {
        let mut headers = map(pairs);
        to_integration(&mut headers, client.parse().unwrap());
        headers
    }

    #[test]
    fn an_integration_sees_who_asked_and_not_what_the_client_claims() {
        let headers = seen(
            &[
                ("host", "api.example"),
                ("forwarded", "for=6.6.6.6"),
                ("via", "1.1 proxy"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "http"),
                ("x-amzn-oidc-identity", "admin"),
                ("x-amzn-mtls-clientcert", "forged"),
                ("x-amzn-trace-id", "Root=1-2-3"),
                ("x-amz-date", "20260101T000000Z"),
                ("apigw-requestid", "forged"),
                ("x-own", "1"),
            ],
            "203.0.113.7",
        );
        let expected = map(&[
            ("host", "api.example"),
            ("forwarded", "for=203.0.113.7;host=api.example;proto=https"),
            ("via", "HTTP/1.1 AmazonAPIGateway"),
            ("x-amzn-trace-id", "Root=1-2-3"),
            ("x-amz-date", "20260101T000000Z"),
            ("x-own", "1"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn addresses_and_hosts_are_quoted_where_the_grammar_says_so() {
        let headers = seen(&[("host", "api.example:8443")], "2001:db8::1");
        assert_eq!(headers[FORWARDED], "for=\"[2001:db8::1]\";host=\"api.example:8443\";proto=https");
        assert_eq!(seen(&[("host", "a")], "::ffff:10.0.0.1")[FORWARDED], "for=10.0.0.1;host=a;proto=https");
    }

    #[test]
    fn split_cookies_are_joined() {
        let mut headers = map(&[("host", "a"), ("cookie", "a=1")]);
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        to_integration(&mut headers, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn a_client_sees_the_gateways_request_id_alone() {
        let mut headers = map(&[("apigw-requestid", "forged"), ("apigw-other", "x"), ("server", "nginx")]);
        to_client(&mut headers, &HeaderValue::from_static("AAAAAAAAAAAAAAA="));
        assert_eq!(headers, map(&[("apigw-requestid", "AAAAAAAAAAAAAAA="), ("server", "nginx")]));
    }
}
