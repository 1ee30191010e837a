//! JSON bodies both ways: the wire's member names and the model's, types checked on the way in.
//!
//! Members that the shape does not have are ignored on the way in, as AWS does, and left out on the way out. After
//! decoding: check.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::{
    shapes::{Kind, Service},
    timestamp,
};
use crate::control::ops::{ApiError, Code, Fault};

/// Reads a body; an empty one is an empty object.
///
/// # Errors
/// When it is not JSON.
pub(super) fn parse(body: &[u8]) -> Result<Value, ApiError> {
    if body.is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    serde_json::from_slice(body).map_err(|error| malformed(format!("The body is not JSON: {error}")))
}

/// An input from the wire, by the model's names.
///
/// # Errors
/// When a value is not of its member's type.
pub(super) fn decode(service: &Service, shape: Option<&str>, value: Value) -> Result<Value, ApiError> {
    read_input(service, shape, value, true)
}

/// An input that has the model's names already.
///
/// # Errors
/// When a value is not of its member's type.
pub(super) fn decode_named(service: &Service, shape: Option<&str>, value: Value) -> Result<Value, ApiError> {
    read_input(service, shape, value, false)
}

/// An output by the wire's names.
pub(super) fn encode(service: &Service, shape: &str, value: &Value) -> Value {
    write(service, shape, value, None)
}

/// A member's value by the wire's names.
pub(super) fn encode_member(service: &Service, member: &super::shapes::Member, value: &Value) -> Value {
    write(service, &member.shape, value, member.format.as_deref())
}

fn read_input(
    service: &Service,
    shape: Option<&str>,
    value: Value,
    is_wire: bool,
) -> Result<Value, ApiError> {
    let Some(shape) = shape else { return Ok(Value::Object(Map::new())) };
    let decoded = Reader { service, is_wire }.read(shape, value, "")?;
    Ok(decoded.unwrap_or_else(|| Value::Object(Map::new())))
}

struct Reader<'a> {
    service: &'a Service,
    is_wire: bool,
}

impl Reader<'_> {
    /// `None` for null, which is as good as absent.
    fn read(&self, shape: &str, value: Value, path: &str) -> Result<Option<Value>, ApiError> {
        let wrong = |kind: &str| Err(malformed(format!("The value at '{path}' must be {kind}.")));
        let decoded = match (&self.service.shape(shape).kind, value) {
            (_, Value::Null) => return Ok(None),
            (Kind::Structure { members, .. }, Value::Object(mut given)) => {
                let mut object = Map::new();
                for (name, member) in members {
                    let wire = if self.is_wire { member.name.as_ref().unwrap_or(name) } else { name };
                    let is_elsewhere = self.is_wire && member.location.is_some();
                    let value = if is_elsewhere { None } else { given.remove(wire) };
                    let path = join(path, wire);
                    if let Some(value) =
                        value.map_or(Ok(None), |value| self.read(&member.shape, value, &path))?
                    {
                        object.insert(name.clone(), value);
                    }
                }
                Value::Object(object)
            }
            (Kind::List { member, .. }, Value::Array(given)) => {
                let mut elements = Vec::with_capacity(given.len());
                for (at, value) in given.into_iter().enumerate() {
                    elements.extend(self.read(&member.shape, value, &join(path, &(at + 1).to_string()))?);
                }
                Value::Array(elements)
            }
            (Kind::Map { value: held, .. }, Value::Object(given)) => {
                let mut object = Map::new();
                for (name, value) in given {
                    let path = join(path, &name);
                    if let Some(value) = self.read(&held.shape, value, &path)? {
                        object.insert(name, value);
                    }
                }
                Value::Object(object)
            }
            (Kind::String, value @ Value::String(_)) | (Kind::Boolean, value @ Value::Bool(_)) => value,
            (Kind::Integer, Value::Number(number)) => match whole(&number).map(i32::try_from) {
                Some(Ok(number)) => number.into(),
                _ => return wrong("a 32-bit integer"),
            },
            (Kind::Long, Value::Number(number)) => match whole(&number) {
                Some(number) => number.into(),
                None => return wrong("an integer"),
            },
            (Kind::Float | Kind::Double, value @ Value::Number(_)) => value,
            (Kind::Timestamp { .. }, value @ Value::Number(_)) => value,
            (Kind::Timestamp { .. }, Value::String(text)) => match timestamp::decode(&text) {
                Some(seconds) => seconds,
                None => return wrong("a timestamp"),
            },
            (Kind::Blob, Value::String(text)) => match BASE64_STANDARD.decode(&text) {
                Ok(_) => Value::String(text),
                Err(_) => return wrong("base64"),
            },
            // Templates write numbers as text, and text that looks like a number as a number.
            (Kind::String, Value::Number(number)) if !self.is_wire => number.to_string().into(),
            (Kind::String, Value::Bool(value)) if !self.is_wire => value.to_string().into(),
            (
                Kind::Integer | Kind::Long | Kind::Float | Kind::Double | Kind::Boolean,
                Value::String(text),
            ) if !self.is_wire => match serde_json::from_str(&text) {
                Ok(plain @ (Value::Number(_) | Value::Bool(_))) => return self.read(shape, plain, path),
                _ => return wrong("a number, true or false"),
            },
            (Kind::Structure { .. } | Kind::Map { .. }, _) => return wrong("an object"),
            (Kind::List { .. }, _) => return wrong("a list"),
            (Kind::String, _) => return wrong("a string"),
            (Kind::Boolean, _) => return wrong("true or false"),
            (Kind::Integer | Kind::Long | Kind::Float | Kind::Double, _) => return wrong("a number"),
            (Kind::Timestamp { .. }, _) => return wrong("a timestamp"),
            (Kind::Blob, _) => return wrong("base64"),
        };
        Ok(Some(decoded))
    }
}

