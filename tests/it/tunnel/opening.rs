//! What an agent opens and what it refuses, and that one slow client slows nobody else.

use std::time::Instant;

use http_body_util::BodyExt;
use tokio::task::JoinSet;

use super::{
    bed::{Bed, DEADLINE, in_own_network, listener},
    target::Target,
};

#[test]
fn an_agent_opens_only_what_its_own_slice_lists_and_admits() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        let target = Target::start("10.77.1.20:8080", "one");
        let metadata = Target::start("169.254.169.254:8080", "metadata");
        let own = Target::start("10.77.1.9:8080", "the link itself");
        let beside = Target::start("10.77.0.1:8080", "beside the gateway");
        let loopback = Target::start("127.0.0.1:8080", "loopback");
        let id = bed.instance("one", "10.77.1.20:8080", "prod");
        bed.publish().await;
        let status = |bed: &Bed| bed.client.curl("/service/x", &[]).status;
        assert_eq!(status(&bed), 200);
        let opened = target.connections();

        // The gateway still names it each time.
        bed.link.targets.clear();
        bed.publish().await;
        // Keep-alive connections that stand may be used; close them by taking the target away for a moment.
        let instances = std::mem::take(&mut bed.service().instances);
        bed.publish().await;
        bed.service().instances = instances;
        bed.publish().await;
        assert_eq!(status(&bed), 503, "not listed");
        bed.allow(id, "10.77.1.20:8080").draining = true;
        bed.publish().await;
        assert_eq!(status(&bed), 503, "draining");
        bed.allow(id, "10.77.1.20:8080").refused = Some("no rule".to_owned());
        bed.publish().await;
        assert_eq!(status(&bed), 503, "refused by a security group");
        for address in ["127.0.0.1:8080", "169.254.169.254:8080", "10.77.1.9:8080", "10.77.0.1:8080"] {
            bed.allow(id, address);
            bed.publish().await;
            assert_eq!(status(&bed), 503, "{address}");
        }
        assert_eq!(target.connections(), opened);
        for never in [metadata, own, beside, loopback] {
            assert_eq!(never.connections(), 0);
        }
        bed.allow(id, "10.77.1.20:8080");
        bed.publish().await;
        assert_eq!(status(&bed), 200, "and the link is none the worse");
    });
}

#[test]
fn an_agent_waits_a_moment_for_a_slice_that_the_gateway_has_already() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        let _target = Target::start("10.77.1.20:8080", "one");
        let id = bed.instance("one", "10.77.1.20:8080", "prod");
        // The gateway hears of it first.
        let view = bed.link.targets.remove(&id).unwrap();
        bed.publish().await;
        let client = bed.client.clone();
        let asked = tokio::task::spawn_blocking(move || client.curl("/service/x", &[]).status);
        bed.link.targets.insert(id, view);
        bed.publish().await;
        // Whichever came first: the request, or the slice.
        assert_eq!(asked.await.unwrap(), 200);
    });
}

#[test]
fn a_burst_of_new_connections_finds_lanes() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        let _a = Target::start("10.77.1.10:80", "a");
        bed.allow(listener("alb", "a"), "10.77.1.10:80");
        bed.allow(listener("alb", "b"), "10.77.1.10:80");
        bed.publish().await;
        let mut requests = JoinSet::new();
        for _ in 0..100 {
            let client = bed.client.clone();
            requests.spawn(async move {
                let mut connection = client.keep_alive().await;
                // Held open at the target, so that each request needs a connection of its own.
                connection.request("GET", "/alb/x?sleep_ms=300", "").await.map(|(status, _)| status.as_u16())
            });
        }
        let statuses = tokio::time::timeout(DEADLINE, requests.join_all()).await.unwrap();
        assert!(statuses.iter().all(|status| *status == Some(200)), "{statuses:?}");
    });
}

#[test]
fn idle_connections_to_some_targets_do_not_keep_lanes_from_others() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        // More instances than idle connections, one to each, leave lanes for: a worker has 512.
        let _one = Target::start("10.77.1.20:8080", "one");
        for number in 0..MANY {
            bed.instance(&format!("i{number}"), "10.77.1.20:8080", "prod");
        }
        bed.publish().await;
        let mut connection = bed.client.keep_alive().await;
        for number in 0..MANY {
            let (status, body) = connection.request("GET", "/service/x", "").await.unwrap();
            assert_eq!(status, 200, "request {number}: {body:?}");
        }
    });
}

/// A client's connection belongs to one worker, so all requests take that worker's lanes.
const MANY: usize = 600;

#[test]
fn one_slow_reader_does_not_slow_the_others() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        let _a = Target::start("10.77.1.10:80", "a");
        bed.allow(listener("alb", "a"), "10.77.1.10:80");
        bed.allow(listener("alb", "b"), "10.77.1.10:80");
        bed.publish().await;
        // Ten clients that read the head of a large answer and no more.
        let mut slow = Vec::new();
        for _ in 0..10 {
            let mut connection = bed.client.keep_alive().await;
            let response = connection.send("GET", "/alb/x?bytes=9000000", "").await.unwrap();
            assert_eq!(response.status(), 200);
            slow.push((connection, response));
        }
        let started = Instant::now();
        let mut connection = bed.client.keep_alive().await;
        for _ in 0..100 {
            let (status, _) = connection.request("GET", "/alb/x", "").await.unwrap();
            assert_eq!(status, 200);
        }
        assert!(started.elapsed() < DEADLINE / 4, "{:?}", started.elapsed());
        // And they get theirs when they read on.
        for (_connection, response) in slow {
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len(), 9_000_000);
        }
    });
}
