//! apigatewayv2: routes and the identity of their keys.
//!
//! Two keys are the same route when they differ only in the names of path parameters, as on AWS.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ApiError, Caller, Entry,
    apigatewayv2::{
        Items, Nothing, OfApiInput, bad_request, check_name, find_api, find_of_api, limit, refuse_given,
        unsupported,
    },
    deployments::auto_deploy,
    operation,
};
use crate::model::{
    api::{Integration, Route},
    state::{Draft, State},
};

/// The operations on routes.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateRoute", create),
    operation!("GetRoute", one),
    operation!("GetRoutes", list),
    operation!("UpdateRoute", update),
    operation!("DeleteRoute", delete),
];

/// Members of CreateRoute and UpdateRoute.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RouteInput {
    api_id: String,
    route_id: Option<String>,
    route_key: Option<String>,
    target: Option<String>,
    authorization_type: Option<String>,
    operation_name: Option<String>,
    api_key_required: Option<Value>,
    authorization_scopes: Option<Value>,
    authorizer_id: Option<Value>,
    model_selection_expression: Option<Value>,
    request_models: Option<Value>,
    request_parameters: Option<Value>,
    route_response_selection_expression: Option<Value>,
}

/// A route on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    api_key_required: bool,
    authorization_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation_name: Option<String>,
    route_id: String,
    route_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

fn form(route: &Route) -> Form {
    Form {
        api_key_required: false,
        authorization_type: route.authorization_type.clone(),
        operation_name: route.operation_name.clone(),
        route_id: route.id.clone(),
        route_key: route.route_key.clone(),
        target: route.target.clone(),
    }
}

/// What makes a route key unique in its API.
///
/// # Errors
/// `BadRequestException` in AWS's words for a key that is none.
fn identity(key: &str) -> Result<String, ApiError> {
    if key == "$default" {
        return Ok(key.to_owned());
    }
    let malformed = || {
        bad_request(format!(
            "The provided route key is not formatted properly for HTTP protocol. Format should be \"<HTTP METHOD> \
             /<RESOURCE PATH>\" or \"$default\": {key}"
        ))
    };
    let (method, path) = key.split_once(' ').ok_or_else(malformed)?;
    if !METHODS.contains(&method) || !path.starts_with('/') || key.len() > KEY_MAX {
        return Err(malformed());
    }
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let last = segments.len() - 1;
    let mut identity = method.to_owned();
    for (at, segment) in segments.into_iter().enumerate() {
        let parameter = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let segment = match parameter {
            Some(name) => {
                let (name, word) = match name.strip_suffix('+') {
                    Some(name) if at == last => (name, "{+}"),
                    Some(_) => return Err(malformed()),
                    None => (name, "{}"),
                };
                let is_name =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$');
                if name.is_empty() || !name.bytes().all(is_name) {
                    return Err(malformed());
                }
                word
            }
            None => {
                let is_lawful = |byte: u8| byte.is_ascii_graphic() && !b"{}?#\"<>\\^`|".contains(&byte);
                if !segment.bytes().all(is_lawful) {
                    return Err(malformed());
                }
                segment
            }
        };
        identity.push('/');
        identity.push_str(segment);
    }
    Ok(identity)
}

fn of_api<'a>(state: &'a State, prefix: &'a str) -> impl Iterator<Item = &'a Route> {
    state.with_prefix::<Route>(prefix).map(AsRef::as_ref)
}

