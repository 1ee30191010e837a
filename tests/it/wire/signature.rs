//! Signatures by botocore, good and bad: what verifies, and which code its clients see for what does not.

use serde_json::{Value, json};

use super::served::{ACCESS_KEY_ID, ACCOUNT, Served};

/// One read-only call per protocol; those that are not built fail after the signature was accepted.
const CALLS: [(&str, &str); 4] = [
    ("sts", "GetCallerIdentity"),
    ("ec2", "DescribeVpcs"),
    ("ecs", "ListClusters"),
    ("apigatewayv2", "GetApis"),
];

#[test]
fn good_keys_are_known_and_the_caller_is_their_owner() {
    let served = Served::start();
    let identity = served.aws.call("sts", "GetCallerIdentity", json!({})).unwrap();
    assert_eq!(
        identity,
        json!({"UserId": ACCESS_KEY_ID, "Account": ACCOUNT, "Arn": format!("arn:aws:iam::{ACCOUNT}:root")})
    );
    assert_eq!(served.metrics.requests.get(), 1);
}

#[test]
fn each_kind_of_bad_signature_has_its_code_in_each_protocol() {
    let served = Served::start();
    let cases = [
        (
            "unknown key",
            json!({"access_key_id": "AKIANOBODY"}),
            [
                ("InvalidClientTokenId", 403),
                ("AuthFailure", 401),
                ("UnrecognizedClientException", 400),
                ("UnrecognizedClientException", 403),
            ],
        ),
        (
            "wrong secret",
            json!({"secret_access_key": "wrong"}),
            [
                ("SignatureDoesNotMatch", 403),
                ("AuthFailure", 401),
                ("InvalidSignatureException", 400),
                ("InvalidSignatureException", 403),
            ],
        ),
        (
            "too old",
            json!({"clock_offset_s": -400}),
            [
                ("SignatureDoesNotMatch", 403),
                ("RequestExpired", 400),
                ("InvalidSignatureException", 400),
                ("InvalidSignatureException", 403),
            ],
        ),
        (
            "from the future",
            json!({"clock_offset_s": 400}),
            [
                ("SignatureDoesNotMatch", 403),
                ("RequestExpired", 400),
                ("InvalidSignatureException", 400),
                ("InvalidSignatureException", 403),
            ],
        ),
    ];
    for (case, who, expected) in cases {
        for ((service, operation), (code, status)) in CALLS.into_iter().zip(expected) {
            let error = served.aws.call_as(who.clone(), service, operation, json!({})).unwrap_err();
            assert_eq!((error.code.as_str(), error.status), (code, status), "{case}, {service}: {error}");
        }
    }
    assert_eq!(served.metrics.unsigned.get(), 16);
    let who = json!({"clock_offset_s": -250});
    served.aws.call_as(who, "sts", "GetCallerIdentity", json!({})).expect("four minutes of skew are fine");
}

fn identity(extra: &Value) -> Value {
    let mut request = json!({
        "service": "sts", "method": "POST", "path": "/",
        "headers": {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        "body": "Action=GetCallerIdentity&Version=2011-06-15",
    });
    request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    request
}

#[test]
fn missing_incomplete_and_foreign_signatures_are_refused() {
    let served = Served::start();
    let cases = [
        ("as it is", json!({}), 200, "<Account>000000000000</Account>"),
        ("unsigned", json!({"sign": "no"}), 403, "<Code>MissingAuthenticationToken</Code>"),
        (
            "another scheme",
            json!({"after_signing": {"Authorization": "Bearer x"}}),
            400,
            "<Code>IncompleteSignature</Code>",
        ),
        (
            "half a signature",
            json!({"after_signing": {"Authorization": "AWS4-HMAC-SHA256 Credential=A/20260101/r/s/aws4_request"}}),
            400,
            "<Code>IncompleteSignature</Code>",
        ),
        ("no date", json!({"after_signing": {"X-Amz-Date": null}}), 400, "<Code>IncompleteSignature</Code>"),
        (
            "another body",
            json!({"body_after_signing": "Action=GetCallerIdentity&Version=2011-06-15&x=1"}),
            403,
            "<Code>SignatureDoesNotMatch</Code>",
        ),
        ("another service", json!({"service": "iam"}), 403, "<Code>SignatureDoesNotMatch</Code>"),
        (
            "unsigned payload",
            json!({"headers": {
                "Content-Type": "application/x-www-form-urlencoded", "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD",
            }}),
            200,
            "<Account>000000000000</Account>",
        ),
        (
            "another host name",
            json!({"after_signing": {"Host": "elsewhere.test"}}),
            403,
            "<Code>SignatureDoesNotMatch</Code>",
        ),
    ];
    for (case, extra, status, text) in cases {
        let answer = served.aws.raw(identity(&extra)).unwrap();
        let body = answer["body"].as_str().unwrap();
        assert!(answer["status"] == status && body.contains(text), "{case}: {answer:#}");
        assert!(answer["headers"]["x-amzn-requestid"].is_string(), "{case}");
    }
}

#[test]
fn a_signature_for_another_region_does_not_count() {
    let served = Served::start();
    let request = |service: &str, body: &str| {
        let headers = json!({"Content-Type": "application/x-www-form-urlencoded"});
        served.aws.raw(json!({
            "service": service, "region": "us-east-1", "method": "POST", "path": "/", "headers": headers, "body": body,
        }))
    };
    let refused = request("ec2", "Action=DescribeVpcs&Version=2016-11-15").unwrap();
    assert_eq!(refused["status"], 401);
    assert!(refused["body"].as_str().unwrap().contains("'eu-central-1'"), "{refused:#}");
    let answered = request("sts", "Action=GetCallerIdentity&Version=2011-06-15").unwrap();
    assert_eq!(answered["status"], 200, "sts is signed for its global endpoint, too");
}

#[test]
fn presigned_requests_verify_until_they_expire() {
    let served = Served::start();
    let request = |extra: Value| {
        let mut request = json!({
            "service": "sts", "method": "GET", "sign": "query",
            "path": "/?Action=GetCallerIdentity&Version=2011-06-15",
        });
        request.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        served.aws.raw(request).unwrap()
    };
    assert_eq!(request(json!({}))["status"], 200);
    let long_ago = json!({"clock_offset_s": -3000});
    assert_eq!(request(json!({"who": long_ago, "expires_s": 4000}))["status"], 200);
    assert_eq!(request(json!({"who": long_ago, "expires_s": 2000}))["status"], 403);
    assert_eq!(request(json!({"expires_s": 700_000}))["status"], 400);
    assert_eq!(request(json!({"who": {"secret_access_key": "wrong"}}))["status"], 403);
}

#[test]
fn odd_paths_and_query_strings_verify_as_botocore_signs_them() {
    let served = Served::start();
    for path in [
        "/v2/apis/a/stages/%24default",
        "/v2/tags/arn%3Aaws%3Aapigateway%3Aeu-central-1%3A%3A%2Fapis%2Fx?tagKeys=b&tagKeys=a%20c",
        "/v2/apis?nextToken=a%2Fb%3D%3D&maxResults=5",
        "/v2/apis/%C3%A9~-_.",
    ] {
        let answer = served.aws.raw(json!({"service": "apigateway", "method": "GET", "path": path})).unwrap();
        let kind = answer["headers"]["x-amzn-errortype"].as_str().unwrap_or_default();
        assert_ne!(kind, "InvalidSignatureException", "{path}: {answer:#}");
    }
}
