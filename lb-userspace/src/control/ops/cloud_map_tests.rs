//! Stories of servicediscovery's operations: what they keep, what they refuse, and in which words.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{ApiError, world::World};
use crate::model::{
    discovery::{DiscoveryInstance, Operation},
    id::VpcId,
    network::Vpc,
};
use crate::snapshot::{
    compile::{Settings, Slices, compile},
    zone::{RecordKind, Routing},
};

/// An HTTP namespace and a service with custom health in it; answers the service's id.
fn demo() -> (World, String) {
    let mut world = World::new();
    let namespace = namespace(&mut world, "CreateHttpNamespace", json!({"Name": "demo"}));
    let input = json!({"Name": "web", "NamespaceId": namespace, "HealthCheckCustomConfig": {}});
    let answer = world.ok("servicediscovery", "CreateService", input);
    let id = answer["Service"]["Id"].as_str().unwrap().to_owned();
    (world, id)
}

fn namespace(world: &mut World, operation: &str, input: Value) -> String {
    let answer = world.ok("servicediscovery", operation, input);
    let done = world.ok("servicediscovery", "GetOperation", json!({"OperationId": answer["OperationId"]}));
    assert_eq!(done["Operation"]["Status"], "SUCCESS");
    done["Operation"]["Targets"]["NAMESPACE"].as_str().unwrap().to_owned()
}

fn register(world: &mut World, service: &str, id: &str, attributes: Value) -> Result<Value, ApiError> {
    let input = json!({"ServiceId": service, "InstanceId": id, "Attributes": attributes});
    world.call("servicediscovery", "RegisterInstance", input)
}

/// What the scheduler does once every data plane has applied.
fn finish_operations(world: &mut World) {
    world
        .change(|draft| {
            let open: Vec<String> = draft.all::<Operation>().map(|row| row.id.clone()).collect();
            for id in open {
                draft.edit::<Operation>(&id, |row| row.status = "SUCCESS".into());
            }
            Ok::<_, ()>(())
        })
        .unwrap();
}

