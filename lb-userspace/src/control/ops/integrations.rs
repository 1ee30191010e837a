//! apigatewayv2: integrations of HTTP APIs with private services: a listener, or a Cloud Map service.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ApiError, Caller, Entry,
    apigatewayv2::{
        Items, Nothing, OfApiInput, bad_request, check_description, find_api, find_of_api, limit,
        refuse_given, unsupported,
    },
    deployments::auto_deploy,
    operation,
};
use crate::model::{
    api::{Integration, Route},
    id::{Arn, VpcLinkId},
    state::{Draft, State},
};

/// The operations on integrations.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateIntegration", create),
    operation!("GetIntegration", one),
    operation!("GetIntegrations", list),
    operation!("UpdateIntegration", update),
    operation!("DeleteIntegration", delete),
];

/// Members of CreateIntegration and UpdateIntegration.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct IntegrationInput {
    api_id: String,
    integration_id: Option<String>,
    connection_id: Option<String>,
    connection_type: Option<String>,
    description: Option<String>,
    integration_method: Option<String>,
    integration_type: Option<String>,
    integration_uri: Option<String>,
    payload_format_version: Option<String>,
    timeout_in_millis: Option<i64>,
    content_handling_strategy: Option<Value>,
    credentials_arn: Option<Value>,
    integration_subtype: Option<Value>,
    passthrough_behavior: Option<Value>,
    request_parameters: Option<Value>,
    request_templates: Option<Value>,
    response_parameters: Option<Value>,
    template_selection_expression: Option<Value>,
    tls_config: Option<Value>,
}

/// An integration on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<VpcLinkId>,
    connection_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    integration_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    integration_method: Option<String>,
    integration_type: String,
    integration_uri: String,
    payload_format_version: String,
    timeout_in_millis: u32,
}

fn form(integration: &Integration) -> Form {
    Form {
        connection_id: integration.connection_id.clone(),
        connection_type: integration.connection_type.clone(),
        description: integration.description.clone(),
        integration_id: integration.id.clone(),
        integration_method: integration.integration_method.clone(),
        integration_type: integration.integration_type.clone(),
        integration_uri: integration.integration_uri.clone(),
        payload_format_version: integration.payload_format_version.clone(),
        timeout_in_millis: integration.timeout_ms,
    }
}

/// Takes over what the input sets, and checks that the whole is an integration the gateway can serve.
fn apply(state: &State, integration: &mut Integration, input: IntegrationInput) -> Result<(), ApiError> {
    refuse_given(&[
        ("ContentHandlingStrategy", &input.content_handling_strategy),
        ("CredentialsArn", &input.credentials_arn),
        ("IntegrationSubtype", &input.integration_subtype),
        ("PassthroughBehavior", &input.passthrough_behavior),
        ("RequestParameters", &input.request_parameters),
        ("RequestTemplates", &input.request_templates),
        ("ResponseParameters", &input.response_parameters),
        ("TemplateSelectionExpression", &input.template_selection_expression),
        ("TlsConfig", &input.tls_config),
    ])?;
    if let Some(kind) = input.integration_type {
        integration.integration_type = kind;
    }
    match integration.integration_type.as_str() {
        "HTTP_PROXY" => {}
        "AWS" | "AWS_PROXY" | "HTTP" | "MOCK" => {
            return Err(unsupported(format_args!("The integration type '{}'", integration.integration_type)));
        }
        other => return Err(bad_request(format!("Invalid integration type: {other}"))),
    }
    if let Some(kind) = input.connection_type {
        integration.connection_type = kind;
    }
    match integration.connection_type.as_str() {
        "VPC_LINK" => {}
        "INTERNET" => return Err(unsupported("The connection type 'INTERNET'")),
        other => return Err(bad_request(format!("Invalid connection type: {other}"))),
    }
    if let Some(id) = input.connection_id {
        integration.connection_id = Some(VpcLinkId(id));
    }
    match &integration.connection_id {
        None => return Err(bad_request("ConnectionId is required for the connection type VPC_LINK")),
        Some(id) if !state.vpc_links.contains_key(id.as_str()) => {
            return Err(bad_request(format!("Unable to find the VPC link '{id}' of ConnectionId")));
        }
        Some(_) => {}
    }
    if let Some(uri) = input.integration_uri {
        integration.integration_uri = uri;
    }
    if !is_private_uri(&integration.integration_uri) {
        return Err(bad_request(WRONG_URI));
    }
    if let Some(method) = input.integration_method {
        integration.integration_method = Some(method);
    }
    match integration.integration_method.as_deref() {
        None => return Err(bad_request("HttpMethod must be specified for HTTP_PROXY integrations")),
        Some(method) if !METHODS.contains(&method) => {
            return Err(bad_request(format!("Invalid HTTP method specified: {method}")));
        }
        Some(_) => {}
    }
    if let Some(version) = input.payload_format_version {
        if version != "1.0" {
            return Err(bad_request(format!(
                "PayloadFormatVersion '{version}' must be '1.0' for HTTP_PROXY integrations"
            )));
        }
        integration.payload_format_version = version;
    }
    if let Some(timeout) = input.timeout_in_millis {
        let lawful = u32::try_from(timeout).ok().filter(|timeout| (50..=30_000).contains(timeout));
        integration.timeout_ms = lawful.ok_or_else(|| {
            bad_request(format!("TimeoutInMillis '{timeout}' must be between 50 and 30000"))
        })?;
    }
    check_description(input.description.as_ref())?;
    if input.description.is_some() {
        integration.description = input.description;
    }
    Ok(())
}

