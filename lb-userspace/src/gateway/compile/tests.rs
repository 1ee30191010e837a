//! Compiling slices: what is shared, what is left out, where requests go.

use super::*;
use crate::model::id::Arn;
use crate::snapshot::gateway::{LinkView, RouteView, ServiceInstanceView, ServiceView};

fn slice() -> GatewaySlice {
    let instance = |id: u8, healthy, stage: &str| ServiceInstanceView {
        target: LaneTarget([id; 16]),
        attributes: BTreeMap::from([("stage".to_owned(), stage.to_owned())]),
        healthy,
    };
    let service = ServiceView {
        name: "web.shop".to_owned(),
        revision: 1,
        instances: BTreeMap::from([
            ("a".to_owned(), instance(1, true, "prod")),
            ("b".to_owned(), instance(2, false, "prod")),
            ("c".to_owned(), instance(3, true, "test")),
        ]),
    };
    let integration = |destination| IntegrationView { method: None, timeout_ms: 30_000, destination };
    let link = || VpcLinkId::from("link01");
    let integrations = BTreeMap::from([
        (
            "service".to_owned(),
            integration(Destination::Service {
                link: link(),
                service: Arn::from("arn:service"),
                query: BTreeMap::from([("stage".to_owned(), "prod".to_owned())]),
            }),
        ),
        (
            "listener".to_owned(),
            integration(Destination::Listener {
                link: link(),
                targets: vec![LaneTarget([9; 16])],
                is_application: false,
            }),
        ),
    ]);
    let route = |id: &str| RouteView { id: id.to_owned(), integration_id: id.to_owned() };
    let stage = StageView {
        deployment_id: "d1".to_owned(),
        variables: BTreeMap::new(),
        routes: BTreeMap::from([
            ("GET /service".to_owned(), route("service")),
            ("$default".to_owned(), route("listener")),
            ("nonsense".to_owned(), route("listener")),
            ("GET /gone".to_owned(), route("gone")),
        ]),
        integrations,
    };
    let api = ApiView {
        name: "demo".to_owned(),
        region: "eu-central-1".to_owned(),
        disable_execute_api_endpoint: false,
        stages: BTreeMap::from([("$default".to_owned(), stage)]),
    };
    GatewaySlice {
        domain_suffix: "amazonaws.com".to_owned(),
        apis: BTreeMap::from([(ApiId::from("api0000001"), api)]),
        services: BTreeMap::from([(Arn::from("arn:service"), service)]),
        links: BTreeMap::from([(link(), LinkView { name: "l".to_owned(), deleting: false })]),
        credentials: None,
    }
}

fn compile(slice: &GatewaySlice, before: &Routing) -> (Routing, Vec<String>) {
    let mut faults = Vec::new();
    (Routing::compile(slice, before, &Metrics::new(), &mut faults), faults)
}

const HOST: &str = "api0000001.execute-api.eu-central-1.amazonaws.com";

fn targets_of(routing: &Routing, path: &str) -> Result<Vec<u8>, StatusCode> {
    let selected = routing.select(None, HOST, &Method::GET, path).map_err(NoRoute::status)?;
    match &selected.route.integration.targets {
        Targets::Link { targets, .. } => Ok(targets.iter().map(|target| target.0[0]).collect()),
        Targets::Broken { .. } => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[test]
fn requests_reach_the_targets_that_the_query_and_health_leave() {
    let (routing, faults) = compile(&slice(), &Routing::default());
    assert_eq!(targets_of(&routing, "/service"), Ok(vec![1]));
    assert_eq!(targets_of(&routing, "/other"), Ok(vec![9]));
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn all_unhealthy_instances_are_as_good_as_healthy_ones() {
    let mut slice = slice();
    for service in slice.services.values_mut() {
        service.instances.values_mut().for_each(|instance| instance.healthy = false);
    }
    let (routing, _) = compile(&slice, &Routing::default());
    assert_eq!(targets_of(&routing, "/service"), Ok(vec![1, 2]));
}

#[test]
fn unknown_hosts_are_forbidden_and_disabled_ones_not_found() {
    let mut slice = slice();
    let (routing, _) = compile(&slice, &Routing::default());
    let status = |routing: &Routing, server_name: Option<&str>, host: &str| {
        routing.select(server_name, host, &Method::GET, "/").map_err(NoRoute::status).err()
    };
    assert_eq!(status(&routing, None, HOST), None);
    for host in ["localhost", "other.execute-api.eu-central-1.amazonaws.com", &HOST.replace("eu-", "us-")] {
        assert_eq!(status(&routing, None, host), Some(StatusCode::FORBIDDEN), "{host}");
    }
    let other = "other00001.execute-api.eu-central-1.amazonaws.com";
    assert_eq!(status(&routing, Some(other), HOST), Some(StatusCode::FORBIDDEN));
    slice.apis.values_mut().for_each(|api| api.disable_execute_api_endpoint = true);
    let (routing, _) = compile(&slice, &routing);
    assert_eq!(status(&routing, None, HOST), Some(StatusCode::NOT_FOUND));
}

#[test]
fn a_link_that_is_deleted_breaks_its_integrations() {
    let mut slice = slice();
    slice.links.values_mut().for_each(|link| link.deleting = true);
    let (routing, _) = compile(&slice, &Routing::default());
    assert_eq!(targets_of(&routing, "/service"), Err(StatusCode::INTERNAL_SERVER_ERROR));
    assert!(routing.targets().is_empty());
}

#[test]
fn what_did_not_change_is_shared() {
    let mut slice = slice();
    let (first, _) = compile(&slice, &Routing::default());
    let (second, _) = compile(&slice, &first);
    let pair = |a: &Routing, b: &Routing| {
        let (a, b) = (a.stages().next().cloned().unwrap(), b.stages().next().cloned().unwrap());
        Arc::ptr_eq(&a, &b)
    };
    assert!(pair(&first, &second));
    for service in slice.services.values_mut() {
        service.instances.remove("a");
    }
    let (third, _) = compile(&slice, &second);
    assert!(!pair(&second, &third));
    assert_eq!(targets_of(&third, "/service"), Ok(vec![2]), "the other is unhealthy, and all there is");
}
