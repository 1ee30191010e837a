//! Units for systemd as text: one per role, each with no more privilege than its role needs.
//!
//! Control, gateway, host and supervisor always run; which nodes and links run is in the state, so those are templates
//! that the supervisor starts and stops. Nothing here touches a file: `install` writes what this says.

use std::path::Path;

use crate::config::Config;
use crate::network::places;
use crate::snapshot::{envelope::RoleId, names};

/// A file for systemd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its file name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The first line of every unit that `install` writes. Files without it are not touched.
pub const MARK: &str = "# Written by `gatehouse install`; `gatehouse uninstall` removes it.";
/// All that is installed goes by this.
pub const TARGET: &str = "gatehouse.target";

/// Every name that a unit of ours ever had.
pub const NAMES: &[&str] = &[
    "gatehouse.slice",
    TARGET,
    "gatehouse-control.service",
    "gatehouse-gateway.service",
    "gatehouse-host.service",
    "gatehouse-supervisor.service",
    "gatehouse-node@.service",
    "gatehouse-link@.service",
];

/// The unit of a node.
pub fn node_unit(vpc: &str) -> String {
    format!("gatehouse-node@{vpc}.service")
}

/// The unit of a link.
pub fn link_unit(link: &str) -> String {
    format!("gatehouse-link@{link}.service")
}

/// The units of an appliance, for the program and the boot configuration at these paths.
pub fn units(config: &Config, config_file: &Path, program: &Path) -> Vec<Unit> {
    let name = &config.name;
    let appliance = Appliance { config, config_file: &word(config_file), program: &word(program) };
    let mut units = vec![
        Unit {
            name: "gatehouse.slice".to_owned(),
            text: format!("{MARK}\n[Unit]\nDescription=Gatehouse appliance {name}\n\n[Slice]\n"),
        },
        Unit {
            name: TARGET.to_owned(),
            text: format!(
                "{MARK}\n[Unit]\nDescription=Gatehouse appliance {name}, every role\n{}Wants=network-online.target\n\
                 After=network-online.target\n\n[Install]\nWantedBy=multi-user.target\n",
                ["control", "gateway", "host", "supervisor"]
                    .map(|role| format!("Wants=gatehouse-{role}.service\n"))
                    .concat()
            ),
        },
        appliance.control(),
        appliance.gateway(),
        appliance.host(),
        appliance.supervisor(),
        appliance.node(),
    ];
    if !appliance.is_on_host() {
        units.push(appliance.link());
    }
    units
}

struct Appliance<'a> {
    config: &'a Config,
    config_file: &'a str,
    program: &'a str,
}

/// What one role's service has.
struct Service<'a> {
    name: &'a str,
    what: &'a str,
    /// Words of its command line, before and after `--config FILE`.
    role: &'a str,
    more: String,
    /// Whom `prepare` makes directories for; nothing is for what all have.
    prepare: &'a str,
    after: &'a [&'a str],
    /// The user it starts as; none is root, for a role that enters a namespace and becomes its user by itself.
    uid: Option<u32>,
    /// All that it may ever have.
    capabilities: &'a [&'a str],
    /// Kinds of sockets.
    families: &'a str,
    /// Beside `@system-service`.
    calls: &'a str,
    /// What it writes to.
    writes: Vec<String>,
    /// Its own lines.
    lines: &'a [&'a str],
    /// Whether it makes namespaces and mounts that others must see, and starts programs of others.
    is_open: bool,
}

