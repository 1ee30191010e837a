//! The shape tables that `cargo xtask shapes` derived, loaded once at start.
//!
//! Everything that reads or writes the wire walks these: dispatch finds the operation, the codecs its input and output
//! shapes, refuse the status of an error code.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;

use crate::control::ops::ApiError;

/// A table that cannot be used; the build is broken.
#[derive(Debug, thiserror::Error)]
pub enum ShapesError {
    /// The table is not one of ours.
    #[error("the shape table of {service} is not readable")]
    Malformed {
        /// Whose table.
        service: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A shape is named and not there.
    #[error("the shape table of {service} names the shape {shape:?} and does not hold it")]
    Dangling {
        /// Whose table.
        service: &'static str,
        /// The shape's name.
        shape: String,
    },
}

/// All services that the endpoint speaks for.
pub struct Services(Vec<Service>);

impl Services {
    /// Reads the tables that are part of this binary.
    ///
    /// # Errors
    /// When a table is malformed or incomplete.
    pub fn load() -> Result<Self, ShapesError> {
        let services = TABLES.iter().map(|(name, text)| {
            let service: Service = serde_json::from_str(text)
                .map_err(|source| ShapesError::Malformed { service: name, source })?;
            match service.dangling() {
                Some(shape) => Err(ShapesError::Dangling { service: name, shape: shape.to_owned() }),
                None => Ok(service),
            }
        });
        services.collect::<Result<_, _>>().map(Self)
    }

    /// A service by its name in botocore: `elbv2`.
    pub fn named(&self, name: &str) -> Option<&Service> {
        self.0.iter().find(|service| service.name == name)
    }

    /// Each service.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.0.iter()
    }

    /// Checks an input that did not come over the wire (a template's resource) against the operation's shape: members
    /// by the model's names, those that the shape does not have are left out.
    ///
    /// # Errors
    /// When the operation is not listed, a value has the wrong type, or a constraint is violated.
    pub fn check(&self, service: &str, operation: &str, input: Value) -> Result<Value, ApiError> {
        let unknown = || {
            ApiError::new(
                crate::control::ops::Code::UnknownOperation,
                crate::control::ops::Fault::Sender,
                format!("Could not find operation {operation}"),
            )
        };
        let service = self.named(service).ok_or_else(unknown)?;
        let shape = service.operations.get(operation).ok_or_else(unknown)?.input.as_deref();
        let input = super::json::decode_named(service, shape, input)?;
        super::check::check(service, shape, &input)?;
        Ok(input)
    }
}

/// One service's table.
#[derive(Deserialize)]
pub struct Service {
    /// Its name in botocore: `elbv2`.
    #[serde(rename = "service")]
    pub name: String,
    /// How its requests and answers are written.
    pub protocol: Protocol,
    /// Its API version, a date.
    pub version: String,
    /// Its name in credential scopes.
    pub signing_name: String,
    /// What stands before the operation in `X-Amz-Target`.
    pub target_prefix: Option<String>,
    /// The namespace of its XML answers.
    pub xml_namespace: Option<String>,
    /// Operations by name.
    pub operations: BTreeMap<String, Operation>,
    /// Errors by shape name.
    pub errors: BTreeMap<String, ErrorForm>,
    shapes: HashMap<String, Shape>,
}

impl Service {
    /// A shape by name. Every name in a table is in it, so the empty structure that stands in for a missing one never
    /// shows.
    pub fn shape(&self, name: &str) -> &Shape {
        static MISSING: Shape = Shape::EMPTY;
        self.shapes.get(name).unwrap_or(&MISSING)
    }

    /// The shape and form of the error with this code, as the client sees it.
    pub fn error(&self, code: &str) -> Option<(&str, &ErrorForm)> {
        self.errors
            .iter()
            .find(|(name, form)| form.code.as_deref().unwrap_or(name) == code)
            .map(|(name, form)| (name.as_str(), form))
    }

    fn dangling(&self) -> Option<&str> {
        let named =
            self.operations.values().flat_map(|operation| operation.input.iter().chain(&operation.output));
        let held = self.shapes.values().flat_map(Shape::held);
        named
            .chain(self.errors.keys())
            .map(String::as_str)
            .chain(held)
            .find(|name| !self.shapes.contains_key(*name))
    }
}

/// How a service's requests and answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Form in, XML out.
    Query,
    /// Form with flat lists in, camelCase XML out.
    Ec2,
    /// JSON in and out, the operation in the path.
    RestJson,
    /// JSON 1.1 in and out, the operation in `X-Amz-Target`.
    Json,
}

/// One operation.
#[derive(Deserialize)]
pub struct Operation {
    /// HTTP method.
    #[serde(default = "post")]
    pub method: String,
    /// Path template: `/v2/apis/{apiId}`.
    #[serde(default = "root")]
    pub uri: String,
    /// HTTP status of the answer.
    #[serde(default = "ok")]
    pub status: u16,
    /// The input's shape.
    pub input: Option<String>,
    /// The output's shape.
    pub output: Option<String>,
    /// The element around the output (query).
    pub wrapper: Option<String>,
}

/// How an error looks to a client.
#[derive(Deserialize)]
pub struct ErrorForm {
    /// Its code, if it is not the shape's name.
    pub code: Option<String>,
    /// Its HTTP status.
    pub status: u16,
    /// Whether it is our fault.
    #[serde(default)]
    pub receiver: bool,
}

/// One shape: a kind, and the constraints that inputs of it must satisfy.
#[derive(Deserialize)]
pub struct Shape {
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
    /// Least length (string, blob, list, map) or value (numbers).
    pub min: Option<f64>,
    /// Greatest length or value.
    pub max: Option<f64>,
    /// The values that a string may have; empty if any.
    #[serde(rename = "enum", default)]
    pub names: Vec<String>,
    /// What a string must match as a whole.
    pub pattern: Option<Pattern>,
}

