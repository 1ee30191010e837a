//! apigatewayv2: stages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ApiError, Caller, Entry,
    apigatewayv2::{
        Items, Nothing, OfApiInput, bad_request, check_description, check_tags, find_api, find_of_api,
        is_empty, limit, not_found, refuse_given, unsupported,
    },
    deployments::{self, auto_deploy},
    operation,
    timestamp::seconds,
};
use crate::model::{
    api::{Stage, TagMap},
    state::{Draft, State},
};

/// The operations on stages.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateStage", create),
    operation!("GetStage", one),
    operation!("GetStages", list),
    operation!("UpdateStage", update),
    operation!("DeleteStage", delete),
];

/// Members of CreateStage and UpdateStage.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StageInput {
    api_id: String,
    stage_name: String,
    auto_deploy: Option<bool>,
    deployment_id: Option<String>,
    description: Option<String>,
    #[serde(default)]
    stage_variables: BTreeMap<String, String>,
    #[serde(default)]
    tags: TagMap,
    access_log_settings: Option<Value>,
    client_certificate_id: Option<Value>,
    default_route_settings: Option<Value>,
    route_settings: Option<Value>,
}

/// A stage on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    auto_deploy: bool,
    created_date: f64,
    default_route_settings: RouteSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_deployment_status_message: Option<String>,
    last_updated_date: f64,
    route_settings: BTreeMap<String, RouteSettings>,
    stage_name: String,
    stage_variables: BTreeMap<String, String>,
    tags: TagMap,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RouteSettings {
    detailed_metrics_enabled: bool,
}

fn form(stage: &Stage) -> Form {
    let message = stage.auto_deploy.then(|| match &stage.deployment_id {
        Some(id) => format!("Successfully deployed stage with deployment ID '{id}'"),
        None => {
            "Deployment attempt failed: At least one route is required before deploying the Api.".to_owned()
        }
    });
    Form {
        auto_deploy: stage.auto_deploy,
        created_date: seconds(stage.created_at),
        default_route_settings: RouteSettings { detailed_metrics_enabled: false },
        deployment_id: stage.deployment_id.clone(),
        description: stage.description.clone(),
        last_deployment_status_message: message,
        last_updated_date: seconds(stage.updated_at),
        route_settings: BTreeMap::new(),
        stage_name: stage.name.clone(),
        stage_variables: stage.variables.clone(),
        tags: stage.tags.clone(),
    }
}

/// Takes over what the input sets, after checking it.
fn apply(state: &State, stage: &mut Stage, input: StageInput) -> Result<(), ApiError> {
    refuse_given(&[
        ("AccessLogSettings", &input.access_log_settings),
        ("ClientCertificateId", &input.client_certificate_id),
        ("RouteSettings", &input.route_settings),
    ])?;
    if let Some(Value::Object(settings)) = &input.default_route_settings {
        let set = settings
            .iter()
            .find(|(_, value)| !is_empty(value) && **value != "OFF" && value.as_f64() != Some(0.0));
        if let Some((name, _)) = set {
            return Err(unsupported(format_args!("DefaultRouteSettings.{name}")));
        }
    }
    if let Some(auto_deploy) = input.auto_deploy {
        stage.auto_deploy = auto_deploy;
    }
    if let Some(id) = input.deployment_id {
        if stage.auto_deploy {
            return Err(bad_request("Deployment ID cannot be set on stages with AutoDeploy enabled"));
        }
        if !deployments::exists(state, &stage.api_id, &id) {
            return Err(not_found("Deployment", &id));
        }
        stage.deployment_id = Some(id);
    }
    check_description(input.description.as_ref())?;
    if input.description.is_some() {
        stage.description = input.description;
    }
    for (name, value) in input.stage_variables {
        let is_name = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let is_lawful = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#&=,".contains(&byte);
        if !is_name || value.len() > 512 || !value.bytes().all(is_lawful) {
            return Err(bad_request(format!("Invalid stage variable: {name}")));
        }
        // An empty value removes the variable, as on AWS.
        if value.is_empty() {
            stage.variables.remove(&name);
        } else {
            stage.variables.insert(name, value);
        }
    }
    if stage.variables.len() > VARIABLES_MAX {
        return Err(bad_request(format!("A stage can have at most {VARIABLES_MAX} variables")));
    }
    Ok(())
}

fn create(draft: &mut Draft, _: &Caller, mut input: StageInput) -> Result<Form, ApiError> {
    let api_id = find_api(draft.state(), &input.api_id)?.id.clone();
    let name = input.stage_name.clone();
    let is_name = (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if name != "$default" && !is_name {
        return Err(bad_request(
            "Stage name must be '$default', or have 1 to 128 alphanumeric characters, hyphens and underscores",
        ));
    }
    let prefix = format!("{api_id}/");
    let key = format!("{prefix}{name}");
    if draft.one::<Stage>(&key).is_some() {
        return Err(ApiError::conflict("ConflictException", format!("Stage already exists: {name}")));
    }
    if draft.state().with_prefix::<Stage>(&prefix).count() >= STAGES_MAX {
        return Err(limit("stages of an API", STAGES_MAX));
    }
    check_tags(&input.tags)?;
    let mut stage = Stage {
        api_id: api_id.clone(),
        name: name.clone(),
        description: None,
        auto_deploy: false,
        deployment_id: None,
        variables: BTreeMap::new(),
        created_at: draft.now(),
        updated_at: draft.now(),
        tags: std::mem::take(&mut input.tags),
    };
    apply(draft.state(), &mut stage, input)?;
    draft.put(stage);
    auto_deploy(draft, &api_id);
    Ok(form(find(draft.state(), api_id.as_str(), &name)?))
}

fn find<'a>(state: &'a State, api_id: &str, name: &str) -> Result<&'a Stage, ApiError> {
    find_of_api(state, api_id, "Stage", name)
}

fn update(draft: &mut Draft, _: &Caller, input: StageInput) -> Result<Form, ApiError> {
    let mut stage = find(draft.state(), &input.api_id, &input.stage_name)?.clone();
    apply(draft.state(), &mut stage, input)?;
    stage.updated_at = draft.now();
    let (api_id, name) = (stage.api_id.clone(), stage.name.clone());
    draft.put(stage);
    auto_deploy(draft, &api_id);
    Ok(form(find(draft.state(), api_id.as_str(), &name)?))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    api_id: String,
    stage_name: String,
}

fn one(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Form, ApiError> {
    Ok(form(find(draft.state(), &input.api_id, &input.stage_name)?))
}

fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    let stage = find(draft.state(), &input.api_id, &input.stage_name)?;
    let key = format!("{}/{}", stage.api_id, stage.name);
    draft.remove::<Stage>(&key);
    Ok(Nothing {})
}

fn list(draft: &mut Draft, _: &Caller, input: OfApiInput) -> Result<Items<Form>, ApiError> {
    input.page(draft.state(), |stage: &Stage| (stage.name.clone(), form(stage)))
}

/// AWS's quota of stages per API.
const STAGES_MAX: usize = 10;
/// AWS's quota of variables per stage.
const VARIABLES_MAX: usize = 100;
