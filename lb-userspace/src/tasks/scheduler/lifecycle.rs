//! One task's way from placed to gone, and what hosts report of it.
//!
//! Before it: the service's reconciliation, RunTask or StopTask said where the task should be. After it: the host's
//! slice tells the driver to start or to stop the task.

use std::sync::Arc;

use super::{Round, definition};
use crate::model::{
    id::TimestampMs,
    network::{Instance, InstanceState},
    state::Draft,
    task::{Cluster, EcsService, Task, TaskStatus},
};
use crate::snapshot::report::Report;
use crate::tasks::placement::place;

/// Applies what a host reported of its machines and tasks; other reports, and those of what no longer exists, change
/// nothing. `reconcile` must follow on the same draft.
pub fn apply_report(draft: &mut Draft, report: &Report) {
    match report {
        Report::InstanceRunning { instance } => {
            let pending = |row: &Arc<Instance>| row.state == InstanceState::Pending;
            if draft.one::<Instance>(instance.as_str()).is_some_and(pending) {
                draft.edit::<Instance>(instance.as_str(), |row| row.state = InstanceState::Running);
            }
        }
        Report::Task { task, status, bindings, reason, exit_codes } => {
            let Some(row) = draft.one::<Task>(task.as_str()).cloned() else { return };
            let now = draft.now();
            match status {
                TaskStatus::Pending if row.last_status == TaskStatus::Provisioning => {
                    draft.edit::<Task>(task.as_str(), |row| row.last_status = TaskStatus::Pending);
                }
                TaskStatus::Running if row.last_status < TaskStatus::Activating => {
                    draft.edit::<Task>(task.as_str(), |row| {
                        row.last_status = TaskStatus::Activating;
                        row.bindings.clone_from(bindings);
                        row.started_at = Some(now);
                    });
                }
                TaskStatus::Stopped if row.last_status < TaskStatus::Stopped => {
                    let code = if row.started_at.is_some() {
                        "EssentialContainerExited"
                    } else {
                        "TaskFailedToStart"
                    };
                    let reason =
                        reason.clone().unwrap_or_else(|| "Essential container in task exited".to_owned());
                    let mut round = Round { draft, acknowledged: 0, generation: 0, wake: None };
                    round.end(&row, code, reason);
                    draft.edit::<Task>(task.as_str(), |row| row.exit_codes.clone_from(exit_codes));
                }
                _ => {}
            }
        }
        _ => {}
    }
}

