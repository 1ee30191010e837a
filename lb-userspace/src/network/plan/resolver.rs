//! Where a VPC's resolver is: an interface of the node's namespace with the VPC's base address plus two.
//!
//! AWS answers there whatever the subnets are. If a subnet holds the address (it is one of those it reserves), the
//! interface is a port of that subnet's bridge, so that its neighbours find it by ARP; if none does, of a bridge of its
//! own, which the VPC routes to as to any subnet.

use std::net::Ipv4Addr;

use super::desired::{Bridge, Interface};
use crate::{
    model::id::VpcId,
    snapshot::{host::HostSlice, names},
};

/// The resolver's interface, and the bridge it needs if no subnet's will do.
pub(super) fn resolver(
    slice: &HostSlice,
    appliance: &str,
    id: &VpcId,
    address: Ipv4Addr,
) -> (Interface, Option<Bridge>) {
    let vpc_namespace = names::vpc_namespace(appliance, id);
    let subnet =
        slice.subnets.iter().find(|(_, subnet)| subnet.vpc_id == *id && subnet.cidr.contains(&address));
    let (bridge, router, prefix_len, own) = match subnet {
        Some((subnet_id, subnet)) => {
            (names::bridge(subnet_id), subnet.router, subnet.cidr.prefix_len(), None)
        }
        None => {
            let device = names::RESOLVER_BRIDGE.to_owned();
            // AWS's VPC router is the base address plus one.
            let router = Ipv4Addr::from(u32::from(address) - 1);
            let own = Bridge {
                namespace: vpc_namespace.clone(),
                device: device.clone(),
                address: router,
                prefix_len: OWN_PREFIX_LEN,
                ipv6: None,
            };
            (device, router, OWN_PREFIX_LEN, Some(own))
        }
    };
    let interface = Interface {
        vpc_namespace,
        bridge,
        port: names::RESOLVER_PORT.to_owned(),
        namespace: names::node_namespace(appliance, id),
        device: names::RESOLVER.to_owned(),
        address,
        prefix_len,
        router,
        ipv6: None,
        finish_checksums: true,
        // Health checks and requests to targets must go on leaving with a load balancer's address.
        answers_only: true,
    };
    (interface, own)
}

/// The VPC's first four addresses. No subnet is smaller than a /28, so one that shares an address with these holds all.
const OWN_PREFIX_LEN: u8 = 30;