impl Appliance<'_> {
    fn is_on_host(&self) -> bool {
        self.config.network.interfaces().is_some()
    }

    fn control(&self) -> Unit {
        let config = self.config;
        self.service(&Service {
            name: "gatehouse-control.service",
            what: "AWS's APIs, state and certificates",
            role: "control",
            more: String::new(),
            prepare: "",
            after: &["network-online.target"],
            uid: Some(config.control_uid()),
            capabilities: low_ports([config.control.listen.port()]),
            families: "AF_UNIX AF_INET AF_INET6",
            calls: "",
            // Only the front-door CA, the slices' key and the socket are for others.
            writes: [config.control_dir(), config.public_dir(), config.run_dir.clone()]
                .iter()
                .map(|path| word(path))
                .collect(),
            lines: &[],
            is_open: false,
        })
    }

    fn gateway(&self) -> Unit {
        let config = self.config;
        let ports = config.gateway.listen.iter().chain([&config.gateway.lanes]).map(|address| address.port());
        let enters = config.gateway.namespace.is_some();
        self.service(&Service {
            name: "gatehouse-gateway.service",
            what: "HTTP APIs",
            role: "gateway",
            more: String::new(),
            prepare: " --role gateway",
            after: &["network-online.target", "gatehouse-control.service"],
            uid: (!enters).then(|| config.uid_of(&RoleId::Gateway)),
            capabilities: if enters { ENTERING_AND_LOW_PORTS } else { low_ports(ports) },
            families: "AF_UNIX AF_INET AF_INET6",
            calls: if enters { "setns" } else { "" },
            writes: vec![word(&config.role_dir(&RoleId::Gateway))],
            lines: &[],
            is_open: false,
        })
    }

    fn host(&self) -> Unit {
        let config = self.config;
        let is_on_host = self.is_on_host();
        self.service(&Service {
            name: "gatehouse-host.service",
            what: if is_on_host { "load balancers' addresses" } else { "networks and tasks" },
            role: "host",
            more: String::new(),
            prepare: " --role host",
            after: &["network-online.target", "gatehouse-control.service"],
            uid: Some(0),
            capabilities: if is_on_host { &["CAP_NET_ADMIN", "CAP_NET_RAW"] } else { EVERY_CAPABILITY },
            families: "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET",
            calls: "",
            writes: vec![word(&config.role_dir(&RoleId::Host))],
            // Tasks outlive the role that started them.
            lines: if is_on_host { &[] } else { &["KillMode=process"] },
            is_open: !is_on_host,
        })
    }

    fn supervisor(&self) -> Unit {
        let config = self.config;
        self.service(&Service {
            name: "gatehouse-supervisor.service",
            what: "which nodes and links run",
            role: "supervise",
            more: String::new(),
            prepare: " --role supervisor",
            after: &["gatehouse-control.service"],
            uid: Some(0),
            // What a node pinned is the node's; when the node is no longer wanted, somebody must remove it.
            capabilities: &["CAP_DAC_OVERRIDE"],
            families: "AF_UNIX AF_INET AF_INET6",
            calls: "",
            writes: vec![
                word(&config.role_dir(&RoleId::Supervisor)),
                word(&config.run_dir),
                format!("-{}", word(&places::pins(&config.name))),
            ],
            lines: &[],
            is_open: false,
        })
    }

    fn node(&self) -> Unit {
        let config = self.config;
        let is_on_host = self.is_on_host();
        let namespace = names::node_namespace(&config.name, &"%i".into());
        self.service(&Service {
            name: "gatehouse-node@.service",
            what: "load balancers of VPC %i",
            role: "node",
            more: if is_on_host {
                " --vpc %i".to_owned()
            } else {
                format!(" --vpc %i --namespace {namespace}")
            },
            prepare: " --node %i",
            after: &["network-online.target", "gatehouse-control.service", "gatehouse-host.service"],
            uid: is_on_host.then(|| config.uid_of(&RoleId::Node("%i".into()))),
            capabilities: if is_on_host { NODE_ON_HOST } else { NODE_IN_NAMESPACE },
            families: "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
            calls: if is_on_host { "bpf" } else { "bpf setns" },
            writes: vec![
                with_instance(&config.role_dir(&RoleId::Node("".into()))),
                with_instance(&places::pins(&config.name).join("")),
            ],
            // Kernels before 5.11 count maps as locked memory.
            lines: &["LimitMEMLOCK=infinity"],
            is_open: false,
        })
    }

    fn link(&self) -> Unit {
        let config = self.config;
        let namespace = names::link_namespace(&config.name, &"%i".into());
        self.service(&Service {
            name: "gatehouse-link@.service",
            what: "VPC link %i",
            role: "link",
            more: format!(" --link %i --namespace {namespace}"),
            prepare: " --link %i",
            after: &["gatehouse-control.service", "gatehouse-host.service"],
            uid: None,
            capabilities: ENTERING,
            families: "AF_UNIX AF_INET AF_INET6",
            calls: "setns",
            writes: vec![with_instance(&config.role_dir(&RoleId::Link("".into())))],
            lines: &[],
            is_open: false,
        })
    }

    fn service(&self, service: &Service<'_>) -> Unit {
        let Self { config, config_file, program } = self;
        let mut text = format!(
            "{MARK}\n[Unit]\nDescription=Gatehouse appliance {}: {}\nPartOf={TARGET}\nWants=network-online.target\n\
             After={}\nStartLimitIntervalSec=0\n\n[Service]\nType=notify\nSlice=gatehouse.slice\n",
            config.name,
            service.what,
            service.after.join(" ")
        );
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        // The plus: as root and outside of all that follows.
        line(&format!("ExecStartPre=+{program} prepare --config {config_file}{}", service.prepare));
        line(&format!("ExecStart={program} {} --config {config_file}{}", service.role, service.more));
        for restart in RESTART {
            line(restart);
        }
        if let Some(uid) = service.uid {
            line(&format!("User={uid}"));
            line(&format!("Group={uid}"));
        }
        let capabilities = service.capabilities.join(" ");
        line(&format!("CapabilityBoundingSet={capabilities}"));
        if service.uid.is_some_and(|uid| uid != 0) && !capabilities.is_empty() {
            line(&format!("AmbientCapabilities={capabilities}"));
        }
        if !service.is_open {
            for protection in PROTECTION {
                line(protection);
            }
            line(&format!("RestrictAddressFamilies={}", service.families));
            line(format!("SystemCallFilter=@system-service {}", service.calls).trim_end());
            // A role that enters a namespace enters one of these.
            let enters = service.calls.contains("setns");
            line(if enters { "RestrictNamespaces=net" } else { "RestrictNamespaces=yes" });
            line(&format!("ReadWritePaths={}", service.writes.join(" ")));
        }
        for own in service.lines {
            line(own);
        }
        Unit { name: service.name.to_owned(), text }
    }
}

