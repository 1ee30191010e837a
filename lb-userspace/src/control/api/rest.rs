//! REST-JSON: operations by method and path, members in path, query string, headers and body, both ways.

use http::{HeaderMap, HeaderName, HeaderValue, request::Parts};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::{
    form, json,
    shapes::{Kind, Location, Operation, Service},
};
use crate::control::ops::{ApiError, Code, Fault};

/// An operation that a method and a path stand for, and what the path says.
pub(super) struct Matched<'s> {
    /// The operation's name.
    pub(super) name: &'s str,
    /// The operation.
    pub(super) operation: &'s Operation,
    labels: Vec<(&'s str, String)>,
}

/// Finds the operation of a method and a path as it came over the wire. Of two templates that match, the one with more
/// literal segments wins.
pub(super) fn find<'s>(service: &'s Service, method: &str, path: &str) -> Option<Matched<'s>> {
    let segments: Vec<_> = path.trim_matches('/').split('/').collect();
    let candidates = service.operations.iter().filter(|(_, operation)| operation.method == method);
    candidates
        .filter_map(|(name, operation)| {
            let labels = labels(&operation.uri, &segments)?;
            Some(Matched { name, operation, labels })
        })
        .min_by_key(|matched| matched.labels.len())
}

/// The input of a matched operation, by the model's names.
///
/// # Errors
/// When the body is not JSON or a value is not of its member's type.
pub(super) fn decode(
    service: &Service,
    matched: &Matched<'_>,
    parts: &Parts,
    body: &[u8],
) -> Result<Value, ApiError> {
    let Some(shape) = matched.operation.input.as_deref() else { return Ok(Value::Object(Map::new())) };
    let Kind::Structure { members, payload, .. } = &service.shape(shape).kind else {
        return Ok(Value::Object(Map::new()));
    };
    let mut input = match payload {
        // No operation of ours takes a raw payload; a table that has one is read as JSON of that member.
        Some(name) => Value::Object(Map::from_iter([(name.clone(), json::parse(body)?)])),
        None => json::decode(service, Some(shape), json::parse(body)?)?,
    };
    let Value::Object(object) = &mut input else { return Ok(input) };
    for (name, member) in members {
        let wire = member.name.as_deref().unwrap_or(name);
        let given: Vec<String> = match member.location {
            Some(Location::Uri) => matched
                .labels
                .iter()
                .filter(|(label, _)| *label == wire)
                .map(|(_, text)| text.clone())
                .collect(),
            Some(Location::QueryString) => query_values(parts.uri.query().unwrap_or(""), wire),
            Some(Location::Header) => header_values(&parts.headers, wire),
            _ => continue,
        };
        let Some(first) = given.first() else { continue };
        let value = match &service.shape(&member.shape).kind {
            Kind::List { member, .. } => {
                let elements = given.iter().map(|text| form::scalar(service, &member.shape, text, wire));
                Value::Array(elements.collect::<Result<_, _>>()?)
            }
            _ => form::scalar(service, &member.shape, first, wire)?,
        };
        object.insert(name.clone(), value);
    }
    Ok(input)
}

/// An answer's status, headers and body.
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// Members that are headers.
    pub(super) headers: HeaderMap,
    /// The body.
    pub(super) body: Vec<u8>,
    /// Whether the body is JSON; a raw payload is not.
    pub(super) is_json: bool,
}

/// The answer of an operation.
pub(super) fn encode(service: &Service, operation: &Operation, output: &Value) -> Answer {
    let mut answer =
        Answer { status: operation.status, headers: HeaderMap::new(), body: Vec::new(), is_json: true };
    let Some(shape) = operation.output.as_deref() else { return answer };
    let Kind::Structure { members, payload, .. } = &service.shape(shape).kind else { return answer };
    for (name, member) in members {
        let (Some(location), Some(value)) = (member.location, output.get(name)) else { continue };
        match location {
            Location::StatusCode => {
                answer.status =
                    value.as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(answer.status);
            }
            Location::Header => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let wire = member.name.as_deref().unwrap_or(name);
                if let (Ok(wire), Ok(text)) = (wire.parse::<HeaderName>(), HeaderValue::try_from(text)) {
                    answer.headers.insert(wire, text);
                }
            }
            _ => {}
        }
    }
    answer.body = match payload.as_ref().and_then(|name| Some((members.get(name)?, output.get(name)?))) {
        Some((member, value)) => match &service.shape(&member.shape).kind {
            Kind::Blob | Kind::String => {
                answer.is_json = false;
                raw(&service.shape(&member.shape).kind, value)
            }
            _ => json::encode_member(service, member, value).to_string().into_bytes(),
        },
        None => json::encode(service, shape, output).to_string().into_bytes(),
    };
    answer
}

