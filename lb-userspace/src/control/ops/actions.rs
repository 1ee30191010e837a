//! Actions and conditions of listeners and rules: the wire's forms to the model's and back, with everything AWS checks
//! about the target groups they name.
//!
//! Whatever the model does not hold yet is refused by name: an action or condition is never left out silently.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ApiError, elbv2::check_arn, server_ids};
use crate::model::{
    id::Arn,
    load_balancer::{
        Action, Condition, IpAddressType, Listener, LoadBalancer, LoadBalancerKind, Rule, WeightedTargetGroup,
    },
    state::State,
    target_group::{TargetAddressType, TargetGroup, TargetType},
};

/// An action on the wire.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ActionForm {
    /// `forward`, `fixed-response`, ….
    pub r#type: String,
    /// The one group to forward to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_group_arn: Option<String>,
    /// Its place among several actions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// What to answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_response_config: Option<FixedResponseForm>,
    /// The groups to forward to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_config: Option<ForwardForm>,
}

/// FixedResponseActionConfig.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FixedResponseForm {
    /// `2XX`, `4XX` or `5XX`.
    pub status_code: String,
    /// One of five types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_body: Option<String>,
}

/// ForwardActionConfig.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ForwardForm {
    /// The groups.
    pub target_groups: Vec<TargetGroupForm>,
    /// Stickiness between groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_group_stickiness_config: Option<StickinessForm>,
}

/// TargetGroupTuple.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TargetGroupForm {
    /// The group.
    pub target_group_arn: String,
    /// Its share, 1 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

/// TargetGroupStickinessConfig.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StickinessForm {
    /// Whether it is on.
    pub enabled: bool,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<i64>,
}

/// A condition on the wire.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ConditionForm {
    /// `path-pattern`, `host-header`, ….
    pub field: String,
    /// Values in the older form.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// host-header in the newer form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_header_config: Option<ValuesForm>,
    /// path-pattern in the newer form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_pattern_config: Option<ValuesForm>,
    /// Regular expressions, not supported yet.
    #[serde(skip_serializing)]
    pub regex_values: Vec<Value>,
}

/// The values of a condition in the newer form.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ValuesForm {
    /// Values.
    pub values: Vec<String>,
    /// Regular expressions, not supported yet.
    #[serde(skip_serializing)]
    pub regex_values: Vec<Value>,
}

/// The actions of a listener or rule of `lb`, checked against the target groups that exist.
///
/// # Errors
/// AWS's codes: `InvalidLoadBalancerAction`, `TooManyActions`, `TargetGroupNotFound`, `IncompatibleProtocols`,
/// `TargetGroupAssociationLimit`, `InvalidConfigurationRequest`, or a validation error.
pub fn parse_actions(
    state: &State,
    lb: &LoadBalancer,
    forms: Vec<ActionForm>,
) -> Result<Vec<Action>, ApiError> {
    let mut forms = forms.into_iter();
    let Some(form) = forms.next() else {
        return Err(ApiError::validation("At least one action must be specified"));
    };
    if forms.next().is_some() {
        return Err(ApiError::limit(
            "TooManyActions",
            "An action list takes exactly one 'forward' or 'fixed-response' action; actions that precede it are not \
             supported by this endpoint",
        ));
    }
    let action = match form.r#type.as_str() {
        "forward" => forward(form)?,
        "fixed-response" if lb.kind == LoadBalancerKind::Network => {
            return Err(invalid_action("A network load balancer supports only actions of type 'forward'"));
        }
        "fixed-response" => fixed_response(form)?,
        other @ ("redirect" | "authenticate-oidc" | "authenticate-cognito" | "jwt-validation") => {
            return Err(invalid_action(format!(
                "Actions of type '{other}' are not supported by this endpoint"
            )));
        }
        other => {
            return Err(ApiError::validation(format!(
                "Action type '{other}' must be one of 'redirect, fixed-response, forward, authenticate-cognito, \
                 authenticate-oidc'"
            )));
        }
    };
    check_groups(state, lb, &action)?;
    Ok(vec![action])
}

fn invalid_action(message: impl Into<String>) -> ApiError {
    ApiError::sender("InvalidLoadBalancerAction", message)
}