/// As the supervisor of `gatehouse run` does it: again at once, and for ever; longer than roles allow requests to finish.
const RESTART: &[&str] =
    &["Restart=always", "RestartSec=500ms", "TimeoutStopSec=20", "LimitNOFILE=524288", "NoNewPrivileges=yes"];

/// What no role but a host role with tasks needs.
const PROTECTION: &[&str] = &[
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM",
];

/// The capability for ports below 1024, if one of these is.
fn low_ports(ports: impl IntoIterator<Item = u16>) -> &'static [&'static str] {
    if ports.into_iter().any(|port| port < 1_024) { &["CAP_NET_BIND_SERVICE"] } else { &[] }
}

/// To enter a namespace, and to become another user after that.
const ENTERING: &[&str] = &["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID"];
const ENTERING_AND_LOW_PORTS: &[&str] =
    &["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"];
const NODE_ON_HOST: &[&str] =
    &["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_NET_BIND_SERVICE"];
const NODE_IN_NAMESPACE: &[&str] =
    &["CAP_BPF", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID"];
/// Namespaces, mounts, packet filters, cgroups, and processes of other users.
const EVERY_CAPABILITY: &[&str] = &["~"];

/// A path as one word of a unit: quoted, and without a meaning for systemd.
fn word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+,=".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    let mut word = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => word.extend(['\\', c]),
            '%' | '$' => word.extend([c, c]),
            _ => word.push(c),
        }
    }
    word.push('"');
    word
}

