//! Stories of services and tasks in virtual time, with a host and data planes that answer when the story says so.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::{
    api::{Deployment, Integration, Stage},
    discovery::{DiscoveryService, Namespace, NamespaceKind},
    id::InstanceId,
    load_balancer::{Action, Listener, WeightedTargetGroup},
    network::{Instance, InstanceState, Subnet},
    target_group::{
        HealthCheck, Target, TargetAddressType, TargetGroup, TargetHealth, TargetHealthState, TargetType,
    },
    task::{
        Cluster, ContainerDefinition, PortBinding, PortMapping, ServiceDeployment, ServiceLoadBalancer,
        ServiceRegistry,
    },
};
use crate::snapshot::report::Report;

const GROUP: &str = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:targetgroup/web/0123456789abcdef";
const SERVICE: &str = "arn:aws:ecs:eu-central-1:000000000000:service/demo/web";
const CLUSTER: &str = "arn:aws:ecs:eu-central-1:000000000000:cluster/demo";

/// An appliance: control's state, and what the rest of it has been told so far.
struct World {
    state: State,
    now: TimestampMs,
    generation: u64,
    acknowledged: u64,
    wake: Option<TimestampMs>,
    turn: u64,
    next_port: u16,
}

impl World {
    /// Two instances in two zones, one task definition, one target group behind a listener, one Cloud Map service that
    /// an integration names, and no service yet.
    fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            now: 1_000_000,
            generation: 1,
            acknowledged: 1,
            wake: None,
            turn: 0,
            next_port: 32_768,
        };
        world.change(|draft| {
            draft.put(Cluster {
                arn: CLUSTER.into(),
                name: "demo".into(),
                status: "ACTIVE".into(),
                tags: vec![],
            });
            for (at, zone) in ["a", "b"].iter().enumerate() {
                draft.put(Subnet {
                    id: format!("subnet-{zone}").into(),
                    vpc_id: "vpc-1".into(),
                    cidr: format!("10.0.{at}.0/24").parse().unwrap(),
                    ipv6: None,
                    assign_ipv6: false,
                    zone: format!("eu-central-1{zone}"),
                    tags: vec![],
                });
                draft.put(instance(at, zone));
            }
            draft.put(task_definition(1, 0));
            draft.put(task_definition(2, 0));
            draft.put(target_group());
            draft.put(Listener {
                arn: "listener".into(),
                load_balancer_arn: "balancer".into(),
                protocol: "HTTP".into(),
                port: 80,
                ssl_policy: None,
                certificates: vec![],
                alpn_policy: vec![],
                default_actions: vec![Action::Forward(vec![WeightedTargetGroup {
                    target_group_arn: GROUP.into(),
                    weight: 1,
                }])],
                attributes: BTreeMap::new(),
                tags: vec![],
            });
            cloud_map(draft);
        });
        world
    }

    fn with_service(desired_count: u32) -> Self {
        let mut world = Self::new();
        world.change(|draft| draft.put(service(desired_count)));
        world
    }

    /// One commit: what an operation or a report does, and the scheduler after it until it has nothing more to do.
    fn change(&mut self, change: impl FnOnce(&mut Draft)) {
        let mut draft = self.draft();
        change(&mut draft);
        let mut changed = draft.is_changed();
        self.state = draft.finish().0;
        for round in 0.. {
            assert!(round < 4, "the scheduler does not come to rest: {:#?}", self.state.tasks);
            let mut draft = self.draft();
            self.wake = reconcile(&mut draft, self.acknowledged, self.generation + 1);
            if !draft.is_changed() {
                break;
            }
            changed = true;
            self.state = draft.finish().0;
        }
        self.generation += u64::from(changed);
    }

    fn draft(&mut self) -> Draft {
        self.turn += 1;
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.turn.to_le_bytes());
        Draft::new(self.state.clone(), self.now, seed)
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.generation;
        self.change(|_| ());
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.change(|_| ());
    }

    fn report(&mut self, task: &Arn, status: TaskStatus) {
        let mut bindings = vec![];
        if status == TaskStatus::Running {
            self.next_port += 1;
            bindings.push(binding(self.next_port, "tcp"));
        }
        self.report_with(task, status, bindings);
    }

    fn report_with(&mut self, task: &Arn, status: TaskStatus, bindings: Vec<PortBinding>) {
        let report = Report::Task {
            task: task.clone(),
            status,
            bindings,
            reason: None,
            exit_codes: BTreeMap::from([("app".into(), 137)]),
        };
        self.change(|draft| apply_report(draft, &report));
    }

    /// The host starts what it was told to start, at once.
    fn host_starts(&mut self) {
        for task in self.tasks(|task| task.last_status == TaskStatus::Provisioning) {
            self.report(&task.arn, TaskStatus::Pending);
            self.report(&task.arn, TaskStatus::Running);
        }
    }

    /// The host stops what it was told to stop, at once.
    fn host_stops(&mut self) {
        for task in self.tasks(|task| task.last_status == TaskStatus::Stopping) {
            self.report(&task.arn, TaskStatus::Stopped);
        }
    }

    fn checks_pass(&mut self) {
        let keys: Vec<String> = self.state.targets.keys().cloned().collect();
        self.change(|draft| {
            for key in keys {
                draft.edit::<Target>(&key, |target| {
                    if target.draining.is_none() {
                        target.health = TargetHealth {
                            state: TargetHealthState::Healthy,
                            reason: None,
                            description: None,
                        };
                    }
                });
            }
        });
    }

    fn tasks(&self, keep: impl Fn(&Task) -> bool) -> Vec<Arc<Task>> {
        self.state.tasks.values().filter(|task| keep(task)).cloned().collect()
    }

    fn with_status(&self, status: TaskStatus) -> Vec<Arc<Task>> {
        self.tasks(|task| task.last_status == status)
    }

    fn service(&self) -> &EcsService {
        &self.state.services[SERVICE]
    }

    fn said(&self, words: &str) -> usize {
        self.service().events.iter().filter(|event| event.message.contains(words)).count()
    }

    fn targets(&self, draining: bool) -> usize {
        self.state.targets.values().filter(|target| target.draining.is_some() == draining).count()
    }
}

