//! apigatewayv2: deployments, the immutable copies of an API's routes and integrations that stages serve.
//!
//! A stage with AutoDeploy follows the API: `auto_deploy` is called by whatever changes a route or an integration.

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry,
    apigatewayv2::{
        Items, Nothing, OfApiInput, bad_request, check_description, find_api, find_of_api, limit, not_found,
    },
    operation,
    timestamp::seconds,
};
use crate::model::{
    api::{Deployment, Integration, Route, Stage},
    id::ApiId,
    state::{Draft, State},
};

/// The operations on deployments.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateDeployment", create),
    operation!("GetDeployment", one),
    operation!("GetDeployments", list),
    operation!("UpdateDeployment", update),
    operation!("DeleteDeployment", delete),
];

/// A deployment on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    auto_deployed: bool,
    created_date: f64,
    deployment_id: String,
    deployment_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

fn form(deployment: &Deployment) -> Form {
    Form {
        auto_deployed: deployment.auto_deployed,
        created_date: seconds(deployment.created_at),
        deployment_id: deployment.id.clone(),
        deployment_status: "DEPLOYED",
        description: deployment.description.clone(),
    }
}

/// The API's routes and integrations as they are now.
fn copy(draft: &mut Draft, api_id: &ApiId, description: Option<String>, auto_deployed: bool) -> Deployment {
    let prefix = format!("{api_id}/");
    let id = draft.alphanumerics(6);
    let state = draft.state();
    Deployment {
        id,
        api_id: api_id.clone(),
        description,
        auto_deployed,
        created_at: draft.now(),
        routes: state.with_prefix::<Route>(&prefix).map(|route| Route::clone(route)).collect(),
        integrations: state
            .with_prefix::<Integration>(&prefix)
            .map(|integration| Integration::clone(integration))
            .collect(),
    }
}

/// Deploys the API to its stages with AutoDeploy, if it differs from what they serve. An API without routes is not
/// deployed, as on AWS.
pub fn auto_deploy(draft: &mut Draft, api_id: &ApiId) {
    let prefix = format!("{api_id}/");
    let stages: Vec<Stage> = draft
        .state()
        .with_prefix::<Stage>(&prefix)
        .filter(|stage| stage.auto_deploy)
        .map(|stage| Stage::clone(stage))
        .collect();
    if stages.is_empty() {
        return;
    }
    let deployment = copy(draft, api_id, Some(AUTOMATIC.to_owned()), true);
    if deployment.routes.is_empty() {
        return;
    }
    let is_current = |stage: &Stage| {
        stage
            .deployment_id
            .as_ref()
            .and_then(|id| draft.one::<Deployment>(&format!("{prefix}{id}")))
            .is_some_and(|served| {
                served.routes == deployment.routes && served.integrations == deployment.integrations
            })
    };
    let behind: Vec<Stage> = stages.into_iter().filter(|stage| !is_current(stage)).collect();
    if behind.is_empty() {
        return;
    }
    for mut stage in behind {
        stage.deployment_id = Some(deployment.id.clone());
        stage.updated_at = draft.now();
        draft.put(stage);
    }
    draft.put(deployment);
    forget_old(draft, &prefix);
}

/// Removes the oldest automatic deployments that no stage serves.
fn forget_old(draft: &mut Draft, prefix: &str) {
    let state = draft.state();
    let mut unserved: Vec<(u64, String)> = state
        .with_prefix::<Deployment>(prefix)
        .filter(|deployment| deployment.auto_deployed && !is_served(state, prefix, &deployment.id))
        .map(|deployment| (deployment.created_at, deployment.id.clone()))
        .collect();
    unserved.sort();
    let surplus = unserved.len().saturating_sub(AUTOMATIC_KEPT);
    for (_, id) in unserved.into_iter().take(surplus) {
        draft.remove::<Deployment>(&format!("{prefix}{id}"));
    }
}

fn is_served(state: &State, prefix: &str, id: &str) -> bool {
    state.with_prefix::<Stage>(prefix).any(|stage| stage.deployment_id.as_deref() == Some(id))
}

