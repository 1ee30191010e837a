//! ec2: instances, thin: a machine with an address in a subnet, on which tasks run.
//!
//! As on AWS, `ECS_CLUSTER=<name>` in an instance's user data makes it a container instance of that cluster; nothing
//! else of the user data is looked at. The host role makes the machine's namespace and reports it running.

use std::net::Ipv6Addr;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{
        Selection, TagSpecification, by_id, check_named, ec2_operation, is_named, specified_tags, wire_tags,
    },
    interfaces, underlay,
};
use crate::model::{
    id::{InstanceId, SecurityGroupId, TimestampMs},
    network::{Instance, InstanceState, Interface, InterfaceOwner, SecurityGroup, Subnet},
    state::Draft,
    task::{Task, TaskStatus},
};

/// The operations on instances.
pub const OPERATIONS: &[Entry] = &[
    ec2_operation!("RunInstances", run),
    ec2_operation!("DescribeInstances", describe),
    ec2_operation!("TerminateInstances", terminate),
];

/// Takes instances that are shut down to their end: once none of their tasks is left they are terminated and their
/// address is free, and an hour later they are forgotten. Answers when it wants to be run again.
pub fn reconcile(draft: &mut Draft) -> Option<TimestampMs> {
    let mut wake: Option<TimestampMs> = None;
    let instances: Vec<_> = draft.all::<Instance>().cloned().collect();
    for instance in instances {
        match instance.state {
            InstanceState::ShuttingDown => {
                let runs_here =
                    |task: &Task| task.instance_id == instance.id && task.last_status < TaskStatus::Stopped;
                if draft.all::<Task>().any(|task| runs_here(task)) {
                    continue;
                }
                interfaces::detach_all(draft, &InterfaceOwner::Instance(instance.id.clone()));
                let at = draft.now();
                draft.edit::<Instance>(instance.id.as_str(), |row| {
                    row.state = InstanceState::Terminated { at }
                });
                wake = earlier(wake, at + TERMINATED_SHOWN_MS);
            }
            InstanceState::Terminated { at } if draft.now() >= at + TERMINATED_SHOWN_MS => {
                draft.remove::<Instance>(instance.id.as_str());
            }
            InstanceState::Terminated { at } => wake = earlier(wake, at + TERMINATED_SHOWN_MS),
            InstanceState::Pending | InstanceState::Running => {}
        }
    }
    wake
}

