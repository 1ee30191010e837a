//! The boot configuration: one small TOML file with addresses, paths, threads, credentials and which network.
//!
//! What the data planes do is not here: that is configured through AWS's APIs and templates. Unknown keys are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::snapshot::envelope::RoleId;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The appliance's name, 1–16 lower-case letters, digits and hyphens: part of every namespace, pin and cgroup that
    /// it makes, so that two appliances on one host never meet.
    pub name: String,
    /// Region of resources when a request names none.
    #[serde(default = "default_region")]
    pub region: String,
    /// The account that owns everything, 12 digits.
    #[serde(default = "default_account")]
    pub account: String,
    /// Where state, keys and last good slices last.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Where sockets and the ready file live.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// First of five user ids in a row that roles run under: control, gateway, link, node, tasks. They need no entry in
    /// the user database; no other process should have them.
    #[serde(default = "default_first_uid")]
    pub first_uid: u32,
    /// The control role.
    #[serde(default)]
    pub control: ControlConfig,
    /// The gateway role.
    pub gateway: GatewayConfig,
    /// Link roles.
    #[serde(default)]
    pub link: LinkConfig,
    /// Node roles.
    #[serde(default)]
    pub node: NodeConfig,
    /// The network.
    pub network: NetworkConfig,
    /// Tasks.
    #[serde(default)]
    pub tasks: TasksConfig,
    /// Logs.
    #[serde(default)]
    pub log: LogConfig,
}

/// The control role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Where AWS's APIs are served, over TLS.
    pub listen: SocketAddr,
    /// Host names of the endpoint, beside `localhost` and its address; its certificate names them all.
    pub host_names: Vec<String>,
    /// Where metrics are served, over plain HTTP; none serves none.
    pub metrics: Option<SocketAddr>,
}

/// The gateway role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Network namespace to work in; none is the host's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Where HTTP APIs are served, over TLS.
    pub listen: Vec<SocketAddr>,
    /// Where links dial in; must be reachable from the VPCs' uplinks.
    pub lanes: SocketAddr,
    /// Suffix of default host names: `<API>.execute-api.<region>.<suffix>`.
    #[serde(default = "default_domain_suffix")]
    pub domain_suffix: String,
    /// Worker threads; 0 is one per core.
    #[serde(default)]
    pub workers: usize,
    /// Where metrics are served, over plain HTTP; none serves none.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
}

/// Link roles.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkConfig {
    /// Port of each link's metrics on its namespace's loopback; none serves none.
    pub metrics_port: Option<u16>,
}

/// Node roles.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Worker threads of each node's application load balancers; 0 is one per core.
    pub workers: usize,
    /// Port of each node's metrics on its namespace's loopback; none serves none.
    pub metrics_port: Option<u16>,
    /// DNS servers that are asked, in this order, for names that no private namespace of the VPC holds; at most three.
    /// They are reached through the VPC's uplink, if they are not in the VPC. None refuses such names.
    pub dns_forward: Vec<SocketAddrV4>,
    /// Flows of each family that each node's network load balancers may have at once; none is 131,072. When it changes,
    /// flows end.
    pub flows: Option<u32>,
    /// New flows that each node's network load balancers may begin in a second and that are not established in it; none
    /// leaves half of the flow table to established ones.
    pub new_flows_per_second: Option<NonZeroU32>,
    /// The same for each source address; none is no limit.
    pub new_flows_per_source: Option<NonZeroU32>,
    /// Whether processes of the cgroup `gatehouse-NAME/clients` on this host are led to targets as they connect to
    /// network load balancers.
    pub steer_local_clients: bool,
}

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "driver", rename_all = "lowercase")]
pub enum NetworkConfig {
    /// Every VPC is a namespace, every subnet a bridge in it.
    Virtual {
        /// How VPCs reach the gateways; none leaves them without a way out.
        #[serde(default)]
        uplink: Option<UplinkConfig>,
    },
    /// Every subnet is an interface of this host: the one whose address lies in its range.
    Host {
        /// Interfaces that load balancers may use. No other is ever touched.
        interfaces: Vec<String>,
    },
}

impl NetworkConfig {
    /// The host's interfaces that load balancers may use; `None` where the network is made by us.
    pub fn interfaces(&self) -> Option<&[String]> {
        match self {
            Self::Virtual { .. } => None,
            Self::Host { interfaces } => Some(interfaces),
        }
    }
}

impl NetworkConfig {
    /// Whether the driver gives each VPC's resolver its address.
    pub fn has_resolvers(&self) -> bool {
        match self {
            Self::Virtual { .. } => true,
            Self::Host { .. } => false,
        }
    }
}

/// The network between VPCs and gateways: each VPC gets an address on it and may only dial out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkConfig {
    /// Namespace of the bridge; none is the host's own.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The bridge that VPCs are joined to.
    pub bridge: String,
    /// Addresses for VPCs: the one with number `first_host + index`.
    pub cidr: Ipv4Net,
    /// The first host number in `cidr` that is given to a VPC.
    #[serde(default = "default_first_host")]
    pub first_host: u32,
    /// Next hop towards the gateways.
    pub router: Ipv4Addr,
}

/// Tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TasksConfig {
    /// Programs by image name: the process driver runs these arguments, then the container's command.
    pub images: BTreeMap<String, Vec<String>>,
}

/// Logs, written to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A tracing filter such as `info` or `info,lb_userspace::proxy=debug`.
    pub filter: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML of our form.
    #[error("{path} is not a configuration")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("{key}: {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it must be.
        problem: &'static str,
    },
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When it cannot be read, has a key that does not exist, or a value that cannot be.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, problem| Err(ConfigError::Value { key, problem });
        let is_name_character = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !(1..=16).contains(&self.name.len()) || !self.name.chars().all(is_name_character) {
            return refuse("name", "must be 1 to 16 lower-case letters, digits and hyphens");
        }
        if self.account.len() != 12 || !self.account.bytes().all(|b| b.is_ascii_digit()) {
            return refuse("account", "must be 12 digits");
        }
        if self.first_uid == 0 {
            return refuse("first_uid", "must not be root's");
        }
        if let Some(interfaces) = self.network.interfaces() {
            let is_name = |name: &String| {
                (1..=15).contains(&name.len())
                    && name != "."
                    && name != ".."
                    && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
            };
            if interfaces.is_empty() || !interfaces.iter().all(is_name) {
                return refuse("network.interfaces", "must name at least one interface of this host");
            }
            if interfaces.iter().any(|name| name == "lo") {
                return refuse("network.interfaces", "must not name the loopback interface");
            }
            let unique: BTreeSet<_> = interfaces.iter().collect();
            if unique.len() != interfaces.len() {
                return refuse("network.interfaces", "must not name an interface twice");
            }
        }
        if self.gateway.listen.is_empty() {
            return refuse("gateway.listen", "must name at least one address");
        }
        if self.node.flows.is_some_and(|flows| !(FLOWS_MIN..=FLOWS_MAX).contains(&flows)) {
            return refuse("node.flows", "must be between 1,024 and 4,194,304");
        }
        if self.node.steer_local_clients && self.network.interfaces().is_none() {
            return refuse(
                "node.steer_local_clients",
                "must be false where the network is virtual: a process of this host is in no VPC, and reaches none of its targets",
            );
        }
        if self.node.dns_forward.len() > DNS_SERVERS_MAX {
            return refuse("node.dns_forward", "must name at most three servers");
        }
        if self.node.dns_forward.iter().any(|server| !is_dns_server(server)) {
            return refuse("node.dns_forward", "must be addresses of other machines with a port");
        }
        Ok(())
    }

    /// The user that a role runs under; the supervisor and the host are root.
    pub fn uid_of(&self, role: &RoleId) -> u32 {
        match role {
            RoleId::Supervisor | RoleId::Host => 0,
            RoleId::Gateway => self.first_uid + 1,
            RoleId::Link(_) => self.first_uid + 2,
            RoleId::Node(_) => self.first_uid + 3,
        }
    }

    /// The user that control runs under.
    pub fn control_uid(&self) -> u32 {
        self.first_uid
    }

    /// The user that tasks run under.
    pub fn tasks_uid(&self) -> u32 {
        self.first_uid + 4
    }

    /// Control's own directory: state and keys, for nobody else.
    pub fn control_dir(&self) -> PathBuf {
        self.state_dir.join("control")
    }

    /// What control shows everybody on this host: the front-door CA and the key that slices are verified with.
    pub fn public_dir(&self) -> PathBuf {
        self.state_dir.join("public")
    }

    /// The front-door CA's certificate, PEM: the only one a user trusts.
    pub fn ca_file(&self) -> PathBuf {
        self.public_dir().join("front-door-ca.pem")
    }

    /// The key that slices are verified with, 32 bytes.
    pub fn slice_key_file(&self) -> PathBuf {
        self.public_dir().join("slice.pub")
    }

    /// Access keys, in the form of `~/.aws/credentials`, mode 0600.
    pub fn credentials_file(&self) -> PathBuf {
        self.control_dir().join("credentials")
    }

    /// A role's own directory: its last good slice, and what it keeps over a restart.
    pub fn role_dir(&self, role: &RoleId) -> PathBuf {
        self.state_dir.join(role.to_string())
    }

    /// Where the host role records which addresses it put on the host's interfaces.
    pub fn addresses_file(&self) -> PathBuf {
        self.role_dir(&RoleId::Host).join("addresses")
    }

    /// Control's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// A role's admin socket.
    pub fn admin_socket(&self, role: &RoleId) -> PathBuf {
        self.run_dir.join(format!("{role}{ADMIN_SOCKET}"))
    }

    /// The admin sockets of the nodes on this host, or of one VPC's.
    pub fn node_admin_sockets(&self, vpc: Option<&str>) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.run_dir).into_iter().flatten().flatten();
        let mut sockets: Vec<PathBuf> = entries
            .filter(|entry| {
                let name = entry.file_name();
                let role = name.to_str().and_then(|name| name.strip_suffix(ADMIN_SOCKET));
                let own = role.and_then(|role| role.strip_prefix("node-"));
                own.is_some_and(|own| vpc.is_none_or(|vpc| vpc == own))
            })
            .map(|entry| entry.path())
            .collect();
        sockets.sort();
        sockets
    }

    /// Written by the supervisor once control serves.
    pub fn ready_file(&self) -> PathBuf {
        self.run_dir.join("ready.json")
    }

    /// Where the appliance pins its programs and maps.
    pub fn bpffs_dir(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("gatehouse-{}", self.name))
    }
}

