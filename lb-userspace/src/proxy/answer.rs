//! Answers that the load balancer makes itself, as an Application Load Balancer words them.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, SERVER},
};
use hyper::ext::ReasonPhrase;

use crate::http::{body::ResponseBody, connect::TargetStream};

/// An error page.
pub fn error<S: TargetStream>(status: StatusCode) -> Response<ResponseBody<S>> {
    let (reason, body) = page(status);
    let mut response = Response::new(ResponseBody::Whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(SERVER, AWSELB);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    if Some(reason) != status.canonical_reason() {
        response.extensions_mut().insert(ReasonPhrase::from_static(reason.as_bytes()));
    }
    response
}

/// A fixed-response action's answer.
pub fn fixed<S: TargetStream>(
    status: StatusCode,
    content_type: &HeaderValue,
    body: &Bytes,
) -> Response<ResponseBody<S>> {
    let mut response = Response::new(ResponseBody::Whole(body.clone()));
    *response.status_mut() = status;
    response.headers_mut().insert(SERVER, AWSELB);
    response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    response
}

const AWSELB: HeaderValue = HeaderValue::from_static("awselb/2.0");

macro_rules! pages {
    ($($status:literal $reason:literal),+ $(,)?) => {
        fn page(status: StatusCode) -> (&'static str, Bytes) {
            match status.as_u16() {
                $($status => ($reason, Bytes::from_static(concat!(
                    "<html>\r\n<head><title>", $status, " ", $reason, "</title></head>\r\n<body>\r\n<center><h1>",
                    $status, " ", $reason, "</h1></center>\r\n</body>\r\n</html>\r\n"
                ).as_bytes())),)+
                _ => (status.canonical_reason().unwrap_or("Error"), Bytes::new()),
            }
        }
    };
}

// The words are an Application Load Balancer's where they differ from the standard's.
pages! {
    400 "Bad Request",
    403 "Forbidden",
    405 "Not Allowed",
    408 "Request Time-out",
    413 "Request Entity Too Large",
    414 "Request-URI Too Large",
    417 "Expectation Failed",
    500 "Internal Server Error",
    501 "Not Implemented",
    502 "Bad Gateway",
    503 "Service Temporarily Unavailable",
    504 "Gateway Time-out",
    505 "HTTP Version Not Supported",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_page_with_the_load_balancers_words() {
        let response = error::<tokio::net::TcpStream>(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[SERVER], "awselb/2.0");
        assert_eq!(
            response.extensions().get::<ReasonPhrase>().unwrap().as_bytes(),
            b"Service Temporarily Unavailable"
        );
        let ResponseBody::Whole(body) = response.body() else { panic!("not whole") };
        assert!(body.starts_with(b"<html>\r\n<head><title>503 Service Temporarily Unavailable</title>"));
    }
}
