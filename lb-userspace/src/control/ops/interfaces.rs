//! Network interfaces made on someone's behalf: a load balancer, a VPC link, an instance or a task gets an address in a
//! subnet, and gives it back.
//!
//! Not an operation of its own: every operation that needs an address calls this, so that none is given out twice.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{
    id::{InterfaceId, SecurityGroupId},
    network::{Interface, InterfaceOwner, Standing, Subnet},
    state::{Draft, State},
};

/// Gives `owner` an interface at `address`, which must be assignable and free. On the host's own interfaces it is
/// awaited until the host says that it stands.
pub fn attach(
    draft: &mut Draft,
    subnet: &Subnet,
    address: Ipv4Addr,
    groups: Vec<SecurityGroupId>,
    owner: InterfaceOwner,
    description: String,
) -> Interface {
    let interface = Interface {
        id: InterfaceId(format!("eni-{}", draft.hex(17))),
        vpc_id: subnet.vpc_id.clone(),
        subnet_id: subnet.id.clone(),
        address,
        ipv6: None,
        groups,
        owner,
        description,
        requested: false,
        standing: at_first(draft.state()),
        ipv6_requested: false,
        ipv6_standing: Standing::Stands,
    };
    draft.put(interface.clone());
    interface
}

/// Gives an interface an IPv6 address beside its own, which must be assignable and free; or takes it away.
pub fn set_ipv6(draft: &mut Draft, id: &InterfaceId, address: Option<Ipv6Addr>) {
    let standing = address.map_or(Standing::Stands, |_| at_first(draft.state()));
    draft.edit::<Interface>(id.as_str(), |interface| {
        interface.ipv6 = address;
        interface.ipv6_requested = false;
        interface.ipv6_standing = standing;
    });
}

/// Whether a new address stands.
fn at_first(state: &State) -> Standing {
    if state.underlay().is_some() { Standing::Awaited } else { Standing::Stands }
}

/// Takes every interface of `owner` away.
pub fn detach_all(draft: &mut Draft, owner: &InterfaceOwner) {
    let ids: Vec<_> = draft
        .all::<Interface>()
        .filter(|interface| interface.owner == *owner)
        .map(|interface| interface.id.clone())
        .collect();
    for id in ids {
        draft.remove::<Interface>(id.as_str());
    }
}

/// The lowest address of `subnet` that nobody is known to have and AWS does not reserve.
pub fn free_address(state: &State, subnet: &Subnet) -> Option<Ipv4Addr> {
    let taken: BTreeSet<_> = in_subnet(state, subnet).collect();
    // A subnet has at most 65,536 addresses, and the walk ends at the first free one.
    subnet.cidr.hosts().find(|address| subnet.is_assignable(*address) && !taken.contains(address))
}

/// Whether `address` may be given to a new interface of `subnet`.
pub fn is_free(state: &State, subnet: &Subnet, address: Ipv4Addr) -> bool {
    subnet.is_assignable(address) && in_subnet(state, subnet).all(|taken| taken != address)
}

/// The lowest IPv6 address of `subnet` that nobody has and AWS does not reserve.
pub fn free_ipv6(state: &State, subnet: &Subnet) -> Option<Ipv6Addr> {
    let taken: BTreeSet<_> = in_subnet6(state, subnet).collect();
    // Ends at the first that is free, after as many steps as are taken.
    let first = u128::from(subnet.ipv6_cidr()?.network());
    (first..)
        .skip(RESERVED)
        .map(Ipv6Addr::from)
        .take_while(|address| subnet.is_assignable6(*address))
        .find(|address| !taken.contains(address))
}

/// Whether the IPv6 `address` may be given to a new interface of `subnet`.
pub fn is_free6(state: &State, subnet: &Subnet, address: Ipv6Addr) -> bool {
    subnet.is_assignable6(address) && in_subnet6(state, subnet).all(|taken| taken != address)
}

/// The subnet of a VPC that holds `address`.
pub fn subnet_of<'a>(state: &'a State, vpc_id: &str, address: IpAddr) -> Option<&'a Subnet> {
    state
        .subnets
        .values()
        .map(AsRef::as_ref)
        .find(|subnet| subnet.vpc_id.as_str() == vpc_id && subnet.contains(address))
}

