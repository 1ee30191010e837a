//! Headers that an application load balancer adds, and the Host it passes on.
//!
//! X-Forwarded-For names the hop before, X-Forwarded-Proto and -Port the listener, X-Amzn-Trace-Id the request.

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};

use super::attributes::{ForwardedFor, Settings};
use crate::http::headers::without_port;

/// What is the same for all requests of one client connection.
pub struct Hop {
    /// The client's address, as X-Forwarded-For writes it.
    client: HeaderValue,
    /// The listener's port.
    port: HeaderValue,
    listener_port: u16,
    settings: Settings,
}

impl Hop {
    /// For a client's connection to a listener's port.
    pub fn new(client: std::net::SocketAddr, listener_port: u16, settings: Settings) -> Self {
        let shown = match (settings.client_port, client.ip()) {
            (true, _) => client.to_string(),
            (false, ip) => ip.to_string(),
        };
        // Addresses and numbers are lawful header values.
        let value =
            |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("-"));
        Self { client: value(shown), port: value(listener_port.to_string()), listener_port, settings }
    }

    /// Writes the headers into a request's. `seconds` is Unix time; `random` are 96 bits.
    pub fn write(&self, headers: &mut HeaderMap, seconds: u64, random: u128) {
        match self.settings.forwarded_for {
            ForwardedFor::Append => {
                match headers.get(&X_FORWARDED_FOR) {
                    None => headers.insert(X_FORWARDED_FOR, self.client.clone()),
                    Some(_) => headers.insert(X_FORWARDED_FOR, self.appended(headers)),
                };
                headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
                headers.insert(X_FORWARDED_PORT, self.port.clone());
            }
            ForwardedFor::Preserve => {}
            ForwardedFor::Remove => {
                headers.remove(X_FORWARDED_FOR);
            }
        }
        let trace = trace_id(headers.get(&X_AMZN_TRACE_ID), seconds, random);
        headers.insert(X_AMZN_TRACE_ID, trace);
        if !self.settings.preserve_host
            && let Some(host) = headers.get(HOST).and_then(|host| self.host(host))
        {
            headers.insert(HOST, host);
        }
    }

    /// All of X-Forwarded-For's lines in one, and the client behind them.
    fn appended(&self, headers: &HeaderMap) -> HeaderValue {
        let mut line = Vec::new();
        for value in headers.get_all(&X_FORWARDED_FOR) {
            line.extend_from_slice(value.as_bytes());
            line.extend_from_slice(b", ");
        }
        line.extend_from_slice(self.client.as_bytes());
        HeaderValue::try_from(line).unwrap_or_else(|_| self.client.clone())
    }

    /// The Host that targets see when it differs from the client's: with the listener's port unless that is 80 or 443.
    fn host(&self, host: &HeaderValue) -> Option<HeaderValue> {
        let host = host.to_str().ok()?;
        let name = without_port(host);
        if matches!(self.listener_port, 80 | 443) {
            return (name.len() != host.len()).then(|| HeaderValue::from_str(name).ok())?;
        }
        let port = host.get(name.len() + 1..).and_then(|port| port.parse::<u16>().ok());
        if port == Some(self.listener_port) || name.is_empty() {
            return None;
        }
        HeaderValue::try_from(format!("{name}:{}", self.listener_port)).ok()
    }
}

/// `Root=1-<8 hex>-<24 hex>`; a Root that came stays, and this hop's own mark goes in front of it as Self.
fn trace_id(given: Option<&HeaderValue>, seconds: u64, random: u128) -> HeaderValue {
    let mut own = [0; OWN];
    own[..2].copy_from_slice(b"1-");
    hex(&mut own[2..10], u128::from(seconds));
    own[10] = b'-';
    hex(&mut own[11..], random);
    let given = given.and_then(|given| given.to_str().ok()).unwrap_or("");
    let fields = || given.split(';').map(str::trim).filter(|field| !field.is_empty());
    let has_root = fields().any(|field| field.starts_with("Root="));
    let mut value = Vec::with_capacity("Self=;".len() + OWN + given.len());
    value.extend_from_slice(if has_root { b"Self=" } else { b"Root=" });
    value.extend_from_slice(&own);
    let kept = |field: &&str| !field.starts_with("Self=");
    for field in fields().filter(kept) {
        value.push(b';');
        value.extend_from_slice(field.as_bytes());
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(value))
        .unwrap_or_else(|_| HeaderValue::from_static("Root=1-00000000-000000000000000000000000"))
}

/// The lowest digits of `value`.
fn hex(out: &mut [u8], mut value: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for place in out.iter_mut().rev() {
        *place = DIGITS[usize::from((value & 0xf) as u8)];
        value >>= 4;
    }
}

/// `1-`, 8 digits, `-`, 24 digits.
const OWN: usize = 35;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_AMZN_TRACE_ID: HeaderName = HeaderName::from_static("x-amzn-trace-id");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::load_balancer::Attributes;

    fn written(port: u16, attributes: &[(&str, &str)], given: &[(&str, &str)]) -> HeaderMap {
        let attributes: Attributes =
            attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let hop = Hop::new("192.0.2.7:4711".parse().unwrap(), port, Settings::of(&attributes));
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        hop.write(&mut headers, 0x6553_f100, 0xabcd);
        headers
    }

    #[test]
    fn the_client_is_appended_to_who_came_before() {
        let headers = written(80, &[], &[("x-forwarded-for", "a"), ("x-forwarded-for", "b, c")]);
        assert_eq!(headers["x-forwarded-for"], "a, b, c, 192.0.2.7");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-port"], "80");
        assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
    }

    #[test]
    fn the_modes_of_forwarded_for_are_obeyed() {
        let mode = "routing.http.xff_header_processing.mode";
        let given = [("x-forwarded-for", "a")];
        assert_eq!(written(80, &[(mode, "preserve")], &given)["x-forwarded-for"], "a");
        assert!(!written(80, &[(mode, "remove")], &given).contains_key("x-forwarded-for"));
        let port = ("routing.http.xff_client_port.enabled", "true");
        assert_eq!(written(80, &[port], &given)["x-forwarded-for"], "a, 192.0.2.7:4711");
    }

    #[test]
    fn a_trace_begins_here_or_is_continued() {
        let own = "1-6553f100-00000000000000000000abcd";
        assert_eq!(written(80, &[], &[])["x-amzn-trace-id"], format!("Root={own}"));
        let given = [("x-amzn-trace-id", "Self=1-old; Root=1-67891233-abcdef012345678912345678;Sampled=1")];
        assert_eq!(
            written(80, &[], &given)["x-amzn-trace-id"],
            format!("Self={own};Root=1-67891233-abcdef012345678912345678;Sampled=1")
        );
        let rootless = [("x-amzn-trace-id", "CalledFrom=app")];
        assert_eq!(written(80, &[], &rootless)["x-amzn-trace-id"], format!("Root={own};CalledFrom=app"));
    }

    #[test]
    fn host_carries_the_listeners_port_unless_it_is_the_default() {
        let host = |port: u16, given: &str| {
            written(port, &[], &[("host", given)])["host"].to_str().unwrap().to_owned()
        };
        assert_eq!(host(80, "a.example"), "a.example");
        assert_eq!(host(80, "a.example:80"), "a.example");
        assert_eq!(host(8080, "a.example"), "a.example:8080");
        assert_eq!(host(8080, "a.example:8080"), "a.example:8080");
        let preserved =
            written(8080, &[("routing.http.preserve_host_header.enabled", "true")], &[("host", "a.example")]);
        assert_eq!(preserved["host"], "a.example");
    }
}
