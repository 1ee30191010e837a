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
        StatusCode::BAD_GATEWAY => br#"{"message":"Bad Gateway"}"#,
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

/// What a client is answered when its integration is not. One that cannot be reached or is late is 503, as AWS answers;
/// one that got the request and closed or answered nonsense is 502, so that 503 without a timeout says that nothing was
/// done.
pub fn of_failure(error: &ForwardError) -> StatusCode {
    match error {
        ForwardError::NoTarget
        | ForwardError::Connect(
            ConnectError::Io(_) | ConnectError::TimedOut | ConnectError::Unavailable(_),
        )
        | ForwardError::TargetIdle => StatusCode::SERVICE_UNAVAILABLE,
        ForwardError::Closed(_) | ForwardError::Malformed(_) => StatusCode::BAD_GATEWAY,
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
            (502, r#"{"message":"Bad Gateway"}"#),
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

    #[test]
    fn who_may_have_got_the_request_is_a_bad_gateway_and_who_cannot_is_unavailable() {
        for (error, status) in [
            (ForwardError::NoTarget, 503),
            (ForwardError::Connect(ConnectError::TimedOut), 503),
            (ForwardError::Connect(ConnectError::Unavailable("no lane")), 503),
            (ForwardError::TargetIdle, 503),
            (ForwardError::Closed(None), 502),
            (ForwardError::Malformed(None), 502),
        ] {
            assert_eq!(of_failure(&error).as_u16(), status, "{error}");
        }
    }
}
