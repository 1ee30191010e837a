//! The resource types: which operations make them, tell that they stand, and delete them.
//!
//! A type never has an implementation of its own: it maps properties to the input of the operations that the API has.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::control::{
    api::shapes::Services,
    ops::{self, ApiError, Caller},
};
use crate::model::{stack::StackResource, state::Draft};

/// VPCs, subnets, security groups, instances.
mod ec2;
/// Load balancers, target groups, listeners, rules.
mod elbv2;
/// HTTP APIs and VPC links.
mod apigatewayv2;
/// Cloud Map.
mod servicediscovery;
/// Clusters, task definitions, services.
mod ecs;

/// A resource type.
pub struct Kind {
    /// `AWS::Service::Kind`.
    pub name: &'static str,
    /// Properties that are understood; any other is refused rather than ignored.
    pub properties: &'static [&'static str],
    /// Makes it.
    pub create: fn(&mut Making<'_>) -> Result<Made, ApiError>,
    /// Whether it stands.
    pub readiness: fn(&Draft, &StackResource) -> Readiness,
    /// Deletes it, or asks for it.
    pub delete: fn(&mut Making<'_>, &StackResource) -> Result<(), ApiError>,
    /// Whether it is gone after `delete`.
    pub is_gone: fn(&Draft, &StackResource) -> bool,
}

/// Whether a resource stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It does; with its name and attributes if they only became known now.
    Stands(Option<Made>),
    /// Not before something else happens.
    Waits,
    /// It never will.
    Failed(String),
}

/// What Ref and GetAtt answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Ref.
    pub physical_id: String,
    /// GetAtt.
    pub attributes: BTreeMap<String, String>,
}

impl Made {
    fn new(physical_id: impl Into<String>) -> Self {
        Self { physical_id: physical_id.into(), attributes: BTreeMap::new() }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.insert(name.to_owned(), value.into());
        self
    }
}

/// The type of this name, if it is built.
pub fn find(name: &str) -> Option<&'static Kind> {
    [ec2::KINDS, elbv2::KINDS, apigatewayv2::KINDS, servicediscovery::KINDS, ecs::KINDS]
        .into_iter()
        .flatten()
        .find(|kind| kind.name == name)
}

/// What GetAtt answers that only became known after the resource stood; lists have commas.
pub fn late_attributes(draft: &Draft, resource: &StackResource) -> Option<(String, String)> {
    match resource.resource_type.as_str() {
        "AWS::EC2::VPC" => ec2::ipv6_blocks(draft, resource),
        _ => None,
    }
}

/// One resource being made or deleted: its evaluated properties and the way to the operations.
pub struct Making<'a> {
    /// The draft.
    pub draft: &'a mut Draft,
    /// The operations' shapes.
    pub services: &'a Services,
    /// On whose behalf.
    pub caller: &'a Caller,
    /// The stack's name.
    pub stack: &'a str,
    /// The resource's logical id.
    pub logical_id: &'a str,
    /// Its properties, evaluated.
    pub properties: Map<String, Value>,
}

impl Making<'_> {
    /// Runs an operation with an input by the model's names.
    fn call(&mut self, service: &str, operation: &str, input: Value) -> Result<Value, ApiError> {
        let input = self.services.check(service, operation, input)?;
        let handler = ops::find(service, operation)
            .ok_or_else(|| ApiError::validation(format!("{service} {operation} is not available")))?;
        handler(self.draft, self.caller, input)
    }

    /// Takes a property out.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.properties.remove(name).filter(|value| !value.is_null())
    }

    /// All properties that were not taken, as an operation's input.
    fn rest(&mut self) -> Value {
        Value::Object(std::mem::take(&mut self.properties))
    }

    /// A property that is text, left where it is; empty if it is not given.
    fn text(&self, name: &str) -> String {
        self.properties.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// A name for a resource that was given none, as CloudFormation makes them, at most `longest` characters.
    fn name_or_generated(&mut self, property: &str, longest: usize) -> String {
        match self.take(property) {
            Some(Value::String(name)) => name,
            _ => {
                let suffix = self.draft.alphanumerics(8);
                let mut name = format!("{}-{}", self.stack, self.logical_id);
                name.truncate(longest.saturating_sub(suffix.len() + 1));
                format!("{name}-{suffix}")
            }
        }
    }
}

/// Text in an operation's answer, by a path of members and indices.
fn pick(answer: &Value, path: &str) -> Result<String, ApiError> {
    answer.pointer(path).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        tracing::error!(path, "an operation's answer lacks what its resource type needs");
        ApiError::internal()
    })
}

fn stands(_: &Draft, _: &StackResource) -> Readiness {
    Readiness::Stands(None)
}

fn at_once(_: &Draft, _: &StackResource) -> bool {
    true
}

fn physical(resource: &StackResource) -> &str {
    resource.physical_id.as_deref().unwrap_or_default()
}

fn attribute<'a>(resource: &'a StackResource, name: &str) -> &'a str {
    resource.attributes.get(name).map_or("", String::as_str)
}

/// `Tags` as ec2 takes them.
fn tag_specifications(making: &mut Making<'_>, resource_type: &str) -> Value {
    match making.take("Tags") {
        Some(tags) => json!([{"ResourceType": resource_type, "Tags": tags}]),
        None => json!([]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_is_listed_twice_and_each_is_found() {
        for name in ["AWS::EC2::VPC", "AWS::ECS::Service", "AWS::ApiGatewayV2::VpcLink"] {
            assert_eq!(find(name).map(|kind| kind.name), Some(name));
        }
        assert!(find("AWS::S3::Bucket").is_none());
    }
}
