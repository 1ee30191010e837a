//! The one writer of the state: runs operations and reports over drafts, makes them last, then answers.
//!
//! Before: `api` decoded a request, or a role sent a report. After: `publish` compiles the committed state. Whatever has
//! arrived while the last commit was being written goes into the next one (group commit), and the reconcilers run in
//! the same commit, so a change and its consequences are never seen apart.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{
    ops::{ApiError, Caller, Handler},
    store::Store,
};
use crate::{
    model::{
        id::TimestampMs,
        state::{Draft, State, Writes},
    },
    snapshot::{envelope::RoleId, report::Report},
};

/// Work that may wait for the writer; more makes callers wait their turn.
const QUEUE: usize = 1_024;
/// Operations and reports in one commit.
const BATCH: usize = 256;
/// Rounds of reconciling in one commit; what still wants to change comes with the next.
const ROUNDS: usize = 16;

/// The state at a committed generation. Cheap to clone.
#[derive(Clone, Default)]
pub struct Committed {
    /// The state.
    pub state: State,
    /// Rises with each commit.
    pub generation: u64,
}

/// What a reconciler is told beside the draft.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// The generation that this commit will have.
    pub generation: u64,
    /// The newest generation that every connected data plane has applied.
    pub acknowledged: u64,
}

/// Brings the state towards what its resources ask for; answers when it wants to be run again at the latest.
pub type Reconciler = Box<dyn FnMut(&mut Draft, Progress) -> Option<TimestampMs> + Send>;

/// Notes a fact that a role reported.
pub type ReportHandler = Box<dyn FnMut(&mut Draft, &RoleId, &Report) + Send>;

/// A way to the writer.
#[derive(Clone)]
pub struct WriterHandle {
    work: mpsc::Sender<Work>,
    committed: watch::Receiver<Committed>,
}

enum Work {
    Operation {
        handler: Handler,
        caller: Caller,
        input: Value,
        answer: oneshot::Sender<Result<Value, ApiError>>,
    },
    Report {
        role: RoleId,
        report: Report,
    },
}

impl WriterHandle {
    /// Runs an operation and answers once its writes last.
    ///
    /// # Errors
    /// What the operation refuses; an internal failure when the writer or the store is gone.
    pub async fn execute(&self, handler: Handler, caller: Caller, input: Value) -> Result<Value, ApiError> {
        let (answer, answered) = oneshot::channel();
        let work = Work::Operation { handler, caller, input, answer };
        self.work.send(work).await.map_err(|_| ApiError::internal())?;
        answered.await.map_err(|_| ApiError::internal())?
    }

    /// Hands over a role's report.
    pub async fn report(&self, role: RoleId, report: Report) {
        // The writer only goes away when control stops; the role will repeat the fact to the next one.
        let _ = self.work.send(Work::Report { role, report }).await;
    }

    /// The newest committed state, and news of the next.
    pub fn committed(&self) -> watch::Receiver<Committed> {
        self.committed.clone()
    }
}

/// The writer, to be run.
pub struct Writer {
    store: Box<dyn Store>,
    reconcilers: Vec<Reconciler>,
    report_handlers: Vec<ReportHandler>,
    acknowledged: watch::Receiver<u64>,
    work: mpsc::Receiver<Work>,
    committed: watch::Sender<Committed>,
}

impl Writer {
    /// Loads the state; `acknowledged` tells which generation all data planes have applied.
    ///
    /// # Errors
    /// When the stored state cannot be read.
    pub fn open(
        mut store: Box<dyn Store>,
        acknowledged: watch::Receiver<u64>,
        reconcilers: Vec<Reconciler>,
        report_handlers: Vec<ReportHandler>,
    ) -> Result<(Self, WriterHandle), super::store::StoreError> {
        let (state, generation) = store.load()?;
        let (committed, committed_receiver) = watch::channel(Committed { state, generation });
        let (sender, work) = mpsc::channel(QUEUE);
        let handle = WriterHandle { work: sender, committed: committed_receiver };
        Ok((Self { store, reconcilers, report_handlers, acknowledged, work, committed }, handle))
    }

