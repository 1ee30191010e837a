//! The state's issued certificates, kept as they should be: one for the front door, one for the gateway, one for each
//! VPC link.
//!
//! Runs over a draft of the state, so that what it issues is durable before any role sees it. Does nothing when
//! everything is as it should be, and says when to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::{
    authority::{Authorities, AuthorityError},
    name::RoleName,
    renewal,
    seal::{Seal, SealError},
    tls,
};
use crate::{
    model::{
        Draft,
        api::{Api, VpcLink},
        certificate::IssuedCertificate,
        id::TimestampMs,
    },
    snapshot::gateway::RoleCertificate,
};

/// What certificates are issued for, beside what stands in the state.
#[derive(Debug, Clone)]
pub struct Names {
    /// The appliance's name.
    pub appliance: String,
    /// Suffix of default host names.
    pub domain_suffix: String,
    /// The gateway's name, as in the links' list of gateways.
    pub gateway: String,
}

/// Why a certificate could not be issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// It could not be signed.
    #[error("signing the certificate of {subject}")]
    Sign {
        /// Whose.
        subject: String,
        /// Why.
        #[source]
        source: AuthorityError,
    },
    /// Its key could not be sealed.
    #[error("sealing the key of {subject}")]
    Seal {
        /// Whose.
        subject: String,
        /// Why.
        #[source]
        source: SealError,
    },
}

/// Issues what is missing, out of date or soon to end, and removes what belongs to nothing any more.
/// Answers when the next certificate is to be renewed.
///
/// # Errors
/// When a certificate could not be made; the draft is then to be dropped.
pub fn reconcile(
    draft: &mut Draft,
    authorities: &Authorities,
    seal: &Seal,
    names: &Names,
) -> Result<TimestampMs, IssueError> {
    let wanted = wanted(draft, names);
    let surplus: Vec<String> = draft
        .all::<IssuedCertificate>()
        .map(|row| row.subject.clone())
        .filter(|subject| !wanted.contains_key(subject))
        .collect();
    for subject in surplus {
        draft.remove::<IssuedCertificate>(&subject);
    }
    let now = draft.now();
    let mut next = TimestampMs::MAX;
    for (subject, want) in wanted {
        let lifetime = want.lifetime();
        let not_after = match draft.one::<IssuedCertificate>(&subject) {
            Some(row) if !should_issue(row, &want, authorities, seal, now) => row.not_after,
            _ => {
                let not_after = renewal::not_after(lifetime, now);
                let leaf = want
                    .sign(authorities, now)
                    .map_err(|source| IssueError::Sign { subject: subject.clone(), source })?;
                let sealed_key = seal
                    .seal(leaf.key_pem.as_bytes())
                    .map_err(|source| IssueError::Seal { subject: subject.clone(), source })?;
                draft.put(IssuedCertificate { subject, chain_pem: leaf.chain_pem, sealed_key, not_after });
                not_after
            }
        };
        next = next.min(renewal::renew_at(lifetime, not_after));
    }
    Ok(next)
}

/// What a certificate should say.
enum Want {
    FrontDoor(BTreeSet<String>),
    Role(RoleName),
}

impl Want {
    fn lifetime(&self) -> Duration {
        match self {
            Self::FrontDoor(_) => renewal::FRONT_DOOR_LIFETIME,
            Self::Role(_) => renewal::IDENTITY_LIFETIME,
        }
    }

    fn sign(&self, authorities: &Authorities, now: TimestampMs) -> Result<RoleCertificate, AuthorityError> {
        match self {
            Self::FrontDoor(hosts) => authorities.front_door.issue_server(hosts, &[], now),
            Self::Role(name) => authorities.identity.issue_role(name, now),
        }
    }

    fn root_pem<'a>(&self, authorities: &'a Authorities) -> &'a str {
        match self {
            Self::FrontDoor(_) => authorities.front_door.root_pem(),
            Self::Role(_) => authorities.identity.root_pem(),
        }
    }

    fn is_named_in(&self, leaf: &[u8]) -> bool {
        match self {
            Self::FrontDoor(hosts) => dns_names(leaf).is_some_and(|names| names == *hosts),
            Self::Role(name) => RoleName::of_certificate(leaf).is_some_and(|own| own == *name),
        }
    }
}

fn wanted(draft: &Draft, names: &Names) -> BTreeMap<String, Want> {
    let mut hosts: BTreeSet<String> = draft
        .all::<Api>()
        .map(|api| format!("*.execute-api.{}.{}", api.region, names.domain_suffix))
        .collect();
    // The gateway listens, and links attach, before the first API exists.
    hosts.insert("localhost".to_owned());
    let gateway = RoleName::gateway(&names.appliance, &names.gateway);
    let mut wanted = BTreeMap::from([
        ("front-door".to_owned(), Want::FrontDoor(hosts)),
        ("gateway".to_owned(), Want::Role(gateway)),
    ]);
    for link in draft.all::<VpcLink>() {
        let name = RoleName::vpc_link(&names.appliance, &link.id);
        wanted.insert(format!("link/{}", link.id), Want::Role(name));
    }
    wanted
}

