//! Packets of the NLB integration are moved by XDP and by nothing else.

use std::{fs, path::PathBuf};

use aya::programs::{
    Xdp,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use gatehouse_tests::lab::{Lab, Options, wait::Wait};

use super::{door::Door, example, metrics::Scrape, roles};

/// Asks so many times through the NLB integration; answers how many were answered 200.
fn answered(lab: &Lab, requests: usize) -> usize {
    let door = Door::of(lab);
    let url = &lab.urls()["nlb"];
    let mut answered = 0;
    let mut connection = None;
    for _ in 0..requests {
        let mut open = match connection.take().map_or_else(|| door.open(url), Ok) {
            Ok(open) => open,
            Err(_) => continue,
        };
        if let Ok(reply) = open.request("GET", "/", "") {
            answered += usize::from(reply.status == 200);
            connection = (!reply.closes()).then_some(open);
        }
    }
    answered
}

/// What the node says XDP has forwarded.
fn forwarded(lab: &Lab) -> u64 {
    let node = lab.ready().namespaces.node.expect("the node's namespace");
    Scrape::of(&node, METRICS_PORT).sum("gatehouse_nlb_ProcessedPackets_total")
}

#[test]
fn xdp_forwards_at_least_two_packets_a_request_and_without_it_none_is_answered() {
    let options =
        Options { more_boot: format!("[node]\nmetrics_port = {METRICS_PORT}"), ..Options::default() };
    let mut lab = Lab::start(&options).unwrap();
    lab.deploy(&example(), &|_| {}).unwrap();

    let before = forwarded(&lab);
    assert_eq!(answered(&lab, REQUESTS), REQUESTS);
    let grown = || Ok((forwarded(&lab) - before >= 2 * REQUESTS as u64).then_some(()));
    Wait::default()
        .until("two forwarded packets a request", std::time::Duration::from_secs(5), grown)
        .unwrap_or_else(|error| panic!("{error}; forwarded {}", forwarded(&lab) - before));

    let replaced = pass_everything(&lab);
    assert!(replaced >= 2, "one interface in each subnet: {replaced}");
    assert_eq!(answered(&lab, 3), 0, "answered without XDP");
    for (integration, url) in lab.urls().iter().filter(|(integration, _)| *integration != "nlb") {
        let answer = lab.client().fetch(url).unwrap();
        assert_eq!(answer.status, 200, "{integration} needs no XDP: {answer}");
    }

    // A node that starts puts its own program back, in place.
    roles::crash(&mut lab, "node");
    lab.serves(&lab.urls()["nlb"]).unwrap();
}

/// Replaces the program on every interface of the node's load balancers by one whose tables are empty: it passes every
/// packet. Answers on how many interfaces.
fn pass_everything(lab: &Lab) -> usize {
    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/gatehouse.o");
    let object = fs::read(object).expect("the kernel program; `cargo xtask build` compiles it");
    let mut ebpf = aya::EbpfLoader::new().load(&object).unwrap();
    let program: &mut Xdp = ebpf.program_mut("gatehouse").unwrap().try_into().unwrap();
    program.load().unwrap();
    let pins = pinned_links(lab);
    for pin in &pins {
        let link = PinnedLink::from_pin(pin).unwrap();
        let id = program.attach_to_link(XdpLink::try_from(FdLink::from(link)).unwrap()).unwrap();
        // This reference goes, the pin's stays, and with it the program.
        drop(program.take_link(id).unwrap());
    }
    pins.len()
}

fn pinned_links(lab: &Lab) -> Vec<PathBuf> {
    let pins = PathBuf::from("/sys/fs/bpf").join(format!("gatehouse-{}", lab.name()));
    let entries =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(pins).flat_map(|vpc| entries(vpc.join("links"))).collect()
}

const METRICS_PORT: u16 = 9_100;
/// On a few kept connections; enough that health checks could not be what was counted.
const REQUESTS: usize = 200;
