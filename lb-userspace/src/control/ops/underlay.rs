//! The host's own interfaces below the subnets: which subnets may carry load balancers, and what becomes of an address
//! that the host put there, or could not.
//!
//! Not an operation of AWS's: the boot configuration says whether there is an underlay, the host role reports what it
//! finds there. Under the virtual driver there is none, and everything here has nothing to say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{ApiError, interfaces};
use crate::model::{
    id::{InterfaceId, TimestampMs, VpcId},
    load_balancer::{IpAddressType, LoadBalancer},
    network::{Interface, InterfaceOwner, Standing, Subnet},
    state::{Draft, State},
    underlay::{TakenAddress, Underlay},
};
use crate::snapshot::report::AddressOutcome;

/// Makes the state say which interfaces the boot configuration lists; `None` under another driver.
pub fn follow_configuration(draft: &mut Draft, listed: Option<&[String]>) {
    let Some(listed) = listed else {
        let old: Vec<String> = draft.state().underlays.keys().cloned().collect();
        for key in old {
            draft.remove::<Underlay>(&key);
        }
        return;
    };
    let mut underlay = draft.state().underlay().cloned().unwrap_or_default();
    if draft.state().underlay().is_none() || underlay.listed != listed {
        underlay.listed = listed.to_vec();
        draft.put(underlay);
    }
}

/// Notes what the host role found.
pub fn apply_interfaces(draft: &mut Draft, found: &BTreeMap<String, Vec<IpNet>>) {
    let Some(underlay) = draft.state().underlay() else { return };
    if underlay.interfaces != *found {
        let underlay = Underlay { interfaces: found.clone(), ..underlay.clone() };
        draft.put(underlay);
    }
}

/// Notes what came of an address. One that is taken is exchanged for another, unless somebody relies on it already.
pub fn apply_address(draft: &mut Draft, id: &InterfaceId, address: IpAddr, outcome: &AddressOutcome) {
    let has_it = |found: &&std::sync::Arc<Interface>| found.addresses().any(|own| own == address);
    let Some(interface) = draft.one::<Interface>(id.as_str()).filter(has_it) else { return };
    let mut interface = Interface::clone(interface);
    let (was, requested) = match address {
        IpAddr::V4(_) => (&interface.standing, interface.requested),
        IpAddr::V6(_) => (&interface.ipv6_standing, interface.ipv6_requested),
    };
    let standing = match outcome {
        AddressOutcome::Stands => Standing::Stands,
        AddressOutcome::Refused { reason } => Standing::Refused(reason.clone()),
        AddressOutcome::Taken { holders } => {
            note_holders(draft, &interface, holders);
            let holder = holders.get(&address).map_or("another machine", String::as_str);
            let may_move = *was == Standing::Awaited && !requested;
            match may_move.then(|| move_elsewhere(draft, &interface, address)) {
                Some(Some(moved)) => {
                    tracing::info!(interface = %id, taken = %address, holder, now = %moved, "address is taken; another was chosen");
                    return;
                }
                Some(None) => Standing::Refused(format!(
                    "{address} is in use by {holder}, and no other address of {} is free",
                    interface.subnet_id
                )),
                None => Standing::Refused(format!("{address} is in use by {holder}")),
            }
        }
    };
    if *was != standing {
        match address {
            IpAddr::V4(_) => interface.standing = standing,
            IpAddr::V6(_) => interface.ipv6_standing = standing,
        }
        draft.put(interface);
    }
}

fn note_holders(draft: &mut Draft, interface: &Interface, holders: &BTreeMap<IpAddr, String>) {
    let seen_at = draft.now();
    for (address, holder) in holders {
        draft.put(TakenAddress {
            subnet_id: interface.subnet_id.clone(),
            address: *address,
            holder: holder.clone(),
            seen_at,
        });
    }
}

