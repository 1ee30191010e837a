//! apigatewayv2 by boto3: what each operation answers, AWS's errors, and that what is refused changes nothing.

use lb_userspace::{control::ops::vpc_links, model::id::VpcLinkId};
use serde_json::{Value, json};

use super::{load_balancing::Ground, served::Served};

const GATEWAY: &str = "apigatewayv2";
const LISTENER: &str = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:listener/app/web/0123456789abcdef/0123456789abcdef";

impl Served {
    fn api(&self, operation: &str, params: Value) -> Value {
        self.must(GATEWAY, operation, params)
    }

    /// A VPC link whose lanes are up.
    fn link(&self, ground: &Ground) -> Value {
        let input = json!({"Name": "link", "SubnetIds": ground.subnets, "SecurityGroupIds": [ground.group]});
        let link = self.api("CreateVpcLink", input);
        assert_eq!(link["VpcLinkStatus"], "PENDING");
        self.attach(&link["VpcLinkId"], 1);
        link["VpcLinkId"].clone()
    }

    fn attach(&self, link: &Value, gateways: u32) {
        let link = VpcLinkId::from(link.as_str().unwrap());
        self.state().change(|draft| vpc_links::apply_attached(draft, &link, gateways));
    }
}

fn integration(api: &Value, link: &Value) -> Value {
    json!({"ApiId": api, "IntegrationType": "HTTP_PROXY", "IntegrationMethod": "ANY", "ConnectionType": "VPC_LINK",
        "ConnectionId": link, "IntegrationUri": LISTENER, "PayloadFormatVersion": "1.0"})
}

#[test]
fn an_api_over_a_vpc_link_is_made_deployed_and_deleted() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let link = served.link(&ground);
    let read = served.api("GetVpcLink", json!({"VpcLinkId": link}));
    assert_eq!(read["VpcLinkStatus"], "AVAILABLE");
    assert_eq!(read["VpcLinkStatusMessage"], "VPC link is ready to route traffic");
    assert_eq!(served.api("UpdateVpcLink", json!({"VpcLinkId": link, "Name": "other"}))["Name"], "other");
    assert_eq!(served.api("GetVpcLinks", json!({}))["Items"][0]["VpcLinkVersion"], "V2");

    let input = json!({"Name": "shop", "ProtocolType": "HTTP", "Description": "a shop", "Tags": {"a": "1"}});
    let api = served.api("CreateApi", input);
    let id = &api["ApiId"];
    assert_eq!(id.as_str().unwrap().len(), 10);
    assert!(api["CreatedDate"].is_number(), "a time that boto3 understands: {api:#}");
    let endpoint = format!("https://{}.execute-api.eu-central-1.amazonaws.com", id.as_str().unwrap());
    assert_eq!(api["ApiEndpoint"], endpoint);
    assert_eq!(served.api("UpdateApi", json!({"ApiId": id, "Version": "2"}))["Version"], "2");
    assert_eq!(served.api("GetApi", json!({"ApiId": id}))["Description"], "a shop");

    let made = served.api("CreateIntegration", integration(id, &link));
    let part = json!({"ApiId": id, "IntegrationId": made["IntegrationId"]});
    assert_eq!(made["TimeoutInMillis"], 30_000);
    let mut change = part.clone();
    change["TimeoutInMillis"] = json!(5_000);
    assert_eq!(served.api("UpdateIntegration", change)["TimeoutInMillis"], 5_000);

    let input = json!({"ApiId": id, "StageName": "$default", "AutoDeploy": true, "StageVariables": {"color": "blue"}});
    let stage = served.api("CreateStage", input);
    assert!(stage["LastDeploymentStatusMessage"].as_str().unwrap().contains("At least one route"));
    let target = format!("integrations/{}", made["IntegrationId"].as_str().unwrap());
    let route = served.api("CreateRoute", json!({"ApiId": id, "RouteKey": "ANY /", "Target": target}));
    let one = json!({"ApiId": id, "StageName": "$default"});
    let first = served.api("GetStage", one.clone())["DeploymentId"].clone();
    let input = json!({"ApiId": id, "RouteId": route["RouteId"], "RouteKey": "ANY /{proxy+}"});
    assert_eq!(served.api("UpdateRoute", input)["RouteKey"], "ANY /{proxy+}");
    let second = served.api("GetStage", one.clone())["DeploymentId"].clone();
    assert!(first.is_string() && second.is_string() && first != second, "{first} {second}");
    let deployment = served.api("GetDeployment", json!({"ApiId": id, "DeploymentId": second}));
    assert_eq!(
        (&deployment["AutoDeployed"], &deployment["DeploymentStatus"]),
        (&json!(true), &json!("DEPLOYED"))
    );
    assert_eq!(served.api("GetDeployments", json!({"ApiId": id}))["Items"].as_array().unwrap().len(), 2);
    assert_eq!(served.api("GetRoutes", json!({"ApiId": id}))["Items"].as_array().unwrap().len(), 1);
    assert_eq!(served.api("GetIntegrations", json!({"ApiId": id}))["Items"][0]["ConnectionId"], link);
    assert_eq!(served.api("GetStages", json!({"ApiId": id}))["Items"][0]["StageVariables"]["color"], "blue");
    assert_eq!(
        served.api("UpdateStage", json!({"ApiId": id, "StageName": "$default", "Description": "d"}))["Description"],
        "d"
    );

    served.api("DeleteRoute", json!({"ApiId": id, "RouteId": route["RouteId"]}));
    served.api("DeleteIntegration", part);
    served.api("DeleteStage", one);
    served.api("DeleteApi", json!({"ApiId": id}));
    served.refuse(GATEWAY, "GetApi", json!({"ApiId": id}), "NotFoundException");

    served.api("DeleteVpcLink", json!({"VpcLinkId": link}));
    assert_eq!(served.api("GetVpcLink", json!({"VpcLinkId": link}))["VpcLinkStatus"], "DELETING");
    served.attach(&link, 0);
    served.refuse(GATEWAY, "GetVpcLink", json!({"VpcLinkId": link}), "NotFoundException");
}