/// Takes over what the input sets, after checking it.
fn apply(state: &State, route: &mut Route, input: RouteInput) -> Result<(), ApiError> {
    refuse_given(&[
        ("ApiKeyRequired", &input.api_key_required),
        ("AuthorizationScopes", &input.authorization_scopes),
        ("AuthorizerId", &input.authorizer_id),
        ("ModelSelectionExpression", &input.model_selection_expression),
        ("RequestModels", &input.request_models),
        ("RequestParameters", &input.request_parameters),
        ("RouteResponseSelectionExpression", &input.route_response_selection_expression),
    ])?;
    match input.authorization_type.as_deref() {
        None | Some("NONE") => {}
        Some(other) => return Err(unsupported(format_args!("The authorization type '{other}'"))),
    }
    if let Some(key) = input.route_key {
        let own = identity(&key)?;
        let prefix = format!("{}/", route.api_id);
        let is_taken = of_api(state, &prefix)
            .filter(|other| other.id != route.id)
            .any(|other| identity(&other.route_key).is_ok_and(|other| other == own));
        if is_taken {
            return Err(ApiError::conflict(
                "ConflictException",
                format!("Route with key {key} already exists for this API"),
            ));
        }
        route.route_key = key;
    }
    if let Some(target) = input.target {
        let exists = target
            .strip_prefix("integrations/")
            .and_then(|id| state.integrations.get(&format!("{}/{id}", route.api_id)))
            .is_some_and(|integration: &std::sync::Arc<Integration>| integration.api_id == route.api_id);
        if !exists {
            return Err(bad_request(format!("Unable to find the integration of the target '{target}'")));
        }
        route.target = Some(target);
    }
    if let Some(name) = input.operation_name {
        check_name("OperationName", &name, 64)?;
        route.operation_name = Some(name);
    }
    Ok(())
}

fn create(draft: &mut Draft, _: &Caller, input: RouteInput) -> Result<Form, ApiError> {
    let api_id = find_api(draft.state(), &input.api_id)?.id.clone();
    if input.route_key.is_none() {
        return Err(bad_request("RouteKey is required"));
    }
    if of_api(draft.state(), &format!("{api_id}/")).count() >= ROUTES_MAX {
        return Err(limit("routes of an API", ROUTES_MAX));
    }
    let mut route = Route {
        id: draft.alphanumerics(7),
        api_id: api_id.clone(),
        route_key: String::new(),
        target: None,
        authorization_type: "NONE".to_owned(),
        operation_name: None,
    };
    apply(draft.state(), &mut route, input)?;
    let answer = form(&route);
    draft.put(route);
    auto_deploy(draft, &api_id);
    Ok(answer)
}

fn find<'a>(state: &'a State, api_id: &str, id: &str) -> Result<&'a Route, ApiError> {
    find_of_api(state, api_id, "Route", id)
}

fn update(draft: &mut Draft, _: &Caller, input: RouteInput) -> Result<Form, ApiError> {
    let id = input.route_id.clone().unwrap_or_default();
    let mut route = find(draft.state(), &input.api_id, &id)?.clone();
    apply(draft.state(), &mut route, input)?;
    let (answer, api_id) = (form(&route), route.api_id.clone());
    draft.put(route);
    auto_deploy(draft, &api_id);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    api_id: String,
    route_id: String,
}

fn one(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Form, ApiError> {
    Ok(form(find(draft.state(), &input.api_id, &input.route_id)?))
}

fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    let route = find(draft.state(), &input.api_id, &input.route_id)?.clone();
    draft.remove::<Route>(&format!("{}/{}", route.api_id, route.id));
    auto_deploy(draft, &route.api_id);
    Ok(Nothing {})
}

fn list(draft: &mut Draft, _: &Caller, input: OfApiInput) -> Result<Items<Form>, ApiError> {
    input.page(draft.state(), |route: &Route| (route.id.clone(), form(route)))
}

/// Methods of route keys.
const METHODS: &[&str] = &["ANY", "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
/// A key longer than the longest request line that a gateway accepts can never match.
const KEY_MAX: usize = 10_240;
/// AWS's quota of routes per API.
const ROUTES_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parameters_are_not_part_of_a_key_s_identity() {
        assert_eq!(identity("GET /pets/{id}").unwrap(), identity("GET /pets/{petId}").unwrap());
        assert_ne!(identity("GET /pets/{id}").unwrap(), identity("GET /pets/{id+}").unwrap());
        assert_ne!(identity("GET /pets").unwrap(), identity("ANY /pets").unwrap());
        assert_ne!(identity("GET /").unwrap(), identity("$default").unwrap());
    }

    #[test]
    fn keys_that_no_request_could_match_are_refused() {
        for bad in [
            "",
            "GET",
            "GET pets",
            "get /pets",
            "PURGE /x",
            "GET /{}",
            "GET /{a+}/b",
            "GET /a b",
            "GET /{a",
            "GET /a?b",
        ] {
            assert!(identity(bad).is_err(), "{bad:?}");
        }
        for good in ["$default", "ANY /", "GET /a/{b}/{c+}", "OPTIONS /a-b_c.d~e"] {
            assert!(identity(good).is_ok(), "{good:?}");
        }
    }
}
