//! Requests without pause but bounded, on connections from the client's machine, each with its fate.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use gatehouse_tests::lab::{Lab, wait::Wait};

use super::door::{Connection, Door};

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) body: &'static str,
}

pub(crate) const GET: Ask = Ask { method: "GET", path: "/", body: "" };

/// One request and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    /// 0 if no answer came.
    pub(crate) status: u16,
    /// The process that answered.
    pub(crate) process: Option<i32>,
    /// Of a failure, what was said.
    pub(crate) said: String,
}

/// Requests under way until stopped, or dropped.
pub(crate) struct Traffic {
    begun: Instant,
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Exchange>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    pub(crate) fn start(lab: &Lab, url: &str, ask: Ask, connections: usize) -> Self {
        let begun = Instant::now();
        let mut traffic = Self { begun, stop: Arc::default(), done: Arc::default(), clients: Vec::new() };
        for _ in 0..connections {
            let (door, url) = (Door::of(lab), url.to_owned());
            let (stop, done) = (Arc::clone(&traffic.stop), Arc::clone(&traffic.done));
            traffic.clients.push(thread::spawn(move || {
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    let exchange = exchange(&door, &url, ask, &mut connection);
                    done.lock().unwrap().push(exchange);
                    thread::sleep(PACE);
                }
            }));
        }
        traffic.wait_for(connections * 10);
        traffic
    }

    /// What is over by now.
    pub(crate) fn done(&self) -> Vec<Exchange> {
        self.done.lock().unwrap().clone()
    }

    /// Waits until so many more are over.
    pub(crate) fn wait_for(&self, more: usize) {
        let count = || self.done.lock().unwrap().len();
        let until = count() + more;
        let enough = || Ok((count() >= until).then_some(()));
        Wait::default().until("progress of the traffic", Duration::from_secs(60), enough).unwrap();
    }

    pub(crate) fn stop(mut self) -> Vec<Exchange> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().unwrap();
        }
        self.done()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Traffic through every integration at once.
pub(crate) fn through_all(lab: &Lab, ask: Ask, connections: usize) -> Vec<(String, Traffic)> {
    let start = |(integration, url): (&String, &String)| {
        (integration.clone(), Traffic::start(lab, url, ask, connections))
    };
    lab.urls().iter().map(start).collect()
}

/// Stops traffic none of which may have failed.
pub(crate) fn stop_without_failures(traffic: Vec<(String, Traffic)>) {
    let mut failures = Vec::new();
    for (integration, traffic) in traffic {
        let begun = traffic.begun;
        let all = traffic.stop();
        let count = all.len();
        let failed = all.into_iter().filter(|one| one.status != 200);
        let told = |one: Exchange| {
            let (at, took) = (one.started - begun, one.ended - one.started);
            format!("{integration}, one of {count}: at {at:?} {} {} after {took:?}", one.status, one.said)
        };
        failures.extend(failed.map(told));
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

fn exchange(
    door: &Door,
    url: &str,
    ask: Ask,
    connection: &mut Option<Connection<super::door::Tls>>,
) -> Exchange {
    let open = connection.take().map_or_else(|| door.open(url), Ok);
    let started = Instant::now();
    let asked = open.and_then(|mut open| {
        let reply = open.request(ask.method, ask.path, ask.body)?;
        Ok((open, reply))
    });
    let ended = Instant::now();
    match asked {
        Ok((open, reply)) => {
            if !reply.closes() {
                *connection = Some(open);
            }
            let said = if reply.status == 200 { String::new() } else { reply.body.clone() };
            Exchange { started, ended, status: reply.status, process: reply.process(), said }
        }
        Err(error) => Exchange { started, ended, status: 0, process: None, said: error.to_string() },
    }
}

/// Between two requests of a connection: a bounded load, also on a slow machine.
const PACE: Duration = Duration::from_millis(2);
