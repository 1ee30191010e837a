//! The tables that decide, over the maps. No policy here: every line is a lookup, a store or an addition.

use core::arch::asm;
use core::cell::Cell;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, xdp_md};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::{
    bpf_ktime_get_ns, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie, bpf_tcp_gen_syncookie,
    bpf_xdp_adjust_head, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use lb_common::abi::{
    CookieCounters, DropReason, Flow, FlowKey, FragmentKey, FragmentPorts, Ipv4Be, Ipv6Be, Listener,
    ListenerCounters, ListenerKey, MAX_LISTENERS, PathMtu, PortBe, Pulse, RING_SIZE, ServerIdKey, SourceKey,
    SynBudget, TableShape, Target, TargetCounters,
};
use lb_common::packet::{
    Acknowledged, Budget, Draft, FamilyTables, Handshake, InsertError, Note, Tables, V4, V6,
};
use lb_common::table::{self, Crossing, Slots};
use lb_common::wire::{Tcp, Window};

use crate::maps;

/// The maps of this program, and the packet it was called for.
pub struct Maps {
    pub context: *mut xdp_md,
}

/// A key on the stack, where words may be stored only at multiples of eight.
#[repr(C, align(8))]
struct Aligned<T>(T);

macro_rules! family_tables {
    ($family:ty, $address:ty, $flows:ident, $addresses:ident, $listeners:ident, $sources:ident, $fragments:ident, $budgets:ident, $draft:ident, $insert:ident, $remove:ident, $path_mtus:ident) => {
        impl FamilyTables<$family> for Maps {
            type Slot = *mut u64;

            #[inline(always)]
            fn flow(&self, key: &FlowKey<$address>) -> Option<(Flow<$address>, Self::Slot)> {
                let found = table::find(self, key)?;
                Some((table::flow(self, key, found), found.slot))
            }

            #[inline(always)]
            fn touch(&self, slot: Self::Slot, seen: u32, state: u8) {
                table::touch::<$address, _>(self, slot, seen, state);
            }

            #[inline(always)]
            fn draft(&self) -> Option<&Draft<$address>> {
                // SAFETY: this CPU's own element, valid while the program runs.
                Some(unsafe { &*maps::$draft.get_ptr(0)? })
            }

            #[inline(always)]
            fn find_draft(&self) -> Option<Self::Slot> {
                let draft = FamilyTables::<$family>::draft(self)?;
                let key = draft.key.get();
                let found = table::find(self, &key)?;
                draft.flow.set(table::flow(self, &key, found));
                Some(found.slot)
            }

            #[inline(always)]
            fn insert_draft(&self) -> Result<(), InsertError> {
                match $insert() {
                    INSERTED => Ok(()),
                    EXISTS => Err(InsertError::Exists),
                    _ => Err(InsertError::Full),
                }
            }

            #[inline(always)]
            fn remove_flow(&self, key: &FlowKey<$address>) {
                $remove(self, key);
            }

            #[inline(always)]
            fn address(&self, address: $address) -> Option<u32> {
                // SAFETY: copied at once; userspace never changes an address's interface.
                unsafe { maps::$addresses.get(&Aligned(address).0) }.copied()
            }

            #[inline(always)]
            fn listener(&self, key: &ListenerKey<$address>) -> Option<u32> {
                // SAFETY: copied at once; userspace never changes a listener's index.
                unsafe { maps::$listeners.get(&Aligned(*key).0) }.copied()
            }

            #[inline(always)]
            fn admits(&self, source: &SourceKey<$address>) -> bool {
                let key = Key::new(
                    (size_of::<SourceKey<$address>>() * 8) as u32,
                    SourceKey { listener: source.listener, source: source.source },
                );
                maps::$sources.get(&key).is_some()
            }

            #[inline(always)]
            fn fragment(&self, key: &FragmentKey<$address>) -> Option<FragmentPorts> {
                // SAFETY: copied at once; an entry that is used again meanwhile names another flow, or none.
                unsafe { maps::$fragments.get(key) }.copied()
            }

            #[inline(always)]
            fn remember_fragment(&self, key: &FragmentKey<$address>, ports: &FragmentPorts) {
                // The oldest makes room, so there always is.
                let _ = maps::$fragments.insert(key, ports, u64::from(BPF_ANY));
            }

            #[inline(always)]
            fn learn_mtu(&self, address: $address, mtu: u32, tick: u32) {
                // The oldest makes room, so there always is.
                let _ = maps::$path_mtus.insert(&Aligned(address).0, &PathMtu { mtu, tick }, u64::from(BPF_ANY));
            }

            #[inline(always)]
            fn cookie(&self, key: &FlowKey<$address>, syn: &Handshake<'_, $family>) -> Option<u32> {
                let header = maps::TCP_HEADER.get_ptr_mut(0)?;
                // Hidden from the compiler, which knows that the bounds hold; the verifier does not.
                let length = TCP_LENGTH + (core::hint::black_box(syn.length as u32 - TCP_LENGTH) & 63);
                // SAFETY: this CPU's own element is longer than that; the socket is released before it is forgotten.
                let cookie = unsafe {
                    if bpf_xdp_load_bytes(self.context, syn.at as u32, header.cast(), length) != 0 {
                        return None;
                    }
                    let socket = self.socket(key)?;
                    let ip = core::ptr::from_ref(syn.ip).cast_mut();
                    let ip_length = size_of_val(syn.ip) as u32;
                    let cookie =
                        bpf_tcp_gen_syncookie(socket.cast(), ip.cast(), ip_length, header.cast(), length);
                    bpf_sk_release(socket.cast());
                    cookie
                };
                (cookie >= 0).then_some(cookie as u32)
            }

            #[inline(always)]
            fn acknowledged(
                &self,
                key: &FlowKey<$address>,
                segment: &Handshake<'_, $family>,
            ) -> Acknowledged {
                // SAFETY: the headers are views; the socket is released before it is forgotten.
                let said = unsafe {
                    let Some(socket) = self.socket(key) else { return Acknowledged::Other };
                    let (ip, tcp) = (core::ptr::from_ref(segment.ip), core::ptr::from_ref(segment.tcp));
                    let ip_length = size_of_val(segment.ip) as u32;
                    let (ip, tcp) = (ip.cast_mut().cast(), tcp.cast_mut().cast());
                    let said = bpf_tcp_check_syncookie(socket.cast(), ip, ip_length, tcp, TCP_LENGTH);
                    bpf_sk_release(socket.cast());
                    said
                };
                match said {
                    0 => Acknowledged::Cookie,
                    ENOENT => Acknowledged::Nothing,
                    // It is no listening socket that was found.
                    _ => Acknowledged::Other,
                }
            }

            #[inline(always)]
            fn spend_source(&self, source: $address, tick: u32) -> u32 {
                let source = Aligned(source);
                match maps::$budgets.get_ptr_mut(&source.0) {
                    Some(budget) => spend(budget, tick),
                    None => {
                        let _ = maps::$budgets.insert(
                            &source.0,
                            &SynBudget { tick, used: 1 },
                            u64::from(BPF_ANY),
                        );
                        1
                    }
                }
            }
        }

        /// Inserts what is drafted. A function with a name for all: the verifier follows its loops once, and not for each
        /// way that leads here.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $insert() -> u32 {
            let maps = Maps { context: core::ptr::null_mut() };
            let Some(draft) = FamilyTables::<$family>::draft(&maps) else { return FULL };
            // SAFETY: nobody else writes to what this CPU drafted. Copies would be on the stack.
            let (key, flow) = unsafe { (&*draft.key.as_ptr(), &*draft.flow.as_ptr()) };
            match table::insert(&maps, key, flow) {
                Ok(()) => INSERTED,
                Err(InsertError::Exists) => EXISTS,
                Err(InsertError::Full) => FULL,
            }
        }

        #[inline(never)]
        fn $remove(maps: &Maps, key: &FlowKey<$address>) {
            table::remove(maps, key);
        }

        impl Slots<$address> for Maps {
            type Slot = *mut u64;

            #[inline(always)]
            fn shape(&self) -> TableShape {
                match maps::TABLE_SHAPE.get(0) {
                    Some(shape) => *shape,
                    None => TableShape { seed: 0, mask: 0, pad: 0 },
                }
            }

            #[inline(always)]
            fn at(&self, index: u32) -> Option<*mut u64> {
                Some(maps::$flows.get_ptr_mut(index)?.cast())
            }

            #[inline(always)]
            fn read(&self, slot: *mut u64, word: usize) -> u64 {
                // SAFETY: words of a slot, which is valid while the program runs. An entry that is removed and used again
                // meanwhile gives a mixture, and the packet a wrong checksum: its receiver drops it.
                unsafe { slot.add(word).read() }
            }

            #[inline(always)]
            fn write(&self, slot: *mut u64, word: usize, value: u64) {
                // SAFETY: as above; volatile, so that they are written in this order.
                unsafe { slot.add(word).write_volatile(value) }
            }

            #[inline(always)]
            fn write_half(&self, slot: *mut u64, word: usize, value: u32) {
                // SAFETY: as above.
                unsafe { slot.add(word).cast::<u32>().write_volatile(value) }
            }

            #[inline(always)]
            fn write_quarter(&self, slot: *mut u64, word: usize, quarter: usize, value: u16) {
                // SAFETY: as above.
                unsafe { slot.add(word).cast::<u16>().add(quarter).write_volatile(value) }
            }

            #[inline(always)]
            fn write_last(&self, slot: *mut u64, word: usize, value: u8) {
                // SAFETY: as above.
                unsafe { slot.add(word).cast::<u8>().add(7).write_volatile(value) }
            }

            #[inline(always)]
            fn swap(&self, slot: *mut u64, word: usize, old: u64, new: u64) -> bool {
                // SAFETY: as above.
                unsafe { swap(slot.add(word), old, new) }
            }

            #[inline(always)]
            fn crossing(&self, index: u32) -> Crossing {
                maps::CROSSINGS.get(index).copied().unwrap_or_default()
            }

            #[inline(always)]
            fn cross(&self, index: u32, crossing: Crossing) {
                if let Some(place) = maps::CROSSINGS.get_ptr_mut(index) {
                    // SAFETY: as above.
                    unsafe { *place = crossing }
                }
            }
        }
    };
}