    /// Runs until the last handle is gone.
    pub async fn run(mut self) {
        // The first round runs without work: reconcilers see what came due while control was down.
        let mut batch = Vec::with_capacity(BATCH);
        let mut wake = self.process(&mut batch);
        loop {
            tokio::select! {
                received = self.work.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        return;
                    }
                }
                Ok(()) = self.acknowledged.changed() => {}
                () = until(wake) => {}
            }
            wake = self.process(&mut batch);
        }
    }

    /// One commit: every piece of work, then the reconcilers, then the store, then the answers.
    fn process(&mut self, batch: &mut Vec<Work>) -> Option<TimestampMs> {
        let before = self.committed.borrow().clone();
        let mut state = before.state.clone();
        let mut writes = Writes::new();
        let mut answers = Vec::new();
        for work in batch.drain(..) {
            match work {
                Work::Operation { handler, caller, input, answer } => {
                    let run = guarded(|| {
                        let mut draft = draft(&state);
                        handler(&mut draft, &caller, input).map(|output| (output, draft))
                    });
                    let outcome = run.unwrap_or_else(|| Err(ApiError::internal()));
                    answers.push((
                        answer,
                        outcome.map(|(output, draft)| {
                            state = absorb(draft, &mut writes);
                            output
                        }),
                    ));
                }
                Work::Report { role, report } => {
                    for handler in &mut self.report_handlers {
                        let run = guarded(|| {
                            let mut draft = draft(&state);
                            handler(&mut draft, &role, &report);
                            draft
                        });
                        if let Some(draft) = run {
                            state = absorb(draft, &mut writes);
                        }
                    }
                }
            }
        }
        let progress = Progress {
            generation: before.generation + 1,
            acknowledged: *self.acknowledged.borrow_and_update(),
        };
        let mut wake = None;
        for _ in 0..ROUNDS {
            let mut changed = false;
            wake = None;
            for reconciler in &mut self.reconcilers {
                let run = guarded(|| {
                    let mut draft = draft(&state);
                    let next = reconciler(&mut draft, progress);
                    (draft, next)
                });
                let Some((draft, next)) = run else { continue };
                changed |= draft.is_changed();
                wake = [wake, next].into_iter().flatten().min();
                state = absorb(draft, &mut writes);
            }
            if !changed {
                break;
            }
            // Out of rounds with more to do: come back at once.
            wake = Some(0);
        }
        if !writes.is_empty() {
            let store = &mut self.store;
            let commit = tokio::task::block_in_place(|| store.commit(&writes, progress.generation));
            if let Err(error) = commit {
                tracing::error!(%error, source = error.source_text(), "state could not be committed");
                for (answer, _) in answers {
                    let _ = answer.send(Err(ApiError::internal()));
                }
                return Some(now_ms() + 1_000);
            }
            self.committed.send_replace(Committed { state, generation: progress.generation });
        }
        for (answer, outcome) in answers {
            // A caller that hung up does not undo what was committed.
            let _ = answer.send(outcome);
        }
        wake
    }
}

impl super::store::StoreError {
    fn source_text(&self) -> String {
        std::error::Error::source(self).map(ToString::to_string).unwrap_or_default()
    }
}

/// A panic in an operation is a defect of ours: it costs this one draft, and is told.
fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).inspect_err(|_| tracing::error!("an operation panicked")).ok()
}

fn draft(state: &State) -> Draft {
    let mut seed = [0; 32];
    if rand::fill(&mut seed).is_err() {
        // Without randomness ids would repeat; the time at least differs from draft to draft.
        seed[..16].copy_from_slice(
            &SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_le_bytes(),
        );
        tracing::error!("the system gave no randomness");
    }
    Draft::new(state.clone(), now_ms(), seed)
}

fn absorb(draft: Draft, writes: &mut Writes) -> State {
    let (state, new) = draft.finish();
    writes.extend(new);
    state
}

fn now_ms() -> TimestampMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs::try_from(since.as_millis()).unwrap_or(TimestampMs::MAX)
}

