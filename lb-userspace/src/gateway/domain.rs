//! From a host name to an API: the default endpoint `<API>.execute-api.<region>.<suffix>`.
//!
//! Before it: TLS, with a name of its own in the ClientHello. After it: the stage. The Host header decides; a handshake
//! that named another API is refused, so that a certificate checked for one is not used to reach the other.

use crate::model::id::ApiId;

/// The API's id and the region in a default host name. A port and the case of letters do not matter.
pub fn parse(host: &str, suffix: &str) -> Option<(ApiId, String)> {
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let labels = host.strip_suffix(suffix)?.strip_suffix('.')?;
    let mut labels = labels.split('.');
    let (api, service, region) = (labels.next()?, labels.next()?, labels.next()?);
    let is_whole = labels.next().is_none() && !api.is_empty() && !region.is_empty();
    (is_whole && service == "execute-api").then(|| (ApiId::from(api), region.to_owned()))
}

/// Whether a handshake that named `server_name` may carry requests for `host`. A client may name nothing, or an address
/// in place of a name; what it may not name is another API.
pub fn agree(server_name: Option<&str>, host: &str, suffix: &str) -> bool {
    match server_name.and_then(|name| parse(name, suffix)) {
        None => true,
        Some(named) => parse(host, suffix) == Some(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(host: &str) -> Option<String> {
        parse(host, "amazonaws.com").map(|(api, region)| format!("{api} {region}"))
    }

    #[test]
    fn a_default_host_names_its_api_and_region() {
        let expected = Some("a1b2c3d4e5 eu-central-1".to_owned());
        for host in [
            "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com",
            "a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com:8443",
            "A1b2C3d4e5.Execute-API.eu-central-1.amazonaws.com.",
        ] {
            assert_eq!(api(host), expected, "{host}");
        }
    }

    #[test]
    fn other_hosts_name_none() {
        for host in [
            "",
            "amazonaws.com",
            "execute-api.eu-central-1.amazonaws.com",
            ".execute-api.eu-central-1.amazonaws.com",
            "a.execute-api..amazonaws.com",
            "x.a.execute-api.eu-central-1.amazonaws.com",
            "a.s3.eu-central-1.amazonaws.com",
            "a.execute-api.eu-central-1.example.com",
            "a.execute-api.eu-central-1.notamazonaws.com",
            "127.0.0.1",
            "[::1]:443",
        ] {
            assert_eq!(api(host), None, "{host}");
        }
    }

    #[test]
    fn a_handshake_for_one_api_does_not_reach_another() {
        let one = "one.execute-api.eu-central-1.amazonaws.com";
        let two = "two.execute-api.eu-central-1.amazonaws.com";
        assert!(agree(Some(one), one, "amazonaws.com"));
        assert!(agree(None, one, "amazonaws.com"));
        assert!(agree(Some("localhost"), one, "amazonaws.com"));
        assert!(!agree(Some(one), two, "amazonaws.com"));
    }
}
