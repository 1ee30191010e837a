//! Targets that are killed, added and drained under load.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{client::Client, stage::Stage, target::Target};

const CLIENTS: usize = 16;

/// Clients that ask until they are told to stop; how often each status came, and how many connections ended.
struct Load {
    threads: Vec<thread::JoinHandle<BTreeMap<u16, usize>>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn start(address: SocketAddr, request: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let threads = (0..CLIENTS).map(|_| {
            let (stop, answered) = (stop.clone(), answered.clone());
            thread::spawn(move || {
                let mut statuses = BTreeMap::new();
                let mut client = Client::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    client.send(request);
                    // 0: the connection ended instead of an answer.
                    let status = client.answer().map_or(0, |answer| answer.status);
                    *statuses.entry(status).or_insert(0) += 1;
                    answered.fetch_add(1, Ordering::SeqCst);
                    if status == 0 {
                        client = Client::connect(address);
                    }
                }
                statuses
            })
        });
        Self { threads: threads.collect(), stop, answered }
    }

    /// Waits for so many more answers.
    fn more(&self, count: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + count;
        while self.answered.load(Ordering::SeqCst) < goal {
            assert!(self.threads.iter().any(|thread| !thread.is_finished()), "every client has failed");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn finish(self) -> BTreeMap<u16, usize> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = BTreeMap::new();
        for thread in self.threads {
            for (status, count) in thread.join().unwrap() {
                *all.entry(status).or_insert(0) += count;
            }
        }
        all
    }
}

fn pair() -> (Stage, Target, Target) {
    let mut stage = Stage::new();
    let first = Target::named(stage.target_ip(2), "first");
    let second = Target::named(stage.target_ip(3), "second");
    stage.group("main", &[first.address, second.address]);
    stage.apply();
    stage.healthy("main", &[first.address, second.address]);
    (stage, first, second)
}

#[test]
fn a_target_killed_under_load_fails_no_get() {
    let (stage, first, second) = pair();
    let load = Load::start(stage.address(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    load.more(500);
    first.kill();
    load.more(500);
    stage.healthy("main", &[second.address]);
    load.more(500);
    let statuses = load.finish();
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
}

#[test]
fn a_target_killed_under_load_fails_at_most_the_posts_in_flight() {
    let (stage, first, _second) = pair();
    let load = Load::start(stage.address(), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    load.more(500);
    first.kill();
    load.more(1000);
    let statuses = load.finish();
    let failed: usize = statuses.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum();
    assert!(failed <= CLIENTS, "{statuses:?}");
    assert!(statuses.keys().all(|status| matches!(status, 200 | 502)), "{statuses:?}");
}

#[test]
fn draining_and_adding_targets_under_load_fails_nothing() {
    let (mut stage, first, second) = pair();
    let load = Load::start(stage.address(), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    load.more(300);
    stage.drain("main", first.address);
    stage.apply();
    load.more(100);
    let before = first.requests();
    load.more(300);
    assert_eq!(first.requests(), before, "a draining target gets nothing new");
    let third = Target::named(stage.target_ip(4), "third");
    stage.group("main", &[second.address, third.address]);
    stage.apply();
    stage.healthy("main", &[second.address, third.address]);
    load.more(300);
    let statuses = load.finish();
    assert_eq!(statuses.keys().collect::<Vec<_>>(), [&200], "{statuses:?}");
    assert!(third.requests() > 0);
}
