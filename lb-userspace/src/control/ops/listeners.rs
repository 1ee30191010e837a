//! elbv2: listeners and their attributes, and the account's limits.

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry,
    actions::{ActionForm, action_forms, check_protocols, parse_actions},
    attributes::{self, Attribute, Known},
    elbv2::{Nothing, Tag, check_arn, check_tags},
    listener_tls::{self, CertificateForm, TlsInput},
    load_balancers::{self, PAGE_MAX, remove_listener},
    operation,
    paging::page,
    targets::application_registration,
};
use crate::model::{
    id::Arn,
    load_balancer::{Listener, LoadBalancer, LoadBalancerKind},
    state::{Draft, State},
};

/// The operations on listeners.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateListener", create),
    operation!("DescribeListeners", describe),
    operation!("ModifyListener", modify),
    operation!("DeleteListener", delete),
    operation!("DescribeListenerAttributes", describe_attributes),
    operation!("ModifyListenerAttributes", modify_attributes),
    operation!("DescribeAccountLimits", describe_limits),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    load_balancer_arn: String,
    protocol: Option<String>,
    port: Option<i64>,
    default_actions: Vec<ActionForm>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(flatten)]
    tls: TlsInput,
}

/// A listener on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    listener_arn: Arn,
    load_balancer_arn: Arn,
    port: u16,
    protocol: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<CertificateForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssl_policy: Option<String>,
    default_actions: Vec<ActionForm>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alpn_policy: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listeners {
    listeners: Vec<Form>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

fn form(listener: &Listener) -> Form {
    Form {
        listener_arn: listener.arn.clone(),
        load_balancer_arn: listener.load_balancer_arn.clone(),
        port: listener.port,
        protocol: listener.protocol.clone(),
        certificates: listener_tls::default_certificate(listener),
        ssl_policy: listener.ssl_policy.clone(),
        default_actions: action_forms(&listener.default_actions),
        alpn_policy: listener.alpn_policy.clone(),
    }
}

fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<Listeners, ApiError> {
    let lb = load_balancers::find(draft.state(), &input.load_balancer_arn)?.clone();
    let protocol =
        input.protocol.ok_or_else(|| ApiError::validation("A listener protocol must be specified"))?;
    let port = input.port.ok_or_else(|| ApiError::validation("A listener port must be specified"))?;
    check_protocol(&lb, &protocol)?;
    let port = check_port(port)?;
    let default_actions = parse_actions(draft.state(), &lb, input.default_actions)?;
    let mut listener = Listener {
        arn: Arn::from(""),
        load_balancer_arn: lb.arn.clone(),
        protocol,
        port,
        ssl_policy: None,
        certificates: Vec::new(),
        alpn_policy: Vec::new(),
        default_actions,
        attributes: Default::default(),
        tags: check_tags(input.tags)?,
    };
    listener_tls::settle(draft.state(), &mut listener, input.tls)?;
    check_protocols(draft.state(), &listener.protocol, &listener.default_actions)?;
    if let Some(existing) = at_port(draft.state(), &lb.arn, port) {
        listener.arn = existing.arn.clone();
        listener.attributes = existing.attributes.clone();
        if listener == *existing {
            return Ok(Listeners { listeners: vec![form(existing)], next_marker: None });
        }
        return Err(duplicate(&lb.arn));
    }
    let count = draft.all::<Listener>().filter(|listener| listener.load_balancer_arn == lb.arn).count();
    if count >= LISTENERS_MAX {
        return Err(ApiError::limit(
            "TooManyListeners",
            format!("The limit of {LISTENERS_MAX} listeners of load balancer '{}' is reached", lb.name),
        ));
    }
    let resource = lb.arn.resource().trim_start_matches("loadbalancer/").to_owned();
    let id = draft.hex(16);
    listener.arn = Arn::new(
        "elasticloadbalancing",
        &caller.region,
        &caller.account,
        format_args!("listener/{resource}/{id}"),
    );
    draft.put(listener.clone());
    Ok(Listeners { listeners: vec![form(&listener)], next_marker: None })
}

fn at_port<'a>(state: &'a State, lb: &Arn, port: u16) -> Option<&'a Listener> {
    state
        .listeners
        .values()
        .map(AsRef::as_ref)
        .find(|listener: &&Listener| listener.load_balancer_arn == *lb && listener.port == port)
}

