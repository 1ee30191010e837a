//! elbv2: what listeners of TLS have besides the others: certificates, a security policy, an ALPN policy.

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry, elbv2::Nothing, listeners, load_balancers::PAGE_MAX, operation, paging::page,
};
use crate::{
    identity::{
        listener_tls::alpn_protocols,
        tls_policy::{self, TlsPolicy},
    },
    model::{
        id::Arn,
        load_balancer::Listener,
        state::{Draft, State},
    },
};

/// The operations on certificates and policies of listeners.
pub const OPERATIONS: &[Entry] = &[
    operation!("AddListenerCertificates", add),
    operation!("RemoveListenerCertificates", remove),
    operation!("DescribeListenerCertificates", describe),
    operation!("DescribeSSLPolicies", describe_policies),
];

/// The members of CreateListener and ModifyListener that are about TLS.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TlsInput {
    ssl_policy: Option<String>,
    certificates: Vec<CertificateForm>,
    alpn_policy: Vec<String>,
    mutual_authentication: Option<MutualAuthentication>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MutualAuthentication {
    mode: Option<String>,
}

/// A certificate on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CertificateForm {
    #[serde(default)]
    certificate_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_default: Option<bool>,
}

/// The default certificate as DescribeListeners answers it.
pub fn default_certificate(listener: &Listener) -> Vec<CertificateForm> {
    let default = listener.certificates.first();
    default
        .map(|arn| CertificateForm { certificate_arn: arn.0.clone(), is_default: None })
        .into_iter()
        .collect()
}

/// Brings a listener's TLS in step with its protocol and what the input changes. What belongs to TLS goes with it.
///
/// # Errors
/// `CertificateNotFound`, `SSLPolicyNotFound`, `ALPNPolicyNotFound`, or a validation error naming the member.
pub fn settle(state: &State, listener: &mut Listener, input: TlsInput) -> Result<(), ApiError> {
    let TlsInput { ssl_policy, certificates, alpn_policy, mutual_authentication } = input;
    let protocol = listener.protocol.clone();
    let refuse = |what: &str, who: &str| {
        Err(ApiError::validation(format!("{what} can be specified only for listeners that use {who}")))
    };
    if mutual_authentication.is_some_and(|mutual| mutual.mode.is_some_and(|mode| mode != "off")) {
        return refuse("Mutual authentication", "HTTPS");
    }
    if protocol != "TLS" && !alpn_policy.is_empty() {
        return refuse("An ALPN policy", "TLS");
    }
    if !matches!(protocol.as_str(), "HTTPS" | "TLS") {
        if ssl_policy.is_some() {
            return refuse("An SSL policy", "HTTPS or TLS");
        }
        if !certificates.is_empty() {
            return refuse("A certificate", "HTTPS or TLS");
        }
        listener.ssl_policy = None;
        listener.certificates.clear();
        listener.alpn_policy.clear();
        return Ok(());
    }
    match certificates.as_slice() {
        [] if listener.certificates.is_empty() => {
            return Err(ApiError::validation(format!(
                "A certificate must be specified for {protocol} listeners"
            )));
        }
        [] => {}
        [given] => {
            let arn = check_certificate(state, given)?;
            match listener.certificates.first_mut() {
                Some(default) => *default = arn,
                None => listener.certificates.push(arn),
            }
        }
        more => {
            return Err(ApiError::validation(format!(
                "Up to '1' certificate ARNs can be specified, but '{}' were specified",
                more.len()
            )));
        }
    }
    let policy = ssl_policy.as_deref().or(listener.ssl_policy.as_deref()).unwrap_or(tls_policy::DEFAULT);
    listener.ssl_policy = Some(check_policy(policy)?.name.to_owned());
    match alpn_policy.as_slice() {
        [] => {}
        [one] if alpn_protocols(one).is_some() => listener.alpn_policy = alpn_policy,
        [one] => {
            return Err(ApiError::not_found(
                "ALPNPolicyNotFound",
                format!(
                    "ALPN policy '{one}' must be one of 'HTTP1Only, HTTP2Only, HTTP2Optional, HTTP2Preferred, None'"
                ),
            ));
        }
        more => {
            return Err(ApiError::validation(format!(
                "Up to '1' ALPN policies can be specified, but '{}' were specified",
                more.len()
            )));
        }
    }
    Ok(())
}

