//! At a target that answers past its load balancer: packets out of what `tunnel` put around them.

use super::family::{Family, V4, V6};
use super::frame::IP;
use super::tunnel::GUE_PORT;
use crate::abi::SenderKey;
use crate::wire::{Eth, Ipv4, Ipv6, Raw16, Udp, Window, protocol};

/// A packet in a tunnel's packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunneled {
    /// Where the inner packet begins, from the frame's beginning.
    pub inner: usize,
    /// The inner packet's family, as an Ethernet header says it.
    pub ethertype: u16,
    /// Whether it is in GUE, else in IP.
    pub is_gue: bool,
    /// Who put it there.
    pub sender: SenderKey,
}

/// What is inside a tunnel's packet that came to a target; none if it is none of those that our load balancers send.
#[inline(always)]
pub fn decapsulate(window: &Window<'_>) -> Option<Tunneled> {
    let eth = window.view::<Eth>(0)?;
    let (protocol, body, sender) = if eth.ethertype.get() == V4::ETHERTYPE {
        let ip = window.view::<Ipv4>(IP)?;
        // Ours have no options and are never in fragments.
        if ip.version_ihl.get() != 0x45 || ip.is_fragment() {
            return None;
        }
        (ip.protocol.get(), V4::BODY, SenderKey::new(V4::VERSION, V4::widen(V4::source(ip))))
    } else if eth.ethertype.get() == V6::ETHERTYPE {
        let ip = window.view::<Ipv6>(IP)?;
        (ip.next_header.get(), V6::BODY, SenderKey::new(V6::VERSION, V6::source(ip)))
    } else {
        return None;
    };
    let tunneled = |inner, ethertype, is_gue| Some(Tunneled { inner, ethertype, is_gue, sender });
    match protocol {
        protocol::IPV4 => tunneled(body, V4::ETHERTYPE, false),
        protocol::IPV6 => tunneled(body, V6::ETHERTYPE, false),
        protocol::UDP => {
            let udp = window.view::<Udp>(body)?;
            if udp.destination.number() != GUE_PORT {
                return None;
            }
            let inner = body + size_of::<Udp>();
            //= https://www.ietf.org/archive/id/draft-ietf-intarea-gue-09.html#section-4
            //# GUE variant 1 allows direct encapsulation of IPv4 and IPv6 in UDP: the version of the IP header is where GUE's
            //# own header would have its variant.
            match window.view::<Raw16>(inner)?.number() >> 12 {
                4 => tunneled(inner, V4::ETHERTYPE, true),
                6 => tunneled(inner, V6::ETHERTYPE, true),
                _ => None,
            }
        }
        _ => None,
    }
}
