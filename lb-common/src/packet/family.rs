//! What IPv4 and IPv6 have in common, so that the path is written once and compiled apart for each.

use super::frame::IP;
use crate::abi::{Flow, Ipv4Be, Ipv6Be};
use crate::wire::checksum::{fold, update};
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Icmp, Ipv4, Ipv6, Raw16, Wire, icmp4, icmp6, protocol};

/// One of the two.
pub trait Family: Sized {
    /// Its addresses, in network byte order.
    type Address: Copy + Eq;
    /// Its header, without options or extensions.
    type Header: Wire;
    /// The other one.
    type Other: Family;
    /// An ICMP message that quotes a header and eight bytes of what it carries.
    type Message: Wire;

    /// As in the packet.
    const ETHERTYPE: u16;
    /// 4 or 6.
    const VERSION: u16;
    /// Its ICMP's number.
    const ICMP: u8;
    /// Where what it carries begins, without options or extensions.
    const BODY: usize = IP + size_of::<Self::Header>();

    /// The source address.
    fn source(header: &Self::Header) -> Self::Address;
    /// The destination address.
    fn destination(header: &Self::Header) -> Self::Address;
    /// Time to live, or hop limit.
    fn hops(header: &Self::Header) -> u8;
    /// Type of service, or traffic class.
    fn class(header: &Self::Header) -> u8;
    /// Bytes with its own header.
    fn total(header: &Self::Header) -> u16;
    /// New addresses, one hop less, and the checksum that goes with them, where there is one. `delta` is what the
    /// addresses add to it.
    fn readdress(header: &Self::Header, source: Self::Address, destination: Self::Address, delta: u16);
    /// New addresses alone; as above.
    fn exchange(header: &Self::Header, source: Self::Address, destination: Self::Address, delta: u16);
    /// A new header without options: a packet of our own, with `length` bytes behind the header.
    fn write(
        header: &Self::Header,
        source: Self::Address,
        destination: Self::Address,
        protocol: u8,
        class: u8,
        hops: u8,
        length: u16,
    );
    /// The sum of an address's halves of words.
    fn sum(address: Self::Address) -> u32;
    /// The sum of their complements: what taking the address away adds to a sum.
    fn complement(address: Self::Address) -> u32;
    /// As tables of both families hold it.
    fn widen(address: Self::Address) -> Ipv6Be;
    /// From such a table.
    fn narrow(address: Ipv6Be) -> Self::Address;
    /// How a flow entry of this family keeps the addresses of a packet that becomes one of the other family: those of
    /// the listener and of the client, and what is beyond them.
    fn keep(listener: Ipv6Be, client: Ipv6Be) -> (Self::Address, Self::Address, u64);
    /// The client's address, as [`Self::keep`] kept it.
    fn client(flow: &Flow<Self::Address>) -> Ipv6Be;
    /// The protocol of a packet that such a message quotes; none if it cannot be followed.
    fn carried(quoted: &Self::Header) -> Option<u8>;
    /// The sum of a message's words.
    fn sum_message(message: &Self::Message) -> u32;
    /// Whether a message of its ICMP is about a packet that was sent.
    fn is_error(message: &Icmp) -> bool;
    /// Whether the kernel answers it.
    fn is_kernels(message: &Icmp) -> bool;
}

/// IPv4.
pub enum V4 {}

/// IPv6.
pub enum V6 {}

impl Family for V4 {
    type Address = Ipv4Be;
    type Header = Ipv4;
    type Other = V6;
    type Message = [Raw16; 18];

    const ETHERTYPE: u16 = ETHERTYPE_IPV4;
    const VERSION: u16 = 4;
    const ICMP: u8 = protocol::ICMP;

    #[inline(always)]
    fn source(header: &Ipv4) -> Ipv4Be {
        Ipv4Be(header.source.get())
    }

    #[inline(always)]
    fn destination(header: &Ipv4) -> Ipv4Be {
        Ipv4Be(header.destination.get())
    }

    #[inline(always)]
    fn hops(header: &Ipv4) -> u8 {
        header.ttl.get()
    }

    #[inline(always)]
    fn class(header: &Ipv4) -> u8 {
        header.tos.get()
    }

