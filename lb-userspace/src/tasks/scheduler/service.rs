//! How many tasks a service has too few or too many, by deployment.
//!
//! Before it: tasks stand where hosts reported them. After it: missing tasks are placed and surplus ones are on their
//! way out. A rolling deployment starts new tasks up to the maximum percent, and lets old ones go only while the minimum
//! healthy percent of ready tasks stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Round, definition};
use crate::model::{
    id::{Arn, InstanceId, TimestampMs},
    task::{Cluster, EcsService, Task, TaskStatus},
};
use crate::tasks::placement::place;

impl Round<'_> {
    pub(super) fn reconcile_services(&mut self) {
        let mut tasks = self.tasks_by_service();
        for service in self.kept_services() {
            let mut live = tasks.remove(&service.arn).unwrap_or_default();
            live.retain(|task| task.desired_status == TaskStatus::Running);
            let (new, old): (Vec<_>, Vec<_>) = live.into_iter().partition(|task| {
                service
                    .deployments
                    .first()
                    .is_some_and(|primary| task.started_by.as_ref() == Some(&primary.id))
            });
            self.stop_surplus(&service, &new, &old);
            self.start_missing(&service, &new, &old);
        }
        let mut tasks = self.tasks_by_service();
        for service in self.kept_services() {
            self.settle(&service, &tasks.remove(&service.arn).unwrap_or_default());
        }
    }

    fn kept_services(&self) -> Vec<Arc<EcsService>> {
        self.draft.all::<EcsService>().filter(|row| row.status != "INACTIVE").cloned().collect()
    }

    fn start_missing(&mut self, service: &EcsService, new: &[Arc<Task>], old: &[Arc<Task>]) {
        let desired = wanted(service);
        let most = desired.max(percent(desired, service.maximum_percent, 0));
        let count = desired.saturating_sub(new.len()).min(most.saturating_sub(new.len() + old.len()));
        if count == 0 {
            return;
        }
        let earliest =
            service.last_crash_at.map_or(0, |last| last.saturating_add(pause_ms(service.crash_streak)));
        if !self.is_due(earliest) {
            return;
        }
        let Some(primary) = service.deployments.first() else { return };
        let (mut started, mut unplaced) = (Vec::new(), None);
        for _ in 0..count {
            match self.placed(service, &primary.task_definition_arn) {
                Ok(instance) => started.push(self.start(service, instance)),
                Err(reason) => {
                    unplaced = Some(reason);
                    break;
                }
            }
        }
        if !started.is_empty() {
            self.draft.edit::<EcsService>(service.arn.as_str(), |row| row.is_steady = false);
            self.note(&service.arn, |row| {
                format!("(service {}) has started {} tasks: {}.", row.name, started.len(), started.join(" "))
            });
        }
        // Last, so that the newest event says what is still the case.
        if let Some(reason) = unplaced {
            self.note_unplaced(service, &reason);
        }
    }

    fn placed(&self, service: &EcsService, definition_arn: &Arn) -> Result<InstanceId, String> {
        let state = self.draft.state();
        let cluster: &Cluster =
            state.clusters.get(service.cluster_arn.as_str()).ok_or("The cluster does not exist.")?;
        let definition = definition(state, definition_arn).ok_or("The task definition does not exist.")?;
        place(state, cluster, definition, &group(service)).map_err(|error| error.to_string())
    }

    /// Creates a task on an instance; answers its name for the event.
    fn start(&mut self, service: &EcsService, instance_id: InstanceId) -> String {
        let id = self.draft.hex(32);
        let task = Task {
            arn: task_arn(&service.cluster_arn, &id),
            cluster_arn: service.cluster_arn.clone(),
            task_definition_arn: service.task_definition_arn.clone(),
            group: group(service),
            started_by: service.deployments.first().map(|primary| primary.id.clone()),
            instance_id,
            last_status: TaskStatus::Provisioning,
            desired_status: TaskStatus::Running,
            bindings: Vec::new(),
            created_at: self.now(),
            started_at: None,
            deactivating_since: None,
            withdrawn_in_generation: None,
            stopping_at: None,
            stopped_at: None,
            stopped_reason: None,
            stop_code: None,
            exit_codes: BTreeMap::new(),
            tags: Vec::new(),
        };
        self.draft.put(task);
        format!("(task {id})")
    }

    fn note_unplaced(&mut self, service: &EcsService, reason: &str) {
        let message = format!(
            "(service {}) was unable to place a task because no container instance met all of its requirements. Reason: {reason}",
            service.name
        );
        let said = self
            .draft
            .one::<EcsService>(service.arn.as_str())
            .is_some_and(|row| row.events.first().is_some_and(|event| event.message == message));
        if !said {
            self.draft.edit::<EcsService>(service.arn.as_str(), |row| row.is_steady = false);
            self.note(&service.arn, |_| message);
        }
    }

    fn stop_surplus(&mut self, service: &EcsService, new: &[Arc<Task>], old: &[Arc<Task>]) {
        let desired = wanted(service);
        // Those that do not serve yet go first, then the newest: what has warmed up stays.
        let mut by_use: Vec<&Arc<Task>> = new.iter().collect();
        by_use.sort_by_key(|task| {
            (task.last_status == TaskStatus::Running, std::cmp::Reverse(task.created_at))
        });
        let mut stopped: Vec<&Arc<Task>> =
            by_use.into_iter().take(new.len().saturating_sub(desired)).collect();

        let (serving, not_serving): (Vec<_>, Vec<_>) =
            old.iter().partition(|task| task.last_status == TaskStatus::Running);
        stopped.extend(not_serving);
        let ready = new.iter().filter(|task| self.is_ready(task)).count().min(desired);
        let least = percent(desired, service.minimum_healthy_percent, 99);
        let spare = (ready + serving.len()).saturating_sub(least);
        stopped.extend(serving.into_iter().take(spare));
        if stopped.is_empty() {
            return;
        }
        for task in &stopped {
            self.draft.edit::<Task>(task.arn.as_str(), |row| {
                row.desired_status = TaskStatus::Stopped;
                row.stopped_reason = Some(format!(
                    "Scaling activity initiated by (deployment {})",
                    row.started_by.clone().unwrap_or_default()
                ));
                row.stop_code = Some("ServiceSchedulerInitiated".to_owned());
            });
        }
        let names: Vec<String> = stopped.iter().map(|task| format!("(task {})", task.id())).collect();
        self.note(&service.arn, |row| {
            format!("(service {}) has stopped {} running tasks: {}.", row.name, names.len(), names.join(" "))
        });
    }

    /// Lets go of deployments without tasks, says when the service is steady, and ends a service that is being deleted.
    fn settle(&mut self, service: &EcsService, tasks: &[Arc<Task>]) {
        let now = self.now();
        if service.status == "DRAINING" {
            if tasks.is_empty() {
                self.draft.edit::<EcsService>(service.arn.as_str(), |row| {
                    row.status = "INACTIVE".to_owned();
                    row.inactive_since = Some(now);
                    row.deployments.clear();
                });
            }
            return;
        }
        let Some(primary) = service.deployments.first() else { return };
        let has_tasks = |id: &str| tasks.iter().any(|task| task.started_by.as_deref() == Some(id));
        if service.deployments.iter().skip(1).any(|old| !has_tasks(&old.id)) {
            self.draft.edit::<EcsService>(service.arn.as_str(), |row| {
                row.deployments.retain(|deployment| deployment.id == primary.id || has_tasks(&deployment.id));
            });
        }
        let kept = tasks.iter().filter(|task| task.desired_status == TaskStatus::Running);
        let serving: Vec<_> = kept
            .filter(|task| {
                task.started_by.as_ref() == Some(&primary.id) && task.last_status == TaskStatus::Running
            })
            .collect();
        let alone = !service.deployments.iter().skip(1).any(|old| has_tasks(&old.id));
        let steady = serving.len() == wanted(service) && alone;
        if !steady && service.is_steady {
            self.draft.edit::<EcsService>(service.arn.as_str(), |row| row.is_steady = false);
        }
        if steady && !service.is_steady {
            let completes = !primary.is_complete;
            self.draft.edit::<EcsService>(service.arn.as_str(), |row| {
                row.is_steady = true;
                if let Some(primary) = row.deployments.first_mut() {
                    primary.is_complete = true;
                    primary.failed_tasks = 0;
                    primary.updated_at = now;
                }
            });
            if completes {
                self.note(&service.arn, |row| {
                    format!("(service {}) (deployment {}) deployment completed.", row.name, primary.id)
                });
            }
            self.note(&service.arn, |row| format!("(service {}) has reached a steady state.", row.name));
        }
    }
}

