//! The same table: packets of no flow, and packets that are no segments.

use lb_common::abi::DropReason;

use super::fixtures::{Fixture, story};
use super::given::{EMPTY, GUARDED, HTTP};
use super::segment::{ACK, BALANCER, CLIENT, FIN, PSH, RST, SYN, Segment, client};

const OTHER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 1, 99);

pub(super) fn fixtures() -> Vec<Fixture> {
    [segments(), groups(), others(), broken(), messages()].into_iter().flatten().collect()
}

fn segments() -> Vec<Fixture> {
    let data = client(HTTP, PSH | ACK).payload(b"who are you");
    let long = client(HTTP, ACK).with(|s| {
        s.payload = vec![7; 1_400];
        s.ip_options = vec![1, 1, 1, 0];
        s.tcp_options = vec![1, 1, 1, 0];
        s.tos = 8;
    });
    let padded = client(HTTP, ACK).with(|s| s.padding = 6);
    vec![
        story("data of no flow is reset").resets(&data, 0),
        story("a RST has neither options nor payload").resets(&long, 0),
        story("a RST has no padding").resets(&padded, 0),
        story("data without ACK is reset with an ACK").resets(&client(HTTP, PSH).payload(b"?"), 0),
        story("a FIN without ACK is reset and counted").resets(&client(HTTP, FIN), 0),
        story("a SYN-ACK of no flow is reset").resets(&client(HTTP, SYN | ACK), 0),
        story("a RST of no flow is dropped").drops(&client(HTTP, RST), DropReason::StrayReset),
        story("a listener without targets refuses").resets(&client(EMPTY, SYN), 2).rejected(2, 1),
        story("a SYN to an unknown port is dropped").drops(&client(8, SYN), DropReason::NoListener),
        story("data to an unknown port is dropped").drops(&client(8, ACK), DropReason::NoListener),
        story("an answer to the node's own socket is the kernel's").passes(&client(50_000, SYN | ACK)),
        story("a SYN to the node's own socket is dropped")
            .drops(&client(50_000, SYN), DropReason::NoListener),
    ]
}

fn groups() -> Vec<Fixture> {
    let outsider =
        |flags| client(GUARDED, flags).with(|s| s.from.0 = std::net::Ipv4Addr::new(10, 0, 2, 30).into());
    let insider = client(GUARDED, SYN);
    vec![
        story("security groups admit")
            .forwards(&insider, &insider.at_target(super::segment::CLIENT_PORT))
            .on_listener(3)
            .flows(1),
        story("security groups refuse").drops(&outsider(SYN), DropReason::SecurityGroup).blocked(3, 1),
        story("security groups refuse data of no flow").drops(&outsider(ACK), DropReason::SecurityGroup),
    ]
}

fn others() -> Vec<Fixture> {
    let to_other = client(HTTP, SYN).with(|s| s.to.0 = OTHER.into());
    vec![
        story("a packet for another address is the kernel's").passes(&to_other),
        story("an address's packet on another interface is the kernel's")
            .given(|given| given.ifindex = 2)
            .passes(&client(HTTP, SYN)),
        story("a fragment for another address is the kernel's")
            .passes(&to_other.clone().with(|s| s.fragment = 0x2000)),
        story("nonsense for another address is the kernel's").passes_bytes(edit(&to_other, |b| b[14] = 0x44)),
        story("ARP is the kernel's")
            .passes_bytes(edit(&client(HTTP, SYN), |b| b[12..14].copy_from_slice(&[8, 6]))),
        story("a frame that is not the IPv6 it says is dropped").drops_bytes(
            edit(&client(HTTP, SYN).with(|s| s.payload = vec![0; 20]), |b| {
                b[12..14].copy_from_slice(&[0x86, 0xdd]);
                b[38..54].copy_from_slice(&super::segment::BALANCER6.octets());
            }),
            DropReason::BadHeader,
        ),
        story("a VLAN is the kernel's")
            .passes_bytes(edit(&client(HTTP, SYN), |b| b[12..14].copy_from_slice(&[0x81, 0]))),
    ]
}

fn broken() -> Vec<Fixture> {
    let syn = client(HTTP, SYN);
    let cut = |length: usize| syn.bytes()[..length].to_vec();
    vec![
        story("a frame without an IP header is dropped").drops_bytes(cut(14), DropReason::Truncated),
        story("a truncated IP header is dropped").drops_bytes(cut(33), DropReason::Truncated),
        story("a packet shorter than it says is dropped").drops_bytes(cut(53), DropReason::Truncated),
        story("a truncated TCP header is dropped").drops_bytes(
            edit(&syn, |b| {
                b.truncate(50);
                b[17] = 36;
            }),
            DropReason::Truncated,
        ),
        story("another version than its type says is dropped")
            .drops_bytes(edit(&syn, |b| b[14] = 0x55), DropReason::BadHeader),
        story("a header length of four words is dropped")
            .drops_bytes(edit(&syn, |b| b[14] = 0x44), DropReason::BadHeader),
        story("a total length within the header is dropped")
            .drops_bytes(edit(&syn, |b| b[16..18].copy_from_slice(&[0, 19])), DropReason::BadHeader),
        story("a data offset of four words is dropped")
            .drops_bytes(edit(&syn, |b| b[46] = 0x40), DropReason::BadHeader),
        story("a data offset behind the packet is dropped")
            .drops_bytes(edit(&syn, |b| b[46] = 0x60), DropReason::BadHeader),
        story("a later fragment whose first was not seen is dropped")
            .drops(&syn.clone().with(|s| s.fragment = 0x00b9), DropReason::Fragment),
    ]
}

fn messages() -> Vec<Fixture> {
    vec![
        story("an echo request is the kernel's").passes_bytes(ip(1, &[8, 0, 0, 0, 0, 1, 0, 1])),
        story("an unreachable message is the kernel's").passes_bytes(ip(1, &[3, 4, 0, 0, 0, 0, 5, 0])),
        story("an ICMP redirect is dropped").drops_bytes(ip(1, &[5, 0, 0, 0, 0, 0, 0, 0]), DropReason::Icmp),
        story("an empty ICMP message is dropped").drops_bytes(ip(1, &[]), DropReason::Truncated),
        story("UDP to an unknown port is dropped")
            .drops_bytes(ip(17, &[0xc3, 0x50, 0, 99, 0, 8, 0, 0]), DropReason::NoListener),
        story("a UDP answer to the node's own socket is the kernel's")
            .passes_bytes(ip(17, &[0, 53, 0xc3, 0x50, 0, 8, 0, 0])),
        story("a truncated UDP header is dropped").drops_bytes(ip(17, &[0, 53]), DropReason::Truncated),
        story("another protocol is dropped").drops_bytes(ip(47, &[0; 8]), DropReason::Protocol),
    ]
}

fn edit(segment: &Segment, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = segment.bytes();
    change(&mut bytes);
    bytes
}

/// A packet of another protocol to the load balancer.
fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = client(HTTP, SYN).bytes()[..14].to_vec();
    let total = u8::try_from(20 + payload.len()).unwrap();
    bytes.extend([0x45, 0, 0, total, 0, 1, 0, 0, 64, protocol, 0, 0]);
    bytes.extend(CLIENT.octets());
    bytes.extend(BALANCER.octets());
    bytes.extend(payload);
    bytes
}
