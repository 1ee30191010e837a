//! Names of roles: `spiffe://gatehouse.<appliance>/gateway/<name>` and `…/vpc-link/<id>`.
//!
//! A name stands in a leaf of the identity CA as its one URI. Who holds the leaf may call itself that and nothing else.

use std::fmt;

use x509_parser::{extensions::GeneralName, prelude::FromDer};

use crate::model::id::VpcLinkId;

/// A role's name within its appliance.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleName {
    /// The appliance.
    pub appliance: String,
    /// Which role of it.
    pub role: RoleKind,
}

/// The roles that meet over the network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleKind {
    /// A gateway, by name.
    Gateway(String),
    /// The agents of a VPC link.
    VpcLink(VpcLinkId),
}

impl RoleName {
    /// A gateway's.
    pub fn gateway(appliance: &str, name: &str) -> Self {
        Self { appliance: appliance.to_owned(), role: RoleKind::Gateway(name.to_owned()) }
    }

    /// A link's.
    pub fn vpc_link(appliance: &str, link: &VpcLinkId) -> Self {
        Self { appliance: appliance.to_owned(), role: RoleKind::VpcLink(link.clone()) }
    }

    /// Reads a URI; `None` unless it has exactly one of the two forms.
    pub fn parse(uri: &str) -> Option<Self> {
        let (appliance, path) = uri.strip_prefix(SCHEME)?.split_once('/')?;
        let (kind, name) = path.split_once('/')?;
        if !is_label(appliance) || !is_label(name) {
            return None;
        }
        let role = match kind {
            "gateway" => RoleKind::Gateway(name.to_owned()),
            "vpc-link" => RoleKind::VpcLink(VpcLinkId::from(name)),
            _ => return None,
        };
        Some(Self { appliance: appliance.to_owned(), role })
    }

    /// The name in a leaf, which the caller has verified; `None` when its names are not exactly one role's.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
        let names = &leaf.subject_alternative_name().ok()??.value.general_names;
        match names.as_slice() {
            [GeneralName::URI(uri)] => Self::parse(uri),
            _ => None,
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            RoleKind::Gateway(name) => write!(f, "{SCHEME}{}/gateway/{name}", self.appliance),
            RoleKind::VpcLink(id) => write!(f, "{SCHEME}{}/vpc-link/{id}", self.appliance),
        }
    }
}

fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_LABEL
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The trust domain is `gatehouse.<appliance>`: roles of two appliances never take each other for their own.
const SCHEME: &str = "spiffe://gatehouse.";
/// SPIFFE limits a whole id to 2,048 bytes; ours are names of hosts and ids.
const LONGEST_LABEL: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_it_was_written() {
        for name in [RoleName::gateway("lab", "gw-1"), RoleName::vpc_link("lab", &VpcLinkId::from("abc123"))]
        {
            assert_eq!(RoleName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(RoleName::gateway("lab", "a").to_string(), "spiffe://gatehouse.lab/gateway/a");
    }

    #[test]
    fn a_uri_of_another_form_is_no_name() {
        for uri in [
            "spiffe://other.lab/gateway/a",
            "spiffe://gatehouse./gateway/a",
            "spiffe://gatehouse.lab/gateway/",
            "spiffe://gatehouse.lab/gateway/a/b",
            "spiffe://gatehouse.lab/control/a",
            "spiffe://gatehouse.lab/gateway/a b",
            "https://gatehouse.lab/gateway/a",
            "",
        ] {
            assert_eq!(RoleName::parse(uri), None, "{uri}");
        }
    }
}