/// # Safety
/// `word` must point into a map's value.
#[inline(always)]
unsafe fn swap(word: *mut u64, old: u64, new: u64) -> bool {
    let was: u64;
    // SAFETY: by contract. The target has no atomics of its own, the kernel's machine has this one.
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") old => was);
    }
    was == old
}

family_tables!(
    V4,
    Ipv4Be,
    FLOWS,
    ADDRESSES,
    LISTENERS,
    SOURCES,
    FRAGMENTS,
    SOURCE_BUDGET,
    DRAFT,
    insert4,
    remove4,
    PATH_MTUS
);
family_tables!(
    V6,
    Ipv6Be,
    FLOWS6,
    ADDRESSES6,
    LISTENERS6,
    SOURCES6,
    FRAGMENTS6,
    SOURCE_BUDGET6,
    DRAFT6,
    insert6,
    remove6,
    PATH_MTUS6
);

impl Maps {
    /// The node's own socket for a segment; to be released.
    #[inline(always)]
    unsafe fn socket<A>(&self, key: &FlowKey<A>) -> Option<*mut bpf_sock> {
        // The kernel's tuple is what a key has before its protocol.
        let tuple = core::ptr::from_ref(key).cast_mut().cast::<bpf_sock_tuple>();
        let length = (size_of::<FlowKey<A>>() - size_of::<u32>()) as u32;
        // SAFETY: the context is this call's, and the tuple so long.
        let socket = unsafe {
            bpf_skc_lookup_tcp(self.context.cast(), tuple, length, i64::from(BPF_F_CURRENT_NETNS) as u64, 0)
        };
        if socket.is_null() { None } else { Some(socket) }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn packet_length(&self) -> Option<usize> {
        // SAFETY: the context is this call's.
        Some(unsafe { bpf_xdp_get_buff_len(self.context) } as usize)
    }

    #[inline(always)]
    fn regrow<'packet>(&self, _: &Window<'packet>, grow: i32) -> Option<Window<'packet>> {
        // SAFETY: the context is this call's; by contract nobody uses a view of the packet after this.
        unsafe {
            if bpf_xdp_adjust_head(self.context, -grow) != 0 {
                return None;
            }
            Some(Window::from_bounds((*self.context).data as usize, (*self.context).data_end as usize))
        }
    }

    #[inline(always)]
    fn note(&self) -> Option<&Cell<Note>> {
        // SAFETY: this CPU's own element, valid while the program runs; a cell is what it holds.
        Some(unsafe { &*maps::NOTE.get_ptr(0)?.cast::<Cell<Note>>() })
    }

    #[inline(always)]
    fn pulse(&self) -> Pulse {
        match maps::PULSE.get(0) {
            Some(pulse) => *pulse,
            None => Pulse { tick: 0, syn_limit: 0, source_limit: 0, cookie_scale: 0 },
        }
    }

    #[inline(always)]
    fn listener_state(&self, index: u32) -> Option<&Listener> {
        maps::LISTENER_STATE.get(index)
    }

    #[inline(always)]
    fn ring_slot(&self, ring: u32, hash: u32) -> Option<u16> {
        let ring = maps::RINGS.get_ptr(ring)?;
        // Multiply and shift instead of a remainder: the verifier can follow it below RING_SIZE.
        // The black box keeps the compiler from merging it with the scaling below into what it cannot.
        let slot = core::hint::black_box((u64::from(hash) * RING_SIZE as u64) >> 32);
        // SAFETY: `slot` is below RING_SIZE, because `hash` is below 2^32.
        Some(unsafe { *ring.cast::<u16>().add(slot as usize) })
    }

    #[inline(always)]
    fn target(&self, index: u16) -> Option<&Target> {
        maps::TARGETS.get(u32::from(index))
    }

    #[inline(always)]
    fn server_id(&self, key: &ServerIdKey) -> Option<u16> {
        // SAFETY: copied at once.
        unsafe { maps::SERVER_IDS.get(key) }.map(|index| *index as u16)
    }

    #[inline(always)]
    fn next_port(&self) -> Option<PortBe> {
        let cursor = maps::PORTS.get_ptr_mut(0)?;
        // SAFETY: this CPU's own element; XDP programs of one CPU do not interrupt each other.
        unsafe { (*cursor).take() }
    }

    #[inline(always)]
    fn skip_ports(&self) {
        if let Some(cursor) = maps::PORTS.get_ptr_mut(0) {
            // SAFETY: as above.
            unsafe { (*cursor).skip() }
        }
    }

    #[inline(always)]
    fn spend_syn(&self, whose: Budget, tick: u32) -> u32 {
        match maps::SYN_BUDGET.get_ptr_mut(place(whose)) {
            Some(budget) => spend(budget, tick),
            None => u32::MAX,
        }
    }

    #[inline(always)]
    fn refund_syn(&self, whose: Budget, tick: u32) {
        let Some(budget) = maps::SYN_BUDGET.get_ptr_mut(place(whose)) else { return };
        // SAFETY: this CPU's own element.
        unsafe {
            if (*budget).tick == tick && (*budget).used > 0 {
                (*budget).used -= 1;
            }
        }
    }

    #[inline(always)]
    fn count_forwarded(&self, listener: u32, target: u16, bytes: u64) {
        at_listener(listener, |counters| {
            counters.packets += 1;
            counters.bytes += bytes;
        });
        at_target(target, |counters| {
            counters.packets += 1;
            counters.bytes += bytes;
        });
    }

    #[inline(always)]
    fn count_new_flow(&self, listener: u32, target: u16) {
        at_listener(listener, |counters| counters.new_flows += 1);
        at_target(target, |counters| counters.new_flows += 1);
    }

    #[inline(always)]
    fn count_rejected(&self, listener: u32) {
        at_listener(listener, |counters| counters.rejected += 1);
    }

    #[inline(always)]
    fn count_port_error(&self, listener: u32) {
        at_listener(listener, |counters| counters.port_errors += 1);
    }

    #[inline(always)]
    fn count_blocked(&self, listener: u32) {
        at_listener(listener, |counters| counters.blocked += 1);
    }

    #[inline(always)]
    fn count_reset(&self, listener: u32) {
        at_listener(listener, |counters| counters.resets += 1);
    }

    #[inline(always)]
    fn count_client_reset(&self, listener: u32) {
        at_listener(listener, |counters| counters.client_resets += 1);
    }

    #[inline(always)]
    fn count_target_reset(&self, target: u16) {
        at_target(target, |counters| counters.resets += 1);
    }

    #[inline(always)]
    fn stamp_ms(&self) -> u32 {
        // SAFETY: takes nothing.
        (unsafe { bpf_ktime_get_ns() } / NANOSECONDS) as u32
    }

    #[inline(always)]
    fn cookie_tick(&self, listener: u32) -> u32 {
        maps::COOKIE_TICKS.get(listener).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn count_cookie(&self, listener: u32, tick: u32) {
        at_cookies(listener, |counters| counters.sent += 1);
        if let Some(last) = maps::COOKIE_TICKS.get_ptr_mut(listener) {
            // SAFETY: a single store of a word, and the same on every CPU; most find it written.
            unsafe {
                if *last != tick {
                    *last = tick;
                }
            }
        }
    }

    #[inline(always)]
    fn count_acknowledged(&self, listener: u32, is_cookie: bool) {
        at_cookies(listener, |counters| {
            if is_cookie {
                counters.valid += 1;
            } else {
                counters.invalid += 1;
            }
        });
    }

    #[inline(always)]
    fn count_drop(&self, reason: DropReason) {
        if let Some(count) = maps::DROPS.get_ptr_mut(reason.index()) {
            // SAFETY: this CPU's own element.
            unsafe { *count += 1 }
        }
    }
}