impl Round<'_> {
    /// Takes every task as far as it can go now.
    pub(super) fn advance_tasks(&mut self) {
        let tasks: Vec<Arc<Task>> =
            self.draft.all::<Task>().filter(|task| task.last_status < TaskStatus::Stopped).cloned().collect();
        for task in tasks {
            let mut task = task;
            while self.advance(&task) {
                match self.draft.one::<Task>(task.arn.as_str()) {
                    Some(next) => task = Arc::clone(next),
                    None => break,
                }
            }
        }
    }

    /// Takes one step of a task's life if its time has come; answers whether it did.
    fn advance(&mut self, task: &Task) -> bool {
        let stop = task.desired_status == TaskStatus::Stopped;
        match task.last_status {
            TaskStatus::Provisioning if task.instance_id.as_str().is_empty() => {
                if stop {
                    self.end(task, "UserInitiated", "Task stopped by user".to_owned());
                    return true;
                }
                self.place(task)
            }
            _ if !stop && self.is_instance_going(task) => {
                let reason = format!("Host EC2 (instance {}) is shutting down.", task.instance_id);
                self.draft.edit::<Task>(task.arn.as_str(), |row| {
                    row.desired_status = TaskStatus::Stopped;
                    row.stopped_reason = Some(reason);
                    row.stop_code = Some("InfrastructureHealth".to_owned());
                })
            }
            // The host answers a task that it never started with Stopped.
            TaskStatus::Provisioning | TaskStatus::Pending | TaskStatus::Activating if stop => {
                self.step(task, TaskStatus::Stopping)
            }
            _ if task.last_status < TaskStatus::Stopped && self.is_instance_gone(task) => {
                self.end(
                    task,
                    "InfrastructureHealth",
                    format!("Host EC2 (instance {}) terminated.", task.instance_id),
                );
                true
            }
            TaskStatus::Activating => {
                self.register(task);
                self.step(task, TaskStatus::Running)
            }
            TaskStatus::Running if stop => {
                let registered = self.withdraw(task);
                let (now, generation) = (self.now(), self.generation);
                self.draft.edit::<Task>(task.arn.as_str(), |row| {
                    row.deactivating_since = Some(now);
                    row.withdrawn_in_generation = registered.then_some(generation);
                });
                if let Some(service) = task.service_arn().filter(|_| registered) {
                    self.note(&service, |row| {
                        format!("(service {}) has begun draining connections on 1 tasks.", row.name)
                    });
                }
                self.step(task, TaskStatus::Deactivating)
            }
            TaskStatus::Deactivating => {
                let since = task.deactivating_since.unwrap_or(0);
                let acknowledged = task
                    .withdrawn_in_generation
                    .is_none_or(|generation| self.is_acknowledged(generation, since));
                if !(self.is_drained(task) && acknowledged) {
                    return false;
                }
                self.step(task, TaskStatus::Stopping)
            }
            _ => false,
        }
    }

    fn step(&mut self, task: &Task, to: TaskStatus) -> bool {
        let now = self.now();
        self.draft.edit::<Task>(task.arn.as_str(), |row| {
            row.last_status = to;
            if to == TaskStatus::Stopping {
                row.stopping_at = Some(now);
            }
        })
    }

    /// Places a task of RunTask; one that fits nowhere has failed to start.
    fn place(&mut self, task: &Task) -> bool {
        let state = self.draft.state();
        let parts = state
            .clusters
            .get(task.cluster_arn.as_str())
            .zip(definition(state, &task.task_definition_arn))
            .map(|(cluster, definition)| (Cluster::clone(cluster), Arc::clone(definition)));
        let placed = match &parts {
            Some((cluster, definition)) => {
                place(state, cluster, definition, &task.group).map_err(|error| error.to_string())
            }
            None => Err("The cluster or the task definition does not exist.".to_owned()),
        };
        match placed {
            Ok(instance) => self.draft.edit::<Task>(task.arn.as_str(), |row| row.instance_id = instance),
            Err(reason) => {
                self.end(task, "TaskFailedToStart", reason);
                true
            }
        }
    }

    /// Whether the machine is being taken down: its tasks are drained and stopped first.
    fn is_instance_going(&self, task: &Task) -> bool {
        self.draft
            .one::<Instance>(task.instance_id.as_str())
            .is_some_and(|instance| instance.state == InstanceState::ShuttingDown)
    }

    fn is_instance_gone(&self, task: &Task) -> bool {
        self.draft.one::<Instance>(task.instance_id.as_str()).is_none_or(|instance| {
            !instance.state.is_alive() && instance.state != InstanceState::ShuttingDown
        })
    }

    /// Ends a task whose process is gone: it is known nowhere any more, without a drain, as there is nothing to drain.
    fn end(&mut self, task: &Task, code: &str, reason: String) {
        self.forget(task);
        let now = self.now();
        self.draft.edit::<Task>(task.arn.as_str(), |row| {
            row.last_status = TaskStatus::Stopped;
            row.desired_status = TaskStatus::Stopped;
            row.stopped_at = Some(now);
            row.stopped_reason.get_or_insert(reason);
            row.stop_code.get_or_insert_with(|| code.to_owned());
        });
        if task.desired_status == TaskStatus::Running {
            self.count_crash(task, now);
        }
    }

    /// Remembers that a service's task ended by itself, which slows down the next replacement if it happens again soon.
    fn count_crash(&mut self, task: &Task, now: TimestampMs) {
        let Some(service) = task.service_arn() else { return };
        let ran_ms = task.started_at.map_or(0, |started| now.saturating_sub(started));
        self.draft.edit::<EcsService>(service.as_str(), |row| {
            let recent = row.last_crash_at.is_some_and(|last| now.saturating_sub(last) < CRASH_MEMORY_MS);
            row.crash_streak = match (ran_ms < LONG_RUN_MS, recent) {
                (true, true) => row.crash_streak.saturating_add(1),
                _ => 1,
            };
            row.last_crash_at = Some(now);
            row.is_steady = false;
            let deployment = row
                .deployments
                .iter_mut()
                .find(|deployment| Some(&deployment.id) == task.started_by.as_ref());
            if let Some(deployment) = deployment {
                deployment.failed_tasks = deployment.failed_tasks.saturating_add(1);
                deployment.updated_at = now;
            }
        });
    }
}

/// A task that ran at least this long did not crash at start; its replacement is not slowed down.
const LONG_RUN_MS: u64 = 60_000;

/// A service without a crash for this long has recovered. Longer than the longest pause between two starts.
const CRASH_MEMORY_MS: u64 = 300_000;
