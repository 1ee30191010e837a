//! A thread per core: each worker is a pinned thread with a current-thread runtime of its own.
//!
//! A worker's sockets, pools and views belong to it alone, so nothing on a request's way takes a lock or crosses
//! to another thread. The kernel spreads connections over the workers' SO_REUSEPORT sockets.

use std::{future::Future, io, sync::Arc, thread};

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use tokio::{
    sync::watch,
    task::{self, LocalSet},
};

/// The threads. Dropping them without [`Workers::stop`] tells them to stop and does not wait.
pub struct Workers {
    threads: Vec<thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// What a worker knows of itself.
#[derive(Debug, Clone)]
pub struct Worker {
    /// 0 up to `count`.
    pub index: usize,
    /// How many workers there are.
    pub count: usize,
    stop: watch::Receiver<bool>,
}

impl Workers {
    /// Starts `count` threads named `name-0`, `name-1`, …; zero means one per processor this process may use.
    ///
    /// Each calls `body` once, on its own thread inside a `LocalSet`, and ends when the future it gave ends: after
    /// [`Worker::stopped`] it finishes what it has. What `body` makes need not be `Send`. Threads are in the network
    /// namespace of the thread that calls this. A thread is pinned to a processor if there is one for each.
    pub fn start<F, Fut>(count: usize, name: &str, body: F) -> io::Result<Self>
    where
        F: Fn(Worker) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let processors = processors();
        let count = if count == 0 { processors.len().max(1) } else { count };
        let (stop, stopped) = watch::channel(false);
        let body = Arc::new(body);
        let mut workers = Self { threads: Vec::with_capacity(count), stop };
        for index in 0..count {
            let worker = Worker { index, count, stop: stopped.clone() };
            let body = body.clone();
            let processor = (count <= processors.len()).then(|| processors.get(index).copied()).flatten();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                if let Some(processor) = processor {
                    pin(processor);
                }
                LocalSet::new().block_on(&runtime, body(worker));
                // Tasks that are still there are dropped with the runtime: `body` has waited for those that matter.
            })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Tells all workers to stop and waits until each has.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let threads = std::mem::take(&mut self.threads);
        let join = move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a worker ended in a panic");
                }
            }
        };
        // The pool of blocking threads waits, not the caller's runtime.
        if task::spawn_blocking(join).await.is_err() {
            tracing::error!("waiting for the workers failed");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Worker {
    /// Waits until the workers are told to stop.
    pub async fn stopped(&self) {
        let mut stop = self.stop.clone();
        // An error means that `Workers` is gone, which is the same.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

/// The processors this process may use, by number.
fn processors() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|processor| set.is_set(*processor).unwrap_or(false)).collect()
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::debug!(processor, %error, "worker is not pinned");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[tokio::test]
    async fn each_worker_runs_once_and_stops_when_told() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicUsize::new(0));
        let workers = Workers::start(3, "test", {
            let (seen, ended) = (seen.clone(), ended.clone());
            move |worker| {
                let (seen, ended) = (seen.clone(), ended.clone());
                async move {
                    // Not Send, and need not be.
                    let own = std::rc::Rc::new(worker.index);
                    seen.lock().unwrap().push((*own, worker.count));
                    worker.stopped().await;
                    ended.fetch_add(1, Ordering::SeqCst);
                }
            }
        })
        .unwrap();
        assert_eq!(workers.count(), 3);
        workers.stop().await;
        assert_eq!(ended.load(Ordering::SeqCst), 3);
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert_eq!(seen, [(0, 3), (1, 3), (2, 3)]);
    }
}
