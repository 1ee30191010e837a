//! Either side stops and starts: the link comes back by itself, and what runs meanwhile is answered clearly.

use std::time::{Duration, Instant};

use super::{
    bed::{Bed, DEADLINE, in_own_network, listener},
    target::Target,
};

async fn bed() -> (Bed, Target) {
    let mut bed = Bed::new().await;
    let target = Target::start("10.77.1.10:80", "a");
    bed.allow(listener("alb", "a"), "10.77.1.10:80");
    bed.allow(listener("alb", "b"), "10.77.1.10:80");
    bed.publish().await;
    assert_eq!(bed.client.curl("/alb", &[]).status, 200);
    (bed, target)
}

#[test]
fn with_the_link_stopped_requests_fail_and_come_back_with_it() {
    in_own_network(|| async {
        let (mut bed, _target) = bed().await;
        bed.kill_agent();
        let seen = bed.client.curl("/alb", &[]);
        assert_eq!((seen.status, seen.body.as_str()), (503, r#"{"message":"Service Unavailable"}"#));
        let started = Instant::now();
        bed.start_agent().await;
        assert!(started.elapsed() < Duration::from_secs(2), "attached after {:?}", started.elapsed());
        assert_eq!(bed.client.curl("/alb", &[]).status, 200);
    });
}

#[test]
fn the_link_comes_back_to_a_gateway_that_restarted() {
    in_own_network(|| async {
        let (mut bed, _target) = bed().await;
        bed.stop_gateway().await;
        bed.attached(0).await;
        bed.start_gateway().await;
        let started = Instant::now();
        bed.attached(1).await;
        assert!(started.elapsed() < Duration::from_secs(3), "attached after {:?}", started.elapsed());
        assert_eq!(bed.client.curl("/alb", &[]).status, 200);
    });
}

#[test]
fn requests_in_hand_end_when_the_gateway_stops() {
    in_own_network(|| async {
        let (mut bed, _target) = bed().await;
        let mut connection = bed.client.keep_alive().await;
        let in_hand = tokio::spawn(async move {
            connection.request("GET", "/alb/x?sleep_ms=500", "").await.map(|(status, _)| status.as_u16())
        });
        let arrived = async {
            while _target.connections() < 2 {
                tokio::task::yield_now().await;
            }
        };
        // The first connection may be taken again: then there is no second to wait for.
        drop(tokio::time::timeout(Duration::from_millis(200), arrived).await);
        bed.stop_gateway().await;
        assert_eq!(in_hand.await.unwrap(), Some(200));
    });
}

#[test]
fn a_link_that_is_deleted_is_let_go_and_one_that_is_made_is_taken_up() {
    in_own_network(|| async {
        let (mut bed, _target) = bed().await;
        bed.link.deleting = true;
        bed.gateway.links.values_mut().for_each(|link| link.deleting = true);
        bed.publish().await;
        bed.attached(0).await;
        let seen = bed.client.curl("/alb", &[]);
        assert_eq!((seen.status, seen.body.as_str()), (500, r#"{"message":"Internal Server Error"}"#));
        bed.link.deleting = false;
        bed.gateway.links.values_mut().for_each(|link| link.deleting = false);
        bed.publish().await;
        tokio::time::timeout(DEADLINE, bed.attached(1)).await.unwrap();
        assert_eq!(bed.client.curl("/alb", &[]).status, 200);
    });
}
