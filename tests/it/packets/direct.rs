//! Connections of real kernels to targets that answer past the load balancer: as they are to the target's MAC, in IP and in
//! GUE. The node sees what the client sends and nothing of the answers.

use std::io::ErrorKind;
use std::net::IpAddr;

use lb_userspace::packet::{Mode, Plan};

use super::bed::{BALANCER4, BALANCER6, Bed, CLIENT4, CLIENT6, DEVICE, TARGET4, TARGET6, plan};
use super::world::Node;

/// Enough for several hundred full packets in each direction.
const BYTES: usize = 1 << 20;

/// Clients of both families, each to a target of this family.
fn both(mode: Mode, target: IpAddr) -> Plan {
    plan(mode, &[(BALANCER4, target), (BALANCER6, target)])
}

fn bytes(node: &Node) -> u64 {
    node.counters().listeners.iter().map(|listener| listener.counters.bytes).sum()
}

/// A connection with data both ways, whose answers do not come by the node.
fn carries(bed: &Bed, node: &Node, to: IpAddr, client: IpAddr) {
    let before = bytes(node);
    let seen_as = bed.exchange(to, BYTES);
    assert_eq!(seen_as.ok(), Some(client), "to {to}: {:#?}", node.counters());
    let (carried, sent) = (bytes(node) - before, u64::try_from(BYTES).unwrap());
    assert!((sent..sent + sent / 4).contains(&carried), "{carried} bytes came by the node to {to}");
}

#[test]
fn a_target_with_the_balancers_address_answers_clients_of_both_families_itself() {
    let bed = Bed::new();
    let node = bed.start_node();
    node.apply(plan(Mode::L2, &[(BALANCER4, TARGET4), (BALANCER6, TARGET6)]));
    carries(&bed, &node, BALANCER4, CLIENT4);
    carries(&bed, &node, BALANCER6, CLIENT6);
    assert_eq!(node.counters().listeners.iter().map(|l| l.counters.new_flows).sum::<u64>(), 2);
}

#[test]
fn packets_in_ip_reach_a_target_that_takes_them_out() {
    let bed = Bed::new();
    let node = bed.start_node();
    bed.decap_says(&["attach", "--interface", DEVICE]);
    for target in [TARGET4, TARGET6] {
        // 4in4 and 6in4, then 4in6 and 6in6.
        node.apply(both(Mode::Ipip, target));
        carries(&bed, &node, BALANCER4, CLIENT4);
        carries(&bed, &node, BALANCER6, CLIENT6);
    }
}

#[test]
fn packets_in_gue_reach_a_target_that_takes_them_out() {
    let bed = Bed::new();
    let node = bed.start_node();
    bed.decap_says(&["attach", "--interface", DEVICE]);
    for target in [TARGET4, TARGET6] {
        node.apply(both(Mode::Gue, target));
        carries(&bed, &node, BALANCER4, CLIENT4);
        carries(&bed, &node, BALANCER6, CLIENT6);
    }
}

#[test]
fn a_target_that_takes_nothing_out_answers_nobody() {
    let bed = Bed::new();
    let node = bed.start_node();
    for mode in [Mode::Ipip, Mode::Gue] {
        node.apply(both(mode, TARGET4));
        let error = bed.exchange(BALANCER4, 1).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    }
}

/// What a client's kernel knows of the way to an address.
fn route(bed: &Bed, to: IpAddr) -> String {
    let output = bed.client.command("ip").args(["route", "get", &to.to_string()]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_client_hears_that_its_packets_do_not_fit_and_the_transfer_goes_on() {
    let bed = Bed::new();
    let node = bed.start_node();
    bed.decap_says(&["attach", "--interface", DEVICE]);
    // What is around a packet: an IPv4 header, an IPv6 header, and the same with UDP.
    for (mode, target, mtu) in [
        (Mode::Ipip, TARGET4, 1_480),
        (Mode::Ipip, TARGET6, 1_460),
        (Mode::Gue, TARGET4, 1_472),
        (Mode::Gue, TARGET6, 1_452),
    ] {
        for flush in ["-4", "-6"] {
            bed.client.ip(&format!("{flush} route flush cache")).unwrap();
        }
        node.apply(both(mode, target));
        for (to, client) in [(BALANCER4, CLIENT4), (BALANCER6, CLIENT6)] {
            assert!(!route(&bed, to).contains("mtu"), "{}", route(&bed, to));
            carries(&bed, &node, to, client);
            let route = route(&bed, to);
            assert!(route.contains(&format!("mtu {mtu}")), "{mode:?} to {target}: {route}");
        }
    }
}
