//! The same table: tags of VLANs, options of IPv4, and jumbo frames.

use lb_common::abi::{DropReason, target_state};

use super::fixtures::{Fixture, story};
use super::given::{BRIDGED, CROSSING, EMPTY, Given, HTTP, HTTP6, IPIP, PRESERVE};
use super::modes::too_big;
use super::segment::{
    ACK, BALANCER, CLIENT_PORT, PSH, SYN, Segment, TARGET, TARGET_MAC, TARGET_PORT, client, client6, target,
};

pub(super) fn fixtures() -> Vec<Fixture> {
    [tags(), options(), jumbo()].into_iter().flatten().collect()
}

/// The frame with tags between its MACs and its type; each has its own type.
fn tagged(segment: &Segment, tags: &[(u16, u16)]) -> Vec<u8> {
    let frame = segment.bytes();
    let mut tagged = frame[..12].to_vec();
    for (kind, tag) in tags {
        tagged.extend(kind.to_be_bytes());
        tagged.extend(tag.to_be_bytes());
    }
    tagged.extend(&frame[12..]);
    tagged
}

/// The driver takes the tag off before XDP where it can; what still has one is for an interface above this one, which has
/// a program of its own if it has a load balancer.
fn tags() -> Vec<Fixture> {
    let (syn, syn6) = (client(HTTP, SYN), client6(HTTP, SYN));
    vec![
        story("802.1Q is the kernel's").passes_bytes(tagged(&syn, &[(0x8100, 12)])),
        story("IPv6: 802.1Q is the kernel's").passes_bytes(tagged(&syn6, &[(0x8100, 12)])),
        story("a priority without a VLAN is the kernel's").passes_bytes(tagged(&syn, &[(0x8100, 0xe000)])),
        story("802.1ad is the kernel's").passes_bytes(tagged(&syn, &[(0x88a8, 7)])),
        story("802.1ad around 802.1Q is the kernel's")
            .passes_bytes(tagged(&syn, &[(0x88a8, 7), (0x8100, 12)])),
        story("802.1Q around 802.1Q is the kernel's")
            .passes_bytes(tagged(&syn, &[(0x9100, 7), (0x8100, 12)])),
        story("a tag without anything behind it is the kernel's")
            .passes_bytes(tagged(&syn, &[(0x8100, 12)])[..16].to_vec()),
        story("a tag makes no flow, and ends none")
            .forwards(&syn, &syn.at_target(CLIENT_PORT))
            .passes_bytes(tagged(&client(HTTP, super::segment::RST | ACK), &[(0x8100, 12)]))
            .forwards(&client(HTTP, ACK), &client(HTTP, ACK).at_target(CLIENT_PORT))
            .new_flows(0, 1)
            .flows(1),
    ]
}

/// Record route, with room for nine addresses: the longest header there is.
fn record_route() -> Vec<u8> {
    let mut options = vec![7, 39, 4];
    options.resize(40, 0);
    options
}

fn options() -> Vec<Fixture> {
    let with = |segment: Segment| segment.with(|s| s.ip_options = record_route());
    let router_alert = |segment: Segment| segment.with(|s| s.ip_options = vec![0x94, 4, 0, 0]);
    let (syn, ack) = (with(client(HTTP, SYN)), with(client(HTTP, PSH | ACK).payload(b"hello")));
    let reply = with(target(CLIENT_PORT, SYN | ACK));
    let crossing = with(client(CROSSING, SYN));
    let preserved = router_alert(client(PRESERVE, SYN));
    let bridged = with(client(BRIDGED, SYN));
    let tunnelled = with(client(IPIP, SYN));
    let cut = with(client(HTTP, SYN)).bytes()[..14 + 40].to_vec();
    let refused = with(client(EMPTY, SYN));
    vec![
        story("forty bytes of options stay, both ways")
            .forwards(&syn, &syn.at_target(CLIENT_PORT))
            .forwards(&reply, &reply.at_client(HTTP))
            .forwards(&ack, &ack.at_target(CLIENT_PORT))
            .new_flows(0, 1)
            .flows(1),
        story("options stay where the client is preserved").on_listener(6).forwards(
            &preserved,
            &preserved.routed(preserved.from, (TARGET.into(), TARGET_PORT), TARGET_MAC),
        ),
        story("options stay by MAC").on_listener(8).forwards_bytes(bridged.bytes(), bridged.bridged()),
        story("options stay in a tunnel")
            .on_listener(9)
            .forwards_bytes(tunnelled.bytes(), tunnelled.tunnelled(BALANCER.into(), TARGET.into(), None)),
        story("options have no form in IPv6").drops(&crossing, DropReason::Untranslatable),
        story("options that are not all there are a truncated packet")
            .drops_bytes(cut, DropReason::Truncated),
        story("a refusal has no options").resets(&refused, 2).rejected(2, 1),
    ]
}

/// As a NIC with an MTU of 9,000 takes them: in several buffers, where the kernel is asked.
fn jumbo() -> Vec<Fixture> {
    let payload = |bytes: usize| -> Vec<u8> { (0..=u8::MAX).cycle().take(bytes).collect() };
    let data = client(HTTP, PSH | ACK).payload(&payload(8_960));
    let data6 = client6(HTTP, PSH | ACK).payload(&payload(8_940));
    let (syn, syn6) = (client(HTTP, SYN), client6(HTTP, SYN));
    let reply = target(CLIENT_PORT, PSH | ACK).payload(&payload(8_960));
    let datagram = client(super::given::DNS, 0).datagram(&payload(8_972));
    let large = client(IPIP, ACK).payload(&payload(8_940));
    let fits = client(IPIP, ACK).payload(&payload(8_940));
    let jumbo_way = |given: &mut Given| given.targets[6].mtu = 9_000;
    let crossing = client(CROSSING, ACK).payload(&payload(8_940));
    vec![
        story("a jumbo frame is forwarded, and its answer")
            .forwards(&syn, &syn.at_target(CLIENT_PORT))
            .forwards(&data, &data.at_target(CLIENT_PORT))
            .forwards(&reply, &reply.at_client(HTTP))
            .new_flows(0, 1)
            .flows(1),
        story("IPv6: a jumbo frame is forwarded")
            .on_listener(HTTP6)
            .forwards(&syn6, &syn6.at_target6(CLIENT_PORT))
            .forwards(&data6, &data6.at_target6(CLIENT_PORT))
            .new_flows(HTTP6, 1)
            .flows(1),
        story("a jumbo datagram begins a flow")
            .on_listener(14)
            .forwards(&datagram, &datagram.at_target(CLIENT_PORT))
            .new_flows(14, 1),
        story("a jumbo frame of no flow is reset").resets(&data, 0),
        story("a jumbo frame goes into a tunnel that is as wide")
            .given(jumbo_way)
            .on_listener(9)
            .forwards_bytes(fits.bytes(), fits.tunnelled(BALANCER.into(), TARGET.into(), None))
            .new_flows(9, 1),
        story("a jumbo frame that does not fit a tunnel is answered")
            .on_listener(9)
            .answers_bytes(large.bytes(), too_big(&large, 1_480))
            .new_flows(9, 1),
        story("a jumbo frame of a target that waits for its next hop is dropped")
            .given(|given| given.targets[0].state = target_state::UNRESOLVED)
            .drops(&syn.clone().payload(&payload(8_960)), DropReason::Unresolved)
            .rejected(0, 1),
        story("a jumbo frame that is shorter than it says is dropped")
            .drops_bytes(data.bytes()[..8_000].to_vec(), DropReason::Truncated),
        story("a jumbo frame of no flow between families is reset").resets(&crossing, 7),
    ]
}