fn duplicate(lb: &Arn) -> ApiError {
    ApiError::conflict(
        "DuplicateListener",
        format!("A listener already exists on this port for this load balancer '{lb}'"),
    )
}

fn check_protocol(lb: &LoadBalancer, protocol: &str) -> Result<(), ApiError> {
    let lawful: &[&str] = match lb.kind {
        LoadBalancerKind::Application => &["HTTP", "HTTPS"],
        LoadBalancerKind::Network => &["TCP", "TLS", "UDP", "TCP_UDP", "QUIC", "TCP_QUIC"],
    };
    if !lawful.contains(&protocol) {
        return Err(ApiError::validation(format!(
            "Listener protocol '{protocol}' must be one of '{}'",
            lawful.join(", ")
        )));
    }
    if matches!(protocol, "HTTP" | "TCP" | "TLS" | "UDP" | "TCP_UDP" | "QUIC" | "TCP_QUIC") {
        return Ok(());
    }
    Err(ApiError::sender(
        "UnsupportedProtocol",
        format!("The listener protocol '{protocol}' is not supported by this endpoint"),
    ))
}

fn check_port(port: i64) -> Result<u16, ApiError> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
        ApiError::validation(format!("Listener port '{port}' must be between '1' and '65535'"))
    })
}

/// The listener by ARN.
///
/// # Errors
/// A validation error for text that is no listener's ARN, `ListenerNotFound` if there is none.
pub fn find<'a>(state: &'a State, arn: &str) -> Result<&'a Listener, ApiError> {
    check_arn(arn, "listener/", "listener")?;
    state
        .listeners
        .get(arn)
        .map(AsRef::as_ref)
        .ok_or_else(|| ApiError::not_found("ListenerNotFound", format!("Listener '{arn}' not found")))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    load_balancer_arn: Option<String>,
    #[serde(default)]
    listener_arns: Vec<String>,
    marker: Option<String>,
    page_size: Option<u32>,
}