/// Gives an interface, and the load balancer it belongs to, another address of its subnet and of the family of `taken`.
fn move_elsewhere(draft: &mut Draft, interface: &Interface, taken: IpAddr) -> Option<IpAddr> {
    let subnet = draft.one::<Subnet>(interface.subnet_id.as_str())?;
    let address = match taken {
        IpAddr::V4(_) => IpAddr::from(interfaces::free_address(draft.state(), subnet)?),
        IpAddr::V6(_) => IpAddr::from(interfaces::free_ipv6(draft.state(), subnet)?),
    };
    draft.edit::<Interface>(interface.id.as_str(), |moved| match address {
        IpAddr::V4(address) => moved.address = address,
        IpAddr::V6(address) => moved.ipv6 = Some(address),
    });
    if let InterfaceOwner::LoadBalancer(arn) = &interface.owner {
        draft.edit::<LoadBalancer>(arn.as_str(), |lb| {
            for zone in lb.zones.iter_mut().filter(|zone| zone.interface_id == interface.id) {
                match address {
                    IpAddr::V4(address) => zone.address = address,
                    IpAddr::V6(address) => zone.ipv6 = Some(address),
                }
            }
        });
    }
    Some(address)
}

/// Forgets who held addresses long ago; answers when there is more to forget.
pub fn forget_holders(draft: &mut Draft) -> Option<TimestampMs> {
    let now = draft.now();
    let due = |taken: &TakenAddress| taken.seen_at.saturating_add(TAKEN_MS);
    let over: Vec<String> = draft
        .state()
        .taken_addresses
        .iter()
        .filter(|(_, taken)| due(taken) <= now)
        .map(|(key, _)| key.clone())
        .collect();
    for key in over {
        draft.remove::<TakenAddress>(&key);
    }
    draft.all::<TakenAddress>().map(|taken| due(taken)).min()
}

/// Whether a load balancer of `vpc` can be in `subnet` with addresses of these families.
///
/// # Errors
/// `InvalidSubnet`, naming the subnet and the interface, when a range of the subnet is on none that may be used, or on one
/// that carries another VPC's load balancers: one interface has one program, and one program knows one VPC.
pub fn check_subnet(
    state: &State,
    vpc: &VpcId,
    subnet: &Subnet,
    addresses: IpAddressType,
) -> Result<(), ApiError> {
    let refuse = |why: String| {
        Err(ApiError::sender(
            "InvalidSubnet",
            format!("Subnet '{}' cannot carry load balancers: {why}", subnet.id),
        ))
    };
    let Some(underlay) = state.underlay().filter(|underlay| !underlay.interfaces.is_empty()) else {
        return Ok(());
    };
    let place = match underlay.place(subnet.cidr) {
        Ok(place) => place,
        Err(misplaced) => return refuse(misplaced.to_string()),
    };
    let ipv6 = subnet.ipv6_cidr().filter(|_| addresses == IpAddressType::Dualstack);
    if let Some(Err(misplaced)) = ipv6.map(|range| underlay.place_beside(range, subnet.cidr)) {
        return refuse(misplaced.to_string());
    }
    let others = state.load_balancers.values().filter(|lb| lb.vpc_id != *vpc);
    for zone in others.flat_map(|lb| &lb.zones) {
        let Some(other) = state.subnets.get(zone.subnet_id.as_str()) else { continue };
        if underlay.place(other.cidr).is_ok_and(|taken| taken.interface == place.interface) {
            return refuse(format!(
                "interface {} carries load balancers of VPC '{}'",
                place.interface, other.vpc_id
            ));
        }
    }
    Ok(())
}

/// What the host driver does not have, as a sentence for the caller; `None` where it can be had.
pub fn lacks(state: &State, what: &str) -> Option<String> {
    state.underlay().map(|_| {
        format!(
            "{what} need a network namespace of their own, which this appliance does not make: its boot configuration \
             has [network] driver = \"host\""
        )
    })
}

