//! Plans to writes, without a kernel: what is added, kept, quarantined and given again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::abi::{NO_RING, listener_flags, target_state};

use super::*;
use crate::model::{id::Arn, target_group::TargetKey};
use crate::packet::flows::Census;
use crate::packet::ledger::{RingContent, TargetSlot};
use crate::packet::maglev::ring;
use crate::packet::plan::{
    ListenerPlan, Mode, NodePlan, Protocol, Service, Side, TargetName, TargetPlan, Verdict,
};

const BALANCER: IpAddr = v4(1, 4);
const ROUTER: IpAddr = v4(1, 1);
const NEAR: IpAddr = v4(1, 20);
const FAR: IpAddr = v4(2, 20);
const IFINDEX: u32 = 7;
const MAC: Mac = [2, 0, 0, 0, 0, 1];
const OWN_MAC: Mac = [2, 0, 0, 0, 0, 7];

const fn v4(subnet: u8, host: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, subnet, host))
}

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(address: IpAddr) -> TargetName {
    TargetName {
        group: Arn::from("group".to_owned()),
        key: TargetKey { id: address.to_string(), port: 8080 },
    }
}

const fn at(port: u16) -> ListenerName {
    ListenerName { address: BALANCER, port, protocol: Protocol::Tcp }
}

fn target(address: IpAddr, health: Verdict) -> TargetPlan {
    TargetPlan {
        address,
        weight: u32::from(health != Verdict::Draining),
        health,
        mode: Mode::Nat,
        server_id: None,
        terminates: false,
        ends_after_s: None,
        fails_open: false,
    }
}

fn plan(targets: &[(IpAddr, Verdict)]) -> Plan {
    let listener = ListenerPlan {
        arn: Arn::from("listener".to_owned()),
        sources: None,
        idle_timeout_s: 350,
        service: Service::Forward,
        is_sticky: false,
        new_flows_per_s: None,
        targets: targets.iter().map(|(at, health)| (name(*at), target(*at, *health))).collect(),
    };
    let node = NodePlan {
        device: "eni".to_owned(),
        balancer: Arn::from("balancer".to_owned()),
        zone: "a".to_owned(),
        ipv4: Side { address: BALANCER, subnet: "10.0.1.0/24".parse().unwrap(), router: ROUTER },
        ipv6: None,
        secondary: BTreeMap::new(),
        listeners: [(at(80), listener)].into(),
    };
    Plan { nodes: [(BALANCER, node)].into(), ..Plan::default() }
}

fn listener_of(plan: &mut Plan) -> &mut ListenerPlan {
    plan.nodes.get_mut(&BALANCER).unwrap().listeners.get_mut(&at(80)).unwrap()
}

fn set_mode(plan: &mut Plan, mode: Mode) {
    for target in listener_of(plan).targets.values_mut() {
        target.mode = mode;
    }
}

fn around(neighbours: &[IpAddr]) -> Surroundings {
    Surroundings {
        devices: [("eni".to_owned(), Interface { ifindex: IFINDEX, mac: OWN_MAC, mtu: 1500 })].into(),
        neighbours: neighbours.iter().map(|address| ((IFINDEX, *address), MAC)).collect(),
        tick: 100,
        pass: 1,
        cpus: 2,
        new_flows_per_s: 1_000,
        path_mtus: BTreeMap::new(),
    }
}

fn everybody() -> Surroundings {
    around(&[NEAR, ROUTER])
}

fn later(ticks: u32) -> Surroundings {
    Surroundings { tick: 100 + ticks, ..everybody() }
}

fn slot(ledger: &Ledger, address: IpAddr) -> TargetSlot {
    let found = ledger.targets.iter().find(|(identity, _)| identity.address == address);
    *found.unwrap().1
}

fn index(ledger: &Ledger, address: IpAddr) -> u16 {
    slot(ledger, address).index
}