/// Whether the API has this deployment.
pub fn exists(state: &State, api_id: &ApiId, id: &str) -> bool {
    state.deployments.contains_key(&format!("{api_id}/{id}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    api_id: String,
    description: Option<String>,
    stage_name: Option<String>,
}

fn create(draft: &mut Draft, _: &Caller, input: CreateInput) -> Result<Form, ApiError> {
    let api_id = find_api(draft.state(), &input.api_id)?.id.clone();
    check_description(input.description.as_ref())?;
    let prefix = format!("{api_id}/");
    if draft.state().with_prefix::<Deployment>(&prefix).count() >= DEPLOYMENTS_MAX {
        return Err(limit("deployments of an API", DEPLOYMENTS_MAX));
    }
    let deployment = copy(draft, &api_id, input.description, false);
    if deployment.routes.is_empty() {
        return Err(bad_request("At least one route is required before deploying the Api."));
    }
    if let Some(name) = input.stage_name {
        let stage =
            draft.one::<Stage>(&format!("{prefix}{name}")).ok_or_else(|| not_found("Stage", &name))?;
        let mut stage = Stage::clone(stage);
        stage.deployment_id = Some(deployment.id.clone());
        stage.updated_at = draft.now();
        draft.put(stage);
    }
    let answer = form(&deployment);
    draft.put(deployment);
    Ok(answer)
}

fn find<'a>(state: &'a State, api_id: &str, id: &str) -> Result<&'a Deployment, ApiError> {
    find_of_api(state, api_id, "Deployment", id)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    api_id: String,
    deployment_id: String,
    description: Option<String>,
}