/// How long an address that somebody held is left alone. He may be switched off for a night, but not for good.
const TAKEN_MS: TimestampMs = 24 * 3_600_000;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::control::ops::world::World;

    /// A VPC on a host whose `eth1` is subnet-a, and whose `eth2`, which is not listed, is subnet-b.
    fn world() -> World {
        let mut world = World::new();
        world
            .change(|draft| {
                follow_configuration(draft, Some(&["eth1".to_owned()]));
                let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
                let found = BTreeMap::from([
                    ("eth1".to_owned(), nets(&["10.0.1.6/24", "fd00:0:0:1::5/64"])),
                    ("eth2".to_owned(), nets(&["10.0.2.10/24", "fd00:0:0:2::5/64"])),
                ]);
                apply_interfaces(draft, &found);
                Ok::<_, ()>(())
            })
            .unwrap();
        world
    }

    fn create(world: &mut World, name: &str, mapping: Value) -> Value {
        let input =
            json!({"Name": name, "Type": "network", "Scheme": "internal", "SubnetMappings": [mapping]});
        world.ok("elbv2", "CreateLoadBalancer", input)["LoadBalancers"][0].clone()
    }

    fn describe(world: &mut World, name: &str) -> Value {
        world.ok("elbv2", "DescribeLoadBalancers", json!({"Names": [name]}))["LoadBalancers"][0].clone()
    }

    fn address(lb: &Value) -> String {
        lb["AvailabilityZones"][0]["LoadBalancerAddresses"][0]["PrivateIPv4Address"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn address6(lb: &Value) -> String {
        lb["AvailabilityZones"][0]["LoadBalancerAddresses"][0]["IPv6Address"].as_str().unwrap().to_owned()
    }

    /// Gives the VPC IPv6, and subnet-a this range of it.
    fn add_ipv6(world: &mut World, range: &str) {
        world.ok("ec2", "AssociateVpcCidrBlock", json!({"VpcId": "vpc-1", "Ipv6CidrBlock": "fd00::/56"}));
        let block = json!({"SubnetId": "subnet-a", "Ipv6CidrBlock": range});
        world.ok("ec2", "AssociateSubnetCidrBlock", block);
    }

    fn dual(name: &str, mapping: Value) -> Value {
        json!({"Name": name, "Type": "network", "Scheme": "internal", "IpAddressType": "dualstack",
            "SubnetMappings": [mapping]})
    }

    fn create_dual(world: &mut World, name: &str, mapping: Value) -> Value {
        world.ok("elbv2", "CreateLoadBalancer", dual(name, mapping))["LoadBalancers"][0].clone()
    }

    fn interface_at(world: &World, address: &str) -> InterfaceId {
        let address: IpAddr = address.parse().unwrap();
        let has_it = |interface: &&std::sync::Arc<Interface>| interface.addresses().any(|own| own == address);
        world.state.interfaces.values().find(has_it).unwrap().id.clone()
    }

    fn report(world: &mut World, at: &str, outcome: AddressOutcome) {
        let id = interface_at(world, at);
        world
            .change(|draft| {
                apply_address(draft, &id, at.parse().unwrap(), &outcome);
                Ok::<_, ()>(())
            })
            .unwrap();
    }

    fn taken(addresses: &[&str]) -> AddressOutcome {
        let holder = |address: &&str| (address.parse().unwrap(), "02:00:00:00:00:05".to_owned());
        AddressOutcome::Taken { holders: addresses.iter().map(holder).collect() }
    }

    #[test]
    fn a_load_balancer_is_active_once_the_host_has_its_address() {
        let mut world = world();
        let lb = create(&mut world, "a", json!({"SubnetId": "subnet-a"}));
        assert_eq!(lb["State"], json!({"Code": "provisioning"}));
        // 10.0.1.4 is the instance's of this world, 10.0.1.6 the host's own.
        assert_eq!(address(&lb), "10.0.1.5");
        report(&mut world, "10.0.1.5", AddressOutcome::Stands);
        assert_eq!(describe(&mut world, "a")["State"], json!({"Code": "active"}));
        assert_eq!(address(&create(&mut world, "b", json!({"SubnetId": "subnet-a"}))), "10.0.1.7");
    }

    #[test]
    fn a_taken_address_is_exchanged_while_nobody_relies_on_it() {
        let mut world = world();
        create(&mut world, "a", json!({"SubnetId": "subnet-a"}));
        report(&mut world, "10.0.1.5", taken(&["10.0.1.5", "10.0.1.7"]));
        let lb = describe(&mut world, "a");
        assert_eq!((address(&lb).as_str(), &lb["State"]["Code"]), ("10.0.1.8", &json!("provisioning")));
        report(&mut world, "10.0.1.8", AddressOutcome::Stands);
        // From now on it is static: a machine that takes it is at fault, and is named.
        report(&mut world, "10.0.1.8", taken(&["10.0.1.8"]));
        let lb = describe(&mut world, "a");
        assert_eq!(address(&lb), "10.0.1.8");
        assert_eq!(
            lb["State"],
            json!({"Code": "failed", "Reason": "10.0.1.8 is in use by 02:00:00:00:00:05"})
        );
        report(&mut world, "10.0.1.8", AddressOutcome::Stands);
        assert_eq!(describe(&mut world, "a")["State"]["Code"], "active");
    }

    #[test]
    fn an_address_that_was_asked_for_is_never_exchanged() {
        let mut world = world();
        create(&mut world, "a", json!({"SubnetId": "subnet-a", "PrivateIPv4Address": "10.0.1.50"}));
        report(&mut world, "10.0.1.50", taken(&["10.0.1.50"]));
        let lb = describe(&mut world, "a");
        assert_eq!((address(&lb).as_str(), &lb["State"]["Code"]), ("10.0.1.50", &json!("failed")));
        for given in ["10.0.1.50", "10.0.1.6"] {
            let mapping = json!({"SubnetId": "subnet-a", "PrivateIPv4Address": given});
            let input =
                json!({"Name": "b", "Type": "network", "Scheme": "internal", "SubnetMappings": [mapping]});
            let (code, message) = world.refuse("elbv2", "CreateLoadBalancer", input);
            assert_eq!(code, "InvalidConfigurationRequest");
            assert!(message.contains(given) && message.contains("in use"), "{message}");
        }
    }

    #[test]
    fn a_dual_stack_load_balancer_is_active_once_the_host_has_both_addresses() {
        let mut world = world();
        add_ipv6(&mut world, "fd00:0:0:1::/64");
        let lb = create_dual(&mut world, "a", json!({"SubnetId": "subnet-a"}));
        assert_eq!((address(&lb).as_str(), address6(&lb).as_str()), ("10.0.1.5", "fd00:0:0:1::4"));
        report(&mut world, "10.0.1.5", AddressOutcome::Stands);
        assert_eq!(describe(&mut world, "a")["State"]["Code"], "provisioning");
        // The one after it is the host's own, and the next another machine's.
        report(&mut world, "fd00:0:0:1::4", taken(&["fd00:0:0:1::4", "fd00:0:0:1::6"]));
        let lb = describe(&mut world, "a");
        assert_eq!((address(&lb).as_str(), address6(&lb).as_str()), ("10.0.1.5", "fd00:0:0:1::7"));
        assert_eq!(lb["State"]["Code"], "provisioning");
        report(&mut world, "fd00:0:0:1::7", AddressOutcome::Stands);
        assert_eq!(describe(&mut world, "a")["State"], json!({"Code": "active"}));
        report(&mut world, "fd00:0:0:1::7", taken(&["fd00:0:0:1::7"]));
        let lb = describe(&mut world, "a");
        assert_eq!(address6(&lb), "fd00:0:0:1::7", "relied upon");
        assert_eq!(lb["State"]["Reason"], "fd00:0:0:1::7 is in use by 02:00:00:00:00:05");
        // Without IPv6 nothing is wrong.
        let set = json!({"LoadBalancerArn": lb["LoadBalancerArn"], "IpAddressType": "ipv4"});
        world.ok("elbv2", "SetIpAddressType", set);
        assert_eq!(describe(&mut world, "a")["State"], json!({"Code": "active"}));
    }

    #[test]
    fn an_ipv6_address_that_was_asked_for_is_never_exchanged() {
        let mut world = world();
        add_ipv6(&mut world, "fd00:0:0:1::/64");
        let given = json!({"SubnetId": "subnet-a", "IPv6Address": "fd00:0:0:1::50"});
        create_dual(&mut world, "a", given);
        report(&mut world, "fd00:0:0:1::50", taken(&["fd00:0:0:1::50"]));
        let lb = describe(&mut world, "a");
        assert_eq!((address6(&lb).as_str(), &lb["State"]["Code"]), ("fd00:0:0:1::50", &json!("failed")));
        for given in ["fd00:0:0:1::50", "fd00:0:0:1::5"] {
            let mapping = json!({"SubnetId": "subnet-a", "IPv6Address": given});
            let (code, message) = world.refuse("elbv2", "CreateLoadBalancer", dual("b", mapping));
            assert_eq!(code, "InvalidConfigurationRequest");
            assert!(message.contains(given) && message.contains("in use"), "{message}");
        }
    }

    #[test]
    fn ipv6_that_is_not_on_the_subnets_interface_is_refused_by_name() {
        for (range, why) in [
            ("fd00:0:0:2::/64", "fd00:0:0:2::/64 is on interface eth2, and 10.0.1.0/24 on eth1"),
            ("fd00:0:0:3::/64", "no interface of the host has an address in fd00:0:0:3::/64"),
        ] {
            let mut world = world();
            add_ipv6(&mut world, range);
            let lb = create(&mut world, "a", json!({"SubnetId": "subnet-a"}))["LoadBalancerArn"].clone();
            let set = json!({"LoadBalancerArn": lb, "IpAddressType": "dualstack"});
            let new = dual("b", json!({"SubnetId": "subnet-a"}));
            for (operation, input) in [("SetIpAddressType", set), ("CreateLoadBalancer", new)] {
                let (code, message) = world.refuse("elbv2", operation, input);
                assert_eq!(code, "InvalidSubnet");
                assert_eq!(message, format!("Subnet 'subnet-a' cannot carry load balancers: {why}"));
            }
        }
    }

    #[test]
    fn who_held_an_address_is_forgotten_after_a_day() {
        let mut world = world();
        create(&mut world, "a", json!({"SubnetId": "subnet-a"}));
        report(&mut world, "10.0.1.5", taken(&["10.0.1.5"]));
        let found = world.now;
        let due = world.change(|draft| Ok::<_, ()>(forget_holders(draft))).unwrap();
        assert_eq!(due, Some(found + TAKEN_MS));
        world.now = found + TAKEN_MS;
        assert_eq!(world.change(|draft| Ok::<_, ()>(forget_holders(draft))).unwrap(), None);
        assert_eq!(address(&create(&mut world, "b", json!({"SubnetId": "subnet-a"}))), "10.0.1.5");
    }

    #[test]
    fn a_subnet_on_another_interface_is_refused_by_name() {
        let mut world = world();
        let input = json!({"Name": "a", "Type": "network", "Subnets": ["subnet-b"]});
        assert_eq!(
            world.refuse("elbv2", "CreateLoadBalancer", input),
            (
                "InvalidSubnet".to_owned(),
                "Subnet 'subnet-b' cannot carry load balancers: 10.0.2.0/24 is on interface eth2, which [network] \
                 interfaces does not list"
                    .to_owned()
            )
        );
    }

    #[test]
    fn an_interface_carries_load_balancers_of_one_vpc() {
        let mut world = world();
        create(&mut world, "a", json!({"SubnetId": "subnet-a"}));
        world
            .change(|draft| {
                let vpc = crate::model::network::Vpc::clone(draft.one("vpc-1").unwrap());
                draft.put(crate::model::network::Vpc { id: "vpc-2".into(), index: 1, ..vpc });
                let subnet = Subnet::clone(draft.one::<Subnet>("subnet-a").unwrap());
                draft.put(Subnet { id: "subnet-c".into(), vpc_id: "vpc-2".into(), ..subnet });
                Ok::<_, ()>(())
            })
            .unwrap();
        let input = json!({"Name": "b", "Type": "network", "Subnets": ["subnet-c"]});
        let (code, message) = world.refuse("elbv2", "CreateLoadBalancer", input);
        assert_eq!(code, "InvalidSubnet");
        assert!(message.ends_with("interface eth1 carries load balancers of VPC 'vpc-1'"), "{message}");
    }

    #[test]
    fn what_needs_a_namespace_is_refused_with_the_reason() {
        let mut world = world();
        let calls = [
            (
                "ec2",
                "RunInstances",
                json!({"ImageId": "ami-1", "SubnetId": "subnet-a", "MinCount": 1, "MaxCount": 1}),
            ),
            ("apigatewayv2", "CreateVpcLink", json!({"Name": "a", "SubnetIds": ["subnet-a"]})),
        ];
        for (service, operation, input) in calls {
            let (_, message) = world.refuse(service, operation, input);
            assert!(message.contains("driver = \"host\""), "{operation}: {message}");
        }
    }

    #[test]
    fn another_driver_has_no_underlay() {
        let mut world = world();
        world
            .change(|draft| {
                follow_configuration(draft, None);
                Ok::<_, ()>(())
            })
            .unwrap();
        assert!(world.state.underlay().is_none());
        let lb = create(&mut world, "a", json!({"SubnetId": "subnet-b"}));
        assert_eq!(lb["State"], json!({"Code": "active"}));
    }
}