fn instance(at: usize, zone: &str) -> Instance {
    Instance {
        id: format!("i-{at:017}").into(),
        vpc_id: "vpc-1".into(),
        subnet_id: format!("subnet-{zone}").into(),
        interface_id: format!("eni-{at}").into(),
        address: format!("10.0.{at}.10").parse().unwrap(),
        instance_type: "t3.micro".into(),
        image_id: "ami-1".into(),
        ecs_cluster: Some("demo".into()),
        state: InstanceState::Running,
        launched_at: 0,
        tags: vec![],
    }
}

fn task_definition(revision: u32, host_port: u16) -> TaskDefinition {
    TaskDefinition {
        arn: definition_arn(revision),
        family: "web".into(),
        revision,
        network_mode: "bridge".into(),
        containers: vec![ContainerDefinition {
            name: "app".into(),
            image: "whoami".into(),
            command: vec![],
            entry_point: vec![],
            environment: BTreeMap::new(),
            port_mappings: vec![PortMapping {
                container_port: 80,
                host_port,
                protocol: "tcp".into(),
                name: None,
            }],
            cpu: 0,
            memory_mib: None,
            essential: true,
            stop_timeout_s: 30,
            recorded: Default::default(),
        }],
        recorded: Default::default(),
        status: "ACTIVE".into(),
        registered_at: 0,
        tags: vec![],
    }
}

fn definition_arn(revision: u32) -> Arn {
    Arn(format!("arn:aws:ecs:eu-central-1:000000000000:task-definition/web:{revision}"))
}

fn target_group() -> TargetGroup {
    TargetGroup {
        arn: GROUP.into(),
        name: "web".into(),
        protocol: "HTTP".into(),
        protocol_version: None,
        port: 80,
        vpc_id: "vpc-1".into(),
        target_type: TargetType::Instance,
        ip_address_type: TargetAddressType::Ipv4,
        health_check: HealthCheck {
            enabled: true,
            protocol: "HTTP".into(),
            port: "traffic-port".into(),
            path: "/".into(),
            interval_s: 5,
            timeout_s: 2,
            healthy_threshold: 2,
            unhealthy_threshold: 2,
            matcher: "200".into(),
        },
        attributes: BTreeMap::from([("deregistration_delay.timeout_seconds".into(), "60".into())]),
        created_at: 0,
        tags: vec![],
    }
}