/// A new leaf is due when it nears its end, has other names, another CA, or a key that nobody can open.
fn should_issue(
    row: &IssuedCertificate,
    want: &Want,
    authorities: &Authorities,
    seal: &Seal,
    now: TimestampMs,
) -> bool {
    let is_of_root = row.chain_pem.ends_with(want.root_pem(authorities));
    let is_named = tls::chain(&row.chain_pem)
        .is_ok_and(|chain| chain.first().is_some_and(|leaf| want.is_named_in(leaf)));
    renewal::should_renew(want.lifetime(), row.not_after, now)
        || !is_of_root
        || !is_named
        || seal.unseal(&row.sealed_key).is_err()
}

fn dns_names(leaf: &[u8]) -> Option<BTreeSet<String>> {
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(leaf).ok()?;
    let names = &leaf.subject_alternative_name().ok()??.value.general_names;
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    Some(names.iter().filter_map(dns).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::authority::FrontDoorNames;
    use crate::model::{State, api::VpcLinkStatus, id::VpcLinkId};

    const NOW: TimestampMs = 1_800_000_000_000;

    struct Issuer {
        authorities: Authorities,
        seal: Seal,
        names: Names,
        state: State,
        // Removed with the test.
        _directory: tempfile::TempDir,
    }

    impl Issuer {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let names = FrontDoorNames { domain_suffix: "amazonaws.com".to_owned(), ..Default::default() };
            Self {
                authorities: Authorities::open(directory.path(), &names, NOW).unwrap(),
                seal: Seal::open(&directory.path().join("seal.key")).unwrap(),
                names: Names {
                    appliance: "lab".to_owned(),
                    domain_suffix: "amazonaws.com".to_owned(),
                    gateway: "gw".to_owned(),
                },
                state: State::default(),
                _directory: directory,
            }
        }

        /// Reconciles after `change`; answers whether anything was issued or removed, and the next wake-up.
        fn run(&mut self, now: TimestampMs, change: impl FnOnce(&mut Draft)) -> (bool, TimestampMs) {
            let mut draft = Draft::new(self.state.clone(), now, [1; 32]);
            change(&mut draft);
            self.state = draft.finish().0;
            let mut draft = Draft::new(self.state.clone(), now, [2; 32]);
            let next = reconcile(&mut draft, &self.authorities, &self.seal, &self.names).unwrap();
            let changed = draft.is_changed();
            self.state = draft.finish().0;
            (changed, next)
        }

        fn subjects(&self) -> Vec<String> {
            self.state.issued_certificates.keys().cloned().collect()
        }

        fn front_door_hosts(&self) -> BTreeSet<String> {
            let chain = tls::chain(&self.state.issued_certificates["front-door"].chain_pem).unwrap();
            dns_names(&chain[0]).unwrap()
        }
    }

    fn link(id: &str) -> VpcLink {
        VpcLink {
            id: VpcLinkId::from(id),
            name: id.to_owned(),
            subnet_ids: Vec::new(),
            security_group_ids: Vec::new(),
            interface_ids: Vec::new(),
            status: VpcLinkStatus::Pending,
            status_message: String::new(),
            created_at: NOW,
            deleting_since: None,
            tags: BTreeMap::new(),
        }
    }

    fn api(id: &str, region: &str) -> Api {
        Api {
            id: id.into(),
            name: id.to_owned(),
            description: None,
            region: region.to_owned(),
            disable_execute_api_endpoint: false,
            route_selection_expression: String::new(),
            version: None,
            created_at: NOW,
            tags: BTreeMap::new(),
        }
    }

    #[test]
    fn certificates_are_issued_once_and_removed_with_their_link() {
        let mut issuer = Issuer::new();
        assert!(issuer.run(NOW, |draft| draft.put(link("abc123"))).0);
        assert_eq!(issuer.subjects(), ["front-door", "gateway", "link/abc123"]);
        assert!(!issuer.run(NOW, |_| {}).0, "nothing to do");
        issuer.run(NOW, |draft| {
            draft.remove::<VpcLink>("abc123");
        });
        assert_eq!(issuer.subjects(), ["front-door", "gateway"]);
    }

    #[test]
    fn a_new_region_is_added_to_the_front_door() {
        let mut issuer = Issuer::new();
        issuer.run(NOW, |draft| draft.put(api("one", "eu-central-1")));
        assert!(issuer.run(NOW, |draft| draft.put(api("two", "us-east-1"))).0);
        assert!(issuer.front_door_hosts().contains("*.execute-api.us-east-1.amazonaws.com"));
        assert!(!issuer.run(NOW, |draft| draft.put(api("three", "us-east-1"))).0, "covered already");
    }

    #[test]
    fn a_certificate_is_renewed_when_the_answer_said_so() {
        let mut issuer = Issuer::new();
        let (_, next) = issuer.run(NOW, |_| {});
        assert!(!issuer.run(next - 1, |_| {}).0);
        let (changed, later) = issuer.run(next, |_| {});
        assert!(changed && later > next);
    }

    #[test]
    fn certificates_of_a_lost_ca_or_seal_are_issued_anew() {
        let mut issuer = Issuer::new();
        issuer.run(NOW, |_| {});
        let other = Issuer::new();
        issuer.authorities = other.authorities;
        assert!(issuer.run(NOW, |_| {}).0);
        issuer.seal = other.seal;
        assert!(issuer.run(NOW, |_| {}).0);
        assert!(!issuer.run(NOW, |_| {}).0);
    }
}
