//! The maps, by the names and sizes of the contract. All are pinned by userspace, so that flows outlive processes.

use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::abi::{
    DropReason, Flow, FlowKey, Ipv4Be, Listener, ListenerCounters, ListenerKey, MAX_ADDRESSES, MAX_FLOW_ENTRIES,
    MAX_LISTENERS, MAX_RINGS, MAX_SOURCES, MAX_TARGETS, PortCursor, Pulse, Ring, SourceKey, SynBudget, Target,
    TargetCounters,
};

// Never an LRU map: a flow is two entries, and evicting one of them breaks it.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, Flow, MAX_FLOW_ENTRIES> = HashMap::new();

#[btf_map]
pub static ADDRESSES: HashMap<Ipv4Be, u32, MAX_ADDRESSES> = HashMap::new();

#[btf_map]
pub static LISTENERS: HashMap<ListenerKey, u32, MAX_LISTENERS> = HashMap::new();

// Apart from their keys: an array's elements are written in place, a hash's are replaced and used again.
#[btf_map]
pub static LISTENER_STATE: Array<Listener, MAX_LISTENERS> = Array::new();

#[btf_map]
pub static SOURCES: LpmTrie<SourceKey, u32, MAX_SOURCES> = LpmTrie::new();

#[btf_map]
pub static RINGS: Array<Ring, MAX_RINGS> = Array::new();

#[btf_map]
pub static TARGETS: Array<Target, MAX_TARGETS> = Array::new();

#[btf_map]
pub static PULSE: Array<Pulse, 1> = Array::new();

#[btf_map]
pub static SYN_BUDGET: PerCpuArray<SynBudget, 1> = PerCpuArray::new();

#[btf_map]
pub static PORTS: PerCpuArray<PortCursor, 1> = PerCpuArray::new();

#[btf_map]
pub static LISTENER_COUNTERS: PerCpuArray<ListenerCounters, MAX_LISTENERS> = PerCpuArray::new();

#[btf_map]
pub static TARGET_COUNTERS: PerCpuArray<TargetCounters, MAX_TARGETS> = PerCpuArray::new();

#[btf_map]
pub static DROPS: PerCpuArray<u64, { DropReason::ALL.len() }> = PerCpuArray::new();