/// Indices of the ring that listener 80 uses.
fn routed(ledger: &Ledger) -> BTreeSet<u16> {
    ledger.adopted_targets(at(80))
}

fn state(ledger: &Ledger) -> Listener {
    *ledger.states.values().next().unwrap()
}

fn applied(plan: &Plan, around: &Surroundings) -> Ledger {
    let mut ledger = Ledger::default();
    reconcile(&mut ledger, plan, around).unwrap();
    ledger
}

/// What a pass found: flows of these targets.
fn census(pass: u64, targets: &[u16]) -> Census {
    let by_target = targets.iter().map(|index| (*index, 1)).collect();
    Census { pass, by_target, ..Census::default() }
}

#[test]
fn what_a_write_points_to_is_written_before() {
    let mut ledger = Ledger::default();
    let writes = reconcile(&mut ledger, &plan(&[(NEAR, Verdict::Healthy)]), &everybody()).unwrap();
    let at = |wanted: fn(&Write) -> bool| writes.iter().position(wanted).unwrap();
    let order = [
        at(|write| matches!(write, Write::Target { .. })),
        at(|write| matches!(write, Write::Ring { .. })),
        at(|write| matches!(write, Write::ListenerState { .. })),
        at(|write| matches!(write, Write::AddListener { .. })),
        at(|write| matches!(write, Write::SetAddress { .. })),
    ];
    assert!(order.is_sorted(), "{writes:#?}");
}

#[test]
fn the_same_plan_again_writes_nothing() {
    let plan = plan(&[(NEAR, Verdict::Healthy), (FAR, Verdict::Healthy)]);
    let mut ledger = applied(&plan, &everybody());
    assert_eq!(reconcile(&mut ledger, &plan, &everybody()).unwrap(), []);
}

#[test]
fn targets_outside_the_subnet_are_behind_the_router() {
    let ledger = applied(&plan(&[(FAR, Verdict::Healthy)]), &around(&[ROUTER]));
    assert!(ledger.targets.values().all(|slot| slot.entry.state == target_state::READY));
    let ledger = applied(&plan(&[(FAR, Verdict::Healthy)]), &around(&[FAR]));
    assert!(ledger.targets.values().all(|slot| slot.entry.state == target_state::UNRESOLVED));
}

#[test]
fn only_targets_that_can_be_reached_get_new_flows_while_there_is_one() {
    let plan = plan(&[(NEAR, Verdict::Healthy), (FAR, Verdict::Healthy)]);
    let mut ledger = applied(&plan, &around(&[NEAR]));
    assert_eq!(routed(&ledger), [index(&ledger, NEAR)].into());
    reconcile(&mut ledger, &plan, &everybody()).unwrap();
    assert_eq!(routed(&ledger).len(), 2);
    assert_eq!(routed(&applied(&plan, &around(&[]))).len(), 2);
}

#[test]
fn a_target_keeps_its_last_mac_when_it_stops_answering() {
    let plan = plan(&[(NEAR, Verdict::Healthy)]);
    let mut ledger = applied(&plan, &everybody());
    assert_eq!(reconcile(&mut ledger, &plan, &around(&[])).unwrap(), []);
}

#[test]
fn an_unknown_target_keeps_what_it_had() {
    let mut ledger = applied(&plan(&[(NEAR, Verdict::Healthy)]), &everybody());
    // As after a restart: the ring is there, and nobody knows who made it.
    let near = index(&ledger, NEAR);
    let members: Vec<Member> = match ledger.rings.values().next().unwrap() {
        RingContent::Members(members) => members.clone(),
        RingContent::Adopted(_) => panic!("this process filled it"),
    };
    let number = *ledger.rings.keys().next().unwrap();
    ledger.rings.insert(number, RingContent::Adopted(ring(&members)));
    let unknown = plan(&[(NEAR, Verdict::Unknown), (FAR, Verdict::Unknown)]);
    let writes = reconcile(&mut ledger, &unknown, &everybody()).unwrap();
    assert_eq!(routed(&ledger), [near].into());
    assert!(!writes.iter().any(|write| matches!(write, Write::Ring { .. })), "{writes:#?}");
}

