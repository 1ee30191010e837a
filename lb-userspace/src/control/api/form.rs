//! Query and EC2-query requests: form fields with dotted names, read into a value by the input's shape.
//!
//! `Tags.member.1.Key=a` (query) and `Filter.1.Value.1=a` (ec2) both say: a list, its first element, a member. Fields
//! that the shape does not have are ignored, as AWS does. After: check.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Number, Value};

use super::{
    shapes::{Kind, Member, Protocol, Service},
    timestamp,
};
use crate::control::ops::{ApiError, Code, Fault};

/// A form's fields as the tree that their dotted names spell.
#[derive(Default)]
pub struct Form {
    root: Node,
}

#[derive(Default)]
struct Node {
    text: Option<String>,
    parts: BTreeMap<String, Node>,
}

impl Form {
    /// Reads `a=1&b.member.1=2`.
    ///
    /// # Errors
    /// When a field is not UTF-8, nests too deeply, or there are too many.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut form = Self::default();
        for (at, pair) in text.split('&').filter(|pair| !pair.is_empty()).enumerate() {
            if at >= FIELDS_MAX {
                return Err(malformed(format!("A request has at most {FIELDS_MAX} parameters.")));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode_field(name)?, decode_field(value)?);
            if name.split('.').count() > DEPTH_MAX {
                return Err(malformed(format!("A parameter's name has at most {DEPTH_MAX} parts.")));
            }
            let node = name
                .split('.')
                .fold(&mut form.root, |node, part| node.parts.entry(part.to_owned()).or_default());
            node.text = Some(value);
        }
        Ok(form)
    }

    /// A field without dots, such as `Action`.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.root.parts.get(name)?.text.as_deref()
    }

    /// The input by the model's member names.
    ///
    /// # Errors
    /// When a field's text is not of its member's type.
    pub fn decode(&self, service: &Service, shape: Option<&str>) -> Result<Value, ApiError> {
        match shape {
            Some(shape) => read(service, shape, &self.root, ""),
            None => Ok(Value::Object(Map::new())),
        }
    }
}

/// A value of a scalar shape from its text; lists and structures have none.
pub(super) fn scalar(service: &Service, shape: &str, text: &str, path: &str) -> Result<Value, ApiError> {
    let wrong = |kind: &str| malformed(format!("The parameter {path} must be {kind}."));
    match &service.shape(shape).kind {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Integer => text.parse::<i32>().map(Value::from).map_err(|_| wrong("an integer")),
        Kind::Long => text.parse::<i64>().map(Value::from).map_err(|_| wrong("an integer")),
        Kind::Float | Kind::Double => {
            let number = text.parse().ok().and_then(Number::from_f64);
            number.map(Value::Number).ok_or_else(|| wrong("a number"))
        }
        Kind::Boolean if text.eq_ignore_ascii_case("true") => Ok(Value::Bool(true)),
        Kind::Boolean if text.eq_ignore_ascii_case("false") => Ok(Value::Bool(false)),
        Kind::Boolean => Err(wrong("true or false")),
        Kind::Timestamp { .. } => timestamp::decode(text).ok_or_else(|| wrong("a timestamp")),
        Kind::Blob => match BASE64_STANDARD.decode(text) {
            Ok(_) => Ok(Value::String(text.to_owned())),
            Err(_) => Err(wrong("base64")),
        },
        Kind::Structure { .. } | Kind::List { .. } | Kind::Map { .. } => Err(wrong("given by its members")),
    }
}

fn read(service: &Service, shape: &str, node: &Node, path: &str) -> Result<Value, ApiError> {
    match &service.shape(shape).kind {
        Kind::Structure { members, .. } => {
            let mut object = Map::new();
            for (name, member) in members {
                let field = field_name(service, name, member);
                if let Some(part) = node.parts.get(field.as_ref()) {
                    object.insert(name.clone(), read(service, &member.shape, part, &join(path, &field))?);
                }
            }
            Ok(Value::Object(object))
        }
        Kind::List { member, flattened } => {
            let is_flat = *flattened || service.protocol == Protocol::Ec2;
            let wrapping = member.name.as_deref().unwrap_or("member");
            let elements = if is_flat { Some(node) } else { node.parts.get(wrapping) };
            let elements = numbered(elements)
                .map(|(at, element)| read(service, &member.shape, element, &join(path, &at.to_string())));
            elements.collect::<Result<_, _>>().map(Value::Array)
        }
        Kind::Map { key, value, flattened } => {
            let entries = if *flattened { Some(node) } else { node.parts.get("entry") };
            let (key_name, value_name) =
                (key.name.as_deref().unwrap_or("key"), value.name.as_deref().unwrap_or("value"));
            let mut object = Map::new();
            for (at, entry) in numbered(entries) {
                let Some(name) = entry.parts.get(key_name).and_then(|part| part.text.clone()) else {
                    continue;
                };
                if let Some(part) = entry.parts.get(value_name) {
                    object.insert(name, read(service, &value.shape, part, &join(path, &at.to_string()))?);
                }
            }
            Ok(Value::Object(object))
        }
        _ => match &node.text {
            Some(text) => scalar(service, shape, text, path),
            None => Err(malformed(format!("The parameter {path} must be a single value."))),
        },
    }
}