#[inline(always)]
fn at_listener(index: u32, add: impl FnOnce(&mut ListenerCounters)) {
    if let Some(counters) = maps::LISTENER_COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        add(unsafe { &mut *counters });
    }
}

#[inline(always)]
fn at_cookies(index: u32, add: impl FnOnce(&mut CookieCounters)) {
    if let Some(counters) = maps::COOKIE_COUNTERS.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        add(unsafe { &mut *counters });
    }
}

#[inline(always)]
fn at_target(index: u16, add: impl FnOnce(&mut TargetCounters)) {
    if let Some(counters) = maps::TARGET_COUNTERS.get_ptr_mut(u32::from(index)) {
        // SAFETY: this CPU's own element.
        add(unsafe { &mut *counters });
    }
}

#[inline(always)]
fn spend(budget: *mut SynBudget, tick: u32) -> u32 {
    // SAFETY: this CPU's own element of a per-CPU map, valid while the program runs.
    unsafe {
        let used = if (*budget).tick == tick { (*budget).used } else { 0 };
        (*budget).tick = tick;
        (*budget).used = used + 1;
        used + 1
    }
}

#[inline(always)]
fn place(whose: Budget) -> u32 {
    match whose {
        Budget::All => MAX_LISTENERS as u32,
        Budget::Listener(index) => index,
    }
}

const ENOENT: i64 = -2;
/// Of a TCP header without options.
const TCP_LENGTH: u32 = size_of::<Tcp>() as u32;
/// In a millisecond.
const NANOSECONDS: u64 = 1_000_000;
/// What inserting came to.
const INSERTED: u32 = 0;
const EXISTS: u32 = 1;
const FULL: u32 = 2;
