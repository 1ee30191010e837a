//! Asks every target of every group in use, and publishes.
//!
//! One task per target waits, asks and hands the outcome to the target's machine. The table is published after each
//! change: to the load balancer's workers, to the packet path, and as reports to control.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use rustls::ClientConfig;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};

use super::{
    check::Check,
    machine::{Machine, unchecked, unused},
    memory,
};
use crate::{
    identity::{listener_tls, tls::TlsError},
    model::{
        id::{Arn, TimestampMs},
        load_balancer::{Action, LoadBalancerKind},
        target_group::{TargetHealth, TargetHealthState, TargetKey},
    },
    snapshot::{
        node::{LoadBalancerView, NodeSlice, TargetGroupView},
        permit,
        report::Report,
        verdict::{Verdict, Verdicts},
    },
    telemetry::{Metrics, Name, name},
};

/// One node's prober. Dropping it ends the checks.
pub struct Prober {
    shared: Arc<Shared>,
    tasks: HashMap<Registration, (Check, JoinHandle<()>)>,
    keeper: Option<JoinHandle<()>>,
}

/// One registration of a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Registration {
    group: Arn,
    target: TargetKey,
    registered_at: TimestampMs,
}

struct Shared {
    state: Mutex<State>,
    table: watch::Sender<Arc<Verdicts>>,
    reports: mpsc::Sender<Report>,
    /// To targets that are asked over HTTPS.
    tls: Arc<ClientConfig>,
    turns: Semaphore,
    metrics: Arc<Metrics>,
    checks: Counter,
    reports_lost: Counter,
}

#[derive(Default)]
struct State {
    machines: BTreeMap<Registration, Machine>,
    /// Verdicts that need no machine: unused and unchecked.
    fixed: BTreeMap<Registration, TargetHealth>,
    reported: BTreeMap<Registration, TargetHealth>,
    /// Names and protocols, for metrics.
    groups: BTreeMap<Arn, (String, String)>,
    /// From before the restart.
    remembered: Verdicts,
}

impl Prober {
    /// Starts without targets. With a state directory the last verdicts are kept there, and hold again after a restart.
    ///
    /// Checks run on the caller's runtime, in the network namespace of its threads.
    ///
    /// # Errors
    /// When there is no TLS to ask targets by.
    pub fn start(
        state_dir: Option<&Path>,
        reports: mpsc::Sender<Report>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let file = state_dir.map(memory::file_in);
        let remembered = file.as_deref().map(memory::read).unwrap_or_default();
        let (table, published) = watch::channel(Arc::new(Verdicts::default()));
        let shared = Arc::new(Shared {
            state: Mutex::new(State { remembered, ..State::default() }),
            table,
            reports,
            tls: listener_tls::to_targets(None)?,
            turns: Semaphore::new(MOST_CHECKS),
            checks: metrics.counter(name::HEALTH_CHECKS, &Vec::new()),
            reports_lost: metrics.counter(name::REPORTS_LOST, &vec![("From", "prober".to_owned())]),
            metrics,
        });
        let keeper = file.map(|file| tokio::spawn(keep(file, published)));
        Ok(Self { shared, tasks: HashMap::new(), keeper })
    }

    /// The table, now and after each change.
    pub fn verdicts(&self) -> watch::Receiver<Arc<Verdicts>> {
        self.shared.table.subscribe()
    }

    /// Every verdict as a report: what control is told after it was away.
    pub fn reports(&self) -> Vec<Report> {
        let table = self.shared.table.borrow().clone();
        let entries = table.groups.iter().flat_map(|(arn, group)| {
            group.iter().map(|(target, verdict)| Report::TargetHealth {
                target_group: arn.clone(),
                target: target.clone(),
                registered_at: verdict.registered_at,
                health: verdict.health.clone(),
            })
        });
        entries.collect()
    }