#[test]
fn no_healthy_target_means_all() {
    let ledger = applied(&plan(&[(NEAR, Verdict::Unknown), (FAR, Verdict::Unknown)]), &everybody());
    assert_eq!(routed(&ledger).len(), 2);
}

#[test]
fn draining_targets_get_nothing_new_and_without_others_there_is_no_ring() {
    let mut ledger = applied(&plan(&[(NEAR, Verdict::Healthy)]), &everybody());
    reconcile(&mut ledger, &plan(&[(NEAR, Verdict::Draining)]), &everybody()).unwrap();
    assert!(ledger.states.values().all(|state| state.ring == NO_RING));
    assert!(ledger.targets.values().all(|slot| slot.retired.is_none()));
}

#[test]
fn an_index_is_not_given_again_while_a_flow_names_it() {
    let mut ledger = applied(&plan(&[(NEAR, Verdict::Healthy)]), &everybody());
    let old = index(&ledger, NEAR);
    reconcile(&mut ledger, &plan(&[]), &everybody()).unwrap();
    assert_eq!(ledger.release(&census(1, &[])), [], "this pass had begun before");
    assert_eq!(ledger.release(&census(2, &[old])), []);
    reconcile(&mut ledger, &plan(&[(FAR, Verdict::Healthy)]), &everybody()).unwrap();
    assert_ne!(index(&ledger, FAR), old);
    // Once no flow does, it is free, and its next owner is of another generation.
    let freed = ledger.release(&census(3, &[]));
    assert_eq!(freed.iter().map(|slot| slot.index).collect::<Vec<_>>(), [old]);
    reconcile(&mut ledger, &plan(&[(NEAR, Verdict::Healthy)]), &everybody()).unwrap();
    let again = ledger.targets.values().find(|slot| slot.index == old).unwrap();
    assert_eq!(again.entry.generation, freed.first().unwrap().entry.generation + 1);
}

#[test]
fn a_target_that_returns_before_its_flows_ended_has_its_index_back() {
    let mut ledger = applied(&plan(&[(NEAR, Verdict::Healthy)]), &everybody());
    let old = index(&ledger, NEAR);
    reconcile(&mut ledger, &plan(&[]), &everybody()).unwrap();
    reconcile(&mut ledger, &plan(&[(NEAR, Verdict::Healthy)]), &everybody()).unwrap();
    assert_eq!(index(&ledger, NEAR), old);
}

#[test]
fn a_ring_is_swapped_and_never_written_in_place() {
    let mut ledger = applied(&plan(&[(NEAR, Verdict::Healthy)]), &everybody());
    let before: BTreeSet<u32> = ledger.rings.keys().copied().collect();
    let both = plan(&[(NEAR, Verdict::Healthy), (FAR, Verdict::Healthy)]);
    for write in reconcile(&mut ledger, &both, &everybody()).unwrap() {
        if let Write::Ring { index, .. } = write {
            assert!(!before.contains(&index), "a ring in use was written");
        }
    }
}

#[test]
fn rings_of_many_changes_are_used_again() {
    let plans =
        [plan(&[(NEAR, Verdict::Healthy)]), plan(&[(NEAR, Verdict::Healthy), (FAR, Verdict::Healthy)])];
    let mut ledger = Ledger::default();
    for round in 0..MAX_RINGS * 3 {
        reconcile(&mut ledger, &plans[round % 2], &everybody()).unwrap();
        assert_eq!(ledger.rings.len(), 1);
    }
}

#[test]
fn a_node_without_its_device_waits_and_keeps_what_it_had() {
    let plan = plan(&[(NEAR, Verdict::Healthy)]);
    let mut ledger = applied(&plan, &everybody());
    assert_eq!(reconcile(&mut ledger, &plan, &Surroundings::default()).unwrap(), []);
    assert_eq!(ledger.listeners.len(), 1);
}