/// A namespace with a service that a live integration with a timeout of 5 s names.
fn cloud_map(draft: &mut Draft) {
    let arn = Arn::from("arn:aws:servicediscovery:eu-central-1:000000000000:service/srv-1");
    draft.put(Namespace {
        id: "ns-1".into(),
        arn: "namespace".into(),
        name: "demo.local".into(),
        kind: NamespaceKind::Http,
        description: None,
        created_at: 0,
        creator_request_id: None,
        tags: vec![],
    });
    draft.put(DiscoveryService {
        id: "srv-1".into(),
        arn: arn.clone(),
        name: "web".into(),
        namespace_id: "ns-1".into(),
        description: None,
        dns: None,
        custom_health: false,
        instances_revision: 0,
        created_at: 0,
        creator_request_id: None,
        tags: vec![],
    });
    let integration: Integration = serde_json::from_value(serde_json::json!({
        "api_id": "api", "id": "int", "integration_type": "HTTP_PROXY", "integration_method": "ANY",
        "integration_uri": arn, "connection_type": "VPC_LINK", "connection_id": "link",
        "payload_format_version": "1.0", "timeout_ms": 5000, "description": null,
    }))
    .unwrap();
    draft.put(Deployment {
        api_id: "api".into(),
        id: "dep".into(),
        description: None,
        auto_deployed: true,
        created_at: 0,
        routes: vec![],
        integrations: vec![integration],
    });
    let stage: Stage = serde_json::from_value(serde_json::json!({
        "api_id": "api", "name": "$default", "auto_deploy": true, "deployment_id": "dep",
        "description": null, "variables": {}, "created_at": 0, "updated_at": 0, "tags": {},
    }))
    .unwrap();
    draft.put(stage);
}

fn service(desired_count: u32) -> EcsService {
    EcsService {
        arn: SERVICE.into(),
        name: "web".into(),
        cluster_arn: CLUSTER.into(),
        task_definition_arn: definition_arn(1),
        desired_count,
        deployments: vec![deployment("ecs-svc/1", 1)],
        minimum_healthy_percent: 100,
        maximum_percent: 200,
        load_balancers: vec![ServiceLoadBalancer {
            target_group_arn: GROUP.into(),
            container_name: "app".into(),
            container_port: 80,
        }],
        registries: vec![ServiceRegistry {
            registry_arn: "arn:aws:servicediscovery:eu-central-1:000000000000:service/srv-1".into(),
            container_name: Some("app".into()),
            container_port: Some(80),
            port: None,
        }],
        status: "ACTIVE".into(),
        created_at: 0,
        inactive_since: None,
        recorded: Default::default(),
        client_token: None,
        is_steady: false,
        crash_streak: 0,
        last_crash_at: None,
        events: vec![],
        tags: vec![],
    }
}

fn binding(host_port: u16, protocol: &str) -> PortBinding {
    PortBinding { container_name: "app".into(), container_port: 80, host_port, protocol: protocol.to_owned() }
}

fn deployment(id: &str, revision: u32) -> ServiceDeployment {
    ServiceDeployment {
        id: id.into(),
        task_definition_arn: definition_arn(revision),
        created_at: 0,
        updated_at: 0,
        is_complete: false,
        failed_tasks: 0,
    }
}

fn desire(count: u32) -> impl FnOnce(&mut Draft) {
    move |draft| _ = draft.edit::<EcsService>(SERVICE, |row| row.desired_count = count)
}

fn deploy(id: &'static str, revision: u32) -> impl FnOnce(&mut Draft) {
    move |draft| {
        draft.edit::<EcsService>(SERVICE, |row| {
            row.task_definition_arn = definition_arn(revision);
            row.deployments.insert(0, deployment(id, revision));
            row.is_steady = false;
        });
    }
}