#[test]
fn lists_come_in_pages_and_tags_by_arn() {
    let served = Served::start();
    for name in ["a", "b", "c"] {
        served.api("CreateApi", json!({"Name": name, "ProtocolType": "HTTP"}));
    }
    let mut names = Vec::new();
    let mut page = served.api("GetApis", json!({"MaxResults": "2"}));
    loop {
        names.extend(
            page["Items"].as_array().unwrap().iter().map(|api| api["Name"].as_str().unwrap().to_owned()),
        );
        let Some(token) = page.get("NextToken").cloned() else { break };
        page = served.api("GetApis", json!({"MaxResults": "2", "NextToken": token}));
    }
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);

    let id = served.api("GetApis", json!({}))["Items"][0]["ApiId"].clone();
    let arn = format!("arn:aws:apigateway:eu-central-1::/apis/{}", id.as_str().unwrap());
    served.api("TagResource", json!({"ResourceArn": arn, "Tags": {"a": "1", "b": "2"}}));
    served.api("UntagResource", json!({"ResourceArn": arn, "TagKeys": ["b"]}));
    assert_eq!(served.api("GetTags", json!({"ResourceArn": arn}))["Tags"], json!({"a": "1"}));
}

#[test]
fn what_is_malformed_or_conflicts_is_refused_and_changes_nothing() {
    let served = Served::start();
    let ground = Ground::lay(&served);
    let link = served.link(&ground);
    let api = served.api("CreateApi", json!({"Name": "shop", "ProtocolType": "HTTP"}))["ApiId"].clone();
    let made = served.api("CreateIntegration", integration(&api, &link))["IntegrationId"].clone();
    let target = format!("integrations/{}", made.as_str().unwrap());
    served.api("CreateRoute", json!({"ApiId": api, "RouteKey": "GET /pets/{id}", "Target": target}));
    served.api("CreateStage", json!({"ApiId": api, "StageName": "test"}));
    let with = |key: &str, value: Value| {
        let mut input = integration(&api, &link);
        input[key] = value;
        input
    };
    let message = served.refuse(
        GATEWAY,
        "CreateIntegration",
        with("IntegrationUri", json!("https://example.com/")),
        "BadRequestException",
    );
    assert_eq!(
        message,
        "For VpcLink VPC_LINK, integration uri should be a valid ELB listener ARN or a valid Cloud Map service ARN."
    );
    let cases = [
        ("CreateApi", json!({}), "BadRequestException"),
        ("CreateApi", json!({"Name": "x", "ProtocolType": "FTP"}), "BadRequestException"),
        ("CreateApi", json!({"Name": "x", "ProtocolType": "WEBSOCKET"}), "BadRequestException"),
        ("UpdateApi", json!({"ApiId": "none", "Name": "x"}), "NotFoundException"),
        ("GetApis", json!({"MaxResults": "many"}), "BadRequestException"),
        ("CreateRoute", json!({"ApiId": api, "RouteKey": "GET /pets/{petId}"}), "ConflictException"),
        ("CreateRoute", json!({"ApiId": api, "RouteKey": "FETCH /pets"}), "BadRequestException"),
        ("CreateRoute", json!({"ApiId": api, "RouteKey": "GET /{all+}/x"}), "BadRequestException"),
        (
            "CreateRoute",
            json!({"ApiId": api, "RouteKey": "GET /", "Target": "integrations/none"}),
            "BadRequestException",
        ),
        (
            "CreateRoute",
            json!({"ApiId": api, "RouteKey": "GET /", "AuthorizationType": "JWT"}),
            "BadRequestException",
        ),
        ("GetRoute", json!({"ApiId": api, "RouteId": "none"}), "NotFoundException"),
        ("CreateIntegration", with("TimeoutInMillis", json!(49)), "BadRequestException"),
        ("CreateIntegration", with("ConnectionId", json!("none")), "BadRequestException"),
        ("CreateIntegration", with("IntegrationType", json!("MOCK")), "BadRequestException"),
        ("CreateIntegration", with("PayloadFormatVersion", json!("2.0")), "BadRequestException"),
        ("CreateIntegration", with("ApiId", json!("none")), "NotFoundException"),
        ("DeleteIntegration", json!({"ApiId": api, "IntegrationId": made}), "ConflictException"),
        ("CreateStage", json!({"ApiId": api, "StageName": "test"}), "ConflictException"),
        ("CreateStage", json!({"ApiId": api, "StageName": "a b"}), "BadRequestException"),
        ("CreateStage", json!({"ApiId": api, "StageName": "x", "DeploymentId": "none"}), "NotFoundException"),
        ("CreateDeployment", json!({"ApiId": api, "StageName": "none"}), "NotFoundException"),
        ("CreateVpcLink", json!({"Name": "x", "SubnetIds": ["subnet-1"]}), "BadRequestException"),
        (
            "CreateVpcLink",
            json!({"Name": "x", "SubnetIds": ground.subnets, "SecurityGroupIds": ["sg-1"]}),
            "BadRequestException",
        ),
        ("DeleteVpcLink", json!({"VpcLinkId": "none"}), "NotFoundException"),
        (
            "GetTags",
            json!({"ResourceArn": "arn:aws:apigateway:eu-central-1::/apis/none"}),
            "NotFoundException",
        ),
        ("TagResource", json!({"ResourceArn": "nonsense", "Tags": {"a": "1"}}), "BadRequestException"),
    ];
    for (operation, input, code) in cases {
        let message = served.refuse(GATEWAY, operation, input, code);
        assert!(!message.is_empty(), "{operation} {code}");
    }
}