/// A path that ends in the instance's name, which need not be there.
fn with_instance(path: &Path) -> String {
    let word = word(path);
    match word.strip_suffix('"') {
        Some(open) => format!("-{open}%i\""),
        None => format!("-{word}%i"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(network: &str, gateway: &str) -> Config {
        let text = format!(
            "name = \"edge\"\n[gateway]\nlisten = [\"0.0.0.0:443\"]\nlanes = \"0.0.0.0:8443\"\n{gateway}\n[network]\n{network}\n"
        );
        toml::from_str(&text).unwrap()
    }

    fn on_host() -> Vec<Unit> {
        let config = config("driver = \"host\"\ninterfaces = [\"eth1\"]", "");
        units(&config, Path::new("/etc/gatehouse/gatehouse.toml"), Path::new("/usr/bin/gatehouse"))
    }

    fn lines<'a>(units: &'a [Unit], name: &str, key: &str) -> Vec<&'a str> {
        let unit = units.iter().find(|unit| unit.name == name).unwrap_or_else(|| panic!("no {name}"));
        let values = unit.text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.collect()
    }

    #[test]
    fn every_unit_has_a_known_name_and_the_mark() {
        let config = config("driver = \"virtual\"", "");
        for unit in on_host().iter().chain(&units(&config, Path::new("/c"), Path::new("/g"))) {
            assert!(NAMES.contains(&unit.name.as_str()), "{}", unit.name);
            assert_eq!(unit.text.lines().next(), Some(MARK));
        }
    }

    #[test]
    fn each_role_starts_as_its_user_with_its_capabilities_and_nothing_else() {
        let units = on_host();
        let facts = |name: &str| {
            (
                lines(&units, name, "User").concat(),
                lines(&units, name, "CapabilityBoundingSet").concat(),
                lines(&units, name, "AmbientCapabilities").concat(),
            )
        };
        let fact = |user: &str, bounding: &str, ambient: &str| {
            (user.to_owned(), bounding.to_owned(), ambient.to_owned())
        };
        let bind = "CAP_NET_BIND_SERVICE";
        let node = "CAP_BPF CAP_NET_ADMIN CAP_NET_RAW CAP_PERFMON CAP_NET_BIND_SERVICE";
        assert_eq!(facts("gatehouse-control.service"), fact("64100", "", ""));
        assert_eq!(facts("gatehouse-gateway.service"), fact("64101", bind, bind));
        assert_eq!(facts("gatehouse-host.service"), fact("0", "CAP_NET_ADMIN CAP_NET_RAW", ""));
        assert_eq!(facts("gatehouse-supervisor.service"), fact("0", "CAP_DAC_OVERRIDE", ""));
        assert_eq!(facts("gatehouse-node@.service"), fact("64103", node, node));
    }

    #[test]
    fn every_service_is_protected_and_writes_only_to_its_own() {
        let units = on_host();
        for unit in units.iter().filter(|unit| unit.name.ends_with(".service")) {
            for protection in PROTECTION {
                assert!(unit.text.contains(&format!("{protection}\n")), "{}: {protection}", unit.name);
            }
        }
        assert_eq!(
            lines(&units, "gatehouse-node@.service", "ReadWritePaths"),
            ["-/var/lib/gatehouse/node-%i -/sys/fs/bpf/gatehouse-edge/%i"]
        );
        assert_eq!(
            lines(&units, "gatehouse-gateway.service", "ReadWritePaths"),
            ["/var/lib/gatehouse/gateway"]
        );
    }

    #[test]
    fn a_role_that_enters_a_namespace_starts_as_root_and_may_do_that() {
        let config = config("driver = \"virtual\"", "namespace = \"front\"");
        let units = units(&config, Path::new("/c"), Path::new("/g"));
        for (name, namespace) in [
            ("gatehouse-node@.service", "--namespace gh-edge-node-%i"),
            ("gatehouse-link@.service", "--namespace gh-edge-link-%i"),
            ("gatehouse-gateway.service", ""),
        ] {
            assert!(lines(&units, name, "User").is_empty(), "{name}");
            assert!(lines(&units, name, "CapabilityBoundingSet")[0].contains("CAP_SYS_ADMIN"), "{name}");
            assert!(lines(&units, name, "ExecStart")[0].ends_with(namespace), "{name}");
            assert_eq!(lines(&units, name, "RestrictNamespaces"), ["net"], "{name}");
        }
        assert!(
            lines(&units, "gatehouse-host.service", "ProtectSystem").is_empty(),
            "it mounts namespaces for all"
        );
    }

    #[test]
    fn paths_are_single_words_whatever_is_in_them() {
        assert_eq!(word(Path::new("/usr/bin/gatehouse")), "/usr/bin/gatehouse");
        assert_eq!(word(Path::new("/srv/a b/100%/$x/\"q\"")), r#""/srv/a b/100%%/$$x/\"q\"""#);
    }
}