fn discover(world: &mut World, more: Value) -> Vec<String> {
    let mut input = json!({"NamespaceName": "demo", "ServiceName": "web"});
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = world.ok("servicediscovery", "DiscoverInstances", input);
    let mut ids: Vec<String> = answer["Instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|instance| instance["InstanceId"].as_str().unwrap().to_owned())
        .collect();
    ids.sort();
    ids
}

#[test]
fn a_namespace_is_made_once_per_name_and_shown() {
    let mut world = World::new();
    let input = json!({"Name": "demo", "CreatorRequestId": "r", "Description": "d"});
    let id = namespace(&mut world, "CreateHttpNamespace", input.clone());
    assert_eq!(namespace(&mut world, "CreateHttpNamespace", input), id, "the same request again");
    let error = world
        .call("servicediscovery", "CreateHttpNamespace", json!({"Name": "demo", "CreatorRequestId": "s"}))
        .unwrap_err();
    assert_eq!(error.fields["NamespaceId"], json!(id));
    let shown = world.ok("servicediscovery", "GetNamespace", json!({"Id": id}));
    assert_eq!(shown["Namespace"]["Type"], "HTTP");
    assert_eq!(shown["Namespace"]["Properties"]["HttpProperties"]["HttpName"], "demo");
    let private = namespace(
        &mut world,
        "CreatePrivateDnsNamespace",
        json!({"Name": "demo.local.", "Vpc": "vpc-1", "Properties": {"DnsProperties": {"SOA": {"TTL": 60}}}}),
    );
    let shown = world.ok("servicediscovery", "GetNamespace", json!({"Id": private}));
    assert_eq!(shown["Namespace"]["Name"], "demo.local");
    assert_eq!(shown["Namespace"]["Properties"]["DnsProperties"]["SOA"]["TTL"], 60);
    let filter = |name: &str, value: &str, condition: &str| json!({"Filters": [{"Name": name, "Values": [value], "Condition": condition}]});
    let listed = world.ok("servicediscovery", "ListNamespaces", filter("TYPE", "DNS_PRIVATE", "EQ"));
    assert_eq!(listed["Namespaces"][0]["Id"], json!(private));
    let listed = world.ok("servicediscovery", "ListNamespaces", filter("NAME", "demo", "BEGINS_WITH"));
    assert_eq!(listed["Namespaces"].as_array().unwrap().len(), 2);
    world.refuse("servicediscovery", "ListNamespaces", filter("TYPE", "HTTP", "BETWEEN"));
    for (operation, input) in [
        ("CreateHttpNamespace", json!({"Name": "a b"})),
        ("CreateHttpNamespace", json!({"Name": "arn:x"})),
        ("CreatePrivateDnsNamespace", json!({"Name": "x.local", "Vpc": "vpc-none"})),
        ("CreatePrivateDnsNamespace", json!({"Name": "x..local", "Vpc": "vpc-1"})),
    ] {
        assert_eq!(world.refuse("servicediscovery", operation, input).0, "InvalidInput");
    }
    world.ok("servicediscovery", "DeleteNamespace", json!({"Id": private}));
    assert_eq!(
        world.refuse("servicediscovery", "GetNamespace", json!({"Id": private})).0,
        "NamespaceNotFound"
    );
}

#[test]
fn namespaces_are_counted_against_their_quota() {
    let mut world = World::new();
    for at in 0..50 {
        world.ok("servicediscovery", "CreateHttpNamespace", json!({"Name": format!("n{at}")}));
    }
    let refused = world.refuse("servicediscovery", "CreateHttpNamespace", json!({"Name": "more"}));
    assert_eq!(refused.0, "ResourceLimitExceeded");
}

#[test]
fn a_service_has_records_only_where_there_is_dns() {
    let (mut world, id) = demo();
    let http = world.state.namespaces.keys().next().unwrap().clone();
    let dns =
        namespace(&mut world, "CreatePrivateDnsNamespace", json!({"Name": "demo.local", "Vpc": "vpc-1"}));
    let records = |types: &[&str]| {
        let records: Vec<Value> = types.iter().map(|kind| json!({"Type": kind, "TTL": 60})).collect();
        json!({"DnsRecords": records})
    };
    let create = |namespace: &str, more: Value| {
        let mut input = json!({"Name": "api", "NamespaceId": namespace});
        input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        input
    };
    for input in [
        create(&http, json!({"DnsConfig": records(&["A"])})),
        create(&dns, json!({})),
        create(&dns, json!({"DnsConfig": records(&["A", "SRV"])})),
        create(&dns, json!({"DnsConfig": records(&["CNAME"])})),
        create(&dns, json!({"DnsConfig": records(&["A"]), "HealthCheckConfig": {"Type": "HTTP"}})),
        json!({"Name": "-x", "NamespaceId": http}),
        json!({"Name": "x"}),
    ] {
        assert_eq!(
            world.refuse("servicediscovery", "CreateService", input.clone()).0,
            "InvalidInput",
            "{input}"
        );
    }
    let srv = world.ok(
        "servicediscovery",
        "CreateService",
        create(&dns, json!({"DnsConfig": records(&["SRV"]), "CreatorRequestId": "r"})),
    );
    assert_eq!(srv["Service"]["Type"], "DNS_HTTP");
    assert_eq!(srv["Service"]["DnsConfig"]["RoutingPolicy"], "MULTIVALUE");
    let again = create(&dns, json!({"DnsConfig": records(&["SRV"]), "CreatorRequestId": "r"}));
    assert_eq!(world.ok("servicediscovery", "CreateService", again)["Service"], srv["Service"]);
    let error = world
        .call("servicediscovery", "CreateService", json!({"Name": "WEB", "NamespaceId": http}))
        .unwrap_err();
    assert_eq!(error.fields["ServiceId"], json!(id));

    let srv_id = srv["Service"]["Id"].as_str().unwrap().to_owned();
    let change = |service: Value| json!({"Id": srv_id, "Service": service});
    world.ok(
        "servicediscovery",
        "UpdateService",
        change(json!({"DnsConfig": {"DnsRecords": [{"Type": "SRV", "TTL": 5}]}, "Description": "d"})),
    );
    let shown = world.ok("servicediscovery", "GetService", json!({"Id": srv_id}));
    assert_eq!(shown["Service"]["DnsConfig"]["DnsRecords"], json!([{"Type": "SRV", "TTL": 5}]));
    assert_eq!(shown["Service"]["Description"], "d");
    world.refuse("servicediscovery", "UpdateService", change(json!({"DnsConfig": records(&["A"])})));

    let missing_port = register(&mut world, &srv_id, "one", json!({"AWS_INSTANCE_IPV4": "10.0.0.9"}));
    assert!(missing_port.unwrap_err().message.contains("SRV record needs AWS_INSTANCE_PORT"));
    let refused = world.refuse("servicediscovery", "DeleteNamespace", json!({"Id": dns}));
    assert_eq!(refused.0, "ResourceInUse");
    world.ok("servicediscovery", "DeleteService", json!({"Id": srv_id}));
    world.ok("servicediscovery", "DeleteNamespace", json!({"Id": dns}));
}

#[test]
fn an_instance_is_registered_found_and_deregistered() {
    let (mut world, service) = demo();
    let attributes = json!({"AWS_INSTANCE_IPV4": "10.0.0.9", "AWS_INSTANCE_PORT": "80", "stage": "prod"});
    let answer = register(&mut world, &service, "one", attributes.clone()).unwrap();
    let error = register(&mut world, &service, "one", attributes.clone()).unwrap_err();
    assert_eq!(error.fields["DuplicateOperationId"], answer["OperationId"]);
    finish_operations(&mut world);
    register(&mut world, &service, "two", json!({"AWS_EC2_INSTANCE_ID": "i-1"})).unwrap();
    finish_operations(&mut world);

    let found = world.ok(
        "servicediscovery",
        "DiscoverInstances",
        json!({"NamespaceName": "demo", "ServiceName": "web", "QueryParameters": {"stage": "prod"}}),
    );
    assert_eq!(found["Instances"][0]["Attributes"], attributes);
    assert_eq!(found["Instances"][0]["HealthStatus"], "HEALTHY");
    assert_eq!(found["InstancesRevision"], 3);
    assert_eq!(discover(&mut world, json!({})), ["one", "two"]);
    assert_eq!(discover(&mut world, json!({"OptionalParameters": {"stage": "none"}})), ["one", "two"]);
    assert_eq!(discover(&mut world, json!({"MaxResults": 1})).len(), 1);
    let two = world.ok("servicediscovery", "GetInstance", json!({"ServiceId": service, "InstanceId": "two"}));
    assert_eq!(two["Instance"]["Attributes"]["AWS_INSTANCE_IPV4"], "10.0.1.4");
    let deletes = world.refuse("servicediscovery", "DeleteService", json!({"Id": service}));
    assert_eq!(deletes.0, "ResourceInUse");

    let deregister = json!({"ServiceId": service, "InstanceId": "one"});
    let answer = world.ok("servicediscovery", "DeregisterInstance", deregister.clone());
    assert_eq!(world.ok("servicediscovery", "DeregisterInstance", deregister.clone()), answer);
    finish_operations(&mut world);
    assert_eq!(discover(&mut world, json!({})), ["two"]);
    assert_eq!(world.refuse("servicediscovery", "DeregisterInstance", deregister).0, "InstanceNotFound");
    let revision = world.ok(
        "servicediscovery",
        "DiscoverInstancesRevision",
        json!({"NamespaceName": "demo", "ServiceName": "web"}),
    );
    assert_eq!(revision["InstancesRevision"], 4);
    let listed = world.ok("servicediscovery", "ListInstances", json!({"ServiceId": service}));
    assert_eq!(listed["Instances"].as_array().unwrap().len(), 1);
    let operations = world.ok(
        "servicediscovery",
        "ListOperations",
        json!({"Filters": [{"Name": "TYPE", "Values": ["DEREGISTER_INSTANCE"]}]}),
    );
    assert_eq!(operations["Operations"].as_array().unwrap().len(), 1);
    for (namespace, service, code) in
        [("none", "web", "NamespaceNotFound"), ("demo", "none", "ServiceNotFound")]
    {
        let input = json!({"NamespaceName": namespace, "ServiceName": service});
        assert_eq!(world.refuse("servicediscovery", "DiscoverInstances", input).0, code);
    }
}

#[test]
fn unlawful_attributes_are_refused() {
    let (mut world, service) = demo();
    let many: serde_json::Map<String, Value> = (0..31).map(|at| (format!("k{at}"), json!("v"))).collect();
    let long: serde_json::Map<String, Value> =
        (0..6).map(|at| (format!("k{at}"), json!("v".repeat(1_000)))).collect();
    for attributes in [
        json!({"AWS_INSTANCE_IPV4": "10.0.0"}),
        json!({"AWS_INSTANCE_PORT": "0"}),
        json!({"AWS_INSTANCE_PORT": "70000"}),
        json!({"AWS_ALIAS_DNS_NAME": "x"}),
        json!({"AWS_OTHER": "x"}),
        json!({"AWS_INIT_HEALTH_STATUS": "SICK"}),
        json!({"AWS_EC2_INSTANCE_ID": "i-none"}),
        json!({"AWS_EC2_INSTANCE_ID": "i-1", "AWS_INSTANCE_PORT": "80"}),
        Value::Object(many),
        Value::Object(long),
    ] {
        let error = register(&mut world, &service, "one", attributes.clone()).unwrap_err();
        assert!(matches!(error.code, super::Code::Named(ref name) if name == "InvalidInput"), "{attributes}");
        assert!(world.state.discovery_instances.is_empty());
    }
}

#[test]
fn custom_health_decides_who_is_found_and_leaves_the_revision() {
    let (mut world, service) = demo();
    register(&mut world, &service, "one", json!({})).unwrap();
    register(&mut world, &service, "two", json!({"AWS_INIT_HEALTH_STATUS": "UNHEALTHY"})).unwrap();
    finish_operations(&mut world);
    assert_eq!(discover(&mut world, json!({})), ["one"]);
    assert_eq!(discover(&mut world, json!({"HealthStatus": "ALL"})), ["one", "two"]);
    assert_eq!(discover(&mut world, json!({"HealthStatus": "UNHEALTHY"})), ["two"]);
    let sick = |id: &str| json!({"ServiceId": service, "InstanceId": id, "Status": "UNHEALTHY"});
    world.ok("servicediscovery", "UpdateInstanceCustomHealthStatus", sick("one"));
    assert_eq!(discover(&mut world, json!({})), ["one", "two"], "fails open");
    assert_eq!(discover(&mut world, json!({"HealthStatus": "HEALTHY"})), [""; 0]);
    let health = world.ok("servicediscovery", "GetInstancesHealthStatus", json!({"ServiceId": service}));
    assert_eq!(health["Status"], json!({"one": "UNHEALTHY", "two": "UNHEALTHY"}));
    assert_eq!(world.state.discovery_services[&service].instances_revision, 3);

    let namespace = world.state.namespaces.keys().next().unwrap().clone();
    let plain = world.ok("servicediscovery", "CreateService", json!({"Name": "p", "NamespaceId": namespace}));
    let plain = plain["Service"]["Id"].as_str().unwrap().to_owned();
    register(&mut world, &plain, "one", json!({})).unwrap();
    let refused = world.refuse(
        "servicediscovery",
        "UpdateInstanceCustomHealthStatus",
        json!({"ServiceId": plain, "InstanceId": "one", "Status": "UNHEALTHY"}),
    );
    assert_eq!(refused.0, "CustomHealthNotFound");
}

#[test]
fn instances_are_counted_against_their_quota() {
    let (mut world, service) = demo();
    world
        .change(|draft| {
            for at in 0..1_000 {
                draft.put(DiscoveryInstance {
                    service_id: service.clone(),
                    id: format!("x{at}"),
                    attributes: Default::default(),
                    creator_request_id: None,
                    healthy: true,
                    draining_until: None,
                });
            }
            Ok::<_, ()>(())
        })
        .unwrap();
    let error = register(&mut world, &service, "more", json!({})).unwrap_err();
    assert!(error.message.contains("1000 instances"), "{}", error.message);
    register(&mut world, &service, "x1", json!({"a": "b"})).unwrap();
}

#[test]
fn tags_belong_to_namespaces_and_services() {
    let (mut world, service) = demo();
    let arn = world.state.discovery_services[&service].arn.clone();
    let tags = json!([{"Key": "a", "Value": "b"}]);
    world.ok("servicediscovery", "TagResource", json!({"ResourceARN": arn, "Tags": tags}));
    assert_eq!(
        world.ok("servicediscovery", "ListTagsForResource", json!({"ResourceARN": arn}))["Tags"],
        tags
    );
    world.ok("servicediscovery", "UntagResource", json!({"ResourceARN": arn, "TagKeys": ["a"]}));
    let refused =
        world.refuse("servicediscovery", "ListTagsForResource", json!({"ResourceARN": "arn:x:service/none"}));
    assert_eq!(refused.0, "ResourceNotFoundException");
}

/// A private namespace `demo.local` of `vpc-1`, and a service in it; answers the service's id.
fn private(world: &mut World, name: &str, routing: &str, kind: &str, more: Value) -> String {
    let known =
        world.state.namespaces.values().find(|row| row.name == "demo.local").map(|row| row.id.clone());
    let id = known.unwrap_or_else(|| {
        namespace(world, "CreatePrivateDnsNamespace", json!({"Name": "demo.local", "Vpc": "vpc-1"}))
    });
    let dns = json!({"RoutingPolicy": routing, "DnsRecords": [{"Type": kind, "TTL": 60}]});
    let mut input = json!({"Name": name, "NamespaceId": id, "DnsConfig": dns});
    input.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = world.ok("servicediscovery", "CreateService", input);
    answer["Service"]["Id"].as_str().unwrap().to_owned()
}

#[test]
fn names_that_dns_cannot_have_are_refused_by_member() {
    let mut world = World::new();
    let srv = private(&mut world, "web", "MULTIVALUE", "SRV", json!({}));
    let address = json!({"AWS_INSTANCE_IPV4": "10.0.0.9", "AWS_INSTANCE_PORT": "80"});
    for id in ["a".repeat(64), "a..b".to_owned()] {
        let error = register(&mut world, &srv, &id, address.clone()).unwrap_err();
        assert!(error.message.starts_with("InstanceId makes"), "{}", error.message);
    }
    register(&mut world, &srv, "task/1:2@3", address.clone()).unwrap();
    // Without SRV records nobody asks for an instance by name.
    let plain = private(&mut world, "plain", "MULTIVALUE", "A", json!({}));
    register(&mut world, &plain, &"a".repeat(64), address).unwrap();
    let cname = private(&mut world, "www", "WEIGHTED", "CNAME", json!({}));
    for target in ["a b", "a..b", ""] {
        let error = register(&mut world, &cname, "one", json!({"AWS_INSTANCE_CNAME": target})).unwrap_err();
        assert!(error.message.contains("AWS_INSTANCE_CNAME"), "{}", error.message);
    }
    register(&mut world, &cname, "one", json!({"AWS_INSTANCE_CNAME": "_x.example.com."})).unwrap();

    let long = format!("{}.local", ["a".repeat(60).as_str(); 3].join("."));
    let long = namespace(&mut world, "CreatePrivateDnsNamespace", json!({"Name": long, "Vpc": "vpc-1"}));
    let input = json!({"Name": "b".repeat(63), "NamespaceId": long, "DnsConfig": {"DnsRecords": [{"Type": "A", "TTL": 1}]}});
    let refused = world.call("servicediscovery", "CreateService", input.clone());
    assert!(refused.is_ok(), "{input} has 253 characters at most");
    let input = json!({"Name": format!("c.{}", "b".repeat(63)), "NamespaceId": long, "DnsConfig": {"DnsRecords": [{"Type": "A", "TTL": 1}]}});
    let error = world.call("servicediscovery", "CreateService", input).unwrap_err();
    assert!(error.message.starts_with("Name makes"), "{}", error.message);
}

#[test]
fn private_namespaces_that_differ_by_case_are_one() {
    let mut world = World::new();
    private(&mut world, "web", "MULTIVALUE", "A", json!({}));
    let input = json!({"Name": "Demo.Local", "Vpc": "vpc-1"});
    let refused = world.refuse("servicediscovery", "CreatePrivateDnsNamespace", input);
    assert_eq!(refused.0, "NamespaceAlreadyExists");
}

/// What the VPC's node and host are told.
fn slices(world: &World) -> Slices {
    slices_of(world, true)
}

fn slices_of(world: &World, resolvers: bool) -> Slices {
    let settings = Settings {
        appliance: "t".to_owned(),
        domain_suffix: "amazonaws.com".to_owned(),
        gateways: BTreeMap::new(),
        identity_root_pem: String::new(),
        resolvers,
        unseal: Box::new(|_| None),
    };
    compile(&world.state, &settings)
}

#[test]
fn a_private_namespace_becomes_a_zone_of_its_vpcs_node() {
    let mut world = World::new();
    let vpc = VpcId::from("vpc-1");
    assert!(slices(&world).nodes.is_empty() && slices(&world).host.vpcs[&vpc].resolver.is_none());
    let health = json!({"HealthCheckCustomConfig": {}});
    let service = private(&mut world, "web", "WEIGHTED", "SRV", health);
    let address = json!({
        "AWS_INSTANCE_IPV4": "10.0.0.9", "AWS_INSTANCE_PORT": "80", "AWS_INIT_HEALTH_STATUS": "UNHEALTHY",
    });
    register(&mut world, &service, "one", address).unwrap();
    finish_operations(&mut world);
    let made = slices(&world);
    assert_eq!(made.supervisor.nodes[&vpc], "gh-t-node-vpc-1");
    let resolver = made.nodes[&vpc].resolver.clone().unwrap();
    let base = u32::from(resolver.clients.network());
    assert_eq!(u32::from(resolver.address), base + 2);
    assert_eq!(made.host.vpcs[&vpc].resolver, Some(resolver.address));
    let zone = &resolver.zones["demo.local"];
    assert_eq!(zone.services["web"].routing, Routing::Weighted);
    assert_eq!(zone.services["web"].records, BTreeMap::from([(RecordKind::Srv, 60)]));
    let instance = &zone.services["web"].instances["one"];
    assert_eq!((instance.port, instance.healthy), (Some(80), false));
    let nowhere = slices_of(&world, false);
    assert!(nowhere.nodes.is_empty() && nowhere.host.vpcs[&vpc].resolver.is_none());

    let deregister = json!({"ServiceId": service, "InstanceId": "one"});
    world.ok("servicediscovery", "DeregisterInstance", deregister);
    let resolver = slices(&world).nodes[&vpc].resolver.clone().unwrap();
    assert!(resolver.zones["demo.local"].services["web"].instances.is_empty(), "at once");

    world.change(|draft| Ok::<_, ()>(draft.edit::<Vpc>("vpc-1", |vpc| vpc.dns_support = false))).unwrap();
    let without = slices(&world);
    assert!(without.nodes[&vpc].resolver.is_none() && without.host.vpcs[&vpc].resolver.is_none());
}