#[test]
fn an_empty_plan_takes_everything_out() {
    let mut ledger = applied(&plan(&[(NEAR, Verdict::Healthy)]), &everybody());
    let writes = reconcile(&mut ledger, &Plan::default(), &everybody()).unwrap();
    assert!(writes.contains(&Write::RemoveListener { name: at(80) }));
    assert!(writes.contains(&Write::RemoveAddress { address: BALANCER }));
    assert!(ledger.rings.is_empty() && ledger.targets.values().all(|slot| slot.retired.is_some()));
}

#[test]
fn source_ranges_follow_the_plan() {
    let mut guarded = plan(&[]);
    listener_of(&mut guarded).sources = Some(["10.0.3.0/24".parse().unwrap()].into());
    let mut ledger = applied(&guarded, &everybody());
    assert!(ledger.states.values().all(|state| state.flags & listener_flags::GUARDED != 0));
    let writes = reconcile(&mut ledger, &plan(&[]), &everybody()).unwrap();
    assert!(writes.iter().any(|write| matches!(write, Write::RefuseSource { .. })), "{writes:#?}");
    assert!(ledger.states.values().all(|state| state.flags == 0));
}

#[test]
fn more_rings_than_there_are_is_refused_whole() {
    let mut many = plan(&[]);
    let listener = listener_of(&mut many).clone();
    for port in 1..100 {
        let mut own = listener.clone();
        let host = v4(1, u8::try_from(port).unwrap() + 100);
        own.targets = [(name(host), target(host, Verdict::Healthy))].into();
        many.nodes.get_mut(&BALANCER).unwrap().listeners.insert(at(port), own);
    }
    let error = reconcile(&mut Ledger::default(), &many, &everybody()).unwrap_err();
    assert_eq!(error.what, "rings");
}

#[test]
fn listeners_with_the_same_targets_share_a_ring() {
    let mut plan = plan(&[(NEAR, Verdict::Healthy)]);
    let listener = listener_of(&mut plan).clone();
    for port in 1..1_000 {
        plan.nodes.get_mut(&BALANCER).unwrap().listeners.insert(at(port), listener.clone());
    }
    let ledger = applied(&plan, &everybody());
    assert_eq!(ledger.rings.len(), 1);
    assert_eq!(ledger.targets.len(), 1);
}

#[test]
fn both_protocols_and_both_families_have_one_ring() {
    let mut plan = plan(&[(NEAR, Verdict::Healthy)]);
    let listener = listener_of(&mut plan).clone();
    let node = plan.nodes.get_mut(&BALANCER).unwrap();
    let ipv6 = Side { address: v6("fd00::4"), subnet: "fd00::/64".parse().unwrap(), router: v6("fd00::1") };
    node.ipv6 = Some(ipv6);
    for address in [BALANCER, ipv6.address] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            node.listeners.insert(ListenerName { address, port: 80, protocol }, listener.clone());
        }
    }
    let ledger = applied(&plan, &everybody());
    assert_eq!((ledger.listeners.len(), ledger.rings.len()), (4, 1));
    assert!(ledger.addresses.contains_key(&ipv6.address));
    let addresses: BTreeSet<_> = ledger.states.values().map(|state| state.address.0).collect();
    assert_eq!(addresses.len(), 2, "each listener knows its own address");
}

#[test]
fn a_target_entry_says_all_that_its_packets_need() {
    let entry = slot(&applied(&plan(&[(NEAR, Verdict::Healthy)]), &everybody()), NEAR).entry;
    assert_eq!((entry.egress, entry.mtu, entry.family), (IFINDEX, 1500, 4));
    assert_eq!(entry.own_mac_head.to_ne_bytes(), [2, 0, 0, 0]);
    assert_eq!(entry.own_mac_tail.to_ne_bytes(), [0, 7]);
    assert_eq!(entry.mac_tail.to_ne_bytes(), [0, 1]);
    assert_eq!((entry.port.number(), entry.mode), (8080, Mode::Nat.number()));
}

