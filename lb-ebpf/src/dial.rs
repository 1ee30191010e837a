//! Sockets of clients on the node itself: attached to a cgroup, asked when a socket there connects, sends without being
//! connected, receives, or is asked for its peer. They translate: the call to a flow's key, the decision to an address.

use core::arch::asm;
use core::ptr::{null_mut, read_volatile, write_volatile};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use lb_common::abi::{DialKey, Dialled, FlowKey, Halves, Ipv6Be, ListenerCounters, PortBe};
use lb_common::packet::{Dial, Family, V4, V6, dial};
use lb_common::wire::protocol;

use crate::maps;
use crate::tables::Maps;

#[cgroup_sock_addr(connect4)]
pub fn dial_connect4(context: SockAddrContext) -> i32 {
    place4(&context, CONNECTS)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn dial_sendmsg4(context: SockAddrContext) -> i32 {
    place4(&context, SENDS)
}

#[cgroup_sock_addr(connect6)]
pub fn dial_connect6(context: SockAddrContext) -> i32 {
    place6(&context, CONNECTS)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn dial_sendmsg6(context: SockAddrContext) -> i32 {
    place6(&context, SENDS)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn dial_recvmsg4(context: SockAddrContext) -> i32 {
    name4(&context)
}

#[cgroup_sock_addr(getpeername4)]
pub fn dial_getpeer4(context: SockAddrContext) -> i32 {
    name4(&context)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn dial_recvmsg6(context: SockAddrContext) -> i32 {
    name6(&context)
}

#[cgroup_sock_addr(getpeername6)]
pub fn dial_getpeer6(context: SockAddrContext) -> i32 {
    name6(&context)
}

/// A socket's call with an address that may be a load balancer's.
struct Call {
    /// The socket, and the address.
    dialled: DialKey,
    /// The address that the socket is bound to, as wide as the other; zero if to none.
    source: Halves,
    /// The port that it is bound to, or what stands for one.
    source_port: PortBe,
    /// Whether every datagram asks again.
    sends: bool,
    /// Whether the socket can speak to the other family.
    crosses: bool,
}

/// An IPv4 socket's.
#[inline(always)]
fn place4(context: &SockAddrContext, sends: bool) -> i32 {
    let Some(socket) = socket(context) else { return ALLOW };
    let asked = context.sock_addr;
    // SAFETY: the kernel lets programs of these hooks read these words of the context, one by one.
    let (address, port, source, bound_port) = unsafe {
        let own = (*asked).__bindgen_anon_1.sk;
        let source = match sends {
            true => read_volatile(&raw const (*asked).msg_src_ip4),
            false => read_volatile(&raw const (*own).src_ip4),
        };
        (
            read_volatile(&raw const (*asked).user_ip4),
            read_volatile(&raw const (*asked).user_port),
            source,
            read_volatile(&raw const (*own).src_port),
        )
    };
    let call = Call {
        dialled: key(socket, Ipv6Be([address, 0, 0, 0]), port, 4),
        source: Ipv6Be([source, 0, 0, 0]).into(),
        source_port: source_port(bound_port, socket),
        sends,
        crosses: false,
    };
    match place::<V4>(context, &call) {
        Ok(None) => ALLOW,
        Ok(Some(target)) => {
            rename4(asked, &target);
            ALLOW
        }
        Err(answer) => answer,
    }
}

/// An IPv6 socket's, which may speak IPv4 by addresses that stand for IPv4's (RFC 4291, §2.5.5.2).
#[inline(always)]
fn place6(context: &SockAddrContext, sends: bool) -> i32 {
    let Some(socket) = socket(context) else { return ALLOW };
    let asked = context.sock_addr;
    let address = words(asked);
    // SAFETY: as above.
    let (port, source, bound_port) = unsafe {
        let own = (*asked).__bindgen_anon_1.sk;
        let from = match sends {
            true => &raw const (*asked).msg_src_ip6,
            false => &raw const (*own).src_ip6,
        };
        let source = [
            read_volatile(&raw const (*from)[0]),
            read_volatile(&raw const (*from)[1]),
            read_volatile(&raw const (*from)[2]),
            read_volatile(&raw const (*from)[3]),
        ];
        (read_volatile(&raw const (*asked).user_port), source, read_volatile(&raw const (*own).src_port))
    };
    let source_port = source_port(bound_port, socket);
    let placed = if is_mapped(&address) {
        let source = if is_mapped(&source) { source[3] } else { 0 };
        let call = Call {
            dialled: key(socket, Ipv6Be([address[3], 0, 0, 0]), port, 4),
            source: Ipv6Be([source, 0, 0, 0]).into(),
            source_port,
            sends,
            crosses: false,
        };
        place::<V4>(context, &call)
    } else {
        let call = Call {
            dialled: key(socket, Ipv6Be(address), port, 6),
            source: Ipv6Be(source).into(),
            source_port,
            sends,
            // The kernel sends no single datagram of an IPv6 address to an IPv4 one.
            crosses: !sends,
        };
        place::<V6>(context, &call)
    };
    match placed {
        Ok(None) => ALLOW,
        Ok(Some(target)) => {
            rename6(asked, &target);
            ALLOW
        }
        Err(answer) => answer,
    }
}

/// The target for a call, which is remembered and counted; none if the call stays as it is; or the hook's answer.
#[inline(always)]
fn place<F: Family>(context: &SockAddrContext, call: &Call) -> Result<Option<Dialled>, i32>
where
    Maps: lb_common::packet::FamilyTables<F>,
{
    // SAFETY: as above.
    let protocol = unsafe { read_volatile(&raw const (*context.sock_addr).protocol) };
    if protocol != u32::from(protocol::TCP) && protocol != u32::from(protocol::UDP) {
        return Ok(None);
    }
    let source = call.source.words();
    if is_loopback(&source, call.dialled.family) {
        return Ok(None);
    }
    // Whoever connects to an address of his own machine speaks from that address.
    let destination = Ipv6Be(call.dialled.address.words());
    let flow = FlowKey {
        source: F::narrow(if source == [0; 4] { destination } else { Ipv6Be(source) }),
        destination: F::narrow(destination),
        source_port: call.source_port,
        destination_port: call.dialled.port,
        protocol,
    };
    let before = match call.sends {
        // SAFETY: copied at once; nobody but this socket's own calls writes there.
        true => unsafe { maps::DIALS.get(&call.dialled) }.map(|known| (known.target, known.generation)),
        false => None,
    };
    // No packet is at hand, and nothing that needs one is asked.
    let tables = Maps { context: null_mut() };
    let (listener, index, target) = match dial::<F, _, _>(&flow, before, &tables, &tables) {
        Dial::Leave => return Ok(None),
        Dial::Block { listener } => {
            count_at(listener, |counters| &raw mut counters.blocked);
            return Err(REFUSE);
        }
        Dial::Reject { listener } => return Err(reject(listener)),
        Dial::Reach { listener, index, target } => (listener, index, target),
    };
    if target.family != call.dialled.family && !call.crosses {
        return Err(reject(listener));
    }
    let generation = target.generation;
    let reached = Dialled {
        address: target.address.into(),
        port: target.port,
        family: target.family,
        target: index,
        generation,
    };
    if before == Some((index, generation)) {
        return Ok(Some(reached));
    }
    let face =
        DialKey { address: reached.address, port: reached.port, family: reached.family, ..call.dialled };
    let dialled = Dialled {
        address: call.dialled.address,
        port: call.dialled.port,
        family: call.dialled.family,
        ..reached
    };
    // The oldest makes room, so there always is.
    let _ = maps::DIALLED.insert(&face, &dialled, u64::from(BPF_ANY));
    if call.sends {
        let _ = maps::DIALS.insert(&call.dialled, &reached, u64::from(BPF_ANY));
    }
    count_at(listener, |counters| &raw mut counters.new_flows);
    if let Some(counters) = maps::TARGET_COUNTERS.get_ptr_mut(u32::from(index)) {
        // SAFETY: this CPU's own element, valid while the program runs.
        add_one(unsafe { &raw mut (*counters).new_flows });
    }
    Ok(Some(reached))
}

/// What an IPv4 socket is told of its peer.
#[inline(always)]
fn name4(context: &SockAddrContext) -> i32 {
    let asked = context.sock_addr;
    // SAFETY: as above.
    let (address, port) = unsafe {
        (read_volatile(&raw const (*asked).user_ip4), read_volatile(&raw const (*asked).user_port))
    };
    if let Some(dialled) = dialled(&key(cookie(context), Ipv6Be([address, 0, 0, 0]), port, 4)) {
        rename4(asked, &dialled);
    }
    ALLOW
}

/// What an IPv6 socket is told of its peer.
#[inline(always)]
fn name6(context: &SockAddrContext) -> i32 {
    let asked = context.sock_addr;
    let address = words(asked);
    // SAFETY: as above.
    let port = unsafe { read_volatile(&raw const (*asked).user_port) };
    let (address, family) = match is_mapped(&address) {
        true => ([address[3], 0, 0, 0], 4),
        false => (address, 6),
    };
    if let Some(dialled) = dialled(&key(cookie(context), Ipv6Be(address), port, family)) {
        rename6(asked, &dialled);
    }
    ALLOW
}

#[inline(always)]
fn dialled(face: &DialKey) -> Option<Dialled> {
    // SAFETY: copied at once; nobody but this socket's own calls writes there.
    unsafe { maps::DIALLED.get(face) }.copied()
}

#[inline(always)]
fn rename4(asked: *mut bpf_sock_addr, peer: &Dialled) {
    // SAFETY: the kernel lets programs of these hooks write these words of the context.
    unsafe {
        write_volatile(&raw mut (*asked).user_ip4, peer.address.words()[0]);
        write_volatile(&raw mut (*asked).user_port, u32::from(peer.port.0));
    }
}

#[inline(always)]
fn rename6(asked: *mut bpf_sock_addr, peer: &Dialled) {
    let words = match peer.family {
        4 => [0, 0, MAPPED, peer.address.words()[0]],
        _ => peer.address.words(),
    };
    // SAFETY: as above.
    unsafe {
        write_volatile(&raw mut (*asked).user_ip6[0], words[0]);
        write_volatile(&raw mut (*asked).user_ip6[1], words[1]);
        write_volatile(&raw mut (*asked).user_ip6[2], words[2]);
        write_volatile(&raw mut (*asked).user_ip6[3], words[3]);
        write_volatile(&raw mut (*asked).user_port, u32::from(peer.port.0));
    }
}

#[inline(always)]
fn words(asked: *mut bpf_sock_addr) -> [u32; 4] {
    // SAFETY: as above; word by word, since the verifier does not let every kernel's programs read two.
    unsafe {
        [
            read_volatile(&raw const (*asked).user_ip6[0]),
            read_volatile(&raw const (*asked).user_ip6[1]),
            read_volatile(&raw const (*asked).user_ip6[2]),
            read_volatile(&raw const (*asked).user_ip6[3]),
        ]
    }
}

/// The socket's cookie, if it is of the load balancers' namespace: targets may not be where others' addresses lead.
#[inline(always)]
fn socket(context: &SockAddrContext) -> Option<u64> {
    let wanted = *maps::DIAL_NAMESPACE.get(0)?;
    // SAFETY: the context is this call's.
    (unsafe { bpf_get_netns_cookie(context.as_ptr()) } == wanted).then(|| cookie(context))
}

#[inline(always)]
fn cookie(context: &SockAddrContext) -> u64 {
    // SAFETY: the context is this call's.
    unsafe { bpf_get_socket_cookie(context.as_ptr()) }
}

#[inline(always)]
fn key(socket: u64, address: Ipv6Be, port: u32, family: u16) -> DialKey {
    // In the first half of the word, in network byte order.
    DialKey { socket, address: address.into(), port: PortBe(port as u16), family, pad: 0 }
}

/// A socket that has no port yet is spread by what else no other socket has.
#[inline(always)]
fn source_port(bound: u32, socket: u64) -> PortBe {
    match bound as u16 {
        0 => PortBe((socket ^ socket >> 16) as u16),
        port => PortBe::new(port),
    }
}

#[inline(always)]
fn is_mapped(address: &[u32; 4]) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

/// Whether nothing leaves the machine from this address.
#[inline(always)]
fn is_loopback(source: &[u32; 4], family: u16) -> bool {
    match family {
        4 => source[0] & LOOPBACK_MASK == LOOPBACK_NET,
        _ => *source == LOOPBACK6,
    }
}

#[inline(always)]
fn reject(listener: u32) -> i32 {
    count_at(listener, |counters| &raw mut counters.rejected);
    // SAFETY: takes a number. As a target that has no such port says it.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

#[inline(always)]
fn count_at(listener: u32, which: impl FnOnce(&mut ListenerCounters) -> *mut u64) {
    if let Some(counters) = maps::LISTENER_COUNTERS.get_ptr_mut(listener) {
        // SAFETY: this CPU's own element, valid while the program runs.
        add_one(which(unsafe { &mut *counters }));
    }
}

/// In one instruction: unlike XDP programs these are interrupted, and by those.
#[inline(always)]
fn add_one(counter: *mut u64) {
    // SAFETY: aligned and valid while the program runs.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1_u64, options(nostack));
    }
}

/// What hooks answer: the call goes on.
const ALLOW: i32 = 1;
/// It ends here, with EPERM if nothing else was said.
const REFUSE: i32 = 0;
const CONNECTS: bool = false;
const SENDS: bool = true;
/// The third word of addresses that stand for IPv4's.
const MAPPED: u32 = 0xffff_u32.to_be();
/// 127.0.0.0/8 (RFC 1122, §3.2.1.3).
const LOOPBACK_NET: u32 = 0x7f00_0000_u32.to_be();
const LOOPBACK_MASK: u32 = 0xff00_0000_u32.to_be();
/// ::1 (RFC 4291, §2.5.3).
const LOOPBACK6: [u32; 4] = [0, 0, 0, 1_u32.to_be()];
const ECONNREFUSED: i32 = 111;