/// A path that no operation has.
pub(super) fn unknown(method: &str, path: &str) -> ApiError {
    ApiError::new(
        Code::UnknownOperation,
        Fault::Sender,
        format!("No operation has the method {method} and the path {path}"),
    )
}

fn raw(kind: &Kind, value: &Value) -> Vec<u8> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = value.as_str().unwrap_or_default();
    match kind {
        Kind::Blob => BASE64_STANDARD.decode(text).unwrap_or_default(),
        _ => text.as_bytes().to_vec(),
    }
}

fn labels<'s>(template: &'s str, segments: &[&str]) -> Option<Vec<(&'s str, String)>> {
    let parts: Vec<_> = template.trim_matches('/').split('/').collect();
    if parts.len() != segments.len() {
        return None;
    }
    let mut labels = Vec::new();
    for (part, segment) in parts.into_iter().zip(segments) {
        match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            // An ARN as a label comes with its slashes encoded, a stage as `%24default`.
            Some(label) if !segment.is_empty() => {
                labels.push((label, percent_decode_str(segment).decode_utf8().ok()?.into_owned()));
            }
            None if part == *segment => {}
            _ => return None,
        }
    }
    Some(labels)
}

fn query_values(query: &str, wanted: &str) -> Vec<String> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    pairs.filter(|(name, _)| decode(name) == wanted).map(|(_, value)| decode(value)).collect()
}

fn header_values(headers: &HeaderMap, wanted: &str) -> Vec<String> {
    headers.get_all(wanted).into_iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::shapes::Services;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_finds_its_operation_and_members() {
        let services = Services::load().unwrap();
        let service = services.named("apigatewayv2").unwrap();
        let path = "/v2/apis/a1/stages/%24default";
        let matched = find(service, "PATCH", path).unwrap();
        assert_eq!(matched.name, "UpdateStage");
        let (parts, ()) = http::Request::patch(path).body(()).unwrap().into_parts();
        let input = decode(service, &matched, &parts, br#"{"autoDeploy":true}"#).unwrap();
        assert_eq!(input, json!({"ApiId": "a1", "StageName": "$default", "AutoDeploy": true}));
        assert!(find(service, "GET", "/v2/nothing").is_none());
        assert!(find(service, "GET", "/v2/apis//stages").is_none());
        assert_eq!(find(service, "GET", "/v2/apis").unwrap().name, "GetApis");
    }

    #[test]
    fn query_strings_and_encoded_arns_are_members() {
        let services = Services::load().unwrap();
        let service = services.named("apigatewayv2").unwrap();
        let path = "/v2/tags/arn%3Aaws%3Aapigateway%3Aeu%3A%3A%2Fapis%2Fx?tagKeys=a&tagKeys=b%20c";
        let (parts, ()) = http::Request::delete(path).body(()).unwrap().into_parts();
        let matched = find(service, "DELETE", parts.uri.path()).unwrap();
        let input = decode(service, &matched, &parts, b"").unwrap();
        assert_eq!(input, json!({"ResourceArn": "arn:aws:apigateway:eu::/apis/x", "TagKeys": ["a", "b c"]}));
    }

    #[test]
    fn an_answer_has_the_operation_s_status() {
        let services = Services::load().unwrap();
        let service = services.named("apigatewayv2").unwrap();
        let answer = encode(service, &service.operations["CreateApi"], &json!({"ApiId": "x"}));
        assert_eq!((answer.status, answer.body.as_slice()), (201, br#"{"apiId":"x"}"#.as_slice()));
        let answer = encode(service, &service.operations["DeleteApi"], &json!({}));
        assert_eq!((answer.status, answer.body.as_slice()), (204, b"".as_slice()));
    }
}
