//! TLS security policies under AWS's names, and what of each is offered here.
//!
//! rustls speaks TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only. A policy is offered when all
//! its protocol versions can be, and with those of its cipher suites that can: a client that meets it gets nothing
//! weaker than the name promises. Policies that exist for what cannot be offered are refused by name, with the reason.

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs as crypto},
    version::{TLS12, TLS13},
};

/// A policy that is offered.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsPolicy {
    /// AWS's name.
    pub name: &'static str,
    /// Whether TLS 1.2 is spoken.
    pub tls12: bool,
    /// Whether TLS 1.3 is spoken.
    pub tls13: bool,
    /// Whether hybrid key exchange with ML-KEM is offered, before the classical ones.
    pub post_quantum: bool,
}

/// The policy of this name, if it is offered.
pub fn find(name: &str) -> Option<&'static TlsPolicy> {
    OFFERED.iter().find(|policy| policy.name == name)
}

/// Why a policy that AWS has is not offered here; `None` for one that is, or that AWS does not have either.
pub fn refusal(name: &str) -> Option<&'static str> {
    let of = |names: &[&str]| names.contains(&name);
    if of(OLD_VERSIONS) {
        Some("it needs TLS 1.0 or 1.1, which this endpoint does not speak")
    } else if of(OLD_CIPHERS) {
        Some("it exists for cipher suites without forward secrecy, which this endpoint does not offer")
    } else if name.contains("-FIPS-") {
        Some("it needs a FIPS-validated module, which this endpoint does not have")
    } else {
        None
    }
}

impl TlsPolicy {
    /// SslProtocols.
    pub fn protocols(&self) -> Vec<&'static str> {
        [(self.tls12, "TLSv1.2"), (self.tls13, "TLSv1.3")]
            .into_iter()
            .filter_map(|(is_spoken, name)| is_spoken.then_some(name))
            .collect()
    }

    /// Cipher suites by OpenSSL's names, the preferred first.
    pub fn ciphers(&self) -> Vec<&'static str> {
        self.suites().map(|(name, _)| name).collect()
    }

    /// The versions, for rustls.
    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        [(self.tls12, &TLS12), (self.tls13, &TLS13)]
            .into_iter()
            .filter_map(|(is_spoken, version)| is_spoken.then_some(version))
            .collect()
    }

    /// The cryptography, for rustls.
    pub(super) fn provider(&self) -> CryptoProvider {
        CryptoProvider {
            cipher_suites: self.suites().map(|(_, suite)| suite).collect(),
            kx_groups: self.key_exchanges(),
            ..crypto::default_provider()
        }
    }

    fn suites(&self) -> impl Iterator<Item = (&'static str, SupportedCipherSuite)> {
        use rustls::crypto::aws_lc_rs::cipher_suite as suite;
        let all = [
            ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
            ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
            ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
            ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
            ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
            ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
            ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        ];
        let (tls12, tls13) = (self.tls12, self.tls13);
        all.into_iter().filter(move |(_, suite)| match suite {
            SupportedCipherSuite::Tls12(_) => tls12,
            SupportedCipherSuite::Tls13(_) => tls13,
        })
    }

    fn key_exchanges(&self) -> Vec<&'static dyn SupportedKxGroup> {
        use rustls::crypto::aws_lc_rs::kx_group;
        // AWS has SecP384r1MLKEM1024 as well, which rustls does not.
        let hybrid = [kx_group::X25519MLKEM768, kx_group::SECP256R1MLKEM768];
        let classical = [kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
        let hybrid = hybrid.into_iter().filter(|_| self.post_quantum);
        hybrid.chain(classical).collect()
    }
}

/// What a listener without SslPolicy gets: the newest that AWS's console proposed and that is offered here as it is
/// there. AWS's API itself still answers `ELBSecurityPolicy-2016-08`, which begins at TLS 1.0.
pub const DEFAULT: &str = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06";

const fn offered(name: &'static str, tls12: bool, tls13: bool, post_quantum: bool) -> TlsPolicy {
    TlsPolicy { name, tls12, tls13, post_quantum }
}