fn one(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Form, ApiError> {
    Ok(form(find(draft.state(), &input.api_id, &input.deployment_id)?))
}

fn update(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Form, ApiError> {
    let mut deployment = find(draft.state(), &input.api_id, &input.deployment_id)?.clone();
    check_description(input.description.as_ref())?;
    if input.description.is_some() {
        deployment.description = input.description;
    }
    let answer = form(&deployment);
    draft.put(deployment);
    Ok(answer)
}

fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    let deployment = find(draft.state(), &input.api_id, &input.deployment_id)?;
    let prefix = format!("{}/", deployment.api_id);
    if is_served(draft.state(), &prefix, &deployment.id) {
        return Err(bad_request("Active stages pointing to this deployment must be moved or deleted"));
    }
    let key = format!("{prefix}{}", deployment.id);
    draft.remove::<Deployment>(&key);
    Ok(Nothing {})
}

fn list(draft: &mut Draft, _: &Caller, input: OfApiInput) -> Result<Items<Form>, ApiError> {
    input.page(draft.state(), |deployment: &Deployment| (deployment.id.clone(), form(deployment)))
}

/// What AWS says of deployments that it makes itself.
const AUTOMATIC: &str = "Automatic deployment triggered by changes to the Api configuration";
/// Automatic deployments that nobody serves and that are kept to be looked at; each is a copy of the whole API.
const AUTOMATIC_KEPT: usize = 10;
/// Deployments that may be made by hand; each is a copy of the whole API.
const DEPLOYMENTS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use serde_json::{Value, json};

    const SERVICE: &str = "apigatewayv2";
    const LISTENER: &str = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:listener/app/web/0123456789abcdef/0123456789abcdef";

    /// An API with an integration over a VPC link.
    fn api(world: &mut World) -> (Value, Value) {
        let api = world.ok(SERVICE, "CreateApi", json!({"Name": "one", "ProtocolType": "HTTP"}));
        let id = api["ApiId"].clone();
        assert_eq!(
            api["ApiEndpoint"],
            format!("https://{}.execute-api.eu-central-1.amazonaws.com", id.as_str().unwrap())
        );
        let link = json!({"Name": "link", "SubnetIds": ["subnet-a"]});
        let link = world.ok(SERVICE, "CreateVpcLink", link)["VpcLinkId"].clone();
        let integration = world.ok(SERVICE, "CreateIntegration", integration(&id, &link));
        (id, integration["IntegrationId"].clone())
    }

    fn integration(api: &Value, link: &Value) -> Value {
        json!({"ApiId": api, "IntegrationType": "HTTP_PROXY", "IntegrationMethod": "ANY", "ConnectionType": "VPC_LINK",
            "ConnectionId": link, "IntegrationUri": LISTENER, "PayloadFormatVersion": "1.0"})
    }

    fn route(api: &Value, integration: &Value, key: &str) -> Value {
        let target = format!("integrations/{}", integration.as_str().unwrap());
        json!({"ApiId": api, "RouteKey": key, "Target": target})
    }

    fn stage(api: &Value) -> Value {
        json!({"ApiId": api, "StageName": "$default"})
    }

    #[test]
    fn a_stage_with_auto_deploy_follows_its_api() {
        let mut world = World::new();
        let (api, integration) = api(&mut world);
        let mut input = stage(&api);
        input["AutoDeploy"] = json!(true);
        let made = world.ok(SERVICE, "CreateStage", input);
        assert_eq!(made.get("DeploymentId"), None, "there is no route to deploy");
        let root = world.ok(SERVICE, "CreateRoute", route(&api, &integration, "ANY /"));
        let first = world.ok(SERVICE, "GetStage", stage(&api))["DeploymentId"].clone();
        assert!(first.is_string());
        world.ok(SERVICE, "CreateRoute", route(&api, &integration, "ANY /{proxy+}"));
        let second = world.ok(SERVICE, "GetStage", stage(&api))["DeploymentId"].clone();
        assert_ne!(first, second);
        let served = format!("{}/{}", api.as_str().unwrap(), second.as_str().unwrap());
        assert_eq!(world.state.deployments.get(&served).unwrap().routes.len(), 2);
        world.ok(SERVICE, "DeleteRoute", json!({"ApiId": api, "RouteId": root["RouteId"]}));
        assert_ne!(world.ok(SERVICE, "GetStage", stage(&api))["DeploymentId"], second);
        world.ok(SERVICE, "DeleteApi", json!({"ApiId": api}));
        let left = [
            world.state.routes.len(),
            world.state.integrations.len(),
            world.state.stages.len(),
            world.state.deployments.len(),
        ];
        assert_eq!(left, [0; 4]);
    }

    #[test]
    fn a_stage_without_auto_deploy_serves_what_it_was_given() {
        let mut world = World::new();
        let (api, integration) = api(&mut world);
        world.ok(SERVICE, "CreateStage", stage(&api));
        let (code, message) = world.refuse(SERVICE, "CreateDeployment", json!({"ApiId": api}));
        assert_eq!((code.as_str(), message.contains("At least one route")), ("BadRequestException", true));
        world.ok(SERVICE, "CreateRoute", route(&api, &integration, "$default"));
        let input = json!({"ApiId": api, "StageName": "$default"});
        let deployment = world.ok(SERVICE, "CreateDeployment", input)["DeploymentId"].clone();
        world.ok(SERVICE, "CreateRoute", route(&api, &integration, "GET /x"));
        assert_eq!(world.ok(SERVICE, "GetStage", stage(&api))["DeploymentId"], deployment);
        let one = json!({"ApiId": api, "DeploymentId": deployment});
        assert_eq!(world.refuse(SERVICE, "DeleteDeployment", one.clone()).0, "BadRequestException");
        world.ok(SERVICE, "DeleteStage", stage(&api));
        world.ok(SERVICE, "DeleteDeployment", one);
    }

    #[test]
    fn automatic_deployments_that_nobody_serves_are_bounded() {
        let mut world = World::new();
        let (api, integration) = api(&mut world);
        let mut input = stage(&api);
        input["AutoDeploy"] = json!(true);
        world.ok(SERVICE, "CreateStage", input);
        for at in 0..2 * AUTOMATIC_KEPT {
            world.now += 1;
            world.ok(SERVICE, "CreateRoute", route(&api, &integration, &format!("GET /{at}")));
        }
        assert_eq!(world.state.deployments.len(), AUTOMATIC_KEPT + 1);
    }

    #[test]
    fn what_is_wrong_is_refused_and_changes_nothing() {
        let mut world = World::new();
        let (api, integration_id) = api(&mut world);
        world.ok(SERVICE, "CreateRoute", route(&api, &integration_id, "GET /pets/{id}"));
        let conflict = route(&api, &integration_id, "GET /pets/{petId}");
        assert_eq!(world.refuse(SERVICE, "CreateRoute", conflict).0, "ConflictException");
        assert_eq!(
            world.refuse(SERVICE, "CreateRoute", route(&api, &json!("none"), "GET /")).0,
            "BadRequestException"
        );
        let one = json!({"ApiId": api, "IntegrationId": integration_id});
        assert_eq!(world.refuse(SERVICE, "DeleteIntegration", one).0, "ConflictException");
        let link = world.state.vpc_links.keys().next().unwrap().clone();
        let base = integration(&api, &json!(link));
        for (key, value, word) in [
            (
                "IntegrationUri",
                json!("https://example.com"),
                "For VpcLink VPC_LINK, integration uri should be a valid ELB listener ARN or a valid Cloud Map service ARN.",
            ),
            ("IntegrationUri", Value::Null, "For VpcLink VPC_LINK"),
            ("ConnectionId", json!("zzzzzz"), "zzzzzz"),
            ("ConnectionType", json!("INTERNET"), "INTERNET"),
            ("IntegrationType", json!("AWS_PROXY"), "AWS_PROXY"),
            ("IntegrationMethod", json!("BREW"), "BREW"),
            ("IntegrationMethod", Value::Null, "HttpMethod"),
            ("PayloadFormatVersion", json!("2.0"), "2.0"),
            ("TimeoutInMillis", json!(49), "49"),
            ("TimeoutInMillis", json!(30_001), "30001"),
            ("RequestParameters", json!({"overwrite:path": "/"}), "RequestParameters"),
        ] {
            let mut input = base.clone();
            input[key] = value;
            let (code, message) = world.refuse(SERVICE, "CreateIntegration", input);
            assert_eq!(code, "BadRequestException");
            assert!(message.contains(word), "{message}");
        }
        let (code, _) = world.refuse(SERVICE, "GetApi", json!({"ApiId": "none"}));
        assert_eq!(code, "NotFoundException");
        for input in [
            json!({"Name": "x", "ProtocolType": "WEBSOCKET"}),
            json!({"Name": "", "ProtocolType": "HTTP"}),
            json!({"Name": "x", "ProtocolType": "HTTP", "CorsConfiguration": {"AllowOrigins": ["*"]}}),
            json!({"Name": "x", "ProtocolType": "HTTP", "Target": "https://example.com"}),
        ] {
            assert_eq!(world.refuse(SERVICE, "CreateApi", input).0, "BadRequestException");
        }
        world.ok(SERVICE, "CreateStage", stage(&api));
        assert_eq!(world.refuse(SERVICE, "CreateStage", stage(&api)).0, "ConflictException");
        assert_eq!(
            [world.state.routes.len(), world.state.integrations.len(), world.state.apis.len()],
            [1; 3]
        );
    }

    #[test]
    fn apis_stages_and_links_have_tags() {
        let mut world = World::new();
        let (api, _) = api(&mut world);
        world.ok(SERVICE, "CreateStage", stage(&api));
        let api = api.as_str().unwrap();
        let link = world.state.vpc_links.keys().next().unwrap().clone();
        for path in
            [format!("/apis/{api}"), format!("/apis/{api}/stages/$default"), format!("/vpclinks/{link}")]
        {
            let arn = format!("arn:aws:apigateway:eu-central-1::{path}");
            world.ok(SERVICE, "TagResource", json!({"ResourceArn": arn, "Tags": {"a": "1", "b": "2"}}));
            world.ok(SERVICE, "UntagResource", json!({"ResourceArn": arn, "TagKeys": ["b"]}));
            let tags = world.ok(SERVICE, "GetTags", json!({"ResourceArn": arn}));
            assert_eq!(tags["Tags"], json!({"a": "1"}));
        }
        let gone = json!({"ResourceArn": "arn:aws:apigateway:eu-central-1::/apis/none"});
        assert_eq!(world.refuse(SERVICE, "GetTags", gone).0, "NotFoundException");
    }
}
