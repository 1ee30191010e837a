//! What is malformed or unknown gets AWS's error shape and changes nothing.

use std::{io::Write, net::TcpStream, time::Duration};

use http::{Method, Request, request::Parts};
use http_body_util::BodyExt;
use lb_userspace::{
    control::api::{Endpoint, Services, metrics::EndpointMetrics, shapes::Protocol},
    sigv4::{AccessKey, SecretKey, sign},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::json;

use super::served::{ACCESS_KEY_ID, Memory, REGION, SECRET, Served, now_s, settings};

#[test]
fn an_unknown_operation_has_its_code_in_each_protocol() {
    let served = Served::start();
    let form = json!({"Content-Type": "application/x-www-form-urlencoded"});
    let target = |name: &str| json!({"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": name});
    let cases = [
        ("sts", "/", form.clone(), "Action=Dance&Version=2011-06-15", 400, "InvalidAction"),
        ("ec2", "/", form.clone(), "Action=Dance&Version=2016-11-15", 400, "InvalidAction"),
        ("ec2", "/", form, "Version=2016-11-15", 400, "InvalidAction"),
        (
            "ecs",
            "/",
            target("AmazonEC2ContainerServiceV20141113.Dance"),
            "{}",
            400,
            "UnknownOperationException",
        ),
        ("ecs", "/", target("Dance"), "{}", 400, "UnknownOperationException"),
        ("apigateway", "/v2/dances", json!({}), "{}", 404, "UnknownOperationException"),
    ];
    for (service, path, headers, body, status, code) in cases {
        let request =
            json!({"service": service, "method": "POST", "path": path, "headers": headers, "body": body});
        let answer = served.aws.raw(request).unwrap();
        assert_eq!(answer["status"], status, "{service} {path} {body}: {answer:#}");
        assert_eq!(answer["headers"]["x-amzn-errortype"], code, "{service} {path} {body}: {answer:#}");
    }
    let error = served
        .aws
        .call("servicediscovery", "CreatePublicDnsNamespace", json!({"Name": "a.test"}))
        .unwrap_err();
    assert_eq!(error.code, "UnknownOperationException", "listed and not built: {error}");
}

#[test]
fn malformed_input_has_the_service_s_own_code() {
    let served = Served::start();
    let json_11 = json!({
        "Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonEC2ContainerServiceV20141113.CreateCluster",
    });
    for body in ["{", "[]", "{\"clusterName\": 1}", "{\"tags\": {}}", "\u{feff}{}"] {
        let request =
            json!({"service": "ecs", "method": "POST", "path": "/", "headers": json_11, "body": body});
        let answer = served.aws.raw(request).unwrap();
        let code = &answer["headers"]["x-amzn-errortype"];
        assert!(answer["status"] == 400 && code == "SerializationException", "{body}: {answer:#}");
    }
    let request =
        json!({"service": "apigateway", "method": "POST", "path": "/v2/apis", "body": "{\"name\": []}"});
    assert_eq!(served.aws.raw(request).unwrap()["headers"]["x-amzn-errortype"], "BadRequestException");
    assert_eq!(served.rows(), 0);
}

#[test]
fn a_body_beyond_the_limit_is_refused_and_the_endpoint_goes_on() {
    let served = Served::start();
    let body = "x".repeat(lb_userspace::control::api::endpoint::BODY_MAX + 1);
    let request = json!({"service": "sts", "method": "POST", "path": "/", "body": body});
    let answer = served.aws.raw(request).unwrap();
    assert_eq!(answer["status"], 413);
    assert!(answer["body"].as_str().unwrap().contains("<Code>RequestEntityTooLarge</Code>"), "{answer:#}");
    assert_eq!(served.metrics.too_large.get(), 1);
    served.aws.call("sts", "GetCallerIdentity", json!({})).unwrap();
}

#[test]
fn what_is_not_tls_or_not_http_closes_the_connection_only() {
    let served = Served::start();
    let mut plain = TcpStream::connect(served.address).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut plain, &mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    served.aws.call("sts", "GetCallerIdentity", json!({})).unwrap();
    assert_eq!(served.metrics.handshakes_failed.get(), 1);
}

/// One request per protocol and shape, well formed.
fn seeds() -> Vec<(&'static str, Parts, Vec<u8>)> {
    let request = |method: Method, uri: &str, headers: &[(&str, &str)], body: &str| {
        let mut request = Request::builder().method(method).uri(format!("https://gatehouse.test{uri}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, body) = request.body(body.as_bytes().to_vec()).unwrap().into_parts();
        (parts, body)
    };
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let target = |name| [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", name)];
    let seeds = [
        ("sts", request(Method::POST, "/", &form, "Action=GetCallerIdentity&Version=2011-06-15")),
        (
            "elasticloadbalancing",
            request(
                Method::POST,
                "/",
                &form,
                "Action=CreateLoadBalancer&Version=2015-12-01&Name=a&Subnets.member.1=subnet-1&Tags.member.1.Key=k",
            ),
        ),
        (
            "ec2",
            request(
                Method::POST,
                "/",
                &form,
                "Action=AuthorizeSecurityGroupIngress&Version=2016-11-15&GroupId=sg-1&IpPermissions.1.FromPort=80\
                 &IpPermissions.1.IpRanges.1.CidrIp=10.0.0.0%2F8",
            ),
        ),
        (
            "ecs",
            request(
                Method::POST,
                "/",
                &target("AmazonEC2ContainerServiceV20141113.CreateService"),
                r#"{"serviceName":"a","desiredCount":2,"loadBalancers":[{"containerPort":80}],"tags":[{"key":"k"}]}"#,
            ),
        ),
        (
            "servicediscovery",
            request(
                Method::POST,
                "/",
                &target("Route53AutoNaming_v20170314.RegisterInstance"),
                r#"{"ServiceId":"srv-1","InstanceId":"i","Attributes":{"AWS_INSTANCE_IPV4":"10.0.0.1"}}"#,
            ),
        ),
        (
            "apigateway",
            request(
                Method::PATCH,
                "/v2/apis/a/stages/%24default",
                &[],
                r#"{"autoDeploy":true,"stageVariables":{}}"#,
            ),
        ),
        ("apigateway", request(Method::DELETE, "/v2/tags/arn%3Aaws%3Ax?tagKeys=a&tagKeys=b", &[], "")),
    ];
    seeds.into_iter().map(|(service, (parts, body))| (service, parts, body)).collect()
}

#[derive(Debug, Clone)]
enum Edit {
    Overwrite(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Repeat(usize, usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..8),
        proptest::sample::select(vec![
            "&",
            "=",
            ".",
            ".1",
            "%",
            "%00",
            "%ff",
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "null",
            "-1",
            "1e999",
            "\\u0000",
            "99999999999999999999",
            ".member.",
            "/",
            "//",
            "../",
            "?",
            "\u{e9}",
            "<",
            "\0",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Edit::Overwrite(at, byte)),
        (any::<usize>(), bytes).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<usize>(), 1..20usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        (any::<usize>(), 1..20usize, 1..200usize)
            .prop_map(|(at, count, times)| Edit::Repeat(at, count, times)),
    ]
}

fn apply(edits: &[Edit], bytes: &mut Vec<u8>) {
    for edit in edits {
        let length = bytes.len();
        match edit {
            Edit::Overwrite(at, byte) if length > 0 => bytes[at % length] = *byte,
            Edit::Overwrite(..) => {}
            Edit::Insert(at, inserted) => {
                let at = at % (length + 1);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Edit::Remove(at, count) => {
                let at = at % (length + 1);
                bytes.drain(at..(at + count).min(length));
            }
            Edit::Repeat(at, count, times) => {
                let at = at % (length + 1);
                let repeated = bytes[at..(at + count).min(length)].repeat(*times);
                bytes.splice(at..at, repeated);
            }
        }
    }
}

/// Requests of all four protocols with bytes changed in target, query string and body, half of them signed after the
/// change so that they reach the codecs: each is answered, and what is refused is refused in an AWS form.
#[test]
fn mutated_requests_never_panic_and_always_have_an_aws_shaped_answer() {
    let memory = Memory::default();
    let folder = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::new(settings(folder.path()), memory, EndpointMetrics::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let key = AccessKey { id: ACCESS_KEY_ID.to_owned(), secret: SecretKey(SECRET.to_owned()) };
    let seeds = seeds();
    let services = Services::load().unwrap();
    let edits = || proptest::collection::vec(edit(), 0..4);
    let mut runner = TestRunner::new(Config { cases: 3000, failure_persistence: None, ..Config::default() });
    let strategy = (0..seeds.len(), edits(), edits(), edits(), any::<bool>());
    let ran = runner.run(&strategy, |(seed, in_path, in_target, in_body, is_signed_after)| {
        let (service, mut parts, mut body) = seeds[seed].clone();
        let sign =
            |parts: &mut Parts, body: &[u8]| sign(parts, body, &key, REGION, service, now_s()).unwrap();
        if !is_signed_after {
            sign(&mut parts, &body);
        }
        apply(&in_body, &mut body);
        let mut path = parts.uri.path_and_query().unwrap().as_str().as_bytes().to_vec();
        apply(&in_path, &mut path);
        // What http itself refuses never reaches the endpoint.
        if let Ok(uri) = format!("https://gatehouse.test{}", String::from_utf8_lossy(&path)).parse() {
            parts.uri = uri;
        }
        if let Some(target) = parts.headers.get("x-amz-target") {
            let mut target = target.as_bytes().to_vec();
            apply(&in_target, &mut target);
            if let Ok(target) = http::HeaderValue::from_bytes(&target) {
                parts.headers.insert("x-amz-target", target);
            }
        }
        if is_signed_after {
            sign(&mut parts, &body);
        }
        let answer = runtime.block_on(endpoint.answer(&parts, &body));
        prop_assert!(answer.headers().contains_key("x-amzn-requestid"));
        if answer.status().is_success() {
            return Ok(());
        }
        prop_assert!(answer.status().is_client_error(), "{:?}", answer.status());
        prop_assert!(answer.headers().contains_key("x-amzn-errortype"));
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        let text = runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        let text = std::str::from_utf8(&text).unwrap();
        if content_type.starts_with("text/xml") {
            let is_query = text.starts_with("<ErrorResponse") && text.contains("<RequestId>");
            prop_assert!(is_query || text.contains("<Response><Errors><Error><Code>"), "{}", text);
        } else {
            let body: serde_json::Value = serde_json::from_str(text).unwrap();
            prop_assert!(body["message"].is_string(), "{}", text);
        }
        Ok(())
    });
    ran.unwrap();
    assert!(services.iter().any(|service| service.protocol == Protocol::Ec2));
}
