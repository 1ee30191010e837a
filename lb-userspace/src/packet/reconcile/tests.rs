//! Plans to writes, without a kernel: what is added, kept, quarantined and given again.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use lb_common::abi::{NO_RING, target_state};

use super::*;
use crate::model::{id::Arn, target_group::TargetKey};
use crate::packet::maglev::ring;

const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 4);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);
const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 20);
const IFINDEX: u32 = 7;
const MAC: Mac = [2, 0, 0, 0, 0, 1];

fn name(address: Ipv4Addr) -> TargetName {
    TargetName {
        group: Arn::from("group".to_owned()),
        key: TargetKey { id: address.to_string(), port: 8080 },
    }
}

fn plan(targets: &[(Ipv4Addr, Verdict)]) -> Plan {
    let target = |(address, health): &(Ipv4Addr, Verdict)| {
        let weight = u32::from(*health != Verdict::Draining);
        (name(*address), TargetPlan { address: *address, weight, health: *health, terminates: false })
    };
    let listener = ListenerPlan {
        arn: Arn::from("listener".to_owned()),
        sources: None,
        idle_timeout_s: 350,
        targets: targets.iter().map(target).collect(),
    };
    let node = NodePlan {
        device: "eni".to_owned(),
        subnet: "10.0.1.0/24".parse().unwrap(),
        router: ROUTER,
        listeners: [(80, listener)].into(),
    };
    Plan { nodes: [(BALANCER, node)].into() }
}

fn around(neighbours: &[Ipv4Addr]) -> Surroundings {
    Surroundings {
        devices: [("eni".to_owned(), IFINDEX)].into(),
        neighbours: neighbours.iter().map(|address| ((IFINDEX, *address), MAC)).collect(),
    }
}

fn everybody() -> Surroundings {
    around(&[NEAR, ROUTER])
}

fn index(ledger: &Ledger, address: Ipv4Addr) -> u16 {
    let found = ledger.targets.iter().find(|(identity, _)| identity.address == address);
    found.map(|(_, slot)| slot.index).unwrap()
}

/// Indices of the ring that listener 80 uses.
fn routed(ledger: &Ledger) -> BTreeSet<u16> {
    ledger.adopted_targets((BALANCER, 80))
}

fn applied(plan: &Plan, around: &Surroundings) -> Ledger {
    let mut ledger = Ledger::default();
    reconcile(&mut ledger, plan, around).unwrap();
    ledger
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
    assert!(ledger.targets.values().all(|slot| !slot.retired));
}

#[test]
fn an_index_is_not_given_again_while_a_flow_names_it() {
    let mut ledger = applied(&plan(&[(NEAR, Verdict::Healthy)]), &everybody());
    let old = index(&ledger, NEAR);
    reconcile(&mut ledger, &plan(&[]), &everybody()).unwrap();
    assert_eq!(ledger.release(&[u32::from(old)].into(), &[].into()), []);
    reconcile(&mut ledger, &plan(&[(FAR, Verdict::Healthy)]), &everybody()).unwrap();
    assert_ne!(index(&ledger, FAR), old);
    // Once no flow does, it is free, and its next owner is of another generation.
    let freed = ledger.release(&[].into(), &[].into());
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
    assert!(writes.contains(&Write::RemoveListener { name: (BALANCER, 80) }));
    assert!(writes.contains(&Write::RemoveAddress { address: BALANCER }));
    assert!(ledger.rings.is_empty() && ledger.targets.values().all(|slot| slot.retired));
}

#[test]
fn source_ranges_follow_the_plan() {
    let mut guarded = plan(&[]);
    let listener = guarded.nodes.get_mut(&BALANCER).unwrap().listeners.get_mut(&80).unwrap();
    listener.sources = Some(["10.0.3.0/24".parse().unwrap()].into());
    let mut ledger = applied(&guarded, &everybody());
    assert!(ledger.states.values().all(|state| state.flags & listener_flags::GUARDED != 0));
    let writes = reconcile(&mut ledger, &plan(&[]), &everybody()).unwrap();
    assert!(writes.iter().any(|write| matches!(write, Write::RefuseSource { .. })), "{writes:#?}");
    assert!(ledger.states.values().all(|state| state.flags == 0));
}

#[test]
fn more_listeners_than_rings_are_refused_whole() {
    let mut many = plan(&[]);
    let listener = many.nodes[&BALANCER].listeners[&80].clone();
    for port in 1..100 {
        many.nodes.get_mut(&BALANCER).unwrap().listeners.insert(port, listener.clone());
    }
    let error = reconcile(&mut Ledger::default(), &many, &everybody()).unwrap_err();
    assert_eq!(error.what, "rings");
}
