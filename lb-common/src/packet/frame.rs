//! Headers to a checked frame. First of the path; `forward` comes next.

use crate::abi::{DropReason, FlowKey, Ipv4Be, PortBe};
use crate::wire::{ETHERTYPE_IPV4, Eth, Ipv4, Tcp, Window, flags, protocol};

/// A whole TCP packet over IPv4.
pub(super) struct Frame<'packet> {
    pub(super) eth: &'packet Eth,
    pub(super) ip: &'packet Ipv4,
    pub(super) tcp: &'packet Tcp,
    pub(super) window: Bounds<'packet>,
}

/// The packet's bounds.
pub(super) type Bounds<'packet> = &'packet Window<'packet>;

/// Another packet over IPv4, with its headers' length.
pub(super) struct Other<'packet> {
    pub(super) ip: &'packet Ipv4,
    pub(super) window: Bounds<'packet>,
}

/// What the headers say.
pub(super) enum Parsed<'packet> {
    Tcp(Frame<'packet>),
    Other(Other<'packet>),
    /// For whom it was, if that much can be read.
    Bad(Option<Ipv4Be>, DropReason),
    NotIpv4,
}

/// Reads the headers; nothing after this looks at lengths again.
#[inline(always)]
pub(super) fn parse<'packet>(window: Bounds<'packet>) -> Parsed<'packet> {
    let Some(eth) = window.view::<Eth>(0) else { return Parsed::Bad(None, DropReason::Truncated) };
    if eth.ethertype.get() != ETHERTYPE_IPV4 {
        return Parsed::NotIpv4;
    }
    let Some(ip) = window.view::<Ipv4>(IP) else { return Parsed::Bad(None, DropReason::Truncated) };
    let destination = Some(Ipv4Be(ip.destination.get()));
    let header = usize::from(ip.header_length());
    let total = usize::from(ip.total_length.number());
    if ip.version() != 4 || header < size_of::<Ipv4>() || total < header {
        return Parsed::Bad(destination, DropReason::BadHeader);
    }
    if !window.holds(IP + total) {
        return Parsed::Bad(destination, DropReason::Truncated);
    }
    if ip.is_fragment() {
        return Parsed::Bad(destination, DropReason::Fragment);
    }
    if ip.protocol.get() != protocol::TCP {
        return Parsed::Other(Other { ip, window });
    }
    let Some(tcp) = window.view::<Tcp>(IP + header) else {
        return Parsed::Bad(destination, DropReason::Truncated);
    };
    let tcp_header = usize::from(tcp.header_length());
    if tcp_header < size_of::<Tcp>() || header + tcp_header > total {
        return Parsed::Bad(destination, DropReason::BadHeader);
    }
    Parsed::Tcp(Frame { eth, ip, tcp, window })
}

impl Frame<'_> {
    /// What its flow would be found by.
    #[inline(always)]
    pub(super) fn key(&self) -> FlowKey {
        FlowKey {
            source: Ipv4Be(self.ip.source.get()),
            destination: Ipv4Be(self.ip.destination.get()),
            source_port: PortBe(self.tcp.source.get()),
            destination_port: PortBe(self.tcp.destination.get()),
            protocol: u32::from(protocol::TCP),
        }
    }

    /// Whether it asks for a new connection.
    #[inline(always)]
    pub(super) fn opens(&self) -> bool {
        self.tcp.flags.get() & (flags::SYN | flags::ACK) == flags::SYN
    }

    /// Whether it has this flag.
    #[inline(always)]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.tcp.flags.get() & flag != 0
    }

    /// Bytes with IP and TCP headers.
    #[inline(always)]
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.ip.total_length.number())
    }
}

/// Where the IPv4 header begins.
pub(super) const IP: usize = size_of::<Eth>();
