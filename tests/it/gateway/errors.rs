//! What clients are answered when something is wrong, byte for byte.

use crate::tunnel::{
    bed::{Bed, in_own_network, listener},
    client::{HOST, Seen},
    target::Target,
};

fn check(seen: &Seen, status: u16, message: &str) {
    let body = format!("{{\"message\":\"{message}\"}}");
    assert_eq!((seen.status, seen.body.as_str()), (status, body.as_str()), "{seen:?}");
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("content-length"), Some(body.len().to_string().as_str()));
    let id = seen.header("apigw-requestid").unwrap_or_default();
    assert!(id.len() == 16 && id.ends_with('='), "{seen:?}");
}

async fn bed() -> (Bed, Target) {
    let mut bed = Bed::new().await;
    let target = Target::start("10.77.1.10:80", "a");
    bed.allow(listener("alb", "a"), "10.77.1.10:80");
    bed.allow(listener("alb", "b"), "10.77.1.10:80");
    bed.publish().await;
    (bed, target)
}

#[test]
fn each_failure_has_awss_status_and_body() {
    in_own_network(|| async {
        let (mut bed, _target) = bed().await;
        for version in ["--http1.1", "--http2"] {
            let curl = |path: &str, more: &[&str]| bed.client.curl(path, &[&[version], more].concat());
            check(&curl("/", &[]), 404, "Not Found");
            check(&curl("/unknown/path", &[]), 404, "Not Found");
            check(&curl("/only-get", &["--request", "POST"]), 404, "Not Found");
            check(&curl("/broken", &[]), 500, "Internal Server Error");
            check(&curl("/service/x", &[]), 503, "Service Unavailable");
            check(&curl("/%zz", &[]), 400, "Bad Request");
        }
        let unknown = "unknown001.execute-api.eu-central-1.amazonaws.com";
        check(&bed.client.curl_host(unknown, "/alb", &[]), 403, "Forbidden");
        check(&bed.client.curl("/alb", &["--header", "Host: example.com", "--http1.1"]), 403, "Forbidden");
        bed.instance("late", "10.77.1.10:80", "prod");
        bed.publish().await;
        check(&bed.client.curl("/late/x?sleep_ms=5000", &[]), 503, "Service Unavailable");
        bed.service().instances.clear();
        bed.instance("dead", "10.77.1.20:9", "prod");
        bed.publish().await;
        check(&bed.client.curl("/service/x", &[]), 503, "Service Unavailable");
        check(&bed.client.curl("/service/x", &["--data", "abc"]), 503, "Service Unavailable");
        bed.gateway.apis.values_mut().for_each(|api| api.disable_execute_api_endpoint = true);
        bed.publish().await;
        check(&bed.client.curl("/alb", &[]), 404, "Not Found");
    });
}

#[test]
fn a_target_that_got_the_request_and_gives_no_answer_is_a_bad_gateway() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        for (address, words) in [
            ("10.77.1.20:81", &b""[..]),
            ("10.77.1.20:82", b"HTTP/1.1 200 OK\r\ncontent-len"),
            ("10.77.1.20:83", b"no HTTP at all\r\n\r\n"),
        ] {
            let target = Target::saying(address, words);
            bed.service().instances.clear();
            bed.instance(address, address, "prod");
            bed.publish().await;
            for version in ["--http1.1", "--http2"] {
                let said = String::from_utf8_lossy(words);
                let before = target.connections();
                let seen = bed.client.curl("/service/x", &[version, "--data", "abc"]);
                check(&seen, 502, "Bad Gateway");
                assert_eq!(
                    target.connections() - before,
                    1,
                    "a POST is sent once, whatever is said: {said:?}"
                );
                check(&bed.client.curl("/service/x", &[version]), 502, "Bad Gateway");
            }
        }
    });
}

#[test]
fn limits_are_answered_and_unlawful_requests_are_closed_on() {
    in_own_network(|| async {
        let (bed, target) = bed().await;
        let head = |rest: &str| format!("POST /alb HTTP/1.1\r\nhost: {HOST}\r\n{rest}\r\n").into_bytes();
        let too_large = head("content-length: 10485761\r\n");
        check(&bed.client.raw(&too_large).await, 413, "Request Entity Too Large");
        let long_header = head(&format!("x-long: {}\r\n", "a".repeat(10_300)));
        check(&bed.client.raw(&long_header).await, 431, "Request Header Fields Too Large");
        let two_lengths = head("content-length: 1\r\ncontent-length: 1\r\n");
        check(&bed.client.raw(&two_lengths).await, 400, "Bad Request");
        let ambiguous = head("content-length: 1\r\ntransfer-encoding: chunked\r\n");
        check(&bed.client.raw(&ambiguous).await, 400, "Bad Request");
        let no_host = b"GET /alb HTTP/1.1\r\n\r\n";
        check(&bed.client.raw(no_host).await, 400, "Bad Request");
        let folded = head("x-a: 1\r\n 2\r\n");
        check(&bed.client.raw(&folded).await, 400, "Bad Request");
        assert_eq!(target.connections(), 0, "none reached the target");
        // A body that grows past the limit as it comes.
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'x'; 11 << 20]).unwrap();
        let data = format!("@{}", file.path().display());
        let chunked = [
            "--data-binary",
            &data,
            "--http1.1",
            "--header",
            "Transfer-Encoding: chunked",
            "--header",
            "Expect:",
        ];
        check(&bed.client.curl("/alb", &chunked), 413, "Request Entity Too Large");
        check(&bed.client.curl("/alb?bytes=10485761", &[]), 500, "Internal Server Error");
        assert_eq!(bed.client.curl("/alb?bytes=10485760", &[]).body.len(), 10 << 20);
    });
}