fn forward(form: ActionForm) -> Result<Action, ApiError> {
    let config = form.forward_config.unwrap_or_default();
    if config.target_group_stickiness_config.is_some_and(|stickiness| stickiness.enabled) {
        return Err(invalid_action("Target group stickiness is not supported by this endpoint"));
    }
    let mut groups = Vec::new();
    for group in config.target_groups {
        let weight = group.weight.unwrap_or(1);
        let weight = u16::try_from(weight).ok().filter(|weight| *weight <= WEIGHT_MAX).ok_or_else(|| {
            ApiError::validation(format!("Target group weight '{weight}' must be between '0' and '999'"))
        })?;
        groups.push(WeightedTargetGroup { target_group_arn: Arn(group.target_group_arn), weight });
    }
    if let Some(arn) = form.target_group_arn {
        match groups.as_slice() {
            [] => groups.push(WeightedTargetGroup { target_group_arn: Arn(arn), weight: 1 }),
            [only] if only.target_group_arn.as_str() == arn => {}
            _ => {
                return Err(ApiError::validation(
                    "TargetGroupArn and ForwardConfig must name the same one target group",
                ));
            }
        }
    }
    let distinct: BTreeSet<_> = groups.iter().map(|group| &group.target_group_arn).collect();
    if distinct.len() != groups.len() {
        return Err(ApiError::validation("A forward action names the same target group more than once"));
    }
    if groups.is_empty() {
        return Err(ApiError::validation("A target group ARN must be specified"));
    }
    if groups.len() > GROUPS_PER_ACTION_MAX {
        return Err(ApiError::validation(format!(
            "A forward action can name at most {GROUPS_PER_ACTION_MAX} target groups"
        )));
    }
    Ok(Action::Forward(groups))
}

fn fixed_response(form: ActionForm) -> Result<Action, ApiError> {
    let Some(config) = form.fixed_response_config else {
        return Err(ApiError::validation("A FixedResponseConfig must be specified"));
    };
    let status = Some(config.status_code.as_str())
        .filter(|text| text.len() == 3 && matches!(text.as_bytes(), [b'2' | b'4' | b'5', ..]))
        .and_then(|text| text.parse::<u16>().ok())
        .ok_or_else(|| {
            ApiError::validation(format!(
                "The status code '{}' of a fixed response must be 2XX, 4XX or 5XX",
                config.status_code
            ))
        })?;
    if let Some(kind) = config.content_type.as_deref().filter(|kind| !CONTENT_TYPES.contains(kind)) {
        return Err(ApiError::validation(format!(
            "The content type '{kind}' of a fixed response must be one of '{}'",
            CONTENT_TYPES.join(", ")
        )));
    }
    let body = config.message_body.unwrap_or_default();
    if body.len() > BODY_MAX {
        return Err(ApiError::validation(format!(
            "The message body of a fixed response must have at most {BODY_MAX} bytes"
        )));
    }
    Ok(Action::FixedResponse { status, content_type: config.content_type, body })
}

fn check_groups(state: &State, lb: &LoadBalancer, action: &Action) -> Result<(), ApiError> {
    let Action::Forward(groups) = action else { return Ok(()) };
    for weighted in groups {
        let arn = weighted.target_group_arn.as_str();
        check_arn(arn, "targetgroup/", "target group")?;
        let group: &TargetGroup = state.target_groups.get(arn).ok_or_else(|| {
            ApiError::not_found("TargetGroupNotFound", "One or more target groups not found")
        })?;
        let is_http = group.protocol == "HTTP";
        if is_http != (lb.kind == LoadBalancerKind::Application) {
            return Err(ApiError::sender(
                "IncompatibleProtocols",
                format!(
                    "The target group '{arn}' has the protocol '{}', which a load balancer of type '{}' cannot \
                     forward to",
                    group.protocol,
                    lb.kind.word()
                ),
            ));
        }
        if group.vpc_id != lb.vpc_id {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!("The target group '{arn}' and the load balancer are not in the same VPC"),
            ));
        }
        if group.ip_address_type == TargetAddressType::Ipv6 && lb.ip_address_type != IpAddressType::Dualstack
        {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!(
                    "The target group '{arn}' has IpAddressType 'ipv6', which only a dualstack load balancer can \
                     forward to"
                ),
            ));
        }
        if load_balancers_of(state, arn).iter().any(|other| **other != lb.arn) {
            return Err(ApiError::limit(
                "TargetGroupAssociationLimit",
                format!(
                    "The following target groups cannot be associated with more than one load balancer: {arn}"
                ),
            ));
        }
    }
    let mut distinct = groups_of(state, &lb.arn);
    distinct.extend(groups.iter().map(|group| &group.target_group_arn));
    if distinct.len() > GROUPS_PER_LOAD_BALANCER_MAX {
        return Err(ApiError::limit(
            "TooManyUniqueTargetGroupsPerLoadBalancer",
            format!("A load balancer can forward to at most {GROUPS_PER_LOAD_BALANCER_MAX} target groups"),
        ));
    }
    Ok(())
}

