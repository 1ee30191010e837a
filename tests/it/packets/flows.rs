//! The one table of fixtures: packets of flows, from the first SYN to what comes after the last FIN.

use lb_common::abi::{DropReason, Flow, FlowKey, Ipv4Be, PortBe, Target, target_state};

use super::fixtures::{Fixture, story};
use super::given::{CAPACITY, GUARDED, Given, HOLLOW, HTTP, HTTPS, UNRESOLVED};
use super::segment::{
    ACK, BALANCER, CLIENT_PORT, FIN, PSH, RST, SYN, Segment, TARGET, TARGET_PORT, client, target,
};

/// The port that a flow of the client keeps.
const KEPT: u16 = CLIENT_PORT;

fn from_client(flags: u8) -> Segment {
    client(HTTP, flags)
}

fn from_target(flags: u8) -> Segment {
    target(KEPT, flags)
}

/// A story that begins with a finished handshake.
fn established(name: &'static str) -> Fixture {
    handshake(name).new_flows(0, 1)
}

fn handshake(name: &'static str) -> Fixture {
    let (syn, syn_ack, ack) = (from_client(SYN), from_target(SYN | ACK), from_client(ACK));
    story(name)
        .forwards(&syn, &syn.at_target(KEPT))
        .forwards(&syn_ack, &syn_ack.at_client(HTTP))
        .forwards(&ack, &ack.at_target(KEPT))
}

/// Entries of others' flows.
fn fill(given: &mut Given, entries: usize) {
    for number in 0..entries {
        let port = PortBe::new(u16::try_from(60_000 + number).unwrap());
        given.flows.push(other_flow(TARGET, PortBe::new(TARGET_PORT), port));
    }
}

/// Entries that have source ports towards the target.
fn take_ports(given: &mut Given, ports: impl IntoIterator<Item = u16>) {
    for port in ports {
        given.flows.push(other_flow(TARGET, PortBe::new(TARGET_PORT), PortBe::new(port)));
    }
}

fn other_flow(
    source: std::net::Ipv4Addr,
    source_port: PortBe,
    destination_port: PortBe,
) -> (FlowKey<Ipv4Be>, Flow<Ipv4Be>) {
    let key = FlowKey {
        source: source.into(),
        destination: BALANCER.into(),
        source_port,
        destination_port,
        protocol: 6,
    };
    let flow = Flow {
        source: BALANCER.into(),
        destination: source.into(),
        source_port: PortBe::new(80),
        destination_port: PortBe::new(1),
        direction: lb_common::abi::direction::TO_CLIENT,
        generation: 7,
        ifindex: 1,
        seen: 100,
        began: 100,
        ..Flow::default()
    };
    (key, flow)
}

pub(super) fn fixtures() -> Vec<Fixture> {
    [beginnings(), lives(), ends(), targets(), limits()].into_iter().flatten().collect()
}

fn beginnings() -> Vec<Fixture> {
    let syn = from_client(SYN);
    let fast = syn.clone().payload(b"early data");
    let ecn = from_client(SYN | 0xc0);
    let options = syn.clone().with(|s| s.tcp_options = vec![2, 4, 5, 180, 1, 3, 3, 7]);
    let low = syn.clone().with(|s| s.from.1 = 1_023);
    let high = syn.clone().with(|s| s.from.1 = 50_000);
    vec![
        story("a SYN begins a flow and keeps its port").forwards(&syn, &syn.at_target(KEPT)).flows(1),
        handshake("a handshake establishes a flow").new_flows(0, 1).flows(1),
        story("a SYN that is repeated stays with its flow")
            .forwards(&syn, &syn.at_target(KEPT))
            .forwards(&syn, &syn.at_target(KEPT))
            .flows(1),
        story("a SYN after ten seconds is still the same")
            .forwards(&syn, &syn.at_target(KEPT))
            .change(|given| given.pulse.tick += 10)
            .forwards(&syn, &syn.at_target(KEPT))
            .flows(1),
        story("an embryonic flow ends after ten seconds, and a SYN begins another")
            .forwards(&syn, &syn.at_target(KEPT))
            .change(|given| given.pulse.tick += 11)
            .forwards(&syn, &syn.at_target(KEPT))
            .flows(1),
        story("a SYN may carry data").forwards(&fast, &fast.at_target(KEPT)).flows(1),
        story("a SYN may offer ECN").forwards(&ecn, &ecn.at_target(KEPT)).flows(1),
        story("TCP options stay").forwards(&options, &options.at_target(KEPT)).flows(1),
        story("a privileged source port is not kept").forwards(&low, &low.at_target(2_000)).flows(1),
        story("a source port of the kernel's range is not kept")
            .forwards(&high, &high.at_target(2_000))
            .flows(1),
        story("a source port that is taken is not kept")
            .given(|given| take_ports(given, [KEPT]))
            .forwards(&syn, &syn.at_target(2_000))
            .entries(3),
        story("a port far away is tried when the first of the range is taken too")
            .given(|given| take_ports(given, [KEPT, 2_000, 2_001]))
            .forwards(&syn, &syn.at_target(2_013))
            .entries(5),
    ]
}