#[test]
fn a_service_spreads_its_tasks_and_registers_them_once_they_run() {
    let mut world = World::with_service(4);
    let placed = world.with_status(TaskStatus::Provisioning);
    assert_eq!(placed.len(), 4);
    let instances: BTreeSet<&InstanceId> = placed.iter().map(|task| &task.instance_id).collect();
    assert_eq!(instances.len(), 2, "two on each");
    assert!(world.state.targets.is_empty(), "nothing is registered before it runs");

    world.host_starts();
    assert_eq!(world.with_status(TaskStatus::Running).len(), 4);
    assert_eq!(world.targets(false), 4);
    let task = &world.with_status(TaskStatus::Running)[0];
    let port = task.bindings[0].host_port;
    let target = world.state.targets.values().find(|target| target.key.port == port).unwrap();
    assert_eq!(target.key.id, task.instance_id.0);
    assert_eq!(target.health, TargetHealth::registering());
    let known = &world.state.discovery_instances[&format!("srv-1/{}", task.id())];
    let attribute = |key: &str| known.attributes.get(key).map_or("", String::as_str);
    assert_eq!(attribute("AWS_INSTANCE_IPV4"), target.address.to_string());
    assert_eq!(attribute("AWS_INSTANCE_PORT"), port.to_string());
    assert_eq!(attribute("AVAILABILITY_ZONE"), target.zone.as_deref().unwrap());
    assert_eq!(attribute("REGION"), "eu-central-1");
    assert_eq!(attribute("ECS_SERVICE_NAME"), "web");
    assert_eq!(attribute("ECS_CLUSTER_NAME"), "demo");
    assert_eq!(attribute("EC2_INSTANCE_ID"), task.instance_id.0);
    assert_eq!(attribute("ECS_TASK_DEFINITION_FAMILY"), "web");
    assert_eq!(world.state.discovery_services["srv-1"].instances_revision, 4);
    assert!(world.service().is_steady);
    assert_eq!(world.said("has reached a steady state"), 1);
}

#[test]
fn a_task_is_registered_by_the_port_that_speaks_its_groups_protocol() {
    for (protocol, expected) in [("UDP", 5_353), ("TCP", 53), ("TCP_UDP", 53)] {
        let mut world = World::new();
        world.change(|draft| {
            draft.edit::<TargetGroup>(GROUP, |group| group.protocol = protocol.to_owned());
            draft.put(service(1));
        });
        let task = world.with_status(TaskStatus::Provisioning)[0].arn.clone();
        let bindings = vec![binding(53, "tcp"), binding(5_353, "udp")];
        world.report_with(&task, TaskStatus::Running, bindings);
        let registered: Vec<u16> = world.state.targets.values().map(|target| target.key.port).collect();
        assert_eq!(registered, [expected], "{protocol}");
        world.acknowledge();
        world.change(desire(0));
        assert_eq!(world.targets(true), 1, "and withdrawn by it");
    }
}

#[test]
fn a_surplus_task_is_stopped_only_when_drained_and_acknowledged() {
    let mut world = World::with_service(2);
    world.host_starts();
    world.acknowledge();
    let newest = world.tasks(|_| true).into_iter().max_by_key(|task| task.created_at).unwrap().created_at;
    world.change(desire(1));
    let leaving = world.with_status(TaskStatus::Deactivating);
    assert_eq!(leaving.len(), 1);
    assert_eq!(leaving[0].created_at, newest);
    assert_eq!((world.targets(false), world.targets(true)), (1, 1));
    assert_eq!(world.state.discovery_services["srv-1"].instances_revision, 3);

    // The node says that nothing is left in flight, but requests through the gateway may last 5 s, and one second more.
    let drained = world.state.targets.iter().find(|(_, row)| row.draining.is_some()).unwrap().0.clone();
    world.change(|draft| _ = draft.remove::<Target>(&drained));
    assert_eq!(world.with_status(TaskStatus::Deactivating).len(), 1);
    assert_eq!(world.wake, Some(world.now + 6_000));
    world.pass(6_000);
    assert_eq!(world.with_status(TaskStatus::Deactivating).len(), 1, "no data plane has applied it yet");

    world.acknowledge();
    assert_eq!(world.with_status(TaskStatus::Stopping).len(), 1);
    assert_eq!(world.state.discovery_instances.len(), 2, "its open connections may still be closed in order");
    world.pass(1_000);
    world.host_stops();
    assert_eq!(world.state.discovery_instances.len(), 1);
    let gone = world.with_status(TaskStatus::Stopped);
    assert_eq!(gone[0].stop_code.as_deref(), Some("ServiceSchedulerInitiated"));
    assert_eq!(world.service().crash_streak, 0, "a task that was asked to stop did not crash");
    world.pass(3_600_000);
    assert_eq!(world.state.tasks.len(), 1);
}

