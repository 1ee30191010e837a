//! Answers that the gateway makes itself: `{"message":"…"}`, as AWS's HTTP APIs answer.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};

use super::headers::REQUEST_ID;
use crate::http::{connect::ConnectError, forward::ForwardError, refusal::Refusal};

/// An answer of the gateway's own.
pub fn answer(status: StatusCode, request_id: &HeaderValue) -> Response<Bytes> {
    let body = body(status);
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, length);
    headers.insert(REQUEST_ID, request_id.clone());
    response
}

/// Its body.
fn body(status: StatusCode) -> Bytes {
    Bytes::from_static(match status {
        StatusCode::NOT_FOUND => br#"{"message":"Not Found"}"#,
        StatusCode::FORBIDDEN => br#"{"message":"Forbidden"}"#,
        StatusCode::BAD_REQUEST => br#"{"message":"Bad Request"}"#,
        StatusCode::REQUEST_TIMEOUT => br#"{"message":"Request Timeout"}"#,
        StatusCode::PAYLOAD_TOO_LARGE => br#"{"message":"Request Entity Too Large"}"#,
        StatusCode::URI_TOO_LONG => br#"{"message":"URI Too Long"}"#,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => br#"{"message":"Request Header Fields Too Large"}"#,
        StatusCode::SERVICE_UNAVAILABLE => br#"{"message":"Service Unavailable"}"#,
        StatusCode::METHOD_NOT_ALLOWED => br#"{"message":"Method Not Allowed"}"#,
        StatusCode::EXPECTATION_FAILED => br#"{"message":"Expectation Failed"}"#,
        StatusCode::NOT_IMPLEMENTED => br#"{"message":"Not Implemented"}"#,
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => br#"{"message":"HTTP Version Not Supported"}"#,
        _ => br#"{"message":"Internal Server Error"}"#,
    })
}

/// What a request that was refused unread is answered. A head over the limit of 10,240 bytes is 431, whichever part of
/// it is too long but the request line alone.
pub fn of_refusal(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        other => other.status(),
    }
}

/// What a client is answered when its integration is not. An integration that cannot be reached, closes or is late is
/// 503; one that answers nonsense is 500.
pub fn of_failure(error: &ForwardError) -> StatusCode {
    match error {
        ForwardError::NoTarget
        | ForwardError::Connect(
            ConnectError::Io(_) | ConnectError::TimedOut | ConnectError::Unavailable(_),
        )
        | ForwardError::Closed(_)
        | ForwardError::TargetIdle => StatusCode::SERVICE_UNAVAILABLE,
        ForwardError::Malformed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        ForwardError::ClientIdle => StatusCode::REQUEST_TIMEOUT,
        ForwardError::RequestBody => StatusCode::BAD_REQUEST,
        ForwardError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_what_aws_answers_byte_for_byte() {
        let id = HeaderValue::from_static("AAAAAAAAAAAAAAA=");
        for (status, body) in [
            (404, r#"{"message":"Not Found"}"#),
            (403, r#"{"message":"Forbidden"}"#),
            (500, r#"{"message":"Internal Server Error"}"#),
            (503, r#"{"message":"Service Unavailable"}"#),
            (413, r#"{"message":"Request Entity Too Large"}"#),
            (431, r#"{"message":"Request Header Fields Too Large"}"#),
        ] {
            let response = answer(StatusCode::from_u16(status).unwrap(), &id);
            assert_eq!(response.body(), body);
            assert_eq!(response.headers()[CONTENT_LENGTH], body.len().to_string());
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            assert_eq!(response.headers()["apigw-requestid"], id);
        }
        assert_eq!(body(StatusCode::SERVICE_UNAVAILABLE).len(), 33, "as captured");
    }
}