impl Default for ControlConfig {
    fn default() -> Self {
        let listen = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4566);
        Self { listen, host_names: Vec::new(), metrics: None }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// A node has no other machine's loopback, and asks one server at a time.
fn is_dns_server(server: &SocketAddrV4) -> bool {
    let address = server.ip();
    let is_nobodys = address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_link_local();
    !is_nobodys && server.port() != 0
}

/// Fewer flows than this are no load balancer's.
const FLOWS_MIN: u32 = 1_024;
/// A gigabyte of kernel memory and more; and a pass over so many takes half a minute.
const FLOWS_MAX: u32 = 1 << 22;

/// As many as resolv.conf may name: more would take longer than a client waits.
const DNS_SERVERS_MAX: usize = 3;

/// How the names of admin sockets end.
const ADMIN_SOCKET: &str = ".admin.sock";

fn default_region() -> String {
    "eu-central-1".to_owned()
}

fn default_account() -> String {
    "000000000000".to_owned()
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/gatehouse")
}

fn default_run_dir() -> PathBuf {
    PathBuf::from("/run/gatehouse")
}

fn default_first_uid() -> u32 {
    64_100
}

fn default_first_host() -> u32 {
    10
}

fn default_domain_suffix() -> String {
    "amazonaws.com".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        name = "lab"
        [gateway]
        listen = ["198.51.100.10:443"]
        lanes = "198.51.100.10:8443"
        [network]
        driver = "virtual"
    "#;

    #[test]
    fn a_small_file_is_enough() {
        let config: Config = toml::from_str(SMALL).unwrap();
        config.check().unwrap();
        assert_eq!(config.control.listen.port(), 4566);
    }

    #[test]
    fn dns_servers_are_a_few_addresses_of_other_machines() {
        let check = |servers: &str| {
            let config: Config =
                toml::from_str(&format!("{SMALL}\n[node]\ndns_forward = [{servers}]")).unwrap();
            config.check().map_err(|error| error.to_string())
        };
        check(r#""192.0.2.53:53", "198.51.100.53:5353""#).unwrap();
        for servers in [
            r#""127.0.0.53:53""#,
            r#""0.0.0.0:53""#,
            r#""192.0.2.53:0""#,
            r#""192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53", "192.0.2.4:53""#,
        ] {
            let error = check(servers).unwrap_err();
            assert!(error.starts_with("node.dns_forward: must "), "{servers}: {error}");
        }
    }

    #[test]
    fn the_host_driver_names_interfaces_once_and_never_loopback() {
        let with = |interfaces: &str| {
            let text = SMALL.replace("\"virtual\"", &format!("\"host\"\ninterfaces = {interfaces}"));
            toml::from_str::<Config>(&text).unwrap().check().map_err(|error| error.to_string())
        };
        assert_eq!(with(r#"["eth1", "bond0.12"]"#), Ok(()));
        for refused in ["[]", r#"["lo"]"#, r#"["eth1", "eth1"]"#, r#"["eth 1"]"#, r#"["an-overlong-name"]"#] {
            assert!(with(refused).unwrap_err().starts_with("network.interfaces: must"), "{refused}");
        }
        let missing = SMALL.replace("\"virtual\"", "\"host\"");
        assert!(toml::from_str::<Config>(&missing).unwrap_err().to_string().contains("interfaces"));
    }

    #[test]
    fn a_flow_table_has_a_size_that_can_be_had() {
        let of = |flows: &str| {
            let config: Config = toml::from_str(&format!("{SMALL}\n[node]\nflows = {flows}")).unwrap();
            config.check().map_err(|error| error.to_string())
        };
        of("1024").unwrap();
        of("4194304").unwrap();
        for flows in ["0", "1023", "4194305"] {
            assert!(of(flows).unwrap_err().contains("node.flows"), "{flows}");
        }
    }

    #[test]
    fn local_clients_are_steered_on_request_and_on_the_hosts_own_network_alone() {
        let asked = |network: &str| {
            let text = SMALL.replace("\"virtual\"", network);
            toml::from_str::<Config>(&format!("{text}\n[node]\nsteer_local_clients = true")).unwrap()
        };
        assert!(!toml::from_str::<Config>(SMALL).unwrap().node.steer_local_clients);
        let on_host = asked("\"host\"\ninterfaces = [\"eth1\"]");
        on_host.check().unwrap();
        assert!(on_host.node.steer_local_clients);
        let error = asked("\"virtual\"").check().unwrap_err().to_string();
        assert!(error.starts_with("node.steer_local_clients: must be false"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<Config>(&format!("colour = 1\n{SMALL}")).unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
    }
}