    /// Checks the targets of `slice` from now on. Targets that stay keep their verdict and their rhythm.
    pub fn apply(&mut self, slice: &NodeSlice) {
        let users = users(slice);
        let mut wanted = HashMap::new();
        let mut state = self.shared.state();
        state.fixed.clear();
        let groups_before = std::mem::take(&mut state.groups);
        for (arn, group) in &slice.target_groups {
            state.groups.insert(arn.clone(), (group.name.clone(), group.protocol.clone()));
            for target in group.targets.values().filter(|target| target.draining_until.is_none()) {
                let registration = Registration {
                    group: arn.clone(),
                    target: target.key.clone(),
                    registered_at: target.registered_at,
                };
                if !group.in_use {
                    state.fixed.insert(registration, unused());
                } else if !is_checked(group) {
                    state.fixed.insert(registration, unchecked());
                } else {
                    let port = group.health_check.port.parse().unwrap_or(target.key.port);
                    let address = SocketAddr::from((target.address, port));
                    let is_barred = users.get(arn).is_some_and(|user| {
                        user.kind == LoadBalancerKind::Network && !slice.may_send(user, permit::TCP, address)
                    });
                    let check = Check {
                        target: address,
                        is_barred,
                        source: users.get(arn).and_then(|user| source(slice, user, group, target.address)),
                        has_header: group.is_on("proxy_protocol_v2.enabled"),
                        settings: group.health_check.clone(),
                    };
                    wanted.insert(registration, check);
                }
            }
        }
        for gone in groups_before.into_values().filter(|own| !state.groups.values().any(|group| group == own))
        {
            self.shared.forget(&gone);
        }
        self.tasks.retain(|registration, (check, task)| {
            let kept = wanted.get(registration) == Some(check);
            if !kept {
                task.abort();
            }
            kept
        });
        state.machines.retain(|registration, _| wanted.contains_key(registration));
        for registration in wanted.keys() {
            if !state.machines.contains_key(registration) {
                let machine = state.recall(registration).map_or_else(Machine::new, Machine::restored);
                state.machines.insert(registration.clone(), machine);
            }
        }
        let known: Vec<Registration> = state.machines.keys().chain(state.fixed.keys()).cloned().collect();
        state.reported.retain(|registration, _| known.contains(registration));
        self.shared.publish(&mut state);
        let random = RandomState::new();
        for (registration, check) in wanted {
            if self.tasks.contains_key(&registration) {
                continue;
            }
            // A new target should serve soon; one with a verdict keeps its place among many.
            let is_new = state
                .machines
                .get(&registration)
                .is_none_or(|machine| machine.health().state == TargetHealthState::Initial);
            let spread = if is_new { FIRST } else { interval(&check) };
            let delay = jitter(random.hash_one(&registration), spread);
            let task = watch_target(self.shared.clone(), registration.clone(), check.clone(), delay);
            self.tasks.insert(registration, (check, tokio::spawn(task)));
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        for (_, task) in self.tasks.values() {
            task.abort();
        }
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

impl State {
    /// The verdict from before the restart; an initial one is none.
    fn recall(&self, registration: &Registration) -> Option<TargetHealth> {
        let verdict = self.remembered.groups.get(&registration.group)?.get(&registration.target)?;
        let counts = verdict.registered_at == registration.registered_at
            && matches!(verdict.health.state, TargetHealthState::Healthy | TargetHealthState::Unhealthy);
        counts.then(|| verdict.health.clone())
    }

    fn verdicts(&self) -> impl Iterator<Item = (&Registration, &TargetHealth)> {
        let machines = self.machines.iter().map(|(registration, machine)| (registration, machine.health()));
        machines.chain(&self.fixed)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the table if it changed, and reports what control has not been told.
    fn publish(&self, state: &mut State) {
        let mut groups: BTreeMap<Arn, BTreeMap<TargetKey, Verdict>> = BTreeMap::new();
        for (registration, health) in state.verdicts() {
            let verdict = Verdict { registered_at: registration.registered_at, health: health.clone() };
            groups
                .entry(registration.group.clone())
                .or_default()
                .insert(registration.target.clone(), verdict);
        }
        let before = self.table.borrow().clone();
        let groups = groups
            .into_iter()
            .map(|(arn, group)| match before.groups.get(&arn) {
                Some(same) if **same == group => (arn, same.clone()),
                _ => (arn, Arc::new(group)),
            })
            .collect();
        let table = Verdicts { groups };
        if table != *before {
            self.count(state, &table);
            self.table.send_replace(Arc::new(table));
        }
        self.report(state);
    }

    fn report(&self, state: &mut State) {
        let untold: Vec<_> = state
            .verdicts()
            .filter(|(registration, health)| state.reported.get(registration) != Some(health))
            .map(|(registration, health)| (registration.clone(), health.clone()))
            .collect();
        for (registration, health) in untold {
            let report = Report::TargetHealth {
                target_group: registration.group.clone(),
                target: registration.target.clone(),
                registered_at: registration.registered_at,
                health: health.clone(),
            };
            if self.reports.try_send(report).is_err() {
                // Told again after the next check.
                self.reports_lost.inc();
                return;
            }
            state.reported.insert(registration, health);
        }
    }

    /// Forgets how many targets of a group pass: it is gone.
    fn forget(&self, (group, protocol): &(String, String)) {
        let (healthy, unhealthy) = host_counts(protocol);
        for name in [healthy, unhealthy] {
            self.metrics.remove(name, &vec![("TargetGroup", group.clone())]);
        }
    }

    fn count(&self, state: &State, table: &Verdicts) {
        for (arn, (group, protocol)) in &state.groups {
            let verdicts = table.groups.get(arn);
            let count = |wanted: TargetHealthState| {
                let all = verdicts.iter().flat_map(|group| group.values());
                let matching = all.filter(|verdict| verdict.health.state == wanted).count();
                i64::try_from(matching).unwrap_or(i64::MAX)
            };
            let (healthy, unhealthy) = host_counts(protocol);
            let labels = vec![("TargetGroup", group.clone())];
            self.metrics.gauge(healthy, &labels).set(count(TargetHealthState::Healthy));
            self.metrics.gauge(unhealthy, &labels).set(count(TargetHealthState::Unhealthy));
        }
    }
}

/// AWS's names for targets that pass their checks, and for those that fail them.
fn host_counts(protocol: &str) -> (Name, Name) {
    if protocol.starts_with("HTTP") {
        (name::ALB_HEALTHY_HOSTS, name::ALB_UNHEALTHY_HOSTS)
    } else {
        (name::NLB_HEALTHY_HOSTS, name::NLB_UNHEALTHY_HOSTS)
    }
}

/// Asks one target for ever.
async fn watch_target(shared: Arc<Shared>, registration: Registration, check: Check, delay: Duration) {
    tokio::time::sleep(delay).await;
    let mut ticks = tokio::time::interval(interval(&check));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let outcome = {
            // Closed never: the prober holds it as long as this task.
            let _turn = shared.turns.acquire().await;
            check.run(&shared.tls).await
        };
        shared.checks.inc();
        let mut state = shared.state();
        let Some(machine) = state.machines.get_mut(&registration) else { return };
        if machine.observe(outcome, &check.settings) {
            tracing::info!(
                target_group = %registration.group,
                target = %registration.target,
                state = machine.health().state.as_str(),
                reason = machine.health().reason.as_deref(),
                "target health changed"
            );
            shared.publish(&mut state);
        } else {
            shared.report(&mut state);
        }
    }
}

/// Writes the table when it has changed, at most once a second.
async fn keep(file: PathBuf, mut published: watch::Receiver<Arc<Verdicts>>) {
    while published.changed().await.is_ok() {
        let table = published.borrow_and_update().clone();
        let target = file.clone();
        match tokio::task::spawn_blocking(move || memory::write(&target, &table)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(file = %file.display(), %error, "verdicts could not be kept");
            }
            Err(_) => return,
        }
        tokio::time::sleep(KEEP).await;
    }
}

/// For each group that is in use, a load balancer that uses it.
fn users(slice: &NodeSlice) -> BTreeMap<&Arn, &LoadBalancerView> {
    let mut users = BTreeMap::new();
    for listener in slice.listeners.values() {
        let Some(load_balancer) = slice.load_balancers.get(&listener.load_balancer) else { continue };
        let actions = listener.rules.iter().flat_map(|rule| &rule.actions).chain(&listener.default_actions);
        for action in actions {
            if let Action::Forward(groups) = action {
                for group in groups {
                    users.entry(&group.target_group_arn).or_insert(load_balancer);
                }
            }
        }
    }
    users
}

/// From which of the node's addresses a target is asked: one of the load balancer's, unless the targets have those
/// themselves, and would answer themselves.
fn source(
    slice: &NodeSlice,
    user: &LoadBalancerView,
    group: &TargetGroupView,
    target: IpAddr,
) -> Option<IpAddr> {
    if group.answers_itself() {
        // On a host the kernel chooses the host's own.
        return slice.resolver.as_ref().filter(|_| !slice.is_on_host()).map(|own| own.address.into());
    }
    let beside = slice.is_on_host().then(|| user.address_beside(target)).flatten();
    beside.or_else(|| user.interfaces.values().next().and_then(|interface| interface.address_towards(target)))
}

/// Whether anybody asks: it is enabled, and by a protocol that can be asked.
fn is_checked(group: &TargetGroupView) -> bool {
    group.health_check.enabled && matches!(group.health_check.protocol.as_str(), "HTTP" | "HTTPS" | "TCP")
}

fn interval(check: &Check) -> Duration {
    Duration::from_secs(u64::from(check.settings.interval_s.max(1)))
}

/// A point in `spread`, by a random number.
fn jitter(random: u64, spread: Duration) -> Duration {
    let millis = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(random % millis)
}

/// Checks at once, over all targets: connections, each open for at most a timeout.
const MOST_CHECKS: usize = 256;
/// Within which the first check of a new target begins.
const FIRST: Duration = Duration::from_millis(200);
/// Between two writings of the file.
const KEEP: Duration = Duration::from_secs(1);
