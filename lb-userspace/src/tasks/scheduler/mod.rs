//! The scheduler: what must change so that every service has its tasks and every task its registrations.
//!
//! Before it: an operation or a report changed a draft of the state. It edits the same draft: tasks placed and stopped,
//! targets and instances registered and withdrawn, operations ended. After it: the draft is committed, and the next
//! generation of the snapshot tells the hosts and the data planes. It is pure: `draft.now()` is the time, and it says
//! when it wants to be run again.
//!
//! A task stops in ECS's order, with the one thing added whose absence loses requests on AWS: it gets SIGTERM only
//! after every data plane has applied the generation that no longer has it.
//!
//! ```text
//! PROVISIONING ─▶ PENDING ─▶ ACTIVATING ─▶ RUNNING ─▶ DEACTIVATING ─▶ STOPPING ─▶ STOPPED
//!   placed        host        register     serving    withdrawn, draining; then     gone
//!                 starts it   everywhere              acknowledged      SIGTERM …
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    State,
    discovery::{DiscoveryInstance, Operation},
    id::{Arn, TimestampMs},
    state::Draft,
    task::{EcsService, ServiceEvent, Task, TaskDefinition, TaskStatus},
};

/// One task's way from placed to gone, and what hosts report of it.
mod lifecycle;
/// Where a running task is known: targets and Cloud Map instances.
mod registration;
/// How many tasks a service has too few or too many, by deployment.
mod service;
#[cfg(test)]
mod tests;

pub use lifecycle::apply_report;

/// Brings the draft's services, tasks, registrations and operations forward as far as they can go now; answers when it
/// must be run again even if nothing happens until then.
///
/// Run it on the draft of every operation and report before that draft is committed (once per group of them is enough),
/// whenever `acknowledged` rises, and at the time it answered.
///
/// - `generation`: the one that the commit of this draft will have. Generations never fall, not even over a restart of
///   control.
/// - `acknowledged`: the lowest generation that every connected gateway, link and node has applied. One whose slice did
///   not change counts as having applied; with none connected nobody is waited for, and it is the highest number there
///   is. A data plane that is not connected cannot be waited for; the drain is what protects its clients.
pub fn reconcile(draft: &mut Draft, acknowledged: u64, generation: u64) -> Option<TimestampMs> {
    let mut round = Round { draft, acknowledged, generation, wake: None };
    round.expire();
    round.advance_tasks();
    round.reconcile_services();
    round.advance_tasks();
    round.finish_operations();
    round.wake
}

/// The definition with this ARN.
pub(super) fn definition<'a>(state: &'a State, arn: &Arn) -> Option<&'a Arc<TaskDefinition>> {
    let (family, revision) = arn.resource().strip_prefix("task-definition/")?.rsplit_once(':')?;
    state.task_definitions.get(&format!("{family}:{:08}", revision.parse::<u32>().ok()?))
}

/// One run of the scheduler.
struct Round<'a> {
    draft: &'a mut Draft,
    acknowledged: u64,
    generation: u64,
    wake: Option<TimestampMs>,
}

