//! The maps, by the names and sizes of the contract. All are pinned by userspace, so that flows outlive processes.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, ProgramArray, RingBuf,
};
use aya_ebpf::macros::btf_map;
use lb_common::abi::{
    CaptureFilter, CaptureState, CookieCounters, DecapCounters, DialKey, Dialled, DropReason, FragmentKey,
    FragmentPorts, IDLE_RING_BYTES, Ipv4Be, Ipv6Be, Listener, ListenerCounters, ListenerKey, MAX_ADDRESSES,
    MAX_BUDGETED_SOURCES, MAX_FLOW_SLOTS, MAX_FRAGMENTS, MAX_LISTENERS, MAX_PATH_MTUS, MAX_RINGS, MAX_SENDERS,
    MAX_SERVER_IDS, MAX_SOURCES, MAX_TARGETS, PathMtu, PortCursor, Pulse, Ring, Sample, SenderKey, ServerIdKey,
    SlotWords, SourceKey, SynBudget, TableShape, Target, TargetCounters,
};
use lb_common::packet::{Draft, Note, Stage};
use lb_common::table::{Crossing, Packed as _};

// Userspace removes entries through its own mapping.
#[btf_map]
pub static FLOWS: Array<SlotWords<{ Ipv4Be::WORDS }>, MAX_FLOW_SLOTS, MAPPED> = Array::new();

#[btf_map]
pub static FLOWS6: Array<SlotWords<{ Ipv6Be::WORDS }>, MAX_FLOW_SLOTS, MAPPED> = Array::new();

#[btf_map]
pub static CROSSINGS: Array<Crossing, MAX_FLOW_SLOTS, MAPPED> = Array::new();

#[btf_map]
pub static TABLE_SHAPE: Array<TableShape, 1> = Array::new();

// Working memory: not pinned.
#[btf_map]
pub static DRAFT: PerCpuArray<Draft<Ipv4Be>, 1> = PerCpuArray::new();

#[btf_map]
pub static DRAFT6: PerCpuArray<Draft<Ipv6Be>, 1> = PerCpuArray::new();

#[btf_map]
pub static NOTE: PerCpuArray<Note, 1> = PerCpuArray::new();

#[btf_map]
pub static ADDRESSES: HashMap<Ipv4Be, u32, MAX_ADDRESSES> = HashMap::new();

#[btf_map]
pub static ADDRESSES6: HashMap<Ipv6Be, u32, MAX_ADDRESSES> = HashMap::new();

#[btf_map]
pub static LISTENERS: HashMap<ListenerKey<Ipv4Be>, u32, MAX_LISTENERS> = HashMap::new();

#[btf_map]
pub static LISTENERS6: HashMap<ListenerKey<Ipv6Be>, u32, MAX_LISTENERS> = HashMap::new();

// Apart from their keys: an array's elements are written in place, a hash's are replaced and used again.
#[btf_map]
pub static LISTENER_STATE: Array<Listener, MAX_LISTENERS> = Array::new();

#[btf_map]
pub static SOURCES: LpmTrie<SourceKey<Ipv4Be>, u32, MAX_SOURCES> = LpmTrie::new();

#[btf_map]
pub static SOURCES6: LpmTrie<SourceKey<Ipv6Be>, u32, MAX_SOURCES> = LpmTrie::new();

#[btf_map]
pub static RINGS: Array<Ring, MAX_RINGS> = Array::new();

#[btf_map]
pub static TARGETS: Array<Target, MAX_TARGETS> = Array::new();

#[btf_map]
pub static SERVER_IDS: HashMap<ServerIdKey, u32, MAX_SERVER_IDS> = HashMap::new();

// The oldest makes room: a flood of fragments costs fragments only.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey<Ipv4Be>, FragmentPorts, MAX_FRAGMENTS> = LruHashMap::new();

#[btf_map]
pub static FRAGMENTS6: LruHashMap<FragmentKey<Ipv6Be>, FragmentPorts, MAX_FRAGMENTS> = LruHashMap::new();

#[btf_map]
pub static PROGRAMS: ProgramArray<{ Stage::PROGRAMS.len() }> = ProgramArray::new();

#[btf_map]
pub static PULSE: Array<Pulse, 1> = Array::new();

#[btf_map]
pub static SYN_BUDGET: PerCpuArray<SynBudget, { MAX_LISTENERS + 1 }> = PerCpuArray::new();

#[btf_map]
pub static SOURCE_BUDGET: LruPerCpuHashMap<Ipv4Be, SynBudget, MAX_BUDGETED_SOURCES> = LruPerCpuHashMap::new();

#[btf_map]
pub static SOURCE_BUDGET6: LruPerCpuHashMap<Ipv6Be, SynBudget, MAX_BUDGETED_SOURCES> =
    LruPerCpuHashMap::new();

#[btf_map]
pub static PORTS: PerCpuArray<PortCursor, 1> = PerCpuArray::new();

#[btf_map]
pub static LISTENER_COUNTERS: PerCpuArray<ListenerCounters, MAX_LISTENERS> = PerCpuArray::new();

#[btf_map]
pub static TARGET_COUNTERS: PerCpuArray<TargetCounters, MAX_TARGETS> = PerCpuArray::new();

#[btf_map]
pub static COOKIE_COUNTERS: PerCpuArray<CookieCounters, MAX_LISTENERS> = PerCpuArray::new();

// Of all CPUs: a SYN and the acknowledgement of its cookie may come to two.
#[btf_map]
pub static COOKIE_TICKS: Array<u32, MAX_LISTENERS> = Array::new();

// Working memory: a TCP header with its options, where it is all in one piece.
#[btf_map]
pub static TCP_HEADER: PerCpuArray<[u64; 12], 1> = PerCpuArray::new();

#[btf_map]
pub static PATH_MTUS: LruHashMap<Ipv4Be, PathMtu, MAX_PATH_MTUS> = LruHashMap::new();

#[btf_map]
pub static PATH_MTUS6: LruHashMap<Ipv6Be, PathMtu, MAX_PATH_MTUS> = LruHashMap::new();

#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::ALL.len() }> = PerCpuArray::new();

// Of the program at targets alone.
#[btf_map]
pub static DECAP_SENDERS: LpmTrie<SenderKey, u32, MAX_SENDERS> = LpmTrie::new();

#[btf_map]
pub static DECAP_COUNTERS: PerCpuArray<DecapCounters, 1> = PerCpuArray::new();

// Of a capture alone: each has its own.
#[btf_map]
pub static CAPTURE_FILTER: Array<CaptureFilter, 1> = Array::new();

#[btf_map]
pub static CAPTURE_STATE: PerCpuArray<CaptureState, 1> = PerCpuArray::new();

#[btf_map]
pub static SAMPLE: PerCpuArray<Sample, 1> = PerCpuArray::new();

#[btf_map]
pub static SAMPLES: RingBuf<(), IDLE_RING_BYTES> = RingBuf::new();

#[btf_map]
pub static ENTRANCE: ProgramArray<1> = ProgramArray::new();

// Of clients on the node itself: made as large as they may become where there are any.
#[btf_map]
pub static DIALS: LruHashMap<DialKey, Dialled, 1> = LruHashMap::new();

#[btf_map]
pub static DIALLED: LruHashMap<DialKey, Dialled, 1> = LruHashMap::new();

#[btf_map]
pub static DIAL_NAMESPACE: Array<u64, 1> = Array::new();
const MAPPED: usize = BPF_F_MMAPABLE as usize;
