//! Interfaces as they are now: own MACs and MTUs, asked of the kernel by rtnetlink.
//!
//! One question and its answer, without waiting for anybody: the kernel answers while it is asked. `neighbours` says when
//! to ask again.

use std::collections::{BTreeMap, HashMap};
use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::reconcile::{Interface, Mac};

/// The interfaces of this thread's network namespace that have a MAC, by index.
pub fn read() -> io::Result<HashMap<u32, Interface>> {
    let mut found = HashMap::new();
    each(|link| found.extend(interface(link).map(|interface| (interface.ifindex, interface))))?;
    Ok(found)
}

/// The interfaces of this thread's network namespace that have an XDP program, and how: `native` or `generic`.
pub fn programs() -> io::Result<BTreeMap<String, &'static str>> {
    let mut found = BTreeMap::new();
    each(|link| found.extend(program(link)))?;
    Ok(found)
}

fn each(mut hear: impl FnMut(&LinkMessage)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&question(), 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => hear(&link),
                _ => {}
            }
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn question() -> Vec<u8> {
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    let mut mac = None;
    let mut mtu = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            // No IP packet is longer than 65,535 bytes.
            LinkAttribute::Mtu(bytes) => mtu = Some(u16::try_from(*bytes).unwrap_or(u16::MAX)),
            _ => {}
        }
    }
    Some(Interface { ifindex: link.header.index, mac: mac?, mtu: mtu? })
}

fn program(link: &LinkMessage) -> Option<(String, &'static str)> {
    let mut name = None;
    let mut mode = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Xdp(known) => {
                mode = known.iter().find_map(|own| match own {
                    LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware) => Some("native"),
                    LinkXdp::Attached(XdpAttached::SocketBuffer) => Some("generic"),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((name?, mode?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_the_longest_packets() {
        let found = read().unwrap();
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        assert_eq!(found.get(&loopback).map(|own| own.mac), Some([0; 6]), "{found:#?}");
        assert!(found.values().all(|own| own.mtu > 0), "{found:#?}");
    }
}