/// In the order of their names, as pages need it. Those that are not `Res` or `1-3` have cipher suites in CBC mode at
/// AWS, and without forward secrecy `TLS-1-2-2017-01`: these are left out.
pub const OFFERED: &[TlsPolicy] = &[
    offered("ELBSecurityPolicy-FS-1-2-2019-08", true, false, false),
    offered("ELBSecurityPolicy-FS-1-2-Res-2019-08", true, false, false),
    offered("ELBSecurityPolicy-FS-1-2-Res-2020-10", true, false, false),
    offered("ELBSecurityPolicy-TLS-1-2-2017-01", true, false, false),
    offered("ELBSecurityPolicy-TLS13-1-2-2021-06", true, true, false),
    offered("ELBSecurityPolicy-TLS13-1-2-PQ-2025-09", true, true, true),
    offered(DEFAULT, true, true, false),
    offered("ELBSecurityPolicy-TLS13-1-2-Res-PQ-2025-09", true, true, true),
    offered("ELBSecurityPolicy-TLS13-1-3-2021-06", false, true, false),
    offered("ELBSecurityPolicy-TLS13-1-3-PQ-2025-09", false, true, true),
];

/// Policies that name TLS 1.0 or 1.1.
const OLD_VERSIONS: &[&str] = &[
    "ELBSecurityPolicy-2015-05",
    "ELBSecurityPolicy-2016-08",
    "ELBSecurityPolicy-FS-1-1-2019-08",
    "ELBSecurityPolicy-FS-2018-06",
    "ELBSecurityPolicy-TLS-1-0-2015-04",
    "ELBSecurityPolicy-TLS-1-1-2017-01",
    "ELBSecurityPolicy-TLS13-1-0-2021-06",
    "ELBSecurityPolicy-TLS13-1-0-PQ-2025-09",
    "ELBSecurityPolicy-TLS13-1-1-2021-06",
];

/// Policies that add to others what is older than ECDHE.
const OLD_CIPHERS: &[&str] = &[
    "ELBSecurityPolicy-TLS-1-2-Ext-2018-06",
    "ELBSecurityPolicy-TLS13-1-2-Ext1-2021-06",
    "ELBSecurityPolicy-TLS13-1-2-Ext1-PQ-2025-09",
    "ELBSecurityPolicy-TLS13-1-2-Ext2-2021-06",
    "ELBSecurityPolicy-TLS13-1-2-Ext2-PQ-2025-09",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_come_in_the_order_that_pages_need_and_the_default_is_one() {
        assert!(OFFERED.is_sorted_by_key(|policy| policy.name));
        assert!(find(DEFAULT).is_some());
    }

    #[test]
    fn a_policy_offers_its_versions_and_only_their_suites() {
        let policy = find("ELBSecurityPolicy-TLS13-1-3-2021-06").unwrap();
        assert_eq!(policy.protocols(), ["TLSv1.3"]);
        assert!(policy.ciphers().iter().all(|name| name.starts_with("TLS_")));
        let policy = find("ELBSecurityPolicy-FS-1-2-Res-2020-10").unwrap();
        assert_eq!(policy.protocols(), ["TLSv1.2"]);
        assert_eq!(policy.ciphers().len(), 4);
        assert_eq!(find(DEFAULT).unwrap().ciphers().len(), 7);
    }

    #[test]
    fn what_cannot_be_offered_says_why_and_is_not_offered() {
        for name in
            OLD_VERSIONS.iter().chain(OLD_CIPHERS).chain(&["ELBSecurityPolicy-TLS13-1-3-FIPS-2023-04"])
        {
            assert!(refusal(name).is_some() && find(name).is_none(), "{name}");
        }
        assert!(OFFERED.iter().all(|policy| refusal(policy.name).is_none()));
        assert_eq!(refusal("ELBSecurityPolicy-Mine"), None);
    }

    #[test]
    fn only_post_quantum_policies_exchange_keys_with_ml_kem() {
        for policy in OFFERED {
            let names = policy.key_exchanges();
            let hybrid = names.iter().filter(|group| format!("{:?}", group.name()).contains("MLKEM")).count();
            assert_eq!(hybrid > 0, policy.post_quantum, "{}", policy.name);
        }
    }
}
