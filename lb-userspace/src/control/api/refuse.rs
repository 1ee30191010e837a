//! Errors as each protocol writes them: the code that the service uses, the status, the body.
//!
//! What a client sees here is all it sees; what the log says is the endpoint's.

use serde_json::{Map, Value, json};

use super::{
    json as json_codec,
    shapes::{Kind, Protocol, Service},
    xml,
};
use crate::{
    control::ops::{ApiError, Code, Fault},
    sigv4::VerifyError,
};

/// An answer that is an error.
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// The code that the client sees.
    pub(super) code: String,
    /// `text/xml`, or a kind of JSON.
    pub(super) content_type: &'static str,
    /// The body.
    pub(super) body: String,
}

/// Gives an error its protocol's form. `service` is `None` when nothing says which service is meant; the answer then
/// has the form that `is_form` clients read.
pub(super) fn refuse(
    service: Option<&Service>,
    is_form: bool,
    error: &ApiError,
    request_id: &str,
) -> Refusal {
    let default = if is_form { Protocol::Query } else { Protocol::Json };
    let protocol = service.map_or(default, |service| service.protocol);
    let (code, general_status) = code_of(service.map_or("", |service| &service.name), protocol, &error.code);
    let modelled = service.and_then(|service| service.error(&code));
    let status = error.status.or(general_status).or(modelled.map(|(_, form)| form.status)).unwrap_or(
        match error.kind {
            Fault::Sender => 400,
            Fault::Receiver => 500,
        },
    );
    let fault = match error.kind {
        Fault::Sender => "Sender",
        Fault::Receiver => "Receiver",
    };
    let mut body = String::new();
    match protocol {
        Protocol::Query => {
            let namespace = service.and_then(|service| service.xml_namespace.as_deref()).unwrap_or_default();
            body.push_str(&format!("<ErrorResponse xmlns=\"{namespace}\"><Error>"));
            xml::element(&mut body, "Type", fault);
            xml::element(&mut body, "Code", &code);
            xml::element(&mut body, "Message", &error.message);
            body.push_str("</Error>");
            xml::element(&mut body, "RequestId", request_id);
            body.push_str("</ErrorResponse>\n");
        }
        Protocol::Ec2 => {
            body.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>");
            xml::element(&mut body, "Code", &code);
            xml::element(&mut body, "Message", &error.message);
            body.push_str("</Error></Errors>");
            xml::element(&mut body, "RequestID", request_id);
            body.push_str("</Response>\n");
        }
        Protocol::Json => {
            let mut object = members(service, modelled.map(|(shape, _)| shape), error);
            object.insert("__type".to_owned(), json!(code));
            body = Value::Object(object).to_string();
        }
        Protocol::RestJson => {
            body = Value::Object(members(service, modelled.map(|(shape, _)| shape), error)).to_string()
        }
    }
    let content_type = match protocol {
        Protocol::Query | Protocol::Ec2 => "text/xml;charset=UTF-8",
        Protocol::Json => "application/x-amz-json-1.1",
        Protocol::RestJson => "application/json",
    };
    Refusal { status, code, content_type, body }
}

/// The refusal of a signature.
pub(super) fn signature(error: &VerifyError) -> ApiError {
    let code = match error {
        VerifyError::Missing => Code::MissingSignature,
        VerifyError::Incomplete(_) => Code::IncompleteSignature,
        VerifyError::UnknownKey => Code::UnknownAccessKey,
        VerifyError::Mismatch => Code::SignatureMismatch,
        VerifyError::Expired { .. } | VerifyError::NotYetCurrent { .. } => Code::SignatureExpired,
    };
    ApiError::new(code, Fault::Sender, error.to_string())
}

/// The message under the names that clients look for, and the shape's other members.
fn members(service: Option<&Service>, shape: Option<&str>, error: &ApiError) -> Map<String, Value> {
    let mut object = Map::new();
    if let (Some(service), Some(shape)) = (service, shape) {
        let mut fields = error.fields.clone();
        if let Kind::Structure { members, .. } = &service.shape(shape).kind {
            let message = members.keys().find(|name| name.eq_ignore_ascii_case("message"));
            fields.extend(message.map(|name| (name.clone(), json!(error.message))));
        }
        if let Value::Object(encoded) = json_codec::encode(service, shape, &Value::Object(fields)) {
            object = encoded;
        }
    }
    object.insert("message".to_owned(), json!(error.message));
    object
}