    #[inline(always)]
    fn total(header: &Ipv4) -> u16 {
        header.total_length.number()
    }

    #[inline(always)]
    fn readdress(header: &Ipv4, source: Ipv4Be, destination: Ipv4Be, delta: u16) {
        let aged = const { u16::from_ne_bytes([1, 0]) };
        header.ttl.set(header.ttl.get() - 1);
        // One less in the word of time to live and protocol, whatever they are: ~1 in one's complement.
        header.checksum.set(update(header.checksum.get(), u32::from(delta) + u32::from(!aged)));
        header.source.set(source.0);
        header.destination.set(destination.0);
    }

    #[inline(always)]
    fn exchange(header: &Ipv4, source: Ipv4Be, destination: Ipv4Be, delta: u16) {
        header.checksum.set(update(header.checksum.get(), u32::from(delta)));
        header.source.set(source.0);
        header.destination.set(destination.0);
    }

    #[inline(always)]
    fn write(
        header: &Ipv4,
        source: Ipv4Be,
        destination: Ipv4Be,
        protocol: u8,
        class: u8,
        hops: u8,
        length: u16,
    ) {
        let total = length + size_of::<Ipv4>() as u16;
        header.version_ihl.set(0x45);
        header.tos.set(class);
        header.total_length.set_number(total);
        header.id.set(0);
        header.fragment.set_number(DO_NOT_FRAGMENT);
        header.ttl.set(hops);
        header.protocol.set(protocol);
        header.source.set(source.0);
        header.destination.set(destination.0);
        let sum = Self::sum(source)
            + Self::sum(destination)
            + u32::from(u16::from_ne_bytes([0x45, class]))
            + u32::from(total.to_be())
            + const { DO_NOT_FRAGMENT.to_be() as u32 }
            + u32::from(u16::from_ne_bytes([hops, protocol]));
        header.checksum.set(!fold(sum));
    }

    #[inline(always)]
    fn sum(address: Ipv4Be) -> u32 {
        halves(address.0)
    }

    #[inline(always)]
    fn complement(address: Ipv4Be) -> u32 {
        halves(!address.0)
    }

    #[inline(always)]
    fn widen(address: Ipv4Be) -> Ipv6Be {
        Ipv6Be::of_v4(address)
    }

    #[inline(always)]
    fn narrow(address: Ipv6Be) -> Ipv4Be {
        address.as_v4()
    }

    // The listener's address is IPv6 and has no room here: its own entry knows it.
    #[inline(always)]
    fn keep(_: Ipv6Be, client: Ipv6Be) -> (Ipv4Be, Ipv4Be, u64) {
        let [a, b, c, d] = client.0;
        (Ipv4Be(a), Ipv4Be(b), u64::from(c) | u64::from(d) << 32)
    }

    #[inline(always)]
    fn client(flow: &Flow<Ipv4Be>) -> Ipv6Be {
        Ipv6Be([flow.source.0, flow.destination.0, flow.beyond as u32, (flow.beyond >> 32) as u32])
    }

    #[inline(always)]
    fn sum_message(message: &[Raw16; 18]) -> u32 {
        message.iter().map(|word| u32::from(word.get())).sum()
    }

    #[inline(always)]
    fn carried(quoted: &Ipv4) -> Option<u8> {
        (quoted.version_ihl.get() == 0x45 && quoted.is_first()).then(|| quoted.protocol.get())
    }

    #[inline(always)]
    fn is_error(message: &Icmp) -> bool {
        matches!(message.kind.get(), icmp4::UNREACHABLE | icmp4::TIME_EXCEEDED | icmp4::PARAMETER_PROBLEM)
    }

    #[inline(always)]
    fn is_kernels(message: &Icmp) -> bool {
        matches!(message.kind.get(), icmp4::ECHO | icmp4::ECHO_REPLY) || Self::is_error(message)
    }
}

impl Family for V6 {
    type Address = Ipv6Be;
    type Header = Ipv6;
    type Other = V4;
    type Message = [Raw16; 28];

    const ETHERTYPE: u16 = ETHERTYPE_IPV6;
    const VERSION: u16 = 6;
    const ICMP: u8 = protocol::ICMPV6;

