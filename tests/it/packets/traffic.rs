//! Connections and conversations that carry data all the time, none of which may notice what is done meanwhile.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use super::sockets::{Talker, dial_within, pour, until};

/// Each on a thread of its own, until stopped.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    flows: Vec<Flow>,
}

struct Flow {
    name: String,
    rounds: Arc<AtomicUsize>,
    thread: JoinHandle<io::Result<()>>,
}

impl Traffic {
    /// One stream from a namespace to each address.
    pub(crate) fn streams(namespace: &str, to: &[SocketAddr]) -> Self {
        let mut traffic = Self { stop: Arc::default(), flows: Vec::new() };
        for to in to {
            let stream = dial_within(namespace, *to).unwrap_or_else(|error| panic!("{to}: {error}"));
            traffic.carry(format!("stream to {to}"), move || round(&stream));
        }
        traffic
    }

    /// One conversation more to each address.
    pub(crate) fn datagrams(mut self, namespace: &str, to: &[SocketAddr]) -> Self {
        for to in to {
            let talker = Talker::within(namespace, *to);
            self.carry(format!("datagrams to {to}"), move || talker.ask(b"still there?").map(drop));
        }
        self
    }

    fn carry(&mut self, name: String, round: impl Fn() -> io::Result<()> + Send + 'static) {
        let (stop, rounds) = (Arc::clone(&self.stop), Arc::<AtomicUsize>::default());
        let counted = Arc::clone(&rounds);
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                round()?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        self.flows.push(Flow { name, rounds, thread });
    }

    /// Waits until each has carried more.
    #[track_caller]
    pub(crate) fn goes_on(&self, when: &str) {
        let before: Vec<usize> = self.flows.iter().map(Flow::rounds).collect();
        for (flow, before) in self.flows.iter().zip(before) {
            until(&format!("progress of {} {when}", flow.name), || {
                flow.rounds() >= before + ROUNDS || flow.thread.is_finished()
            });
            assert!(!flow.thread.is_finished(), "{} ended {when}", flow.name);
        }
    }

    /// Stops it; nothing may have broken.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for flow in self.flows {
            let outcome = flow.thread.join().unwrap();
            assert!(outcome.is_ok(), "{}: {outcome:?}", flow.name);
        }
    }
}

impl Flow {
    fn rounds(&self) -> usize {
        self.rounds.load(Ordering::Relaxed)
    }
}

fn round(stream: &TcpStream) -> io::Result<()> {
    pour(stream, 50_000)
}

/// Enough that some began after what happened.
const ROUNDS: usize = 3;
