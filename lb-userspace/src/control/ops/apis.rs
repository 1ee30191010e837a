//! apigatewayv2: HTTP APIs, and the tags of APIs, stages and VPC links.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ApiError, Caller, Entry,
    apigatewayv2::{
        Items, ListInput, Nothing, bad_request, check_description, check_name, check_tags, find_api, limit,
        not_found, refuse_given, unsupported,
    },
    operation,
    timestamp::seconds,
};
use crate::model::{
    Resource,
    api::{Api, Deployment, Integration, Route, Stage, TagMap, VpcLink},
    id::{ApiId, Arn},
    state::Draft,
};

/// The operations on APIs and on tags.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateApi", create),
    operation!("GetApi", one),
    operation!("GetApis", list),
    operation!("UpdateApi", update),
    operation!("DeleteApi", delete),
    operation!("TagResource", tag),
    operation!("UntagResource", untag),
    operation!("GetTags", tags),
];

/// Members of CreateApi and UpdateApi.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ApiInput {
    api_id: Option<String>,
    name: Option<String>,
    protocol_type: Option<String>,
    description: Option<String>,
    disable_execute_api_endpoint: Option<bool>,
    disable_schema_validation: Option<bool>,
    ip_address_type: Option<String>,
    route_selection_expression: Option<String>,
    version: Option<String>,
    #[serde(default)]
    tags: TagMap,
    cors_configuration: Option<Value>,
    credentials_arn: Option<Value>,
    route_key: Option<Value>,
    target: Option<Value>,
    api_key_selection_expression: Option<String>,
}

/// An API on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    api_endpoint: String,
    api_id: ApiId,
    api_key_selection_expression: &'static str,
    created_date: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    disable_execute_api_endpoint: bool,
    ip_address_type: &'static str,
    name: String,
    protocol_type: &'static str,
    route_selection_expression: String,
    tags: TagMap,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

fn form(api: &Api) -> Form {
    Form {
        api_endpoint: endpoint(api),
        api_id: api.id.clone(),
        api_key_selection_expression: KEY_SELECTION,
        created_date: seconds(api.created_at),
        description: api.description.clone(),
        disable_execute_api_endpoint: api.disable_execute_api_endpoint,
        ip_address_type: "ipv4",
        name: api.name.clone(),
        protocol_type: "HTTP",
        route_selection_expression: api.route_selection_expression.clone(),
        tags: api.tags.clone(),
        version: api.version.clone(),
    }
}

/// The URL under which an API is reached when it has no domain name of its own.
pub fn endpoint(api: &Api) -> String {
    format!("https://{}.execute-api.{}.amazonaws.com", api.id, api.region)
}

/// Takes over what the input sets, after checking it.
fn apply(api: &mut Api, input: ApiInput) -> Result<(), ApiError> {
    refuse_given(&[
        ("CorsConfiguration", &input.cors_configuration),
        ("CredentialsArn", &input.credentials_arn),
        ("RouteKey (quick create)", &input.route_key),
        ("Target (quick create)", &input.target),
    ])?;
    if input.disable_schema_validation == Some(true) {
        return Err(bad_request("DisableSchemaValidation is supported only for WebSocket APIs"));
    }
    if let Some(other) = input.ip_address_type.as_deref().filter(|kind| *kind != "ipv4") {
        return Err(unsupported(format_args!("The IP address type '{other}'")));
    }
    if input.api_key_selection_expression.is_some_and(|expression| expression != KEY_SELECTION) {
        return Err(bad_request("ApiKeySelectionExpression is supported only for WebSocket APIs"));
    }
    if input.route_selection_expression.is_some_and(|expression| expression != ROUTE_SELECTION) {
        return Err(bad_request(format!(
            "The RouteSelectionExpression of an HTTP API must be '{ROUTE_SELECTION}'"
        )));
    }
    if let Some(name) = input.name {
        check_name("Name", &name, 128)?;
        api.name = name;
    }
    check_description(input.description.as_ref())?;
    if input.description.is_some() {
        api.description = input.description;
    }
    if let Some(version) = input.version {
        check_name("Version", &version, 64)?;
        api.version = Some(version);
    }
    if let Some(disable) = input.disable_execute_api_endpoint {
        api.disable_execute_api_endpoint = disable;
    }
    Ok(())
}

fn create(draft: &mut Draft, caller: &Caller, mut input: ApiInput) -> Result<Form, ApiError> {
    match input.protocol_type.as_deref() {
        Some("HTTP") => {}
        Some("WEBSOCKET") => return Err(unsupported("The protocol type 'WEBSOCKET'")),
        _ => return Err(bad_request("ProtocolType must be one of 'HTTP, WEBSOCKET'")),
    }
    if input.name.is_none() {
        return Err(bad_request("Name is required"));
    }
    check_tags(&input.tags)?;
    if draft.all::<Api>().count() >= APIS_MAX {
        return Err(limit("APIs", APIS_MAX));
    }
    let mut api = Api {
        id: ApiId(draft.alphanumerics(10)),
        name: String::new(),
        description: None,
        region: caller.region.clone(),
        disable_execute_api_endpoint: false,
        route_selection_expression: ROUTE_SELECTION.to_owned(),
        version: None,
        created_at: draft.now(),
        tags: std::mem::take(&mut input.tags),
    };
    apply(&mut api, input)?;
    let answer = form(&api);
    draft.put(api);
    Ok(answer)
}