/// Checks that a listener of this protocol can forward to the groups of its actions.
///
/// # Errors
/// `IncompatibleProtocols` or `InvalidConfigurationRequest`, naming the group.
pub fn check_protocols(state: &State, protocol: &str, actions: &[Action]) -> Result<(), ApiError> {
    // AWS: Network Load Balancers, "Routing configuration".
    let lawful: &[&str] = match protocol {
        "HTTP" | "HTTPS" => &["HTTP", "HTTPS"],
        "TCP" => &["TCP", "TCP_UDP"],
        "TLS" => &["TCP", "TLS"],
        "UDP" => &["UDP", "TCP_UDP"],
        "QUIC" => &["QUIC", "TCP_QUIC"],
        own => &[own],
    };
    let arns: Vec<_> = actions.iter().flat_map(Action::groups).collect();
    let groups = arns.iter().filter_map(|arn| state.target_groups.get(arn.as_str()));
    for group in groups {
        if !lawful.contains(&group.protocol.as_str()) {
            return Err(ApiError::sender(
                "IncompatibleProtocols",
                format!(
                    "The target group '{}' has the protocol '{}', which a listener of protocol '{protocol}' cannot \
                     forward to",
                    group.arn, group.protocol
                ),
            ));
        }
        if group.target_type == TargetType::Alb && (protocol != "TCP" || arns.len() > 1) {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!(
                    "The target group '{}' has the target type 'alb', which a TCP listener can forward to, and to \
                     nothing beside it",
                    group.arn
                ),
            ));
        }
    }
    if server_ids::is_quic(protocol) {
        server_ids::check_actions(state, actions)?;
    }
    Ok(())
}

/// Every action of every listener and rule, with the load balancer it is part of.
fn all_actions(state: &State) -> impl Iterator<Item = (&Arn, &Action)> {
    let defaults = state.listeners.values().flat_map(|listener: &std::sync::Arc<Listener>| {
        listener.default_actions.iter().map(|action| (&listener.load_balancer_arn, action))
    });
    let rules = state
        .rules
        .values()
        .filter_map(|rule: &std::sync::Arc<Rule>| {
            let listener = state.listeners.get(rule.listener_arn.as_str())?;
            Some(rule.actions.iter().map(|action| (&listener.load_balancer_arn, action)))
        })
        .flatten();
    defaults.chain(rules)
}

fn forwarded(action: &Action) -> &[WeightedTargetGroup] {
    match action {
        Action::Forward(groups) => groups,
        Action::FixedResponse { .. } => &[],
    }
}

/// The load balancers that forward to a target group.
pub fn load_balancers_of<'a>(state: &'a State, group: &str) -> BTreeSet<&'a Arn> {
    all_actions(state)
        .filter(|(_, action)| {
            forwarded(action).iter().any(|weighted| weighted.target_group_arn.as_str() == group)
        })
        .map(|(lb, _)| lb)
        .collect()
}

/// The target groups that a load balancer forwards to.
pub fn groups_of<'a>(state: &'a State, lb: &Arn) -> BTreeSet<&'a Arn> {
    all_actions(state)
        .filter(|(owner, _)| *owner == lb)
        .flat_map(|(_, action)| forwarded(action))
        .map(|weighted| &weighted.target_group_arn)
        .collect()
}

/// Actions as the wire has them: a single group both by itself and in its configuration, as AWS answers.
pub fn action_forms(actions: &[Action]) -> Vec<ActionForm> {
    actions.iter().map(action_form).collect()
}

fn action_form(action: &Action) -> ActionForm {
    match action {
        Action::Forward(groups) => ActionForm {
            r#type: "forward".to_owned(),
            target_group_arn: match groups.as_slice() {
                [only] => Some(only.target_group_arn.0.clone()),
                _ => None,
            },
            forward_config: Some(ForwardForm {
                target_groups: groups
                    .iter()
                    .map(|group| TargetGroupForm {
                        target_group_arn: group.target_group_arn.0.clone(),
                        weight: Some(group.weight.into()),
                    })
                    .collect(),
                target_group_stickiness_config: Some(StickinessForm::default()),
            }),
            ..ActionForm::default()
        },
        Action::FixedResponse { status, content_type, body } => ActionForm {
            r#type: "fixed-response".to_owned(),
            fixed_response_config: Some(FixedResponseForm {
                status_code: status.to_string(),
                content_type: content_type.clone(),
                message_body: Some(body.clone()),
            }),
            ..ActionForm::default()
        },
    }
}