fn earlier(one: Option<TimestampMs>, other: TimestampMs) -> Option<TimestampMs> {
    Some(one.map_or(other, |one| one.min(other)))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunInput {
    image_id: Option<String>,
    instance_type: Option<String>,
    min_count: u32,
    max_count: u32,
    subnet_id: Option<String>,
    private_ip_address: Option<String>,
    #[serde(flatten)]
    ipv6: Ipv6Input,
    #[serde(default)]
    security_group_ids: Vec<String>,
    #[serde(default)]
    network_interfaces: Vec<NetworkInterface>,
    user_data: Option<String>,
    #[serde(default)]
    tag_specifications: Vec<TagSpecification>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkInterface {
    subnet_id: Option<String>,
    private_ip_address: Option<String>,
    #[serde(flatten)]
    ipv6: Ipv6Input,
    #[serde(default)]
    groups: Vec<String>,
}

/// What a request says of an instance's IPv6 address, in either place.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipv6Input {
    ipv6_address_count: Option<u32>,
    ipv6_addresses: Vec<Ipv6AddressInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipv6AddressInput {
    ipv6_address: Option<String>,
}

impl Ipv6Input {
    fn is_given(&self) -> bool {
        self.ipv6_address_count.is_some() || !self.ipv6_addresses.is_empty()
    }

    /// The next instance's IPv6 address, if it is to have one.
    fn address(&self, draft: &Draft, subnet: &Subnet) -> Result<Option<Ipv6Addr>, ApiError> {
        let count = self.ipv6_addresses.len() as u64 + u64::from(self.ipv6_address_count.unwrap_or(0));
        if count > 1 {
            return Err(ApiError::validation(
                "Ipv6Addresses and Ipv6AddressCount ask for more than one address, and an instance has one here",
            ));
        }
        if count == 0 && (self.is_given() || !subnet.assign_ipv6) {
            return Ok(None);
        }
        if subnet.ipv6.is_none() {
            return Err(ApiError::validation(format!(
                "Ipv6Addresses and Ipv6AddressCount need an IPv6 CIDR block, and subnet '{}' has none",
                subnet.id
            )));
        }
        let Some(given) = self.ipv6_addresses.first() else {
            return Ok(interfaces::free_ipv6(draft.state(), subnet));
        };
        let text = given.ipv6_address.as_deref().ok_or_else(|| ApiError::missing("Ipv6Address"))?;
        let address = text
            .parse()
            .map_err(|_| ApiError::validation(format!("invalid value for parameter Ipv6Address: {text}")))?;
        if !subnet.is_assignable6(address) {
            return Err(ApiError::validation(format!(
                "Ipv6Address {text} does not fall within the subnet's address range"
            )));
        }
        if !interfaces::is_free6(draft.state(), subnet, address) {
            return Err(ApiError::conflict("InvalidIPAddress.InUse", format!("Address {text} is in use.")));
        }
        Ok(Some(address))
    }
}

fn run(draft: &mut Draft, caller: &Caller, mut input: RunInput) -> Result<Value, ApiError> {
    let image_id = input.image_id.ok_or_else(|| ApiError::missing("ImageId"))?;
    if let Some(reason) = underlay::lacks(draft.state(), "Instances") {
        return Err(ApiError::sender("UnsupportedOperation", reason));
    }
    if let Some(interface) = input.network_interfaces.pop() {
        if !input.network_interfaces.is_empty() {
            return Err(ApiError::validation("An instance has one network interface here"));
        }
        input.subnet_id = interface.subnet_id.or(input.subnet_id);
        input.private_ip_address = interface.private_ip_address.or(input.private_ip_address);
        input.security_group_ids.extend(interface.groups);
        if interface.ipv6.is_given() {
            input.ipv6 = interface.ipv6;
        }
    }
    if !(1..=input.max_count).contains(&input.min_count) {
        return Err(ApiError::validation("MinCount must be at least 1 and at most MaxCount"));
    }
    if input.max_count > LAUNCH_MAX || draft.state().instances.len() >= INSTANCES_MAX {
        return Err(ApiError::limit(
            "InstanceLimitExceeded",
            format!("At most {LAUNCH_MAX} instances at once and {INSTANCES_MAX} in all."),
        ));
    }
    let subnet_id = input.subnet_id.ok_or_else(|| {
        ApiError::sender("MissingInput", "There is no default VPC; name a subnet by SubnetId")
    })?;
    let subnet = by_id::<Subnet>(draft, &subnet_id)?;
    let groups = groups_of(draft, &subnet, &input.security_group_ids)?;
    let ecs_cluster = match &input.user_data {
        Some(text) => cluster_of(text)?,
        None => None,
    };
    let tags = specified_tags(&input.tag_specifications, "instance")?;
    let mut launched = Vec::new();
    for _ in 0..input.max_count {
        let address = match &input.private_ip_address {
            Some(text) => Some(fixed_address(draft, &subnet, text)?),
            None => interfaces::free_address(draft.state(), &subnet),
        };
        let Some(address) = address else { break };
        let ipv6 = input.ipv6.address(draft, &subnet)?;
        let id = InstanceId(format!("i-{}", draft.hex(17)));
        let owner = InterfaceOwner::Instance(id.clone());
        let interface = interfaces::attach(
            draft,
            &subnet,
            address,
            groups.clone(),
            owner,
            "Primary network interface".to_owned(),
        );
        interfaces::set_ipv6(draft, &interface.id, ipv6);
        let instance = Instance {
            id,
            vpc_id: subnet.vpc_id.clone(),
            subnet_id: subnet.id.clone(),
            interface_id: interface.id,
            address,
            instance_type: input.instance_type.clone().unwrap_or_else(|| "m1.small".to_owned()),
            image_id: image_id.clone(),
            ecs_cluster: ecs_cluster.clone(),
            state: InstanceState::Pending,
            launched_at: draft.now(),
            tags: tags.clone(),
        };
        draft.put(instance.clone());
        launched.push(instance);
    }
    if u32::try_from(launched.len()).unwrap_or(u32::MAX) < input.min_count {
        return Err(ApiError::limit(
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
        ));
    }
    let reservation = format!("r-{}", draft.hex(17));
    let instances: Vec<_> = launched.iter().map(|instance| wire(draft, caller, instance)).collect();
    Ok(json!({"ReservationId": reservation, "OwnerId": caller.account, "Groups": [], "Instances": instances}))
}

/// The security groups by id, else the VPC's default one.
fn groups_of(draft: &Draft, subnet: &Subnet, ids: &[String]) -> Result<Vec<SecurityGroupId>, ApiError> {
    if ids.is_empty() {
        let is_default = |group: &SecurityGroup| {
            group.vpc_id == subnet.vpc_id && group.name == super::security_groups::DEFAULT_GROUP
        };
        return Ok(draft
            .all::<SecurityGroup>()
            .filter(|group| is_default(group))
            .map(|g| g.id.clone())
            .collect());
    }
    let groups = ids.iter().map(|id| {
        let group = by_id::<SecurityGroup>(draft, id)?;
        if group.vpc_id == subnet.vpc_id {
            return Ok(group.id);
        }
        let message = format!("Security group {id} and subnet {} belong to different networks.", subnet.id);
        Err(ApiError::sender("InvalidParameter", message))
    });
    groups.collect()
}

fn fixed_address(draft: &Draft, subnet: &Subnet, text: &str) -> Result<std::net::Ipv4Addr, ApiError> {
    let address = text
        .parse()
        .map_err(|_| ApiError::validation(format!("invalid value for parameter address: {text}")))?;
    if !subnet.is_assignable(address) {
        return Err(ApiError::validation("Address does not fall within the subnet's address range"));
    }
    if !interfaces::is_free(draft.state(), subnet, address) {
        return Err(ApiError::conflict("InvalidIPAddress.InUse", format!("Address {text} is in use.")));
    }
    Ok(address)
}

/// The ECS cluster that user data names.
fn cluster_of(user_data: &str) -> Result<Option<String>, ApiError> {
    let malformed = || ApiError::sender("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.");
    if user_data.len() > USER_DATA_MAX {
        return Err(ApiError::validation(format!("User data is limited to {USER_DATA_MAX} bytes")));
    }
    let bytes = BASE64_STANDARD.decode(user_data).map_err(|_| malformed())?;
    let text = String::from_utf8_lossy(&bytes);
    let names = text.match_indices(CLUSTER).filter_map(|(at, name)| {
        let (before, rest) = (text.get(..at)?, text.get(at + name.len()..)?);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if before.ends_with(is_word) {
            return None;
        }
        let rest = rest.trim_start_matches(['"', '\'']);
        let name: String =
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
        (!name.is_empty()).then_some(name)
    });
    // As in the file that the agent reads, the last one counts.
    Ok(names.last())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    #[serde(default)]
    instance_ids: Vec<String>,
    #[serde(flatten)]
    selection: Selection,
}

fn describe(draft: &mut Draft, caller: &Caller, input: DescribeInput) -> Result<Value, ApiError> {
    check_named::<Instance>(draft, &input.instance_ids)?;
    let mut rows = Vec::new();
    for instance in
        draft.all::<Instance>().filter(|instance| is_named(&input.instance_ids, instance.id.as_str()))
    {
        let (code, state) = wire_state(instance.state);
        let field = |name: &str| match name {
            "instance-id" => Some(vec![instance.id.to_string()]),
            "instance-state-name" => Some(vec![state.to_owned()]),
            "instance-state-code" => Some(vec![code.to_string()]),
            "instance-type" => Some(vec![instance.instance_type.clone()]),
            "image-id" => Some(vec![instance.image_id.clone()]),
            "subnet-id" | "network-interface.subnet-id" => Some(vec![instance.subnet_id.to_string()]),
            "vpc-id" | "network-interface.vpc-id" => Some(vec![instance.vpc_id.to_string()]),
            "private-ip-address" => Some(vec![instance.address.to_string()]),
            "ipv6-address" | "network-interface.ipv6-addresses.ipv6-address" => Some(
                draft
                    .one::<Interface>(instance.interface_id.as_str())
                    .and_then(|interface| interface.ipv6)
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            ),
            "network-interface.network-interface-id" => Some(vec![instance.interface_id.to_string()]),
            "availability-zone" => Some(
                draft
                    .one::<Subnet>(instance.subnet_id.as_str())
                    .map(|s| s.zone.clone())
                    .into_iter()
                    .collect(),
            ),
            _ => None,
        };
        if input.selection.admits(&instance.tags, field)? {
            let reservation = json!({
                "ReservationId": instance.id.as_str().replacen("i-", "r-", 1),
                "OwnerId": caller.account,
                "Groups": [],
                "Instances": [wire(draft, caller, instance)],
            });
            rows.push((instance.id.to_string(), reservation));
        }
    }
    input.selection.page("Reservations", rows)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminateInput {
    instance_ids: Vec<String>,
}

fn terminate(draft: &mut Draft, _: &Caller, input: TerminateInput) -> Result<Value, ApiError> {
    check_named::<Instance>(draft, &input.instance_ids)?;
    let mut changes = Vec::new();
    for id in &input.instance_ids {
        let mut instance = by_id::<Instance>(draft, id)?;
        let before = instance.state;
        if matches!(before, InstanceState::Pending | InstanceState::Running) {
            instance.state = InstanceState::ShuttingDown;
            draft.put(instance.clone());
        }
        let form = |state| {
            let (code, name) = wire_state(state);
            json!({"Code": code, "Name": name})
        };
        changes.push(json!({
            "InstanceId": id, "PreviousState": form(before), "CurrentState": form(instance.state),
        }));
    }
    Ok(json!({"TerminatingInstances": changes}))
}

fn wire_state(state: InstanceState) -> (u8, &'static str) {
    match state {
        InstanceState::Pending => (0, "pending"),
        InstanceState::Running => (16, "running"),
        InstanceState::ShuttingDown => (32, "shutting-down"),
        InstanceState::Terminated { .. } => (48, "terminated"),
    }
}

fn wire(draft: &Draft, caller: &Caller, instance: &Instance) -> Value {
    let (code, state) = wire_state(instance.state);
    let mut form = json!({
        "InstanceId": instance.id,
        "ImageId": instance.image_id,
        "InstanceType": instance.instance_type,
        "State": {"Code": code, "Name": state},
        "LaunchTime": instance.launched_at / 1000,
        "AmiLaunchIndex": 0,
        "Architecture": "x86_64",
        "Monitoring": {"State": "disabled"},
        "Tags": wire_tags(&instance.tags),
    });
    // A terminated instance has no network any more.
    let interface = draft.one::<Interface>(instance.interface_id.as_str());
    if let (Value::Object(form), Some(interface)) = (&mut form, interface) {
        let zone = draft.one::<Subnet>(instance.subnet_id.as_str()).map(|subnet| subnet.zone.clone());
        let groups: Vec<_> = interface
            .groups
            .iter()
            .map(|id| {
                let name = draft.one::<SecurityGroup>(id.as_str()).map(|group| group.name.clone());
                json!({"GroupId": id, "GroupName": name})
            })
            .collect();
        let name = format!(
            "ip-{}.{}.compute.internal",
            instance.address.to_string().replace('.', "-"),
            caller.region
        );
        let network = json!({
            "VpcId": instance.vpc_id,
            "SubnetId": instance.subnet_id,
            "PrivateIpAddress": instance.address,
            "PrivateDnsName": name,
            "Placement": {"AvailabilityZone": zone, "Tenancy": "default"},
            "SecurityGroups": groups,
            "SourceDestCheck": true,
            "Ipv6Address": interface.ipv6,
            "NetworkInterfaces": [{
                "NetworkInterfaceId": interface.id, "PrivateIpAddress": instance.address, "SubnetId": instance.subnet_id,
                "VpcId": instance.vpc_id, "Groups": groups, "OwnerId": caller.account, "Status": "in-use",
                "Description": interface.description,
                "Ipv6Addresses": ipv6_forms(interface),
            }],
        });
        if let Value::Object(network) = network {
            form.extend(network);
        }
    }
    form
}

/// An interface's IPv6 addresses as answers have them.
pub(super) fn ipv6_forms(interface: &Interface) -> Vec<Value> {
    let addresses = interface.ipv6.iter();
    addresses.map(|address| json!({"Ipv6Address": address, "IsPrimaryIpv6": true})).collect()
}

/// What the ECS agent's configuration file says.
const CLUSTER: &str = "ECS_CLUSTER=";
/// AWS's limit of 16 KiB, encoded.
const USER_DATA_MAX: usize = 16 * 1024 * 4 / 3 + 4;
/// AWS launches at most 20 of most types at once by default.
const LAUNCH_MAX: u32 = 20;
/// Each is a namespace on a host.
const INSTANCES_MAX: usize = 1000;
/// AWS shows terminated instances for about an hour, and clients wait to see them.
const TERMINATED_SHOWN_MS: TimestampMs = 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ops::world::World;

    fn cluster(text: &str) -> Option<String> {
        cluster_of(&BASE64_STANDARD.encode(text)).unwrap()
    }

    #[test]
    fn a_terminated_instance_frees_its_address_and_is_forgotten_after_an_hour() {
        let mut world = World::new();
        let address = world.state.instances["i-1"].address;
        world.ok("ec2", "TerminateInstances", json!({"InstanceIds": ["i-1"]}));
        let at = world.now;
        world.change(|draft| Ok::<_, ApiError>(reconcile(draft))).unwrap();
        assert_eq!(world.state.instances["i-1"].state, InstanceState::Terminated { at });
        let subnet = Subnet::clone(&world.state.subnets["subnet-a"]);
        assert!(interfaces::is_free(&world.state, &subnet, address));
        let described = world.ok("ec2", "DescribeInstances", json!({"InstanceIds": ["i-1"]}));
        let instance = &described["Reservations"][0]["Instances"][0];
        assert_eq!(instance["State"]["Name"], "terminated");
        assert!(instance.get("SubnetId").is_none());

        world.now += TERMINATED_SHOWN_MS - 1;
        assert_eq!(
            world.change(|draft| Ok::<_, ApiError>(reconcile(draft))).unwrap(),
            Some(at + TERMINATED_SHOWN_MS)
        );
        assert_eq!(world.state.instances.len(), 1);
        world.now += 1;
        assert_eq!(world.change(|draft| Ok::<_, ApiError>(reconcile(draft))).unwrap(), None);
        assert!(world.state.instances.is_empty());
    }

    #[test]
    fn user_data_names_the_cluster_as_the_ecs_agent_reads_it() {
        let script = "#!/bin/bash -xe\necho ECS_CLUSTER=demo-1 >> /etc/ecs/ecs.config\nyum install -y x\n";
        assert_eq!(cluster(script).as_deref(), Some("demo-1"));
        assert_eq!(cluster("echo 'ECS_CLUSTER=a' >> x\necho ECS_CLUSTER=\"b\"").as_deref(), Some("b"));
        assert_eq!(cluster("MY_ECS_CLUSTER=a"), None);
        assert_eq!(cluster("ECS_CLUSTER="), None);
        assert_eq!(cluster_of("not base64!").unwrap_err().message, "Invalid BASE64 encoding of user data.");
    }
}
