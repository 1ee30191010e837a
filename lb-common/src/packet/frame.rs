//! Headers to a checked frame. First of the path; `forward` comes next.

use super::family::{Family, V4, V6};
use super::tables::Tables;
use crate::abi::{DropReason, FlowKey, FragmentKey, PortBe};
use crate::wire::{Eth, Ipv4, Ipv6, Ipv6Fragment, Ports, Tcp, Udp, Window, flags, protocol};

/// A whole TCP or UDP packet, or the first fragment of one.
pub(super) struct Frame<'packet, F: Family> {
    pub(super) eth: &'packet Eth,
    pub(super) ip: &'packet F::Header,
    pub(super) ports: &'packet Ports,
    pub(super) segment: Segment<'packet>,
    /// Where the segment begins.
    pub(super) body: usize,
    /// The datagram's identification, if this is its first fragment.
    pub(super) fragment: Option<u32>,
    pub(super) window: Bounds<'packet>,
}

/// What the packet carries.
#[derive(Clone, Copy)]
pub(super) enum Segment<'packet> {
    Tcp(&'packet Tcp),
    Udp(&'packet Udp),
}

/// The packet's bounds.
pub(super) type Bounds<'packet> = &'packet Window<'packet>;

/// A later fragment: it has no ports.
pub(super) struct Follower<'packet, F: Family> {
    pub(super) eth: &'packet Eth,
    pub(super) ip: &'packet F::Header,
    pub(super) key: FragmentKey<F::Address>,
}

/// Another packet, with where its body begins.
pub(super) struct Other<'packet, F: Family> {
    pub(super) eth: &'packet Eth,
    pub(super) ip: &'packet F::Header,
    pub(super) protocol: u8,
    pub(super) body: usize,
    pub(super) window: Bounds<'packet>,
}

/// What the headers say.
pub(super) enum Parsed<'packet, F: Family> {
    Whole(Frame<'packet, F>),
    Follower(Follower<'packet, F>),
    Other(Other<'packet, F>),
    /// Its header, if that much can be read, and what is wrong.
    Bad(Option<&'packet F::Header>, DropReason),
}

/// A family whose headers can be read.
pub(super) trait Parse: Family {
    /// Reads the headers; nothing after this looks at lengths again.
    fn parse<'packet, T: Tables>(
        window: Bounds<'packet>,
        eth: &'packet Eth,
        tables: &T,
    ) -> Parsed<'packet, Self>;
}

impl Parse for V4 {
    #[inline(always)]
    fn parse<'packet, T: Tables>(
        window: Bounds<'packet>,
        eth: &'packet Eth,
        tables: &T,
    ) -> Parsed<'packet, Self> {
        let Some(ip) = window.view::<Ipv4>(IP) else { return Parsed::Bad(None, DropReason::Truncated) };
        let header = usize::from(ip.header_length());
        let total = usize::from(ip.total_length.number());
        if ip.version() != 4 || header < size_of::<Ipv4>() || total < header {
            return Parsed::Bad(Some(ip), DropReason::BadHeader);
        }
        if !holds(window, IP + total, tables) {
            return Parsed::Bad(Some(ip), DropReason::Truncated);
        }
        let protocol = ip.protocol.get();
        let mut fragment = None;
        if ip.is_fragment() {
            let id = u32::from(ip.id.get());
            if !ip.is_first() {
                let key = fragment_key::<Self>(ip, id, protocol);
                return Parsed::Follower(Follower { eth, ip, key });
            }
            fragment = Some(id);
        }
        whole(Other { eth, ip, protocol, body: IP + header, window }, total - header, fragment)
    }
}

impl Parse for V6 {
    #[inline(always)]
    fn parse<'packet, T: Tables>(
        window: Bounds<'packet>,
        eth: &'packet Eth,
        tables: &T,
    ) -> Parsed<'packet, Self> {
        let Some(ip) = window.view::<Ipv6>(IP) else { return Parsed::Bad(None, DropReason::Truncated) };
        if ip.version() != 6 {
            return Parsed::Bad(Some(ip), DropReason::BadHeader);
        }
        let length = usize::from(ip.payload_length.number());
        if !holds(window, Self::BODY + length, tables) {
            return Parsed::Bad(Some(ip), DropReason::Truncated);
        }
        match ip.next_header.get() {
            protocol::FRAGMENT => {
                let Some(fragment) = window.view::<Ipv6Fragment>(Self::BODY) else {
                    return Parsed::Bad(Some(ip), DropReason::Truncated);
                };
                if length < size_of::<Ipv6Fragment>() {
                    return Parsed::Bad(Some(ip), DropReason::BadHeader);
                }
                let (protocol, id) = (fragment.next_header.get(), fragment.id.get());
                if !fragment.is_first() {
                    let key = fragment_key::<Self>(ip, id, protocol);
                    return Parsed::Follower(Follower { eth, ip, key });
                }
                let body = Self::BODY + size_of::<Ipv6Fragment>();
                let left = length - size_of::<Ipv6Fragment>();
                whole(Other { eth, ip, protocol, body, window }, left, Some(id))
            }
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                Parsed::Bad(Some(ip), DropReason::ExtensionHeader)
            }
            protocol => whole(Other { eth, ip, protocol, body: Self::BODY, window }, length, None),
        }
    }
}