fn write(service: &Service, shape: &str, value: &Value, format: Option<&str>) -> Value {
    match (&service.shape(shape).kind, value) {
        (Kind::Structure { members, .. }, Value::Object(given)) => {
            let mut object = Map::new();
            for (name, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                match members.get(name) {
                    Some(member) if member.location.is_none() => {
                        let wire = member.name.as_ref().unwrap_or(name);
                        object.insert(wire.clone(), encode_member(service, member, value));
                    }
                    Some(_) => {}
                    None => {
                        tracing::warn!(service = service.name, shape, name, "an output member has no shape")
                    }
                }
            }
            Value::Object(object)
        }
        (Kind::List { member, .. }, Value::Array(elements)) => {
            elements.iter().map(|element| encode_member(service, member, element)).collect()
        }
        (Kind::Map { value: held, .. }, Value::Object(given)) => {
            let entries = given.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                entries.map(|(name, value)| (name.clone(), encode_member(service, held, value))).collect(),
            )
        }
        (Kind::Timestamp { format: own }, value) => timestamp::encode(value, format.or(own.as_deref())),
        (Kind::String, Value::Number(number)) => Value::String(number.to_string()),
        (Kind::String, Value::Bool(truth)) => Value::String(truth.to_string()),
        _ => value.clone(),
    }
}

/// JSON has one kind of number: `80.0` is an integer too.
fn whole(number: &serde_json::Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let number = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < SAFE_INTEGER)?;
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
        Some(number as i64)
    })
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn malformed(message: String) -> ApiError {
    ApiError::new(Code::Serialization, Fault::Sender, message)
}

/// Up to here a double holds every integer.
const SAFE_INTEGER: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::super::shapes::Services;
    use super::*;
    use serde_json::json;

    #[test]
    fn names_change_both_ways_and_unknown_members_vanish() {
        let services = Services::load().unwrap();
        let service = services.named("apigatewayv2").unwrap();
        let body =
            json!({"name": "a", "protocolType": "HTTP", "corsConfiguration": {"maxAge": 5.0}, "odd": 1});
        let input = decode(service, Some("CreateApiRequest"), body).unwrap();
        assert_eq!(input, json!({"Name": "a", "ProtocolType": "HTTP", "CorsConfiguration": {"MaxAge": 5}}));
        let output = json!({"ApiId": "x", "CreatedDate": 1_440_938_160, "Tags": {"a": "b"}, "Version": null});
        assert_eq!(
            encode(service, "CreateApiResponse", &output),
            json!({"apiId": "x", "createdDate": "2015-08-30T12:36:00.000Z", "tags": {"a": "b"}})
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_by_its_path() {
        let services = Services::load().unwrap();
        let service = services.named("ecs").unwrap();
        let shape = service.operations["CreateService"].input.as_deref();
        for (input, path) in [
            (json!({"serviceName": 1}), "serviceName"),
            (json!({"desiredCount": 1.5}), "desiredCount"),
            (json!({"desiredCount": 1e12}), "desiredCount"),
            (json!({"loadBalancers": [{"containerPort": "80"}]}), "loadBalancers.1.containerPort"),
            (json!({"loadBalancers": {}}), "loadBalancers"),
        ] {
            let error = decode(service, shape, input).unwrap_err();
            assert!(error.message.contains(&format!("'{path}'")), "{}", error.message);
        }
        assert!(decode(service, shape, json!([])).is_err());
        assert!(parse(b"{").is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
    }
}