fn check_policy(name: &str) -> Result<&'static TlsPolicy, ApiError> {
    tls_policy::find(name).ok_or_else(|| {
        let why = tls_policy::refusal(name).map(|why| format!(": {why}")).unwrap_or_default();
        ApiError::not_found("SSLPolicyNotFound", format!("SSL policy '{name}' not found{why}"))
    })
}

/// The ARN of a certificate that was imported.
fn check_certificate(state: &State, given: &CertificateForm) -> Result<Arn, ApiError> {
    let CertificateForm { certificate_arn, is_default } = given;
    if is_default.is_some() {
        return Err(ApiError::validation("IsDefault cannot be specified for a certificate"));
    }
    let arn = Arn::from(certificate_arn.as_str());
    let is_certificate = arn.parts().is_some_and(|parts| {
        (parts.service == "acm" && parts.resource.starts_with("certificate/"))
            || (parts.service == "iam" && parts.resource.starts_with("server-certificate/"))
    });
    if !is_certificate {
        return Err(ApiError::validation(format!("'{certificate_arn}' is not a valid certificate ARN")));
    }
    if !state.certificates.contains_key(certificate_arn) {
        return Err(ApiError::not_found(
            "CertificateNotFound",
            format!("Certificate '{certificate_arn}' not found"),
        ));
    }
    Ok(arn)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListInput {
    listener_arn: String,
    certificates: Vec<CertificateForm>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Certificates {
    certificates: Vec<CertificateForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

fn add(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<Certificates, ApiError> {
    let mut listener = with_certificates(draft.state(), &input)?;
    for given in &input.certificates {
        let arn = check_certificate(draft.state(), given)?;
        if !listed(&listener).contains(&arn) {
            listener.certificates.push(arn);
        }
    }
    let others = draft
        .all::<Listener>()
        .filter(|other| other.load_balancer_arn == listener.load_balancer_arn && other.arn != listener.arn);
    let count = others.map(|other| listed(other).len()).sum::<usize>() + listed(&listener).len();
    if count > CERTIFICATES_MAX {
        return Err(ApiError::limit(
            "TooManyCertificates",
            format!("A load balancer can have at most {CERTIFICATES_MAX} certificates besides default ones"),
        ));
    }
    let certificates = input.certificates.iter().map(|given| entry(&given.certificate_arn, false)).collect();
    draft.put(listener);
    Ok(Certificates { certificates, next_marker: None })
}

/// As AWS, succeeds for a certificate that is not on the list.
fn remove(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<Nothing, ApiError> {
    let mut listener = with_certificates(draft.state(), &input)?;
    for given in &input.certificates {
        let arn = check_certificate(draft.state(), given)?;
        match listed(&listener).iter().position(|own| *own == arn) {
            Some(place) => {
                listener.certificates.remove(place + 1);
            }
            None if listener.certificates.first() == Some(&arn) => {
                return Err(ApiError::conflict(
                    "OperationNotPermitted",
                    format!("The default certificate '{arn}' of a listener cannot be removed"),
                ));
            }
            None => {}
        }
    }
    draft.put(listener);
    Ok(Nothing {})
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    listener_arn: String,
    marker: Option<String>,
    page_size: Option<u32>,
}

/// The default certificate first, then the list; one that is both comes twice.
fn describe(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<Certificates, ApiError> {
    let listener = listeners::find(draft.state(), &input.listener_arn)?;
    let default = listener.certificates.first().map(|arn| (String::new(), entry(arn.as_str(), true)));
    let mut list: Vec<&Arn> = listed(listener).iter().collect();
    list.sort_unstable();
    let rows =
        default.into_iter().chain(list.into_iter().map(|arn| (arn.0.clone(), entry(arn.as_str(), false))));
    let (certificates, next_marker) = page(rows, input.marker.as_deref(), input.page_size, PAGE_MAX)?;
    Ok(Certificates { certificates, next_marker })
}

fn with_certificates(state: &State, input: &ListInput) -> Result<Listener, ApiError> {
    let listener = listeners::find(state, &input.listener_arn)?;
    if listener.certificates.is_empty() {
        return Err(ApiError::validation(format!(
            "Certificates can be specified only for listeners that use HTTPS or TLS; listener '{}' uses {}",
            listener.arn, listener.protocol
        )));
    }
    if input.certificates.is_empty() {
        return Err(ApiError::validation("A certificate ARN must be specified"));
    }
    Ok(listener.clone())
}

/// All but the default.
fn listed(listener: &Listener) -> &[Arn] {
    listener.certificates.get(1..).unwrap_or_default()
}

fn entry(arn: &str, is_default: bool) -> CertificateForm {
    CertificateForm { certificate_arn: arn.to_owned(), is_default: Some(is_default) }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PoliciesInput {
    #[serde(default)]
    names: Vec<String>,
    load_balancer_type: Option<String>,
    marker: Option<String>,
    page_size: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PolicyForm {
    name: &'static str,
    ssl_protocols: Vec<&'static str>,
    ciphers: Vec<CipherForm>,
    supported_load_balancer_types: [&'static str; 2],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CipherForm {
    name: &'static str,
    priority: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PoliciesAnswer {
    ssl_policies: Vec<PolicyForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

fn describe_policies(_: &mut Draft, _: &Caller, input: PoliciesInput) -> Result<PoliciesAnswer, ApiError> {
    if let Some(kind) = input.load_balancer_type.as_deref().filter(|kind| !KINDS.contains(kind)) {
        return Err(ApiError::validation(format!(
            "Load balancer type '{kind}' must be one of '{}'",
            KINDS.join(", ")
        )));
    }
    for name in &input.names {
        check_policy(name)?;
    }
    let is_wanted =
        |policy: &&TlsPolicy| input.names.is_empty() || input.names.iter().any(|name| name == policy.name);
    let rows = tls_policy::OFFERED.iter().filter(is_wanted).map(|policy| {
        let ciphers = policy.ciphers().into_iter().zip(1..);
        let form = PolicyForm {
            name: policy.name,
            ssl_protocols: policy.protocols(),
            ciphers: ciphers.map(|(name, priority)| CipherForm { name, priority }).collect(),
            supported_load_balancer_types: KINDS,
        };
        (policy.name.to_owned(), form)
    });
    let (ssl_policies, next_marker) = page(rows, input.marker.as_deref(), input.page_size, PAGE_MAX)?;
    Ok(PoliciesAnswer { ssl_policies, next_marker })
}

/// The types of load balancers that have TLS listeners.
const KINDS: [&str; 2] = ["application", "network"];
/// AWS's quota of certificates per load balancer, default ones not counted.
const CERTIFICATES_MAX: usize = 25;

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use crate::model::certificate::{Certificate, Sealed};
    use serde_json::{Value, json};

    /// A network load balancer, a group of a protocol, and some imported certificates.
    struct Ground {
        world: World,
        lb: Value,
        group: Value,
    }

    impl Ground {
        fn lay() -> Self {
            let mut world = World::new();
            let lb = json!({"Name": "nlb", "Type": "network", "Scheme": "internal", "Subnets": ["subnet-a"]});
            let lb =
                world.ok("elbv2", "CreateLoadBalancer", lb)["LoadBalancers"][0]["LoadBalancerArn"].clone();
            let group = json!({"Name": "tasks", "Protocol": "TCP", "Port": 80, "VpcId": "vpc-1"});
            let group =
                world.ok("elbv2", "CreateTargetGroup", group)["TargetGroups"][0]["TargetGroupArn"].clone();
            let imported = world.change(|draft| {
                (0..40).for_each(|number| draft.put(certificate(number)));
                Ok::<_, ApiError>(())
            });
            imported.unwrap();
            Self { world, lb, group }
        }

        fn input(&self, more: Value) -> Value {
            let mut input = json!({"LoadBalancerArn": self.lb, "Protocol": "TLS", "Port": 443,
                "Certificates": [{"CertificateArn": arn(0)}],
                "DefaultActions": [{"Type": "forward", "TargetGroupArn": self.group}]});
            for (key, value) in more.as_object().unwrap() {
                input[key] = value.clone();
            }
            input
        }

        fn create(&mut self, more: Value) -> Value {
            let input = self.input(more);
            self.world.ok("elbv2", "CreateListener", input)["Listeners"][0].clone()
        }
    }

    fn arn(number: u32) -> String {
        format!("arn:aws:acm:eu-central-1:000000000000:certificate/{number:08}-0000-4000-8000-000000000000")
    }

    fn certificate(number: u32) -> Certificate {
        Certificate {
            arn: Arn(arn(number)),
            certificate_pem: String::new(),
            chain_pem: String::new(),
            sealed_key: Sealed(String::new()),
            domain_name: String::new(),
            subject_alternative_names: Vec::new(),
            not_after: u64::MAX,
            imported_at: 0,
            tags: Vec::new(),
        }
    }

    #[test]
    fn a_tls_listener_has_a_default_certificate_a_policy_and_an_alpn_policy() {
        let mut ground = Ground::lay();
        let listener = ground.create(json!({"AlpnPolicy": ["HTTP2Preferred"]}));
        assert_eq!(listener["Certificates"], json!([{"CertificateArn": arn(0)}]));
        assert_eq!(listener["SslPolicy"], tls_policy::DEFAULT);
        assert_eq!(listener["AlpnPolicy"], json!(["HTTP2Preferred"]));
        let change = json!({"ListenerArn": listener["ListenerArn"], "Certificates": [{"CertificateArn": arn(1)}],
            "SslPolicy": "ELBSecurityPolicy-TLS13-1-3-2021-06", "AlpnPolicy": ["None"]});
        let changed = ground.world.ok("elbv2", "ModifyListener", change)["Listeners"][0].clone();
        assert_eq!(changed["Certificates"], json!([{"CertificateArn": arn(1)}]));
        assert_eq!(changed["SslPolicy"], "ELBSecurityPolicy-TLS13-1-3-2021-06");
        // What belongs to TLS goes with it, and must be given again.
        let plain = json!({"ListenerArn": listener["ListenerArn"], "Protocol": "TCP"});
        let plain = ground.world.ok("elbv2", "ModifyListener", plain)["Listeners"][0].clone();
        assert!(plain.get("Certificates").is_none() && plain.get("SslPolicy").is_none(), "{plain}");
        let back = json!({"ListenerArn": listener["ListenerArn"], "Protocol": "TLS"});
        assert_eq!(ground.world.refuse("elbv2", "ModifyListener", back).0, "Validation");
    }

    #[test]
    fn unlawful_tls_is_refused_by_member() {
        let mut ground = Ground::lay();
        let missing = arn(99);
        let cases = [
            (json!({"Certificates": []}), "Validation", "certificate must be specified"),
            (
                json!({"Certificates": [{"CertificateArn": arn(0)}, {"CertificateArn": arn(1)}]}),
                "Validation",
                "'2'",
            ),
            (json!({"Certificates": [{"CertificateArn": missing}]}), "CertificateNotFound", missing.as_str()),
            (json!({"Certificates": [{"CertificateArn": "cert"}]}), "Validation", "'cert'"),
            (
                json!({"Certificates": [{"CertificateArn": arn(0), "IsDefault": true}]}),
                "Validation",
                "IsDefault",
            ),
            (json!({"SslPolicy": "ELBSecurityPolicy-Mine"}), "SSLPolicyNotFound", "Mine"),
            (json!({"SslPolicy": "ELBSecurityPolicy-2016-08"}), "SSLPolicyNotFound", "TLS 1.0"),
            (json!({"AlpnPolicy": ["HTTP3Only"]}), "ALPNPolicyNotFound", "HTTP3Only"),
            (json!({"AlpnPolicy": ["HTTP1Only", "HTTP2Only"]}), "Validation", "'2'"),
            (json!({"MutualAuthentication": {"Mode": "verify"}}), "Validation", "Mutual"),
            (json!({"Protocol": "TCP"}), "Validation", "certificate"),
            (json!({"Protocol": "TCP", "Certificates": [], "AlpnPolicy": ["None"]}), "Validation", "ALPN"),
            (
                json!({"Protocol": "TCP", "Certificates": [], "SslPolicy": tls_policy::DEFAULT}),
                "Validation",
                "SSL",
            ),
        ];
        for (more, code, word) in cases {
            let input = ground.input(more.clone());
            let (said, message) = ground.world.refuse("elbv2", "CreateListener", input);
            assert!(said == code && message.contains(word), "{more}: {said} {message}");
        }
    }

    #[test]
    fn certificates_are_listed_up_to_the_quota_and_the_default_stays() {
        let mut ground = Ground::lay();
        let listener = ground.create(json!({}))["ListenerArn"].clone();
        let list = |numbers: &[u32]| {
            let all: Vec<_> = numbers.iter().map(|number| json!({"CertificateArn": arn(*number)})).collect();
            json!({"ListenerArn": listener, "Certificates": all})
        };
        let world = &mut ground.world;
        world.ok("elbv2", "AddListenerCertificates", list(&[2, 1, 0]));
        world.ok("elbv2", "AddListenerCertificates", list(&[1]));
        let described = |world: &mut World| {
            let all = world.ok("elbv2", "DescribeListenerCertificates", json!({"ListenerArn": listener}));
            let all = all["Certificates"].as_array().unwrap().clone();
            all.iter()
                .map(|one| (one["CertificateArn"].clone(), one["IsDefault"] == true))
                .collect::<Vec<_>>()
        };
        let expected =
            [(json!(arn(0)), true), (json!(arn(0)), false), (json!(arn(1)), false), (json!(arn(2)), false)];
        assert_eq!(described(world), expected);
        let first = json!({"ListenerArn": listener, "PageSize": 2});
        let first = world.ok("elbv2", "DescribeListenerCertificates", first);
        let rest = json!({"ListenerArn": listener, "Marker": first["NextMarker"]});
        let rest = world.ok("elbv2", "DescribeListenerCertificates", rest);
        assert_eq!(rest["Certificates"][0]["CertificateArn"], arn(1));

        world.ok("elbv2", "RemoveListenerCertificates", list(&[0, 2, 30]));
        assert_eq!(described(world).len(), 2);
        assert_eq!(
            world.refuse("elbv2", "RemoveListenerCertificates", list(&[0])).0,
            "OperationNotPermitted"
        );
        let many: Vec<u32> = (1..=25).collect();
        world.ok("elbv2", "AddListenerCertificates", list(&many));
        assert_eq!(world.refuse("elbv2", "AddListenerCertificates", list(&[26])).0, "TooManyCertificates");
        assert_eq!(world.refuse("elbv2", "AddListenerCertificates", list(&[99])).0, "CertificateNotFound");
        assert_eq!(world.refuse("elbv2", "AddListenerCertificates", list(&[])).0, "Validation");
        assert_eq!(
            world.refuse("acm", "DeleteCertificate", json!({"CertificateArn": arn(7)})).0,
            "ResourceInUseException"
        );
    }

    #[test]
    fn policies_are_described_as_they_are_offered() {
        let mut world = World::new();
        let all = world.ok("elbv2", "DescribeSSLPolicies", json!({}));
        assert_eq!(all["SslPolicies"].as_array().unwrap().len(), tls_policy::OFFERED.len());
        let one = world.ok("elbv2", "DescribeSSLPolicies", json!({"Names": [tls_policy::DEFAULT]}));
        let one = &one["SslPolicies"][0];
        assert_eq!(one["SslProtocols"], json!(["TLSv1.2", "TLSv1.3"]));
        assert_eq!(one["Ciphers"][0], json!({"Name": "TLS_AES_128_GCM_SHA256", "Priority": 1}));
        let old = json!({"Names": ["ELBSecurityPolicy-2015-05"]});
        assert_eq!(world.refuse("elbv2", "DescribeSSLPolicies", old).0, "SSLPolicyNotFound");
    }
}
