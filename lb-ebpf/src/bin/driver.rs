//! Programs for tests and benches only: one that merely passes, two that merely transmit, two that only use a table,
//! and two that feed the program under test, one for each family.
//!
//! A plain test run with `repeat` would show the program its own output from the second packet on. `drive` writes the
//! packet anew each time and then calls the program by the table of programs.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{BPF_NOEXIST, xdp_action},
    btf_maps::{Array, HashMap, ProgramArray},
    helpers::{bpf_xdp_adjust_head, bpf_xdp_get_buff_len},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::abi::{Flow, Ipv4Be, MAX_FLOW_ENTRIES};

/// The packet's words, and how they vary.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Template {
    /// 0..8: destination MAC, half of the source MAC.
    pub macs: u64,
    /// 8..16: the rest of it, type, version, type of service.
    pub ethernet: u64,
    /// 16..24: total length, id, fragment, time to live, protocol.
    pub ip: u64,
    /// 38..46: sequence and acknowledgement numbers.
    pub numbers: u64,
    /// 46..54: offset, flags, window, checksum, urgent pointer.
    pub tcp: u64,
    /// 26..30.
    pub source: u32,
    /// 30..34.
    pub destination: u32,
    /// 34..38 in host byte order.
    pub ports: u32,
    /// 24..26.
    pub checksum: u32,
    /// Flows to vary over.
    pub flows: u32,
    /// Which flow is next.
    pub next: u32,
    /// How they vary: 0 by the client's address and then its port, 1 by the target and the port it answers to, 2 by
    /// address and port at once.
    pub mode: u32,
    /// Bytes that the packet has again before each run, if the program under test makes it longer; else 0.
    pub length: u32,
}

/// An IPv6 packet's words. Only the source varies, by its last word.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Template6 {
    /// 0..8: destination MAC, half of the source MAC.
    pub macs: u64,
    /// 6..14: the source MAC, type.
    pub ethernet: u64,
    /// 14..22: the header up to the addresses.
    pub ip: u64,
    /// 22..38.
    pub source: [u64; 2],
    /// 38..54.
    pub destination: [u64; 2],
    /// 58..66: sequence and acknowledgement numbers.
    pub numbers: u64,
    /// 66..74: offset, flags, window, checksum, urgent pointer.
    pub tcp: u64,
    /// 54..58, as on the wire.
    pub ports: u32,
    /// Flows to vary over.
    pub flows: u32,
    /// Which flow is next.
    pub next: u32,
    /// Zero.
    pub pad: u32,
}

#[btf_map]
static TEMPLATE: Array<Template, 1> = Array::new();

#[btf_map]
static TEMPLATE6: Array<Template6, 1> = Array::new();

#[btf_map]
static PROGRAMS: ProgramArray<1> = ProgramArray::new();

/// Addresses, then ports and protocol.
type Key = [u64; 2];
/// As large as a flow's entry.
type Entry = [u64; size_of::<Flow<Ipv4Be>>() / 8];

/// A table like the flows'.
#[btf_map]
static REFERENCE: HashMap<Key, Entry, MAX_FLOW_ENTRIES> = HashMap::new();