#[test]
fn entries_follow_the_interfaces_mac_and_mtu() {
    let plan = plan(&[(NEAR, Verdict::Healthy)]);
    let mut ledger = applied(&plan, &everybody());
    let mut changed = everybody();
    changed.devices.get_mut("eni").unwrap().mtu = 9000;
    let writes = reconcile(&mut ledger, &plan, &changed).unwrap();
    assert!(matches!(writes.as_slice(), [Write::Target { entry, .. }] if entry.mtu == 9000), "{writes:#?}");
}

#[test]
fn a_target_in_the_subnet_of_another_interface_is_reached_by_that() {
    let mut two = plan(&[(FAR, Verdict::Healthy)]);
    let mut other = two.nodes[&BALANCER].clone();
    other.ipv4 = Side { address: v4(2, 4), subnet: "10.0.2.0/24".parse().unwrap(), router: v4(2, 1) };
    other.listeners.clear();
    other.device = "other".to_owned();
    two.nodes.insert(v4(2, 4), other);
    let mut around = around(&[]);
    around.devices.insert("other".to_owned(), Interface { ifindex: 8, mac: [8; 6], mtu: 1400 });
    around.neighbours.insert((8, FAR), MAC);
    let ledger = applied(&two, &around);
    let entry = slot(&ledger, FAR).entry;
    assert_eq!((entry.state, entry.egress, entry.mtu), (target_state::READY, 8, 1400));
    assert!(ledger.targets.keys().all(|identity| identity.via == v4(2, 4)));
}

#[test]
fn an_ipv6_target_of_a_load_balancer_without_ipv6_gets_nothing() {
    let ledger = applied(&plan(&[(v6("fd00::20"), Verdict::Healthy)]), &everybody());
    assert!(ledger.targets.is_empty());
    assert_eq!(state(&ledger).ring, NO_RING);
}

#[test]
fn groups_share_by_weight_whatever_their_sizes() {
    let mut weighted = plan(&[]);
    let targets = &mut listener_of(&mut weighted).targets;
    for host in 0..100 {
        let address = v4(1, 100 + host);
        targets.insert(name(address), target(address, Verdict::Healthy));
    }
    let mut alone = name(NEAR);
    alone.group = Arn::from("alone".to_owned());
    targets.insert(alone, TargetPlan { weight: 99, ..target(NEAR, Verdict::Healthy) });
    let ledger = applied(&weighted, &around(&[]));
    let RingContent::Members(members) = ledger.rings.values().next().unwrap() else { panic!("adopted") };
    let all: u64 = members.iter().map(|member| u64::from(member.weight)).sum();
    let near = members.iter().find(|member| member.index == index(&ledger, NEAR)).unwrap();
    assert_eq!(u64::from(near.weight) * 100, all * 99, "{members:?}");
}