impl Round<'_> {
    fn now(&self) -> TimestampMs {
        self.draft.now()
    }

    /// Whether `at` has come; if not, asks to be run then.
    fn is_due(&mut self, at: TimestampMs) -> bool {
        let due = at <= self.now();
        if !due {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
        due
    }

    /// Whether every data plane has applied `generation`, or had the time to.
    fn is_acknowledged(&mut self, generation: u64, since: TimestampMs) -> bool {
        self.acknowledged >= generation || self.is_due(since.saturating_add(ACKNOWLEDGE_LIMIT_MS))
    }

    /// Removes what is over: drained instances, and stopped tasks, inactive services and operations that were kept long
    /// enough. Drained targets are removed by the operations on targets.
    fn expire(&mut self) {
        let mut instances = self.due_rows::<DiscoveryInstance>(|instance| instance.draining_until);
        // A task that is being withdrawn takes its instances along when it has stopped.
        let withdrawn = self.withdrawn_instances();
        instances.retain(|key| !withdrawn.contains(key));
        instances.iter().for_each(|key| _ = self.draft.remove::<DiscoveryInstance>(key));

        for key in self.due_rows::<Task>(|task| Some(task.stopped_at? + STOPPED_KEPT_MS)) {
            self.draft.remove::<Task>(&key);
        }
        self.bound_rows::<Task>(STOPPED_LIMIT, |task| task.stopped_at);
        for key in self.due_rows::<EcsService>(|service| Some(service.inactive_since? + STOPPED_KEPT_MS)) {
            self.draft.remove::<EcsService>(&key);
        }
        for key in self.due_rows::<Operation>(|operation| Some(finished_at(operation)? + OPERATION_KEPT_MS)) {
            self.draft.remove::<Operation>(&key);
        }
        self.bound_rows::<Operation>(OPERATION_LIMIT, finished_at);
    }

    fn due_rows<T: crate::model::Resource>(&mut self, at: impl Fn(&T) -> Option<TimestampMs>) -> Vec<String> {
        let timed: Vec<(String, TimestampMs)> =
            self.draft.all::<T>().filter_map(|row| at(row).map(|at| (row.key(), at))).collect();
        timed.into_iter().filter(|(_, at)| self.is_due(*at)).map(|(key, _)| key).collect()
    }

    /// Keeps at most `limit` of the rows that have an end, the newest.
    fn bound_rows<T: crate::model::Resource>(
        &mut self,
        limit: usize,
        ended: impl Fn(&T) -> Option<TimestampMs>,
    ) {
        let mut rows: Vec<(TimestampMs, String)> =
            self.draft.all::<T>().filter_map(|row| Some((ended(row)?, row.key()))).collect();
        if rows.len() > limit {
            rows.sort_unstable_by(|a, b| b.cmp(a));
            rows.iter().skip(limit).for_each(|(_, key)| _ = self.draft.remove::<T>(key));
        }
    }

    /// Ends operations whose change the data planes have applied.
    fn finish_operations(&mut self) {
        let open: Vec<Arc<Operation>> =
            self.draft.all::<Operation>().filter(|row| finished_at(row).is_none()).cloned().collect();
        for operation in open {
            let Some(generation) = operation.waits_for_generation else {
                let generation = self.generation;
                self.is_due(operation.created_at.saturating_add(ACKNOWLEDGE_LIMIT_MS));
                self.draft.edit::<Operation>(&operation.id, |row| {
                    row.status = "PENDING".to_owned();
                    row.waits_for_generation = Some(generation);
                });
                continue;
            };
            let applied = self.acknowledged >= generation;
            if !applied && !self.is_due(operation.created_at.saturating_add(ACKNOWLEDGE_LIMIT_MS)) {
                continue;
            }
            let now = self.now();
            self.draft.edit::<Operation>(&operation.id, |row| {
                row.updated_at = now;
                row.status = if applied { "SUCCESS" } else { "FAIL" }.to_owned();
                if !applied {
                    row.error_code = Some("INTERNAL_FAILURE".to_owned());
                    row.error_message = Some(UNACKNOWLEDGED.to_owned());
                }
            });
        }
    }

    /// Writes an event of a service, newest first.
    fn note(&mut self, service: &Arn, message: impl FnOnce(&EcsService) -> String) {
        let (id, at) = (self.draft.uuid(), self.now());
        self.draft.edit::<EcsService>(service.as_str(), |row| {
            let message = message(row);
            row.events.insert(0, ServiceEvent { id, at, message });
            row.events.truncate(EVENT_LIMIT);
        });
    }

    /// Tasks of services that have not stopped, by the service's ARN.
    fn tasks_by_service(&self) -> BTreeMap<Arn, Vec<Arc<Task>>> {
        let mut tasks: BTreeMap<Arn, Vec<Arc<Task>>> = BTreeMap::new();
        for task in self.draft.all::<Task>().filter(|task| task.last_status < TaskStatus::Stopped) {
            if let Some(service) = task.service_arn() {
                tasks.entry(service).or_default().push(Arc::clone(task));
            }
        }
        tasks
    }
}

fn finished_at(operation: &Operation) -> Option<TimestampMs> {
    matches!(operation.status.as_str(), "SUCCESS" | "FAIL").then_some(operation.updated_at)
}

/// How long a data plane may take to apply a generation before a task is stopped, or an operation fails, without it.
/// Applying takes milliseconds; one that cannot apply a generation must not keep tasks running for ever.
const ACKNOWLEDGE_LIMIT_MS: u64 = 60_000;

/// ECS keeps stopped tasks for at least an hour.
const STOPPED_KEPT_MS: u64 = 3_600_000;

/// Stopped tasks beyond this go before their hour is over, oldest first: a service that crashes must not fill the store.
const STOPPED_LIMIT: usize = 1_000;

/// Finished operations can be looked up for a day. AWS does not state how long.
const OPERATION_KEPT_MS: u64 = 86_400_000;

/// Finished operations beyond this go earlier, oldest first.
const OPERATION_LIMIT: usize = 10_000;

/// DescribeServices shows at most 100 events.
const EVENT_LIMIT: usize = 100;

const UNACKNOWLEDGED: &str =
    "Not every data plane has applied the change within 60 seconds. It is stored and applies when they do.";
