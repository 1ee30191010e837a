//! Plans of small networks, told as stories: what stands afterwards is what the next plan finds.

use std::collections::BTreeMap;

use super::*;
use crate::{
    model::{
        id::{Arn, InstanceId, InterfaceId, SecurityGroupId, SubnetId, VpcId, VpcLinkId},
        network::InterfaceOwner,
    },
    snapshot::{
        host::{HostInstance, HostInterface, HostSlice, ReturnPath, SubnetNetwork, VpcNetwork},
        names,
    },
};

const APPLIANCE: &str = "t";

/// A VPC with a subnet, a load balancer, a link and a machine.
fn slice() -> HostSlice {
    let mut slice = HostSlice::default();
    let (vpc, subnet) = (VpcId::from("vpc-1"), SubnetId::from("subnet-1"));
    slice
        .vpcs
        .insert(vpc.clone(), VpcNetwork { cidr: "10.0.0.0/16".parse().unwrap(), index: 0, resolver: None });
    let network = SubnetNetwork {
        vpc_id: vpc,
        cidr: "10.0.1.0/24".parse().unwrap(),
        router: "10.0.1.1".parse().unwrap(),
        ipv6: None,
    };
    slice.subnets.insert(subnet, network);
    let instance = InstanceId::from("i-1");
    let namespace = names::instance_namespace(APPLIANCE, &instance);
    slice
        .instances
        .insert(instance.clone(), HostInstance { namespace, address: "10.0.1.6".parse().unwrap() });
    let balancer = Arn::from("arn:aws:elasticloadbalancing:r:1:loadbalancer/net/a/1");
    add(&mut slice, "eni-1", "10.0.1.4", InterfaceOwner::LoadBalancer(balancer));
    add(&mut slice, "eni-2", "10.0.1.5", InterfaceOwner::VpcLink(VpcLinkId::from("abc123")));
    add(&mut slice, "eni-3", "10.0.1.6", InterfaceOwner::Instance(instance));
    slice
}

fn add(slice: &mut HostSlice, id: &str, address: &str, owner: InterfaceOwner) {
    let interface = HostInterface {
        vpc_id: VpcId::from("vpc-1"),
        subnet_id: SubnetId::from("subnet-1"),
        address: address.parse().unwrap(),
        ipv6: None,
        owner,
        groups: vec![SecurityGroupId::from("sg-1")],
    };
    slice.interfaces.insert(InterfaceId::from(id), interface);
}

fn uplink() -> Uplink {
    Uplink {
        namespace: Some("outside".to_owned()),
        bridge: "up".to_owned(),
        cidr: "192.0.2.0/29".parse().unwrap(),
        first_host: 2,
        router: "192.0.2.1".parse().unwrap(),
        dns_servers: vec!["198.51.100.53:53".parse().unwrap()],
    }
}

fn network(slice: &HostSlice) -> Network {
    Network::of(slice, APPLIANCE, Some(&uplink()))
}

/// What stands after `steps` were carried out on `present`.
fn carry_out(present: &mut Present, steps: &[Step]) {
    for step in steps {
        match step {
            Step::RemoveDevice { namespace, device } => {
                let mark = present.namespaces.get_mut(namespace).unwrap().remove(device).unwrap();
                // The other end goes too.
                if let Some((_, owner)) = desired::without_ipv6(&mark).split_once(" for ") {
                    let end = device.replace("prt", "eni").replace("-port", "");
                    present.namespaces.get_mut(owner).map(|devices| devices.remove(&end));
                }
            }
            Step::RemoveNamespace { namespace } => {
                present.namespaces.remove(namespace).unwrap();
                present.filters.remove(namespace);
                present.returns.remove(namespace);
            }
            Step::MakeNamespace { namespace, .. } => {
                assert!(present.namespaces.insert(namespace.clone(), BTreeMap::new()).is_none());
                present.returns.insert(namespace.clone(), Default::default());
            }
            Step::Filter { namespace, rules } => {
                assert!(present.namespaces.contains_key(namespace), "{step}");
                present.filters.insert(namespace.clone(), rules.clone());
            }
            Step::MakeBridge(bridge) => put(present, &bridge.namespace, &bridge.device, bridge.mark()),
            Step::ChangeBridge(bridge) => {
                let devices = present.namespaces.get_mut(&bridge.namespace).unwrap();
                assert!(
                    devices.insert(bridge.device.clone(), bridge.mark()).is_some(),
                    "{step} before it is made"
                );
            }
            Step::ChangeInterface(interface) => {
                let devices = present.namespaces.get_mut(&interface.vpc_namespace).unwrap();
                assert!(
                    devices.insert(interface.port.clone(), interface.mark()).is_some(),
                    "{step} before it is made"
                );
            }
            Step::Return { namespace, returns, .. } => {
                assert!(present.namespaces.contains_key(namespace), "{step}");
                present.returns.insert(namespace.clone(), returns.clone());
            }
            Step::MakeUplink(leg) => put(present, &leg.namespace, names::UPLINK, leg.mark()),
            Step::MakeInterface(interface) => {
                let bridge = &present.namespaces[&interface.vpc_namespace];
                assert!(bridge.contains_key(&interface.bridge), "{step} before its bridge");
                put(present, &interface.vpc_namespace, &interface.port, interface.mark());
                put(present, &interface.namespace, &interface.device, String::new());
            }
        }
    }
}

