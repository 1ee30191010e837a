//! Units for systemd: written, removed, understood, and each role started as its unit says.
//!
//! No systemd runs here. `systemd-analyze` judges the texts where it is installed; and a role is started as systemd would:
//! by the unit's own command lines, as its user, with its capabilities and no others, and is waited for until it says that
//! it is ready.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use gatehouse_tests::lab::{appliance, wait::Wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use super::world::{PATIENCE, Vpc, World};

const SERVICES: [&str; 5] = ["control", "gateway", "host", "supervisor", "node@"];

/// What `gatehouse install` and `uninstall` say, by whether they succeeded.
fn gatehouse(words: &[&str]) -> Result<String, String> {
    let output = Command::new(appliance::binary().unwrap()).args(words).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(said) }
}

/// A boot configuration and a place to install to.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(network: &str) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        place.configure(network);
        place
    }

    fn configure(&self, network: &str) {
        let gateway = "[gateway]\nlisten = [\"127.0.0.1:443\"]\nlanes = \"127.0.0.1:8443\"";
        fs::write(self.config(), format!("name = \"edge\"\n{gateway}\n[network]\n{network}\n")).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("gatehouse.toml")
    }

    fn units(&self) -> PathBuf {
        self.directory.path().join("root/etc/systemd/system")
    }

    fn root(&self) -> String {
        self.directory.path().join("root").display().to_string()
    }

    fn install(&self) -> Result<String, String> {
        let config = self.config().display().to_string();
        gatehouse(&["install", "--config", &config, "--root", &self.root(), "--program", "/bin/true"])
    }

    fn uninstall(&self) -> Result<String, String> {
        gatehouse(&["uninstall", "--root", &self.root()])
    }

    /// Every file below the units' directory, with its text and when it was written.
    fn files(&self) -> BTreeMap<PathBuf, (String, std::time::SystemTime)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.units()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    let written = entry.metadata().unwrap().modified().unwrap();
                    found.insert(entry.path(), (fs::read_to_string(entry.path()).unwrap(), written));
                }
            }
        }
        found
    }
}

const ON_HOST: &str = "driver = \"host\"\ninterfaces = [\"eth1\"]";
const VIRTUAL: &str = "driver = \"virtual\"";

#[test]
fn installing_again_changes_nothing_and_uninstalling_removes_what_was_installed() {
    let place = Place::new(VIRTUAL);
    fs::create_dir_all(place.units().join("gatehouse-node@.service.d")).unwrap();
    fs::write(place.units().join("gatehouse-node@.service.d/own.conf"), "[Service]\nNice=-5\n").unwrap();
    fs::write(place.units().join("other.service"), "[Service]\nExecStart=/bin/true\n").unwrap();
    let before = place.files();
    place.install().unwrap();
    let installed = place.files();
    assert_eq!(installed.len(), before.len() + 8, "{installed:#?}");
    place.install().unwrap();
    assert_eq!(place.files(), installed);
    // Another configuration: what is no longer part of it goes.
    place.configure(ON_HOST);
    place.install().unwrap();
    assert!(!place.units().join("gatehouse-link@.service").exists());
    place.uninstall().unwrap();
    assert_eq!(place.files(), before);
    place.uninstall().unwrap();
}

#[test]
fn somebody_elses_unit_is_neither_overwritten_nor_removed() {
    let place = Place::new(ON_HOST);
    fs::create_dir_all(place.units()).unwrap();
    fs::write(place.units().join("gatehouse-host.service"), "[Service]\nExecStart=/bin/true\n").unwrap();
    let before = place.files();
    let refused = place.install().unwrap_err();
    assert!(refused.contains("gatehouse-host.service was not written by"), "{refused}");
    assert_eq!(place.files(), before, "nothing half installed");
    place.uninstall().unwrap();
    assert_eq!(place.files(), before);
}

#[test]
fn a_configuration_that_roles_could_not_read_is_refused() {
    let place = Place::new(ON_HOST);
    fs::set_permissions(place.config(), fs::Permissions::from_mode(0o600)).unwrap();
    let refused = place.install().unwrap_err();
    assert!(refused.contains("readable") && refused.contains("0644"), "{refused}");
    assert!(place.files().is_empty());
}