#[test]
fn without_an_early_word_from_the_node_the_deregistration_delay_is_waited_out() {
    let mut world = World::with_service(1);
    world.host_starts();
    world.change(desire(0));
    world.acknowledge();
    world.pass(59_999);
    assert_eq!(world.with_status(TaskStatus::Deactivating).len(), 1);
    assert_eq!(world.wake, Some(world.now + 1));
    world.pass(1);
    assert_eq!(world.with_status(TaskStatus::Stopping).len(), 1);
    assert_eq!(world.targets(true), 1, "clients hear how the task closes its connections");
    world.host_stops();
    let lingering = world.state.targets.values().next().and_then(|target| target.draining).unwrap();
    assert_eq!(lingering.until, world.now + 5_000, "and what is on its way to it is answered");
}

#[test]
fn a_data_plane_that_cannot_apply_holds_a_task_for_a_minute_at_most() {
    let mut world = World::with_service(1);
    world.change(|draft| {
        draft.edit::<TargetGroup>(GROUP, |row| {
            row.attributes.insert("deregistration_delay.timeout_seconds".into(), "0".into());
        });
    });
    world.host_starts();
    world.change(desire(0));
    world.pass(59_999);
    assert_eq!(world.with_status(TaskStatus::Deactivating).len(), 1);
    world.pass(1);
    assert_eq!(world.with_status(TaskStatus::Stopping).len(), 1);
}

#[test]
fn a_task_that_dies_is_known_nowhere_at_once_and_replaced_at_once() {
    let mut world = World::with_service(2);
    world.host_starts();
    world.checks_pass();
    let dead = world.with_status(TaskStatus::Running)[0].arn.clone();
    world.report(&dead, TaskStatus::Stopped);
    assert_eq!(world.state.targets.len(), 1);
    assert_eq!(world.state.discovery_instances.len(), 1);
    assert_eq!(world.state.tasks[dead.as_str()].last_status, TaskStatus::Stopped);
    assert_eq!(world.state.tasks[dead.as_str()].stop_code.as_deref(), Some("EssentialContainerExited"));
    assert_eq!(world.state.tasks[dead.as_str()].exit_codes["app"], 137);
    assert_eq!(world.with_status(TaskStatus::Provisioning).len(), 1);
}