/// Whether text has the form of a listener's ARN, or of a Cloud Map service's with or without a query.
fn is_private_uri(uri: &str) -> bool {
    let (arn, query) = uri.split_once('?').map_or((uri, None), |(arn, query)| (arn, Some(query)));
    let arn = Arn::from(arn);
    let Some(parts) = arn.parts() else { return false };
    match parts.service {
        "elasticloadbalancing" => {
            let is_listener = |kind: &str| {
                parts.resource.strip_prefix(kind).is_some_and(|rest| rest.split('/').count() == 3)
            };
            query.is_none() && (is_listener("listener/app/") || is_listener("listener/net/"))
        }
        "servicediscovery" => {
            let is_query = |query: &str| {
                query.split('&').all(|pair| matches!(pair.split_once('='), Some((key, _)) if !key.is_empty()))
            };
            parts.resource.starts_with("service/srv-") && query.is_none_or(is_query)
        }
        _ => false,
    }
}

fn create(draft: &mut Draft, _: &Caller, input: IntegrationInput) -> Result<Form, ApiError> {
    let api_id = find_api(draft.state(), &input.api_id)?.id.clone();
    let prefix = format!("{api_id}/");
    if draft.state().with_prefix::<Integration>(&prefix).count() >= INTEGRATIONS_MAX {
        return Err(limit("integrations of an API", INTEGRATIONS_MAX));
    }
    let mut integration = Integration {
        id: draft.alphanumerics(7),
        api_id: api_id.clone(),
        integration_type: String::new(),
        integration_method: None,
        integration_uri: String::new(),
        connection_type: "INTERNET".to_owned(),
        connection_id: None,
        payload_format_version: "1.0".to_owned(),
        timeout_ms: 30_000,
        description: None,
    };
    apply(draft.state(), &mut integration, input)?;
    let answer = form(&integration);
    draft.put(integration);
    auto_deploy(draft, &api_id);
    Ok(answer)
}

fn find<'a>(state: &'a State, api_id: &str, id: &str) -> Result<&'a Integration, ApiError> {
    find_of_api(state, api_id, "Integration", id)
}

fn update(draft: &mut Draft, _: &Caller, input: IntegrationInput) -> Result<Form, ApiError> {
    let id = input.integration_id.clone().unwrap_or_default();
    let mut integration = find(draft.state(), &input.api_id, &id)?.clone();
    apply(draft.state(), &mut integration, input)?;
    let (answer, api_id) = (form(&integration), integration.api_id.clone());
    draft.put(integration);
    auto_deploy(draft, &api_id);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    api_id: String,
    integration_id: String,
}

fn one(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Form, ApiError> {
    Ok(form(find(draft.state(), &input.api_id, &input.integration_id)?))
}

fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    let integration = find(draft.state(), &input.api_id, &input.integration_id)?.clone();
    let target = format!("integrations/{}", integration.id);
    let prefix = format!("{}/", integration.api_id);
    let users: Vec<&str> = draft
        .state()
        .with_prefix::<Route>(&prefix)
        .filter(|route| route.target.as_ref() == Some(&target))
        .map(|route| route.route_key.as_str())
        .collect();
    if !users.is_empty() {
        return Err(ApiError::conflict(
            "ConflictException",
            format!(
                "Cannot delete Integration '{}' because it is the target of the routes [{}]",
                integration.id,
                users.join(", ")
            ),
        ));
    }
    draft.remove::<Integration>(&format!("{prefix}{}", integration.id));
    auto_deploy(draft, &integration.api_id);
    Ok(Nothing {})
}

fn list(draft: &mut Draft, _: &Caller, input: OfApiInput) -> Result<Items<Form>, ApiError> {
    input.page(draft.state(), |integration: &Integration| (integration.id.clone(), form(integration)))
}

/// AWS's exact words.
const WRONG_URI: &str = "For VpcLink VPC_LINK, integration uri should be a valid ELB listener ARN or a valid Cloud \
                         Map service ARN.";
/// Methods of integrations.
const METHODS: &[&str] = &["ANY", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
/// AWS's quota of integrations per API.
const INTEGRATIONS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_and_cloud_map_services_are_private_targets() {
        let elb = "arn:aws:elasticloadbalancing:eu-central-1:000000000000";
        let map = "arn:aws:servicediscovery:eu-central-1:000000000000";
        for good in [
            format!("{elb}:listener/app/web/0123456789abcdef/0123456789abcdef"),
            format!("{elb}:listener/net/web/0123456789abcdef/0123456789abcdef"),
            format!("{map}:service/srv-0123456789abcdef"),
            format!("{map}:service/srv-0123456789abcdef?stage=prod&color=blue"),
        ] {
            assert!(is_private_uri(&good), "{good}");
        }
        for bad in [
            "https://example.com/".to_owned(),
            String::new(),
            format!("{elb}:loadbalancer/app/web/0123456789abcdef"),
            format!("{elb}:targetgroup/web/0123456789abcdef"),
            format!("{elb}:listener/app/web/0123456789abcdef"),
            format!("{map}:namespace/ns-0123456789abcdef"),
            format!("{map}:service/srv-0123456789abcdef?nothing"),
        ] {
            assert!(!is_private_uri(&bad), "{bad}");
        }
    }
}