#[test]
fn systemd_understands_every_line_and_finds_little_exposed() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("systemd-analyze is not installed: nothing judged");
        return;
    }
    for network in [ON_HOST, VIRTUAL] {
        let place = Place::new(network);
        place.install().unwrap();
        let files: Vec<PathBuf> = place.files().into_keys().collect();
        let output = Command::new("systemd-analyze").arg("verify").args(&files).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success() && said.is_empty(), "{network}: {}", String::from_utf8_lossy(&said));
    }
    let place = Place::new(ON_HOST);
    place.install().unwrap();
    for service in SERVICES {
        let unit = place.units().join(format!("gatehouse-{service}.service"));
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold=40"])
            .arg(&unit)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{service} is exposed at more than 4.0 of 10:\n{said}");
    }
}

#[test]
fn every_role_starts_by_its_unit_with_its_privileges_and_requests_pass() {
    let world = World::new();
    let systemd = Systemd::new(&world);
    let mut roles = BTreeMap::new();
    for service in ["control", "gateway", "host", "supervisor"] {
        roles.insert(service, systemd.start(service, ""));
    }
    let ready = world.name.0.directory().join("run/ready.json");
    let written = || Ok(ready.exists().then_some(()));
    Wait::default().until("ready file", PATIENCE, written).unwrap();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 80);
    systemd.wait_for(&format!("start --no-block gatehouse-node@{}.service", vpc.id));
    roles.insert("node@", systemd.start("node@", &vpc.id));
    let address = balancer.address(&vpc.aws);
    assert_eq!(world.answered(address, 80), "target");
    assert_eq!(world.program("eth1"), Some("native"));

    let privileges: BTreeMap<&str, [u64; 4]> =
        roles.iter().map(|(service, role)| (*service, role.privileges())).collect();
    let of = |names: &[u32]| names.iter().fold(0, |set, number| set | 1_u64 << number);
    let (bind, admin, raw, perfmon, bpf, dac) = (10, 12, 13, 38, 39, 1);
    let node = of(&[bind, admin, raw, perfmon, bpf]);
    // User, what it has, what it may ever have, and whether it can get more by executing a program.
    let expected = BTreeMap::from([
        ("control", [64_100, 0, 0, 1]),
        ("gateway", [64_101, 0, of(&[bind]), 1]),
        ("host", [0, of(&[admin, raw]), of(&[admin, raw]), 1]),
        ("supervisor", [0, of(&[dac]), of(&[dac]), 1]),
        ("node@", [64_103, node, node, 1]),
    ]);
    assert_eq!(privileges, expected);

    // The appliance is not taken down under running roles.
    let binary = world.name.0.directory().join("gatehouse");
    let down = |say: &str| {
        let mut command = world.host.command(binary.to_str().unwrap());
        let output = command.args(["down", "--config"]).arg(world.boot_file()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(say), "{said}");
    };
    down("stop them first");
    assert_eq!(world.answered(address, 80), "target");
    vpc.aws.call("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": balancer.arn})).unwrap();
    systemd.wait_for(&format!("stop gatehouse-node@{}.service", vpc.id));
    let mut order = ["node@", "gateway", "supervisor", "host", "control"].into_iter();
    assert!(order.all(|service| roles.remove(service).unwrap().stop()), "each ends by itself on SIGTERM");
    down("removed");
    assert_eq!(world.addresses("eth1"), ["10.0.1.10/24"]);
    assert_eq!(world.program("eth1"), None);
}

/// What systemd does with our units, as far as it matters here.
struct Systemd<'a> {
    world: &'a World,
    units: PathBuf,
    /// Where `systemctl` is another program.
    bin: PathBuf,
}

