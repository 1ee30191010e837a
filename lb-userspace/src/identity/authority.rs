//! The two CAs, made at first start, and the leaves that they sign. Their keys stay in control's directory.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType, string::Ia5String,
};
use time::OffsetDateTime;

use super::{
    file::{self, KeyFileError},
    name::{RoleKind, RoleName},
    renewal,
};
use crate::{model::id::TimestampMs, snapshot::gateway::RoleCertificate};

/// Both CAs.
pub struct Authorities {
    /// Signs what clients see; the only root a user trusts.
    pub front_door: Authority,
    /// Signs what gateways and links show each other.
    pub identity: Authority,
}

/// A CA: its certificate and its key.
pub struct Authority {
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What the front-door CA may ever sign, fixed in its certificate when it is made.
#[derive(Debug, Clone, Default)]
pub struct FrontDoorNames {
    /// Suffix of default host names, usually `amazonaws.com`.
    pub domain_suffix: String,
    /// Regions beside AWS's own that APIs may have.
    pub regions: Vec<String>,
    /// Names of the control endpoint.
    pub control_names: Vec<String>,
    /// Addresses of the control endpoint.
    pub control_addresses: Vec<IpAddr>,
}

/// Why a CA could not be opened, or a leaf not signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of control's directory cannot be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// A CA's key file does not hold a key.
    #[error("the CA key {name} is not readable")]
    Key {
        /// `front-door` or `identity`.
        name: &'static str,
    },
    /// A name has letters that no certificate holds.
    #[error("{name:?} cannot stand in a certificate")]
    Name {
        /// The name.
        name: String,
    },
    /// Making or signing failed.
    #[error("making a certificate")]
    Make(#[from] rcgen::Error),
}

impl Authorities {
    /// Opens both CAs in `directory`, making at `now` what is not there.
    ///
    /// # Errors
    /// When a file cannot be used or made.
    pub fn open(directory: &Path, names: &FrontDoorNames, now: TimestampMs) -> Result<Self, AuthorityError> {
        let front_door = Authority::open(directory, "front-door", "Gatehouse front door", Some(names), now)?;
        let identity = Authority::open(directory, "identity", "Gatehouse identity", None, now)?;
        Ok(Self { front_door, identity })
    }
}

impl Authority {
    fn open(
        directory: &Path,
        name: &'static str,
        common_name: &str,
        constraints: Option<&FrontDoorNames>,
        now: TimestampMs,
    ) -> Result<Self, AuthorityError> {
        let key_path = directory.join(format!("{name}-ca.key"));
        let root_path = directory.join(format!("{name}-ca.pem"));
        let key = match file::read_secret(&key_path)? {
            Some(pem) => std::str::from_utf8(&pem)
                .ok()
                .and_then(|pem| KeyPair::from_pem(pem).ok())
                .ok_or(AuthorityError::Key { name })?,
            None => {
                let key = KeyPair::generate()?;
                file::write_secret(&key_path, key.serialize_pem().as_bytes())?;
                key
            }
        };
        let root_pem = match file::read_text(&root_path)? {
            Some(pem) => pem,
            None => {
                let pem = root(common_name, constraints, now)?.self_signed(&key)?.pem();
                file::write_text(&root_path, &pem)?;
                pem
            }
        };
        let issuer = Issuer::from_ca_cert_pem(&root_pem, key)?;
        Ok(Self { root_pem, issuer })
    }