fn update(draft: &mut Draft, _: &Caller, input: ApiInput) -> Result<Form, ApiError> {
    let mut api = find_api(draft.state(), input.api_id.as_deref().unwrap_or_default())?.clone();
    apply(&mut api, input)?;
    let answer = form(&api);
    draft.put(api);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    api_id: String,
}

fn one(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Form, ApiError> {
    Ok(form(find_api(draft.state(), &input.api_id)?))
}

fn list(draft: &mut Draft, _: &Caller, input: ListInput) -> Result<Items<Form>, ApiError> {
    input.page(draft.all::<Api>().map(|api| (api.key(), form(api))))
}

/// Everything of the API goes with it.
fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    let id = find_api(draft.state(), &input.api_id)?.id.clone();
    let prefix = format!("{id}/");
    remove_all::<Stage>(draft, &prefix);
    remove_all::<Deployment>(draft, &prefix);
    remove_all::<Route>(draft, &prefix);
    remove_all::<Integration>(draft, &prefix);
    draft.remove::<Api>(id.as_str());
    Ok(Nothing {})
}

fn remove_all<T: Resource>(draft: &mut Draft, prefix: &str) {
    let keys: Vec<String> = draft.state().with_prefix::<T>(prefix).map(|row| row.key()).collect();
    for key in keys {
        draft.remove::<T>(&key);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagInput {
    resource_arn: String,
    #[serde(default)]
    tags: TagMap,
    #[serde(default)]
    tag_keys: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TagsAnswer {
    tags: TagMap,
}

fn tag(draft: &mut Draft, _: &Caller, input: TagInput) -> Result<Nothing, ApiError> {
    with_tags(draft, &input.resource_arn, |tags| {
        tags.extend(input.tags);
        check_tags(tags)
    })?;
    Ok(Nothing {})
}

fn untag(draft: &mut Draft, _: &Caller, input: TagInput) -> Result<Nothing, ApiError> {
    with_tags(draft, &input.resource_arn, |tags| {
        tags.retain(|key, _| !input.tag_keys.contains(key));
        Ok(())
    })?;
    Ok(Nothing {})
}

fn tags(draft: &mut Draft, _: &Caller, input: TagInput) -> Result<TagsAnswer, ApiError> {
    let mut found = TagMap::new();
    with_tags(draft, &input.resource_arn, |tags| {
        found.clone_from(tags);
        Ok(())
    })?;
    Ok(TagsAnswer { tags: found })
}

/// Changes the tags of the resource with this ARN; writes nothing if they stay as they are.
fn with_tags(
    draft: &mut Draft,
    arn: &str,
    change: impl FnOnce(&mut TagMap) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let parsed = Arn::from(arn);
    let invalid = || bad_request(format!("Invalid resource ARN: {arn}"));
    let parts = parsed.parts().filter(|parts| parts.service == "apigateway").ok_or_else(invalid)?;
    let path: Vec<&str> = parts.resource.trim_start_matches('/').split('/').collect();
    match path.as_slice() {
        ["apis", id] => {
            edit_tags::<Api>(draft, id, change, |api| &mut api.tags).ok_or(not_found("Api", id))?
        }
        ["apis", id, "stages", name] => {
            edit_tags::<Stage>(draft, &format!("{id}/{name}"), change, |stage| &mut stage.tags)
                .ok_or(not_found("Stage", name))?
        }
        ["vpclinks", id] => {
            edit_tags::<VpcLink>(draft, id, change, |link| &mut link.tags).ok_or(not_found("VpcLink", id))?
        }
        _ => Err(invalid()),
    }
}

fn edit_tags<T: Resource>(
    draft: &mut Draft,
    key: &str,
    change: impl FnOnce(&mut TagMap) -> Result<(), ApiError>,
    tags_of: impl FnOnce(&mut T) -> &mut TagMap,
) -> Option<Result<(), ApiError>> {
    let mut row = T::clone(draft.one::<T>(key)?);
    let tags = tags_of(&mut row);
    let before = tags.clone();
    if let Err(error) = change(tags) {
        return Some(Err(error));
    }
    if *tags != before {
        draft.put(row);
    }
    Some(Ok(()))
}

/// AWS's quota of APIs per region.
const APIS_MAX: usize = 600;
/// How every HTTP API selects routes.
const ROUTE_SELECTION: &str = "$request.method $request.path";
/// What AWS answers for HTTP APIs, which have no API keys.
const KEY_SELECTION: &str = "$request.header.x-api-key";