#[test]
fn a_target_is_reached_from_further_addresses_too_and_gets_no_more_for_it() {
    let mut both = plan(&[(NEAR, Verdict::Healthy), (FAR, Verdict::Healthy)]);
    let more = v4(1, 5);
    both.nodes.get_mut(&BALANCER).unwrap().secondary = [(more, "more".to_owned())].into();
    // A second target that has one way: its group's others have two.
    for target in listener_of(&mut both).targets.values_mut().filter(|target| target.address == FAR) {
        target.mode = Mode::Preserve;
    }
    let mut around = everybody();
    around.devices.insert("more".to_owned(), Interface { ifindex: 8, mac: [8; 6], mtu: 1500 });
    around.neighbours.insert((8, NEAR), MAC);
    let mut ledger = applied(&both, &around);
    assert_eq!(ledger.addresses, [(BALANCER, IFINDEX), (more, 8)].into());
    let vias: BTreeSet<_> = ledger.targets.keys().map(|identity| (identity.address, identity.via)).collect();
    assert_eq!(vias, [(NEAR, BALANCER), (NEAR, more), (FAR, BALANCER)].into());
    let RingContent::Members(members) = ledger.rings.values().next().unwrap() else { panic!("adopted") };
    let weight = |address: IpAddr| -> u32 {
        let of = |identity: &TargetIdentity| identity.address == address;
        let indices: Vec<u16> =
            ledger.targets.iter().filter(|(own, _)| of(own)).map(|(_, slot)| slot.index).collect();
        members.iter().filter(|member| indices.contains(&member.index)).map(|member| member.weight).sum()
    };
    assert_eq!((weight(NEAR), members.len()), (weight(FAR), 3), "{members:?}");
    // Gone again, its entries go when no flow names them.
    both.nodes.get_mut(&BALANCER).unwrap().secondary.clear();
    let writes = reconcile(&mut ledger, &both, &around).unwrap();
    assert!(writes.contains(&Write::RemoveAddress { address: more }), "{writes:#?}");
    assert_eq!(ledger.release(&census(2, &[])).len(), 1);
}

#[test]
fn a_listener_that_ends_in_a_socket_has_no_ring() {
    let mut local = plan(&[]);
    listener_of(&mut local).service = Service::Local;
    let state = state(&applied(&local, &everybody()));
    assert_eq!((state.flags, state.ring), (listener_flags::LOCAL, NO_RING));
}

#[test]
fn connections_that_a_listener_left_in_userspace_are_passed_to() {
    let mut plan = plan(&[(NEAR, Verdict::Healthy)]);
    listener_of(&mut plan).service = Service::Local;
    let mut ledger = applied(&plan, &everybody());
    for flags in [listener_flags::LINGERS, listener_flags::LINGERS] {
        listener_of(&mut plan).service = Service::Forward;
        reconcile(&mut ledger, &plan, &everybody()).unwrap();
        assert_eq!(state(&ledger).flags, flags);
    }
    listener_of(&mut plan).service = Service::Local;
    reconcile(&mut ledger, &plan, &everybody()).unwrap();
    assert_eq!(state(&ledger).flags, listener_flags::LOCAL);
}

#[test]
fn server_ids_name_targets_until_the_targets_are_gone() {
    let mut quic = plan(&[(NEAR, Verdict::Draining)]);
    let listener = listener_of(&mut quic);
    listener.service = Service::Quic { server_id_length: 4 };
    listener.targets.values_mut().for_each(|target| target.server_id = Some(9));
    let mut ledger = applied(&quic, &everybody());
    let near = index(&ledger, NEAR);
    assert_eq!(ledger.server_ids, [((0, 9), near)].into());
    assert_eq!((state(&ledger).flags, state(&ledger).server_id_length), (listener_flags::QUIC, 4));
    listener_of(&mut quic).targets.clear();
    let writes = reconcile(&mut ledger, &quic, &everybody()).unwrap();
    assert!(writes.contains(&Write::RemoveServerId { listener: 0, id: 9 }), "{writes:#?}");
}

#[test]
fn limits_are_shared_by_cpus_and_a_listener_has_half_unless_told() {
    let mut plan = plan(&[]);
    assert_eq!(state(&applied(&plan, &everybody())).syn_limit, 250);
    listener_of(&mut plan).new_flows_per_s = Some(10);
    assert_eq!(state(&applied(&plan, &everybody())).syn_limit, 5);
}

