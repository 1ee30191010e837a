//! Which service and operation a request is for: `X-Amz-Target`, the path, or `Action` and `Version`.
//!
//! After: credentials verify that the signature is for this service, then the operation's input is decoded.

use http::{Method, header::CONTENT_TYPE, request::Parts};
use serde_json::Value;

use super::{
    form::Form,
    json, rest,
    shapes::{Operation, Protocol, Service, Services},
};
use crate::control::ops::{ApiError, Code, Fault};

/// A request's service, and what was read to find it.
pub(super) struct Dispatched<'s> {
    /// The service.
    pub(super) service: &'s Service,
    form: Option<Form>,
}

/// Whether the client speaks forms, so reads XML.
pub(super) fn is_form(parts: &Parts) -> bool {
    let content_type = parts.headers.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    content_type.starts_with(b"application/x-www-form-urlencoded")
        || content_type.is_empty() && !parts.uri.path().starts_with(REST_PATH)
}

/// Finds the service of a request.
///
/// # Errors
/// When nothing names one, or the form that would is malformed.
pub(super) fn find<'s>(
    services: &'s Services,
    parts: &Parts,
    body: &[u8],
) -> Result<Dispatched<'s>, ApiError> {
    if let Some(target) = target(parts) {
        let prefix = target.rsplit_once('.').map_or(target, |(prefix, _)| prefix);
        let service = services.iter().find(|service| service.target_prefix.as_deref() == Some(prefix));
        return service.map(|service| Dispatched { service, form: None }).ok_or_else(unknown_service);
    }
    if parts.uri.path().starts_with(REST_PATH) {
        let service = services.iter().find(|service| service.protocol == Protocol::RestJson);
        return service.map(|service| Dispatched { service, form: None }).ok_or_else(unknown_service);
    }
    let form = if parts.method == Method::POST {
        let malformed = |_| ApiError::new(Code::Serialization, Fault::Sender, "The body is not UTF-8.");
        Form::parse(std::str::from_utf8(body).map_err(malformed)?)?
    } else {
        Form::parse(parts.uri.query().unwrap_or(""))?
    };
    let version = form.text("Version");
    let is_form = |service: &Service| matches!(service.protocol, Protocol::Query | Protocol::Ec2);
    let service =
        services.iter().find(|service| is_form(service) && version == Some(service.version.as_str()));
    service.map(|service| Dispatched { service, form: Some(form) }).ok_or_else(unknown_service)
}

impl<'s> Dispatched<'s> {
    /// The operation by name, and its input by the model's member names, types checked.
    ///
    /// # Errors
    /// When the service has no such operation, or the input cannot be read.
    pub(super) fn decode(
        self,
        parts: &Parts,
        body: &[u8],
    ) -> Result<(&'s str, &'s Operation, Value), ApiError> {
        let service = self.service;
        if service.protocol == Protocol::RestJson {
            let (method, path) = (parts.method.as_str(), parts.uri.path());
            let matched = rest::find(service, method, path).ok_or_else(|| rest::unknown(method, path))?;
            let input = rest::decode(service, &matched, parts, body)?;
            return Ok((matched.name, matched.operation, input));
        }
        let named = match &self.form {
            Some(form) => form.text("Action"),
            None => target(parts).and_then(|target| target.rsplit_once('.')).map(|(_, name)| name),
        };
        let named = named.unwrap_or_default();
        let (name, operation) =
            service.operations.get_key_value(named).ok_or_else(|| unknown_operation(service, named))?;
        let input = match &self.form {
            Some(form) => form.decode(service, operation.input.as_deref())?,
            None => json::decode(service, operation.input.as_deref(), json::parse(body)?)?,
        };
        Ok((name, operation, input))
    }
}

/// The refusal of an operation that the service has not, or that is not built.
pub(super) fn unknown_operation(service: &Service, name: &str) -> ApiError {
    let message = match service.protocol {
        Protocol::Ec2 => format!("The action {name} is not valid for this web service."),
        _ => format!("Could not find operation {name} for version {}", service.version),
    };
    ApiError::new(Code::UnknownOperation, Fault::Sender, message)
}

fn unknown_service() -> ApiError {
    ApiError::new(
        Code::UnknownOperation,
        Fault::Sender,
        "Nothing in the request names a service and version that are spoken here: X-Amz-Target, a path below /v2/, or \
         the parameters Action and Version.",
    )
}

fn target(parts: &Parts) -> Option<&str> {
    parts.headers.get("x-amz-target")?.to_str().ok()
}

/// Where the REST-JSON service's paths begin.
const REST_PATH: &str = "/v2/";

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn service(request: http::request::Builder, body: &str) -> Result<String, ApiError> {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let services = Services::load().unwrap();
        find(&services, &parts, body.as_bytes()).map(|found| found.service.name.clone())
    }

    #[test]
    fn a_service_is_found_by_target_path_or_version() {
        let target = |target: &str| Request::post("/").header("x-amz-target", target);
        assert_eq!(service(target("AmazonEC2ContainerServiceV20141113.ListTasks"), "").unwrap(), "ecs");
        assert_eq!(
            service(target("Route53AutoNaming_v20170314.GetOperation"), "").unwrap(),
            "servicediscovery"
        );
        assert_eq!(service(Request::get("/v2/apis"), "").unwrap(), "apigatewayv2");
        assert_eq!(service(Request::post("/"), "Action=X&Version=2016-11-15").unwrap(), "ec2");
        assert_eq!(service(Request::get("/?Action=X&Version=2011-06-15"), "").unwrap(), "sts");
        assert!(service(Request::post("/"), "Action=X&Version=1999-01-01").is_err());
        assert!(service(target("Nothing.ListTasks"), "").is_err());
    }
}
