//! What is malformed is refused at the front door and at control, changes nothing, and ends nobody.

use gatehouse_tests::lab::Lab;
use serde_json::{Value, json};

use super::{deployed, door::Door};

#[test]
fn a_malformed_request_gets_400_and_its_connection_is_closed() {
    let mut lab = deployed();
    let gateway = lab.appliance().role("gateway");
    let door = Door::of(&lab);
    for (integration, url) in lab.urls() {
        let host = gatehouse_tests::lab::client::host_of(url).unwrap();
        for (what, text) in malformed(host) {
            let mut connection = door.open(url).unwrap();
            connection.send(text.as_bytes()).unwrap();
            let reply = connection.receive().unwrap_or_else(|error| panic!("{integration}: {what}: {error}"));
            assert_eq!(reply.status, 400, "{integration}: {what}: {reply:?}");
            assert!(connection.is_closed(), "{integration}: {what}: the connection stays");
        }
        assert_eq!(lab.client().fetch(url).unwrap().status, 200, "{integration} afterwards");
    }
    assert_eq!(lab.appliance().role("gateway"), gateway, "it ended");
    no_panic(&mut lab);
}

/// Requests that RFC 9112 forbids, by what is wrong with them.
fn malformed(host: &str) -> Vec<(&'static str, String)> {
    let host = format!("Host: {host}\r\n");
    let get = |line: &str| format!("GET / HTTP/1.1\r\n{host}{line}\r\n\r\n");
    let post = |lines: &str, body: &str| format!("POST / HTTP/1.1\r\n{host}{lines}\r\n\r\n{body}");
    vec![
        ("no request line", "hello\r\n\r\n".to_owned()),
        ("no version", format!("GET /\r\n{host}\r\n")),
        ("a space too many", format!("GET / x HTTP/1.1\r\n{host}\r\n")),
        ("a byte no method has", format!("G(T / HTTP/1.1\r\n{host}\r\n")),
        ("a space before the colon", get("X-A : b")),
        ("a header without colon", get("X-A")),
        ("a folded header", get("X-A: b\r\n c")),
        ("a NUL in a value", get("X-A: \0")),
        ("no host", "GET / HTTP/1.1\r\nX-A: b\r\n\r\n".to_owned()),
        ("two hosts", get("Host: other.test")),
        ("two lengths", post("Content-Length: 1\r\nContent-Length: 2", "ab")),
        ("a length that is no number", post("Content-Length: +1", "a")),
        ("a length and chunks", post("Content-Length: 3\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        ("an unknown coding", post("Transfer-Encoding: xchunked", "0\r\n\r\n")),
        ("chunked not last", post("Transfer-Encoding: chunked, gzip", "0\r\n\r\n")),
    ]
}

#[test]
fn malformed_control_requests_have_aws_s_errors_and_change_nothing() {
    let mut lab = deployed();
    let control = lab.appliance().role("control");
    let aws = lab.aws().unwrap();
    let state = || {
        let asked = [
            ("ecs", "ListClusters", json!({})),
            ("elbv2", "DescribeLoadBalancers", json!({})),
            ("elbv2", "DescribeTargetGroups", json!({})),
            ("apigatewayv2", "GetApis", json!({})),
            ("servicediscovery", "ListNamespaces", json!({})),
            ("cloudformation", "DescribeStacks", json!({})),
        ];
        asked.map(|(service, operation, params)| aws.call(service, operation, params).unwrap())
    };
    let before = state();
    let group = json!({"Name": "a_b", "Protocol": "HTTP", "Port": 70_000, "VpcId": "vpc-0"});
    let calls: [(&str, &str, Value); 6] = [
        ("elbv2", "CreateTargetGroup", group),
        ("elbv2", "CreateLoadBalancer", json!({"Name": "x", "Type": "carrier-pigeon"})),
        ("apigatewayv2", "CreateApi", json!({"Name": "x", "ProtocolType": "GOPHER"})),
        ("ecs", "CreateService", json!({"serviceName": "x", "cluster": "absent", "desiredCount": -1})),
        ("servicediscovery", "CreateHttpNamespace", json!({"Name": ""})),
        ("cloudformation", "CreateStack", json!({"StackName": "x", "TemplateBody": "Resources: ["})),
    ];
    for (service, operation, params) in calls {
        let error = aws.call(service, operation, params).unwrap_err();
        assert!((400..500).contains(&error.status) && !error.code.is_empty(), "{operation}: {error}");
        assert!(!error.message.is_empty(), "{operation}: {error}");
    }
    let target = json!({
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "AmazonEC2ContainerServiceV20141113.CreateCluster",
    });
    for body in ["{", "[]", "{\"clusterName\": 1}", ""] {
        let request = json!({"service": "ecs", "method": "POST", "path": "/", "headers": target, "body": body,
            "after_signing": {"X-Amz-Date": "yesterday"}});
        let answer = aws.raw(request).unwrap();
        assert!((400..500).contains(&answer["status"].as_u64().unwrap()), "{body:?}: {answer}");
    }
    assert_eq!(state(), before);
    assert_eq!(lab.appliance().role("control"), control, "it ended");
    no_panic(&mut lab);
}

fn no_panic(lab: &mut Lab) {
    let log = lab.appliance().log();
    let panics: Vec<_> = log.lines().filter(|line| line.contains("panicked")).collect();
    assert_eq!(panics, [""; 0]);
}