impl Shape {
    const EMPTY: Self = Self {
        kind: Kind::Structure { members: BTreeMap::new(), required: Vec::new(), payload: None },
        min: None,
        max: None,
        names: Vec::new(),
        pattern: None,
    };

    fn held(&self) -> impl Iterator<Item = &str> {
        let held: Vec<&Member> = match &self.kind {
            Kind::Structure { members, .. } => members.values().collect(),
            Kind::List { member, .. } => vec![member],
            Kind::Map { key, value, .. } => vec![key, value],
            _ => Vec::new(),
        };
        held.into_iter().map(|member| member.shape.as_str())
    }
}

/// What a shape is.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Kind {
    /// Members by the model's names.
    Structure {
        /// By name.
        members: BTreeMap<String, Member>,
        /// Those that an input must have.
        #[serde(default)]
        required: Vec<String>,
        /// The member that is the whole body (rest-json).
        payload: Option<String>,
    },
    /// Elements of one shape.
    List {
        /// The element.
        member: Member,
        /// Whether XML and forms leave the wrapping out.
        #[serde(default)]
        flattened: bool,
    },
    /// Values of one shape by text.
    Map {
        /// The key.
        key: Member,
        /// The value.
        value: Member,
        /// Whether XML and forms leave the wrapping out.
        #[serde(default)]
        flattened: bool,
    },
    /// Text.
    String,
    /// 32 bits.
    Integer,
    /// 64 bits.
    Long,
    /// A floating-point number.
    Float,
    /// A floating-point number.
    Double,
    /// `true` or `false`.
    Boolean,
    /// Seconds since the Unix epoch in values.
    Timestamp {
        /// How it is written, if not as the protocol has it.
        format: Option<String>,
    },
    /// Bytes, base64 in values.
    Blob,
}

/// A place in a structure, list or map.
#[derive(Deserialize)]
#[serde(from = "MemberForm")]
pub struct Member {
    /// What stands there.
    pub shape: String,
    /// Its name on the wire, if not the model's.
    pub name: Option<String>,
    /// Its name in EC2-query requests, if neither of these.
    pub query: Option<String>,
    /// Where it stands, if not in the body.
    pub location: Option<Location>,
    /// How a timestamp is written here.
    pub format: Option<String>,
}

/// Where a member stands, if not in the body (rest-json).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Location {
    /// In the path.
    Uri,
    /// In the query string.
    #[serde(rename = "querystring")]
    QueryString,
    /// A header.
    Header,
    /// Headers by prefix.
    Headers,
    /// The status.
    StatusCode,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MemberForm {
    Plain(String),
    Full {
        shape: String,
        name: Option<String>,
        query: Option<String>,
        #[serde(rename = "in")]
        location: Option<Location>,
        format: Option<String>,
    },
}

impl From<MemberForm> for Member {
    fn from(form: MemberForm) -> Self {
        match form {
            MemberForm::Plain(shape) => Self { shape, name: None, query: None, location: None, format: None },
            MemberForm::Full { shape, name, query, location, format } => {
                Self { shape, name, query, location, format }
            }
        }
    }
}

/// A regular expression, compiled when it is first needed.
#[derive(Deserialize)]
#[serde(from = "String")]
pub struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self { text, compiled: OnceLock::new() }
    }
}

impl Pattern {
    /// The expression.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole of `value`.
    pub fn is_match(&self, value: &str) -> bool {
        self.compiled().is_none_or(|regex| regex.is_match(value))
    }

    fn compiled(&self) -> Option<&Regex> {
        let compile =
            || RegexBuilder::new(&format!("^(?:{})$", self.text)).size_limit(PATTERN_SIZE_MAX).build().ok();
        self.compiled.get_or_init(compile).as_ref()
    }
}

fn post() -> String {
    "POST".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

fn ok() -> u16 {
    200
}

const TABLES: &[(&str, &str)] = &[
    ("acm", include_str!("shapes/acm.json")),
    ("apigatewayv2", include_str!("shapes/apigatewayv2.json")),
    ("cloudformation", include_str!("shapes/cloudformation.json")),
    ("ec2", include_str!("shapes/ec2.json")),
    ("ecs", include_str!("shapes/ecs.json")),
    ("elbv2", include_str!("shapes/elbv2.json")),
    ("servicediscovery", include_str!("shapes/servicediscovery.json")),
    ("sts", include_str!("shapes/sts.json")),
];
/// What one compiled pattern may take; all of the tables' fit well.
const PATTERN_SIZE_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_load_and_their_patterns_compile() {
        let services = Services::load().unwrap();
        assert_eq!(services.iter().count(), TABLES.len());
        for service in services.iter() {
            for (name, shape) in &service.shapes {
                if let Some(pattern) = &shape.pattern {
                    assert!(pattern.compiled().is_some(), "{} {name}: {}", service.name, pattern.text());
                }
            }
        }
    }

    #[test]
    fn every_built_operation_is_listed() {
        let services = Services::load().unwrap();
        for service in services.iter() {
            for operation in crate::control::ops::names(&service.name) {
                assert!(
                    service.operations.contains_key(operation),
                    "{} {operation} has no shapes",
                    service.name
                );
            }
        }
    }

    #[test]
    fn an_error_is_found_by_the_code_that_clients_see() {
        let services = Services::load().unwrap();
        let (shape, form) = services.named("elbv2").unwrap().error("LoadBalancerNotFound").unwrap();
        assert_eq!((shape, form.status), ("LoadBalancerNotFoundException", 400));
        assert_eq!(services.named("apigatewayv2").unwrap().error("NotFoundException").unwrap().1.status, 404);
    }
}
