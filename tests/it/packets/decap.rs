//! `gatehouse decap` on a target that runs nothing else of the appliance.

use std::process::Output;

use gatehouse_tests::lab::netns::Netns;
use lb_userspace::packet::Mode;
use serde_json::Value;

use super::bed::{BALANCER4, Bed, CLIENT4, DEVICE, TARGET4, plan};

/// What `list` says of the one interface.
fn listed(bed: &Bed) -> Value {
    let said = bed.decap_says(&["list", "--json"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    serde_json::from_str(&said).unwrap()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_is_attached_is_listed_with_what_came_until_it_is_detached() {
    let bed = Bed::new();
    let node = bed.start_node();
    assert_eq!(bed.decap_says(&["list"]), "");
    let said = bed.decap_says(&["attach", "--interface", DEVICE]);
    assert!(said.contains("attached to nic0, natively") && said.contains("anybody's tunnels"), "{said}");
    node.apply(plan(Mode::Ipip, &[(BALANCER4, TARGET4)]));
    assert_eq!(bed.exchange(BALANCER4, 1_000).unwrap(), CLIENT4);
    let count = |what: &str| listed(&bed)[what].as_u64().unwrap();
    let ipip = count("ipip_packets");
    assert!(ipip >= 4 && count("gue_packets") == 0 && count("bytes") > 1_000, "{}", listed(&bed));
    node.apply(plan(Mode::Gue, &[(BALANCER4, TARGET4)]));
    assert_eq!(bed.exchange(BALANCER4, 1_000).unwrap(), CLIENT4);
    assert!(count("ipip_packets") == ipip && count("gue_packets") >= 4, "{}", listed(&bed));
    let line = bed.decap_says(&["list"]);
    assert!(line.starts_with("nic0 native from everybody: "), "{line}");

    assert_eq!(bed.decap_says(&["detach", "--interface", DEVICE]), "detached from nic0\n");
    assert_eq!(bed.decap_says(&["list"]), "");
    bed.exchange(BALANCER4, 1).unwrap_err();
    let said = refused(&bed.decap(&["detach", "--interface", DEVICE]));
    assert!(said.contains("nic0 has no program of ours"), "{said}");
}

#[test]
fn attaching_again_exchanges_the_program_in_place_and_keeps_what_was_counted() {
    let bed = Bed::new();
    let node = bed.start_node();
    bed.decap_says(&["attach", "--interface", DEVICE]);
    node.apply(plan(Mode::Ipip, &[(BALANCER4, TARGET4)]));
    let mut connection = bed.connect(BALANCER4).unwrap();
    assert_eq!(connection.exchange(1_000).unwrap(), CLIENT4);
    let before = listed(&bed)["ipip_packets"].as_u64().unwrap();
    for _ in 0..3 {
        let said = bed.decap_says(&["attach", "--interface", DEVICE]);
        assert!(said.starts_with("exchanged the program on nic0"), "{said}");
        assert_eq!(connection.exchange(1_000).unwrap(), CLIENT4);
    }
    assert!(listed(&bed)["ipip_packets"].as_u64().unwrap() > before);
}

#[test]
fn tunnels_of_those_who_are_not_named_stay_closed() {
    let bed = Bed::new();
    let node = bed.start_node();
    node.apply(plan(Mode::Ipip, &[(BALANCER4, TARGET4)]));
    let said = bed.decap_says(&["attach", "--interface", DEVICE, "--from", "10.9.0.5", "--from", "fd00::/8"]);
    assert!(!said.contains("anybody"), "{said}");
    bed.exchange(BALANCER4, 1).unwrap_err();
    let shown = listed(&bed);
    assert_eq!(shown["from"], serde_json::json!(["10.9.0.5/32", "fd00::/8"]));
    assert!(shown["refused_packets"].as_u64().unwrap() > 0 && shown["ipip_packets"] == 0, "{shown}");
    // Who may is exchanged with the program.
    bed.decap_says(&["attach", "--interface", DEVICE, "--from", "10.9.0.4/32"]);
    assert_eq!(listed(&bed)["from"], serde_json::json!(["10.9.0.4/32"]));
    assert_eq!(bed.exchange(BALANCER4, 1_000).unwrap(), CLIENT4);
}

#[test]
fn an_interface_without_native_xdp_gets_the_program_generically_and_hears_what_that_costs() {
    let bed = Bed::new();
    let node = bed.start_node();
    // The target's address moves to a bridge over its device, as on a host of virtual machines.
    for words in [
        "link add br0 type bridge",
        "address flush dev nic0",
        "link set nic0 master br0",
        "address add 10.9.0.20/24 dev br0",
        "link set br0 up",
    ] {
        bed.target.ip(words).unwrap();
    }
    let said = bed.decap_says(&["attach", "--interface", "br0"]);
    assert!(said.contains("attached to br0, generically") && said.contains("socket buffer"), "{said}");
    assert_eq!(listed(&bed)["mode"], "generic");
    for mode in [Mode::Ipip, Mode::Gue] {
        node.apply(plan(mode, &[(BALANCER4, TARGET4)]));
        assert_eq!(bed.exchange(BALANCER4, 100_000).unwrap(), CLIENT4);
    }
}

#[test]
fn only_the_interface_that_is_named_is_touched_and_never_anothers_program() {
    let bed = Bed::new();
    let said = refused(&bed.decap(&["attach", "--interface", "nic7"]));
    assert!(said.contains("there is no interface nic7"), "{said}");
    let said = refused(&bed.decap(&["attach", "--interface", "lo"]));
    assert!(said.contains("lo is the loopback interface"), "{said}");
    bed.decap_says(&["attach", "--interface", DEVICE]);
    // Somebody else's: ours, by other pins.
    let somebody = super::world::BpfFs::mount();
    let pins = somebody.path.join("decap");
    let binary = gatehouse_tests::lab::appliance::binary().unwrap();
    let attach = |machine: &Netns| {
        let mut command = machine.command(&binary.display().to_string());
        command.args(["decap", "attach", "--interface", DEVICE, "--pins"]).arg(&pins).output().unwrap()
    };
    let said = refused(&attach(&bed.target));
    assert!(said.contains("another XDP program is on nic0"), "{said}");
    // Pins know their namespace: another machine's device of the same name is another.
    assert!(attach(&bed.client).status.success());
    assert_eq!(listed(&bed)["mode"], "native");
    let wrong = refused(&bed.decap(&["attach", "--interface", DEVICE, "--from", "10.9"]));
    assert!(wrong.is_empty(), "{wrong}");
}
