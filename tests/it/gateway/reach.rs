//! Where requests arrive, and as what.

use crate::tunnel::{
    bed::{Bed, in_own_network, listener},
    client::HOST,
    target::Target,
};

async fn bed() -> (Bed, Vec<Target>) {
    let mut bed = Bed::new().await;
    let targets = vec![
        Target::start("10.77.1.10:80", "alb-a"),
        Target::start("10.77.1.11:80", "alb-b"),
        Target::start("10.77.1.10:81", "nlb-a"),
        Target::start("10.77.1.20:8080", "one"),
        Target::start("10.77.1.21:8080", "two"),
    ];
    bed.allow(listener("alb", "a"), "10.77.1.10:80");
    bed.allow(listener("alb", "b"), "10.77.1.11:80");
    // Its other zone does not answer.
    bed.allow(listener("nlb", "a"), "10.77.1.10:81");
    bed.allow(listener("nlb", "b"), "10.77.1.11:81");
    bed.instance("one", "10.77.1.20:8080", "prod");
    bed.instance("two", "10.77.1.21:8080", "test");
    bed.publish().await;
    (bed, targets)
}

#[test]
fn one_api_reaches_all_three_kinds_of_destinations() {
    in_own_network(|| async {
        let (bed, _targets) = bed().await;
        let mut names = std::collections::BTreeSet::new();
        for path in ["/alb", "/nlb/deep/path?q=1", "/service/x", "/prod"].iter().cycle().take(32) {
            let seen = bed.client.curl(path, &[]);
            assert_eq!(seen.status, 200, "{path}: {seen:?}");
            let json = seen.json();
            assert_eq!(json["uri"], *path);
            names.insert(format!("{path} {}", json["name"].as_str().unwrap()));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "/alb \"alb-a\"",
                "/alb \"alb-b\"",
                "/nlb/deep/path?q=1 \"nlb-a\"",
                "/prod \"one\"",
                "/service/x \"one\"",
                "/service/x \"two\"",
            ]
            .map(|name| name.replace('"', ""))
        );
    });
}

#[test]
fn a_target_sees_the_clients_host_and_address_and_an_http_1_1_request() {
    in_own_network(|| async {
        let (bed, _targets) = bed().await;
        let arguments = [
            "--header",
            "X-Forwarded-For: 6.6.6.6",
            "--header",
            "x-amzn-oidc-identity: admin",
            "--header",
            "x-own: 1",
        ];
        for version in ["--http1.1", "--http2"] {
            let seen = bed.client.curl("/alb", &[&arguments[..], &[version]].concat());
            assert_eq!(seen.version, if version == "--http2" { "HTTP/2" } else { "HTTP/1.1" });
            let json = seen.json();
            assert_eq!(json["version"], "HTTP/1.1");
            let headers = &json["headers"];
            assert_eq!(headers["host"][0], HOST);
            // On this loopback device a connection comes from where it goes.
            assert_eq!(headers["forwarded"][0], format!("for=10.77.0.1;host={HOST};proto=https"));
            assert_eq!(headers["via"][0], "HTTP/1.1 AmazonAPIGateway");
            assert_eq!(headers["x-own"][0], "1");
            assert!(headers["x-forwarded-for"].is_null() && headers["x-amzn-oidc-identity"].is_null());
            let id = seen.header("apigw-requestid").unwrap();
            assert!(id.len() == 16 && id.ends_with('='), "{id}");
        }
    });
}

#[test]
fn stages_methods_and_bodies_arrive_as_the_integration_says() {
    in_own_network(|| async {
        let (bed, _targets) = bed().await;
        assert_eq!(bed.client.curl("/test/alb/x", &[]).json()["uri"], "/test/alb/x", "the stage is kept");
        assert_eq!(bed.client.curl("/put", &["--data", "abc"]).json()["method"], "PUT");
        let body = "x".repeat(1_000_000);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &body).unwrap();
        let data = format!("@{}", file.path().display());
        for version in ["--http1.1", "--http2"] {
            let seen = bed.client.curl("/service/x", &[version, "--data-binary", &data]);
            assert_eq!(
                (seen.json()["method"].as_str(), seen.json()["received"].as_u64()),
                (Some("POST"), Some(1_000_000))
            );
        }
        let chunked = ["--data-binary", &data, "--http1.1", "--header", "Transfer-Encoding: chunked"];
        assert_eq!(bed.client.curl("/alb", &chunked).json()["received"], 1_000_000);
        let large = bed.client.curl("/alb?bytes=3000000", &[]);
        assert_eq!(large.body.len(), 3_000_000);
        let head = bed.client.curl("/alb", &["--head"]);
        assert_eq!((head.status, head.body.as_str()), (200, ""));
    });
}

#[test]
fn paths_are_routed_and_forwarded_in_one_form() {
    in_own_network(|| async {
        let (bed, _targets) = bed().await;
        assert_eq!(bed.client.curl("/nowhere/../alb/%7euser/a%2fb", &[]).json()["uri"], "/alb/~user/a%2Fb");
        assert_eq!(bed.client.curl("/alb/%2e%2e/broken", &[]).status, 500, "not a way around a route");
    });
}

#[test]
fn a_deregistered_instance_gets_no_more_requests() {
    in_own_network(|| async {
        let (mut bed, targets) = bed().await;
        for _ in 0..8 {
            assert_eq!(bed.client.curl("/service/x", &[]).status, 200);
        }
        bed.service().instances.remove("one");
        bed.publish().await;
        let before = targets[3].connections();
        for _ in 0..20 {
            assert_eq!(bed.client.curl("/service/x", &[]).json()["name"], "two");
        }
        assert_eq!(targets[3].connections(), before);
    });
}
