//! acm: certificates that clients import.
//!
//! The private key is checked and sealed before the operation runs, so the state and the writer never see it open.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    imported::{self, Facts},
    operation, paging,
    timestamp::seconds,
};
use crate::{
    identity::seal::Seal,
    model::{
        certificate::{Certificate, Sealed},
        id::{Arn, TimestampMs},
        load_balancer::Listener,
        network::{Tag, Tags},
        state::Draft,
    },
};

/// The operations on certificates.
pub const OPERATIONS: &[Entry] = &[
    operation!("ImportCertificate", import),
    operation!("DescribeCertificate", describe),
    operation!("ListCertificates", list),
    operation!("GetCertificate", export),
    operation!("DeleteCertificate", delete),
    operation!("AddTagsToCertificate", add_tags),
    operation!("RemoveTagsFromCertificate", remove_tags),
    operation!("ListTagsForCertificate", list_tags),
];

/// Checks what ImportCertificate brings, and seals the private key.
///
/// # Errors
/// A validation error when certificate, key and chain do not fit.
pub(super) fn prepare_import(seal: &Seal, mut input: Value) -> Result<Value, ApiError> {
    let text = |name: &str| match input.get(name).and_then(Value::as_str) {
        Some(text) => pem(text).map(Some),
        None => Ok(None),
    };
    let certificate = text("Certificate")?.ok_or_else(|| ApiError::missing("Certificate"))?;
    let key = text("PrivateKey")?.ok_or_else(|| ApiError::missing("PrivateKey"))?;
    imported::check(&certificate, &key, text("CertificateChain")?.as_deref())?;
    let sealed = seal.seal(key.as_bytes()).map_err(|error| {
        tracing::error!(%error, "an imported key could not be sealed");
        ApiError::internal()
    })?;
    input["PrivateKey"] = json!(sealed);
    Ok(input)
}