fn describe(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<Listeners, ApiError> {
    let state = draft.state();
    match &input.load_balancer_arn {
        Some(_) if !input.listener_arns.is_empty() => {
            return Err(ApiError::validation(
                "A load balancer ARN and listener ARNs cannot be specified together",
            ));
        }
        Some(arn) => {
            load_balancers::find(state, arn)?;
        }
        None if input.listener_arns.is_empty() => {
            return Err(ApiError::validation("You must specify either listener ARNs or a load balancer ARN"));
        }
        None => {}
    }
    for arn in &input.listener_arns {
        find(state, arn)?;
    }
    let rows = draft
        .all::<Listener>()
        .filter(|listener| match &input.load_balancer_arn {
            Some(lb) => listener.load_balancer_arn.as_str() == lb,
            None => input.listener_arns.contains(&listener.arn.0),
        })
        .map(|listener| (listener.arn.0.clone(), form(listener)));
    let (listeners, next_marker) = page(rows, input.marker.as_deref(), input.page_size, PAGE_MAX)?;
    Ok(Listeners { listeners, next_marker })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyInput {
    listener_arn: String,
    port: Option<i64>,
    protocol: Option<String>,
    default_actions: Option<Vec<ActionForm>>,
    #[serde(flatten)]
    tls: TlsInput,
}

fn modify(draft: &mut Draft, _: &Caller, input: ModifyInput) -> Result<Listeners, ApiError> {
    let mut listener = find(draft.state(), &input.listener_arn)?.clone();
    let lb = load_balancers::find(draft.state(), listener.load_balancer_arn.as_str())?.clone();
    if let Some(protocol) = input.protocol.filter(|protocol| *protocol != listener.protocol) {
        check_protocol(&lb, &protocol)?;
        listener.protocol = protocol;
        // Each protocol has attributes of its own.
        listener.attributes.clear();
    }
    listener_tls::settle(draft.state(), &mut listener, input.tls)?;
    if let Some(port) = input.port {
        let port = check_port(port)?;
        if at_port(draft.state(), &lb.arn, port).is_some_and(|other| other.arn != listener.arn) {
            return Err(duplicate(&lb.arn));
        }
        if port != listener.port {
            check_unneeded(draft.state(), &listener)?;
        }
        listener.port = port;
    }
    if let Some(actions) = input.default_actions {
        listener.default_actions = parse_actions(draft.state(), &lb, actions)?;
    }
    check_protocols(draft.state(), &listener.protocol, &listener.default_actions)?;
    let listeners = vec![form(&listener)];
    draft.put(listener);
    Ok(Listeners { listeners, next_marker: None })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    listener_arn: String,
}

fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    let listener = find(draft.state(), &input.listener_arn)?.clone();
    check_unneeded(draft.state(), &listener)?;
    let arn = listener.arn;
    remove_listener(draft, &arn);
    Ok(Nothing {})
}

/// Checks that no network load balancer forwards to this listener's port.
fn check_unneeded(state: &State, listener: &Listener) -> Result<(), ApiError> {
    match application_registration(state, &listener.load_balancer_arn, Some(listener.port)) {
        None => Ok(()),
        Some(target) => Err(ApiError::conflict(
            "ResourceInUse",
            format!(
                "Listener port '{}' is in use by registered target '{}' of '{}' and cannot be removed",
                listener.port, target.key, target.target_group_arn
            ),
        )),
    }
}

fn table(listener: &Listener) -> &'static [Known] {
    match listener.protocol.as_str() {
        "HTTP" => attributes::HTTP_LISTENER,
        "UDP" | "QUIC" => attributes::UDP_LISTENER,
        "TLS" => attributes::TLS_LISTENER,
        _ => attributes::TCP_LISTENER,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AttributesAnswer {
    attributes: Vec<Attribute>,
}

fn describe_attributes(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<AttributesAnswer, ApiError> {
    let listener = find(draft.state(), &input.listener_arn)?;
    Ok(AttributesAnswer { attributes: attributes::describe(table(listener), &listener.attributes) })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyAttributesInput {
    listener_arn: String,
    attributes: Vec<Attribute>,
}

fn modify_attributes(
    draft: &mut Draft,
    _: &Caller,
    input: ModifyAttributesInput,
) -> Result<AttributesAnswer, ApiError> {
    let mut listener = find(draft.state(), &input.listener_arn)?.clone();
    attributes::set(table(&listener), &mut listener.attributes, input.attributes, "Listener")?;
    let attributes = attributes::describe(table(&listener), &listener.attributes);
    draft.put(listener);
    Ok(AttributesAnswer { attributes })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LimitsInput {
    marker: Option<String>,
    page_size: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LimitForm {
    name: &'static str,
    max: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LimitsAnswer {
    limits: Vec<LimitForm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

fn describe_limits(_: &mut Draft, _: &Caller, input: LimitsInput) -> Result<LimitsAnswer, ApiError> {
    let rows = LIMITS.iter().map(|(name, max)| ((*name).to_owned(), LimitForm { name, max }));
    let (limits, next_marker) = page(rows, input.marker.as_deref(), input.page_size, PAGE_MAX)?;
    Ok(LimitsAnswer { limits, next_marker })
}

/// AWS's quota of listeners per load balancer.
const LISTENERS_MAX: usize = 50;
/// What this endpoint enforces, in AWS's names and rising order.
const LIMITS: &[(&str, &str)] = &[
    ("application-load-balancers", "50"),
    ("certificates-per-network-load-balancer", "25"),
    ("condition-values-per-alb-rule", "5"),
    ("condition-wildcards-per-alb-rule", "5"),
    ("listeners-per-application-load-balancer", "50"),
    ("listeners-per-network-load-balancer", "50"),
    ("network-load-balancers", "50"),
    ("rules-per-application-load-balancer", "100"),
    ("target-groups", "3000"),
    ("target-groups-per-action-on-application-load-balancer", "5"),
    ("target-groups-per-action-on-network-load-balancer", "5"),
    ("target-groups-per-application-load-balancer", "100"),
    ("targets-per-target-group", "1000"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_come_in_the_order_that_pages_need() {
        assert!(LIMITS.is_sorted());
    }
}