/// Reads what the packet carries; `length` bytes of it are there.
#[inline(always)]
fn whole<F: Family>(packet: Other<'_, F>, length: usize, fragment: Option<u32>) -> Parsed<'_, F> {
    let Other { eth, ip, protocol, body, window } = packet;
    let bad = |reason| Parsed::Bad(Some(ip), reason);
    let segment = match protocol {
        protocol::TCP => {
            let Some(tcp) = window.view::<Tcp>(body) else { return bad(DropReason::Truncated) };
            let header = usize::from(tcp.header_length());
            if header < size_of::<Tcp>() || header > length {
                return bad(DropReason::BadHeader);
            }
            Segment::Tcp(tcp)
        }
        protocol::UDP => {
            let Some(udp) = window.view::<Udp>(body) else { return bad(DropReason::Truncated) };
            let own = usize::from(udp.length.number());
            // A first fragment is shorter than its datagram.
            if length < size_of::<Udp>() || own < size_of::<Udp>() || fragment.is_none() && own > length {
                return bad(DropReason::BadHeader);
            }
            Segment::Udp(udp)
        }
        _ => return Parsed::Other(packet),
    };
    let Some(ports) = window.view::<Ports>(body) else { return bad(DropReason::Truncated) };
    Parsed::Whole(Frame { eth, ip, ports, segment, body, fragment, window })
}

/// Whether the packet has that many bytes. Only the first buffer is looked at, unless that is not enough.
#[inline(always)]
fn holds<T: Tables>(window: Bounds<'_>, length: usize, tables: &T) -> bool {
    window.holds(length) || tables.packet_length().is_some_and(|all| length <= all)
}

#[inline(always)]
fn fragment_key<F: Family>(ip: &F::Header, id: u32, protocol: u8) -> FragmentKey<F::Address> {
    FragmentKey { source: F::source(ip), destination: F::destination(ip), id, protocol: u32::from(protocol) }
}

impl<F: Family> Frame<'_, F> {
    /// What its flow would be found by.
    #[inline(always)]
    pub(super) fn key(&self) -> FlowKey<F::Address> {
        FlowKey {
            source: F::source(self.ip),
            destination: F::destination(self.ip),
            source_port: PortBe(self.ports.source.get()),
            destination_port: PortBe(self.ports.destination.get()),
            protocol: u32::from(self.protocol()),
        }
    }

    /// IANA number.
    #[inline(always)]
    pub(super) fn protocol(&self) -> u8 {
        match self.segment {
            Segment::Tcp(_) => protocol::TCP,
            Segment::Udp(_) => protocol::UDP,
        }
    }

    /// Flags of TCP; UDP has none.
    #[inline(always)]
    pub(super) fn flags(&self) -> u8 {
        match self.segment {
            Segment::Tcp(tcp) => tcp.flags.get(),
            Segment::Udp(_) => 0,
        }
    }

    /// Whether it is UDP's: every packet may begin a flow.
    #[inline(always)]
    pub(super) fn is_udp(&self) -> bool {
        matches!(self.segment, Segment::Udp(_))
    }

    /// Whether it asks for a new connection.
    #[inline(always)]
    pub(super) fn opens(&self) -> bool {
        self.flags() & (flags::SYN | flags::ACK) == flags::SYN
    }

    /// Whether it has this flag.
    #[inline(always)]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags() & flag != 0
    }

    /// Bytes with its IP header.
    #[inline(always)]
    pub(super) fn bytes(&self) -> u64 {
        u64::from(F::total(self.ip))
    }
}

/// Where the IP header begins.
pub(super) const IP: usize = size_of::<Eth>();
