//! Where a running task is known: targets of its service's target groups, and instances of its Cloud Map services.
//!
//! Before it: the host reported the ports that it picked. After it: nodes and gateways send requests; or, withdrawn,
//! finish what they have.

use std::collections::BTreeSet;

use super::{ACKNOWLEDGE_LIMIT_MS, Round, definition};
use crate::model::{
    Resource,
    discovery::{DiscoveryInstance, DiscoveryService},
    id::{Arn, TimestampMs},
    load_balancer::{Action, Listener, Rule},
    network::{Instance, Subnet},
    target_group::{Draining, Target, TargetGroup, TargetHealth, TargetHealthState, TargetKey},
    task::{EcsService, PortBinding, ServiceLoadBalancer, Task, TaskStatus},
};
use crate::snapshot::discovery::drain_ms;

impl Round<'_> {
    /// Registers a task with every target group and Cloud Map service of its service. A group or service that no
    /// longer exists is left out: the rest of the task serves.
    pub(super) fn register(&mut self, task: &Task) {
        let Some(service) = self.service_of(task) else { return };
        let Some(instance) = self.draft.one::<Instance>(task.instance_id.as_str()).cloned() else { return };
        let targets = self.target_keys(&service, task);
        let zone = self.draft.one::<Subnet>(instance.subnet_id.as_str()).map(|subnet| subnet.zone.clone());
        for (group, key) in targets {
            let Some(family) = self.draft.one::<TargetGroup>(group.as_str()).map(|row| row.ip_address_type)
            else {
                self.note(&service.arn, |row| {
                    format!("(service {}) was unable to register targets in (target-group {group}): it does not exist", row.name)
                });
                continue;
            };
            let Some(address) = self.draft.state().instance_address(&instance, family) else {
                self.note(&service.arn, |row| {
                    format!("(service {}) was unable to register targets in (target-group {group}): {} has no IPv6 address", row.name, instance.id)
                });
                continue;
            };
            let mut target = Target {
                target_group_arn: group.clone(),
                key,
                address,
                zone: zone.clone(),
                server_id: None,
                registered_at: self.now(),
                draining: None,
                health: TargetHealth::registering(),
            };
            // The time of registration tells one registration of a key from the next.
            if let Some(before) = self.draft.one::<Target>(&target.key()) {
                target.registered_at = target.registered_at.max(before.registered_at + 1);
            }
            self.draft.put(target);
            self.note(&service.arn, |row| {
                format!("(service {}) registered 1 targets in (target-group {group})", row.name)
            });
        }
        for (service_id, port) in self.registry_ports(&service, task) {
            let mut attributes = self.identity_attributes(&service, task, &instance, zone.as_deref());
            if let Some(port) = port {
                attributes.push(("AWS_INSTANCE_PORT", port.to_string()));
            }
            self.draft.put(DiscoveryInstance {
                service_id: service_id.clone(),
                id: task.id().to_owned(),
                attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
                creator_request_id: None,
                healthy: true,
                draining_until: None,
            });
            self.raise_revision(&service_id);
        }
    }

    /// Withdraws a task everywhere: it gets nothing new and finishes what it has. Answers whether it was registered.
    ///
    /// Its targets drain until it has stopped, and not only for the deregistration delay, which is what is waited for
    /// before SIGTERM: when the task then closes its idle connections, clients must hear of it. What the targets are
    /// given here is the longest that this can take.
    pub(super) fn withdraw(&mut self, task: &Task) -> bool {
        let now = self.now();
        let mut withdrawn = false;
        let stop_ms = definition(self.draft.state(), &task.task_definition_arn)
            .and_then(|definition| {
                definition.containers.iter().map(|container| container.stop_timeout_s).max()
            })
            .map_or(0, |seconds| u64::from(seconds) * 1_000);
        let after_delay_ms = ACKNOWLEDGE_LIMIT_MS + stop_ms + STOP_MARGIN_MS;
        for (group, key) in self.registered_targets(task) {
            let drains_ms = self.delay_ms(&group).saturating_add(after_delay_ms);
            self.draft.edit::<Target>(&key, |target| {
                if target.draining.is_none() {
                    target.draining = Some(Draining { since: now, until: now.saturating_add(drains_ms) });
                    target.health = TargetHealth {
                        state: TargetHealthState::Draining,
                        reason: Some("Target.DeregistrationInProgress".to_owned()),
                        description: Some("Target deregistration is in progress".to_owned()),
                    };
                }
            });
            withdrawn = true;
            if let Some(service) = task.service_arn() {
                self.note(&service, |row| {
                    format!("(service {}) deregistered 1 targets in (target-group {group})", row.name)
                });
            }
        }
        for (service_id, key) in self.registered_instances(task) {
            let until = now.saturating_add(drain_ms(self.draft.state(), &service_id));
            let mut changed = false;
            self.draft.edit::<DiscoveryInstance>(&key, |instance| {
                changed = instance.draining_until.is_none();
                instance.draining_until.get_or_insert(until);
            });
            if changed {
                self.raise_revision(&service_id);
            }
            withdrawn = true;
        }
        withdrawn
    }

    /// Whether everything that a withdrawn task was registered as has drained: the node said so, or the time is over.
    pub(super) fn is_drained(&mut self, task: &Task) -> bool {
        let mut over: Vec<TimestampMs> = Vec::new();
        for (group, key) in self.registered_targets(task) {
            let since = self.draft.one::<Target>(&key).and_then(|row| row.draining).map(|row| row.since);
            over.extend(since.map(|since| since.saturating_add(self.delay_ms(&group))));
        }
        for (_, key) in self.registered_instances(task) {
            over.extend(self.draft.one::<DiscoveryInstance>(&key).and_then(|row| row.draining_until));
        }
        over.into_iter().max().is_none_or(|over| self.is_due(over))
    }

    fn delay_ms(&self, group: &Arn) -> u64 {
        self.draft.one::<TargetGroup>(group.as_str()).map_or(0, |group| group.deregistration_delay_ms())
    }

    /// Forgets everything that a task was registered as: at once, but for targets that have drained. Those stay for a
    /// moment in which the kernel of a stopped task's machine answers what was on its way to it.
    pub(super) fn forget(&mut self, task: &Task) {
        let lingers_until = self.now().saturating_add(LINGER_MS);
        for (_, key) in self.registered_targets(task) {
            let draining = self.draft.one::<Target>(&key).and_then(|row| row.draining);
            match draining {
                Some(draining) if task.last_status == TaskStatus::Stopping => {
                    let until = draining.until.min(lingers_until);
                    self.draft
                        .edit::<Target>(&key, |row| row.draining = Some(Draining { until, ..draining }));
                }
                _ => _ = self.draft.remove::<Target>(&key),
            }
        }
        for (service_id, key) in self.registered_instances(task) {
            let discoverable =
                self.draft.one::<DiscoveryInstance>(&key).is_some_and(|row| row.draining_until.is_none());
            self.draft.remove::<DiscoveryInstance>(&key);
            if discoverable {
                self.raise_revision(&service_id);
            }
        }
    }

    /// The Cloud Map instances whose task is being withdrawn and has not stopped.
    pub(super) fn withdrawn_instances(&self) -> BTreeSet<String> {
        self.draft
            .all::<Task>()
            .filter(|task| matches!(task.last_status, TaskStatus::Deactivating | TaskStatus::Stopping))
            .flat_map(|task| self.registered_instances(task).into_iter().map(|(_, key)| key))
            .collect()
    }

    /// Whether a running task counts as healthy in a deployment: its checks pass wherever somebody checks.
    pub(super) fn is_ready(&self, task: &Task) -> bool {
        task.last_status == TaskStatus::Running
            && self.registered_targets(task).iter().all(|(group, key)| {
                self.draft.one::<Target>(key).is_none_or(|target| match target.health.state {
                    TargetHealthState::Initial | TargetHealthState::Unhealthy => !self.is_in_use(group),
                    _ => true,
                })
            })
    }

    /// Whether a listener or rule forwards to the group; one that none does is not checked.
    fn is_in_use(&self, group: &Arn) -> bool {
        let forwards = |actions: &[Action]| {
            actions.iter().any(|action| match action {
                Action::Forward(groups) => groups.iter().any(|to| to.target_group_arn == *group),
                Action::FixedResponse { .. } => false,
            })
        };
        self.draft.all::<Listener>().any(|listener| forwards(&listener.default_actions))
            || self.draft.all::<Rule>().any(|rule| forwards(&rule.actions))
    }

    /// The targets that a task of a service is, by group.
    fn target_keys(&self, service: &EcsService, task: &Task) -> Vec<(Arn, TargetKey)> {
        let key_in = |balancer: &ServiceLoadBalancer| {
            let protocol = self
                .draft
                .one::<TargetGroup>(balancer.target_group_arn.as_str())
                .map(|group| &group.protocol);
            let carries = |binding: &PortBinding| match protocol.map(String::as_str) {
                Some("UDP") => binding.protocol == "udp",
                // Both protocols have one port; a group that is gone had one of them.
                Some("TCP_UDP") | None => true,
                Some(_) => binding.protocol == "tcp",
            };
            let binding = task.bindings.iter().find(|binding| {
                binding.container_name == balancer.container_name
                    && binding.container_port == balancer.container_port
                    && carries(binding)
            })?;
            let key = TargetKey { id: task.instance_id.to_string(), port: binding.host_port };
            Some((balancer.target_group_arn.clone(), key))
        };
        service.load_balancers.iter().filter_map(key_in).collect()
    }

    fn service_of(&self, task: &Task) -> Option<EcsService> {
        self.draft.one::<EcsService>(task.service_arn()?.as_str()).map(|service| EcsService::clone(service))
    }

    /// The group and the key in its table of each target that is this task.
    fn registered_targets(&self, task: &Task) -> Vec<(Arn, String)> {
        let Some(service) = self.service_of(task) else { return Vec::new() };
        self.target_keys(&service, task)
            .into_iter()
            .map(|(group, key)| {
                let row = format!("{group}|{}|{:05}", key.id, key.port);
                (group, row)
            })
            .filter(|(_, row)| self.draft.one::<Target>(row).is_some())
            .collect()
    }

    /// The Cloud Map service's id and the key in its table of each instance that is this task.
    fn registered_instances(&self, task: &Task) -> Vec<(String, String)> {
        let Some(service) = self.service_of(task) else { return Vec::new() };
        service
            .registries
            .iter()
            .filter_map(|registry| registry.registry_arn.resource().strip_prefix("service/"))
            .map(|service_id| (service_id.to_owned(), format!("{service_id}/{}", task.id())))
            .filter(|(_, row)| self.draft.one::<DiscoveryInstance>(row).is_some())
            .collect()
    }

    /// The Cloud Map services that exist, with the port to register there.
    fn registry_ports(&self, service: &EcsService, task: &Task) -> Vec<(String, Option<u16>)> {
        service
            .registries
            .iter()
            .filter_map(|registry| {
                let id = registry.registry_arn.resource().strip_prefix("service/")?;
                self.draft.one::<DiscoveryService>(id)?;
                let binding = task.bindings.iter().find(|binding| {
                    registry.container_name.as_ref().is_none_or(|name| *name == binding.container_name)
                        && registry.container_port.is_none_or(|port| port == binding.container_port)
                });
                Some((id.to_owned(), binding.map(|binding| binding.host_port).or(registry.port)))
            })
            .collect()
    }

    fn identity_attributes(
        &self,
        service: &EcsService,
        task: &Task,
        instance: &Instance,
        zone: Option<&str>,
    ) -> Vec<(&'static str, String)> {
        let parts = service.arn.parts();
        let family = task
            .task_definition_arn
            .resource()
            .strip_prefix("task-definition/")
            .and_then(|resource| resource.rsplit_once(':'));
        let mut attributes = vec![
            ("AWS_INSTANCE_IPV4", instance.address.to_string()),
            ("REGION", parts.map_or("", |parts| parts.region).to_owned()),
            ("ECS_SERVICE_NAME", service.name.clone()),
            ("ECS_CLUSTER_NAME", cluster_name(&service.cluster_arn).to_owned()),
            ("EC2_INSTANCE_ID", instance.id.to_string()),
            ("ECS_TASK_DEFINITION_FAMILY", family.map_or("", |(family, _)| family).to_owned()),
        ];
        attributes.extend(zone.map(|zone| ("AVAILABILITY_ZONE", zone.to_owned())));
        attributes
    }

    fn raise_revision(&mut self, service_id: &str) {
        self.draft.edit::<DiscoveryService>(service_id, |service| service.instances_revision += 1);
    }
}

fn cluster_name(arn: &Arn) -> &str {
    arn.resource().strip_prefix("cluster/").unwrap_or_default()
}

/// From the end of the stop timeout to the host's report: killing takes the kernel moments, a busy machine seconds.
const STOP_MARGIN_MS: u64 = 30_000;

/// How long a client may still send on a connection that its target has closed: a few retransmissions.
const LINGER_MS: u64 = 5_000;
