//! AWS::ApiGatewayV2: API, VPC link, integration, route, stage, deployment.

use serde_json::json;

use super::{Kind, Made, Making, Readiness, at_once, attribute, physical, pick, stands};
use crate::control::ops::ApiError;
use crate::model::{
    api::{VpcLink, VpcLinkStatus},
    stack::StackResource,
    state::Draft,
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "AWS::ApiGatewayV2::Api",
        properties: &[
            "Name",
            "ProtocolType",
            "Description",
            "Version",
            "DisableExecuteApiEndpoint",
            "RouteSelectionExpression",
            "CorsConfiguration",
            "Tags",
        ],
        create: |making| {
            let input = making.rest();
            let answer = making.call("apigatewayv2", "CreateApi", input)?;
            let id = pick(&answer, "/ApiId")?;
            let endpoint = pick(&answer, "/ApiEndpoint")?;
            Ok(Made::new(&id).with("ApiId", &id).with("ApiEndpoint", endpoint))
        },
        readiness: stands,
        delete: |making, resource| {
            making.call("apigatewayv2", "DeleteApi", json!({"ApiId": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ApiGatewayV2::VpcLink",
        properties: &["Name", "SubnetIds", "SecurityGroupIds", "Tags"],
        create: |making| {
            let input = making.rest();
            let answer = making.call("apigatewayv2", "CreateVpcLink", input)?;
            let id = pick(&answer, "/VpcLinkId")?;
            Ok(Made::new(&id).with("VpcLinkId", &id))
        },
        readiness: link_is_available,
        delete: |making, resource| {
            making.call("apigatewayv2", "DeleteVpcLink", json!({"VpcLinkId": physical(resource)})).map(drop)
        },
        is_gone: |draft, resource| draft.one::<VpcLink>(physical(resource)).is_none(),
    },
    Kind {
        name: "AWS::ApiGatewayV2::Integration",
        properties: &[
            "ApiId",
            "IntegrationType",
            "IntegrationMethod",
            "IntegrationUri",
            "ConnectionType",
            "ConnectionId",
            "PayloadFormatVersion",
            "TimeoutInMillis",
            "Description",
            "RequestParameters",
            "ResponseParameters",
            "TlsConfig",
        ],
        create: |making| part_of_api(making, "CreateIntegration", "IntegrationId"),
        readiness: stands,
        delete: |making, resource| delete_part(making, resource, "DeleteIntegration", "IntegrationId"),
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ApiGatewayV2::Route",
        properties: &["ApiId", "RouteKey", "Target", "AuthorizationType", "OperationName", "ApiKeyRequired"],
        create: |making| part_of_api(making, "CreateRoute", "RouteId"),
        readiness: stands,
        delete: |making, resource| delete_part(making, resource, "DeleteRoute", "RouteId"),
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ApiGatewayV2::Stage",
        properties: &[
            "ApiId",
            "StageName",
            "AutoDeploy",
            "DeploymentId",
            "Description",
            "StageVariables",
            "DefaultRouteSettings",
            "AccessLogSettings",
            "Tags",
        ],
        create: |making| part_of_api(making, "CreateStage", "StageName"),
        readiness: stands,
        delete: |making, resource| delete_part(making, resource, "DeleteStage", "StageName"),
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ApiGatewayV2::Deployment",
        properties: &["ApiId", "StageName", "Description"],
        create: |making| part_of_api(making, "CreateDeployment", "DeploymentId"),
        readiness: stands,
        delete: |making, resource| delete_part(making, resource, "DeleteDeployment", "DeploymentId"),
        is_gone: at_once,
    },
];

/// Something inside an API: Ref is its id, and the API is remembered for its deletion.
fn part_of_api(making: &mut Making<'_>, operation: &str, id_member: &str) -> Result<Made, ApiError> {
    let api = making.text("ApiId");
    let input = making.rest();
    let answer = making.call("apigatewayv2", operation, input)?;
    let id = pick(&answer, &format!("/{id_member}"))?;
    Ok(Made::new(&id).with(id_member, &id).with("ApiId", api))
}

fn delete_part(
    making: &mut Making<'_>,
    resource: &StackResource,
    operation: &str,
    id_member: &str,
) -> Result<(), ApiError> {
    let mut input = json!({"ApiId": attribute(resource, "ApiId")});
    input[id_member] = physical(resource).into();
    making.call("apigatewayv2", operation, input).map(drop)
}

fn link_is_available(draft: &Draft, resource: &StackResource) -> Readiness {
    match draft.one::<VpcLink>(physical(resource)) {
        Some(link) => match link.status {
            VpcLinkStatus::Available => Readiness::Stands(None),
            VpcLinkStatus::Pending => Readiness::Waits,
            VpcLinkStatus::Deleting | VpcLinkStatus::Failed => Readiness::Failed(link.status_message.clone()),
        },
        None => Readiness::Failed("the VPC link was deleted".to_owned()),
    }
}