/// Forwards nothing: what the packet path must be distinguishable from.
#[xdp(frags)]
pub fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// What every packet costs at least.
#[xdp(frags)]
pub fn transmit(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// What every packet costs at least that is put into another.
#[xdp(frags)]
pub fn grow(context: XdpContext) -> u32 {
    // SAFETY: the context is this call's, and no view of the packet is used after this.
    match unsafe { bpf_xdp_adjust_head(context.ctx, -OUTER) } {
        0 => xdp_action::XDP_TX,
        _ => xdp_action::XDP_ABORTED,
    }
}

/// Finds the packet's key and transmits: what a balancer costs at least that remembers flows.
#[xdp(frags)]
pub fn find(context: XdpContext) -> u32 {
    let Some(key) = key(&context) else { return xdp_action::XDP_ABORTED };
    match REFERENCE.get_ptr(&key) {
        Some(_) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Remembers the packet's key and the answer's, and transmits: what beginning a flow costs at least.
#[xdp(frags)]
pub fn insert(context: XdpContext) -> u32 {
    let Some(key) = key(&context) else { return xdp_action::XDP_ABORTED };
    let answer = [key[0].rotate_left(32), key[1] ^ 1 << 63];
    // Zeros would be a call that writes byte by byte.
    let entry = [key[0]; size_of::<Entry>() / 8];
    let new = u64::from(BPF_NOEXIST);
    match (REFERENCE.insert(&key, &entry, new), REFERENCE.insert(&answer, &entry, new)) {
        (Ok(()), Ok(())) => xdp_action::XDP_TX,
        _ => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn key(context: &XdpContext) -> Option<Key> {
    let start = context.data();
    if start + 54 > context.data_end() {
        return None;
    }
    // SAFETY: both lie in the packet, which is long enough.
    unsafe {
        let addresses = ((start + 26) as *const u64).read_unaligned();
        let ports = ((start + 34) as *const u32).read_unaligned();
        Some([addresses, u64::from(ports) | TCP << 32])
    }
}

/// Writes the next packet and calls the program under test.
#[xdp(frags)]
pub fn drive(context: XdpContext) -> u32 {
    let Some(template) = TEMPLATE.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    // SAFETY: as below; no view of the packet is older.
    unsafe {
        if (*template).length != 0 {
            let had = bpf_xdp_get_buff_len(context.ctx) as i32;
            if bpf_xdp_adjust_head(context.ctx, had - (*template).length as i32) != 0 {
                return xdp_action::XDP_ABORTED;
            }
        }
    }
    let start = context.data();
    if start + 54 > context.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the element is valid while the program runs, and only one test run uses it; the packet is long enough.
    unsafe {
        let now = (*template).next;
        (*template).next = if now + 1 >= (*template).flows { 0 } else { now + 1 };
        let (mut source, mut ports) = ((*template).source, (*template).ports);
        match (*template).mode {
            0 => {
                source += now << 16;
                ports += now >> 16 << 16;
            }
            1 => {
                source += (now & 127) << 24;
                ports += now >> 7;
            }
            _ => {
                source += now << 16;
                ports += (now & 0x7fff) << 16;
            }
        }
        // Each store covers whole loads of the program under test: a load that straddles two fresh stores stalls.
        put(start, (*template).macs);
        put(start + 8, (*template).ethernet);
        put(start + 16, (*template).ip);
        put(start + 24, (*template).checksum as u16);
        put(start + 26, u64::from(source) | u64::from((*template).destination) << 32);
        put(start + 34, ports.to_be());
        put(start + 38, (*template).numbers);
        put(start + 46, (*template).tcp);
    }
    // SAFETY: the program under test expects nothing but a packet. A constant index becomes a direct jump.
    unsafe { PROGRAMS.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

/// The same, IPv6.
#[xdp(frags)]
pub fn drive6(context: XdpContext) -> u32 {
    let Some(template) = TEMPLATE6.get_ptr_mut(0) else { return xdp_action::XDP_ABORTED };
    let start = context.data();
    if start + 74 > context.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: as above.
    unsafe {
        let now = (*template).next;
        (*template).next = if now + 1 >= (*template).flows { 0 } else { now + 1 };
        put(start, (*template).macs);
        put(start + 6, (*template).ethernet);
        put(start + 14, (*template).ip);
        put(start + 22, (*template).source[0]);
        put(start + 30, (*template).source[1] + (u64::from(now) << 32));
        put(start + 38, (*template).destination[0]);
        put(start + 46, (*template).destination[1]);
        put(start + 54, (*template).ports);
        put(start + 58, (*template).numbers);
        put(start + 66, (*template).tcp);
    }
    // SAFETY: as above.
    unsafe { PROGRAMS.tail_call(&context, 0) };
    xdp_action::XDP_ABORTED
}

/// # Safety
/// `at` must be in the packet with room for the value.
#[inline(always)]
unsafe fn put<T>(at: usize, value: T) {
    // SAFETY: by contract.
    unsafe { (at as *mut T).write_unaligned(value) };
}

/// IANA's number.
const TCP: u64 = 6;
/// Bytes of an IPv4 header.
const OUTER: i32 = 20;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
