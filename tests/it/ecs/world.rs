//! A namespace that stands for an instance, a driver for it, and what the driver reports.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use gatehouse_tests::lab::{appliance::binary, name::Name, netns::Netns};
use lb_userspace::{
    model::{
        id::{Arn, InstanceId, VpcId},
        network::InterfaceOwner,
        task::{ContainerDefinition, PortBinding, PortMapping, TaskStatus},
    },
    network::{places, remove_everything},
    snapshot::{
        host::{HostInstance, HostInterface, HostSlice, HostTask, VpcNetwork},
        report::Report,
    },
    tasks::{Driver, DriverConfig},
};
use tokio::{runtime::Runtime, sync::mpsc};

/// The user that tasks run under in tests: nobody has it.
pub(super) const UID: u32 = 64_104;

pub(super) struct World {
    pub(super) name: Name,
    pub(super) machine: Netns,
    pub(super) slice: HostSlice,
    running: Option<Running>,
}

/// A driver in its runtime, as the host role has it.
struct Running {
    runtime: Runtime,
    driver: Driver,
    reports: mpsc::Receiver<Report>,
}

/// What the driver reported of a task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Said {
    pub(super) task: Arn,
    pub(super) status: TaskStatus,
    pub(super) bindings: Vec<PortBinding>,
    pub(super) reason: Option<String>,
    pub(super) exit_codes: BTreeMap<String, i32>,
}

impl World {
    pub(super) fn new() -> Self {
        let name = Name::fresh();
        fs::create_dir_all(name.directory()).unwrap();
        let machine = Netns::new(&name, "machine").unwrap();
        let mut slice = HostSlice::default();
        let address = "127.0.0.1".parse().unwrap();
        let instance = HostInstance { namespace: machine.name().to_owned(), address };
        slice.instances.insert(InstanceId::from("i-1"), instance);
        let mut world = Self { name, machine, slice, running: None };
        world.start_driver();
        world
    }

    pub(super) fn start_driver(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, reports) = mpsc::channel(100);
        let gatehouse = binary().unwrap().display().to_string();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let config = DriverConfig {
            appliance: self.name.as_str().to_owned(),
            directory: self.name.directory().join("host"),
            images: BTreeMap::from([
                ("whoami".to_owned(), words(&[&gatehouse, "whoami"])),
                ("sh".to_owned(), words(&["/bin/sh", "-c"])),
                ("absent".to_owned(), words(&["/no/such/program"])),
            ]),
            uid: UID,
        };
        let driver = runtime.block_on(async { Driver::new(config, sender) }).unwrap();
        self.running = Some(Running { runtime, driver, reports });
    }

    /// The host role ends as by SIGKILL: nothing is tidied up.
    pub(super) fn kill_driver(&mut self) {
        let running = self.running.take().unwrap();
        drop(running.driver);
        running.runtime.shutdown_background();
    }

    pub(super) fn apply(&mut self) {
        let running = self.running.as_mut().unwrap();
        let (runtime, driver) = (&running.runtime, &mut running.driver);
        runtime.block_on(async { driver.apply(&self.slice) });
    }

    /// Puts a task into the slice; answers its ARN.
    pub(super) fn add(&mut self, id: &str, containers: Vec<ContainerDefinition>) -> Arn {
        let arn = Arn::from(format!("arn:aws:ecs:eu-central-1:000000000000:task/demo/{id}"));
        let task = HostTask {
            instance_id: "i-1".into(),
            cluster: "demo".into(),
            family: "web:1".into(),
            containers,
            run: true,
            started: false,
            bindings: vec![],
        };
        self.slice.tasks.insert(arn.clone(), task);
        arn
    }

    /// Puts the machine into a VPC with a resolver.
    pub(super) fn give_resolver(&mut self, resolver: &str) {
        let vpc_id = VpcId::from("vpc-1");
        let resolver = Some(resolver.parse().unwrap());
        let vpc = VpcNetwork { cidr: "10.0.0.0/16".parse().unwrap(), index: 0, resolver };
        self.slice.vpcs.insert(vpc_id.clone(), vpc);
        let interface = HostInterface {
            ipv6: None,
            vpc_id,
            subnet_id: "subnet-1".into(),
            address: "10.0.1.6".parse().unwrap(),
            owner: InterfaceOwner::Instance("i-1".into()),
            groups: vec![],
        };
        self.slice.interfaces.insert("eni-1".into(), interface);
    }

    pub(super) fn stop(&mut self, task: &Arn) {
        self.slice.tasks.get_mut(task).unwrap().run = false;
        self.apply();
    }

    /// The next report of a task's status; PENDING is passed over.
    pub(super) fn next(&mut self) -> Said {
        loop {
            let said = self.report_within(Duration::from_secs(15)).expect("a report in time");
            if said.status != TaskStatus::Pending {
                return said;
            }
        }
    }

    /// The next report that is `status` of `task`.
    pub(super) fn wait_for(&mut self, task: &Arn, status: TaskStatus) -> Said {
        let said = self.next();
        assert_eq!((&said.task, said.status), (task, status), "{said:?}");
        said
    }

    pub(super) fn report_within(&mut self, limit: Duration) -> Option<Said> {
        let running = self.running.as_mut().unwrap();
        let received =
            running.runtime.block_on(async { tokio::time::timeout(limit, running.reports.recv()).await });
        match received {
            Ok(Some(Report::Task { task, status, bindings, reason, exit_codes })) => {
                Some(Said { task, status, bindings, reason, exit_codes })
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        }
    }

    /// The text that a server on this port of the machine answers.
    pub(super) fn fetch(&self, port: u16, path: &str) -> String {
        let url = format!("http://127.0.0.1:{port}{path}");
        let output = self.machine.command("curl").args(["-sS", "--max-time", "10", &url]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The tasks' cgroup.
    pub(super) fn cgroup(&self) -> PathBuf {
        places::cgroup(self.name.as_str()).unwrap().join("tasks")
    }

    /// What the driver keeps of tasks: cgroups, records and output.
    pub(super) fn kept(&self) -> Vec<PathBuf> {
        let host = self.name.directory().join("host");
        let directories = [self.cgroup(), host.join("tasks"), host.join("output")];
        let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).unwrap().flatten());
        entries
            .map(|entry| entry.path())
            .filter(|path| !path.is_file() || !path.starts_with("/sys"))
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running.driver);
            running.runtime.shutdown_background();
        }
        remove_everything(self.name.as_str());
        self.name.remove_everything();
    }
}

/// Waits until it is so.
pub(super) fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    eventually_within(Duration::from_secs(10), what, is_so);
}

/// Waits until it is so, for this long at most.
pub(super) fn eventually_within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A container that listens on a port that the driver picks.
pub(super) fn whoami() -> ContainerDefinition {
    let mapping = PortMapping { container_port: 80, host_port: 0, protocol: "tcp".into(), name: None };
    ContainerDefinition {
        image: "whoami".into(),
        environment: BTreeMap::from([("NAME".into(), "alice".into())]),
        port_mappings: vec![mapping],
        ..shell("")
    }
}

/// A container that runs a shell's words and listens nowhere.
pub(super) fn shell(script: &str) -> ContainerDefinition {
    ContainerDefinition {
        name: "app".into(),
        image: "sh".into(),
        command: if script.is_empty() { vec![] } else { vec![script.into()] },
        entry_point: vec![],
        environment: BTreeMap::new(),
        port_mappings: vec![],
        cpu: 0,
        memory_mib: None,
        essential: true,
        stop_timeout_s: 1,
        recorded: Default::default(),
    }
}
