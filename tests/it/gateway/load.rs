//! Targets that die under load: no GET fails, and no POST reaches a target that refused it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::tunnel::{
    bed::{Bed, DEADLINE, in_own_network},
    target::Target,
};

/// Clients that ask one after the other until told to stop; answers what was not 200.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn start(bed: &Bed, clients: usize) -> Self {
        let mut load = Self { stop: Arc::default(), asked: Arc::default(), clients: JoinSet::new() };
        for _ in 0..clients {
            let (client, stop, asked) = (bed.client.clone(), Arc::clone(&load.stop), Arc::clone(&load.asked));
            load.clients.spawn(async move {
                let mut connection = client.keep_alive().await;
                let mut failures = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match connection.request("GET", "/service/x", "").await {
                        Some((status, _)) if status == 200 => {}
                        Some((status, body)) => failures.push(format!("{status} {body:?}")),
                        None => {
                            failures.push("closed".to_owned());
                            connection = client.keep_alive().await;
                        }
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                }
                failures
            });
        }
        load
    }

    /// Waits until so many more were asked.
    async fn run(&self, requests: usize) {
        let until = self.asked.load(Ordering::SeqCst) + requests;
        let done = async {
            while self.asked.load(Ordering::SeqCst) < until {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(DEADLINE, done).await.expect("the load goes on");
    }

    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await.concat()
    }
}

#[test]
fn a_target_killed_under_load_fails_no_get() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        let mut targets =
            [Some(Target::start("10.77.1.20:8080", "one")), Some(Target::start("10.77.1.21:8080", "two"))];
        bed.instance("one", "10.77.1.20:8080", "prod");
        bed.instance("two", "10.77.1.21:8080", "prod");
        bed.publish().await;
        let load = Load::start(&bed, 16);
        load.run(500).await;
        for round in 0..4 {
            let (index, address, name) =
                if round % 2 == 0 { (0, "10.77.1.20:8080", "one") } else { (1, "10.77.1.21:8080", "two") };
            drop(targets[index].take());
            load.run(300).await;
            targets[index] = Some(Target::start(address, name));
            load.run(300).await;
        }
        let failures = load.stop().await;
        assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), failures.first());
    });
}

#[test]
fn a_post_goes_elsewhere_when_its_target_refuses() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        let _one = Target::start("10.77.1.20:8080", "one");
        bed.instance("one", "10.77.1.20:8080", "prod");
        bed.instance("dead", "10.77.1.21:8080", "prod");
        bed.publish().await;
        for _ in 0..20 {
            let mut connection = bed.client.keep_alive().await;
            let (status, body) = connection.request("POST", "/service/x", "some body").await.unwrap();
            assert_eq!(status, 200, "{body:?}");
        }
    });
}

#[test]
fn an_instance_that_comes_and_goes_fails_no_get() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        let _one = Target::start("10.77.1.20:8080", "one");
        let _two = Target::start("10.77.1.21:8080", "two");
        bed.instance("one", "10.77.1.20:8080", "prod");
        bed.publish().await;
        let load = Load::start(&bed, 8);
        load.run(100).await;
        for _ in 0..10 {
            bed.instance("two", "10.77.1.21:8080", "prod");
            bed.publish().await;
            load.run(50).await;
            bed.service().instances.remove("two");
            bed.publish().await;
            load.run(50).await;
        }
        let failures = load.stop().await;
        assert!(failures.is_empty(), "{} failed: {:?}", failures.len(), failures.first());
    });
}