fn lives() -> Vec<Fixture> {
    let request = from_client(PSH | ACK).payload(b"GET / HTTP/1.1\r\n\r\n");
    let response = from_target(PSH | ACK).payload(b"HTTP/1.1 200 OK\r\n\r\n");
    let odd = from_client(PSH | ACK).payload(b"odd");
    let hello = client(HTTPS, PSH | ACK).payload(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 3]);
    let alert = target(KEPT, PSH | ACK).payload(&[21, 3, 3, 0, 2, 2, 40]);
    let (syn, ack) = (client(HTTPS, SYN), client(HTTPS, ACK));
    let optional = from_client(ACK).payload(b"x").with(|s| s.ip_options = vec![7, 7, 4, 0, 0, 0, 0, 0]);
    let padded = from_client(ACK).with(|s| s.padding = 6);
    let wrong = |mut bytes: Vec<u8>| {
        // A byte of the payload, that is: what was wrong before is as wrong behind.
        bytes[56] ^= 0x55;
        bytes
    };
    let last = from_client(ACK).with(|s| s.ttl = 1);
    vec![
        established("requests and responses go both ways")
            .forwards(&request, &request.at_target(KEPT))
            .forwards(&response, &response.at_client(HTTP)),
        established("a payload of odd length keeps its checksum").forwards(&odd, &odd.at_target(KEPT)),
        story("TLS records pass a TCP listener untouched")
            .forwards(&syn, &syn.at_target(KEPT))
            .forwards(&ack, &ack.at_target(KEPT))
            .forwards(&hello, &hello.at_target(KEPT))
            .forwards(&alert, &alert.at_client(HTTPS))
            .new_flows(1, 1)
            .on_listener(1),
        established("IP options stay").forwards(&optional, &optional.at_target(KEPT)),
        established("a short frame keeps its padding").forwards(&padded, &padded.at_target(KEPT)),
        established("a wrong checksum stays wrong")
            .forwards_bytes(wrong(request.bytes()), wrong(request.at_target(KEPT).bytes())),
        established("a packet whose time is over is dropped").drops(&last, DropReason::TtlExpired),
        established("a flow's packet on another interface is the kernel's")
            .rewrite_flows(|flow| flow.ifindex = 2)
            .passes(&request),
        story("an established flow stays although its source is refused now")
            .given(|given| given.sources[0].1.source = std::net::Ipv4Addr::new(10, 9, 9, 0).into())
            .given(|given| {
                let (key, mut flow) =
                    other_flow(super::segment::CLIENT, PortBe::new(CLIENT_PORT), PortBe::new(GUARDED));
                flow.direction = lb_common::abi::direction::TO_TARGET;
                flow.state = lb_common::abi::state::CONFIRMED;
                flow.source_port = PortBe::new(KEPT);
                flow.destination = TARGET.into();
                flow.destination_port = PortBe::new(TARGET_PORT);
                let fold = lb_common::wire::checksum::fold;
                let delta32 = lb_common::wire::checksum::delta32;
                let delta16 = lb_common::wire::checksum::delta16;
                let addresses =
                    delta32(key.source.0, flow.source.0) + delta32(key.destination.0, flow.destination.0);
                let ports = delta16(key.source_port.0, flow.source_port.0)
                    + delta16(key.destination_port.0, flow.destination_port.0);
                flow.ip_delta = fold(addresses);
                flow.l4_delta = fold(addresses + ports);
                given.flows.push((key, flow));
            })
            .forwards(&client(GUARDED, ACK), &client(GUARDED, ACK).at_target(KEPT))
            .entries(1),
    ]
}

