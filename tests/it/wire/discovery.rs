//! servicediscovery by boto3: namespaces, services, instances, operations and what DiscoverInstances finds.

use lb_userspace::tasks::scheduler;
use serde_json::{Value, json};

use super::served::{ACCOUNT, Served};

impl Served {
    fn map(&self, operation: &str, params: Value) -> Value {
        self.must("servicediscovery", operation, params)
    }

    /// What the writer does after each operation, as with data planes that apply at once.
    fn finish(&self) {
        for _ in 0..2 {
            self.state().change(|draft| scheduler::reconcile(draft, u64::MAX, 1));
        }
    }

    /// Waits for an operation as Terraform does; answers its target of this kind.
    fn target(&self, answer: &Value, kind: &str) -> String {
        self.finish();
        let done = self.map("GetOperation", json!({"OperationId": answer["OperationId"]}));
        assert_eq!(done["Operation"]["Status"], "SUCCESS", "{done}");
        done["Operation"]["Targets"][kind].as_str().unwrap().to_owned()
    }
}

#[test]
fn an_instance_is_found_from_its_registration_to_its_deregistration() {
    let served = Served::start();
    let namespace =
        served.map("CreateHttpNamespace", json!({"Name": "demo", "Tags": [{"Key": "a", "Value": "b"}]}));
    let namespace = served.target(&namespace, "NAMESPACE");
    let shown = served.map("GetNamespace", json!({"Id": namespace}));
    assert_eq!(shown["Namespace"]["ResourceOwner"], ACCOUNT);
    assert!(shown["Namespace"]["CreateDate"].as_f64().unwrap() > 1e9);
    let tags = served.map("ListTagsForResource", json!({"ResourceARN": shown["Namespace"]["Arn"]}));
    assert_eq!(tags["Tags"], json!([{"Key": "a", "Value": "b"}]));
    let service =
        json!({"Name": "web", "NamespaceId": namespace, "HealthCheckCustomConfig": {"FailureThreshold": 1}});
    let service = served.map("CreateService", service)["Service"]["Id"].clone();

    let register = |id: &str, stage: &str| {
        json!({
            "ServiceId": service, "InstanceId": id,
            "Attributes": {"AWS_INSTANCE_IPV4": "10.0.0.9", "AWS_INSTANCE_PORT": "8080", "stage": stage},
        })
    };
    let first = served.map("RegisterInstance", register("one", "prod"));
    let pending = served.map("GetOperation", json!({"OperationId": first["OperationId"]}));
    assert_eq!(pending["Operation"]["Status"], "SUBMITTED");
    served.refuse("servicediscovery", "RegisterInstance", register("one", "test"), "DuplicateRequest");
    assert_eq!(served.target(&first, "INSTANCE"), "one");
    served.target(&served.map("RegisterInstance", register("two", "test")), "INSTANCE");

    let found = |more: Value| {
        let mut params = json!({"NamespaceName": "demo", "ServiceName": "web"});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = served.map("DiscoverInstances", params);
        let mut ids: Vec<String> = answer["Instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|instance| instance["InstanceId"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(found(json!({})), ["one", "two"]);
    assert_eq!(found(json!({"QueryParameters": {"stage": "prod"}})), ["one"]);
    assert_eq!(found(json!({"OptionalParameters": {"stage": "none"}})), ["one", "two"]);
    served.map(
        "UpdateInstanceCustomHealthStatus",
        json!({"ServiceId": service, "InstanceId": "one", "Status": "UNHEALTHY"}),
    );
    assert_eq!(found(json!({"HealthStatus": "HEALTHY"})), ["two"]);
    assert_eq!(found(json!({"HealthStatus": "UNHEALTHY"})), ["one"]);

    let revision = |served: &Served| {
        let params = json!({"NamespaceName": "demo", "ServiceName": "web"});
        served.map("DiscoverInstancesRevision", params)["InstancesRevision"].as_i64().unwrap()
    };
    let before = revision(&served);
    let gone = served.map("DeregisterInstance", json!({"ServiceId": service, "InstanceId": "one"}));
    assert_eq!(found(json!({"HealthStatus": "ALL"})), ["two"], "at once");
    assert_eq!(revision(&served), before + 1);
    served.target(&gone, "INSTANCE");
    served.refuse("servicediscovery", "DeleteService", json!({"Id": service}), "ResourceInUse");
    served.refuse("servicediscovery", "DeleteNamespace", json!({"Id": namespace}), "ResourceInUse");
    served.map("DeregisterInstance", json!({"ServiceId": service, "InstanceId": "two"}));
    served.finish();
    served.map("DeleteService", json!({"Id": service}));
    served.target(&served.map("DeleteNamespace", json!({"Id": namespace})), "NAMESPACE");
}

#[test]
fn a_private_namespace_belongs_to_a_vpc_and_its_services_have_records() {
    let served = Served::start();
    let vpc = served.must("ec2", "CreateVpc", json!({"CidrBlock": "10.0.0.0/16"}))["Vpc"]["VpcId"].clone();
    let created = served.map("CreatePrivateDnsNamespace", json!({"Name": "demo.local", "Vpc": vpc}));
    let namespace = served.target(&created, "NAMESPACE");
    let service = json!({
        "Name": "web", "NamespaceId": namespace,
        "DnsConfig": {"RoutingPolicy": "MULTIVALUE", "DnsRecords": [{"Type": "SRV", "TTL": 60}]},
    });
    let service = served.map("CreateService", service);
    assert_eq!(service["Service"]["Type"], "DNS_HTTP");
    assert_eq!(service["Service"]["DnsConfig"]["DnsRecords"], json!([{"Type": "SRV", "TTL": 60}]));
    let filter = json!({"Filters": [{"Name": "NAMESPACE_ID", "Values": [namespace], "Condition": "EQ"}]});
    assert_eq!(served.map("ListServices", filter)["Services"][0]["Id"], service["Service"]["Id"]);
    let again = json!({"Name": "demo.local", "Vpc": vpc});
    served.refuse("servicediscovery", "CreatePrivateDnsNamespace", again, "NamespaceAlreadyExists");
    served.refuse(
        "servicediscovery",
        "CreatePrivateDnsNamespace",
        json!({"Name": "other.local", "Vpc": "vpc-none"}),
        "InvalidInput",
    );
}

#[test]
fn refusals_are_awss_and_change_nothing() {
    let served = Served::start();
    served.target(&served.map("CreateHttpNamespace", json!({"Name": "demo"})), "NAMESPACE");
    for (operation, params, code) in [
        ("GetNamespace", json!({"Id": "ns-none"}), "NamespaceNotFound"),
        ("GetService", json!({"Id": "srv-none"}), "ServiceNotFound"),
        ("GetOperation", json!({"OperationId": "none"}), "OperationNotFound"),
        ("CreateHttpNamespace", json!({"Name": "demo"}), "NamespaceAlreadyExists"),
        ("CreateHttpNamespace", json!({}), "InvalidInput"),
        ("CreateService", json!({"Name": "web", "NamespaceId": "ns-none"}), "NamespaceNotFound"),
        ("DiscoverInstances", json!({"NamespaceName": "demo", "ServiceName": "none"}), "ServiceNotFound"),
        ("DiscoverInstances", json!({"NamespaceName": "no", "ServiceName": "none"}), "NamespaceNotFound"),
        (
            "RegisterInstance",
            json!({"ServiceId": "x", "InstanceId": "a b", "Attributes": {}}),
            "InvalidInput",
        ),
        ("DeregisterInstance", json!({"ServiceId": "x", "InstanceId": "a"}), "ServiceNotFound"),
        ("ListNamespaces", json!({"MaxResults": 0}), "InvalidInput"),
        ("ListServices", json!({"NextToken": "*"}), "InvalidInput"),
        ("TagResource", json!({"ResourceARN": "arn:none", "Tags": []}), "ResourceNotFoundException"),
    ] {
        served.refuse("servicediscovery", operation, params, code);
    }
}