async fn until(wake: Option<TimestampMs>) {
    match wake {
        Some(at) => {
            let delay = Duration::from_millis(at.saturating_sub(now_ms())).max(Duration::from_millis(1));
            tokio::time::sleep_until(Instant::now() + delay).await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::store::{EmbeddedStore, StoreError};
    use crate::model::{id::Arn, task::Cluster};
    use serde_json::json;

    fn cluster(name: &str) -> Cluster {
        let arn = Arn::new("ecs", "eu-central-1", "000000000000", format_args!("cluster/{name}"));
        Cluster { arn, name: name.to_owned(), status: "ACTIVE".to_owned(), tags: Vec::new() }
    }

    fn caller() -> Caller {
        Caller {
            account: "000000000000".to_owned(),
            region: "eu-central-1".to_owned(),
            access_key_id: "AKIA".to_owned(),
            principal: "arn:aws:iam::000000000000:root".to_owned(),
        }
    }

    fn create(draft: &mut Draft, _: &Caller, input: Value) -> Result<Value, ApiError> {
        draft.put(cluster(input.as_str().unwrap_or_default()));
        Ok(input)
    }

    fn create_then_refuse(draft: &mut Draft, caller: &Caller, input: Value) -> Result<Value, ApiError> {
        create(draft, caller, input)?;
        Err(ApiError::validation("no"))
    }

    fn create_then_panic(draft: &mut Draft, caller: &Caller, input: Value) -> Result<Value, ApiError> {
        create(draft, caller, input)?;
        panic!("a defect");
    }

    /// A store on a disk that fails.
    struct Broken;

    impl Store for Broken {
        fn load(&mut self) -> Result<(State, u64), StoreError> {
            Ok((State::default(), 0))
        }
        fn commit(&mut self, _: &Writes, _: u64) -> Result<(), StoreError> {
            Err(StoreError::Layout { found: 1, known: 2 })
        }
    }

    fn start(store: Box<dyn Store>, reconcilers: Vec<Reconciler>) -> WriterHandle {
        let (_, acknowledged) = watch::channel(0);
        let (writer, handle) = Writer::open(store, acknowledged, reconcilers, Vec::new()).unwrap();
        tokio::spawn(writer.run());
        handle
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_answered_is_on_disk_and_what_is_refused_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.redb");
        let handle = start(Box::new(EmbeddedStore::open(&path).unwrap()), Vec::new());
        handle.execute(create, caller(), json!("one")).await.unwrap();
        handle.execute(create_then_refuse, caller(), json!("two")).await.unwrap_err();
        handle.execute(create_then_panic, caller(), json!("three")).await.unwrap_err();
        let seen = handle.committed().borrow().state.clusters.clone();
        assert_eq!(seen.len(), 1, "one was created");
        let copy = directory.path().join("copy.redb");
        std::fs::copy(&path, &copy).unwrap();
        let (stored, generation) = EmbeddedStore::open(&copy).unwrap().load().unwrap();
        assert_eq!(stored.clusters, seen);
        assert_eq!(generation, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_commit_that_fails_is_told_to_the_caller_and_changes_nothing() {
        let handle = start(Box::new(Broken), Vec::new());
        handle.execute(create, caller(), json!("one")).await.unwrap_err();
        assert!(handle.committed().borrow().state.clusters.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_and_its_consequences_are_seen_together() {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&directory.path().join("state.redb")).unwrap();
        let follow: Reconciler = Box::new(|draft, _| {
            let missing = draft.one::<Cluster>(cluster("one").arn.as_str()).is_some()
                && draft.one::<Cluster>(cluster("consequence").arn.as_str()).is_none();
            if missing {
                draft.put(cluster("consequence"));
            }
            None
        });
        let handle = start(Box::new(store), vec![follow]);
        handle.execute(create, caller(), json!("one")).await.unwrap();
        let committed = handle.committed().borrow().clone();
        assert_eq!((committed.state.clusters.len(), committed.generation), (2, 1));
    }
}
