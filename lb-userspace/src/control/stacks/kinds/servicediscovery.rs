//! AWS::ServiceDiscovery: namespaces, service, instance.

use serde_json::json;

use super::{Kind, Made, Making, Readiness, at_once, attribute, physical, pick, stands};
use crate::control::ops::ApiError;
use crate::model::{
    discovery::{DiscoveryInstance, Namespace, Operation},
    stack::StackResource,
    state::Draft,
};

pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "AWS::ServiceDiscovery::PrivateDnsNamespace",
        properties: &["Name", "Vpc", "Description", "Properties", "Tags"],
        create: |making| create_namespace(making, "CreatePrivateDnsNamespace"),
        readiness: namespace_stands,
        delete: delete_namespace,
        is_gone: |draft, resource| draft.one::<Namespace>(physical(resource)).is_none(),
    },
    Kind {
        name: "AWS::ServiceDiscovery::HttpNamespace",
        properties: &["Name", "Description", "Tags"],
        create: |making| create_namespace(making, "CreateHttpNamespace"),
        readiness: namespace_stands,
        delete: delete_namespace,
        is_gone: |draft, resource| draft.one::<Namespace>(physical(resource)).is_none(),
    },
    Kind {
        name: "AWS::ServiceDiscovery::Service",
        properties: &[
            "Name",
            "NamespaceId",
            "Description",
            "DnsConfig",
            "HealthCheckConfig",
            "HealthCheckCustomConfig",
            "Type",
            "Tags",
        ],
        create: |making| {
            let name = making.name_or_generated("Name", 63);
            let mut input = making.rest();
            input["Name"] = name.into();
            let answer = making.call("servicediscovery", "CreateService", input)?;
            let id = pick(&answer, "/Service/Id")?;
            let (arn, name) = (pick(&answer, "/Service/Arn")?, pick(&answer, "/Service/Name")?);
            Ok(Made::new(&id).with("Id", &id).with("Arn", arn).with("Name", name))
        },
        readiness: stands,
        delete: |making, resource| {
            making.call("servicediscovery", "DeleteService", json!({"Id": physical(resource)})).map(drop)
        },
        is_gone: at_once,
    },
    Kind {
        name: "AWS::ServiceDiscovery::Instance",
        properties: &["InstanceId", "ServiceId", "InstanceAttributes"],
        create: |making| {
            let (id, service) = (making.text("InstanceId"), making.text("ServiceId"));
            let attributes = making.take("InstanceAttributes");
            let input = json!({"ServiceId": service, "InstanceId": id, "Attributes": attributes});
            making.call("servicediscovery", "RegisterInstance", input)?;
            Ok(Made::new(id).with("ServiceId", service))
        },
        readiness: stands,
        delete: |making, resource| {
            let input =
                json!({"ServiceId": attribute(resource, "ServiceId"), "InstanceId": physical(resource)});
            making.call("servicediscovery", "DeregisterInstance", input).map(drop)
        },
        is_gone: |draft, resource| {
            let key = format!("{}/{}", attribute(resource, "ServiceId"), physical(resource));
            draft.one::<DiscoveryInstance>(&key).is_none()
        },
    },
];

/// An operation that ends later: until then the operation's id stands in for the namespace's.
fn create_namespace(making: &mut Making<'_>, operation: &str) -> Result<Made, ApiError> {
    let input = making.rest();
    let answer = making.call("servicediscovery", operation, input)?;
    let operation = pick(&answer, "/OperationId")?;
    Ok(Made::new(&operation).with("OperationId", &operation))
}

fn namespace_stands(draft: &Draft, resource: &StackResource) -> Readiness {
    let Some(operation) = draft.one::<Operation>(attribute(resource, "OperationId")) else {
        return Readiness::Failed("the operation that creates the namespace is gone".to_owned());
    };
    match operation.status.as_str() {
        "SUCCESS" => {
            let id = operation.targets.get("NAMESPACE").cloned().unwrap_or_default();
            let Some(namespace) = draft.one::<Namespace>(&id) else {
                return Readiness::Failed("the namespace is gone".to_owned());
            };
            let made = Made::new(&id).with("Id", &id).with("Arn", namespace.arn.as_str());
            Readiness::Stands(Some(made.with("OperationId", attribute(resource, "OperationId"))))
        }
        "FAIL" => Readiness::Failed(operation.error_message.clone().unwrap_or_default()),
        _ => Readiness::Waits,
    }
}

fn delete_namespace(making: &mut Making<'_>, resource: &StackResource) -> Result<(), ApiError> {
    making.call("servicediscovery", "DeleteNamespace", json!({"Id": physical(resource)})).map(drop)
}