    #[inline(always)]
    fn source(header: &Ipv6) -> Ipv6Be {
        Ipv6Be(header.source.get())
    }

    #[inline(always)]
    fn destination(header: &Ipv6) -> Ipv6Be {
        Ipv6Be(header.destination.get())
    }

    #[inline(always)]
    fn hops(header: &Ipv6) -> u8 {
        header.hop_limit.get()
    }

    #[inline(always)]
    fn class(header: &Ipv6) -> u8 {
        header.traffic_class()
    }

    #[inline(always)]
    fn total(header: &Ipv6) -> u16 {
        header.payload_length.number().wrapping_add(size_of::<Ipv6>() as u16)
    }

    #[inline(always)]
    fn readdress(header: &Ipv6, source: Ipv6Be, destination: Ipv6Be, _: u16) {
        header.hop_limit.set(header.hop_limit.get() - 1);
        header.source.set(source.0);
        header.destination.set(destination.0);
    }

    #[inline(always)]
    fn exchange(header: &Ipv6, source: Ipv6Be, destination: Ipv6Be, _: u16) {
        header.source.set(source.0);
        header.destination.set(destination.0);
    }

    #[inline(always)]
    fn write(
        header: &Ipv6,
        source: Ipv6Be,
        destination: Ipv6Be,
        protocol: u8,
        class: u8,
        hops: u8,
        length: u16,
    ) {
        header.version_class_label.set_number(0x6000_0000 | u32::from(class) << 20);
        header.payload_length.set_number(length);
        header.next_header.set(protocol);
        header.hop_limit.set(hops);
        header.source.set(source.0);
        header.destination.set(destination.0);
    }

    #[inline(always)]
    fn sum(address: Ipv6Be) -> u32 {
        let [a, b, c, d] = address.0;
        halves(a) + halves(b) + halves(c) + halves(d)
    }

    #[inline(always)]
    fn complement(address: Ipv6Be) -> u32 {
        let [a, b, c, d] = address.0;
        halves(!a) + halves(!b) + halves(!c) + halves(!d)
    }

    #[inline(always)]
    fn widen(address: Ipv6Be) -> Ipv6Be {
        address
    }

    #[inline(always)]
    fn narrow(address: Ipv6Be) -> Ipv6Be {
        address
    }

    #[inline(always)]
    fn keep(listener: Ipv6Be, client: Ipv6Be) -> (Ipv6Be, Ipv6Be, u64) {
        (listener, client, 0)
    }

    #[inline(always)]
    fn client(flow: &Flow<Ipv6Be>) -> Ipv6Be {
        flow.destination
    }

    #[inline(always)]
    fn sum_message(message: &[Raw16; 28]) -> u32 {
        message.iter().map(|word| u32::from(word.get())).sum()
    }

    #[inline(always)]
    fn carried(quoted: &Ipv6) -> Option<u8> {
        (quoted.version() == 6).then(|| quoted.next_header.get())
    }

    #[inline(always)]
    fn is_error(message: &Icmp) -> bool {
        matches!(
            message.kind.get(),
            icmp6::UNREACHABLE | icmp6::TOO_BIG | icmp6::TIME_EXCEEDED | icmp6::PARAMETER_PROBLEM
        )
    }

    #[inline(always)]
    fn is_kernels(message: &Icmp) -> bool {
        matches!(
            message.kind.get(),
            icmp6::ECHO | icmp6::ECHO_REPLY | icmp6::FIRST_DISCOVERY..=icmp6::LAST_DISCOVERY
        ) || Self::is_error(message)
    }
}

const _: () = assert!(
    size_of::<<V4 as Family>::Message>() == size_of::<Icmp>() + size_of::<Ipv4>() + 8
        && size_of::<<V6 as Family>::Message>() == size_of::<Icmp>() + size_of::<Ipv6>() + 8
);

/// The sum of a word's halves.
#[inline(always)]
pub(super) fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// RFC 1700's default time to live, for packets that we make.
pub(super) const HOPS: u8 = 64;
/// IPv4's flag for packets that need no identification (RFC 6864).
const DO_NOT_FRAGMENT: u16 = 0x4000;