/// The conditions of a rule.
///
/// # Errors
/// A validation error in AWS's words, naming what is not supported.
pub fn parse_conditions(forms: Vec<ConditionForm>) -> Result<Vec<Condition>, ApiError> {
    if forms.is_empty() {
        return Err(ApiError::validation("At least one condition must be specified"));
    }
    let mut fields = BTreeSet::new();
    let mut conditions = Vec::new();
    let mut values = 0;
    for form in forms {
        let field = if form.field.is_empty() { field_of(&form) } else { form.field.clone() };
        let condition = condition(&field, form)?;
        values += match &condition {
            Condition::HostHeader(values) | Condition::PathPattern(values) => values.len(),
        };
        if !fields.insert(field.clone()) {
            return Err(ApiError::validation(format!(
                "A rule can have only one condition with the field '{field}'"
            )));
        }
        conditions.push(condition);
    }
    if values > CONDITION_VALUES_MAX {
        return Err(ApiError::validation(format!(
            "A rule can have at most {CONDITION_VALUES_MAX} condition values"
        )));
    }
    Ok(conditions)
}

/// The field that a condition without one means by its configuration.
fn field_of(form: &ConditionForm) -> String {
    match (&form.host_header_config, &form.path_pattern_config) {
        (Some(_), None) => "host-header",
        (None, Some(_)) => "path-pattern",
        _ => "",
    }
    .to_owned()
}

fn condition(field: &str, form: ConditionForm) -> Result<Condition, ApiError> {
    let config = match field {
        "host-header" => &form.host_header_config,
        "path-pattern" => &form.path_pattern_config,
        "http-header" | "http-request-method" | "query-string" | "source-ip" => {
            return Err(ApiError::validation(format!(
                "Conditions with the field '{field}' are not supported by this endpoint"
            )));
        }
        _ => {
            return Err(ApiError::validation(format!(
                "Condition field '{field}' must be one of '[path-pattern, host-header, http-header, \
                 http-request-method, query-string, source-ip]'"
            )));
        }
    };
    let has_regex = |config: &ValuesForm| !config.regex_values.is_empty();
    if !form.regex_values.is_empty() || config.as_ref().is_some_and(has_regex) {
        return Err(ApiError::validation("RegexValues in conditions are not supported by this endpoint"));
    }
    let values = match config {
        Some(config) if !form.values.is_empty() && form.values != config.values => {
            return Err(ApiError::validation(format!(
                "A condition with the field '{field}' has values in two places that differ"
            )));
        }
        Some(config) => config.values.clone(),
        None => form.values,
    };
    if values.is_empty() {
        return Err(ApiError::validation("A condition value must be specified"));
    }
    let mut wildcards = 0;
    for value in &values {
        let lawful: fn(u8) -> bool = if field == "host-header" { is_host_byte } else { is_path_byte };
        if value.is_empty() || value.len() > CONDITION_VALUE_MAX || !value.bytes().all(lawful) {
            return Err(ApiError::validation(format!(
                "The condition value '{value}' of the field '{field}' must have 1 to {CONDITION_VALUE_MAX} \
                 characters that the field may hold"
            )));
        }
        wildcards += value.bytes().filter(|byte| matches!(byte, b'*' | b'?')).count();
    }
    if wildcards > WILDCARDS_MAX {
        return Err(ApiError::validation(format!(
            "The condition values of the field '{field}' can have at most {WILDCARDS_MAX} wildcards"
        )));
    }
    Ok(if field == "host-header" { Condition::HostHeader(values) } else { Condition::PathPattern(values) })
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'*' | b'?' | b'_' | b':')
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.$/~\"'@:+&*?".contains(&byte)
}

/// Conditions as the wire has them: in both forms, as AWS answers.
pub fn condition_forms(conditions: &[Condition]) -> Vec<ConditionForm> {
    conditions
        .iter()
        .map(|condition| match condition {
            Condition::HostHeader(values) => ConditionForm {
                field: "host-header".to_owned(),
                values: values.clone(),
                host_header_config: Some(ValuesForm { values: values.clone(), ..ValuesForm::default() }),
                ..ConditionForm::default()
            },
            Condition::PathPattern(values) => ConditionForm {
                field: "path-pattern".to_owned(),
                values: values.clone(),
                path_pattern_config: Some(ValuesForm { values: values.clone(), ..ValuesForm::default() }),
                ..ConditionForm::default()
            },
        })
        .collect()
}

/// AWS's range of weights.
const WEIGHT_MAX: u16 = 999;
/// AWS's quota of target groups per action.
const GROUPS_PER_ACTION_MAX: usize = 5;
/// AWS's quota of target groups per load balancer.
const GROUPS_PER_LOAD_BALANCER_MAX: usize = 100;
/// AWS's limit on fixed responses.
const BODY_MAX: usize = 1_024;
/// AWS's five types.
const CONTENT_TYPES: &[&str] =
    &["text/plain", "text/css", "text/html", "application/javascript", "application/json"];
/// AWS's quota of condition values per rule.
const CONDITION_VALUES_MAX: usize = 5;
/// AWS's limit on the length of a condition value.
const CONDITION_VALUE_MAX: usize = 128;
/// AWS's quota of wildcards per rule.
const WILDCARDS_MAX: usize = 5;