/// A blob that holds text.
fn pem(base64: &str) -> Result<String, ApiError> {
    let bytes = BASE64_STANDARD.decode(base64).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| ApiError::validation("A certificate or key is not in a valid PEM format"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagForm {
    key: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImportInput {
    certificate: String,
    private_key: Sealed,
    certificate_chain: Option<String>,
    certificate_arn: Option<String>,
    #[serde(default)]
    tags: Vec<TagForm>,
}

fn import(draft: &mut Draft, caller: &Caller, input: ImportInput) -> Result<Value, ApiError> {
    let certificate_pem = pem(&input.certificate)?;
    let facts = imported::facts(&certificate_pem)?;
    let not_after = milliseconds(facts.not_after_s);
    if not_after <= draft.now() {
        return Err(ApiError::validation("The certificate has expired"));
    }
    let (arn, tags) = match input.certificate_arn {
        Some(_) if !input.tags.is_empty() => {
            return Err(ApiError::validation("You cannot apply tags when reimporting a certificate"));
        }
        Some(arn) => {
            let held = find(draft, &arn)?;
            (held.arn, held.tags)
        }
        None if draft.state().certificates.len() >= CERTIFICATES_MAX => {
            let message = format!("There are at most {CERTIFICATES_MAX} certificates.");
            return Err(ApiError::limit("LimitExceededException", message));
        }
        None => {
            let mut tags = Tags::new();
            set_tags(&mut tags, &input.tags)?;
            let id = draft.uuid();
            (Arn::new("acm", &caller.region, &caller.account, format_args!("certificate/{id}")), tags)
        }
    };
    let certificate = Certificate {
        arn: arn.clone(),
        certificate_pem,
        chain_pem: input.certificate_chain.as_deref().map(pem).transpose()?.unwrap_or_default(),
        sealed_key: input.private_key,
        domain_name: facts.domain_name,
        subject_alternative_names: facts.names,
        not_after,
        imported_at: draft.now(),
        tags,
    };
    draft.put(certificate);
    Ok(json!({"CertificateArn": arn}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NamedInput {
    certificate_arn: String,
}

fn describe(draft: &mut Draft, _: &Caller, input: NamedInput) -> Result<Value, ApiError> {
    let certificate = find(draft, &input.certificate_arn)?;
    let facts = imported::facts(&certificate.certificate_pem)?;
    Ok(json!({"Certificate": {
        "CertificateArn": certificate.arn,
        "DomainName": certificate.domain_name,
        "SubjectAlternativeNames": certificate.subject_alternative_names,
        "Serial": facts.serial,
        "Subject": facts.subject,
        "Issuer": facts.issuer,
        "ImportedAt": seconds(certificate.imported_at),
        "CreatedAt": seconds(certificate.imported_at),
        "Status": status(draft, &certificate),
        "NotBefore": facts.not_before_s,
        "NotAfter": facts.not_after_s,
        "KeyAlgorithm": facts.key_algorithm,
        "SignatureAlgorithm": facts.signature_algorithm,
        "InUseBy": in_use_by(draft, &certificate.arn),
        "Type": "IMPORTED",
        "RenewalEligibility": "INELIGIBLE",
        "Options": {"CertificateTransparencyLoggingPreference": "DISABLED"},
    }}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListInput {
    #[serde(default)]
    certificate_statuses: Vec<String>,
    #[serde(default)]
    includes: Includes,
    max_items: Option<u32>,
    next_token: Option<String>,
}

#[derive(Default, Deserialize)]
struct Includes {
    #[serde(rename = "keyTypes", default)]
    key_types: Vec<String>,
}

fn list(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<Value, ApiError> {
    let mut rows = Vec::new();
    for certificate in draft.all::<Certificate>() {
        let status = status(draft, certificate);
        let facts = imported::facts(&certificate.certificate_pem)?;
        let is_wanted =
            |wanted: &[String], value: &str| wanted.is_empty() || wanted.iter().any(|w| w == value);
        if !is_wanted(&input.certificate_statuses, status)
            || !is_wanted(&input.includes.key_types, &facts.key_algorithm)
        {
            continue;
        }
        rows.push((certificate.arn.0.clone(), summary(draft, certificate, &facts, status)));
    }
    let (rows, next) = paging::page(rows, input.next_token.as_deref(), input.max_items, PAGE_MAX)?;
    Ok(json!({"CertificateSummaryList": rows, "NextToken": next}))
}

fn summary(draft: &Draft, certificate: &Certificate, facts: &Facts, status: &str) -> Value {
    json!({
        "CertificateArn": certificate.arn,
        "DomainName": certificate.domain_name,
        "SubjectAlternativeNameSummaries": certificate.subject_alternative_names,
        "HasAdditionalSubjectAlternativeNames": false,
        "Status": status,
        "Type": "IMPORTED",
        "KeyAlgorithm": facts.key_algorithm,
        "InUse": !in_use_by(draft, &certificate.arn).is_empty(),
        "RenewalEligibility": "INELIGIBLE",
        "NotBefore": facts.not_before_s,
        "NotAfter": facts.not_after_s,
        "CreatedAt": seconds(certificate.imported_at),
        "ImportedAt": seconds(certificate.imported_at),
    })
}

fn export(draft: &mut Draft, _: &Caller, input: NamedInput) -> Result<Value, ApiError> {
    let certificate = find(draft, &input.certificate_arn)?;
    let chain = (!certificate.chain_pem.is_empty()).then_some(&certificate.chain_pem);
    Ok(json!({"Certificate": certificate.certificate_pem, "CertificateChain": chain}))
}

fn delete(draft: &mut Draft, _: &Caller, input: NamedInput) -> Result<Value, ApiError> {
    let certificate = find(draft, &input.certificate_arn)?;
    if !in_use_by(draft, &certificate.arn).is_empty() {
        return Err(ApiError::conflict(
            "ResourceInUseException",
            format!("Certificate {} is in use.", certificate.arn),
        ));
    }
    draft.remove::<Certificate>(certificate.arn.as_str());
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagsInput {
    certificate_arn: String,
    tags: Vec<TagForm>,
}

fn add_tags(draft: &mut Draft, _: &Caller, input: TagsInput) -> Result<Value, ApiError> {
    let mut certificate = find(draft, &input.certificate_arn)?;
    set_tags(&mut certificate.tags, &input.tags)?;
    draft.put(certificate);
    Ok(json!({}))
}

fn remove_tags(draft: &mut Draft, _: &Caller, input: TagsInput) -> Result<Value, ApiError> {
    let mut certificate = find(draft, &input.certificate_arn)?;
    let names = |given: &TagForm, held: &Tag| {
        given.key == held.key && given.value.as_ref().is_none_or(|value| *value == held.value)
    };
    certificate.tags.retain(|held| !input.tags.iter().any(|given| names(given, held)));
    draft.put(certificate);
    Ok(json!({}))
}

fn list_tags(draft: &mut Draft, _: &Caller, input: NamedInput) -> Result<Value, ApiError> {
    let certificate = find(draft, &input.certificate_arn)?;
    let tags: Vec<_> =
        certificate.tags.iter().map(|tag| json!({"Key": tag.key, "Value": tag.value})).collect();
    Ok(json!({"Tags": tags}))
}

fn set_tags(tags: &mut Tags, given: &[TagForm]) -> Result<(), ApiError> {
    for tag in given {
        let value = tag.value.clone().unwrap_or_default();
        match tags.iter_mut().find(|held| held.key == tag.key) {
            Some(held) => held.value = value,
            None => tags.push(Tag { key: tag.key.clone(), value }),
        }
    }
    if tags.len() > TAGS_MAX {
        let message = format!("A certificate has at most {TAGS_MAX} tags.");
        return Err(ApiError::limit("TooManyTagsException", message));
    }
    Ok(())
}

fn find(draft: &Draft, arn: &str) -> Result<Certificate, ApiError> {
    draft.one::<Certificate>(arn).map(|row| Certificate::clone(row)).ok_or_else(|| {
        ApiError::not_found("ResourceNotFoundException", format!("Could not find certificate {arn}."))
    })
}

fn status(draft: &Draft, certificate: &Certificate) -> &'static str {
    if certificate.not_after <= draft.now() { "EXPIRED" } else { "ISSUED" }
}

/// The load balancers whose listeners present the certificate.
fn in_use_by(draft: &Draft, arn: &Arn) -> Vec<Arn> {
    let listeners = draft.all::<Listener>().filter(|listener| listener.certificates.contains(arn));
    let mut users: Vec<_> = listeners.map(|listener| listener.load_balancer_arn.clone()).collect();
    users.sort();
    users.dedup();
    users
}

fn milliseconds(seconds: i64) -> TimestampMs {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

/// AWS's quota of imported certificates.
const CERTIFICATES_MAX: usize = 2500;
/// AWS's limit.
const TAGS_MAX: usize = 50;
/// AWS's limit for one page.
const PAGE_MAX: u32 = 1000;