/// The elements `1`, `2`, … in order; gaps do not matter, other names are not elements.
fn numbered(node: Option<&Node>) -> impl Iterator<Item = (u32, &Node)> {
    let mut elements: Vec<_> = node
        .into_iter()
        .flat_map(|node| &node.parts)
        .filter_map(|(name, part)| Some((name.parse::<u32>().ok()?, part)))
        .collect();
    elements.sort_by_key(|(at, _)| *at);
    elements.into_iter()
}

/// A member's name in requests. EC2-query has its own where the model gives one, else the answer's, capitalized.
fn field_name<'a>(service: &Service, name: &'a str, member: &'a Member) -> Cow<'a, str> {
    match (service.protocol, &member.query, &member.name) {
        (Protocol::Ec2, Some(query), _) => Cow::Borrowed(query),
        (Protocol::Ec2, None, Some(wire)) => {
            let mut letters = wire.chars();
            let first =
                letters.next().map(|first| first.to_ascii_uppercase().to_string()).unwrap_or_default();
            Cow::Owned(first + letters.as_str())
        }
        (_, _, Some(wire)) => Cow::Borrowed(wire),
        (_, _, None) => Cow::Borrowed(name),
    }
}

fn decode_field(text: &str) -> Result<String, ApiError> {
    let text = text.replace('+', " ");
    match percent_decode_str(&text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(malformed("A parameter is not UTF-8.".to_owned())),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn malformed(message: String) -> ApiError {
    ApiError::new(Code::Serialization, Fault::Sender, message)
}

/// The largest real request, a rule with every condition, has a few hundred.
const FIELDS_MAX: usize = 10_000;
/// The deepest name in the tables has ten parts.
const DEPTH_MAX: usize = 24;

#[cfg(test)]
mod tests {
    use super::super::shapes::Services;
    use super::*;
    use serde_json::json;

    fn decode(service: &str, operation: &str, text: &str) -> Result<Value, ApiError> {
        let services = Services::load().unwrap();
        let service = services.named(service).unwrap();
        Form::parse(text)?.decode(service, service.operations[operation].input.as_deref())
    }

    #[test]
    fn a_query_form_reads_as_its_shape() {
        let text = "Name=a+b%21&Subnets.member.2=s2&Subnets.member.1=s1&Tags.member.1.Key=k&Tags.member.1.Value=&Odd=1";
        assert_eq!(
            decode("elbv2", "CreateLoadBalancer", text).unwrap(),
            json!({"Name": "a b!", "Subnets": ["s1", "s2"], "Tags": [{"Key": "k", "Value": ""}]})
        );
        assert_eq!(decode("elbv2", "CreateLoadBalancer", "Subnets=").unwrap(), json!({"Subnets": []}));
    }

    #[test]
    fn an_ec2_form_reads_as_its_shape() {
        let text = "GroupId=sg-1&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=80&IpPermissions.1.ToPort=80\
                    &IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0%2F8&IpPermissions.1.Groups.1.GroupId=sg-2";
        assert_eq!(
            decode("ec2", "AuthorizeSecurityGroupIngress", text).unwrap(),
            json!({"GroupId": "sg-1", "IpPermissions": [{
                "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
                "UserIdGroupPairs": [{"GroupId": "sg-2"}],
            }]})
        );
        let text = "Filter.1.Name=vpc-id&Filter.1.Value.1=vpc-1&SubnetId.1=subnet-1";
        assert_eq!(
            decode("ec2", "DescribeSubnets", text).unwrap(),
            json!({"Filters": [{"Name": "vpc-id", "Values": ["vpc-1"]}], "SubnetIds": ["subnet-1"]})
        );
    }

    #[test]
    fn text_of_the_wrong_type_is_refused_by_name() {
        let error = decode("elbv2", "CreateTargetGroup", "Name=x&Port=http").unwrap_err();
        assert_eq!(error.message, "The parameter Port must be an integer.");
        assert!(decode("elbv2", "CreateTargetGroup", "Name.x=1").is_err());
        assert!(Form::parse("a=%ff").is_err());
        assert!(Form::parse(&".".repeat(100)).is_err());
    }
}