#[test]
fn a_crash_loop_slows_down_and_a_long_run_is_forgiven() {
    let mut world = World::with_service(1);
    let mut pauses = vec![];
    for _ in 0..10 {
        let task = world.tasks(|task| task.desired_status == TaskStatus::Running)[0].arn.clone();
        world.report(&task, TaskStatus::Running);
        world.report(&task, TaskStatus::Stopped);
        let waits = world.wake.filter(|_| world.with_status(TaskStatus::Provisioning).is_empty());
        pauses.push(waits.map_or(0, |at| at - world.now));
        world.pass(waits.map_or(0, |at| at - world.now));
        assert_eq!(world.with_status(TaskStatus::Provisioning).len(), 1);
    }
    assert_eq!(pauses, [0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    world.host_starts();
    world.pass(60_000);
    let task = world.with_status(TaskStatus::Running)[0].arn.clone();
    world.report(&task, TaskStatus::Stopped);
    assert_eq!(world.with_status(TaskStatus::Provisioning).len(), 1, "replaced at once");
}

#[test]
fn a_rolling_deployment_lets_old_tasks_go_only_for_healthy_new_ones() {
    let mut world = World::with_service(2);
    world.host_starts();
    world.checks_pass();
    world.acknowledge();
    world.change(deploy("ecs-svc/2", 2));
    assert_eq!(world.with_status(TaskStatus::Provisioning).len(), 2);
    world.host_starts();
    assert_eq!(world.with_status(TaskStatus::Running).len(), 4, "running is not healthy yet");
    assert_eq!(world.service().deployments.len(), 2);
    world.checks_pass();
    let leaving = world.with_status(TaskStatus::Deactivating);
    assert_eq!(leaving.len(), 2);
    assert!(leaving.iter().all(|task| task.task_definition_arn == definition_arn(1)));
    world.acknowledge();
    world.pass(60_000);
    world.host_stops();
    assert_eq!(world.service().deployments.len(), 1);
    assert!(world.service().is_steady && world.service().deployments[0].is_complete);
    assert_eq!(world.said("deployment completed"), 2);
}

#[test]
fn a_target_group_that_no_listener_names_does_not_hold_a_deployment_up() {
    let mut world = World::with_service(1);
    world.change(|draft| _ = draft.remove::<Listener>("listener"));
    world.host_starts();
    world.change(deploy("ecs-svc/2", 2));
    world.host_starts();
    assert_eq!(world.with_status(TaskStatus::Deactivating).len(), 1);
}

#[test]
fn a_deleted_service_drains_its_tasks_and_becomes_inactive() {
    let mut world = World::with_service(2);
    world.host_starts();
    world.change(|draft| _ = draft.edit::<EcsService>(SERVICE, |row| row.status = "DRAINING".into()));
    assert_eq!(world.with_status(TaskStatus::Deactivating).len(), 2);
    assert_eq!(world.service().status, "DRAINING");
    world.acknowledge();
    world.pass(60_000);
    world.host_stops();
    assert_eq!(world.service().status, "INACTIVE");
    world.pass(3_600_000);
    assert!(world.state.services.is_empty());
    assert!(world.state.tasks.is_empty());
    assert_eq!(world.wake, None);
}

#[test]
fn a_cluster_without_instances_says_so_once_and_is_served_when_one_comes() {
    let mut world = World::new();
    world.change(|draft| {
        for at in 0..2 {
            draft.edit::<Instance>(&format!("i-{at:017}"), |row| row.state = InstanceState::Pending);
        }
        draft.put(service(1));
    });
    world.pass(1);
    assert_eq!(world.said("No Container Instances were found"), 1);
    let report = Report::InstanceRunning { instance: format!("i-{:017}", 1).into() };
    world.change(|draft| apply_report(draft, &report));
    assert_eq!(world.with_status(TaskStatus::Provisioning).len(), 1);
}

#[test]
fn a_fixed_host_port_is_given_once_per_instance() {
    let mut world = World::new();
    world.change(|draft| {
        draft.put(task_definition(1, 8080));
        draft.put(service(3));
    });
    assert_eq!(world.with_status(TaskStatus::Provisioning).len(), 2);
    assert_eq!(world.said("is already using a port required by your task"), 1);
}

#[test]
fn a_task_that_is_stopped_before_it_runs_never_registers() {
    let mut world = World::with_service(1);
    let task = world.with_status(TaskStatus::Provisioning)[0].arn.clone();
    world.change(desire(0));
    assert_eq!(world.with_status(TaskStatus::Stopping).len(), 1);
    world.report(&task, TaskStatus::Running);
    assert!(world.state.targets.is_empty());
    world.host_stops();
    assert_eq!(world.with_status(TaskStatus::Stopped).len(), 1);
}

#[test]
fn tasks_of_an_instance_that_shuts_down_drain_while_others_start_elsewhere() {
    let mut world = World::with_service(2);
    world.host_starts();
    let lost = world.with_status(TaskStatus::Running)[0].instance_id.clone();
    world.change(|draft| {
        draft.edit::<Instance>(lost.as_str(), |row| row.state = InstanceState::ShuttingDown);
    });
    assert_eq!((world.targets(false), world.targets(true)), (1, 1));
    let moved = world.with_status(TaskStatus::Provisioning);
    assert_eq!(moved.len(), 1);
    assert_ne!(moved[0].instance_id, lost);
    assert_eq!(world.service().crash_streak, 0);
}

#[test]
fn tasks_of_an_instance_that_is_gone_are_gone() {
    let mut world = World::with_service(2);
    world.host_starts();
    let lost = world.with_status(TaskStatus::Running)[0].instance_id.clone();
    world.change(|draft| {
        draft.edit::<Instance>(lost.as_str(), |row| row.state = InstanceState::Terminated { at: 0 });
    });
    assert_eq!((world.targets(false), world.targets(true)), (1, 0));
    assert_eq!(world.with_status(TaskStatus::Stopped).len(), 1);
    assert_eq!(world.with_status(TaskStatus::Provisioning).len(), 1);
}

#[test]
fn an_operation_succeeds_when_the_data_planes_have_applied_it() {
    let mut world = World::new();
    let operation = |id: &str, now| Operation {
        id: id.into(),
        kind: "REGISTER_INSTANCE".into(),
        status: "SUBMITTED".into(),
        targets: BTreeMap::new(),
        error_message: None,
        error_code: None,
        created_at: now,
        updated_at: now,
        waits_for_generation: None,
    };
    let now = world.now;
    world.change(|draft| draft.put(operation("one", now)));
    assert_eq!(world.state.operations["one"].status, "PENDING");
    world.pass(10);
    assert_eq!(world.state.operations["one"].status, "PENDING");
    world.acknowledge();
    assert_eq!(world.state.operations["one"].status, "SUCCESS");
    let now = world.now;
    world.change(|draft| draft.put(operation("two", now)));
    world.pass(60_000);
    assert_eq!(world.state.operations["two"].status, "FAIL");
    world.pass(86_400_000);
    assert!(world.state.operations.is_empty());
}

/// Random scaling, deployments, crashes, slow hosts and slow data planes: whatever happens, no task gets SIGTERM while
/// a data plane may still send it something, what runs is registered, and in the end everything is steady.
#[test]
fn no_order_of_events_stops_a_task_that_is_still_in_use() {
    for seed in 0..8_u64 {
        let mut random = Random(seed);
        let mut world = World::with_service(2);
        let mut deployments = 1;
        for _ in 0..300 {
            match random.below(9) {
                0 => world.change(desire(random.below(5))),
                1 if deployments < 20 => {
                    deployments += 1;
                    let id = format!("ecs-svc/{deployments}");
                    world.change(|draft| deploy(id.leak(), 1 + deployments % 2)(draft));
                }
                2 | 3 => world.host_starts(),
                4 => world.host_stops(),
                5 => world.acknowledge(),
                6 => world.checks_pass(),
                7 => {
                    let running = world.with_status(TaskStatus::Running);
                    if let Some(task) = running.get(random.below(8) as usize) {
                        world.report(&task.arn.clone(), TaskStatus::Stopped);
                    }
                }
                _ => world.pass(u64::from(random.below(8_000))),
            }
            check(&world, seed);
        }
        for _ in 0..40 {
            world.host_starts();
            world.checks_pass();
            world.acknowledge();
            world.host_stops();
            world.pass(61_000);
        }
        let desired = world.service().desired_count as usize;
        assert!(world.service().is_steady, "seed {seed}: {:#?}", world.service());
        assert_eq!(world.with_status(TaskStatus::Running).len(), desired, "seed {seed}");
        assert_eq!(world.targets(false), desired, "seed {seed}");
        assert_eq!(world.state.discovery_instances.len(), desired, "seed {seed}");
    }
}

fn check(world: &World, seed: u64) {
    for task in world.state.tasks.values() {
        let registered = world
            .state
            .targets
            .values()
            .filter(|target| {
                task.bindings.iter().any(|binding| binding.host_port == target.key.port)
                    && target.key.id == task.instance_id.0
            })
            .collect::<Vec<_>>();
        let known = world.state.discovery_instances.get(&format!("srv-1/{}", task.id()));
        match task.last_status {
            TaskStatus::Running => {
                assert_eq!(registered.len(), 1, "seed {seed}: {task:#?}");
                assert!(known.is_some_and(|row| row.draining_until.is_none()), "seed {seed}: {task:#?}");
            }
            TaskStatus::Stopping => {
                let waited = task.stopping_at.unwrap_or(0) - task.deactivating_since.unwrap_or(0);
                let applied = task.withdrawn_in_generation.is_none_or(|at| world.acknowledged >= at);
                assert!(applied || waited >= ACKNOWLEDGE_LIMIT_MS, "seed {seed}: {task:#?}");
                assert!(registered.iter().all(|target| target.draining.is_some()), "seed {seed}: {task:#?}");
                assert!(known.is_none_or(|row| row.draining_until.is_some()), "seed {seed}: {task:#?}");
            }
            TaskStatus::Deactivating => {
                assert!(registered.iter().all(|target| target.draining.is_some()), "seed {seed}");
            }
            _ => {
                assert!(registered.iter().all(|target| target.draining.is_some()), "seed {seed}: {task:#?}");
                assert!(known.is_none(), "seed {seed}: {task:#?}");
            }
        }
    }
    let live = world.tasks(|task| task.desired_status == TaskStatus::Running).len();
    let most = 2 * world.service().desired_count as usize;
    assert!(live <= most.max(2 * 5), "seed {seed}: {live} tasks for {most}");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(limit)).unwrap()
    }
}
