//! The state: one persistent table per kind of resource, and a draft of its next version.
//!
//! A `State` is cheap to clone (structure is shared), so a draft that fails is simply dropped and a snapshot compiles
//! from a version that nobody changes. What a draft wrote is recorded for the store, which commits it before the
//! answer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use imbl::OrdMap;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    api::{Api, Deployment, Integration, Route, Stage, VpcLink},
    certificate::{Certificate, IssuedCertificate},
    discovery::{DiscoveryInstance, DiscoveryService, Namespace, Operation},
    id::TimestampMs,
    load_balancer::{Listener, LoadBalancer, Rule},
    network::{ElasticIp, Instance, Interface, SecurityGroup, Subnet, Vpc},
    stack::Stack,
    target_group::{Target, TargetAddressType, TargetGroup},
    task::{Cluster, EcsService, Task, TaskDefinition},
    underlay::{TakenAddress, Underlay},
};

/// Resources of one kind by key, in key order.
pub type Table<T> = OrdMap<String, Arc<T>>;

/// A kind of resource that the state holds.
pub trait Resource: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The table's name in the store; never changes once released.
    const TABLE: &'static str;
    /// Where this resource stands in its table.
    fn key(&self) -> String;
    /// Its table.
    fn table(state: &State) -> &Table<Self>;
    /// Its table, to change.
    fn table_mut(state: &mut State) -> &mut Table<Self>;
}

/// A stored row that cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Written by a newer version, or by nobody we know.
    #[error("table {0:?} is unknown to this version")]
    UnknownTable(String),
    /// The row does not have the shape of its table.
    #[error("row {key:?} of table {table:?} is not readable")]
    Malformed {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

macro_rules! tables {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $name:literal, |$row:ident| $key:expr;)+) => {
        /// Every resource that the control plane holds.
        #[derive(Clone, Default)]
        pub struct State {
            $($(#[$doc])* pub $field: Table<$type>,)+
        }

        impl State {
            /// Puts one stored row back.
            ///
            /// # Errors
            /// When the table is unknown or the row does not have its shape.
            pub fn load(&mut self, table: &str, key: &str, value: &[u8]) -> Result<(), LoadError> {
                match table {
                    $($name => {
                        let row: $type = serde_json::from_slice(value).map_err(|source| LoadError::Malformed {
                            table: $name,
                            key: key.to_owned(),
                            source,
                        })?;
                        self.$field.insert(key.to_owned(), Arc::new(row));
                        Ok(())
                    })+
                    _ => Err(LoadError::UnknownTable(table.to_owned())),
                }
            }
        }

        $(impl Resource for $type {
            const TABLE: &'static str = $name;
            fn key(&self) -> String {
                let $row = self;
                $key
            }
            fn table(state: &State) -> &Table<Self> {
                &state.$field
            }
            fn table_mut(state: &mut State) -> &mut Table<Self> {
                &mut state.$field
            }
        })+
    };
}

tables! {
    /// By id.
    vpcs: Vpc = "vpc", |r| r.id.0.clone();
    /// By id.
    subnets: Subnet = "subnet", |r| r.id.0.clone();
    /// By id.
    security_groups: SecurityGroup = "security-group", |r| r.id.0.clone();
    /// By id.
    interfaces: Interface = "interface", |r| r.id.0.clone();
    /// There is one at most.
    underlays: Underlay = "underlay", |_r| "host".to_owned();
    /// By `<subnet>/<address>`.
    taken_addresses: TakenAddress = "taken-address", |r| format!("{}/{}", r.subnet_id, r.address);
    /// By allocation id.
    elastic_ips: ElasticIp = "elastic-ip", |r| r.allocation_id.clone();
    /// By id.
    instances: Instance = "instance", |r| r.id.0.clone();
    /// By ARN.
    certificates: Certificate = "certificate", |r| r.arn.0.clone();
    /// By subject.
    issued_certificates: IssuedCertificate = "issued-certificate", |r| r.subject.clone();
    /// By ARN.
    load_balancers: LoadBalancer = "load-balancer", |r| r.arn.0.clone();
    /// By ARN.
    listeners: Listener = "listener", |r| r.arn.0.clone();
    /// By ARN.
    rules: Rule = "rule", |r| r.arn.0.clone();
    /// By ARN.
    target_groups: TargetGroup = "target-group", |r| r.arn.0.clone();
    /// By `<target group ARN>|<id>|<port, five digits>`, so that a group's targets stand together.
    targets: Target = "target", |r| format!("{}|{}|{:05}", r.target_group_arn, r.key.id, r.key.port);
    /// By id.
    apis: Api = "api", |r| r.id.0.clone();
    /// By `<API>/<id>`.
    routes: Route = "route", |r| format!("{}/{}", r.api_id, r.id);
    /// By `<API>/<id>`.
    integrations: Integration = "integration", |r| format!("{}/{}", r.api_id, r.id);
    /// By `<API>/<name>`.
    stages: Stage = "stage", |r| format!("{}/{}", r.api_id, r.name);
    /// By `<API>/<id>`.
    deployments: Deployment = "deployment", |r| format!("{}/{}", r.api_id, r.id);
    /// By id.
    vpc_links: VpcLink = "vpc-link", |r| r.id.0.clone();
    /// By id.
    namespaces: Namespace = "namespace", |r| r.id.clone();
    /// By id.
    discovery_services: DiscoveryService = "discovery-service", |r| r.id.clone();
    /// By `<service>/<id>`.
    discovery_instances: DiscoveryInstance = "discovery-instance", |r| format!("{}/{}", r.service_id, r.id);
    /// By id.
    operations: Operation = "operation", |r| r.id.clone();
    /// By ARN.
    clusters: Cluster = "cluster", |r| r.arn.0.clone();
    /// By `<family>:<revision, eight digits>`.
    task_definitions: TaskDefinition = "task-definition", |r| format!("{}:{:08}", r.family, r.revision);
    /// By ARN.
    services: EcsService = "service", |r| r.arn.0.clone();
    /// By ARN.
    tasks: Task = "task", |r| r.arn.0.clone();
    /// By ARN.
    stacks: Stack = "stack", |r| r.arn.0.clone();
}

impl State {
    /// The host's own interfaces, where subnets are on those.
    pub fn underlay(&self) -> Option<&Underlay> {
        self.underlays.values().next().map(AsRef::as_ref)
    }

    /// The rows of a table whose key starts with `prefix`, in key order.
    pub fn with_prefix<'a, T: Resource>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<T>> + 'a {
        T::table(self)
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(_, row)| row)
    }

    /// An instance's address of a family, if it has one.
    pub fn instance_address(&self, instance: &Instance, family: TargetAddressType) -> Option<IpAddr> {
        match family {
            TargetAddressType::Ipv4 => Some(instance.address.into()),
            TargetAddressType::Ipv6 => {
                self.interfaces.get(instance.interface_id.as_str())?.ipv6.map(IpAddr::V6)
            }
        }
    }
}