/// The name of an error in a service, and its status where the shapes do not say.
fn code_of(service: &str, protocol: Protocol, code: &Code) -> (String, Option<u16>) {
    use Protocol::{Ec2, Json, Query, RestJson};
    let (name, status) = match (code, protocol) {
        (Code::Named(name), _) => (name.as_ref(), None),
        (Code::Validation, Query) => ("ValidationError", Some(400)),
        (Code::Validation, Ec2) => ("InvalidParameterValue", Some(400)),
        (Code::Validation, RestJson) => ("BadRequestException", Some(400)),
        (Code::Validation | Code::MissingParameter, Json) => (json_validation(service), Some(400)),
        (Code::MissingParameter, Query) => ("ValidationError", Some(400)),
        (Code::MissingParameter, Ec2) => ("MissingParameter", Some(400)),
        (Code::MissingParameter, RestJson) => ("BadRequestException", Some(400)),
        (Code::Serialization, Query) => ("MalformedQueryString", Some(400)),
        (Code::Serialization, Ec2) => ("InvalidParameterValue", Some(400)),
        (Code::Serialization, RestJson) => ("BadRequestException", Some(400)),
        (Code::Serialization, Json) => ("SerializationException", Some(400)),
        (Code::UnknownOperation, Query | Ec2) => ("InvalidAction", Some(400)),
        (Code::UnknownOperation, RestJson) => ("UnknownOperationException", Some(404)),
        (Code::UnknownOperation, Json) => ("UnknownOperationException", Some(400)),
        (Code::AccessDenied, Query) => ("AccessDenied", Some(403)),
        (Code::AccessDenied, Ec2) => ("UnauthorizedOperation", Some(403)),
        (Code::AccessDenied, RestJson) => ("AccessDeniedException", Some(403)),
        (Code::AccessDenied, Json) => ("AccessDeniedException", Some(400)),
        (Code::MissingSignature, Query | Ec2) => ("MissingAuthenticationToken", Some(403)),
        (Code::MissingSignature, RestJson) => ("MissingAuthenticationTokenException", Some(403)),
        (Code::MissingSignature, Json) => ("MissingAuthenticationTokenException", Some(400)),
        (Code::IncompleteSignature, Query | Ec2) => ("IncompleteSignature", Some(400)),
        (Code::IncompleteSignature, RestJson) => ("IncompleteSignatureException", Some(403)),
        (Code::IncompleteSignature, Json) => ("IncompleteSignatureException", Some(400)),
        (Code::UnknownAccessKey, Query) => ("InvalidClientTokenId", Some(403)),
        (Code::UnknownAccessKey, Ec2) => ("AuthFailure", Some(401)),
        (Code::UnknownAccessKey, RestJson) => ("UnrecognizedClientException", Some(403)),
        (Code::UnknownAccessKey, Json) => ("UnrecognizedClientException", Some(400)),
        (Code::SignatureMismatch, Query) => ("SignatureDoesNotMatch", Some(403)),
        (Code::SignatureMismatch, Ec2) => ("AuthFailure", Some(401)),
        (Code::SignatureMismatch | Code::SignatureExpired, RestJson) => {
            ("InvalidSignatureException", Some(403))
        }
        (Code::SignatureMismatch | Code::SignatureExpired, Json) => ("InvalidSignatureException", Some(400)),
        (Code::SignatureExpired, Query) => ("SignatureDoesNotMatch", Some(403)),
        (Code::SignatureExpired, Ec2) => ("RequestExpired", Some(400)),
        (Code::TooLarge, Query | Ec2) => ("RequestEntityTooLarge", Some(413)),
        (Code::TooLarge, RestJson | Json) => ("RequestEntityTooLargeException", Some(413)),
        (Code::Throttled, Query) => ("Throttling", Some(400)),
        (Code::Throttled, Ec2) => ("RequestLimitExceeded", Some(503)),
        (Code::Throttled, RestJson) => ("TooManyRequestsException", Some(429)),
        (Code::Throttled, Json) => ("ThrottlingException", Some(400)),
        (Code::Internal, Ec2) => ("InternalError", Some(500)),
        (Code::Internal, _) => ("InternalFailure", Some(500)),
    };
    (name.to_owned(), status)
}

/// JSON services have no common name for a bad value.
fn json_validation(service: &str) -> &'static str {
    match service {
        "ecs" => "InvalidParameterException",
        "servicediscovery" => "InvalidInput",
        _ => "ValidationException",
    }
}

#[cfg(test)]
mod tests {
    use super::super::shapes::Services;
    use super::*;

    fn refusal(service: &str, error: &ApiError) -> (u16, String) {
        let services = Services::load().unwrap();
        let refusal = refuse(services.named(service), true, error, "id");
        (refusal.status, refusal.body)
    }

    #[test]
    fn each_protocol_has_its_own_form() {
        let error = ApiError::not_found("LoadBalancerNotFound", "no <lb>");
        assert_eq!(
            refusal("elbv2", &error),
            (
                400,
                "<ErrorResponse xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\"><Error>\
                 <Type>Sender</Type><Code>LoadBalancerNotFound</Code><Message>no &lt;lb&gt;</Message></Error>\
                 <RequestId>id</RequestId></ErrorResponse>\n"
                    .to_owned()
            )
        );
        let error = ApiError::not_found("InvalidVpcID.NotFound", "x");
        assert!(
            refusal("ec2", &error).1.contains("<Response><Errors><Error><Code>InvalidVpcID.NotFound</Code>")
        );
        let error = ApiError::not_found("NotFoundException", "Invalid API identifier");
        assert_eq!(
            refusal("apigatewayv2", &error),
            (404, r#"{"message":"Invalid API identifier"}"#.to_owned())
        );
        let error = ApiError::not_found("ClusterNotFoundException", "Cluster not found.");
        assert_eq!(
            refusal("ecs", &error),
            (400, r#"{"__type":"ClusterNotFoundException","message":"Cluster not found."}"#.to_owned())
        );
    }

    #[test]
    fn members_of_an_error_s_shape_are_sent() {
        let error = ApiError::conflict("NamespaceAlreadyExists", "there").with_field("NamespaceId", "ns-1");
        let (_, body) = refusal("servicediscovery", &error);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["NamespaceId"], "ns-1");
        assert_eq!((&body["Message"], &body["message"]), (&json!("there"), &json!("there")));
    }

    #[test]
    fn a_bad_value_has_the_service_s_own_code() {
        for (service, code) in [
            ("elbv2", "ValidationError"),
            ("ec2", "InvalidParameterValue"),
            ("ecs", "InvalidParameterException"),
            ("servicediscovery", "InvalidInput"),
            ("acm", "ValidationException"),
        ] {
            assert!(refusal(service, &ApiError::validation("x")).1.contains(code), "{service}");
        }
    }
}