fn put(present: &mut Present, namespace: &str, device: &str, mark: String) {
    let devices = present.namespaces.get_mut(namespace).unwrap();
    assert!(devices.insert(device.to_owned(), mark).is_none(), "{device} was there already");
}

fn standing(slice: &HostSlice) -> Present {
    let mut present = Present::default();
    let all = steps(&network(slice), &present);
    carry_out(&mut present, &all);
    present
}

fn spelled(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn a_network_is_made_from_the_outside_in_and_filters_come_before_interfaces() {
    assert_eq!(
        spelled(&steps(&network(&slice()), &Present::default())),
        [
            "make namespace gh-t-i-1",
            "filter packets of gh-t-i-1",
            "make namespace gh-t-link-abc123",
            "make namespace gh-t-node-vpc-1",
            "make namespace gh-t-vpc-1",
            "filter packets of gh-t-vpc-1",
            "make bridge subsubnet-1 in gh-t-vpc-1",
            "make the uplink of gh-t-vpc-1 as 192.0.2.2",
            "make interface enieni-1 (10.0.1.4) in gh-t-node-vpc-1",
            "make interface enieni-2 (10.0.1.5) in gh-t-link-abc123",
            "make interface enieni-3 (10.0.1.6) in gh-t-i-1",
        ]
    );
}

#[test]
fn what_stands_is_left_alone() {
    assert_eq!(spelled(&steps(&network(&slice()), &standing(&slice()))), [""; 0]);
}

#[test]
fn a_plan_cut_short_anywhere_is_completed_by_the_next() {
    let all = steps(&network(&slice()), &Present::default());
    for cut in 0..=all.len() {
        let mut present = Present::default();
        carry_out(&mut present, &all[..cut]);
        // What filters are in force is not remembered over a restart.
        present.filters.clear();
        present.returns.clear();
        let rest = steps(&network(&slice()), &present);
        carry_out(&mut present, &rest);
        assert_eq!(present.namespaces, standing(&slice()).namespaces, "cut at {cut}");
    }
}

#[test]
fn a_half_made_interface_is_made_anew() {
    let mut present = standing(&slice());
    present.namespaces.get_mut("gh-t-vpc-1").unwrap().insert("prteni-2".to_owned(), String::new());
    assert_eq!(
        spelled(&steps(&network(&slice()), &present)),
        ["remove device prteni-2 of gh-t-vpc-1", "make interface enieni-2 (10.0.1.5) in gh-t-link-abc123"]
    );
}

#[test]
fn an_interface_whose_other_end_is_gone_is_made_anew() {
    let mut present = standing(&slice());
    present.namespaces.remove("gh-t-i-1");
    assert_eq!(
        spelled(&steps(&network(&slice()), &present)),
        [
            "remove device prteni-3 of gh-t-vpc-1",
            "make namespace gh-t-i-1",
            "filter packets of gh-t-i-1",
            "make interface enieni-3 (10.0.1.6) in gh-t-i-1",
        ]
    );
}

#[test]
fn a_bridge_made_anew_takes_its_interfaces_along() {
    let mut present = standing(&slice());
    present.namespaces.get_mut("gh-t-vpc-1").unwrap().insert("subsubnet-1".to_owned(), String::new());
    let steps = spelled(&steps(&network(&slice()), &present));
    assert_eq!(steps.iter().filter(|step| step.starts_with("remove device")).count(), 4, "{steps:?}");
    assert_eq!(steps.iter().filter(|step| step.starts_with("make interface")).count(), 3, "{steps:?}");
}

#[test]
fn what_is_no_longer_asked_for_goes() {
    let present = standing(&slice());
    let mut less = slice();
    less.interfaces.remove(&InterfaceId::from("eni-2"));
    less.instances.remove(&InstanceId::from("i-1"));
    assert_eq!(
        spelled(&steps(&network(&less), &present)[..4]),
        [
            "remove device prteni-2 of gh-t-vpc-1",
            "remove device prteni-3 of gh-t-vpc-1",
            "remove namespace gh-t-i-1",
            "remove namespace gh-t-link-abc123",
        ]
    );
    let none = steps(&network(&HostSlice::default()), &present);
    assert!(none.iter().all(|step| matches!(step, Step::RemoveNamespace { .. })), "{none:?}");
    assert_eq!(none.len(), 4);
}

#[test]
fn a_link_that_comes_or_goes_changes_who_may_leave() {
    let present = standing(&slice());
    let mut more = slice();
    add(&mut more, "eni-4", "10.0.1.7", InterfaceOwner::VpcLink(VpcLinkId::from("abc123")));
    assert_eq!(
        spelled(&steps(&network(&more), &present)),
        ["filter packets of gh-t-vpc-1", "make interface enieni-4 (10.0.1.7) in gh-t-link-abc123"]
    );
}

#[test]
fn vpcs_take_the_uplinks_addresses_in_order_of_their_index() {
    let mut slice = slice();
    for (id, index) in [("vpc-2", 3), ("vpc-3", 5)] {
        let vpc = VpcNetwork { cidr: "10.0.0.0/16".parse().unwrap(), index, resolver: None };
        slice.vpcs.insert(VpcId::from(id), vpc);
    }
    let network = network(&slice);
    let addresses: Vec<String> = network.uplinks.iter().map(|leg| leg.address.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.2", "192.0.2.5"]);
    assert_eq!(network.conflicts[0].what, "uplink of vpc-3");
    assert_eq!(network.conflicts[0].why, "192.0.2.0/29 has no address left");
}

#[test]
fn a_vpc_whose_range_is_the_uplinks_gets_no_way_out() {
    let mut slice = slice();
    let vpc = VpcNetwork { cidr: "192.0.2.0/24".parse().unwrap(), index: 0, resolver: None };
    slice.vpcs.insert(VpcId::from("vpc-1"), vpc);
    let network = network(&slice);
    assert_eq!(network.uplinks, []);
    assert_eq!(network.conflicts[0].why, "192.0.2.0/24 overlaps the uplink's 192.0.2.0/29");
}

#[test]
fn an_interface_without_its_subnet_is_a_conflict_and_the_rest_stands() {
    let mut slice = slice();
    let mut stray = slice.interfaces.values().next().unwrap().clone();
    stray.subnet_id = SubnetId::from("subnet-9");
    slice.interfaces.insert(InterfaceId::from("eni-9"), stray);
    let network = network(&slice);
    assert_eq!(network.interfaces.len(), 3);
    assert_eq!(network.conflicts[0].why, "its subnet subnet-9 is not in the slice");
}

#[test]
fn two_ids_that_shorten_to_one_name_are_told_apart_by_refusal() {
    let mut slice = slice();
    let balancer =
        InterfaceOwner::LoadBalancer(Arn::from("arn:aws:elasticloadbalancing:r:1:loadbalancer/net/a/1"));
    add(&mut slice, "eni-0-aaaaaaaaaaaa", "10.0.1.7", balancer.clone());
    add(&mut slice, "eni-1-aaaaaaaaaaaa", "10.0.1.8", balancer);
    let network = network(&slice);
    assert_eq!(network.interfaces.len(), 4);
    assert_eq!(network.conflicts[0].what, "prtaaaaaaaaaaaa");
}

#[test]
fn only_machines_and_tasks_are_filtered_where_they_live() {
    let network = network(&slice());
    let filtered: Vec<&str> = network
        .namespaces
        .iter()
        .filter(|(_, n)| n.filter.is_some())
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(filtered, ["gh-t-i-1", "gh-t-vpc-1"]);
}

/// The same with a resolver at `10.0.0.2`, which is in none of its subnets.
fn slice_with_resolver() -> HostSlice {
    let mut slice = slice();
    slice.vpcs.get_mut(&VpcId::from("vpc-1")).unwrap().resolver = Some("10.0.0.2".parse().unwrap());
    slice
}

fn add_first_subnet(slice: &mut HostSlice) {
    let network = SubnetNetwork {
        ipv6: None,
        vpc_id: VpcId::from("vpc-1"),
        cidr: "10.0.0.0/24".parse().unwrap(),
        router: "10.0.0.1".parse().unwrap(),
    };
    slice.subnets.insert(SubnetId::from("subnet-0"), network);
}

#[test]
fn a_resolver_outside_every_subnet_gets_a_bridge_of_its_own() {
    let network = network(&slice_with_resolver());
    let bridge = network.bridges.iter().find(|bridge| bridge.device == names::RESOLVER_BRIDGE).unwrap();
    assert_eq!((bridge.address.to_string().as_str(), bridge.prefix_len), ("10.0.0.1", 30));
    let resolver = &network.interfaces[0];
    assert_eq!((resolver.namespace.as_str(), resolver.device.as_str()), ("gh-t-node-vpc-1", "resolver"));
    assert_eq!(resolver.router.to_string(), "10.0.0.1");
    assert!(resolver.answers_only);
    assert_eq!(network.interfaces.iter().filter(|interface| interface.answers_only).count(), 1);
}

#[test]
fn a_resolver_inside_a_subnet_is_a_port_of_its_bridge() {
    let mut slice = slice_with_resolver();
    add_first_subnet(&mut slice);
    let network = network(&slice);
    assert_eq!(network.interfaces[0].bridge, "subsubnet-0");
    assert_eq!(network.interfaces[0].prefix_len, 24);
    assert!(network.bridges.iter().all(|bridge| bridge.device != names::RESOLVER_BRIDGE));
    // Another VPC's subnet of the same range does not count.
    slice.subnets.get_mut(&SubnetId::from("subnet-0")).unwrap().vpc_id = VpcId::from("vpc-2");
    assert_eq!(self::network(&slice).interfaces[0].bridge, names::RESOLVER_BRIDGE);
}

#[test]
fn a_resolver_moves_to_the_subnet_that_is_made_around_it() {
    let mut present = standing(&slice_with_resolver());
    let mut more = slice_with_resolver();
    add_first_subnet(&mut more);
    let moved = steps(&network(&more), &present);
    assert_eq!(
        spelled(&moved),
        [
            "remove device resolver-port of gh-t-vpc-1",
            "remove device resolver-bridge of gh-t-vpc-1",
            "make bridge subsubnet-0 in gh-t-vpc-1",
            "make interface resolver (10.0.0.2) in gh-t-node-vpc-1",
        ]
    );
    carry_out(&mut present, &moved);
    assert_eq!(spelled(&steps(&network(&more), &present)), [""; 0]);
}

#[test]
fn a_resolver_comes_without_a_load_balancer_and_goes_with_its_node() {
    let mut slice = slice_with_resolver();
    slice.interfaces.remove(&InterfaceId::from("eni-1"));
    assert!(network(&slice).namespaces.contains_key("gh-t-node-vpc-1"));
    let present = standing(&slice);
    slice.vpcs.get_mut(&VpcId::from("vpc-1")).unwrap().resolver = None;
    let gone = spelled(&steps(&network(&slice), &present));
    assert!(gone.contains(&"remove device resolver-port of gh-t-vpc-1".to_owned()), "{gone:?}");
    assert!(gone.contains(&"remove namespace gh-t-node-vpc-1".to_owned()), "{gone:?}");
}

#[test]
fn only_a_resolver_may_ask_outside_and_every_machine_may_ask_it() {
    let network = network(&slice_with_resolver());
    let filter = |namespace: &str| network.namespaces[namespace].filter.clone().unwrap();
    let edge = filter("gh-t-vpc-1");
    assert_eq!(edge.matches("198.51.100.53").count(), 1, "{edge}");
    assert!(edge.contains("ip saddr 10.0.0.2 ip daddr 198.51.100.53 "), "{edge}");
    assert!(filter("gh-t-i-1").contains("ip daddr 10.0.0.2 "), "{}", filter("gh-t-i-1"));
}

#[test]
fn marks_fit_an_alias() {
    let mut slice = slice();
    let long = "i-0123456789abcdef0123456789abcdef0123456789".repeat(2);
    let owner = InterfaceOwner::Task(Arn::from(format!("arn:aws:ecs:r:1:task/c/{long}")));
    add(&mut slice, "eni-4", "255.255.255.254", owner);
    // The kernel keeps 255 bytes of an alias.
    assert!(network(&slice).interfaces.iter().all(|interface| interface.mark().len() <= 255));
}

/// The slice with IPv6 in its subnet and on its load balancer.
fn dual() -> HostSlice {
    let mut slice = slice();
    slice.subnets.values_mut().next().unwrap().ipv6 = Some("fd00:0:0:1::/64".parse().unwrap());
    slice.interfaces.values_mut().next().unwrap().ipv6 = Some("fd00:0:0:1::4".parse().unwrap());
    slice
}

#[test]
fn ipv6_comes_and_goes_without_a_device_made_anew() {
    let mut present = standing(&slice());
    let there = steps(&network(&dual()), &present);
    assert_eq!(
        spelled(&there),
        [
            "change IPv6 of bridge subsubnet-1 in gh-t-vpc-1",
            "change IPv6 of interface enieni-1 in gh-t-node-vpc-1",
        ]
    );
    carry_out(&mut present, &there);
    assert_eq!(present, standing(&dual()));
    let back = steps(&network(&slice()), &present);
    assert_eq!(back.len(), 2, "{back:?}");
    carry_out(&mut present, &back);
    assert_eq!(present, standing(&slice()));
}

/// Answers of the machine at port 80 go by the load balancer.
fn returning(mut slice: HostSlice) -> HostSlice {
    slice.returns.insert(ReturnPath {
        vpc_id: VpcId::from("vpc-1"),
        address: "10.0.1.6".parse().unwrap(),
        protocol: 6,
        port: 80,
        load_balancer: Arn::from("arn:aws:elasticloadbalancing:r:1:loadbalancer/net/a/1"),
    });
    slice
}

#[test]
fn answers_go_by_the_load_balancer_that_is_in_the_targets_subnet() {
    let wanted = network(&returning(slice()));
    let returns = &wanted.namespaces["gh-t-i-1"].returns;
    let way = returns.first().unwrap();
    assert_eq!((returns.len(), way.gateway.to_string()), (1, "10.0.1.4".to_owned()));
    assert!(wanted.namespaces.iter().all(|(name, own)| name == "gh-t-i-1" || own.returns.is_empty()));
    assert_eq!(
        spelled(&steps(&wanted, &standing(&slice()))),
        ["send answers of 1 ports of gh-t-i-1 by load balancers"]
    );
    assert_eq!(
        spelled(&steps(&network(&slice()), &standing(&returning(slice())))),
        ["send answers of 0 ports of gh-t-i-1 by load balancers"]
    );
}

#[test]
fn answers_from_a_subnet_without_the_load_balancer_go_to_the_router_and_turn_there() {
    let mut slice = returning(slice());
    let other = SubnetNetwork {
        vpc_id: VpcId::from("vpc-1"),
        cidr: "10.0.2.0/24".parse().unwrap(),
        router: "10.0.2.1".parse().unwrap(),
        ipv6: None,
    };
    slice.subnets.insert(SubnetId::from("subnet-2"), other);
    slice.interfaces.get_mut(&InterfaceId::from("eni-3")).unwrap().subnet_id = SubnetId::from("subnet-2");
    let network = network(&slice);
    let gateways = |namespace: &str| -> Vec<_> {
        network.namespaces[namespace].returns.iter().map(|way| way.gateway.to_string()).collect()
    };
    // Clients in the target's own subnet would be answered past the router otherwise.
    assert_eq!(gateways("gh-t-i-1"), ["10.0.2.1"]);
    assert_eq!(gateways("gh-t-vpc-1"), ["10.0.1.4"]);
}

#[test]
fn an_interface_made_anew_gets_its_ways_of_answers_again() {
    let mut present = standing(&returning(slice()));
    present.namespaces.get_mut("gh-t-vpc-1").unwrap().insert("prteni-3".to_owned(), String::new());
    let all = spelled(&steps(&network(&returning(slice())), &present));
    assert_eq!(all.last().unwrap(), "send answers of 1 ports of gh-t-i-1 by load balancers", "{all:?}");
}

#[test]
fn what_ways_are_in_force_is_not_remembered_over_a_restart() {
    let mut present = standing(&returning(slice()));
    present.returns.clear();
    let again = steps(&network(&returning(slice())), &present);
    assert!(again.iter().all(|step| matches!(step, Step::Return { .. })), "{again:?}");
    assert_eq!(again.len(), 4, "one per namespace: none may keep an old way");
}

#[test]
fn hardware_addresses_follow_addresses() {
    assert_eq!(mac("10.0.1.6".parse().unwrap()), [0x02, 0x67, 10, 0, 1, 6]);
}