impl<'a> Systemd<'a> {
    fn new(world: &'a World) -> Self {
        let directory = world.name.0.directory();
        let binary = world.set_up(&["eth1"]);
        let path = |path: &Path| path.display().to_string();
        let (boot, root) = (path(&world.boot_file()), path(&directory.join("root")));
        gatehouse(&["install", "--config", &boot, "--root", &root, "--program", &path(&binary)]).unwrap();
        let bin = directory.join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("systemctl"), SYSTEMCTL).unwrap();
        fs::set_permissions(bin.join("systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { world, units: directory.join("root/etc/systemd/system"), bin }
    }

    /// Starts a service; returns once it says that it is ready.
    fn start(&self, service: &str, instance: &str) -> Role {
        let text = fs::read_to_string(self.units.join(format!("gatehouse-{service}.service"))).unwrap();
        let text = text.replace("%i", instance);
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let before = value("ExecStartPre").unwrap().strip_prefix('+').expect("it makes directories as root");
        let mut words = before.split(' ');
        let prepared = self.world.host.command(words.next().unwrap()).args(words).output().unwrap();
        assert!(prepared.status.success(), "{before}: {prepared:?}");

        let socket = self.world.name.0.directory().join(format!("notify-{service}"));
        let notified = UnixDatagram::bind(&socket).unwrap();
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = fs::File::create(self.world.name.0.directory().join(format!("{service}.log"))).unwrap();
        let mut command = self.world.host.command("setpriv");
        command.args(["--no-new-privs", "--clear-groups"]);
        for (option, key) in [("--reuid", "User"), ("--regid", "Group")] {
            command.args([option, value(key).unwrap()]);
        }
        let set = |key: &str| {
            let names = value(key).unwrap_or_default().split_whitespace();
            let names = names.map(|name| format!(",+{}", name.strip_prefix("CAP_").unwrap().to_lowercase()));
            format!("-all{}", names.collect::<String>())
        };
        command.arg(format!("--inh-caps={}", set("AmbientCapabilities")));
        command.arg(format!("--ambient-caps={}", set("AmbientCapabilities")));
        command.arg(format!("--bounding-set={}", set("CapabilityBoundingSet")));
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        let child = command
            .arg("--")
            .args(value("ExecStart").unwrap().split(' '))
            .env("NOTIFY_SOCKET", &socket)
            .env("PATH", path)
            .env("SYSTEMCTL_LOG", self.bin.join("log"))
            .env("SYSTEMCTL_RUNNING", self.bin.join("running"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let role = Role(child);
        let mut heard = [0; 64];
        let length = notified.recv(&mut heard).unwrap_or_else(|error| {
            let log = self.world.name.0.directory().join(format!("{service}.log"));
            panic!("{service} is not ready: {error}\n{}", fs::read_to_string(log).unwrap())
        });
        assert_eq!(&heard[..length], b"READY=1", "{service}");
        role
    }

    /// Waits until `systemctl` was told so.
    fn wait_for(&self, words: &str) {
        let told = || {
            let log = fs::read_to_string(self.bin.join("log")).unwrap_or_default();
            Ok(log.lines().any(|line| line == words).then_some(()))
        };
        Wait::default().until(&format!("systemctl {words}"), PATIENCE, told).unwrap();
    }
}

/// A running role.
struct Role(Child);

impl Role {
    /// Its user, its permitted capabilities, its bounding set, and whether it can never get more.
    fn privileges(&self) -> [u64; 4] {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap()
        };
        let set = |name: &str| u64::from_str_radix(field(name), 16).unwrap();
        let number = |name: &str| field(name).parse().unwrap();
        assert_eq!(set("CapEff:"), set("CapPrm:"));
        [number("Uid:"), set("CapPrm:"), set("CapBnd:"), number("NoNewPrivs:")]
    }

    /// Asks it to end; answers whether it did, as it should.
    fn stop(mut self) -> bool {
        let id = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        kill(id, Signal::SIGTERM).unwrap();
        Wait::default().end_of("role", PATIENCE, &mut self.0).unwrap().success()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Notes what it is told, and lists what it was told to start.
const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >> "$SYSTEMCTL_LOG"
case "$1" in
    list-units) cat "$SYSTEMCTL_RUNNING" 2>/dev/null; true ;;
    start) echo "$3 loaded active running" >> "$SYSTEMCTL_RUNNING" ;;
    stop) sed -i "/^$2 /d" "$SYSTEMCTL_RUNNING" ;;
esac
"#;