    /// The CA's certificate, PEM: what others trust.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A leaf for servers that clients reach by `dns_names` and `addresses`.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate. A name outside the CA's constraints is signed, and no client
    /// accepts it.
    pub fn issue_server(
        &self,
        dns_names: &BTreeSet<String>,
        addresses: &[IpAddr],
        now: TimestampMs,
    ) -> Result<RoleCertificate, AuthorityError> {
        let mut params =
            leaf("Gatehouse", &[ExtendedKeyUsagePurpose::ServerAuth], renewal::FRONT_DOOR_LIFETIME, now);
        for name in dns_names {
            params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.sign(&params)
    }

    /// A leaf for a role.
    ///
    /// # Errors
    /// When its name cannot stand in a certificate.
    pub fn issue_role(&self, name: &RoleName, now: TimestampMs) -> Result<RoleCertificate, AuthorityError> {
        // Agents dial, so a link is always the client and a gateway always the server.
        let usage = match name.role {
            RoleKind::Gateway(_) => ExtendedKeyUsagePurpose::ServerAuth,
            RoleKind::VpcLink(_) => ExtendedKeyUsagePurpose::ClientAuth,
        };
        let mut params = leaf("Gatehouse role", &[usage], renewal::IDENTITY_LIFETIME, now);
        params.subject_alt_names.push(SanType::URI(ia5(&name.to_string())?));
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Result<RoleCertificate, AuthorityError> {
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(RoleCertificate {
            chain_pem: format!("{}{}", leaf.pem(), self.root_pem),
            key_pem: key.serialize_pem(),
        })
    }
}

fn root(
    common_name: &str,
    constraints: Option<&FrontDoorNames>,
    now: TimestampMs,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(common_name);
    params.not_before = moment(now.saturating_sub(millis(renewal::CLOCK_SKEW)));
    params.not_after = moment(renewal::not_after(renewal::AUTHORITY_LIFETIME, now));
    // Our CAs sign leaves directly.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = constraints
        .map(|names| NameConstraints { permitted_subtrees: permitted(names), excluded_subtrees: Vec::new() });
    Ok(params)
}

fn permitted(names: &FrontDoorNames) -> Vec<GeneralSubtree> {
    let regions: BTreeSet<&str> =
        AWS_REGIONS.iter().copied().chain(names.regions.iter().map(String::as_str)).collect();
    let hosts = regions.iter().map(|region| format!("execute-api.{region}.{}", names.domain_suffix));
    let control: BTreeSet<String> =
        names.control_names.iter().cloned().chain(["localhost".to_owned()]).collect();
    let loopback = [
        CidrSubnet::from_addr_prefix(IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
        CidrSubnet::from_addr_prefix(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    ];
    let own = names
        .control_addresses
        .iter()
        .map(|address| CidrSubnet::from_addr_prefix(*address, if address.is_ipv4() { 32 } else { 128 }));
    hosts
        .chain(control)
        .map(GeneralSubtree::DnsName)
        .chain(loopback.into_iter().chain(own).map(GeneralSubtree::IpAddress))
        .collect()
}

fn leaf(
    common_name: &str,
    usages: &[ExtendedKeyUsagePurpose],
    lifetime: Duration,
    now: TimestampMs,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished(common_name);
    params.not_before = moment(now.saturating_sub(millis(renewal::CLOCK_SKEW)));
    params.not_after = moment(renewal::not_after(lifetime, now));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    params
}

fn distinguished(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn ia5(text: &str) -> Result<Ia5String, AuthorityError> {
    Ia5String::try_from(text).map_err(|_| AuthorityError::Name { name: text.to_owned() })
}

/// X.509 counts seconds, and years to 9999.
fn moment(at: TimestampMs) -> OffsetDateTime {
    i64::try_from(at / 1_000)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// AWS's regions: the front-door CA covers `execute-api.<region>.<suffix>` of these and no more of the suffix, so that
/// trusting it never means trusting it for the rest of `amazonaws.com`.
pub const AWS_REGIONS: &[&str] = &[
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tls::{self, TlsError};
    use rustls::pki_types::{ServerName, UnixTime};

    const NOW: TimestampMs = 1_800_000_000_000;

    fn open(directory: &Path) -> Authorities {
        let names = FrontDoorNames {
            domain_suffix: "amazonaws.com".to_owned(),
            regions: vec!["mars-north-1".to_owned()],
            control_names: vec!["control.lab".to_owned()],
            control_addresses: vec!["10.9.0.1".parse().unwrap()],
        };
        Authorities::open(directory, &names, NOW).unwrap()
    }

    /// Whether a client that trusts the front-door CA accepts a leaf for `name`.
    fn is_accepted(authorities: &Authorities, name: &str) -> bool {
        let (dns, addresses) = match name.parse::<IpAddr>() {
            Ok(address) => (BTreeSet::new(), vec![address]),
            Err(_) => (BTreeSet::from([name.to_owned()]), Vec::new()),
        };
        let leaf = authorities.front_door.issue_server(&dns, &addresses, NOW).unwrap();
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            tls::roots(authorities.front_door.root_pem()).unwrap().into(),
            tls::provider(),
        )
        .build()
        .unwrap();
        let chain = tls::chain(&leaf.chain_pem).unwrap();
        let server = ServerName::try_from(name.replace('*', "abc")).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_millis(NOW));
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &chain[0],
            &[],
            &server,
            &[],
            at,
        )
        .is_ok()
    }

    #[test]
    fn authorities_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let before = open(directory.path());
        let leaf = before.identity.issue_role(&RoleName::gateway("lab", "gw"), NOW).unwrap();
        let after = open(directory.path());
        assert_eq!(before.identity.root_pem(), after.identity.root_pem());
        assert_eq!(before.front_door.root_pem(), after.front_door.root_pem());
        assert!(tls::lane_server(&leaf, after.identity.root_pem()).is_ok());
    }

    #[test]
    fn the_front_door_covers_api_hosts_control_and_loopback() {
        let directory = tempfile::tempdir().unwrap();
        let authorities = open(directory.path());
        for name in [
            "*.execute-api.eu-central-1.amazonaws.com",
            "*.execute-api.mars-north-1.amazonaws.com",
            "localhost",
            "control.lab",
            "127.0.0.1",
            "10.9.0.1",
        ] {
            assert!(is_accepted(&authorities, name), "{name}");
        }
    }

    #[test]
    fn no_client_accepts_the_front_door_ca_for_anything_else() {
        let directory = tempfile::tempdir().unwrap();
        let authorities = open(directory.path());
        for name in ["example.com", "s3.amazonaws.com", "execute-api.amazonaws.com", "10.9.0.2", "192.0.2.1"]
        {
            assert!(!is_accepted(&authorities, name), "{name}");
        }
    }

    #[test]
    fn a_leaf_of_the_front_door_is_no_role() {
        let directory = tempfile::tempdir().unwrap();
        let authorities = open(directory.path());
        let leaf =
            authorities.front_door.issue_server(&BTreeSet::from(["localhost".to_owned()]), &[], NOW).unwrap();
        assert!(matches!(tls::lane_server(&leaf, authorities.identity.root_pem()), Err(TlsError::NotARole)));
    }
}