/// What is not free: addresses of interfaces, and on the host's own network those of the host and of other machines.
fn in_subnet<'a>(state: &'a State, subnet: &'a Subnet) -> impl Iterator<Item = Ipv4Addr> + 'a {
    both_in_subnet(state, subnet).filter_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

fn in_subnet6<'a>(state: &'a State, subnet: &'a Subnet) -> impl Iterator<Item = Ipv6Addr> + 'a {
    both_in_subnet(state, subnet).filter_map(|address| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    })
}

fn both_in_subnet<'a>(state: &'a State, subnet: &'a Subnet) -> impl Iterator<Item = IpAddr> + 'a {
    let own = state.interfaces.values().filter(|interface| interface.subnet_id == subnet.id);
    let hosts = state.underlay().into_iter().flat_map(|underlay| underlay.interfaces.values().flatten());
    let others = state.taken_addresses.values().filter(|taken| taken.subnet_id == subnet.id);
    own.flat_map(|interface| interface.addresses())
        .chain(hosts.map(|own| own.addr()))
        .chain(others.map(|taken| taken.address))
}

/// The first four addresses are AWS's.
const RESERVED: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{id::InstanceId, network::Ipv6Block};

    fn subnet() -> Subnet {
        Subnet {
            id: "subnet-1".into(),
            vpc_id: "vpc-1".into(),
            cidr: "10.0.1.0/28".parse().unwrap(),
            ipv6: Some(Ipv6Block {
                association_id: "subnet-cidr-assoc-1".to_owned(),
                cidr: "fd00:0:0:1::/64".parse().unwrap(),
            }),
            assign_ipv6: false,
            zone: "eu-central-1a".to_owned(),
            tags: Vec::new(),
        }
    }

    fn owner() -> InterfaceOwner {
        InterfaceOwner::Instance(InstanceId::from("i-1"))
    }

    #[test]
    fn addresses_start_after_the_reserved_ones_and_never_repeat() {
        let mut draft = Draft::new(State::default(), 0, [1; 32]);
        let subnet = subnet();
        let mut given = Vec::new();
        while let Some(address) = free_address(draft.state(), &subnet) {
            given.push(address);
            attach(&mut draft, &subnet, address, Vec::new(), owner(), String::new());
        }
        assert_eq!(given.first(), Some(&Ipv4Addr::new(10, 0, 1, 4)));
        assert_eq!(given.last(), Some(&Ipv4Addr::new(10, 0, 1, 14)), "the last address is reserved");
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 11);
        assert!(!is_free(draft.state(), &subnet, given[0]));
    }

    #[test]
    fn ipv6_addresses_start_after_the_reserved_ones_too() {
        let mut draft = Draft::new(State::default(), 0, [1; 32]);
        let subnet = subnet();
        let mut given = Vec::new();
        for host in 4..7 {
            let address = free_ipv6(draft.state(), &subnet).unwrap();
            let own =
                attach(&mut draft, &subnet, [10, 0, 1, host].into(), Vec::new(), owner(), String::new());
            set_ipv6(&mut draft, &own.id, Some(address));
            given.push(address.to_string());
        }
        assert_eq!(given, ["fd00:0:0:1::4", "fd00:0:0:1::5", "fd00:0:0:1::6"]);
        assert!(!is_free6(draft.state(), &subnet, "fd00:0:0:1::5".parse().unwrap()));
        assert!(!is_free6(draft.state(), &subnet, "fd00:0:0:1::3".parse().unwrap()), "reserved");
        assert!(is_free6(draft.state(), &subnet, "fd00:0:0:1::ffff".parse().unwrap()));
    }

    #[test]
    fn a_detached_address_is_free_again() {
        let mut draft = Draft::new(State::default(), 0, [1; 32]);
        let subnet = subnet();
        let address = Ipv4Addr::new(10, 0, 1, 9);
        attach(&mut draft, &subnet, address, Vec::new(), owner(), String::new());
        detach_all(&mut draft, &owner());
        assert!(is_free(draft.state(), &subnet, address));
        assert!(draft.state().interfaces.is_empty());
    }
}