#[test]
fn the_ring_before_is_kept_for_a_while_where_targets_answer_past_us() {
    let mut old = plan(&[(NEAR, Verdict::Healthy)]);
    let mut new = plan(&[(NEAR, Verdict::Healthy), (FAR, Verdict::Healthy)]);
    for plan in [&mut old, &mut new] {
        set_mode(plan, Mode::Gue);
    }
    let mut ledger = applied(&old, &everybody());
    let first = state(&ledger).ring;
    assert_eq!(state(&ledger).flags, listener_flags::DIRECT);
    let writes = reconcile(&mut ledger, &new, &everybody()).unwrap();
    let states: Vec<_> = writes
        .iter()
        .filter_map(|write| match write {
            Write::ListenerState { state, .. } => Some((state.ring == first, state.previous_ring == first)),
            _ => None,
        })
        .collect();
    assert_eq!(states, [(true, true), (false, true)], "noted before it is left");
    assert_eq!((state(&ledger).previous_until, ledger.rings.len()), (110, 2));
    assert!(!is_due(&ledger, 109));
    assert_eq!(reconcile(&mut ledger, &new, &later(9)).unwrap(), []);
    assert!(is_due(&ledger, 110));
    reconcile(&mut ledger, &new, &later(10)).unwrap();
    assert_eq!((state(&ledger).previous_ring, ledger.rings.len()), (NO_RING, 1));
}

#[test]
fn flows_of_an_unhealthy_target_end_when_it_is_time_and_once() {
    let mut sick = plan(&[(NEAR, Verdict::Unhealthy), (FAR, Verdict::Healthy)]);
    for target in listener_of(&mut sick).targets.values_mut() {
        target.ends_after_s = Some(30);
    }
    let mut ledger = applied(&plan(&[(NEAR, Verdict::Healthy), (FAR, Verdict::Healthy)]), &everybody());
    let before = slot(&ledger, NEAR).entry.generation;
    reconcile(&mut ledger, &sick, &everybody()).unwrap();
    assert_eq!(slot(&ledger, NEAR).entry.generation, before);
    assert!(is_due(&ledger, 100));
    reconcile(&mut ledger, &sick, &later(30)).unwrap();
    assert_eq!(slot(&ledger, NEAR).entry.generation, before + 1);
    assert!(!is_due(&ledger, 130));
    assert_eq!(reconcile(&mut ledger, &sick, &later(60)).unwrap(), []);
    // Healthy again, and ill again.
    reconcile(&mut ledger, &plan(&[(NEAR, Verdict::Healthy), (FAR, Verdict::Healthy)]), &later(61)).unwrap();
    reconcile(&mut ledger, &sick, &later(62)).unwrap();
    assert_eq!(slot(&ledger, NEAR).entry.generation, before + 1);
    assert_eq!(slot(&ledger, FAR).entry.generation, 1, "the healthy one's go on");
}

#[test]
fn a_target_that_was_terminated_returns_as_another_generation() {
    let mut ending = plan(&[(NEAR, Verdict::Healthy)]);
    listener_of(&mut ending).targets.values_mut().for_each(|target| target.terminates = true);
    let mut ledger = applied(&ending, &everybody());
    let before = slot(&ledger, NEAR).entry;
    reconcile(&mut ledger, &plan(&[]), &everybody()).unwrap();
    assert_eq!(slot(&ledger, NEAR).entry.state, target_state::GONE);
    reconcile(&mut ledger, &ending, &everybody()).unwrap();
    let after = slot(&ledger, NEAR).entry;
    assert_eq!((after.state, after.generation), (target_state::READY, before.generation + 1));
}

#[test]
fn a_target_whose_path_takes_less_than_the_interface_is_sent_no_more() {
    let (mut ledger, plan) = (Ledger::default(), plan(&[(NEAR, Verdict::Healthy)]));
    let told = |mtu| Surroundings { path_mtus: [(NEAR, mtu)].into(), ..everybody() };
    for (around, mtu) in
        [(everybody(), 1_500), (told(1_400), 1_400), (told(9_000), 1_500), (everybody(), 1_500)]
    {
        reconcile(&mut ledger, &plan, &around).unwrap();
        assert_eq!(slot(&ledger, NEAR).entry.mtu, mtu);
    }
}