/// A row that can be written to the store.
pub trait Encode: Send + Sync {
    /// The row as JSON.
    ///
    /// # Errors
    /// When the row cannot be written as JSON.
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error>;
}

impl<T: Serialize + Send + Sync> Encode for T {
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

/// What a draft changed: by table and key, the new row, or `None` for a removed one.
pub type Writes = BTreeMap<(&'static str, String), Option<Arc<dyn Encode>>>;

/// The next version of the state while one operation edits it. Dropping it undoes everything.
pub struct Draft {
    state: State,
    writes: Writes,
    now: TimestampMs,
    seed: [u8; 32],
    drawn: u64,
}

impl Draft {
    /// Starts from `state`; identifiers are drawn from `seed`, which must be fresh randomness outside tests.
    pub fn new(state: State, now: TimestampMs, seed: [u8; 32]) -> Self {
        Self { state, writes: Writes::new(), now, seed, drawn: 0 }
    }

    /// The state as edited so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When the operation runs.
    pub fn now(&self) -> TimestampMs {
        self.now
    }

    /// The row at `key`.
    pub fn one<T: Resource>(&self, key: &str) -> Option<&Arc<T>> {
        T::table(&self.state).get(key)
    }

    /// All rows of a kind, in key order.
    pub fn all<T: Resource>(&self) -> impl Iterator<Item = &Arc<T>> {
        T::table(&self.state).values()
    }

    /// Adds or replaces a row.
    pub fn put<T: Resource>(&mut self, row: T) {
        let (key, row) = (row.key(), Arc::new(row));
        self.writes.insert((T::TABLE, key.clone()), Some(Arc::clone(&row) as Arc<dyn Encode>));
        T::table_mut(&mut self.state).insert(key, row);
    }

    /// Edits the row at `key` in place; answers whether there was one.
    pub fn edit<T: Resource>(&mut self, key: &str, change: impl FnOnce(&mut T)) -> bool {
        let Some(row) = self.one::<T>(key) else { return false };
        let mut row = T::clone(row);
        change(&mut row);
        self.put(row);
        true
    }

    /// Removes a row; answers whether there was one.
    pub fn remove<T: Resource>(&mut self, key: &str) -> bool {
        let removed = T::table_mut(&mut self.state).remove(key).is_some();
        if removed {
            self.writes.insert((T::TABLE, key.to_owned()), None);
        }
        removed
    }

    /// `digits` random lower-case hex digits, at most 64.
    pub fn hex(&mut self, digits: usize) -> String {
        self.draw().iter().flat_map(|byte| [byte >> 4, byte & 15]).take(digits).map(hex_digit).collect()
    }

    /// `length` random lower-case letters and digits, at most 32, the first a letter.
    pub fn alphanumerics(&mut self, length: usize) -> String {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let drawn = self.draw();
        drawn
            .iter()
            .enumerate()
            .take(length)
            .map(|(at, byte)| {
                let choices = if at == 0 { 26 } else { 36 };
                char::from(ALPHABET[usize::from(*byte) % choices])
            })
            .collect()
    }

    /// A random version-4 UUID.
    pub fn uuid(&mut self) -> String {
        let hex = self.hex(32);
        format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
    }

    /// Runs a part of an operation that may fail on its own: when it does, what it wrote is undone and the rest stays.
    ///
    /// # Errors
    /// What the part answers.
    pub fn attempt<T, E>(&mut self, part: impl FnOnce(&mut Self) -> Result<T, E>) -> Result<T, E> {
        let (state, writes) = (self.state.clone(), self.writes.clone());
        part(self).inspect_err(|_| (self.state, self.writes) = (state, writes))
    }

    /// Whether anything was written.
    pub fn is_changed(&self) -> bool {
        !self.writes.is_empty()
    }

    /// The edited state and what was written.
    pub fn finish(self) -> (State, Writes) {
        (self.state, self.writes)
    }

    fn draw(&mut self) -> [u8; 32] {
        let mut block = [0; 40];
        block[..32].copy_from_slice(&self.seed);
        block[32..].copy_from_slice(&self.drawn.to_le_bytes());
        self.drawn += 1;
        let mut drawn = [0; 32];
        drawn.copy_from_slice(digest::digest(&digest::SHA256, &block).as_ref());
        drawn
    }
}

fn hex_digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{id::Arn, task::Cluster};

    fn cluster(name: &str) -> Cluster {
        let arn = Arn::new("ecs", "eu-central-1", "000000000000", format_args!("cluster/{name}"));
        Cluster { arn, name: name.to_owned(), status: "ACTIVE".to_owned(), tags: Vec::new() }
    }

    #[test]
    fn a_dropped_draft_leaves_the_state_as_it_was() {
        let state = State::default();
        let mut draft = Draft::new(state.clone(), 0, [7; 32]);
        draft.put(cluster("one"));
        assert_eq!(draft.state().clusters.len(), 1);
        assert!(state.clusters.is_empty());
    }

    #[test]
    fn what_a_draft_wrote_loads_back() {
        let mut draft = Draft::new(State::default(), 0, [7; 32]);
        draft.put(cluster("one"));
        draft.put(cluster("two"));
        draft.remove::<Cluster>(&cluster("two").key());
        let (state, writes) = draft.finish();
        let mut loaded = State::default();
        for ((table, key), row) in &writes {
            if let Some(row) = row {
                loaded.load(table, key, &row.encode().unwrap()).unwrap();
            }
        }
        assert_eq!(loaded.clusters, state.clusters);
        assert_eq!(writes.len(), 2, "a removal is recorded too");
    }

    #[test]
    fn drawn_identifiers_have_their_forms_and_differ() {
        let mut draft = Draft::new(State::default(), 0, [7; 32]);
        assert_eq!(draft.hex(17).len(), 17);
        assert_ne!(draft.hex(16), draft.hex(16));
        assert!(draft.alphanumerics(10).starts_with(|c: char| c.is_ascii_lowercase()));
        assert_eq!(draft.uuid().len(), 36);
    }
}