/// How many tasks a service wants now.
fn wanted(service: &EcsService) -> usize {
    if service.status == "ACTIVE" { usize::try_from(service.desired_count).unwrap_or(usize::MAX) } else { 0 }
}

/// `percent` of `count`; `round_up` is 99 to round up and 0 to round down.
fn percent(count: usize, percent: u32, round_up: usize) -> usize {
    count.saturating_mul(usize::try_from(percent).unwrap_or(usize::MAX)).saturating_add(round_up) / 100
}

fn group(service: &EcsService) -> String {
    format!("service:{}", service.name)
}

fn task_arn(cluster: &Arn, id: &str) -> Arn {
    Arn(format!("{}/{id}", cluster.0.replacen(":cluster/", ":task/", 1)))
}

/// How long after the last crash the next task is started: at once after the first, then 1 s, doubling up to a minute.
/// ECS throttles a service whose tasks repeatedly fail to start too, without stating by how much.
fn pause_ms(crash_streak: u32) -> TimestampMs {
    const FIRST_MS: u64 = 1_000;
    const LONGEST_MS: u64 = 60_000;
    // Beyond 2^6 s the longest pause is reached anyway.
    match crash_streak {
        0 | 1 => 0,
        streak => (FIRST_MS << (streak - 2).min(6)).min(LONGEST_MS),
    }
}