fn ends() -> Vec<Fixture> {
    let (fin, fin_back) = (from_client(FIN | ACK), from_target(FIN | ACK));
    let (ack, ack_back) = (from_client(ACK), from_target(ACK));
    let (reset, reset_back) = (from_client(RST), from_target(RST | ACK));
    let syn = from_client(SYN);
    vec![
        established("a FIN goes to the target").forwards(&fin, &fin.at_target(KEPT)),
        established("both FINs and their ACKs go through")
            .forwards(&fin, &fin.at_target(KEPT))
            .forwards(&ack_back, &ack_back.at_client(HTTP))
            .forwards(&fin_back, &fin_back.at_client(HTTP))
            .forwards(&ack, &ack.at_target(KEPT)),
        established("a client's RST goes to the target")
            .forwards(&reset, &reset.at_target(KEPT))
            .client_resets(0, 1),
        established("a target's RST goes to the client")
            .forwards(&reset_back, &reset_back.at_client(HTTP))
            .target_resets(0, 1),
        story("a target that refuses is heard")
            .forwards(&syn, &syn.at_target(KEPT))
            .forwards(&reset_back, &reset_back.at_client(HTTP))
            .target_resets(0, 1),
        established("ports are used again after a FIN")
            .forwards(&fin, &fin.at_target(KEPT))
            .forwards(&syn, &syn.at_target(KEPT))
            .flows(1),
        established("ports are used again after a RST")
            .client_resets(0, 1)
            .forwards(&reset, &reset.at_target(KEPT))
            .forwards(&syn, &syn.at_target(KEPT))
            .flows(1),
    ]
}

fn targets() -> Vec<Fixture> {
    let data = from_client(PSH | ACK).payload(b"more");
    let syn = from_client(SYN);
    let hollow = client(HOLLOW, SYN);
    vec![
        established("a flow whose target is gone is reset")
            .change(|given| given.targets[0] = Target::GONE)
            .resets(&data, 0),
        established("a flow whose target's index is another's is reset")
            .change(|given| given.targets[0].generation += 1)
            .resets(&data, 0),
        established("a RST to a target that is gone is dropped")
            .change(|given| given.targets[0].state = target_state::GONE)
            .drops(&from_client(RST), DropReason::StrayReset),
        established("a SYN to a target that is gone begins another flow")
            .change(|given| given.targets[0].generation += 1)
            .forwards(&syn, &syn.at_target(KEPT))
            .flows(1),
        established("a target that moved is followed")
            .change(|given| given.targets[0].mac_tail = u16::from_ne_bytes([0, 99]))
            .forwards(&data, &data.at_target(KEPT).with(|s| s.to_mac[5] = 99)),
        established("a flow waits for its target's next hop")
            .change(|given| given.targets[0].state = target_state::UNRESOLVED)
            .drops(&data, DropReason::Unresolved),
        story("a SYN waits for the target's next hop")
            .drops(&client(UNRESOLVED, SYN), DropReason::Unresolved)
            .rejected(4, 1),
        story("a slot without a target refuses").resets(&hollow, 5).rejected(5, 1),
    ]
}

fn limits() -> Vec<Fixture> {
    let syn = from_client(SYN);
    vec![
        story("a full table begins nothing")
            .given(|given| fill(given, CAPACITY))
            .drops(&syn, DropReason::FlowTableFull)
            .rejected(0, 1)
            .entries(CAPACITY),
        story("half a flow is not left behind when the table fills")
            .given(|given| fill(given, CAPACITY - 1))
            .drops(&syn, DropReason::FlowTableFull)
            .rejected(0, 1)
            .entries(CAPACITY - 1),
        story("no free port begins nothing")
            .port_errors(0, 1)
            .given(|given| take_ports(given, [KEPT, 2_000, 2_013, 2_026, 2_039, 2_052, 2_065, 2_078]))
            .drops(&syn, DropReason::PortsExhausted)
            .rejected(0, 1)
            .entries(CAPACITY),
        story("more SYNs than a second may have are dropped")
            .given(|given| given.pulse.syn_limit = 0)
            .drops(&syn, DropReason::SynFlood)
            .rejected(0, 1),
        story("a SYN whose time is over begins nothing")
            .drops(&syn.clone().with(|s| s.ttl = 1), DropReason::TtlExpired)
            .flows(0),
    ]
}
