//! Which ids an agent opens, and which never: the second of the two places that decide, after the gateway.
//!
//! The gateway names an id; only the agent's own signed slice says what it means. Whatever the slice says, a link
//! never connects to itself, to its host, or to the gateways that it serves.

use std::net::{IpAddr, SocketAddr};

use super::frame::message::RefusalCode;
use crate::snapshot::link::{LaneTarget, LinkSlice};

/// Why an id is not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For the gateway.
    pub code: RefusalCode,
    /// In words: names no address, for the gateway must not learn one.
    pub reason: String,
}

/// Where to connect for `target`.
///
/// # Errors
/// When the slice does not list it, or it must not be opened now.
pub fn admit(slice: &LinkSlice, target: LaneTarget) -> Result<SocketAddr, Refusal> {
    let refuse = |code, reason: &str| Err(Refusal { code, reason: format!("{reason} ({})", slice.link_id) });
    if slice.deleting {
        return refuse(RefusalCode::Deleting, "the link is being deleted");
    }
    let Some(view) = slice.targets.get(&target) else {
        return refuse(RefusalCode::Unknown, "the link does not know the target");
    };
    if view.draining {
        return refuse(RefusalCode::Draining, "the target is deregistered");
    }
    if view.refused.is_some() {
        return refuse(RefusalCode::SecurityGroup, "security groups refuse the target");
    }
    let own = slice.addresses.iter().any(|own| IpAddr::V4(*own) == view.address.ip());
    // Control stands beside the gateways that it named.
    let gateway = slice.gateways.values().any(|gateway| gateway.ip() == view.address.ip());
    if own || gateway || is_never_opened(view.address) {
        return refuse(RefusalCode::Forbidden, "the target is at an address that links never open");
    }
    Ok(view.address)
}

/// Loopback, link-local (169.254.169.254 among them), multicast, broadcast, and what is no address.
fn is_never_opened(address: SocketAddr) -> bool {
    let by_address = match address.ip().to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                // RFC 1122 3.2.1.3: 0.0.0.0/8 is "this host on this network".
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()
        }
    };
    by_address || address.port() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::id::VpcLinkId, snapshot::link::LinkTargetView};
    use std::collections::BTreeMap;

    fn slice(address: &str) -> LinkSlice {
        let view = LinkTargetView {
            address: address.parse().unwrap(),
            name: "a target".to_owned(),
            draining: false,
            refused: None,
        };
        LinkSlice {
            link_id: VpcLinkId::from("abc123"),
            namespace: String::new(),
            addresses: vec!["10.0.1.9".parse().unwrap()],
            gateways: BTreeMap::from([("gw".to_owned(), "10.0.9.1:8443".parse().unwrap())]),
            targets: BTreeMap::from([(LaneTarget([1; 16]), view)]),
            deleting: false,
            credentials: None,
        }
    }

    fn code(slice: &LinkSlice) -> Option<RefusalCode> {
        admit(slice, LaneTarget([1; 16])).err().map(|refusal| refusal.code)
    }

    #[test]
    fn only_listed_targets_are_opened() {
        let slice = slice("10.0.1.5:80");
        assert_eq!(admit(&slice, LaneTarget([1; 16])), Ok("10.0.1.5:80".parse().unwrap()));
        let refusal = admit(&slice, LaneTarget([2; 16])).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Unknown);
    }

    #[test]
    fn draining_refused_and_deleted_are_told_apart() {
        let mut draining = slice("10.0.1.5:80");
        draining.targets.values_mut().for_each(|view| view.draining = true);
        assert_eq!(code(&draining), Some(RefusalCode::Draining));
        let mut refused = slice("10.0.1.5:80");
        refused.targets.values_mut().for_each(|view| view.refused = Some("no rule to 10.0.1.5".to_owned()));
        let refusal = admit(&refused, LaneTarget([1; 16])).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::SecurityGroup);
        assert!(!refusal.reason.contains("10.0.1.5"), "{}", refusal.reason);
        let mut deleted = slice("10.0.1.5:80");
        deleted.deleting = true;
        assert_eq!(code(&deleted), Some(RefusalCode::Deleting));
    }

    #[test]
    fn some_addresses_are_never_opened_whatever_the_slice_says() {
        for address in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "169.254.169.254:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "0.0.0.0:80",
            "0.1.2.3:80",
            "10.0.1.5:0",
            "[::1]:80",
            "[fe80::1]:80",
            "[ff02::1]:80",
            "[::]:80",
            "[::ffff:127.0.0.1]:80",
            "[::ffff:169.254.169.254]:80",
            "10.0.1.9:80",
            "10.0.9.1:9000",
        ] {
            assert_eq!(code(&slice(address)), Some(RefusalCode::Forbidden), "{address}");
        }
    }
}
