//! acm by boto3: certificates are imported, described, replaced and deleted, and their keys do not come out again.

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P384_SHA384, date_time_ymd};
use serde_json::{Value, json};

use super::served::Served;

/// A self-signed certificate and its key, PEM.
pub(super) fn issue(name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned(), format!("*.{name}")]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_after = date_time_ymd(2100, 1, 1);
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

impl Served {
    fn acm(&self, operation: &str, params: Value) -> Value {
        self.aws.call("acm", operation, params).unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    #[track_caller]
    fn acm_refused(&self, operation: &str, params: Value, code: &str, word: &str) {
        let rows = self.rows();
        let error = self.aws.call("acm", operation, params).expect_err(operation);
        assert!(error.code == code && error.message.contains(word), "{operation}: {error}");
        assert_eq!(self.rows(), rows, "{operation} changed something");
    }
}

#[test]
fn an_imported_certificate_is_described_replaced_and_deleted() {
    let served = Served::start();
    let (certificate, key) = issue("demo.test", |_| {});
    let tags = json!([{"Key": "team", "Value": "edge"}]);
    let import = json!({"Certificate": certificate, "PrivateKey": key, "Tags": tags});
    let arn = served.acm("ImportCertificate", import)["CertificateArn"].clone();
    assert!(arn.as_str().unwrap().starts_with("arn:aws:acm:eu-central-1:000000000000:certificate/"), "{arn}");

    let named = json!({"CertificateArn": arn});
    let described = served.acm("DescribeCertificate", named.clone())["Certificate"].clone();
    assert_eq!(described["DomainName"], "demo.test");
    assert_eq!(described["SubjectAlternativeNames"], json!(["demo.test", "*.demo.test"]));
    assert_eq!(described["KeyAlgorithm"], "EC_secp384r1");
    assert_eq!(described["SignatureAlgorithm"], "SHA384WITHECDSA");
    assert_eq!((&described["Status"], &described["Type"]), (&json!("ISSUED"), &json!("IMPORTED")));
    assert_eq!(described["NotAfter"], 4_102_444_800.0);
    assert_eq!(served.acm("ListTagsForCertificate", named.clone())["Tags"], tags);

    let (renewed, renewed_key) = issue("demo.test", |_| {});
    let again = json!({"Certificate": renewed, "PrivateKey": renewed_key, "CertificateArn": arn});
    assert_eq!(served.acm("ImportCertificate", again)["CertificateArn"], arn);
    assert_eq!(served.acm("GetCertificate", named.clone()), json!({"Certificate": renewed}));
    let listed = served.acm("ListCertificates", json!({"CertificateStatuses": ["ISSUED"]}));
    assert_eq!(listed["CertificateSummaryList"].as_array().unwrap().len(), 1);
    assert_eq!(served.acm("ListTagsForCertificate", named.clone())["Tags"], tags, "tags stay");

    served.acm("DeleteCertificate", named.clone());
    served.acm_refused(
        "DescribeCertificate",
        named,
        "ResourceNotFoundException",
        "Could not find certificate",
    );
    assert_eq!(served.rows(), 0);
}

#[test]
fn what_does_not_fit_together_is_refused_and_said() {
    let served = Served::start();
    let (certificate, key) = issue("demo.test", |_| {});
    let (other, other_key) = issue("other.test", |_| {});
    let (expired, expired_key) = issue("old.test", |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    for (certificate, key, chain, word) in [
        (certificate.as_str(), other_key.as_str(), None, "does not match"),
        ("garbage", &key, None, "The certificate is not"),
        (&certificate, "garbage", None, "The private key is not"),
        (&certificate, &key, Some("garbage"), "The certificate chain is not"),
        (&format!("{certificate}{other}"), &key, None, "more than one certificate"),
        (&expired, &expired_key, None, "expired"),
    ] {
        let mut import = json!({"Certificate": certificate, "PrivateKey": key});
        if let Some(chain) = chain {
            import["CertificateChain"] = chain.into();
        }
        served.acm_refused("ImportCertificate", import, "ValidationException", word);
    }
    served.acm_refused(
        "ImportCertificate",
        json!({"Certificate": certificate}),
        "ValidationException",
        "privateKey",
    );
    let gone = "arn:aws:acm:eu-central-1:000000000000:certificate/00000000-0000-4000-8000-000000000000";
    let import = json!({"Certificate": certificate, "PrivateKey": key, "CertificateArn": gone});
    served.acm_refused("ImportCertificate", import, "ResourceNotFoundException", gone);
}
