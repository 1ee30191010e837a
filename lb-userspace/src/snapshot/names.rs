//! Names of namespaces and devices: everything that Gatehouse makes on a host is found again by its name.
//!
//! A namespace is `gh-<appliance>-…`, so that two appliances on one host never meet; a device name has at most 15
//! characters (IFNAMSIZ less the NUL).

use crate::model::{
    id::{InstanceId, InterfaceId, SubnetId, VpcId, VpcLinkId},
    network::InterfaceOwner,
};

/// What every namespace of an appliance starts with.
pub fn prefix(appliance: &str) -> String {
    format!("gh-{appliance}-")
}

/// The VPC's own namespace: its bridges and its router.
pub fn vpc_namespace(appliance: &str, vpc: &VpcId) -> String {
    format!("gh-{appliance}-{vpc}")
}

/// The namespace of the VPC's node: the interfaces of its load balancers.
pub fn node_namespace(appliance: &str, vpc: &VpcId) -> String {
    format!("gh-{appliance}-node-{vpc}")
}

/// A link's namespace.
pub fn link_namespace(appliance: &str, link: &VpcLinkId) -> String {
    format!("gh-{appliance}-link-{link}")
}

/// A machine's namespace.
pub fn instance_namespace(appliance: &str, instance: &InstanceId) -> String {
    format!("gh-{appliance}-{instance}")
}

/// The namespace that an interface lives in.
pub fn owner_namespace(appliance: &str, vpc: &VpcId, owner: &InterfaceOwner) -> String {
    match owner {
        InterfaceOwner::LoadBalancer(_) => node_namespace(appliance, vpc),
        InterfaceOwner::VpcLink(link) => link_namespace(appliance, link),
        InterfaceOwner::Instance(instance) => instance_namespace(appliance, instance),
        InterfaceOwner::Task(arn) => {
            let id = arn.resource().rsplit('/').next().unwrap_or_default();
            format!("gh-{appliance}-task-{id}")
        }
    }
}

/// The interface's device in its owner's namespace.
pub fn device(interface: &InterfaceId) -> String {
    short("eni", interface.as_str())
}

/// The interface's other end, a port of its subnet's bridge.
pub fn bridge_port(interface: &InterfaceId) -> String {
    short("prt", interface.as_str())
}

/// The subnet's bridge in the VPC's namespace.
pub fn bridge(subnet: &SubnetId) -> String {
    short("sub", subnet.as_str())
}

/// The interface that a VPC's resolver answers on, in the node's namespace.
pub const RESOLVER: &str = "resolver";

/// The resolver's other end, a port of a bridge in the VPC's namespace.
pub const RESOLVER_PORT: &str = "resolver-port";

/// The bridge of a resolver whose address is in no subnet, in the VPC's namespace.
pub const RESOLVER_BRIDGE: &str = "resolver-bridge";

/// A VPC's way out, in the VPC's namespace.
pub const UPLINK: &str = "uplink";

/// The other end of a VPC's way out, a port of the uplink's bridge.
pub fn uplink_port(vpc: &VpcId) -> String {
    short("upl", vpc.as_str())
}

fn short(kind: &str, id: &str) -> String {
    const KEPT: usize = 12;
    let tail: String = id.chars().rev().take(KEPT).collect::<Vec<_>>().into_iter().rev().collect();
    format!("{kind}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_the_kernel() {
        let id = InterfaceId::from("eni-0123456789abcdef0");
        assert_eq!(device(&id), "eni56789abcdef0");
        assert!(device(&id).len() <= 15);
        assert!([RESOLVER, RESOLVER_PORT, RESOLVER_BRIDGE].iter().all(|name| name.len() <= 15));
    }
}
